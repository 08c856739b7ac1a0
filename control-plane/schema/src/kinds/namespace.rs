//! Namespaces (`pkg/registry/core/namespace`).

use serde_json::{Value, json};

use super::json::{at, carry_over, default_to, has, list, set, text, within};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{NameRule, PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default: set_name_label,
    prepare_create,
    prepare_update,
    validate_status,
    fields: |namespace| vec![("status.phase", text(namespace, "status.phase").to_owned())],
    name: NameRule::Label,
    ..PLAIN
};

/// The label by which selectors tell a namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn set_name_label(namespace: &mut Value) {
    let name = text(namespace, "metadata.name").to_owned();
    if !name.is_empty()
        && let Some(metadata) = namespace.get_mut("metadata")
    {
        default_to(metadata, "labels", json!({}));
        within(metadata, "labels", |v| set(v, NAME_LABEL, name));
    }
}

fn prepare_create(namespace: &mut Value) {
    set_name_label(namespace);
    set(namespace, "status", json!({ "phase": "Active" }));
    default_to(namespace, "spec", json!({}));
    let mut finalizers = list(namespace, "spec.finalizers").to_vec();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    within(namespace, "spec", |v| set(v, "finalizers", finalizers));
}

/// A namespace that is to be deleted is `Terminating`, and no other is.
fn validate_status(new: &Value, _: &Value) -> ErrorList {
    let phase = text(new, "status.phase");
    let (only, when) = if has(new, "metadata.deletionTimestamp") {
        ("Terminating", "`deletionTimestamp` is not empty")
    } else {
        ("Active", "`deletionTimestamp` is empty")
    };
    if phase == only {
        return Vec::new();
    }
    vec![Error::invalid(Path::new("status.Phase"), phase, format!("may only be '{only}' if {when}"))]
}

/// Finalizers change by the `finalize` subresource, the status by its own.
fn prepare_update(new: &mut Value, old: &Value) {
    default_to(new, "spec", json!({}));
    if let Some(spec) = new.get_mut("spec") {
        carry_over(spec, at(old, "spec"), "finalizers");
    }
    carry_over(new, old, "status");
}
