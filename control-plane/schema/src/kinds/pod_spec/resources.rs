//! Requests and limits.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{NOT_NEGATIVE, qualified_name_problems, report};
use crate::kinds::json::{at, entries};
use crate::quantity::Quantity;

/// Writes each quantity of a map as upstream stores it: `1000m` is `1`.
pub(crate) fn canonical_quantities(map: &mut Value) {
    for value in map.as_object_mut().into_iter().flat_map(|m| m.values_mut()) {
        if let Some(quantity) = Quantity::of_json(value) {
            *value = quantity.to_string().into();
        }
    }
}

/// Writes one quantity of an object as upstream stores it.
pub(crate) fn canonical_quantity(object: &mut Value, key: &str) {
    if let Some(value) = object.get_mut(key)
        && let Some(quantity) = Quantity::of_json(value)
    {
        *value = quantity.to_string().into();
    }
}

/// One quantity of a resource: well-formed, not negative, and whole where the resource is.
pub(crate) fn check_quantity(errors: &mut ErrorList, name: &str, value: &Value, path: &Path) -> Option<Quantity> {
    let Some(quantity) = Quantity::of_json(value) else {
        let detail = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        errors.push(Error::invalid(path.clone(), value.clone(), detail));
        return None;
    };
    if quantity.is_negative() {
        errors.push(Error::invalid(path.clone(), quantity.to_string(), NOT_NEGATIVE));
    }
    if is_whole(name) && quantity.milli_value() % 1000 != 0 {
        errors.push(Error::invalid(path.clone(), quantity.to_string(), "must be an integer"));
    }
    Some(quantity)
}

/// A map of resources to quantities, such as `overhead`.
pub(super) fn check_resource_list(errors: &mut ErrorList, object: &Value, key: &str, path: &Path) {
    for (name, value) in entries(object, key) {
        check_name(errors, name, &path.key(name));
        check_quantity(errors, name, value, &path.key(name));
    }
}

/// The requests and limits of a container or of a whole pod.
pub(crate) fn check_requirements(errors: &mut ErrorList, resources: &Value, path: &Path) {
    let limits = path.child("limits");
    for (name, value) in entries(resources, "limits") {
        check_name(errors, name, &limits.key(name));
        check_quantity(errors, name, value, &limits.key(name));
    }
    let requests = path.child("requests");
    for (name, value) in entries(resources, "requests") {
        check_name(errors, name, &requests.key(name));
        let request = check_quantity(errors, name, value, &requests.key(name));
        let limit = at(resources, "limits").get(name).and_then(Quantity::of_json);
        match (request, limit) {
            (Some(request), Some(limit)) if !overcommits(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(Error::invalid(requests.clone(), request.to_string(), detail));
            }
            (Some(request), Some(limit)) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(Error::invalid(requests.clone(), request.to_string(), detail));
            }
            (Some(_), None) if !overcommits(name) => {
                errors.push(Error::required(limits.clone(), "Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
    let any = |test: fn(&str) -> bool| {
        ["limits", "requests"].into_iter().any(|key| entries(resources, key).iter().any(|(name, _)| test(name)))
    };
    if any(|name| name.starts_with("hugepages-")) && !any(|name| matches!(name, "cpu" | "memory")) {
        errors.push(Error::forbidden(path.clone(), "HugePages require cpu or memory"));
    }
}

/// Resources of the node itself, as against extended ones such as `example.com/gpu`.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether more can be promised than there is.
fn overcommits(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// Whether fractions make no sense.
fn is_whole(name: &str) -> bool {
    !is_native(name) || name == "pods"
}

/// Resources that have no prefix, beside those of containers: what quotas count.
const STANDARD: [&str; 16] = [
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "services.nodeports",
    "services.loadbalancers",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "storage",
];

fn check_name(errors: &mut ErrorList, name: &str, path: &Path) {
    report(errors, path, name, qualified_name_problems(name));
    if name.contains('/') {
        return;
    }
    let of_containers = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !of_containers && !STANDARD.contains(&name) {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(Error::invalid(path.clone(), name, detail));
    }
    if !of_containers {
        errors.push(Error::invalid(path.clone(), name, "must be a standard resource for containers"));
    }
}
