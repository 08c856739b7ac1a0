//! Volumes, and where containers mount them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::Volumes;
use super::env::{check_field_ref, check_resource_ref};
use super::sources::check_required;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{
    check_labels, check_selector, config_key_problems, dns_label_problems, one_of, report, required,
};
use crate::kinds::json::{at, has, int, list, text};
use crate::kinds::trust::{MIN_SECONDS, check_signer, most_seconds};
use crate::quantity::Quantity;

/// The kinds of volume that the API knows.
const SOURCES: [&str; 30] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];

/// Checks the volumes, and returns them by name.
pub(super) fn check_volumes<'a>(errors: &mut ErrorList, volumes: &'a [Value], path: &Path) -> Volumes<'a> {
    let mut by_name = Volumes::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        check_source(errors, volume, &path);
        let Some(name) = required(errors, volume, &path, "name") else { continue };
        let problems = dns_label_problems(name);
        if problems.is_empty() && by_name.insert(name, volume).is_some() {
            errors.push(Error::duplicate(path.child("name"), name));
        }
        report(errors, &path.child("name"), name, problems);
    }
    by_name
}

fn check_source(errors: &mut ErrorList, volume: &Value, path: &Path) {
    let given: Vec<_> = SOURCES.into_iter().filter(|kind| has(volume, kind)).collect();
    if given.is_empty() {
        errors.push(Error::required(path.clone(), "must specify a volume type"));
    }
    for (index, kind) in given.into_iter().enumerate() {
        let (source, path) = (at(volume, kind), path.child(kind));
        if index > 0 {
            errors.push(Error::forbidden(path, "may not specify more than 1 volume type"));
            continue;
        }
        match kind {
            "hostPath" => check_host_path(errors, source, &path),
            "secret" => {
                check_required(errors, kind, source, &path);
                check_files(errors, source, &path);
            }
            "configMap" => {
                required(errors, source, &path, "name");
                check_files(errors, source, &path);
            }
            "downwardAPI" => check_downward(errors, source, &path),
            "projected" => check_projected(errors, source, &path),
            "emptyDir" => check_empty_dir(errors, source, &path),
            "ephemeral" => check_ephemeral(errors, source, &path.child("volumeClaimTemplate")),
            "image" => one_of(errors, source, &path, "pullPolicy", &["Always", "IfNotPresent", "Never"]),
            _ => check_required(errors, kind, source, &path),
        }
    }
}

fn check_empty_dir(errors: &mut ErrorList, source: &Value, path: &Path) {
    if Quantity::of_json(at(source, "sizeLimit")).is_some_and(|limit| limit.is_negative()) {
        errors.push(Error::forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
    }
}

/// A volume of the pod's own, by a claim that is made with it.
fn check_ephemeral(errors: &mut ErrorList, source: &Value, path: &Path) {
    let template = at(source, "volumeClaimTemplate");
    if template.is_null() {
        errors.push(Error::required(path.clone(), ""));
        return;
    }
    check_labels(errors, template, "metadata.labels", &path.child("metadata").child("labels"));
    crate::kinds::persistent_volume_claim::check_spec(errors, at(template, "spec"), &path.child("spec"));
}

fn check_host_path(errors: &mut ErrorList, source: &Value, path: &Path) {
    if let Some(host_path) = required(errors, source, path, "path") {
        check_no_backsteps(errors, host_path, &path.child("path"));
    }
    let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    one_of(errors, source, path, "type", &kinds);
}

/// The mode and the items of a volume of files.
fn check_files(errors: &mut ErrorList, source: &Value, path: &Path) {
    check_mode(errors, source, "defaultMode", path);
    check_items(errors, source, path);
}

fn check_items(errors: &mut ErrorList, source: &Value, path: &Path) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = path.child("items").index(index);
        if let Some(key) = required(errors, item, &path, "key") {
            report(errors, &path.child("key"), key, config_key_problems(key));
        }
        check_file_path(errors, item, &path);
        check_mode(errors, item, "mode", &path);
    }
}

/// A file's place in its volume.
fn check_file_path(errors: &mut ErrorList, item: &Value, path: &Path) {
    let Some(file) = required(errors, item, path, "path") else { return };
    check_local_file(errors, file, &path.child("path"));
}

fn check_local_file(errors: &mut ErrorList, file: &str, path: &Path) {
    check_local(errors, file, path);
    if file.starts_with("..") && !file.starts_with("../") {
        errors.push(Error::invalid(path.clone(), file, "must not start with '..'"));
    }
}

fn check_mode(errors: &mut ErrorList, object: &Value, key: &str, path: &Path) {
    if let Some(mode) = int(object, key).filter(|mode| !(0..=0o777).contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(Error::invalid(path.child(key), mode, detail));
    }
}

