//! Dynamic resource allocation: devices, their classes, and claims to them (`pkg/apis/resource/validation`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::checks::{
    dns_label_problems, dns_subdomain_problems, immutable, qualified_name_problems, report, required, required_one_of,
};
use super::json::{at, default_text, default_to, entries, has, int, list, list_mut, same, set, text, within};
use super::pod_spec::{check_node_selector, check_tolerations};
use crate::cel::device::Selector;
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const DEVICE_CLASS: Strategy =
    Strategy { validate: check_class, validate_update: |new, _| check_class(new), generation: true, ..PLAIN };

pub(super) const CLAIM: Strategy = Strategy {
    default: |claim| within(claim, "spec", default_claim),
    prepare_create: |claim| set(claim, "status", json!({})),
    prepare_update: super::keep_status,
    validate: |claim| {
        let mut errors = Vec::new();
        check_claim(&mut errors, at(claim, "spec"), &Path::new("spec"));
        errors
    },
    validate_update: |new, old| {
        let mut errors = Vec::new();
        immutable(&mut errors, &Path::new("spec"), at(new, "spec"), at(old, "spec"));
        errors
    },
    validate_status: check_claim_status,
    ..PLAIN
};

pub(super) const CLAIM_TEMPLATE: Strategy = Strategy {
    default: |template| within(template, "spec", |outer| within(outer, "spec", default_claim)),
    validate: |template| {
        let mut errors = Vec::new();
        check_claim(&mut errors, at(template, "spec.spec"), &Path::new("spec.spec"));
        errors
    },
    validate_update: |new, old| {
        let mut errors = Vec::new();
        immutable(&mut errors, &Path::new("spec"), at(new, "spec"), at(old, "spec"));
        errors
    },
    ..PLAIN
};

pub(super) const SLICE: Strategy = Strategy {
    validate: check_slice,
    validate_update: |new, old| {
        let mut errors = check_slice(new);
        for (key, path) in [("nodeName", "spec.nodeName"), ("driver", "spec.driver"), ("pool.name", "spec.pool.name")] {
            immutable(&mut errors, &Path::new(path), at(at(new, "spec"), key), at(at(old, "spec"), key));
        }
        errors
    },
    fields: |slice| {
        let field = |path: &str| text(slice, path).to_owned();
        vec![("spec.nodeName", field("spec.nodeName")), ("spec.driver", field("spec.driver"))]
    },
    generation: true,
    ..PLAIN
};

pub(super) const TAINT_RULE: Strategy = Strategy {
    prepare_create: |rule| set(rule, "status", json!({})),
    prepare_update: super::keep_status,
    validate: check_taint_rule,
    validate_update: |new, _| check_taint_rule(new),
    generation: true,
    ..PLAIN
};

const MAX_REQUESTS: usize = 32;
const MAX_CONSTRAINTS: usize = 32;
const MAX_CONFIGS: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_DEVICES: usize = 128;
const MAX_CONSUMERS: usize = 256;
const MAX_EXPRESSION_BYTES: usize = 10 * 1024;

fn default_claim(spec: &mut Value) {
    for request in list_mut(spec, "devices.requests") {
        within(request, "exactly", default_request);
        for alternative in list_mut(request, "firstAvailable") {
            default_request(alternative);
        }
    }
}

fn default_request(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        default_to(request, "count", 1);
    }
    for toleration in list_mut(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

fn too_many(errors: &mut ErrorList, object: &Value, key: &str, max: usize, path: &Path) {
    let count = list(object, key).len();
    if count > max {
        errors.push(Error::too_many(path.child(key), count, max));
    }
}

fn check_class(class: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(class, "spec"), Path::new("spec"));
    check_selectors(&mut errors, spec, &path);
    too_many(&mut errors, spec, "config", MAX_CONFIGS, &path);
    for (index, config) in list(spec, "config").iter().enumerate() {
        check_config(&mut errors, config, &path.child("config").index(index));
    }
    let extended = text(spec, "extendedResourceName");
    if !extended.is_empty() && !extended.contains('/') {
        let detail = "must be a valid extended resource name";
        errors.push(Error::invalid(path.child("extendedResourceName"), extended, detail));
    }
    errors
}

