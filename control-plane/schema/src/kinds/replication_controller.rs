//! Replication controllers (`pkg/apis/core`): replica sets with a plain map for a selector.

use serde_json::{Value, json};

use super::checks::not_negative;
use super::json::{at, entries, has, set, within};
use super::{pod_spec, replica_set};
use crate::field::{Error, ErrorList, Path};
use crate::resource::Strategy;

pub(super) const STRATEGY: Strategy =
    Strategy { default, validate, validate_update: |new, _| validate(new), ..replica_set::STRATEGY };

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
    replica_set::default(object);
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
