//! ReplicaSets as revisions: names, annotations, history.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Rollout;
use crate::runtime::kind;
use crate::runtime::plan::{Action, Write};
use crate::views::ReplicaSet;

/// Which revision of the deployment a set is; on the deployment, which one it is at.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const HASH_LABEL: &str = "pod-template-hash";

/// The deployment's annotations that its sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The longest revision history that is kept, in bytes.
const MAX_HISTORY_BYTES: usize = 2000;

/// A template in the form in which two are compared: without the hash label, and without what is null or empty.
pub(super) fn comparable(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    strip(&template).unwrap_or_default()
}

fn strip(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let kept: serde_json::Map<_, _> = fields.iter().filter_map(|(k, v)| Some((k.clone(), strip(v)?))).collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(Value::Array(items.iter().map(|v| strip(v).unwrap_or_default()).collect())),
        other => Some(other.clone()),
    }
}

/// The hash by which a template's ReplicaSet is named: FNV-1a over the template's canonical JSON and the collision
/// count, in the alphabet of generated names.
pub fn template_hash(template: &Value, collisions: Option<i32>) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    canonical(&comparable(template), &mut feed);
    if let Some(count) = collisions {
        feed(&count.to_le_bytes());
    }
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// Feeds a value with its keys in order, however the map keeps them.
fn canonical(value: &Value, feed: &mut impl FnMut(&[u8])) {
    match value {
        Value::Object(fields) => {
            feed(b"{");
            for (key, value) in fields.iter().collect::<BTreeMap<_, _>>() {
                feed(key.as_bytes());
                feed(b":");
                canonical(value, feed);
            }
            feed(b"}");
        }
        Value::Array(items) => {
            feed(b"[");
            for item in items {
                canonical(item, feed);
                feed(b",");
            }
            feed(b"]");
        }
        scalar => feed(scalar.to_string().as_bytes()),
    }
}

fn of(set: &ReplicaSet) -> i64 {
    set.metadata.annotations.get(REVISION).and_then(|r| r.parse().ok()).unwrap_or_default()
}

/// The revision that the new set is, or is to become.
pub(super) fn next(rollout: &Rollout<'_>) -> i64 {
    rollout.old.iter().map(|s| of(s)).max().unwrap_or_default() + 1
}

/// Annotations that the new set is to get, beyond those that it has (`existing`).
fn annotations(rollout: &Rollout<'_>, existing: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = rollout
        .deployment
        .metadata
        .annotations
        .iter()
        .filter(|(k, v)| !NOT_COPIED.contains(&k.as_str()) && existing.get(*k) != Some(*v))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let next = next(rollout);
    let current = existing.get(REVISION);
    let number = current.and_then(|r| r.parse::<i64>().ok()).unwrap_or_default();
    if number < next {
        wanted.insert(REVISION.into(), next.to_string());
        if let Some(current) = current {
            let history = existing.get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
            wanted.insert(REVISION_HISTORY.into(), append_history(history, current));
        }
    }
    wanted
}

fn append_history(history: &str, revision: &str) -> String {
    let mut revisions: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
    revisions.push(revision);
    while revisions.iter().map(|r| r.len() + 1).sum::<usize>() > MAX_HISTORY_BYTES {
        revisions.remove(0);
    }
    revisions.join(",")
}

/// The annotations that tell how many pods the deployment wanted when the set was last scaled.
pub(super) fn size_annotations(rollout: &Rollout<'_>) -> [(&'static str, String); 2] {
    let wanted = rollout.deployment.replicas();
    [(DESIRED_REPLICAS, wanted.to_string()), (MAX_REPLICAS, (wanted + rollout.max_surge()).to_string())]
}