fn check_selectors(errors: &mut ErrorList, object: &Value, path: &Path) {
    too_many(errors, object, "selectors", MAX_SELECTORS, path);
    for (index, selector) in list(object, "selectors").iter().enumerate() {
        let path = path.child("selectors").index(index);
        if !has(selector, "cel") {
            errors.push(Error::required(path.child("cel"), ""));
            continue;
        }
        match text(selector, "cel.expression") {
            "" => errors.push(Error::required(path.child("cel").child("expression"), "")),
            expression if expression.len() > MAX_EXPRESSION_BYTES => {
                errors.push(Error::too_long(path.child("cel").child("expression"), MAX_EXPRESSION_BYTES));
            }
            expression => check_expression(errors, expression, &path.child("cel").child("expression")),
        }
    }
}

fn check_expression(errors: &mut ErrorList, expression: &str, path: &Path) {
    match Selector::compile(expression) {
        Err(error) => errors.push(Error::invalid(path.clone(), expression, error.to_string())),
        Ok(selector) if selector.is_too_expensive() => {
            errors.push(Error::forbidden(path.clone(), "too complex, exceeds cost limit"));
        }
        Ok(_) => {}
    }
}

fn check_config(errors: &mut ErrorList, config: &Value, path: &Path) {
    if !has(config, "opaque") {
        errors.push(Error::required(path.child("opaque"), ""));
        return;
    }
    let path = path.child("opaque");
    check_driver(errors, text(config, "opaque.driver"), &path.child("driver"));
    match at(config, "opaque.parameters") {
        Value::Null => errors.push(Error::required(path.child("parameters"), "")),
        Value::Object(_) => {}
        other => errors.push(Error::invalid(path.child("parameters"), other.clone(), "must be a valid JSON object")),
    }
}

fn check_driver(errors: &mut ErrorList, driver: &str, path: &Path) {
    super::storage::check_driver_name(errors, driver, path);
}

/// The spec of a claim.
fn check_claim(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (devices, path) = (at(spec, "devices"), path.child("devices"));
    too_many(errors, devices, "requests", MAX_REQUESTS, &path);
    let mut names = BTreeSet::new();
    for (index, request) in list(devices, "requests").iter().enumerate() {
        let path = path.child("requests").index(index);
        check_name(errors, request, &path, &mut names, "");
        let alternatives = list(request, "firstAvailable");
        match (has(request, "exactly"), alternatives.is_empty()) {
            (true, false) => {
                let detail = "exactly one of `exactly` or `firstAvailable` must be specified";
                errors.push(Error::invalid(path.clone(), request.clone(), detail));
            }
            (false, true) => {
                errors.push(Error::required(path.clone(), "exactly one of `exactly` or `firstAvailable` is required"));
            }
            (true, true) => check_request(errors, at(request, "exactly"), &path.child("exactly")),
            (false, false) => {
                too_many(errors, request, "firstAvailable", MAX_ALTERNATIVES, &path);
                let mut own = BTreeSet::new();
                for (n, alternative) in alternatives.iter().enumerate() {
                    let path = path.child("firstAvailable").index(n);
                    check_name(errors, alternative, &path, &mut own, "");
                    names.insert(format!("{}/{}", text(request, "name"), text(alternative, "name")));
                    check_request(errors, alternative, &path);
                }
            }
        }
    }
    check_constraints(errors, devices, &names, &path);
    too_many(errors, devices, "config", MAX_CONFIGS, &path);
    for (index, config) in list(devices, "config").iter().enumerate() {
        let path = path.child("config").index(index);
        check_request_names(errors, config, &names, &path);
        check_config(errors, config, &path);
    }
}

fn check_name(errors: &mut ErrorList, object: &Value, path: &Path, names: &mut BTreeSet<String>, prefix: &str) {
    let Some(name) = required(errors, object, path, "name") else { return };
    report(errors, &path.child("name"), name, dns_label_problems(name));
    if !names.insert(format!("{prefix}{name}")) {
        errors.push(Error::duplicate(path.clone(), name));
    }
}

