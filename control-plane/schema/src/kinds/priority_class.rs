//! Priority classes (`pkg/apis/scheduling`).

use serde_json::Value;

use super::checks::one_of;
use super::json::{at, default_text, int, same, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default: |class| default_text(class, "preemptionPolicy", "PreemptLowerPriority"),
    validate,
    validate_update,
    generation: true,
    ..PLAIN
};

/// Above this, priorities are the system's.
const MAX_USER_VALUE: i64 = 1_000_000_000;

/// The classes that a cluster has from the start.
const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn validate(class: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (name, value) = (text(class, "metadata.name"), int(class, "value").unwrap_or_default());
    if name.starts_with("system-") {
        let wrong = match SYSTEM.iter().find(|(system, _)| *system == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, known)) if *known != value => Some(format!("value of {name} PriorityClass must be {known}")),
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            let detail =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {wrong}");
            errors.push(Error::forbidden(Path::new("metadata.name"), detail));
        }
    } else if value > MAX_USER_VALUE {
        let detail = format!("maximum allowed value of a user defined priority is {MAX_USER_VALUE}");
        errors.push(Error::forbidden(Path::new("value"), detail));
    }
    one_of(&mut errors, class, &Path::default(), "preemptionPolicy", &["PreemptLowerPriority", "Never"]);
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    if int(new, "value").unwrap_or_default() != int(old, "value").unwrap_or_default() {
        errors.push(Error::forbidden(Path::new("value"), "may not be changed in an update."));
    }
    if !same(at(new, "preemptionPolicy"), at(old, "preemptionPolicy")) {
        let value = at(new, "preemptionPolicy").clone();
        errors.push(Error::invalid(Path::new("preemptionPolicy"), value, super::checks::IMMUTABLE));
    }
    errors
}
