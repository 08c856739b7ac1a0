//! Persistent volumes (`pkg/apis/core/validation`, `pkg/registry/core/persistentvolume`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::checks::{dns_subdomain_problems, immutable, one_of, report, required};
use super::json::{at, default_text, default_to, entries, has, list, same, set, text, unset, within};
use super::pod_spec::{check_node_selector, check_quantity, check_required};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: |volume| set(volume, "status", json!({"phase": "Pending"})),
    prepare_update: super::keep_status,
    prepare_status,
    validate,
    validate_update,
    fields: |volume| vec![("name", text(volume, "metadata.name").to_owned())],
    ..PLAIN
};

/// How a volume may be mounted, as upstream lists them.
pub(super) const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// What can be behind a volume.
const SOURCES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "local",
    "storageos",
];
const CSI: &str = "csi";

fn sources() -> impl Iterator<Item = &'static str> {
    SOURCES.into_iter().chain([CSI])
}

fn default(volume: &mut Value) {
    let Some(spec) = volume.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_to(spec, "volumeMode", "Filesystem");
    if let Some(claim) = spec.get_mut("claimRef").filter(|c| c.is_object()) {
        default_text(claim, "kind", "PersistentVolumeClaim");
        default_text(claim, "apiVersion", "v1");
    }
    if let Some(path) = spec.get_mut("hostPath").filter(|p| p.is_object()) {
        default_to(path, "type", "");
    }
}

/// Says since when the volume is in its phase, unless the update does.
fn prepare_status(_: &str, new: &mut Value, old: &Value, now: Timestamp) {
    let since = "status.lastPhaseTransitionTime";
    let is_new = text(new, "status.phase") != text(old, "status.phase");
    if is_new && (!has(new, since) || same(at(new, since), at(old, since))) {
        within(new, "status", |status| set(status, "lastPhaseTransitionTime", now.to_string()));
    }
}

fn validate(volume: &Value) -> ErrorList {
    let mut errors = Vec::new();
    check_spec(&mut errors, at(volume, "spec"), &Path::new("spec"));
    errors
}

/// Everything wrong with a volume's spec; also of one that is written into an attachment.
pub(super) fn check_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if list(spec, "accessModes").is_empty() {
        errors.push(Error::required(path.child("accessModes"), ""));
    }
    check_access_modes(errors, spec, path);
    check_capacity(errors, spec, &path.child("capacity"));
    if !text(spec, "persistentVolumeReclaimPolicy").is_empty() {
        one_of(errors, spec, path, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"]);
    }
    check_affinity(errors, spec, path);
    check_sources(errors, spec, path);
    if at(spec, "hostPath.path") == "/" && text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(path.child("persistentVolumeReclaimPolicy"), detail));
    }
    check_class(errors, spec, path, "storageClassName");
    one_of(errors, spec, path, "volumeMode", &["Block", "Filesystem"]);
    check_class(errors, spec, path, "volumeAttributesClassName");
    if !text(spec, "volumeAttributesClassName").is_empty() && !has(spec, CSI) {
        let detail = "has to be specified when using volumeAttributesClassName";
        errors.push(Error::required(path.child(CSI), detail));
    }
}

/// The name of a class, if there is one.
pub(super) fn check_class(errors: &mut ErrorList, spec: &Value, path: &Path, key: &str) {
    let class = text(spec, key);
    if !class.is_empty() {
        report(errors, &path.child(key), class, dns_subdomain_problems(class));
    }
}

/// Access modes that there are, and that go together.
pub(super) fn check_access_modes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let modes: Vec<_> = list(spec, "accessModes").iter().filter_map(Value::as_str).collect();
    for mode in &modes {
        if !ACCESS_MODES.contains(mode) {
            errors.push(Error::not_supported(path.child("accessModes"), *mode, &ACCESS_MODES));
        }
    }
    if modes.contains(&"ReadWriteOncePod") && modes.iter().any(|mode| *mode != "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(Error::forbidden(path.child("accessModes"), detail));
    }
}

fn check_capacity(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let capacity = entries(spec, "capacity");
    if capacity.is_empty() {
        errors.push(Error::required(path.clone(), ""));
    } else if capacity.len() > 1 || capacity[0].0 != "storage" {
        errors.push(Error::not_supported(path.clone(), at(spec, "capacity").to_string(), &["storage"]));
    }
    for (name, value) in capacity {
        if check_quantity(errors, name, value, &path.key(name)).is_some_and(|q| q.is_zero() || q.is_negative()) {
            errors.push(Error::invalid(path.key(name), value.clone(), "must be greater than zero"));
        }
    }
}