fn check_request(errors: &mut ErrorList, request: &Value, path: &Path) {
    if let Some(class) = required(errors, request, path, "deviceClassName") {
        report(errors, &path.child("deviceClassName"), class, dns_subdomain_problems(class));
    }
    check_selectors(errors, request, path);
    match (text(request, "allocationMode"), int(request, "count")) {
        ("All", Some(count)) if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(Error::invalid(path.child("count"), count, detail));
        }
        ("ExactCount", count) if count.unwrap_or_default() <= 0 => {
            let detail = "must be greater than zero";
            errors.push(Error::invalid(path.child("count"), count.unwrap_or_default(), detail));
        }
        ("All" | "ExactCount", _) => {}
        (other, _) => {
            errors.push(Error::not_supported(path.child("allocationMode"), other, &["All", "ExactCount"]));
        }
    }
    check_tolerations(errors, list(request, "tolerations"), &path.child("tolerations"));
}

fn check_constraints(errors: &mut ErrorList, devices: &Value, names: &BTreeSet<String>, path: &Path) {
    too_many(errors, devices, "constraints", MAX_CONSTRAINTS, path);
    for (index, constraint) in list(devices, "constraints").iter().enumerate() {
        let path = path.child("constraints").index(index);
        check_request_names(errors, constraint, names, &path);
        match (text(constraint, "matchAttribute"), text(constraint, "distinctAttribute")) {
            ("", "") => errors.push(Error::required(path.child("matchAttribute"), "")),
            (name, "") => check_attribute(errors, name, &path.child("matchAttribute")),
            ("", name) => check_attribute(errors, name, &path.child("distinctAttribute")),
            _ => errors.push(Error::invalid(path, constraint.clone(), "only one of the fields may be set")),
        }
    }
}

fn check_attribute(errors: &mut ErrorList, name: &str, path: &Path) {
    match name.split_once('/') {
        None => errors.push(Error::invalid(path.clone(), name, "must include a domain")),
        Some((domain, id)) => {
            report(errors, path, domain, dns_subdomain_problems(domain));
            if id.is_empty() || id.len() > 32 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                errors.push(Error::invalid(path.clone(), id, "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"));
            }
        }
    }
}

fn check_request_names(errors: &mut ErrorList, object: &Value, names: &BTreeSet<String>, path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, name) in list(object, "requests").iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("requests").index(index);
        if !seen.insert(name) {
            errors.push(Error::duplicate(path.clone(), name));
        }
        if !names.contains(name) {
            let detail = "must be the name of a request in the claim or the name of a request and a subrequest \
                          separated by '/'";
            errors.push(Error::invalid(path, name, detail));
        }
    }
}

fn check_claim_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (status, before, path) = (at(new, "status"), at(old, "status"), Path::new("status"));
    let consumers = list(status, "reservedFor");
    if consumers.len() > MAX_CONSUMERS {
        errors.push(Error::too_many(path.child("reservedFor"), consumers.len(), MAX_CONSUMERS));
    }
    let mut uids = BTreeSet::new();
    for (index, consumer) in consumers.iter().enumerate() {
        let path = path.child("reservedFor").index(index);
        for key in ["resource", "name", "uid"] {
            required(&mut errors, consumer, &path, key);
        }
        if !uids.insert(text(consumer, "uid")) {
            errors.push(Error::duplicate(path.child("uid"), text(consumer, "uid")));
        }
    }
    if !consumers.is_empty() && !has(status, "allocation") {
        errors.push(Error::forbidden(path.child("reservedFor"), "may not be specified when `allocated` is not set"));
    }
    if has(before, "allocation") {
        if has(status, "allocation") {
            let (is, was) = (at(status, "allocation"), at(before, "allocation"));
            immutable(&mut errors, &path.child("allocation"), is, was);
        } else if !list(status, "reservedFor").is_empty() {
            let detail = "must be empty before `allocated` is removed";
            errors.push(Error::forbidden(path.child("reservedFor"), detail));
        }
    }
    for (index, device) in list(status, "devices").iter().enumerate() {
        let path = path.child("devices").index(index);
        check_driver(&mut errors, text(device, "driver"), &path.child("driver"));
        let allocated = list(status, "allocation.devices.results")
            .iter()
            .any(|result| ["driver", "pool", "device"].iter().all(|key| same(at(result, key), at(device, key))));
        if !allocated {
            errors.push(Error::invalid(path, device.clone(), "must be an allocated device in the claim"));
        }
    }
    errors
}

