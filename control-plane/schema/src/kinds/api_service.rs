//! APIServices: who serves a version of a group (kube-aggregator `apis/apiregistration/validation`,
//! `registry/apiservice`).

use serde_json::{Value, json};

use super::checks::{dns_subdomain_problems, dns1035_label_problems};
use super::json::{carry_over, default_to, has, int, list, set, text, truth, within};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{NameRule, PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default: |object| {
        within(object, "spec", |spec| within(spec, "service", |service| default_to(service, "port", 443)));
    },
    prepare_create,
    prepare_update: |object, old| carry_over(object, old, "status"),
    validate,
    validate_update: |object, _| validate(object),
    validate_status: status,
    unconditional_update: false,
    name: NameRule::PathSegment,
    ..PLAIN
};

fn prepare_create(object: &mut Value) {
    let local = !has(object, "spec.service");
    set(object, "status", json!({}));
    if local && object.is_object() {
        let since = object["metadata"]["creationTimestamp"].clone();
        object["status"]["conditions"] = json!([{
            "type": "Available", "status": "True", "reason": "Local", "lastTransitionTime": since,
            "message": "Local APIServices are always available",
        }]);
    }
}

fn validate(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &object["spec"];
    let path = Path::new("spec");
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let required = format!("{version}.{group}");
    let name = text(object, "metadata.name");
    if name != required {
        let why = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.push(Error::invalid(Path::new("metadata.name"), name, why));
    }
    if group.is_empty() && version != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        errors.push(Error::required(path.child("group"), why));
    }
    if !group.is_empty() {
        let problems = dns_subdomain_problems(group).into_iter();
        errors.extend(problems.map(|problem| Error::invalid(path.child("group"), group, problem)));
    }
    let problems = dns1035_label_problems(version).into_iter();
    errors.extend(problems.map(|problem| Error::invalid(path.child("version"), version, problem)));
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = int(spec, field).unwrap_or_default();
        if priority <= 0 || priority > max {
            let why = format!("must be positive and less than {max}");
            errors.push(Error::invalid(path.child(field), priority, why));
        }
    }
    target(&mut errors, spec, &path);
    errors
}

fn target(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let bundle = text(spec, "caBundle");
    let insecure = truth(spec, "insecureSkipTLSVerify");
    let skip = path.child("insecureSkipTLSVerify");
    if !has(spec, "service") {
        if !bundle.is_empty() {
            let size = format!("{} bytes", bundle.len() / 4 * 3);
            errors.push(Error::invalid(path.child("caBundle"), size, "local APIServices may not have a caBundle"));
        }
        if insecure {
            errors.push(Error::invalid(skip, true, "local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    }
    let service = &spec["service"];
    let at = path.child("service");
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errors.push(Error::required(at.child(field), ""));
        }
    }
    let port = int(service, "port").unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(at.child("port"), port, why));
    }
    if insecure && !bundle.is_empty() {
        errors.push(Error::invalid(skip, true, "may not be true if caBundle is present"));
    }
}

fn status(object: &Value, _: &Value) -> ErrorList {
    let path = Path::new("status.conditions");
    let mut errors = ErrorList::new();
    for (index, condition) in list(object, "status.conditions").iter().enumerate() {
        let status = text(condition, "status");
        if !matches!(status, "True" | "False" | "Unknown") {
            let path = path.index(index).child("status");
            errors.push(Error::not_supported(path, status, &["True", "False", "Unknown"]));
        }
    }
    errors
}
