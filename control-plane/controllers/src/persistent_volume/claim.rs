//! What is to become of a claim (upstream `syncClaim`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::matching::{find, mismatch};
use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE};
use crate::runtime::kind;
use crate::runtime::meta::ObjectReference;
use crate::runtime::plan::{Note, Plan, Write};
use crate::views::{PersistentVolume, PersistentVolumeClaim, Pod, StorageClass};

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// All classes.
    pub classes: &'a [Arc<StorageClass>],
    /// The pods of the claim's namespace.
    pub pods: &'a [Arc<Pod>],
}

impl View<'_> {
    /// The claim's class.
    pub fn class(&self) -> Option<&StorageClass> {
        let name = self.claim.class();
        self.classes.iter().find(|class| !name.is_empty() && class.metadata.name == name).map(Arc::as_ref)
    }

    /// Whether the claim waits until it is known where its pod will be.
    fn waits(&self) -> bool {
        self.class().is_some_and(StorageClass::waits) && !self.claim.metadata.annotations.contains_key(SELECTED_NODE)
    }

    fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.iter().find(|volume| volume.metadata.name == name)
    }

    fn note(&self, warning: bool, reason: &str, message: impl Into<String>) -> Note {
        let regarding = self.claim.metadata.reference(&kind::PERSISTENT_VOLUME_CLAIM);
        if warning { Note::warning(regarding, reason, message) } else { Note::normal(regarding, reason, message) }
    }
}

/// Brings a claim closer to a volume.
pub fn plan_claim(view: &View<'_>) -> Plan {
    let claim = view.claim;
    if claim.metadata.annotations.contains_key(BIND_COMPLETED) { bound(view) } else { unbound(view) }
}

fn unbound(view: &View<'_>) -> Plan {
    let (mut plan, claim) = (Plan::nothing(), view.claim);
    if claim.spec.volume_name.is_empty() {
        if let Some(default) = default_class(view) {
            let patch = json!({"spec": {"storageClassName": default}});
            plan.act(Write::merge_exact(&kind::PERSISTENT_VOLUME_CLAIM, &claim.metadata, "", patch).into());
            return plan;
        }
        return match find(claim, view.volumes, None, view.waits(), &|_| false) {
            Some(volume) => bind(view, volume),
            None => without_volume(view),
        };
    }
    let Some(volume) = view.volume(&claim.spec.volume_name) else {
        pending(view, &mut plan);
        return plan;
    };
    if volume.spec.claim_ref.is_none() {
        return match mismatch(claim, volume) {
            None => bind(view, volume),
            Some(why) => {
                let message = format!("Cannot bind to requested volume {:?}: {why}", volume.metadata.name);
                plan.act(view.note(true, "VolumeMismatch", message).into());
                pending(view, &mut plan);
                plan
            }
        };
    }
    if volume.is_for(claim) {
        return bind(view, volume);
    }
    let message = format!("volume {:?} already bound to a different claim.", volume.metadata.name);
    plan.act(view.note(true, "FailedBinding", message).into());
    pending(view, &mut plan);
    plan
}

/// The class that a claim without one is to get: since the claim was made, there is a default one.
fn default_class<'a>(view: &'a View<'_>) -> Option<&'a str> {
    if view.claim.names_class() || view.claim.metadata.is_terminating() {
        return None;
    }
    let defaults = view.classes.iter().filter(|class| class.is_default());
    // The newest; of those made in the same second, the first by name.
    let newest = defaults.max_by(|a, b| {
        let made = |class: &StorageClass| class.metadata.creation_timestamp;
        made(a).cmp(&made(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
    });
    newest.map(|class| class.metadata.name.as_str())
}

fn without_volume(view: &View<'_>) -> Plan {
    let (mut plan, claim) = (Plan::nothing(), view.claim);
    if view.waits() {
        let waiting = view.pods.iter().find(|pod| {
            !pod.is_finished() && pod.spec.node_name.is_empty() && pod.claims().any(|name| name == claim.metadata.name)
        });
        let note = match waiting {
            Some(pod) => {
                let message = format!("waiting for pod {} to be scheduled", pod.metadata.name);
                view.note(false, "WaitForPodScheduled", message)
            }
            None => {
                let message = "waiting for first consumer to be created before binding";
                view.note(false, "WaitForFirstConsumer", message)
            }
        };
        plan.act(note.into());
    } else if claim.class().is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        plan.act(view.note(false, "FailedBinding", message).into());
    } else {
        ask_provisioner(view, &mut plan);
    }
    pending(view, &mut plan);
    plan
}

/// Tells the class's provisioner, by an annotation, that the claim is for it.
fn ask_provisioner(view: &View<'_>, plan: &mut Plan) {
    let claim = view.claim;
    let Some(class) = view.class() else {
        let message = format!("storageclass.storage.k8s.io {:?} not found", claim.class());
        plan.act(view.note(true, "ProvisioningFailed", message).into());
        return;
    };
    let provisioner = class.provisioner.as_str();
    if provisioner == NO_PROVISIONER {
        let message = "no persistent volumes available for this claim and no storage class is set";
        plan.act(view.note(false, "FailedBinding", message).into());
        return;
    }
    if claim.metadata.annotations.get(PROVISIONER).is_none_or(|known| known != provisioner) {
        let patch = json!({"metadata": {"annotations": {PROVISIONER: provisioner, PROVISIONER_BETA: provisioner}}});
        plan.act(Write::merge_exact(&kind::PERSISTENT_VOLUME_CLAIM, &claim.metadata, "", patch).into());
    }
    if provisioner != super::provision::PROVISIONER {
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
             system administrator. If volume creation is delayed, please verify that the provisioner is running and \
             correctly registered."
        );
        plan.act(view.note(false, "ExternalProvisioning", message).into());
    }
}