/// The new set, as it is created.
pub(super) fn new_set(rollout: &Rollout<'_>, replicas: i32) -> Value {
    let deployment = rollout.deployment;
    let mut template = deployment.spec.template.value();
    let hash = template_hash(&template, deployment.status.collision_count);
    template["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
    let mut match_labels = deployment.spec.selector.match_labels.clone();
    match_labels.insert(HASH_LABEL.into(), hash.clone());
    let mut selector = json!({"matchLabels": match_labels});
    if !deployment.spec.selector.match_expressions.is_empty() {
        let expressions = deployment.spec.selector.match_expressions.iter();
        selector["matchExpressions"] = expressions
            .map(|r| {
                let mut requirement = json!({"key": r.key, "operator": r.operator});
                if !r.values.is_empty() {
                    requirement["values"] = json!(r.values);
                }
                requirement
            })
            .collect();
    }
    let mut annotations = annotations(rollout, &BTreeMap::new());
    for (key, value) in size_annotations(rollout) {
        annotations.insert(key.into(), value);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", deployment.metadata.name),
            "namespace": deployment.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [deployment.metadata.as_controller(&kind::DEPLOYMENT)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    })
}

/// If the new set is there, but its annotations or the deployment's are not as they should be: the writes that make
/// them so.
pub(super) fn bring_up_to_date(rollout: &Rollout<'_>) -> Option<Vec<Action>> {
    let new = rollout.new?;
    let deployment = rollout.deployment;
    let mut actions: Vec<Action> = Vec::new();
    let annotations = annotations(rollout, &new.metadata.annotations);
    if !annotations.is_empty() || new.spec.min_ready_seconds != deployment.spec.min_ready_seconds {
        let mut patch = json!({"metadata": {"annotations": annotations}});
        if new.spec.min_ready_seconds != deployment.spec.min_ready_seconds {
            patch["spec"] = json!({"minReadySeconds": deployment.spec.min_ready_seconds});
        }
        actions.push(Write::merge_exact(&kind::REPLICA_SET, &new.metadata, "", patch).into());
    }
    let revision = annotations.get(REVISION).or_else(|| new.metadata.annotations.get(REVISION));
    if let Some(revision) = revision
        && deployment.metadata.annotations.get(REVISION) != Some(revision)
    {
        let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
        actions.push(Write::merge(&kind::DEPLOYMENT, &deployment.metadata, "", patch).into());
    }
    (!actions.is_empty()).then_some(actions)
}

/// Deletes old sets beyond the history limit.
pub(super) fn clean_up(rollout: &Rollout<'_>) -> Vec<Action> {
    let Some(limit) = rollout.deployment.spec.revision_history_limit else { return Vec::new() };
    let mut alive: Vec<&ReplicaSet> = rollout.old.iter().copied().filter(|s| !s.metadata.is_terminating()).collect();
    let Some(excess) = alive.len().checked_sub(usize::try_from(limit).unwrap_or_default()) else {
        return Vec::new();
    };
    alive.sort_by_key(|s| (of(s), s.metadata.creation_timestamp));
    alive[..excess]
        .iter()
        .filter(|s| {
            s.status.replicas == 0 && s.replicas() == 0 && s.metadata.generation <= s.status.observed_generation
        })
        .map(|s| Write::delete(&kind::REPLICA_SET, &s.metadata).into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_content_alone() {
        let a = json!({"metadata": {"labels": {"a": "1", "pod-template-hash": "x"}}, "spec": {"b": 1, "c": null}});
        let b = json!({"spec": {"c": [], "b": 1}, "metadata": {"labels": {"a": "1"}, "creationTimestamp": null}});
        assert_eq!(template_hash(&a, None), template_hash(&b, None));
        assert_ne!(template_hash(&a, None), template_hash(&a, Some(1)));
        assert_ne!(template_hash(&a, None), template_hash(&json!({"spec": {"b": 2}}), None));
    }

    #[test]
    fn history_is_cut_at_its_beginning() {
        assert_eq!(append_history("1,3", "5"), "1,3,5");
        let long = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let cut = append_history(&long, "last");
        assert!(cut.len() <= MAX_HISTORY_BYTES && cut.ends_with("999,last"));
    }
}
