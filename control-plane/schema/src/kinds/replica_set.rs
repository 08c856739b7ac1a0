//! Replica sets (`pkg/apis/apps`).

use serde_json::{Value, json};

use super::checks::{immutable, not_negative};
use super::deployment::{check_counts, check_owner_of_pods, template_warnings};
use super::json::{at, default_to, int, set};
use super::{keep_status, pod_spec};
use crate::field::{ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: |object| set(object, "status", json!({ "replicas": 0 })),
    prepare_update: keep_status,
    validate,
    validate_update,
    validate_status: |new, _| check_counts(new),
    fields: |object| vec![("status.replicas", int(object, "status.replicas").unwrap_or_default().to_string())],
    warnings: template_warnings,
    generation: true,
    ..PLAIN
};

pub(super) fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "replicas", 1);
    if let Some(template) = spec.get_mut("template") {
        pod_spec::default_template(template);
    }
}

fn validate(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(object, "spec"), Path::new("spec"));
    not_negative(&mut errors, spec, &path, "replicas");
    not_negative(&mut errors, spec, &path, "minReadySeconds");
    // Upstream's message says deployment here too.
    check_owner_of_pods(&mut errors, spec, "deployment", "ReplicaSet", &path);
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("spec.selector"), at(new, "spec.selector"), at(old, "spec.selector"));
    errors
}
