//! Pod disruption budgets (`pkg/apis/policy/validation`).

use serde_json::{Value, json};

use super::checks::{at_most_all, check_selector, int_or_percent, not_negative, one_of};
use super::json::{at, has, set};
use super::keep_status;
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    prepare_create: |budget| {
        let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        set(
            budget,
            "status",
            counts.into_iter().map(|key| (key.to_owned(), json!(0))).collect::<serde_json::Map<_, _>>(),
        );
    },
    prepare_update: keep_status,
    validate,
    validate_update: |new, _| validate(new),
    validate_status: |new, _| check_status(new),
    generation: true,
    ..PLAIN
};

fn validate(budget: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(budget, "spec"), Path::new("spec"));
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(Error::invalid(path.clone(), spec.clone(), detail));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        int_or_percent(&mut errors, &path.child(key), at(spec, key));
        at_most_all(&mut errors, &path.child(key), at(spec, key));
    }
    check_selector(&mut errors, at(spec, "selector"), &path.child("selector"));
    one_of(&mut errors, spec, &path, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"]);
    errors
}

fn check_status(budget: &Value) -> ErrorList {
    let mut errors = Vec::new();
    for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        not_negative(&mut errors, at(budget, "status"), &Path::new("status"), key);
    }
    errors
}
