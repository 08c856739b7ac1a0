//! A pod's status: a pure function of the object, the state, the node and the time (kubelet_pods.go and
//! status/generate.go upstream).

use std::net::IpAddr;

use jiff::Timestamp;

use super::backoff::go_seconds;
use super::plan::{self, End};
use super::resize::reported;
use super::resources::qos_class;
use super::state::{ContainerState, Operation, PodState};
use crate::api::Pod;
use crate::api::pod::Container;
use crate::api::status::{
    Address, Condition, ContainerStatus, PodStatus, Running, Terminated, VolumeMountStatus, Waiting, is_final,
};
use crate::runtime::Phase;

/// The status to report. `previous` is the last one reported: what has not changed keeps its time of transition.
pub fn status(pod: &Pod, state: &PodState, previous: &PodStatus, host_ip: IpAddr, now: Timestamp) -> PodStatus {
    let phase = told_phase(pod, state, now);
    let has_init = !pod.spec.init_containers.is_empty();
    let init_container_statuses: Vec<_> =
        pod.spec.init_containers.iter().map(|c| container_status(pod, state, c, has_init, now)).collect();
    let container_statuses: Vec<_> =
        pod.spec.containers.iter().map(|c| container_status(pod, state, c, has_init, now)).collect();
    let mut status = PodStatus {
        observed_generation: pod.metadata.generation,
        phase: Some(phase.to_owned()),
        host_ip: Some(host_ip.to_string()),
        host_ips: vec![Address { ip: host_ip.to_string() }],
        start_time: state.started_at.map(seconds),
        qos_class: Some(pod.status.qos_class.clone().unwrap_or_else(|| qos_class(&pod.spec).to_owned())),
        init_container_statuses,
        container_statuses,
        ephemeral_container_statuses: pod
            .spec
            .ephemeral_containers
            .iter()
            .map(|c| ephemeral_status(container_status(pod, state, c, has_init, now)))
            .collect(),
        ..PodStatus::default()
    };
    if let Some(rejection) = &state.rejected {
        let message = format!("Pod was rejected: {}", rejection.message);
        (status.reason, status.message) = (Some(rejection.reason.clone()), Some(message));
        // Upstream reports nothing else about a pod that it never ran.
        status.init_container_statuses.clear();
        status.container_statuses.clear();
        status.ephemeral_container_statuses.clear();
    } else if let Some(evicted) = &state.evicted {
        // Before its containers have ended, it has not failed.
        if phase == "Failed" {
            (status.reason, status.message) = (Some("Evicted".to_owned()), Some(evicted.message.clone()));
        }
    } else if state.finished == Some("Failed")
        && previous.reason.as_deref().is_some_and(|r| matches!(r, "DeadlineExceeded" | "Evicted"))
    {
        (status.reason, status.message) = (previous.reason.clone(), previous.message.clone());
    } else if plan::end(pod, state, now) == Some(End::DeadlineExceeded) {
        status.reason = Some("DeadlineExceeded".to_owned());
        status.message = Some("Pod was active on the node longer than the specified deadline".to_owned());
    }
    addresses(pod, state, previous, host_ip, &mut status);
    conditions(pod, state, previous, phase, now, &mut status);
    status
}

fn addresses(pod: &Pod, state: &PodState, previous: &PodStatus, host_ip: IpAddr, status: &mut PodStatus) {
    let addresses: Vec<String> = match state.network.done() {
        Some(_) if pod.spec.host_network => vec![host_ip.to_string()],
        Some(connected) => connected.addresses.iter().map(ToString::to_string).collect(),
        // A pod that has ended keeps showing the addresses it had.
        None => previous.pod_ips.iter().map(|a| a.ip.clone()).collect(),
    };
    status.pod_ip = addresses.first().cloned();
    status.pod_ips = addresses.into_iter().map(|ip| Address { ip }).collect();
}

/// The phase that is told: a pod that claims devices has not ended before its drivers have them back, or they would be
/// given to others while it still holds them.
fn told_phase(pod: &Pod, state: &PodState, now: Timestamp) -> &'static str {
    let phase = phase(pod, state, now);
    let holds = !pod.spec.resource_claims.is_empty() && state.rejected.is_none() && state.torn_down.done().is_none();
    if holds && is_final(phase) && !pod.status.is_final() { "Running" } else { phase }
}

