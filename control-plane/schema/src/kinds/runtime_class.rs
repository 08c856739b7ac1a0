//! Runtime classes (`pkg/apis/node/validation`).

use serde_json::Value;

use super::checks::{check_labels, dns_label_problems, immutable, report};
use super::json::{at, text};
use crate::field::{ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy { validate, validate_update, ..PLAIN };

fn validate(class: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let handler = text(class, "handler");
    report(&mut errors, &Path::new("handler"), handler, dns_label_problems(handler));
    check_labels(&mut errors, class, "scheduling.nodeSelector", &Path::new("scheduling.nodeSelector"));
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("handler"), at(new, "handler"), at(old, "handler"));
    errors
}