fn pending(view: &View<'_>, plan: &mut Plan) {
    let status = &view.claim.status;
    if status.phase == "Pending" && status.access_modes.is_empty() && status.capacity.is_empty() {
        return;
    }
    let patch = json!({"status": {"phase": "Pending", "accessModes": null, "capacity": null}});
    plan.act(Write::merge(&kind::PERSISTENT_VOLUME_CLAIM, &view.claim.metadata, "status", patch).into());
}

fn bound(view: &View<'_>) -> Plan {
    let claim = view.claim;
    if claim.spec.volume_name.is_empty() {
        return lost(
            view,
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    }
    match view.volume(&claim.spec.volume_name) {
        None => lost(view, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some(volume) => match &volume.spec.claim_ref {
            None => bind(view, volume),
            Some(by) if by.uid == claim.metadata.uid => bind(view, volume),
            Some(_) => {
                lost(view, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
            }
        },
    }
}

fn lost(view: &View<'_>, reason: &str, message: &str) -> Plan {
    let mut plan = Plan::nothing();
    if view.claim.status.phase == "Lost" {
        return plan;
    }
    let patch = json!({"status": {"phase": "Lost", "accessModes": null, "capacity": null}});
    plan.act(Write::merge(&kind::PERSISTENT_VOLUME_CLAIM, &view.claim.metadata, "status", patch).into());
    plan.act(view.note(true, reason, message).into());
    plan
}

/// Ties the two together, the volume first: whoever writes to it first has it. What is tied already is not written again.
fn bind(view: &View<'_>, volume: &PersistentVolume) -> Plan {
    let (mut plan, claim) = (Plan::nothing(), view.claim);
    if let Some(patch) = claim_volume(claim, volume) {
        plan.act(Write::merge_exact(&kind::PERSISTENT_VOLUME, &volume.metadata, "", patch).into());
    }
    if volume.status.phase != "Bound" {
        let patch = json!({"status": {"phase": "Bound", "message": null}});
        plan.act(Write::merge(&kind::PERSISTENT_VOLUME, &volume.metadata, "status", patch).into());
    }
    let mut annotations = json!({});
    if claim.spec.volume_name.is_empty() {
        annotations[BOUND_BY_CONTROLLER] = "yes".into();
    }
    if !claim.metadata.annotations.contains_key(BIND_COMPLETED) {
        annotations[BIND_COMPLETED] = "yes".into();
    }
    if claim.spec.volume_name != volume.metadata.name || annotations != json!({}) {
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume.metadata.name}});
        plan.act(Write::merge_exact(&kind::PERSISTENT_VOLUME_CLAIM, &claim.metadata, "", patch).into());
    }
    if let Some(status) = bound_status(claim, volume) {
        let patch = json!({"status": status});
        plan.act(Write::merge(&kind::PERSISTENT_VOLUME_CLAIM, &claim.metadata, "status", patch).into());
    }
    plan
}

/// What a volume lacks to be the claim's.
pub fn claim_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
    if volume.spec.claim_ref.as_ref().is_some_and(|by| by.uid == claim.metadata.uid) {
        return None;
    }
    let by: ObjectReference = claim.metadata.reference(&kind::PERSISTENT_VOLUME_CLAIM);
    let mut patch = json!({"spec": {"claimRef": by}});
    if volume.spec.claim_ref.is_none() {
        patch["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
    }
    Some(patch)
}

fn bound_status(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
    let mut status = json!({"phase": "Bound", "accessModes": volume.spec.access_modes});
    let same = claim.status.phase == "Bound" && claim.status.access_modes == volume.spec.access_modes;
    if same {
        return None;
    }
    // Once it is bound, its size is whoever's business who lets it grow.
    if claim.status.phase != "Bound" {
        status["capacity"] = json!(volume.spec.capacity);
    }
    if let Some(class) = &volume.spec.volume_attributes_class_name {
        status["currentVolumeAttributesClassName"] = class.as_str().into();
    }
    Some(status)
}
