//! Containers: init, main and ephemeral.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::claims::check_used_claims;
use super::env::{check_env, check_env_from};
use super::ports::{check_host_port_conflicts, check_ports};
use super::probes::{check_lifecycle, check_probe};
use super::resources::check_requirements;
use super::restart::check_restart;
use super::security::check_container_security;
use super::volumes::{check_devices, check_mounts};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{dns_label_problems, report, required, required_one_of};
use crate::kinds::json::{at, has, int, list, list_mut, text};

/// The volumes of a pod, by name, with their source.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// Where a pod keeps its containers, in the order in which they start.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Does something to all containers of a pod's spec.
pub(crate) fn all_containers_mut(spec: &mut Value, mut change: impl FnMut(&mut Value)) {
    for key in LISTS {
        list_mut(spec, key).iter_mut().for_each(&mut change);
    }
}

pub(super) fn check_containers(
    errors: &mut ErrorList,
    spec: &Value,
    volumes: &Volumes<'_>,
    claims: &BTreeSet<&str>,
    path: &Path,
) {
    if list(spec, "containers").is_empty() {
        errors.push(Error::required(path.child("containers"), ""));
    }
    let mut names = BTreeSet::new();
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in list(spec, key).iter().enumerate() {
            let path = path.child(key).index(index);
            check_common(errors, container, volumes, &path);
            check_used_claims(errors, container, claims, &path);
            check_resize(errors, container, text(spec, "restartPolicy"), &path.child("resizePolicy"));
            let name = text(container, "name");
            if !name.is_empty() && !names.insert(name) {
                errors.push(Error::duplicate(path.child("name"), name));
            }
            match key {
                "containers" => check_main(errors, container, grace(spec), &path),
                "initContainers" => check_init(errors, container, grace(spec), &path),
                _ => check_ephemeral(errors, container, spec, &path),
            }
        }
    }
    check_host_port_conflicts(errors, list(spec, "containers"), &path.child("containers"));
    // Init containers run one by one, and may use the same port one after the other.
    for container in list(spec, "initContainers") {
        check_host_port_conflicts(errors, std::slice::from_ref(container), &path.child("initContainers"));
    }
}

/// How long the pod has to end, in seconds.
fn grace(spec: &Value) -> i64 {
    int(spec, "terminationGracePeriodSeconds").unwrap_or_default()
}

/// What pods are held to and templates are not: they were not, once.
pub(crate) fn check_images_of_pod(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in list(spec, key).iter().enumerate() {
            let image = text(container, "image");
            if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                errors.push(Error::invalid(path.child(key).index(index).child("image"), image, detail));
            }
        }
    }
    for (index, volume) in list(spec, "volumes").iter().enumerate().filter(|(_, volume)| has(volume, "image")) {
        required(errors, at(volume, "image"), &path.child("volumes").index(index).child("image"), "reference");
    }
}

/// What all sorts of containers have in common.
fn check_common(errors: &mut ErrorList, container: &Value, volumes: &Volumes<'_>, path: &Path) {
    if let Some(name) = required(errors, container, path, "name") {
        report(errors, &path.child("name"), name, dns_label_problems(name));
    }
    required(errors, container, path, "image");
    required_one_of(errors, container, path, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"]);
    check_ports(errors, list(container, "ports"), &path.child("ports"));
    check_env(errors, container, &path.child("env"));
    check_env_from(errors, container, &path.child("envFrom"));
    check_mounts(errors, container, volumes, &path.child("volumeMounts"));
    check_devices(errors, container, volumes, &path.child("volumeDevices"));
    required_one_of(errors, container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
    check_requirements(errors, at(container, "resources"), &path.child("resources"));
    check_container_security(errors, at(container, "securityContext"), &path.child("securityContext"));
}

/// What a change of a resource means to the running container.
fn check_resize(errors: &mut ErrorList, container: &Value, pod_policy: &str, path: &Path) {
    let mut seen = BTreeSet::new();
    for rule in list(container, "resizePolicy") {
        let (resource, policy) = (text(rule, "resourceName"), text(rule, "restartPolicy"));
        if !seen.insert(resource) {
            errors.push(Error::duplicate(path.clone(), resource));
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.push(Error::required(path.clone(), "")),
            _ => errors.push(Error::not_supported(path.clone(), resource, &["cpu", "memory"])),
        }
        match policy {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.push(Error::required(path.clone(), "")),
            _ => errors.push(Error::not_supported(path.clone(), policy, &["NotRequired", "RestartContainer"])),
        }
        if pod_policy == "Never" && policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(Error::invalid(path.clone(), policy, detail));
        }
    }
}

fn check_main(errors: &mut ErrorList, container: &Value, grace_s: i64, path: &Path) {
    check_lifecycle(errors, at(container, "lifecycle"), grace_s, &path.child("lifecycle"));
    check_all_probes(errors, container, path);
    check_restart(errors, container, path);
}

fn check_all_probes(errors: &mut ErrorList, container: &Value, path: &Path) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = at(container, key);
        let path = path.child(key);
        check_probe(errors, probe, &path);
        if has(probe, "successThreshold") && key != "readinessProbe" && at(probe, "successThreshold") != 1 {
            let threshold = at(probe, "successThreshold").clone();
            errors.push(Error::invalid(path.child("successThreshold"), threshold, "must be 1"));
        }
        if key == "readinessProbe" && has(probe, "terminationGracePeriodSeconds") {
            let seconds = at(probe, "terminationGracePeriodSeconds").clone();
            let detail = "must not be set for readinessProbes";
            errors.push(Error::invalid(path.child("terminationGracePeriodSeconds"), seconds, detail));
        }
    }
}

/// Init containers that do not stay (sidecars do, with `restartPolicy: Always`) are not probed.
fn check_init(errors: &mut ErrorList, container: &Value, grace_s: i64, path: &Path) {
    if text(container, "restartPolicy") == "Always" {
        return check_main(errors, container, grace_s, path);
    }
    check_restart(errors, container, path);
    if has(container, "lifecycle") {
        let detail = "may not be set for init containers without restartPolicy=Always";
        errors.push(Error::forbidden(path.child("lifecycle"), detail));
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, key) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(Error::forbidden(path.child(key), detail));
        }
    }
}

fn check_ephemeral(errors: &mut ErrorList, container: &Value, spec: &Value, path: &Path) {
    let target = text(container, "targetContainerName");
    let known =
        ["containers", "initContainers"].into_iter().flat_map(|k| list(spec, k)).any(|c| text(c, "name") == target);
    if !target.is_empty() && !known {
        errors.push(Error::not_found(path.child("targetContainerName"), target));
    }
    let keys = [
        "ports",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "restartPolicy",
        "restartPolicyRules",
        "resizePolicy",
    ];
    for key in keys {
        let value = at(container, key);
        if !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()) {
            errors.push(Error::forbidden(path.child(key), "cannot be set for an Ephemeral Container"));
        }
    }
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        for key in ["subPath", "subPathExpr"] {
            if !text(mount, key).is_empty() {
                let path = path.child("volumeMounts").index(index).child(key);
                errors.push(Error::forbidden(path, "cannot be set for an Ephemeral Container"));
            }
        }
    }
    if at(container, "resources").as_object().is_some_and(|r| !r.is_empty()) {
        errors.push(Error::forbidden(path.child("resources"), "cannot be set for an Ephemeral Container"));
    }
}
