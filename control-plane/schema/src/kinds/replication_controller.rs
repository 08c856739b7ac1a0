//! Replication controllers (`pkg/apis/core`): replica sets with a plain map for a selector.

use serde_json::{Value, json};

use super::checks::not_negative;
use super::deployment::{check_counts, template_warnings};
use super::json::{at, default_to, entries, has, int, set, within};
use super::{keep_status, pod_spec};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: |object| set(object, "status", json!({ "replicas": 0 })),
    prepare_update: keep_status,
    validate,
    validate_update: |new, _| validate(new),
    validate_status: |new, _| check_counts(new),
    fields: |object| vec![("status.replicas", int(object, "status.replicas").unwrap_or_default().to_string())],
    warnings: template_warnings,
    generation: true,
    ..PLAIN
};

/// One that selects nothing selects its own pods; one without labels has those of its pods.
fn default(object: &mut Value) {
    let labels = at(object, "spec.template.metadata.labels").clone();
    if labels.as_object().is_some_and(|l| !l.is_empty()) {
        if entries(object, "metadata.labels").is_empty() {
            within(object, "metadata", |metadata| set(metadata, "labels", labels.clone()));
        }
        if entries(object, "spec.selector").is_empty() {
            within(object, "spec", |spec| set(spec, "selector", labels));
        }
    }
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "replicas", 1);
    if let Some(template) = spec.get_mut("template") {
        pod_spec::default_template(template);
    }
}

fn validate(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(object, "spec"), Path::new("spec"));
    not_negative(&mut errors, spec, &path, "minReadySeconds");
    if entries(spec, "selector").is_empty() {
        errors.push(Error::required(path.child("selector"), ""));
    }
    not_negative(&mut errors, spec, &path, "replicas");
    if !has(spec, "template") {
        errors.push(Error::required(path.child("template"), ""));
        return errors;
    }
    let selector = json!({"matchLabels": at(spec, "selector")});
    let (template, path) = (at(spec, "template"), path.child("template"));
    pod_spec::check_always_restarting_template(&mut errors, template, &selector, "ReplicationController", &path);
    errors
}