/// The pod's phase.
pub fn phase(pod: &Pod, state: &PodState, now: Timestamp) -> &'static str {
    if let Some(finished) = state.finished {
        return finished;
    }
    if state.rejected.is_some() {
        return "Failed";
    }
    let end = plan::end(pod, state, now);
    let active = pod.spec.all_containers().any(|c| {
        let container = state.container(&c.name);
        container.is_running() || container.operation.is_some()
    });
    if matches!(end, Some(End::DeadlineExceeded | End::Evicted)) && !active {
        return "Failed";
    }
    // Nothing starts any more: what has ended stays ended.
    let terminal = !active && matches!(end, Some(End::Deleted | End::Finished));
    let init_failed = pod.spec.init_containers.iter().any(|c| {
        !c.is_sidecar()
            && state
                .container(&c.name)
                .exit()
                .is_some_and(|exit| exit.code != 0 && !PodState::restarts(pod, c, exit.code))
    });
    if init_failed {
        return "Failed";
    }
    if !state.is_initialized(pod) {
        return if terminal { "Failed" } else { "Pending" };
    }
    let (mut running, mut succeeded, mut failed, mut waiting, mut pending) = (0, 0, 0, 0, 0);
    for container in &pod.spec.containers {
        let container_state = state.container(&container.name);
        match container_state.instance.as_ref().map(|i| &i.phase) {
            Some(Phase::Running(_)) => running += 1,
            Some(Phase::Exited(_, exit)) if exit.code == 0 => succeeded += 1,
            Some(Phase::Exited(..)) => failed += 1,
            Some(Phase::Created) | None if container_state.last.is_some() => waiting += 1,
            Some(Phase::Created) | None => pending += 1,
        }
    }
    match () {
        () if terminal && failed == 0 && pending == 0 && waiting == 0 => "Succeeded",
        () if terminal => "Failed",
        () if pending > 0 => "Pending",
        () if running > 0 || waiting > 0 || active => "Running",
        () if plan::has_finished(pod, state) => {
            if failed == 0 {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        () if succeeded + failed > 0 => "Running",
        () => "Pending",
    }
}

/// Nobody asks whether an ephemeral container is ready.
fn ephemeral_status(status: ContainerStatus) -> ContainerStatus {
    ContainerStatus { ready: false, started: None, ..status }
}

fn container_status(
    pod: &Pod,
    state: &PodState,
    container: &Container,
    has_init: bool,
    now: Timestamp,
) -> ContainerStatus {
    let container_state = state.container(&container.name);
    let instance = container_state.instance.as_ref();
    let mut status = ContainerStatus {
        name: container.name.clone(),
        restart_count: container_state.restarts,
        image: instance.map_or_else(|| container.image.clone(), |i| i.image.name.clone()),
        image_id: instance.map(|i| i.image.id.clone()).unwrap_or_default(),
        container_id: instance.map(|i| format!("containerd://{}", i.id)),
        started: Some(container_state.is_running() && container_state.started),
        ready: is_ready(pod, container, container_state),
        ..ContainerStatus::default()
    };
    status.volume_mounts = container
        .volume_mounts
        .iter()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            // What is mounted below a read-only mount is as it is.
            recursive_read_only: mount.read_only.then(|| "Disabled".to_owned()),
        })
        .collect();
    if !pod.spec.is_ephemeral(&container.name) {
        let granted = state.resize.of_container(container);
        let running = container_state.applied.as_ref().filter(|_| container_state.is_running());
        status.resources = Some(reported(running.unwrap_or(granted)));
        status.allocated_resources = granted.requests.clone();
    }
    let last = container_state.last.as_ref().map(|l| truncated(l.0.clone()));
    status.last_state.terminated = last;
    let ended = instance.and_then(|i| i.terminated()).map(truncated);
    match (instance.map(|i| &i.phase), waiting(pod, state, container, container_state, now)) {
        (Some(Phase::Running(since)), _) => status.state.running = Some(Running { started_at: Some(seconds(*since)) }),
        (_, Some(waiting)) => {
            status.state.waiting = Some(waiting);
            if ended.is_some() {
                status.last_state.terminated = ended;
            }
        }
        _ if ended.is_some() => status.state.terminated = ended,
        _ => {
            let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
            status.state.waiting = Some(Waiting { reason: reason.to_owned(), message: None });
        }
    }
    status
}

/// What a container that does not run waits for, if something keeps it.
fn waiting(
    pod: &Pod,
    state: &PodState,
    container: &Container,
    container_state: &ContainerState,
    now: Timestamp,
) -> Option<Waiting> {
    if plan::end(pod, state, now).is_some() {
        return None;
    }
    if let Some(problem) = &container_state.problem {
        return Some(Waiting { reason: problem.reason.clone(), message: Some(problem.message.clone()) });
    }
    // On its way already: what is waited for is the next time.
    if container_state.operation == Some(Operation::Starting) {
        return None;
    }
    let exit = container_state.exit()?;
    let until = plan::crash_backoff_until(container_state)?;
    if until <= now || !PodState::restarts(pod, container, exit.code) {
        return None;
    }
    let message = format!(
        "back-off {} restarting failed container={} pod={}_{}({})",
        go_seconds(container_state.backoff.delay()),
        container.name,
        pod.metadata.name,
        pod.metadata.namespace,
        pod.metadata.uid
    );
    Some(Waiting { reason: "CrashLoopBackOff".to_owned(), message: Some(message) })
}

fn is_ready(pod: &Pod, container: &Container, state: &ContainerState) -> bool {
    if pod.spec.is_plain_init(&container.name) {
        return state.exit().is_some_and(|e| e.code == 0);
    }
    let hooking = state.operation == Some(Operation::PostStart);
    state.is_running() && state.started && state.ready && !hooking
}

