//! Horizontal pod autoscalers, as `autoscaling/v2` has them (`pkg/apis/autoscaling`).

use serde_json::{Value, json};

use super::checks::{check_selector, in_range, one_of, required, required_one_of};
use super::json::{at, default_to, has, int, list, set, text, within};
use super::{clear_status, keep_status};
use crate::field::{Error, ErrorList, Path};
use crate::quantity::Quantity;
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: |object| {
        clear_status(object);
        set(object, "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
    },
    prepare_update: keep_status,
    validate,
    validate_update: |new, _| validate(new),
    validate_status: |new, _| check_status(new),
    generation: true,
    ..PLAIN
};

/// The longest period of a policy, and the longest window.
const MAX_PERIOD_SECONDS: i64 = 1800;
const MAX_WINDOW_SECONDS: i64 = 3600;

fn default(object: &mut Value) {
    let of_v2 = at(object, "apiVersion") == "autoscaling/v2";
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "minReplicas", 1);
    if !of_v2 {
        return;
    }
    if list(spec, "metrics").is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    within(spec, "behavior", |behavior| {
        default_to(behavior, "scaleUp", json!({}));
        within(behavior, "scaleUp", |rules| {
            default_to(rules, "stabilizationWindowSeconds", 0);
            default_to(rules, "selectPolicy", "Max");
            let policies = json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ]);
            default_to(rules, "policies", policies);
        });
        default_to(behavior, "scaleDown", json!({}));
        within(behavior, "scaleDown", |rules| {
            default_to(rules, "selectPolicy", "Max");
            default_to(rules, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        });
    });
}

fn validate(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(object, "spec"), Path::new("spec"));
    let min = int(spec, "minReplicas");
    if let Some(min) = min.filter(|n| *n < 1) {
        errors.push(Error::invalid(path.child("minReplicas"), min, "must be greater than or equal to 1"));
    }
    let max = int(spec, "maxReplicas").unwrap_or_default();
    if max < 1 {
        errors.push(Error::invalid(path.child("maxReplicas"), max, "must be greater than 0"));
    }
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(path.child("maxReplicas"), max, detail));
    }
    check_reference(&mut errors, at(spec, "scaleTargetRef"), &path.child("scaleTargetRef"));
    for (index, metric) in list(spec, "metrics").iter().enumerate() {
        check_metric(&mut errors, metric, &path.child("metrics").index(index));
    }
    for key in ["scaleUp", "scaleDown"] {
        check_rules(&mut errors, at(at(spec, "behavior"), key), &path.child("behavior").child(key));
    }
    errors
}

fn check_reference(errors: &mut ErrorList, reference: &Value, path: &Path) {
    for key in ["kind", "name"] {
        if let Some(value) = required(errors, reference, path, key)
            && (value.contains('/') || value.contains('%'))
        {
            let wrong = if value.contains('/') { "may not contain '/'" } else { "may not contain '%'" };
            errors.push(Error::invalid(path.child(key), value, wrong));
        }
    }
}

/// Each type of metric, and the field that goes with it.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn check_metric(errors: &mut ErrorList, metric: &Value, path: &Path) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.push(Error::required(path.child("type"), "must specify a metric source type"));
        return;
    }
    let Some((_, expected)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        errors.push(Error::not_supported(path.child("type"), kind, &SOURCES.map(|(name, _)| name)));
        return;
    };
    if !has(metric, expected) {
        let detail = "must populate information for the given metric source";
        errors.push(Error::required(path.child(expected), detail));
    }
    for (_, key) in SOURCES {
        if !has(metric, key) {
            continue;
        }
        if key != *expected {
            let detail = "must populate the given metric source only";
            errors.push(Error::forbidden(path.child(key), detail));
        }
        check_source(errors, key, at(metric, key), &path.child(key));
    }
}