/// What a file can take from its pod.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn check_downward(errors: &mut ErrorList, source: &Value, path: &Path) {
    check_mode(errors, source, "defaultMode", path);
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = path.child("items").index(index);
        check_file_path(errors, item, &path);
        check_mode(errors, item, "mode", &path);
        match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
            (true, true) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(Error::invalid(path, "resource", detail));
            }
            (true, false) => check_field_ref(errors, at(item, "fieldRef"), &FIELDS, &path.child("fieldRef")),
            (false, true) => {
                let path = path.child("resourceFieldRef");
                required(errors, at(item, "resourceFieldRef"), &path, "containerName");
                check_resource_ref(errors, at(item, "resourceFieldRef"), &path);
            }
            (false, false) => {
                let detail = "one of fieldRef and resourceFieldRef is required";
                errors.push(Error::required(path, detail));
            }
        }
    }
}

fn check_projected(errors: &mut ErrorList, source: &Value, path: &Path) {
    check_mode(errors, source, "defaultMode", path);
    let mut files = BTreeSet::new();
    let mut place = |errors: &mut ErrorList, file: &str| {
        if !file.is_empty() && !files.insert(file.to_owned()) {
            errors.push(Error::invalid(path.clone(), file, "conflicting duplicate paths"));
        }
    };
    for (index, projection) in list(source, "sources").iter().enumerate() {
        let path = path.child("sources").index(index);
        for (n, (kind, source)) in given(projection).into_iter().enumerate() {
            let path = path.child(kind);
            if n > 0 {
                errors.push(Error::forbidden(path, "may not specify more than 1 volume type"));
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    required(errors, source, &path, "name");
                    check_items(errors, source, &path);
                }
                "downwardAPI" => check_downward(errors, source, &path),
                "serviceAccountToken" => check_token(errors, source, &path),
                "clusterTrustBundle" => check_trust(errors, source, &path),
                "podCertificate" => check_certificate(errors, source, &path),
                _ => {}
            }
            let files = list(source, "items").iter().chain([source]).map(|file| text(file, "path"));
            let certificates = CERTIFICATE_PATHS.iter().map(|key| text(source, key));
            files.chain(certificates).for_each(|file| place(errors, file));
        }
    }
}

fn given(projection: &Value) -> Vec<(&str, &Value)> {
    projection.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.as_str(), v)).collect()
}

/// A bundle by its name, or all of a signer.
fn check_trust(errors: &mut ErrorList, source: &Value, path: &Path) {
    match (has(source, "name"), has(source, "signerName")) {
        (true, true) => {
            let detail = "only one of name and signerName may be used";
            errors.push(Error::invalid(path.clone(), source.clone(), detail));
        }
        (true, false) if text(source, "name").is_empty() => {
            errors.push(Error::required(path.child("name"), "must be a valid object name"));
        }
        (true, false) => {
            if has(source, "labelSelector") {
                let (selector, detail) =
                    (at(source, "labelSelector"), "labelSelector must be unset if name is specified");
                errors.push(Error::invalid(path.child("labelSelector"), selector.clone(), detail));
            }
        }
        (false, true) if text(source, "signerName").is_empty() => {
            errors.push(Error::required(path.child("signerName"), "must be a valid signer name"));
        }
        (false, true) => {
            check_signer(errors, text(source, "signerName"), &path.child("signerName"));
            check_selector(errors, at(source, "labelSelector"), &path.child("labelSelector"));
        }
        (false, false) => {
            errors.push(Error::required(path.clone(), "either name or signerName must be specified"));
        }
    }
    check_file_path(errors, source, path);
}

/// Where a pod's certificate goes, and its key.
const CERTIFICATE_PATHS: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];
const KEY_TYPES: [&str; 6] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];

/// A certificate that is made for the pod.
fn check_certificate(errors: &mut ErrorList, source: &Value, path: &Path) {
    check_signer(errors, text(source, "signerName"), &path.child("signerName"));
    let key_type = text(source, "keyType");
    if !KEY_TYPES.contains(&key_type) {
        errors.push(Error::not_supported(path.child("keyType"), key_type, &KEY_TYPES));
    }
    if let Some(seconds) = int(source, "maxExpirationSeconds") {
        let path = path.child("maxExpirationSeconds");
        let most = most_seconds(text(source, "signerName"));
        if seconds < MIN_SECONDS {
            let detail = format!("if provided, maxExpirationSeconds must be >= {MIN_SECONDS}");
            errors.push(Error::invalid(path, seconds, detail));
        } else if seconds > most {
            let detail = format!("if provided, maxExpirationSeconds must be <= {most}");
            errors.push(Error::invalid(path, seconds, detail));
        }
    }
    if CERTIFICATE_PATHS.iter().all(|key| text(source, key).is_empty()) {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(Error::required(path.clone(), detail));
    }
    for key in CERTIFICATE_PATHS.iter().filter(|key| !text(source, key).is_empty()) {
        check_local_file(errors, text(source, key), &path.child(key));
    }
}

