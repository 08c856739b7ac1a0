//! What to do next for a pod: a pure function of the object, the state and the time.
//!
//! The worker carries the actions out, marks what is under way in the state, and asks again after every change.

use jiff::{SignedDuration, Timestamp};

use super::backoff;
use super::state::{ContainerState, Leaving, Operation, PodState};
use crate::api::Pod;
use crate::api::pod::Container;
use crate::drain;

/// How long a pod gets that is sent away, in seconds.
const EVICTION_GRACE_S: i64 = 1;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the volumes.
    MountVolumes,
    /// Make the sandbox and connect it.
    Connect,
    /// Fetch the image if need be, create the container and start it.
    Start {
        /// Its name.
        container: String,
    },
    /// Give up starting it.
    Cancel {
        /// Its name.
        container: String,
    },
    /// Wait until services no longer lead to the pod.
    LeaveServices {
        /// How long at most.
        within: SignedDuration,
    },
    /// Run its preStop hook, ask it to stop, and kill it in the end.
    Stop {
        /// Its name.
        container: String,
        /// The event's message.
        message: String,
        /// When to kill it.
        deadline: Timestamp,
    },
    /// Hold running containers to what they have been granted.
    Resize,
    /// Disconnect, remove the sandbox, unmount the volumes.
    TearDown,
    /// Remove its containers and files, then the object.
    Delete,
}

/// What to do now, and when to ask again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be begun now, at the same time.
    pub actions: Vec<Action>,
    /// When something may be due.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
        }
    }
}

/// Why a pod does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The object is to go, or has gone.
    Deleted,
    /// It is done, or has failed.
    Finished,
    /// The node does not run it.
    Rejected,
    /// The node is short of something, or the pod uses more than it may.
    Evicted,
    /// It took too long.
    DeadlineExceeded,
}

/// Whether, and why, the pod must come to its end.
pub fn end(pod: &Pod, state: &PodState, now: Timestamp) -> Option<End> {
    if state.removed || pod.metadata.deletion_timestamp.is_some() {
        Some(End::Deleted)
    } else if state.rejected.is_some() {
        Some(End::Rejected)
    } else if state.evicted.is_some() {
        Some(End::Evicted)
    } else if deadline(pod, state).is_some_and(|at| at <= now) && state.finished != Some("Succeeded") {
        Some(End::DeadlineExceeded)
    } else if state.finished.is_some() || has_finished(pod, state) {
        Some(End::Finished)
    } else {
        None
    }
}