fn check_slice(slice: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(slice, "spec"), Path::new("spec"));
    check_driver(&mut errors, text(spec, "driver"), &path.child("driver"));
    let (pool, at_pool) = (at(spec, "pool"), path.child("pool"));
    if let Some(name) = required(&mut errors, pool, &at_pool, "name") {
        for part in name.split('/') {
            report(&mut errors, &at_pool.child("name"), part, dns_subdomain_problems(part));
        }
    }
    if int(pool, "resourceSliceCount").unwrap_or_default() <= 0 {
        let value = int(pool, "resourceSliceCount").unwrap_or_default();
        errors.push(Error::invalid(at_pool.child("resourceSliceCount"), value, "must be greater than zero"));
    }
    if let Some(generation) = int(pool, "generation").filter(|g| *g < 0) {
        let detail = "must be greater than or equal to zero";
        errors.push(Error::invalid(at_pool.child("generation"), generation, detail));
    }
    let node_fields = [
        !text(spec, "nodeName").is_empty(),
        has(spec, "nodeSelector"),
        at(spec, "allNodes") == true,
        at(spec, "perDeviceNodeSelection") == true,
    ];
    match node_fields.iter().filter(|given| **given).count() {
        0 => {
            let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
            errors.push(Error::required(path.clone(), detail));
        }
        1 => {}
        _ => {
            let detail =
                "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` must be specified";
            errors.push(Error::invalid(path.clone(), "{...}", detail));
        }
    }
    if has(spec, "nodeSelector") {
        check_node_selector(&mut errors, at(spec, "nodeSelector"), &path.child("nodeSelector"));
    }
    too_many(&mut errors, spec, "devices", MAX_DEVICES, &path);
    let mut names = BTreeSet::new();
    for (index, device) in list(spec, "devices").iter().enumerate() {
        let path = path.child("devices").index(index);
        check_name(&mut errors, device, &path, &mut names, "");
        check_attributes(&mut errors, device, &path);
        for (n, taint) in list(device, "taints").iter().enumerate() {
            check_taint(&mut errors, taint, &path.child("taints").index(n));
        }
    }
    errors
}

fn check_attributes(errors: &mut ErrorList, device: &Value, path: &Path) {
    for (name, attribute) in entries(device, "attributes") {
        let path = path.child("attributes").key(name);
        if name.contains('/') {
            check_attribute(errors, name, &path);
        }
        let given = attribute.as_object().map_or(0, |a| a.values().filter(|v| !v.is_null()).count());
        match given {
            0 => errors.push(Error::required(path, "exactly one value must be specified")),
            1 => {}
            _ => errors.push(Error::invalid(path, attribute.clone(), "exactly one value must be specified")),
        }
    }
}

fn check_taint(errors: &mut ErrorList, taint: &Value, path: &Path) {
    let key = text(taint, "key");
    report(errors, &path.child("key"), key, qualified_name_problems(key));
    required_one_of(errors, taint, path, "effect", &["NoExecute", "NoSchedule", "None"]);
}

fn check_taint_rule(rule: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(rule, "spec"), Path::new("spec"));
    let (selector, at_selector) = (at(spec, "deviceSelector"), path.child("deviceSelector"));
    if !text(selector, "driver").is_empty() {
        check_driver(&mut errors, text(selector, "driver"), &at_selector.child("driver"));
    }
    check_taint(&mut errors, at(spec, "taint"), &path.child("taint"));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(expression: &str) -> Vec<String> {
        let class = json!({"spec": {"selectors": [{"cel": {"expression": expression}}]}});
        check_class(&class).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn selectors_are_compiled() {
        assert!(told("device.driver == 'a' && device.attributes['a'].size > 3").is_empty());
        let wrong = told("device.driver");
        assert!(wrong[0].starts_with("spec.selectors[0].cel.expression: Invalid value: "), "{wrong:?}");
        assert!(wrong[0].ends_with("must evaluate to bool or the unknown type, not string"), "{wrong:?}");
        assert!(told("device.nothing == 1")[0].contains("compilation failed: "));
        let many = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                    device.attributes.all(d, a + b == c + d))))";
        assert_eq!(told(many), ["spec.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"]);
    }
}
