//! The claims of a StatefulSet's pods: each number has its own, and keeps them (upstream `stateful_set_utils.go`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::identity::pod_name;
use crate::runtime::kind;
use crate::runtime::meta::{Meta, OwnerReference};
use crate::runtime::plan::{Action, Report, Write};
use crate::views::{PersistentVolumeClaim, Pod, StatefulSet};

fn claim_name(template: &Value, set: &StatefulSet, number: i32) -> String {
    format!("{}-{}-{number}", template["metadata"]["name"].as_str().unwrap_or_default(), set.metadata.name)
}

/// The pod's volumes of the templates' names are its own claims.
pub(super) fn mount(set: &StatefulSet, number: i32, spec: &mut Value) {
    if set.spec.volume_claim_templates.is_empty() {
        return;
    }
    let name_of = |volume: &Value| volume["name"].as_str().unwrap_or_default().to_owned();
    let mut volumes: Vec<Value> = set
        .spec
        .volume_claim_templates
        .iter()
        .map(|template| {
            json!({"name": template["metadata"]["name"], "persistentVolumeClaim": {
                "claimName": claim_name(template, set, number)}})
        })
        .collect();
    let own: Vec<String> = volumes.iter().map(name_of).collect();
    let others = spec["volumes"].as_array().into_iter().flatten().filter(|volume| !own.contains(&name_of(volume)));
    volumes.extend(others.cloned());
    spec["volumes"] = volumes.into();
}

/// The claims that a number lacks.
pub(super) fn missing(set: &StatefulSet, number: i32, known: &[Arc<PersistentVolumeClaim>]) -> Vec<Action> {
    let mut actions = Vec::new();
    for template in &set.spec.volume_claim_templates {
        let name = claim_name(template, set, number);
        if known.iter().any(|claim| claim.metadata.name == name) {
            continue;
        }
        let mut metadata = json!({"name": name, "namespace": set.metadata.namespace});
        let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.extend(set.spec.selector.match_labels.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))));
        metadata["labels"] = labels.into();
        if !template["metadata"]["annotations"].is_null() {
            metadata["annotations"] = template["metadata"]["annotations"].clone();
        }
        if set.spec.persistent_volume_claim_retention_policy.when_deleted == "Delete" {
            metadata["ownerReferences"] = json!([set.metadata.as_controller(&kind::STATEFUL_SET)]);
        }
        let body = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": template["spec"]});
        let pod = pod_name(&set.metadata.name, number);
        let about = format!("create Claim {name} Pod {pod} in StatefulSet {}", set.metadata.name);
        let report = Report {
            regarding: set.metadata.reference(&kind::STATEFUL_SET),
            success: Some(("SuccessfulCreate", format!("{about} success"))),
            failure: Some(("FailedCreate", format!("{about} failed error: "))),
        };
        let write = Write::create(&kind::PERSISTENT_VOLUME_CLAIM, &set.metadata.namespace, body);
        actions.push(write.reported(report).accept_existing().into());
    }
    actions
}

/// Who owns the claims of a number, so that they go with it.
pub(super) fn owners(
    set: &StatefulSet,
    number: i32,
    pod: &Pod,
    wanted: bool,
    known: &[Arc<PersistentVolumeClaim>],
) -> Vec<Action> {
    let policy = &set.spec.persistent_volume_claim_retention_policy;
    let goes_with_pod = policy.when_scaled == "Delete" && !wanted;
    let goes_with_set = policy.when_deleted == "Delete" && !goes_with_pod;
    let names: Vec<String> =
        set.spec.volume_claim_templates.iter().map(|template| claim_name(template, set, number)).collect();
    let own = known.iter().filter(|claim| names.contains(&claim.metadata.name) && !claim.metadata.is_terminating());
    own.filter_map(|claim| {
        let before = &claim.metadata.owner_references;
        let mut after: Vec<OwnerReference> = before
            .iter()
            .filter(|owner| owner.uid != set.metadata.uid && !(owner.kind == "Pod" && owner.name == pod.metadata.name))
            .cloned()
            .collect();
        if goes_with_set {
            after.push(kept(before, &set.metadata).unwrap_or_else(|| set.metadata.as_controller(&kind::STATEFUL_SET)));
        }
        if goes_with_pod {
            let reference = OwnerReference {
                controller: None,
                block_owner_deletion: None,
                ..pod.metadata.as_controller(&kind::POD)
            };
            after.push(kept(before, &pod.metadata).unwrap_or(reference));
        }
        (after != *before).then(|| {
            let after = if after.is_empty() { Value::Null } else { json!(after) };
            let patch = json!({"metadata": {"ownerReferences": after}});
            Write::merge_exact(&kind::PERSISTENT_VOLUME_CLAIM, &claim.metadata, "", patch).into()
        })
    })
    .collect()
}

/// The reference to an owner, as it is written already.
fn kept(references: &[OwnerReference], owner: &Meta) -> Option<OwnerReference> {
    references.iter().find(|reference| reference.uid == owner.uid).cloned()
}