/// Upstream's bounds of a token's life.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

fn check_token(errors: &mut ErrorList, source: &Value, path: &Path) {
    let seconds = int(source, "expirationSeconds").unwrap_or(MIN_TOKEN_SECONDS);
    if seconds < MIN_TOKEN_SECONDS {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(Error::invalid(path.child("expirationSeconds"), seconds, detail));
    }
    if seconds > MAX_TOKEN_SECONDS {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.push(Error::invalid(path.child("expirationSeconds"), seconds, detail));
    }
    check_file_path(errors, source, path);
}

/// A relative path that stays below its root.
pub(super) fn check_local(errors: &mut ErrorList, local: &str, path: &Path) {
    if local.starts_with('/') {
        errors.push(Error::invalid(path.clone(), local, "must be a relative path"));
    }
    check_no_backsteps(errors, local, path);
}

fn check_no_backsteps(errors: &mut ErrorList, local: &str, path: &Path) {
    if local.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path.clone(), local, "must not contain '..'"));
    }
}

pub(super) fn check_mounts(errors: &mut ErrorList, container: &Value, volumes: &Volumes<'_>, path: &Path) {
    let mut paths = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        // Upstream blames the list for paths within a volume, and the item for the rest.
        let (whole, path) = (path, path.index(index));
        required(errors, mount, &path, "name");
        let name = text(mount, "name");
        if !volumes.contains_key(name) {
            errors.push(Error::not_found(path.child("name"), name));
        }
        if list(container, "volumeDevices").iter().any(|device| text(device, "name") == name && !name.is_empty()) {
            errors.push(Error::invalid(path.child("name"), name, "must not already exist in volumeDevices"));
        }
        if let Some(mount_path) = required(errors, mount, &path, "mountPath")
            && !paths.insert(mount_path)
        {
            errors.push(Error::invalid(path.child("mountPath"), mount_path, "must be unique"));
        }
        for key in ["subPath", "subPathExpr"] {
            check_local(errors, text(mount, key), &whole.child(key));
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(Error::invalid(path.child("subPathExpr"), text(mount, "subPathExpr"), detail));
        }
        one_of(errors, mount, &path, "mountPropagation", &["Bidirectional", "HostToContainer", "None"]);
        if text(mount, "mountPropagation") == "Bidirectional" && at(container, "securityContext.privileged") != true {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(Error::forbidden(path.child("mountPropagation"), detail));
        }
        let devices = list(container, "volumeDevices");
        if devices.iter().any(|d| text(d, "devicePath") == text(mount, "mountPath") && has(d, "devicePath")) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(Error::invalid(path.child("mountPath"), text(mount, "mountPath"), detail));
        }
        check_recursive(errors, mount, &path);
    }
}

fn check_recursive(errors: &mut ErrorList, mount: &Value, path: &Path) {
    one_of(errors, mount, path, "recursiveReadOnly", &["Disabled", "Enabled", "IfPossible"]);
    if !matches!(text(mount, "recursiveReadOnly"), "Enabled" | "IfPossible") {
        return;
    }
    let path = path.child("recursiveReadOnly");
    if at(mount, "readOnly") != true {
        errors.push(Error::forbidden(path.clone(), "may only be specified when readOnly is true"));
    }
    if !matches!(text(mount, "mountPropagation"), "" | "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.push(Error::forbidden(path, detail));
    }
}

pub(super) fn check_devices(errors: &mut ErrorList, container: &Value, volumes: &Volumes<'_>, path: &Path) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    let mounts = list(container, "volumeMounts");
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = path.index(index);
        if !names.insert(text(device, "name")) {
            errors.push(Error::invalid(path.child("name"), text(device, "name"), "must be unique"));
        }
        if let Some(name) = required(errors, device, &path, "name") {
            match volumes.get(name) {
                None => errors.push(Error::not_found(path.child("name"), name)),
                Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                    let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    errors.push(Error::invalid(path.child("name"), name, detail));
                }
                Some(_) => {}
            }
        }
        if mounts.iter().any(|m| text(m, "name") == text(device, "name")) {
            let detail = "must not already exist in volumeMounts";
            errors.push(Error::invalid(path.child("name"), text(device, "name"), detail));
        }
        let Some(place) = required(errors, device, &path, "devicePath") else { continue };
        let mut wrong = |detail: &str| errors.push(Error::invalid(path.child("devicePath"), place, detail));
        if !paths.insert(place) {
            wrong("must be unique");
        }
        if place.contains("..") {
            wrong("can not contain backsteps ('..')");
        } else if mounts.iter().any(|m| text(m, "mountPath") == place) {
            wrong("must not already exist as a path in volumeMounts");
        }
    }
}
