//! Environment variables.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{config_key_problems, dns_subdomain_problems, env_name_problems, report, required};
use crate::kinds::json::{at, has, list, text};

/// What a variable can take from its pod.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a variable can take from its container.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

pub(super) fn check_env(errors: &mut ErrorList, container: &Value, path: &Path) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = required(errors, variable, &path, "name") {
            report(errors, &path.child("name"), name, env_name_problems(name));
        }
        if has(variable, "valueFrom") {
            check_source(errors, variable, &path.child("valueFrom"));
        }
    }
}

fn check_source(errors: &mut ErrorList, variable: &Value, path: &Path) {
    let source = at(variable, "valueFrom");
    check_field_ref(errors, at(source, "fieldRef"), &FIELDS, &path.child("fieldRef"));
    check_resource_ref(errors, at(source, "resourceFieldRef"), &path.child("resourceFieldRef"));
    for key in ["configMapKeyRef", "secretKeyRef"] {
        check_key_ref(errors, at(source, key), &path.child(key));
    }
    let sources = SOURCES.iter().filter(|key| has(source, key)).count();
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                      `fileKeyRef`";
        errors.push(Error::invalid(path.clone(), "", detail));
    } else if !text(variable, "value").is_empty() {
        errors.push(Error::invalid(path.clone(), "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(Error::invalid(path.clone(), "", "may not have more than one field specified at a time"));
    }
}

/// A field of the pod, one of `fields` or a label or annotation.
pub(super) fn check_field_ref(errors: &mut ErrorList, reference: &Value, fields: &[&str], path: &Path) {
    if reference.is_null() {
        return;
    }
    let Some(field) = required(errors, reference, path, "fieldPath") else { return };
    let subscript = field.strip_prefix("metadata.labels['").or_else(|| field.strip_prefix("metadata.annotations['"));
    if let Some(key) = subscript.and_then(|rest| rest.strip_suffix("']")) {
        report(errors, path, key, crate::kinds::checks::qualified_name_problems(key));
    } else if !fields.contains(&field) {
        errors.push(Error::not_supported(path.child("fieldPath"), field, fields));
    }
}

pub(super) fn check_resource_ref(errors: &mut ErrorList, reference: &Value, path: &Path) {
    if reference.is_null() {
        return;
    }
    if let Some(resource) = required(errors, reference, path, "resource")
        && !RESOURCES.contains(&resource)
        && !resource.contains(".hugepages-")
    {
        errors.push(Error::not_supported(path.child("resource"), resource, &RESOURCES));
    }
}

fn check_key_ref(errors: &mut ErrorList, reference: &Value, path: &Path) {
    if reference.is_null() {
        return;
    }
    let name = text(reference, "name");
    report(errors, &path.child("name"), name, dns_subdomain_problems(name));
    if let Some(key) = required(errors, reference, path, "key") {
        report(errors, &path.child("key"), key, config_key_problems(key));
    }
}

pub(super) fn check_env_from(errors: &mut ErrorList, container: &Value, path: &Path) {
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        // Upstream blames the list for a wrong number of sources, and the item for the rest.
        let (whole, path) = (path, path.index(index));
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            report(errors, &path.child("prefix"), prefix, env_name_problems(prefix));
        }
        let sources = ["configMapRef", "secretRef"].map(|key| has(source, key));
        match sources {
            [false, false] => {
                errors.push(Error::invalid(whole.clone(), "", "must specify one of: `configMapRef` or `secretRef`"));
            }
            [true, true] => {
                errors.push(Error::invalid(whole.clone(), "", "may not have more than one field specified at a time"));
            }
            _ => {}
        }
        for (key, present) in ["configMapRef", "secretRef"].into_iter().zip(sources) {
            if present {
                let path = path.child(key);
                if let Some(name) = required(errors, at(source, key), &path, "name") {
                    report(errors, &path.child("name"), name, dns_subdomain_problems(name));
                }
            }
        }
    }
}