fn check_source(errors: &mut ErrorList, kind: &str, source: &Value, path: &Path) {
    let (target, at_target) = (at(source, "target"), path.child("target"));
    match kind {
        "resource" | "containerResource" => {
            if text(source, "name").is_empty() {
                errors.push(Error::required(path.child("name"), "must specify a resource name"));
            }
            if kind == "containerResource" && text(source, "container").is_empty() {
                errors.push(Error::required(path.child("container"), "must specify a container"));
            }
            if has(target, "averageUtilization") && has(target, "averageValue") {
                let detail = "may not set both a target raw value and a target utilization";
                errors.push(Error::forbidden(at_target.child("averageValue"), detail));
            }
            if !has(target, "averageUtilization") && !has(target, "averageValue") {
                let detail = "must set either a target raw value or a target utilization";
                errors.push(Error::required(at_target.child("averageUtilization"), detail));
            }
        }
        _ => {
            let (metric, path) = (at(source, "metric"), path.child("metric"));
            if text(metric, "name").is_empty() {
                errors.push(Error::required(path.child("name"), "must specify a metric name"));
            }
            check_selector(errors, at(metric, "selector"), &path.child("selector"));
        }
    }
    match kind {
        "object" => check_reference(errors, at(source, "describedObject"), &path.child("describedObject")),
        "pods" if !has(target, "averageValue") => {
            let detail = "must specify a positive target averageValue";
            errors.push(Error::required(at_target.child("averageValue"), detail));
        }
        _ => {}
    }
    if matches!(kind, "object" | "external") && !has(target, "value") && !has(target, "averageValue") {
        let detail = "must set either a target value for metric or a per-pod target";
        errors.push(Error::required(at_target.child("averageValue"), detail));
    }
    check_target(errors, target, &at_target);
}

fn check_target(errors: &mut ErrorList, target: &Value, path: &Path) {
    if text(target, "type").is_empty() {
        errors.push(Error::required(path.child("type"), "must specify a metric target type"));
    }
    one_of(errors, target, path, "type", &["Utilization", "Value", "AverageValue"]);
    for key in ["value", "averageValue"] {
        if let Some(value) = Quantity::of_json(at(target, key)).filter(|q| q.is_zero() || q.is_negative()) {
            errors.push(Error::invalid(path.child(key), value.to_string(), "must be positive"));
        }
    }
    if let Some(percent) = int(target, "averageUtilization").filter(|n| *n < 1) {
        errors.push(Error::invalid(path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

fn check_rules(errors: &mut ErrorList, rules: &Value, path: &Path) {
    if rules.is_null() {
        return;
    }
    let key = "stabilizationWindowSeconds";
    if let Some(seconds) = int(rules, key).filter(|s| *s < 0) {
        errors.push(Error::invalid(path.child(key), seconds, "must be greater than or equal to zero"));
    }
    if let Some(seconds) = int(rules, key).filter(|s| *s > MAX_WINDOW_SECONDS) {
        let detail = format!("must be less than or equal to {MAX_WINDOW_SECONDS}");
        errors.push(Error::invalid(path.child(key), seconds, detail));
    }
    one_of(errors, rules, path, "selectPolicy", &["Disabled", "Max", "Min"]);
    if let Some(tolerance) = Quantity::of_json(at(rules, "tolerance")).filter(|t| t.is_negative()) {
        let detail = "must be greater than or equal to zero";
        errors.push(Error::invalid(path.child("tolerance"), tolerance.to_string(), detail));
    }
    if list(rules, "policies").is_empty() {
        errors.push(Error::required(path.child("policies"), "must specify at least one Policy"));
    }
    for (index, policy) in list(rules, "policies").iter().enumerate() {
        let path = path.child("policies").index(index);
        required_one_of(errors, policy, &path, "type", &["Percent", "Pods"]);
        for key in ["value", "periodSeconds"] {
            let number = int(policy, key).unwrap_or_default();
            if number <= 0 {
                errors.push(Error::invalid(path.child(key), number, "must be greater than zero"));
            }
        }
        if let Some(period) = int(policy, "periodSeconds").filter(|p| *p > MAX_PERIOD_SECONDS) {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            errors.push(Error::invalid(path.child("periodSeconds"), period, detail));
        }
    }
}

fn check_status(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (status, path) = (at(object, "status"), Path::new("status"));
    for key in ["currentReplicas", "desiredReplicas"] {
        in_range(&mut errors, status, &path, key, 0, i64::from(i32::MAX));
    }
    errors
}
