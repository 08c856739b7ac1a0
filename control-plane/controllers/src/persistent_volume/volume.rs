//! What is to become of a volume (upstream `syncVolume`).

use serde_json::{Value, json};

use super::provision::{FINALIZER, PROVISIONER, node_of};
use super::{BOUND_BY_CONTROLLER, PROVISIONED_BY};
use crate::runtime::kind;
use crate::runtime::meta::Meta;
use crate::runtime::plan::{Note, Plan, Report, Write};
use crate::views::{PersistentVolume, PersistentVolumeClaim};

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The volume.
    pub volume: &'a PersistentVolume,
    /// The claim of the name that the volume refers to, whichever its uid.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The node that a volume of our own is on, if it still exists.
    pub node: Option<&'a Meta>,
}

/// Says how a volume is, and frees, keeps or removes one whose claim is gone.
pub fn plan_volume(view: &View<'_>) -> Plan {
    let volume = view.volume;
    let mut plan = Plan::nothing();
    let Some(by) = &volume.spec.claim_ref else {
        if volume.metadata.is_terminating() && is_own(volume) {
            return remove(view);
        }
        phase(view, &mut plan, "Available", "");
        return plan;
    };
    if by.uid.is_empty() {
        // Kept for a claim that has not been seen yet.
        phase(view, &mut plan, "Available", "");
        return plan;
    }
    let Some(claim) = view.claim.filter(|claim| claim.metadata.uid == by.uid) else { return released(view) };
    if claim.spec.volume_name == volume.metadata.name {
        phase(view, &mut plan, "Bound", "");
    } else if !claim.spec.volume_name.is_empty() {
        // The claim has another volume by now.
        return if volume.metadata.annotations.contains_key(PROVISIONED_BY) && volume.spec.reclaim_policy == "Delete" {
            released(view)
        } else {
            unbind(volume)
        };
    }
    plan
}

/// Takes the claim off a volume or, if somebody keeps the volume for a claim of that name, the claim's uid.
fn unbind(volume: &PersistentVolume) -> Plan {
    let mut plan = Plan::nothing();
    let patch = if volume.metadata.annotations.contains_key(BOUND_BY_CONTROLLER) {
        json!({"spec": {"claimRef": null}, "metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}})
    } else {
        json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
    };
    plan.act(Write::merge_exact(&kind::PERSISTENT_VOLUME, &volume.metadata, "", patch).into());
    plan
}

fn is_own(volume: &PersistentVolume) -> bool {
    volume.metadata.annotations.get(PROVISIONED_BY).is_some_and(|by| by == PROVISIONER)
}

fn released(view: &View<'_>) -> Plan {
    let volume = view.volume;
    let mut plan = Plan::nothing();
    if !matches!(volume.status.phase.as_str(), "Released" | "Failed") {
        phase(view, &mut plan, "Released", "");
        return plan;
    }
    match volume.spec.reclaim_policy.as_str() {
        "Delete" if is_own(volume) => return remove(view),
        // Another's provisioner removes what it has made.
        "Delete" if volume.metadata.annotations.contains_key(PROVISIONED_BY) => {}
        "Delete" => {
            let why = "Error getting deleter volume plugin for volume";
            let why = format!("{why} {:?}: no deletable volume plugin matched", volume.metadata.name);
            fail(view, &mut plan, "VolumeFailedDelete", &why);
        }
        "Recycle" => fail(view, &mut plan, "VolumeFailedRecycle", "No recycler plugin found for the volume!"),
        // Retained, until somebody who knows what is on it deletes it.
        _ if volume.metadata.is_terminating() && is_own(volume) => let_go(volume, &mut plan),
        _ => {}
    }
    plan
}

/// Has the node remove the directory, and removes the volume then.
fn remove(view: &View<'_>) -> Plan {
    let volume = view.volume;
    let mut plan = Plan::nothing();
    // Of a node that is gone nothing is left to remove.
    if let Some(node) = view.node.filter(|_| volume.spec.reclaim_policy == "Delete") {
        let body = json!({"name": volume.metadata.name,
            "path": volume.spec.local.as_ref().map(|local| local.path.as_str()).unwrap_or_default()});
        let node = Meta { name: node.name.clone(), ..Meta::default() };
        let report = Report {
            regarding: volume.metadata.reference(&kind::PERSISTENT_VOLUME),
            success: None,
            failure: Some(("VolumeFailedDelete", String::new())),
        };
        plan.act(Write::post(&kind::NODE, &node, "proxy/localVolumes/remove", body).reported(report).into());
    }
    let_go(volume, &mut plan);
    if !volume.metadata.is_terminating() {
        plan.act(Write::delete(&kind::PERSISTENT_VOLUME, &volume.metadata).into());
    }
    plan
}

fn let_go(volume: &PersistentVolume, plan: &mut Plan) {
    let meta = &volume.metadata;
    if meta.has_finalizer(FINALIZER) {
        plan.act(Write::without_finalizer(&kind::PERSISTENT_VOLUME, meta, FINALIZER).into());
    }
}

fn phase(view: &View<'_>, plan: &mut Plan, phase: &str, message: &str) {
    // What else the status says in a phase that it has already is not this controller's.
    if view.volume.status.phase == phase {
        return;
    }
    let message = if message.is_empty() { Value::Null } else { message.into() };
    let patch = json!({"status": {"phase": phase, "message": message}});
    plan.act(Write::merge(&kind::PERSISTENT_VOLUME, &view.volume.metadata, "status", patch).into());
}

fn fail(view: &View<'_>, plan: &mut Plan, reason: &str, message: &str) {
    if view.volume.status.phase == "Failed" {
        return;
    }
    phase(view, plan, "Failed", message);
    let regarding = view.volume.metadata.reference(&kind::PERSISTENT_VOLUME);
    plan.act(Note::warning(regarding, reason, message).into());
}

/// The node whose agent is to remove a volume of our own.
pub fn removal_node(volume: &PersistentVolume) -> Option<&str> {
    if is_own(volume) { node_of(volume) } else { None }
}
