//! Migrations of what is stored to the newest version (`pkg/apis/storagemigration`).

use serde_json::{Value, json};

use super::checks::{dns_label_problems, dns_subdomain_problems, immutable, report, required};
use super::json::{at, list, set, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    prepare_create: |migration| set(migration, "status", json!({})),
    prepare_update: super::keep_status,
    validate,
    validate_update: |new, old| {
        let mut errors = validate(new);
        let key = "spec.resource";
        immutable(&mut errors, &Path::new(key), at(new, key), at(old, key));
        errors
    },
    validate_status,
    ..PLAIN
};

fn validate(migration: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (resource, path) = (at(migration, "spec.resource"), Path::new("spec").child("resource"));
    let group = text(resource, "group");
    if !group.is_empty() {
        report(&mut errors, &path.child("group"), group, dns_subdomain_problems(group));
    }
    if let Some(name) = required(&mut errors, resource, &path, "resource") {
        report(&mut errors, &path.child("resource"), name, dns_label_problems(name));
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let is = |object: &Value, kind: &str| {
        list(object, "status.conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
    };
    let path = Path::new("status").child("conditions");
    if is(new, "Succeeded") && is(new, "Failed") {
        let value = at(new, "status.conditions").clone();
        errors.push(Error::invalid(
            path.clone(),
            value,
            "Both success and failed conditions cannot be true at the same time",
        ));
    }
    for kind in ["Succeeded", "Failed"] {
        if is(old, kind) && !is(new, kind) {
            let value = at(new, "status.conditions").clone();
            let detail = format!("{kind} condition cannot be set to false once it is true");
            errors.push(Error::invalid(path.clone(), value, detail));
        }
    }
    let (version, before) = (text(new, "status.resourceVersion"), text(old, "status.resourceVersion"));
    if !before.is_empty() && version != before {
        let detail = "field is immutable once set";
        errors.push(Error::invalid(Path::new("status").child("resourceVersion"), version, detail));
    }
    errors
}
