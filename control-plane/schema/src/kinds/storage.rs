//! What storage is made of (`pkg/apis/storage`): classes, CSI drivers, attachments.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::checks::{
    check_selector, dns_subdomain_problems, immutable, in_range, not_negative, qualified_name_problems, report,
    required, required_one_of,
};
use super::json::{at, default_to, entries, has, int, list, set, text};
use super::pod_spec::check_quantity;
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STORAGE_CLASS: Strategy = Strategy {
    default: |class| {
        default_to(class, "reclaimPolicy", "Delete");
        default_to(class, "volumeBindingMode", "Immediate");
    },
    validate: check_class,
    validate_update: |new, old| {
        let mut errors = check_class(new);
        for key in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            if !super::json::same(at(new, key), at(old, key)) {
                let detail = format!("updates to {key} are forbidden.");
                errors.push(Error::forbidden(Path::new(key), detail));
            }
        }
        errors
    },
    ..PLAIN
};

pub(super) const ATTRIBUTES_CLASS: Strategy = Strategy {
    validate: check_attributes_class,
    validate_update: |new, old| {
        let mut errors = Vec::new();
        for key in ["driverName", "parameters"] {
            if !super::json::same(at(new, key), at(old, key)) {
                errors.push(Error::forbidden(Path::new(key), format!("updates to {key} are forbidden.")));
            }
        }
        errors
    },
    ..PLAIN
};

pub(super) const CSI_DRIVER: Strategy = Strategy {
    default: |driver| {
        let Some(spec) = driver.get_mut("spec").filter(|s| s.is_object()) else { return };
        default_to(spec, "attachRequired", true);
        default_to(spec, "podInfoOnMount", false);
        default_to(spec, "storageCapacity", false);
        default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(spec, "volumeLifecycleModes").is_empty() {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
        default_to(spec, "requiresRepublish", false);
        default_to(spec, "seLinuxMount", false);
    },
    validate: check_driver,
    validate_update: |new, old| {
        let mut errors = check_driver(new);
        for key in ["attachRequired", "volumeLifecycleModes"] {
            immutable(&mut errors, &Path::new("spec").child(key), at(at(new, "spec"), key), at(at(old, "spec"), key));
        }
        errors
    },
    generation: true,
    ..PLAIN
};

pub(super) const CSI_NODE: Strategy = Strategy { validate: check_node, validate_update: check_node_update, ..PLAIN };

pub(super) const CSI_STORAGE_CAPACITY: Strategy = Strategy {
    validate: check_capacity,
    validate_update: |new, old| {
        let mut errors = check_capacity(new);
        for key in ["nodeTopology", "storageClassName"] {
            immutable(&mut errors, &Path::new(key), at(new, key), at(old, key));
        }
        errors
    },
    ..PLAIN
};

pub(super) const VOLUME_ATTACHMENT: Strategy = Strategy {
    prepare_create: |attachment| set(attachment, "status", json!({"attached": false})),
    prepare_update: super::keep_status,
    validate: check_attachment,
    validate_update: |new, old| {
        let mut errors = check_attachment(new);
        immutable(&mut errors, &Path::new("spec"), at(new, "spec"), at(old, "spec"));
        errors
    },
    validate_status: |new, _| check_attachment_status(new),
    ..PLAIN
};

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_BYTES: usize = 256 * 1024;
const MAX_DRIVER_NAME: usize = 63;
const MAX_NODE_ID: usize = 256;
const MAX_ATTACHMENT_METADATA_BYTES: usize = 256 * 1024;
const MAX_ERROR_BYTES: usize = 1024;

/// The name of a CSI driver.
pub(super) fn check_driver_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(Error::required(path.clone(), ""));
    }
    if name.len() > MAX_DRIVER_NAME {
        errors.push(Error::too_long(path.clone(), MAX_DRIVER_NAME));
    }
    report(errors, path, name, dns_subdomain_problems(&name.to_lowercase()));
}

