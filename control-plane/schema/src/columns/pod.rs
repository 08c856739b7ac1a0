//! Pods: what their containers are doing, in one word.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, column, or_none, parse_time, since, wide};
use crate::kinds::json::{at, has, int, list, text, truth};
use crate::resource::Column;

pub(super) const POD: &[Column] = &[
    NAME,
    column("Ready", "string", "How many of the pod's containers accept traffic", |pod, _| {
        let summary = Summary::of(pod);
        format!("{}/{}", summary.ready, summary.total).into()
    }),
    column("Status", "string", "What the pod's containers are doing", |pod, _| Summary::of(pod).status.into()),
    column("Restarts", "string", "How often the pod's containers were restarted, and when last", |pod, now| {
        Summary::of(pod).restarts_text(now).into()
    }),
    AGE,
    wide("IP", "string", "The pod's address", |pod, _| {
        let first = list(pod, "status.podIPs").first().map(|ip| text(ip, "ip")).unwrap_or_default();
        or_none(if first.is_empty() { text(pod, "status.podIP") } else { first }).into()
    }),
    wide("Node", "string", "The node it is bound to", |pod, _| or_none(text(pod, "spec.nodeName")).into()),
    wide("Nominated Node", "string", "The node that others make room on for it", |pod, _| {
        or_none(text(pod, "status.nominatedNodeName")).into()
    }),
    wide("Readiness Gates", "string", "How many of its extra conditions of readiness hold", |pod, _| {
        readiness_gates(pod).into()
    }),
];

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let hold = gates.iter().filter(|gate| condition(pod, text(gate, "conditionType")) == "True").count();
    format!("{hold}/{}", gates.len())
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    list(pod, "status.conditions").iter().find(|c| text(c, "type") == kind).map(|c| text(c, "status")).unwrap_or("")
}

/// What a pod's row says.
struct Summary {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let phase = text(pod, "status.phase");
        let reason = text(pod, "status.reason");
        let mut summary = Self {
            ready: 0,
            total: list(pod, "spec.containers").len()
                + list(pod, "spec.initContainers").iter().filter(|c| is_sidecar(c)).count(),
            status: if reason.is_empty() { phase } else { reason }.to_owned(),
            restarts: 0,
            last_restart: None,
        };
        let gated = list(pod, "status.conditions")
            .iter()
            .any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated");
        if gated {
            summary.status = "SchedulingGated".to_owned();
        }
        let (initializing, sidecars) = summary.init_containers(pod);
        if !initializing || condition(pod, "Initialized") == "True" {
            (summary.restarts, summary.last_restart) = sidecars;
            summary.main_containers(pod);
        }
        if has(pod, "metadata.deletionTimestamp") {
            if reason == "NodeLost" {
                summary.status = "Unknown".to_owned();
            } else if phase != "Succeeded" && phase != "Failed" {
                summary.status = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Goes through the init containers to the first that is not done. Says whether there is one, and the restarts of
    /// the sidecars alone.
    fn init_containers(&mut self, pod: &Value) -> (bool, (i64, Option<Timestamp>)) {
        let specs = list(pod, "spec.initContainers");
        let mut sidecars = (0, None);
        for (index, container) in list(pod, "status.initContainerStatuses").iter().enumerate() {
            let sidecar = specs.iter().any(|c| is_sidecar(c) && text(c, "name") == text(container, "name"));
            self.count_restarts(container);
            if sidecar {
                sidecars.0 += int(container, "restartCount").unwrap_or_default();
                sidecars.1 = sidecars.1.max(last_end(container));
            }
            let terminated = has(container, "state.terminated");
            let waiting = text(container, "state.waiting.reason");
            if terminated && int(container, "state.terminated.exitCode").unwrap_or_default() == 0 {
                continue;
            }
            if sidecar && truth(container, "started") {
                self.ready += usize::from(truth(container, "ready"));
                continue;
            }
            self.status = if terminated {
                format!("Init:{}", end_reason(container))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return (true, sidecars);
        }
        (false, sidecars)
    }

    fn main_containers(&mut self, pod: &Value) {
        let mut running = false;
        for container in list(pod, "status.containerStatuses").iter().rev() {
            self.count_restarts(container);
            let waiting = text(container, "state.waiting.reason");
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if has(container, "state.terminated") {
                self.status = end_reason(container);
            } else if truth(container, "ready") && has(container, "state.running") {
                running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && running {
            let ready = condition(pod, "Ready") == "True";
            self.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count_restarts(&mut self, container: &Value) {
        self.restarts += int(container, "restartCount").unwrap_or_default();
        self.last_restart = self.last_restart.max(last_end(container));
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                format!("{} ({} ago)", self.restarts, since(&last.to_string().into(), now))
            }
            _ => self.restarts.to_string(),
        }
    }
}

/// An init container that goes on running beside the main ones.
fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

fn last_end(container: &Value) -> Option<Timestamp> {
    parse_time(at(container, "lastState.terminated.finishedAt"))
}

/// Why a container ended: its reason, or its signal, or its exit code.
fn end_reason(container: &Value) -> String {
    let reason = text(container, "state.terminated.reason");
    let signal = int(container, "state.terminated.signal").unwrap_or_default();
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", int(container, "state.terminated.exitCode").unwrap_or_default())
    }
}