/// When the pod must be done.
pub fn deadline(pod: &Pod, state: &PodState) -> Option<Timestamp> {
    let seconds = pod.spec.active_deadline_seconds?;
    state.started_at?.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Whether all containers have ended and none is to be started again.
pub fn has_finished(pod: &Pod, state: &PodState) -> bool {
    let ended = |c: &Container| {
        let container = state.container(&c.name);
        container.operation.is_none() && container.exit().is_some_and(|exit| !PodState::restarts(pod, c, exit.code))
    };
    let init_failed = pod
        .spec
        .init_containers
        .iter()
        .any(|c| !c.is_sidecar() && ended(c) && state.container(&c.name).exit().is_some_and(|exit| exit.code != 0));
    init_failed || (!pod.spec.containers.is_empty() && pod.spec.containers.iter().all(ended))
}

/// What to do next.
pub fn plan(pod: &Pod, state: &PodState, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    match end(pod, state, now) {
        Some(why) => wind_down(pod, state, now, why, &mut plan),
        None => {
            bring_up(pod, state, now, &mut plan);
            plan.wake(deadline(pod, state));
        }
    }
    plan
}

fn bring_up(pod: &Pod, state: &PodState, now: Timestamp, plan: &mut Plan) {
    if state.volumes.is_due(now) {
        plan.actions.push(Action::MountVolumes);
    }
    if state.network.is_due(now) {
        plan.actions.push(Action::Connect);
    }
    plan.wake(state.volumes.retry_at());
    plan.wake(state.network.retry_at());
    for container in pod.spec.all_containers() {
        let container_state = state.container(&container.name);
        if let Some(unhealthy) = &container_state.unhealthy
            && container_state.is_running()
            && !matches!(container_state.operation, Some(Operation::Stopping(_)))
        {
            let grace = unhealthy.grace_seconds.unwrap_or_else(|| spec_grace_seconds(pod));
            plan.actions.push(stop(&container.name, &unhealthy.message, now, grace));
        }
    }
    resize(pod, state, now, plan);
    if state.volumes.done().is_some() && state.network.done().is_some() {
        start_ephemeral(pod, state, now, plan);
        start_next(pod, state, now, plan);
    }
}

/// Puts in force what containers have been granted: by a restart, if that is how they want it.
fn resize(pod: &Pod, state: &PodState, now: Timestamp, plan: &mut Plan) {
    let mut wanted = false;
    for container in pod.spec.all_containers() {
        let container_state = state.container(&container.name);
        let granted = state.resize.of_container(container);
        let Some(applied) = container_state.applied.as_ref().filter(|applied| *applied != granted) else { continue };
        if !container_state.is_running() || container_state.operation.is_some() {
            continue;
        }
        if super::resize::restarts(container, applied, granted) {
            let message = format!("Container {} resize requires restart", container.name);
            plan.actions.push(stop(&container.name, &message, now, spec_grace_seconds(pod)));
        } else {
            wanted = true;
        }
    }
    if wanted && state.resize.step.is_due(now) {
        plan.actions.push(Action::Resize);
    }
    plan.wake(state.resize.step.retry_at());
}

/// Starts the containers that were added for debugging. They wait for no other: what keeps the others from starting may
/// be what they are to find out.
fn start_ephemeral(pod: &Pod, state: &PodState, now: Timestamp, plan: &mut Plan) {
    for container in &pod.spec.ephemeral_containers {
        match due(pod, container, state.container(&container.name), now) {
            Due::Now => plan.actions.push(Action::Start { container: container.name.clone() }),
            Due::At(at) => plan.wake(Some(at)),
            Due::No => {}
        }
    }
}

/// Starts containers in their order, one at a time.
fn start_next(pod: &Pod, state: &PodState, now: Timestamp, plan: &mut Plan) {
    let starting =
        |c: &Container| matches!(state.container(&c.name).operation, Some(Operation::Starting | Operation::PostStart));
    if pod.spec.all_containers().any(starting) {
        return;
    }
    let initialized = state.is_initialized(pod);
    for container in &pod.spec.init_containers {
        if initialized && !container.is_sidecar() {
            continue;
        }
        match due(pod, container, state.container(&container.name), now) {
            Due::Now => {
                plan.actions.push(Action::Start { container: container.name.clone() });
                return;
            }
            Due::At(at) => plan.wake(Some(at)),
            Due::No => {}
        }
        if !initialized && !state.is_init_done(container) {
            return;
        }
    }
    for container in &pod.spec.containers {
        match due(pod, container, state.container(&container.name), now) {
            Due::Now => {
                plan.actions.push(Action::Start { container: container.name.clone() });
                return;
            }
            Due::At(at) => plan.wake(Some(at)),
            Due::No => {}
        }
    }
}

enum Due {
    Now,
    At(Timestamp),
    No,
}

/// Whether a container is to be started.
fn due(pod: &Pod, container: &Container, state: &ContainerState, now: Timestamp) -> Due {
    if state.is_running() || state.operation.is_some() {
        return Due::No;
    }
    if let Some(exit) = state.exit()
        && !PodState::restarts(pod, container, exit.code)
    {
        return Due::No;
    }
    let mut at = state.problem.as_ref().map(|p| p.retry_at);
    if let Some(until) = crash_backoff_until(state) {
        at = Some(at.map_or(until, |a| a.max(until)));
    }
    match at {
        Some(at) if backoff::waits(at, now) => Due::At(at),
        _ => Due::Now,
    }
}

/// Until when a container that ended waits for its restart.
pub fn crash_backoff_until(state: &ContainerState) -> Option<Timestamp> {
    state.backoff.until(state.exit()?.finished_at)
}

fn spec_grace_seconds(pod: &Pod) -> i64 {
    pod.spec.termination_grace_period_seconds.unwrap_or(30)
}

fn stop(container: &str, message: &str, now: Timestamp, grace_seconds: i64) -> Action {
    // Upstream gives at least a second, even to those that are to go at once.
    let grace = SignedDuration::from_secs(grace_seconds.max(1));
    let deadline = now.checked_add(grace).unwrap_or(Timestamp::MAX);
    Action::Stop { container: container.to_owned(), message: message.to_owned(), deadline }
}

fn wind_down(pod: &Pod, state: &PodState, now: Timestamp, why: End, plan: &mut Plan) {
    let grace = match pod.metadata.deletion_grace_period_seconds {
        Some(seconds) if why == End::Deleted => seconds,
        // What is short is needed now.
        _ if why == End::Evicted => EVICTION_GRACE_S,
        _ => spec_grace_seconds(pod),
    };
    for container in pod.spec.every_container() {
        if state.container(&container.name).operation == Some(Operation::Starting) {
            plan.actions.push(Action::Cancel { container: container.name.clone() });
        }
    }
    let grace = match leave_services(pod, state, now, why, grace, plan) {
        Some(grace) => grace,
        None => return,
    };
    // Sidecars serve the others until these are done, and stop in the reverse order of their start (KEP-753).
    let (sidecars, others): (Vec<&Container>, Vec<&Container>) =
        pod.spec.every_container().partition(|c| pod.spec.is_sidecar(&c.name));
    let mut running = false;
    for container in &others {
        running |= stop_running(state, container, now, grace, plan);
    }
    for container in sidecars.iter().rev() {
        if running {
            break;
        }
        running = stop_running(state, container, now, grace, plan);
    }
    let busy = pod.spec.every_container().any(|c| state.container(&c.name).operation.is_some())
        || state.network == super::state::Step::Doing
        || state.volumes == super::state::Step::Doing;
    if running || busy {
        return;
    }
    if state.torn_down.done().is_none() {
        if state.torn_down.is_due(now) {
            plan.actions.push(Action::TearDown);
        }
        plan.wake(state.torn_down.retry_at());
    } else if why == End::Deleted {
        if state.deleted.is_due(now) {
            plan.actions.push(Action::Delete);
        }
        plan.wake(state.deleted.retry_at());
    }
}

/// A pod that runs and is deleted leaves its services first (drain acknowledgement). Gives the grace period that is left
/// once it has: the wait is part of it, as preStop is.
fn leave_services(pod: &Pod, state: &PodState, now: Timestamp, why: End, grace: i64, plan: &mut Plan) -> Option<i64> {
    let serves = pod.spec.all_containers().any(|c| state.container(&c.name).is_running());
    if why != End::Deleted || state.removed || !serves {
        return Some(grace);
    }
    let timeout = SignedDuration::try_from(drain::timeout(&pod.metadata.annotations)).unwrap_or(SignedDuration::MAX);
    let within = timeout.min(SignedDuration::from_secs(grace.max(0)));
    let waited = match state.leaving {
        Leaving::Todo if within.is_zero() => SignedDuration::ZERO,
        Leaving::Todo => {
            plan.actions.push(Action::LeaveServices { within });
            return None;
        }
        // The grace period may have been cut short meanwhile.
        Leaving::Since(since) => match since.checked_add(within) {
            Ok(until) if until > now => {
                plan.wake(Some(until));
                return None;
            }
            _ => within,
        },
        Leaving::Left(waited) => waited,
    };
    Some(grace - waited.as_secs())
}

/// Stops a container if it runs; tells whether it does.
fn stop_running(state: &PodState, container: &Container, now: Timestamp, grace: i64, plan: &mut Plan) -> bool {
    let container_state = state.container(&container.name);
    if !container_state.is_running() {
        return false;
    }
    let message = format!("Stopping container {}", container.name);
    let action = stop(&container.name, &message, now, grace);
    let sooner = match (&container_state.operation, &action) {
        // One that is being stopped already is only hurried, when the grace period was cut short.
        (Some(Operation::Stopping(current)), Action::Stop { deadline, .. }) => deadline < current,
        _ => true,
    };
    if sooner {
        plan.actions.push(action);
    }
    true
}

#[cfg(test)]
mod tests;
