//! Claims to persistent volumes (`pkg/apis/core/validation`, `pkg/registry/core/persistentvolumeclaim`).

use serde_json::{Value, json};

use super::checks::{check_selector, immutable, one_of, required};
use super::json::{at, carry_over, default_to, has, list, same, set, text, unset, within};
use super::persistent_volume::{check_access_modes, check_class};
use super::pod_spec::check_quantity;
use crate::field::{Error, ErrorList, Path};
use crate::quantity::Quantity;
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: |claim| set(claim, "status", json!({"phase": "Pending"})),
    prepare_update: super::keep_status,
    validate,
    validate_update,
    validate_status,
    fields: |claim| vec![("name", text(claim, "metadata.name").to_owned())],
    ..PLAIN
};

fn default(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "volumeMode", "Filesystem");
    same_data_source(spec);
}

/// The two ways of saying where the data comes from tell the same.
fn same_data_source(spec: &mut Value) {
    let (source, reference) = (at(spec, "dataSource").clone(), at(spec, "dataSourceRef").clone());
    let group = |object: &Value| text(object, "apiGroup").to_owned();
    let known = |object: &Value| {
        matches!(
            (group(object).as_str(), text(object, "kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if !source.is_null() && reference.is_null() {
        set(spec, "dataSourceRef", source);
    } else if source.is_null() && !reference.is_null() && known(&reference) && text(&reference, "namespace").is_empty()
    {
        set(spec, "dataSource", reference);
    }
}

fn validate(claim: &Value) -> ErrorList {
    let mut errors = Vec::new();
    check_spec(&mut errors, at(claim, "spec"), &Path::new("spec"));
    errors
}

/// Everything wrong with a claim's spec; also of one in a template.
pub(super) fn check_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if list(spec, "accessModes").is_empty() {
        errors.push(Error::required(path.child("accessModes"), "at least 1 access mode is required"));
    }
    check_selector(errors, at(spec, "selector"), &path.child("selector"));
    check_access_modes(errors, spec, path);
    let at_storage = path.child("resources").key("storage");
    match at(spec, "resources.requests").get("storage") {
        None => errors.push(Error::required(at_storage, "")),
        Some(value) => {
            if check_quantity(errors, "storage", value, &at_storage).is_some_and(|q| q.is_zero() || q.is_negative()) {
                errors.push(Error::invalid(at_storage, value.clone(), "must be greater than zero"));
            }
        }
    }
    check_class(errors, spec, path, "storageClassName");
    one_of(errors, spec, path, "volumeMode", &["Block", "Filesystem"]);
    check_source(errors, spec, path, "dataSource");
    check_source(errors, spec, path, "dataSourceRef");
    check_class(errors, spec, path, "volumeAttributesClassName");
}

fn check_source(errors: &mut ErrorList, spec: &Value, path: &Path, key: &str) {
    let (source, path) = (at(spec, key), path.child(key));
    if source.is_null() {
        return;
    }
    required(errors, source, &path, "name");
    required(errors, source, &path, "kind");
    if text(source, "apiGroup").is_empty() && !matches!(text(source, "kind"), "" | "PersistentVolumeClaim") {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(Error::invalid(path, text(source, "kind"), detail));
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    let (spec, before, path) = (at(new, "spec"), at(old, "spec"), Path::new("spec"));
    let mut compared = spec.clone();
    // The binder says which volume it is, and the default class is filled in later.
    if text(before, "volumeName").is_empty() {
        carry_over(&mut compared, before, "volumeName");
    }
    if !has(before, "storageClassName") {
        carry_over(&mut compared, before, "storageClassName");
    }
    carry_over(&mut compared, before, "dataSource");
    carry_over(&mut compared, before, "dataSourceRef");
    let bound = text(old, "status.phase") == "Bound";
    if bound {
        let wanted = at(before, "resources.requests").get("storage").cloned();
        within(&mut compared, "resources", |resources| {
            within(resources, "requests", |requests| match wanted {
                Some(value) => set(requests, "storage", value),
                None => unset(requests, "storage"),
            });
        });
    }
    carry_over(&mut compared, before, "volumeAttributesClassName");
    // Rounded up or written otherwise, it is the same amount.
    if !same(&compared, before) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                      bound claims";
        errors.push(Error::forbidden(path.clone(), detail));
    }
    let size = |spec: &Value, key: &str| at(spec, key).get("storage").and_then(Quantity::of_json);
    let status_size = size(old, "status.capacity");
    if let (Some(new_size), Some(old_size)) = (size(spec, "resources.requests"), size(before, "resources.requests"))
        && new_size < old_size
        && status_size.is_none_or(|has| new_size <= has)
        && bound
    {
        let path = path.child("resources").child("requests").child("storage");
        errors.push(Error::forbidden(path, "field can not be less than status.capacity"));
    }
    immutable(&mut errors, &path.child("volumeMode"), at(spec, "volumeMode"), at(before, "volumeMode"));
    let key = "volumeAttributesClassName";
    if !text(before, key).is_empty() && text(spec, key).is_empty() {
        errors.push(Error::forbidden(path.child(key), "update from non-nil value to nil is forbidden"));
    }
    errors
}

fn validate_status(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (status, path) = (at(new, "status"), Path::new("status"));
    for key in ["capacity", "allocatedResources"] {
        for (name, value) in super::json::entries(status, key) {
            check_quantity(&mut errors, name, value, &path.child(key).key(name));
        }
    }
    errors
}
