//! A pod's defaults: what `kubectl get -o yaml` shows of a manifest that did not say.

use serde_json::{Map, Value, json};

use super::all_containers_mut;
use super::resources::canonical_quantities;
use crate::kinds::json::{
    at, default_int, default_text, default_to, has, list_mut, object_mut, set, text, truth, within,
};

/// Defaults of a pod's spec, in a pod and in a template alike.
pub(crate) fn default_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default_to(spec, "securityContext", json!({}));
    default_to(spec, "terminationGracePeriodSeconds", 30);
    mirror_service_account(spec);
    list_mut(spec, "volumes").iter_mut().for_each(default_volume);
    all_containers_mut(spec, default_container);
    if let Some(overhead) = spec.get_mut("overhead") {
        canonical_quantities(overhead);
    }
}

/// Defaults of a pod that a template's spec does not get.
pub(crate) fn default_pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    default_spec(spec);
    default_to(spec, "enableServiceLinks", true);
    let host_network = truth(spec, "hostNetwork");
    all_containers_mut(spec, |container| {
        requests_from_limits(container);
        if host_network {
            list_mut(container, "ports").iter_mut().for_each(default_host_port);
        }
    });
}

/// `serviceAccount` is the old name of `serviceAccountName`: either sets both.
fn mirror_service_account(spec: &mut Value) {
    let (new, old) = (text(spec, "serviceAccountName").to_owned(), text(spec, "serviceAccount").to_owned());
    match (new.as_str(), old.as_str()) {
        ("", "") => {}
        ("", name) => set(spec, "serviceAccountName", name),
        (name, _) => set(spec, "serviceAccount", name),
    }
}

fn default_host_port(port: &mut Value) {
    if let Some(number) = at(port, "containerPort").as_i64() {
        default_int(port, "hostPort", number);
    }
}

/// What is limited and not requested is requested to its limit.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = at(container, "resources.limits").as_object().filter(|l| !l.is_empty()).cloned() else { return };
    let Some(resources) = object_mut(container, "resources") else { return };
    let requests = resources.entry("requests").or_insert_with(|| Value::Object(Map::new()));
    for (name, quantity) in limits {
        default_to(requests, &name, quantity);
    }
}

fn default_container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        default_text(container, "imagePullPolicy", policy);
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    for port in list_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(key) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            default_http_get(get);
        }
    }
    for variable in list_mut(container, "env") {
        if let Some(source) = variable.get_mut("valueFrom") {
            default_downward(source);
        }
    }
    for key in ["limits", "requests"] {
        if let Some(quantities) = container.pointer_mut(&format!("/resources/{key}")) {
            canonical_quantities(quantities);
        }
    }
}

/// `Always` for what moves (no tag, or `latest`), else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn default_probe(probe: &mut Value) {
    default_int(probe, "timeoutSeconds", 1);
    default_int(probe, "periodSeconds", 10);
    default_int(probe, "successThreshold", 1);
    default_int(probe, "failureThreshold", 3);
    if let Some(get) = probe.get_mut("httpGet") {
        default_http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        default_to(grpc, "service", "");
    }
}

fn default_http_get(get: &mut Value) {
    default_text(get, "path", "/");
    default_text(get, "scheme", "HTTP");
}

/// The `fieldRef` and `resourceFieldRef` of a variable or of a downward API file.
fn default_downward(source: &mut Value) {
    if let Some(field) = source.get_mut("fieldRef") {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = source.get_mut("resourceFieldRef") {
        default_to(resource, "divisor", "0");
    }
}

fn default_volume(volume: &mut Value) {
    let Some(object) = volume.as_object_mut() else { return };
    if object.iter().all(|(key, value)| key == "name" || value.is_null()) {
        object.insert("emptyDir".to_owned(), json!({}));
    }
    const MODE: i64 = 0o644;
    for key in ["configMap", "secret", "downwardAPI", "projected"] {
        if has(volume, key) {
            within(volume, key, |v| default_to(v, "defaultMode", MODE));
        }
    }
    if has(volume, "image") {
        within(volume, "image", |image| {
            let reference = text(image, "reference").to_owned();
            // In a template it may not be known yet.
            let policy = if reference.is_empty() { "IfNotPresent" } else { pull_policy(&reference) };
            default_text(image, "pullPolicy", policy);
        });
    }
    if has(volume, "hostPath") {
        within(volume, "hostPath", |v| default_to(v, "type", ""));
    }
    list_mut(volume, "downwardAPI.items").iter_mut().for_each(default_downward);
    for source in list_mut(volume, "projected.sources") {
        if has(source, "serviceAccountToken") {
            within(source, "serviceAccountToken", |v| default_to(v, "expirationSeconds", 3600));
        }
        list_mut(source, "downwardAPI.items").iter_mut().for_each(default_downward);
    }
    if let Some(limit) = volume.pointer_mut("/emptyDir").filter(|v| v.get("sizeLimit").is_some()) {
        super::resources::canonical_quantity(limit, "sizeLimit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_goes_by_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("127.0.0.1:5000/nginx", "Always"),
            ("127.0.0.1:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
