//! What a deployment's status says; `kubectl rollout status` and people read it.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;

use super::Rollout;
use crate::runtime::kind;
use crate::runtime::meta::{Condition, condition, seconds};
use crate::runtime::plan::{Plan, Write};
use crate::views::{Deployment, DeploymentStatus};

const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// Whether everything is as the deployment wants it.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.replicas();
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Adds the status to a plan, and looks again when the deadline of a roll-out is due.
pub(super) fn finish(
    plan: &mut Plan,
    rollout: &Rollout<'_>,
    tracks_progress: bool,
    progressing: Option<(&'static str, String)>,
) {
    let deployment = rollout.deployment;
    let mut status = counted(rollout);
    paused_or_resumed(rollout, &mut status);
    if let Some((reason, message)) = progressing
        && deployment.spec.progress_deadline_seconds.is_some()
    {
        set(&mut status, rollout, "Progressing", "True", reason, message);
    }
    if tracks_progress {
        track_progress(rollout, &mut status);
    }
    if status != deployment.status {
        let patch = json!({"status": status});
        plan.act(Write::merge(&kind::DEPLOYMENT, &deployment.metadata, "status", patch).into());
    }
    if let Some(wait) = until_deadline(rollout, &status) {
        plan.look_again(wait);
    }
}

fn counted(rollout: &Rollout<'_>) -> DeploymentStatus {
    let deployment = rollout.deployment;
    let available = rollout.all().map(|s| s.status.available_replicas).sum();
    let total: i32 = rollout.all().map(|s| s.replicas()).sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: rollout.all().map(|s| s.status.replicas).sum(),
        updated_replicas: rollout.new.map_or(0, |s| s.status.replicas),
        ready_replicas: rollout.all().map(|s| s.status.ready_replicas).sum(),
        available_replicas: available,
        unavailable_replicas: (total - available).max(0),
        terminating_replicas: Some(rollout.all().filter_map(|s| s.status.terminating_replicas).sum()),
        conditions: deployment.status.conditions.clone(),
        collision_count: deployment.status.collision_count,
    };
    let (value, reason, message) = if available >= deployment.replicas() - rollout.max_unavailable() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, rollout, "Available", value, reason, message.into());
    status
}

fn paused_or_resumed(rollout: &Rollout<'_>, status: &mut DeploymentStatus) {
    let deployment = rollout.deployment;
    if deployment.spec.progress_deadline_seconds.is_none() || deployment.metadata.is_terminating() {
        return;
    }
    let reason = condition(&status.conditions, "Progressing").and_then(|c| c.reason.clone()).unwrap_or_default();
    if reason == TIMED_OUT {
        return;
    }
    if deployment.spec.paused && reason != PAUSED {
        set(status, rollout, "Progressing", "Unknown", PAUSED, "Deployment is paused".into());
    } else if !deployment.spec.paused && reason == PAUSED {
        set(status, rollout, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into());
    }
}

fn track_progress(rollout: &Rollout<'_>, status: &mut DeploymentStatus) {
    let deployment = rollout.deployment;
    let name = |with_set: &dyn Fn(&str) -> String| match rollout.new {
        Some(set) => with_set(&format!("ReplicaSet \"{}\"", set.metadata.name)),
        None => with_set(&format!("Deployment \"{}\"", deployment.metadata.name)),
    };
    let has_deadline = deployment.spec.progress_deadline_seconds.is_some();
    if !has_deadline {
        status.conditions.retain(|c| c.kind != "Progressing");
    }
    let current = condition(&deployment.status.conditions, "Progressing");
    let was_complete =
        status.replicas == status.updated_replicas && current.is_some_and(|c| c.reason.as_deref() == Some(AVAILABLE));
    if has_deadline && !was_complete {
        let before = &deployment.status;
        let progressed = status.updated_replicas > before.updated_replicas
            || status.replicas - status.updated_replicas < before.replicas - before.updated_replicas
            || status.ready_replicas > before.ready_replicas
            || status.available_replicas > before.available_replicas;
        if is_complete(deployment, status) {
            let message = name(&|what| format!("{what} has successfully progressed."));
            set(status, rollout, "Progressing", "True", AVAILABLE, message);
        } else if progressed {
            let message = name(&|what| format!("{what} is progressing."));
            refresh(status, rollout, "ReplicaSetUpdated", message);
        } else if is_timed_out(rollout, status) {
            let message = name(&|what| format!("{what} has timed out progressing."));
            set(status, rollout, "Progressing", "False", TIMED_OUT, message);
        }
    }
    let failure = rollout
        .new
        .into_iter()
        .chain(rollout.old.iter().copied())
        .find_map(|s| condition(&s.status.conditions, "ReplicaFailure"));
    match failure {
        Some(f) => {
            let (reason, message) = (f.reason.clone().unwrap_or_default(), f.message.clone().unwrap_or_default());
            set(status, rollout, "ReplicaFailure", &f.status, &reason, message);
        }
        None => status.conditions.retain(|c| c.kind != "ReplicaFailure"),
    }
}

/// Sets a condition, unless it has that status for that reason; the time of its last transition stays if its status does.
fn set(status: &mut DeploymentStatus, rollout: &Rollout<'_>, kind: &str, value: &str, reason: &str, message: String) {
    let current = condition(&status.conditions, kind);
    if current.is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    put(status, rollout, kind, value, reason, message);
}

/// Sets `Progressing` anew although it may be true for the same reason: the deadline counts from the last progress.
fn refresh(status: &mut DeploymentStatus, rollout: &Rollout<'_>, reason: &str, message: String) {
    put(status, rollout, "Progressing", "True", reason, message);
}

fn put(status: &mut DeploymentStatus, rollout: &Rollout<'_>, kind: &str, value: &str, reason: &str, message: String) {
    let now = seconds(rollout.now);
    let same = condition(&status.conditions, kind).filter(|c| c.status == value);
    let since = same.and_then(|c| c.last_transition_time).unwrap_or(now);
    status.conditions.retain(|c| c.kind != kind);
    status.conditions.push(Condition {
        kind: kind.into(),
        status: value.into(),
        last_update_time: Some(now),
        last_transition_time: Some(since),
        reason: Some(reason.into()),
        message: Some(message),
        ..Condition::default()
    });
}

fn is_timed_out(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let Some(current) = condition(&status.conditions, "Progressing") else { return false };
    match current.reason.as_deref() {
        Some(AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline_left(rollout, current).is_some_and(|left| !left.is_positive()),
    }
}

fn deadline_left(rollout: &Rollout<'_>, current: &Condition) -> Option<SignedDuration> {
    let deadline = i64::from(rollout.deployment.spec.progress_deadline_seconds?);
    let due = current.last_update_time?.checked_add(SignedDuration::from_secs(deadline)).ok()?;
    Some(due.duration_since(rollout.now))
}

/// How long until a roll-out that makes no progress is out of time.
fn until_deadline(rollout: &Rollout<'_>, status: &DeploymentStatus) -> Option<Duration> {
    let current = condition(&status.conditions, "Progressing")?;
    let over = matches!(current.reason.as_deref(), Some(AVAILABLE | TIMED_OUT | PAUSED));
    if over || is_complete(rollout.deployment, status) {
        return None;
    }
    let left = deadline_left(rollout, current)?;
    Some(Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1)))
}