fn check_parameters(errors: &mut ErrorList, object: &Value, may_be_empty: bool) {
    let (parameters, path) = (entries(object, "parameters"), Path::new("parameters"));
    if parameters.len() > MAX_PARAMETERS {
        errors.push(Error::too_long(Path::new("Provisioner Parameters Length"), MAX_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (key, value) in &parameters {
        if key.is_empty() {
            errors.push(Error::invalid(path.clone(), *key, "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_PARAMETERS_BYTES {
        errors.push(Error::too_long(path.clone(), MAX_PARAMETERS_BYTES));
    }
    if parameters.is_empty() && !may_be_empty {
        errors.push(Error::required(path, "must contain at least one key/value pair"));
    }
}

fn check_class(class: &Value) -> ErrorList {
    let mut errors = Vec::new();
    if let Some(provisioner) = required(&mut errors, class, &Path::default(), "provisioner") {
        let problems = qualified_name_problems(&provisioner.to_lowercase());
        report(&mut errors, &Path::new("provisioner"), provisioner, problems);
    }
    check_parameters(&mut errors, class, true);
    required_one_of(&mut errors, class, &Path::default(), "reclaimPolicy", &["Delete", "Retain"]);
    required_one_of(&mut errors, class, &Path::default(), "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"]);
    for (index, term) in list(class, "allowedTopologies").iter().enumerate() {
        let path = Path::new("allowedTopologies").index(index).child("matchLabelExpressions");
        for (n, requirement) in list(term, "matchLabelExpressions").iter().enumerate() {
            let path = path.index(n);
            let key = text(requirement, "key");
            report(&mut errors, &path.child("key"), key, qualified_name_problems(key));
            if list(requirement, "values").is_empty() {
                errors.push(Error::required(path.child("values"), ""));
            }
        }
    }
    errors
}

fn check_attributes_class(class: &Value) -> ErrorList {
    let mut errors = Vec::new();
    check_driver_name(&mut errors, text(class, "driverName"), &Path::new("driverName"));
    check_parameters(&mut errors, class, false);
    errors
}

fn check_driver(driver: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(driver, "spec"), Path::new("spec"));
    check_driver_name(&mut errors, text(driver, "metadata.name"), &Path::new("metadata").child("name"));
    for key in ["attachRequired", "podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        if !has(spec, key) {
            errors.push(Error::required(path.child(key), ""));
        }
    }
    required_one_of(&mut errors, spec, &path, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"]);
    let mut audiences = BTreeSet::new();
    for (index, request) in list(spec, "tokenRequests").iter().enumerate() {
        let (audience, path) = (text(request, "audience"), path.child("tokenRequests").index(index));
        if !audiences.insert(audience) {
            errors.push(Error::duplicate(path.child("audience"), audience));
        }
        in_range(&mut errors, request, &path, "expirationSeconds", 600, 1 << 32);
    }
    for mode in list(spec, "volumeLifecycleModes") {
        let mode = mode.as_str().unwrap_or_default();
        if !matches!(mode, "Persistent" | "Ephemeral") {
            errors.push(Error::not_supported(path.child("volumeLifecycleModes"), mode, &["Ephemeral", "Persistent"]));
        }
    }
    if let Some(seconds) = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|s| *s < 10) {
        let detail = "must be greater than or equal to 10 seconds";
        errors.push(Error::invalid(path.child("nodeAllocatableUpdatePeriodSeconds"), seconds, detail));
    }
    errors
}

fn check_node(node: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (index, driver) in list(node, "spec.drivers").iter().enumerate() {
        let path = Path::new("spec").child("drivers").index(index);
        let name = text(driver, "name");
        check_driver_name(&mut errors, name, &path.child("name"));
        if !names.insert(name) {
            errors.push(Error::duplicate(path.child("name"), name));
        }
        match text(driver, "nodeID") {
            "" => errors.push(Error::required(path.child("nodeID"), "")),
            id if id.len() > MAX_NODE_ID => errors.push(Error::too_long(path.child("nodeID"), MAX_NODE_ID)),
            _ => {}
        }
        not_negative(&mut errors, at(driver, "allocatable"), &path.child("allocatable"), "count");
        let mut keys = BTreeSet::new();
        for key in list(driver, "topologyKeys").iter().filter_map(Value::as_str) {
            if !keys.insert(key) {
                errors.push(Error::duplicate(path.child("topologyKeys"), key));
            }
            report(&mut errors, &path.child("topologyKeys"), key, qualified_name_problems(key));
        }
    }
    errors
}

/// A driver is registered, or it is not; what it said does not change meanwhile.
fn check_node_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = check_node(new);
    let path = Path::new("spec").child("drivers");
    for before in list(old, "spec.drivers") {
        for driver in list(new, "spec.drivers").iter().filter(|d| text(d, "name") == text(before, "name")) {
            let fixed = |driver: &Value| (text(driver, "nodeID").to_owned(), at(driver, "topologyKeys").clone());
            if fixed(driver) != fixed(before) {
                errors.push(Error::invalid(path.clone(), driver.clone(), "field is immutable"));
            }
        }
    }
    errors
}

fn check_capacity(capacity: &Value) -> ErrorList {
    let mut errors = Vec::new();
    check_selector(&mut errors, at(capacity, "nodeTopology"), &Path::new("nodeTopology"));
    if let Some(class) = required(&mut errors, capacity, &Path::default(), "storageClassName") {
        report(&mut errors, &Path::new("storageClassName"), class, dns_subdomain_problems(class));
    }
    for key in ["capacity", "maximumVolumeSize"] {
        if has(capacity, key) {
            check_quantity(&mut errors, "storage", at(capacity, key), &Path::new(key));
        }
    }
    errors
}

fn check_attachment(attachment: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(attachment, "spec"), Path::new("spec"));
    let attacher = text(spec, "attacher");
    if attacher.is_empty() {
        errors.push(Error::required(path.child("attacher"), ""));
    } else {
        check_driver_name(&mut errors, attacher, &path.child("attacher"));
    }
    let (source, at_source) = (at(spec, "source"), path.child("source"));
    match (has(source, "persistentVolumeName"), has(source, "inlineVolumeSpec")) {
        (true, true) => {
            let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(Error::forbidden(at_source, detail));
        }
        (false, false) => {
            let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(Error::required(at_source, detail));
        }
        (true, false) => {
            let name = text(source, "persistentVolumeName");
            let path = at_source.child("persistentVolumeName");
            if name.is_empty() {
                errors.push(Error::required(path, "must specify non empty persistentVolumeName"));
            } else {
                report(&mut errors, &path, name, dns_subdomain_problems(name));
            }
        }
        (false, true) => {
            let spec = at(source, "inlineVolumeSpec");
            super::persistent_volume::check_spec(&mut errors, spec, &at_source.child("inlineVolumeSpec"));
        }
    }
    let node = text(spec, "nodeName");
    report(&mut errors, &path.child("nodeName"), node, dns_subdomain_problems(node));
    errors.extend(check_attachment_status(attachment));
    errors
}

fn check_attachment_status(attachment: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (status, path) = (at(attachment, "status"), Path::new("status"));
    let size: usize =
        entries(status, "attachmentMetadata").iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > MAX_ATTACHMENT_METADATA_BYTES {
        errors.push(Error::too_long(path.child("attachmentMetadata"), MAX_ATTACHMENT_METADATA_BYTES));
    }
    for key in ["attachError", "detachError"] {
        if text(at(status, key), "message").len() > MAX_ERROR_BYTES {
            errors.push(Error::too_long(path.child(key).child("message"), MAX_ERROR_BYTES));
        }
    }
    errors
}
