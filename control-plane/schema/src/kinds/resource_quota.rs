//! Resource quotas (`pkg/apis/core/validation ValidateResourceQuota`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{IMMUTABLE, qualified_name_problems, report};
use super::json::{at, entries, list, text, within};
use super::pod_spec::canonical_quantities;
use super::{clear_status, keep_status};
use crate::field::{Error, ErrorList, Path};
use crate::quantity::Quantity;
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default: |quota| {
        within(quota, "spec", |spec| within(spec, "hard", canonical_quantities));
        within(quota, "status", |status| {
            within(status, "hard", canonical_quantities);
            within(status, "used", canonical_quantities);
        });
    },
    prepare_create: clear_status,
    prepare_update: keep_status,
    validate,
    validate_update,
    validate_status,
    ..PLAIN
};

/// Resources without a prefix that quotas know.
const STANDARD: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

/// Those of them that come in whole numbers.
const WHOLE: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

const COMPUTE: [&str; 6] = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Scopes that nothing can be in at once.
const OPPOSITES: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// Whether a scope can be put on a resource.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn check_amounts(errors: &mut ErrorList, object: &Value, path: &str) {
    for (name, value) in entries(object, path) {
        let path = Path::new(path).key(name);
        let problems = qualified_name_problems(name);
        // "storage" is a resource, but none that quotas know.
        if problems.is_empty() && !name.contains('/') && !is_standard(name) && name != "storage" {
            errors.push(Error::invalid(path.clone(), name, "must be a standard resource type or fully qualified"));
        }
        report(errors, &path, name, problems);
        if !name.contains('/') && !is_standard(name) {
            errors.push(Error::invalid(path.clone(), name, "must be a standard resource for quota"));
        }
        check_amount(errors, name, value, &path);
    }
}

fn check_amount(errors: &mut ErrorList, name: &str, value: &Value, path: &Path) {
    let Some(amount) = Quantity::of_json(value) else {
        let detail = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        errors.push(Error::invalid(path.clone(), value.clone(), detail));
        return;
    };
    if amount.is_negative() {
        errors.push(Error::invalid(path.clone(), amount.to_string(), super::checks::NOT_NEGATIVE));
    }
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let extended = !native && !name.starts_with("requests.");
    if (WHOLE.contains(&name) || extended) && amount.nano() % 1_000_000_000 != 0 {
        errors.push(Error::invalid(path.clone(), amount.to_string(), "must be an integer"));
    }
}

fn check_scopes(errors: &mut ErrorList, quota: &Value) {
    let (scopes, path) = (at(quota, "spec.scopes"), Path::new("spec.scopes"));
    let invalid = |why: &str| Error::invalid(path.clone(), scopes.clone(), why);
    let mut seen = BTreeSet::new();
    for scope in list(quota, "spec.scopes").iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            errors.push(invalid("unsupported scope"));
        }
        for (name, _) in entries(quota, "spec.hard") {
            if is_standard(name) && !fits(scope, name) {
                errors.push(invalid("unsupported scope applied to resource"));
            }
        }
        seen.insert(scope);
    }
    for _ in OPPOSITES.iter().filter(|pair| pair.iter().all(|scope| seen.contains(scope))) {
        errors.push(invalid("conflicting scopes"));
    }
}

fn check_selector(errors: &mut ErrorList, quota: &Value) {
    let path = Path::new("spec.scopeSelector.matchExpressions");
    let mut seen = BTreeSet::new();
    for term in list(quota, "spec.scopeSelector.matchExpressions") {
        let (scope, operator, values) = (text(term, "scopeName"), text(term, "operator"), list(term, "values"));
        if !SCOPES.contains(&scope) {
            errors.push(Error::invalid(path.child("scopeName"), scope, "unsupported scope"));
        }
        for (name, _) in entries(quota, "spec.hard") {
            if is_standard(name) && !fits(scope, name) {
                let selector = at(quota, "spec.scopeSelector").clone();
                errors.push(Error::invalid(path.clone(), selector, "unsupported scope applied to resource"));
            }
        }
        let existential = SCOPES[..4].contains(&scope) || scope == "CrossNamespacePodAffinity";
        if existential && operator != "Exists" {
            let detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(Error::invalid(path.child("operator"), operator, detail));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(Error::required(path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(Error::invalid(path.child("values"), values.to_vec(), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator")),
        }
        seen.insert(scope);
    }
    for _ in OPPOSITES.iter().filter(|pair| pair.iter().all(|scope| seen.contains(scope))) {
        errors.push(Error::invalid(path.clone(), at(quota, "spec.scopes").clone(), "conflicting scopes"));
    }
}

fn validate(quota: &Value) -> ErrorList {
    let mut errors = Vec::new();
    check_amounts(&mut errors, quota, "spec.hard");
    check_scopes(&mut errors, quota);
    check_selector(&mut errors, quota);
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    let set = |quota: &Value| -> BTreeSet<String> {
        list(quota, "spec.scopes").iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if set(new) != set(old) {
        errors.push(Error::invalid(Path::new("spec.scopes"), at(new, "spec.scopes").clone(), IMMUTABLE));
    }
    errors
}

fn validate_status(new: &Value, _: &Value) -> ErrorList {
    let mut errors = Vec::new();
    check_amounts(&mut errors, new, "status.hard");
    check_amounts(&mut errors, new, "status.used");
    errors
}
