//! Nodes (`pkg/registry/core/node`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{label_value_problems, qualified_name_problems, report};
use super::json::{at, default_to, entries, list, same, text, truth};
use super::keep_status;
use super::pod_spec::{canonical_quantities, check_quantity, check_taint_effect};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

/// A new node brings its status along: an agent registers it with what it has.
pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_update: keep_status,
    validate,
    validate_update,
    validate_status: |new, _| check_status(new),
    fields: |node| vec![("spec.unschedulable", truth(node, "spec.unschedulable").to_string())],
    ..PLAIN
};

fn default(node: &mut Value) {
    let capacity = at(node, "status.capacity").clone();
    let Some(status) = node.get_mut("status") else { return };
    if capacity.is_object() {
        default_to(status, "allocatable", capacity);
    }
    for key in ["capacity", "allocatable"] {
        if let Some(quantities) = status.get_mut(key) {
            canonical_quantities(quantities);
        }
    }
}

fn validate(node: &Value) -> ErrorList {
    let mut errors = check_quantities(node);
    check_ranges(&mut errors, node);
    // Upstream's path.
    let path = Path::new("metadata.taints");
    let mut seen = BTreeSet::new();
    for (index, taint) in list(node, "spec.taints").iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (text(taint, "key"), text(taint, "value"));
        report(&mut errors, &path.child("key"), key, qualified_name_problems(key));
        let problems = label_value_problems(value);
        if !problems.is_empty() {
            errors.push(Error::invalid(path.child("value"), value, problems.join(";")));
        }
        check_taint_effect(&mut errors, taint, false, &path);
        if !seen.insert((text(taint, "effect"), text(taint, "key"))) {
            let mut error = Error::duplicate(path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

/// The ranges of a node: one of each family, and none twice.
fn check_ranges(errors: &mut ErrorList, node: &Value) {
    let (ranges, path) = (list(node, "spec.podCIDRs"), Path::new("spec.podCIDRs"));
    for (index, range) in ranges.iter().enumerate() {
        let text = range.as_str().unwrap_or_default();
        if text.parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(Error::invalid(path.index(index), text, detail));
        }
        if ranges[..index].contains(range) {
            errors.push(Error::duplicate(path.index(index), text));
        }
    }
    let of_family = |v6: bool| ranges.iter().filter(|r| r.as_str().is_some_and(|r| r.contains(':') == v6)).count();
    if of_family(false) > 1 || of_family(true) > 1 {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(Error::invalid(path, ranges.to_vec(), detail));
    }
}

fn check_quantities(node: &Value) -> ErrorList {
    let mut errors = Vec::new();
    for key in ["capacity", "allocatable"] {
        let path = Path::new("status").child(key);
        for (name, value) in entries(at(node, "status"), key) {
            check_quantity(&mut errors, name, value, &path.child(name));
        }
    }
    errors
}

fn check_status(node: &Value) -> ErrorList {
    let mut errors = check_quantities(node);
    let addresses = list(node, "status.addresses");
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            errors.push(Error::duplicate(Path::new("status.addresses").index(index), address.clone()));
        }
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec");
    if !list(old, "spec.podCIDRs").is_empty() && !same(at(new, "spec.podCIDRs"), at(old, "spec.podCIDRs")) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(path.child("podCIDRs"), detail));
    }
    let (provider, before) = (text(new, "spec.providerID"), text(old, "spec.providerID"));
    if !before.is_empty() && before != provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(Error::forbidden(path.child("providerID"), detail));
    }
    errors
}