fn check_affinity(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let affinity = at(spec, "nodeAffinity");
    if affinity.is_null() {
        if has(spec, "local") {
            errors.push(Error::required(path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
        return;
    }
    let path = path.child("nodeAffinity").child("required");
    if has(affinity, "required") {
        check_node_selector(errors, at(affinity, "required"), &path);
    } else {
        errors.push(Error::required(path, "must specify required node constraints"));
    }
}

fn check_sources(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let given: Vec<_> = sources().filter(|source| has(spec, source)).collect();
    if given.is_empty() {
        errors.push(Error::required(path.clone(), "must specify a volume type"));
    }
    for (index, source) in given.into_iter().enumerate() {
        let (volume, path) = (at(spec, source), path.child(source));
        if index > 0 {
            errors.push(Error::forbidden(path, "may not specify more than 1 volume type"));
            continue;
        }
        match source {
            "hostPath" | "local" => {
                if let Some(value) = required(errors, volume, &path, "path")
                    && value.split('/').any(|part| part == "..")
                {
                    errors.push(Error::invalid(path.child("path"), value, "must not contain '..'"));
                }
            }
            "nfs" => {
                required(errors, volume, &path, "server");
                if required(errors, volume, &path, "path").is_some_and(|p| !p.starts_with('/')) {
                    let value = text(volume, "path");
                    errors.push(Error::invalid(path.child("path"), value, "must be an absolute path"));
                }
            }
            CSI => {
                if let Some(driver) = required(errors, volume, &path, "driver") {
                    super::storage::check_driver_name(errors, driver, &path.child("driver"));
                }
                required(errors, volume, &path, "volumeHandle");
            }
            _ => check_required(errors, source, volume, &path),
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    let (spec, before, path) = (at(new, "spec"), at(old, "spec"), Path::new("spec"));
    let source = |spec: &Value| {
        let mut kept = spec.clone();
        for key in spec.as_object().into_iter().flat_map(|m| m.keys()) {
            if !sources().any(|source| source == key) {
                unset(&mut kept, key);
            }
        }
        // Secrets of an expansion may be added.
        if let Some(csi) = kept.get_mut(CSI) {
            unset(csi, "controllerExpandSecretRef");
            unset(csi, "nodeExpandSecretRef");
        }
        kept
    };
    if !same(&source(spec), &source(before)) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(Error::forbidden(path.child("persistentvolumesource"), detail));
    }
    immutable(&mut errors, &Path::new("volumeMode"), at(spec, "volumeMode"), at(before, "volumeMode"));
    // An affinity may be given to a volume that has none.
    if has(before, "nodeAffinity") {
        immutable(&mut errors, &Path::new("nodeAffinity"), at(spec, "nodeAffinity"), at(before, "nodeAffinity"));
    }
    let key = "volumeAttributesClassName";
    if !text(before, key).is_empty() && text(spec, key).is_empty() {
        let detail = "update from non-nil value to nil is forbidden";
        errors.push(Error::forbidden(path.child(key), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_phase_has_its_time() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let after = |old: Value, mut new: Value| {
            prepare_status("status", &mut new, &old, now);
            new["status"]["lastPhaseTransitionTime"].clone()
        };
        let pending = json!({"status": {"phase": "Pending"}});
        let bound = json!({"status": {"phase": "Bound", "lastPhaseTransitionTime": "2026-01-01T00:00:00Z"}});
        assert_eq!(after(pending.clone(), json!({"status": {"phase": "Bound"}})), "2026-01-02T03:04:05Z");
        assert_eq!(after(pending.clone(), pending), Value::Null);
        assert_eq!(after(bound.clone(), bound.clone()), "2026-01-01T00:00:00Z");
        let mut released = bound.clone();
        released["status"]["phase"] = "Released".into();
        assert_eq!(after(bound.clone(), released.clone()), "2026-01-02T03:04:05Z");
        released["status"]["lastPhaseTransitionTime"] = "2026-01-01T12:00:00Z".into();
        assert_eq!(after(bound, released), "2026-01-01T12:00:00Z", "what the update says");
    }
}
