//! Stateful sets (`pkg/apis/apps`).

use serde_json::{Value, json};

use super::checks::{at_most_all, int_or_percent, not_negative, one_of, required_one_of};
use super::deployment::{check_owner_of_pods, is_none, template_warnings};
use super::json::{at, carry_over, default_text, default_to, int, list, list_mut, object_mut, same, set, text, within};
use super::{keep_status, pod_spec};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: |object| set(object, "status", json!({ "replicas": 0, "availableReplicas": 0 })),
    prepare_update: keep_status,
    validate,
    validate_update,
    validate_status: |new, _| check_status(new),
    warnings: template_warnings,
    generation: true,
    ..PLAIN
};

fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    default_text(spec, "podManagementPolicy", "OrderedReady");
    default_to(spec, "updateStrategy", json!({}));
    within(spec, "updateStrategy", default_strategy);
    default_to(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
    within(spec, "persistentVolumeClaimRetentionPolicy", |v| default_text(v, "whenDeleted", "Retain"));
    within(spec, "persistentVolumeClaimRetentionPolicy", |v| default_text(v, "whenScaled", "Retain"));
    for claim in list_mut(spec, "volumeClaimTemplates") {
        if let Some(spec) = claim.get_mut("spec") {
            default_text(spec, "volumeMode", "Filesystem");
        }
    }
    if let Some(template) = spec.get_mut("template") {
        pod_spec::default_template(template);
    }
}

fn default_strategy(strategy: &mut Value) {
    default_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        default_to(strategy, "rollingUpdate", json!({}));
        within(strategy, "rollingUpdate", |v| default_to(v, "partition", 0));
    }
}

fn validate(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(object, "spec"), Path::new("spec"));
    required_one_of(&mut errors, spec, &path, "podManagementPolicy", &["OrderedReady", "Parallel"]);
    let (strategy, at_strategy) = (at(spec, "updateStrategy"), path.child("updateStrategy"));
    required_one_of(&mut errors, strategy, &at_strategy, "type", &["OnDelete", "RollingUpdate"]);
    check_rolling(&mut errors, strategy, &at_strategy.child("rollingUpdate"));
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit", "ordinals.start"] {
        not_negative(&mut errors, spec, &path, key);
    }
    let (policy, at_policy) =
        (at(spec, "persistentVolumeClaimRetentionPolicy"), path.child("persistentVolumeClaimRetentionPolicy"));
    for key in ["whenDeleted", "whenScaled"] {
        one_of(&mut errors, policy, &at_policy, key, &["Delete", "Retain"]);
    }
    check_owner_of_pods(&mut errors, &with_claims(spec), "statefulset", "StatefulSet", &path);
    errors
}

fn check_rolling(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    let rolling = at(strategy, "rollingUpdate");
    if text(strategy, "type") == "OnDelete" && !rolling.is_null() {
        let detail = "only allowed for updateStrategy 'RollingUpdate'";
        errors.push(Error::invalid(path.clone(), rolling.clone(), detail));
        return;
    }
    not_negative(errors, rolling, path, "partition");
    let (unavailable, path) = (at(rolling, "maxUnavailable"), path.child("maxUnavailable"));
    if !unavailable.is_null() {
        int_or_percent(errors, &path, unavailable);
        if is_none(unavailable) {
            errors.push(Error::invalid(path.clone(), unavailable.clone(), "cannot be 0"));
        }
        at_most_all(errors, &path, unavailable);
    }
}

/// The counts of a status: not negative, and none greater than what it is part of.
fn check_status(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (status, path) = (at(object, "status"), Path::new("status"));
    let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    for key in ["replicas"].into_iter().chain(parts).chain(["observedGeneration", "collisionCount"]) {
        not_negative(&mut errors, status, &path, key);
    }
    let count = |key: &str| int(status, key).unwrap_or_default();
    let whole = parts.map(|part| (part, "replicas"));
    for (part, whole) in whole.into_iter().chain([("availableReplicas", "readyReplicas")]) {
        if count(part) > count(whole) {
            let detail = format!("cannot be greater than status.{whole}");
            errors.push(Error::invalid(path.child(part), count(part), detail));
        }
    }
    errors
}

/// The spec with the volumes that its pods will have for their claims, which containers may mount.
fn with_claims(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims = list(&spec, "volumeClaimTemplates").iter();
    let names: Vec<String> = claims.map(|claim| text(claim, "metadata.name").to_owned()).collect();
    if let Some(pod) = object_mut(&mut spec, "template.spec") {
        let mut volumes = pod.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        let has = |volumes: &[Value], name: &str| volumes.iter().any(|volume| text(volume, "name") == name);
        for name in names {
            if !has(&volumes, &name) {
                volumes.push(json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
            }
        }
        pod.insert("volumes".to_owned(), volumes.into());
    }
    spec
}

/// What an update of the spec may set.
const MAY_CHANGE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    let (mut spec, before) = (at(new, "spec").clone(), at(old, "spec"));
    for key in MAY_CHANGE {
        carry_over(&mut spec, before, key);
    }
    if !same(&spec, before) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                      'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                      'minReadySeconds' are forbidden";
        errors.push(Error::forbidden(Path::new("spec"), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_mount_what_is_claimed_for_them() {
        let mut set = json!({ "spec": {
            "serviceName": "db", "selector": { "matchLabels": { "a": "b" } },
            "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [
                { "name": "c", "image": "i", "volumeMounts": [{ "name": "data", "mountPath": "/data" }] },
            ] } },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
        } });
        (STRATEGY.default)(&mut set);
        assert!(validate(&set).is_empty(), "{:?}", validate(&set));
        set["spec"]["volumeClaimTemplates"] = json!([]);
        let errors: Vec<String> = validate(&set).iter().map(ToString::to_string).collect();
        assert!(errors.len() == 1 && errors[0].contains("volumeMounts[0].name"), "{errors:?}");
    }
}
