//! Pod templates that are objects of their own.

use serde_json::Value;

use super::json::at;
use super::pod_spec;
use crate::field::{ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default: |object| {
        if let Some(template) = object.get_mut("template") {
            pod_spec::default_template(template);
        }
    },
    validate,
    validate_update: |new, _| validate(new),
    warnings: |object| pod_spec::warnings(at(object, "template"), &Path::new("template")),
    generation: true,
    ..PLAIN
};

fn validate(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    pod_spec::check_template(&mut errors, at(object, "template"), &Path::new("template"));
    errors
}
