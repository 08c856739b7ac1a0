//! Deployments (`pkg/apis/apps`).

use serde_json::{Value, json};

use super::checks::{
    at_most_all, check_selector, immutable, int_or_percent, not_negative, percent, required_one_of, selector_is_empty,
};
use super::json::{at, default_text, default_to, has, int, text, within};
use super::{clear_status, keep_status, pod_spec};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: clear_status,
    prepare_update: keep_status,
    validate,
    validate_update,
    validate_status: |new, _| check_counts(new),
    warnings: template_warnings,
    generation: true,
    ..PLAIN
};

fn default(deployment: &mut Value) {
    let Some(spec) = deployment.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "progressDeadlineSeconds", 600);
    default_to(spec, "strategy", json!({}));
    within(spec, "strategy", default_strategy);
    if let Some(template) = spec.get_mut("template") {
        pod_spec::default_template(template);
    }
}

fn default_strategy(strategy: &mut Value) {
    default_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        default_to(strategy, "rollingUpdate", json!({}));
        within(strategy, "rollingUpdate", |v| default_to(v, "maxUnavailable", "25%"));
        within(strategy, "rollingUpdate", |v| default_to(v, "maxSurge", "25%"));
    }
}

fn validate(deployment: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(deployment, "spec"), Path::new("spec"));
    not_negative(&mut errors, spec, &path, "replicas");
    check_owner_of_pods(&mut errors, spec, "deployment", "ReplicaSet", &path);
    check_strategy(&mut errors, at(spec, "strategy"), &path.child("strategy"));
    for key in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(&mut errors, spec, &path, key);
    }
    let ready = int(spec, "minReadySeconds").unwrap_or_default();
    if let Some(deadline) = int(spec, "progressDeadlineSeconds").filter(|deadline| *deadline <= ready) {
        let path = path.child("progressDeadlineSeconds");
        errors.push(Error::invalid(path, deadline, "must be greater than minReadySeconds"));
    }
    errors
}

/// The selector and the template of a kind that keeps pods running. `noun` and `owner` are upstream's words for it.
pub(super) fn check_owner_of_pods(errors: &mut ErrorList, spec: &Value, noun: &str, owner: &str, path: &Path) {
    let (selector, at_selector) = (at(spec, "selector"), path.child("selector"));
    if selector.is_null() {
        errors.push(Error::required(at_selector, ""));
    } else {
        check_selector(errors, selector, &at_selector);
        if selector_is_empty(selector) {
            let detail = format!("empty selector is invalid for {noun}");
            errors.push(Error::invalid(at_selector, selector.clone(), detail));
        }
    }
    pod_spec::check_always_restarting_template(errors, at(spec, "template"), selector, owner, &path.child("template"));
}

fn check_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    required_one_of(errors, strategy, path, "type", &["Recreate", "RollingUpdate"]);
    let (rolling, at_rolling) = (at(strategy, "rollingUpdate"), path.child("rollingUpdate"));
    match text(strategy, "type") {
        "Recreate" if !rolling.is_null() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(at_rolling, detail));
        }
        "RollingUpdate" if rolling.is_null() => {
            errors.push(Error::required(at_rolling, "this should be defaulted and never be nil"));
        }
        "RollingUpdate" => check_rolling(errors, rolling, &at_rolling),
        _ => {}
    }
}

fn check_rolling(errors: &mut ErrorList, rolling: &Value, path: &Path) {
    let (unavailable, surge) = (at(rolling, "maxUnavailable"), at(rolling, "maxSurge"));
    int_or_percent(errors, &path.child("maxUnavailable"), unavailable);
    int_or_percent(errors, &path.child("maxSurge"), surge);
    if is_none(unavailable) && is_none(surge) {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.push(Error::invalid(path.child("maxUnavailable"), unavailable.clone(), detail));
    }
    at_most_all(errors, &path.child("maxUnavailable"), unavailable);
}

/// Zero, as a number or a percentage.
pub(super) fn is_none(count: &Value) -> bool {
    count.as_i64().or_else(|| percent(count)).unwrap_or_default() == 0
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec.selector");
    immutable(&mut errors, &path, at(new, "spec.selector"), at(old, "spec.selector"));
    errors
}

/// The counts of a status: not negative, and none greater than what it is part of.
pub(super) fn check_counts(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (status, path) = (at(object, "status"), Path::new("status"));
    for key in ["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        not_negative(&mut errors, status, &path, key);
    }
    let count = |key: &str| int(status, key).unwrap_or_default();
    for key in ["updatedReplicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas"] {
        if count(key) > count("replicas") {
            let detail = "cannot be greater than status.replicas";
            errors.push(Error::invalid(path.child(key), count(key), detail));
        }
    }
    if has(status, "readyReplicas") && count("availableReplicas") > count("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        errors.push(Error::invalid(path.child("availableReplicas"), count("availableReplicas"), detail));
    }
    errors
}

/// Warnings about the template of an object.
pub(super) fn template_warnings(object: &Value) -> Vec<String> {
    pod_spec::warnings(at(object, "spec.template"), &Path::new("spec.template"))
}
