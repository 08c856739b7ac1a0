//! Runtime classes (`pkg/apis/node/validation`).

use serde_json::{Value, json};

use super::checks::{check_labels, dns_label_problems, immutable, report};
use super::json::{at, list, text};
use super::pod_spec::{check_requirements, check_tolerations};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy { validate, validate_update, ..PLAIN };

fn validate(class: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let handler = text(class, "handler");
    report(&mut errors, &Path::new("handler"), handler, dns_label_problems(handler));
    let overhead = json!({"limits": at(class, "overhead.podFixed")});
    check_requirements(&mut errors, &overhead, &Path::new("overhead"));
    check_labels(&mut errors, class, "scheduling.nodeSelector", &Path::new("scheduling.nodeSelector"));
    let (tolerations, path) = (list(class, "scheduling.tolerations"), Path::new("scheduling.tolerations"));
    check_tolerations(&mut errors, tolerations, &path);
    for (index, toleration) in tolerations.iter().enumerate() {
        if tolerations[..index].contains(toleration) {
            errors.push(Error::duplicate(path.index(index), toleration.clone()));
        }
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("handler"), at(new, "handler"), at(old, "handler"));
    errors
}
