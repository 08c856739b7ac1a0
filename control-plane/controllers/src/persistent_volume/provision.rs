//! Volumes that are made for claims: directories of nodes. The pod's node is chosen first, so the class waits for it; the
//! agent makes the directory when the volume is mounted, and removes it when the controller says so.

use serde_json::{Value, json};

use super::claim::View;
use super::{BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE};
use crate::runtime::kind;
use crate::runtime::plan::{Note, Plan, Write};
use crate::views::{Node, PersistentVolume};

/// Who makes these volumes.
pub const PROVISIONER: &str = "xebec.io/local-path";
/// The class of them that every cluster has.
pub const CLASS: &str = "local-path";
/// Where a node keeps them: an annotation of the node.
pub const DIRECTORY: &str = "xebec.io/local-volumes";
/// Keeps a volume until its directory is removed.
pub const FINALIZER: &str = "xebec.io/local-path";
/// What the nodes that can reach a volume are called.
const HOST_NAME: &str = "kubernetes.io/hostname";

/// The class, as it is made in a new cluster.
pub fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// Makes the volume of a claim that waits for one of ours. `node` is the one that the scheduler has selected, if it exists.
pub fn plan_provision(view: &View<'_>, node: Option<&Node>) -> Plan {
    let (mut plan, claim) = (Plan::nothing(), view.claim);
    let Some(class) = view.class().filter(|class| class.provisioner == PROVISIONER) else { return plan };
    let meta = &claim.metadata;
    let wanted = claim.spec.volume_name.is_empty() && !meta.is_terminating();
    let name = format!("pvc-{}", meta.uid);
    if !wanted || view.volumes.iter().any(|volume| volume.metadata.name == name || volume.is_for(claim)) {
        return plan;
    }
    let regarding = meta.reference(&kind::PERSISTENT_VOLUME_CLAIM);
    let Some(selected) = meta.annotations.get(SELECTED_NODE) else {
        if !class.waits() {
            let why = "the volumes of this provisioner are directories of nodes: the class must have \
                       volumeBindingMode WaitForFirstConsumer";
            plan.act(failed(view, why));
        }
        return plan;
    };
    let directory = match refusal(view, node) {
        Ok(directory) => directory,
        Err(Refused::NodeGone) => {
            // The scheduler chooses anew.
            let patch = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
            plan.act(Write::merge_exact(&kind::PERSISTENT_VOLUME_CLAIM, meta, "", patch).into());
            plan.act(failed(view, &format!("node {selected:?} not found")));
            return plan;
        }
        Err(Refused::Never(why)) => {
            plan.act(failed(view, &why));
            return plan;
        }
    };
    let host = node.and_then(|node| node.metadata.labels.get(HOST_NAME)).unwrap_or(selected);
    let path = format!("{}/{name}_{}_{}", directory.trim_end_matches('/'), meta.namespace, meta.name);
    let body = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: PROVISIONER, BOUND_BY_CONTROLLER: "yes"},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": {"storage": claim.spec.resources.requests.get("storage")},
            "accessModes": claim.spec.access_modes,
            "volumeMode": "Filesystem",
            "storageClassName": class.metadata.name,
            "persistentVolumeReclaimPolicy": class.reclaim_policy,
            "mountOptions": class.mount_options,
            "claimRef": regarding,
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOST_NAME, "operator": "In", "values": [host]}]}]}},
        },
    });
    plan.act(Write::create(&kind::PERSISTENT_VOLUME, "", body).accept_existing().into());
    let message = format!("Successfully provisioned volume {name} using {PROVISIONER}");
    plan.act(Note::normal(regarding, "ProvisioningSucceeded", message).into());
    plan
}

enum Refused {
    /// The selected node does not exist any more.
    NodeGone,
    /// It would be the same on every node.
    Never(String),
}

/// Where the directory goes, or why there is to be none.
fn refusal<'a>(view: &View<'_>, node: Option<&'a Node>) -> Result<&'a str, Refused> {
    let spec = &view.claim.spec;
    let never = |why: &str| Err(Refused::Never(why.to_owned()));
    if let Some(mode) = spec.access_modes.iter().find(|m| !matches!(m.as_str(), "ReadWriteOnce" | "ReadWriteOncePod")) {
        return never(&format!(
            "{mode} is not supported: a directory of a node can be had by the pods of that node only"
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return never("volumeMode Block is not supported");
    }
    if spec.selector.is_some() {
        return never("claim Selector is not supported");
    }
    if spec.data_source_ref.is_some() {
        return never("dataSource is not supported");
    }
    let Some(node) = node else { return Err(Refused::NodeGone) };
    match node.metadata.annotations.get(DIRECTORY) {
        Some(directory) if directory.starts_with('/') => Ok(directory),
        _ => never(&format!("node {:?} keeps no volumes: it has no annotation {DIRECTORY}", node.metadata.name)),
    }
}

fn failed(view: &View<'_>, why: &str) -> crate::runtime::plan::Action {
    let regarding = view.claim.metadata.reference(&kind::PERSISTENT_VOLUME_CLAIM);
    let message = format!("failed to provision volume with StorageClass {:?}: {why}", view.claim.class());
    Note::warning(regarding, "ProvisioningFailed", message).into()
}

/// The one host that can reach a volume of ours.
pub(super) fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let terms = &volume.spec.node_affinity.required.as_ref()?.node_selector_terms;
    let on_host = terms.iter().flat_map(|term| &term.match_expressions).find(|r| r.key == HOST_NAME)?;
    on_host.values.first().map(String::as_str)
}
