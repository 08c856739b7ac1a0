//! Daemon sets (`pkg/apis/apps`).

use serde_json::{Value, json};

use super::checks::{at_most_all, immutable, int_or_percent, not_negative, required_one_of};
use super::deployment::{check_owner_of_pods, is_none, template_warnings};
use super::json::{at, default_text, default_to, same, set, text, within};
use super::{keep_status, pod_spec};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    validate_status: |new, _| check_status(new),
    warnings: template_warnings,
    generation: true,
    ..PLAIN
};

fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "updateStrategy", json!({}));
    within(spec, "updateStrategy", default_strategy);
    if let Some(template) = spec.get_mut("template") {
        pod_spec::default_template(template);
    }
}

fn default_strategy(strategy: &mut Value) {
    default_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        default_to(strategy, "rollingUpdate", json!({}));
        within(strategy, "rollingUpdate", |v| default_to(v, "maxUnavailable", 1));
        within(strategy, "rollingUpdate", |v| default_to(v, "maxSurge", 0));
    }
}

fn prepare_create(object: &mut Value) {
    let status = json!({
        "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
    });
    set(object, "status", status);
    set_generation(object, 1);
}

fn prepare_update(new: &mut Value, old: &Value) {
    keep_status(new, old);
    let before = at(old, "metadata.annotations").get(TEMPLATE_GENERATION).and_then(Value::as_str);
    let before: i64 = before.and_then(|n| n.parse().ok()).unwrap_or(1);
    let changed = !same(at(new, "spec.template"), at(old, "spec.template"));
    set_generation(new, before + i64::from(changed));
}

/// Counts the templates that there have been; pods carry the number in a label.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn set_generation(object: &mut Value, number: i64) {
    within(object, "metadata", |metadata| {
        default_to(metadata, "annotations", json!({}));
        within(metadata, "annotations", |annotations| set(annotations, TEMPLATE_GENERATION, number.to_string()));
    });
}

fn validate(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(object, "spec"), Path::new("spec"));
    check_owner_of_pods(&mut errors, spec, "daemonset", "DaemonSet", &path);
    not_negative(&mut errors, spec, &path, "minReadySeconds");
    not_negative(&mut errors, spec, &path, "revisionHistoryLimit");
    let (strategy, path) = (at(spec, "updateStrategy"), path.child("updateStrategy"));
    required_one_of(&mut errors, strategy, &path, "type", &["RollingUpdate", "OnDelete"]);
    if text(strategy, "type") == "RollingUpdate" {
        check_rolling(&mut errors, at(strategy, "rollingUpdate"), &path.child("rollingUpdate"));
    }
    errors
}

fn check_status(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    for key in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        not_negative(&mut errors, at(object, "status"), &Path::new("status"), key);
    }
    errors
}

fn check_rolling(errors: &mut ErrorList, rolling: &Value, path: &Path) {
    let (unavailable, surge) = (at(rolling, "maxUnavailable"), at(rolling, "maxSurge"));
    for (key, count) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        int_or_percent(errors, &path.child(key), count);
        at_most_all(errors, &path.child(key), count);
    }
    let detail = match (is_none(unavailable), is_none(surge)) {
        (true, true) => "cannot be 0 when maxSurge is 0",
        (false, false) => "may not be set when maxUnavailable is non-zero",
        _ => return,
    };
    let (key, value) = if is_none(surge) { ("maxUnavailable", unavailable) } else { ("maxSurge", surge) };
    errors.push(Error::invalid(path.child(key), value.clone(), detail));
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("spec.selector"), at(new, "spec.selector"), at(old, "spec.selector"));
    errors
}