fn conditions(pod: &Pod, state: &PodState, previous: &PodStatus, phase: &str, now: Timestamp, status: &mut PodStatus) {
    let names = |list: &[&str]| format!("[{}]", list.join(" "));
    let unready: Vec<&str> = pod
        .spec
        .init_containers
        .iter()
        .filter(|c| c.is_sidecar())
        .chain(&pod.spec.containers)
        .filter(|c| !is_ready(pod, c, state.container(&c.name)))
        .map(|c| c.name.as_str())
        .collect();
    let uninitialized: Vec<&str> =
        pod.spec.init_containers.iter().filter(|c| !state.is_init_done(c)).map(|c| c.name.as_str()).collect();
    // A container that outlived the agent shows that the network is there before the agent has looked.
    let running = state.containers.values().any(ContainerState::is_running);
    let connected = (state.network.done().is_some() || running) && state.torn_down.done().is_none();
    let initialized = if phase == "Succeeded" {
        ("True", Some("PodCompleted"), None)
    } else if state.is_initialized(pod) {
        ("True", None, None)
    } else {
        let message = format!("containers with incomplete status: {}", names(&uninitialized));
        ("False", Some("ContainersNotInitialized"), Some(message))
    };
    let containers_ready = match phase {
        "Succeeded" => ("False", Some("PodCompleted"), None),
        "Failed" => ("False", Some("PodFailed"), None),
        _ if unready.is_empty() => ("True", None, None),
        _ => {
            let message = format!("containers with unready status: {}", names(&unready));
            ("False", Some("ContainersNotReady"), Some(message))
        }
    };
    let ready = match gates(pod) {
        Some(message) if containers_ready.0 == "True" => ("False", Some("ReadinessGatesNotReady"), Some(message)),
        _ => containers_ready.clone(),
    };
    let conditions = [
        ("PodReadyToStartContainers", (if connected { "True" } else { "False" }, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    let condition = |(kind, (value, reason, message)): (&str, (&str, Option<&str>, Option<String>))| {
        let before = previous.conditions.iter().find(|c| c.kind == kind && c.status == value);
        Condition {
            kind: kind.to_owned(),
            status: value.to_owned(),
            observed_generation: pod.metadata.generation,
            last_probe_time: None,
            last_transition_time: before.and_then(|c| c.last_transition_time).or(Some(seconds(now))),
            reason: reason.map(str::to_owned),
            message,
        }
    };
    // The scheduler's own word, if it has spoken, but of what the pod is now; of a pod that was bound without it nobody
    // else says so.
    let said = pod.status.conditions.iter().find(|c| c.kind == "PodScheduled").cloned();
    let scheduled = said.unwrap_or_else(|| condition(("PodScheduled", ("True", None, None))));
    let scheduled = Condition { observed_generation: pod.metadata.generation, ..scheduled };
    let resize: Vec<Condition> = resize_conditions(state)
        .map(|(generation, told)| Condition { observed_generation: generation, ..condition(told) })
        .collect();
    let disrupted = state.evicted.as_ref().filter(|evicted| evicted.disrupted).map(|evicted| {
        condition(("DisruptionTarget", ("True", Some("TerminationByKubelet"), Some(evicted.message.clone()))))
    });
    let own = conditions.into_iter().map(condition).chain([scheduled]);
    status.conditions = own.chain(resize).chain(disrupted).collect();
}

type Told = (&'static str, (&'static str, Option<&'static str>, Option<String>));

/// Where a change of what the pod may use stands.
fn resize_conditions(state: &PodState) -> impl Iterator<Item = (Option<i64>, Told)> {
    let pending = state.resize.pending.as_ref().map(|pending| {
        (pending.generation, ("PodResizePending", ("True", Some(pending.reason), Some(pending.message.clone()))))
    });
    let in_progress = state.resize.in_progress.as_ref().map(|progress| {
        let reason = progress.error.as_ref().map(|_| "Error");
        (progress.generation, ("PodResizeInProgress", ("True", reason, progress.error.clone())))
    });
    pending.into_iter().chain(in_progress)
}

/// The conditions of this agent's own that were reported and are not any more.
pub fn gone_conditions(before: &PodStatus, now: &PodStatus) -> Vec<String> {
    let has = |status: &PodStatus, kind: &str| status.conditions.iter().any(|c| c.kind == kind);
    let gone = ["PodResizePending", "PodResizeInProgress"].into_iter().filter(|k| has(before, k) && !has(now, k));
    gone.map(str::to_owned).collect()
}

/// What is wrong with the pod's readiness gates, if anything.
fn gates(pod: &Pod) -> Option<String> {
    let problems: Vec<String> = pod
        .spec
        .readiness_gates
        .iter()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match pod.status.conditions.iter().find(|c| c.kind == *kind) {
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    match problems.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// `metav1.Time` has whole seconds.
pub fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn truncated(mut terminated: Terminated) -> Terminated {
    terminated.started_at = terminated.started_at.map(seconds);
    terminated.finished_at = terminated.finished_at.map(seconds);
    terminated
}
