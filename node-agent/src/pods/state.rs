//! What the worker knows about its pod besides the object: the planner's input.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::backoff::{self, Backoff};
use super::resize::Resize;
use crate::api::Pod;
use crate::api::pod::{Container, Resources, RestartPolicy};
use crate::api::status::Terminated;
use crate::runtime::{LocalImage, Phase, Sandbox};

/// Something that is done once, and again if it failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step<T> {
    /// Not begun.
    #[default]
    Todo,
    /// Under way.
    Doing,
    /// Done, with this result.
    Done(T),
    /// Failed; may be tried again then.
    Failed {
        /// What to show.
        message: String,
        /// When it may be tried again.
        retry_at: Timestamp,
        /// How often it has failed.
        failures: u32,
    },
}

impl<T> Step<T> {
    /// Whether to begin now.
    pub fn is_due(&self, now: Timestamp) -> bool {
        match self {
            Self::Todo => true,
            Self::Doing | Self::Done(_) => false,
            Self::Failed { retry_at, .. } => !backoff::waits(*retry_at, now),
        }
    }

    /// When it is to be tried again, if it failed.
    pub fn retry_at(&self) -> Option<Timestamp> {
        if let Self::Failed { retry_at, .. } = self { Some(*retry_at) } else { None }
    }

    /// The result, if done.
    pub fn done(&self) -> Option<&T> {
        if let Self::Done(result) = self { Some(result) } else { None }
    }

    /// How often it has failed.
    pub fn failures(&self) -> u32 {
        if let Self::Failed { failures, .. } = self { *failures } else { 0 }
    }
}

/// A pod's sandbox and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// What its containers share.
    pub sandbox: Sandbox,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
}

/// Why a pod is not run: `OutOfcpu`, `NodeAffinity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Why a pod is sent away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// For people.
    pub message: String,
    /// Whether for the node's sake: a disruption.
    pub disrupted: bool,
}

/// The latest container of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// How many there were before it.
    pub attempt: u32,
    /// Its image.
    pub image: LocalImage,
    /// What it does.
    pub phase: Phase,
    /// What it left in its termination message file (or its log).
    pub message: Option<String>,
    /// Why it ended, if its exit does not tell: `StartError`.
    pub reason: Option<String>,
}

impl Instance {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// Its end as the API shows it, if it has ended.
    pub fn terminated(&self) -> Option<Terminated> {
        let Phase::Exited(since, exit) = &self.phase else { return None };
        let reason = if exit.oom_killed {
            "OOMKilled"
        } else if exit.code == 0 {
            "Completed"
        } else {
            "Error"
        };
        Some(Terminated {
            exit_code: exit.code,
            signal: None,
            reason: Some(self.reason.clone().unwrap_or_else(|| reason.to_owned())),
            message: self.message.clone().filter(|m| !m.is_empty()),
            started_at: *since,
            finished_at: Some(exit.finished_at),
            container_id: Some(format!("containerd://{}", self.id)),
        })
    }
}

/// Why a container is not there yet: `ErrImagePull`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For programs.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When to try again.
    pub retry_at: Timestamp,
    /// Since when.
    pub since: Timestamp,
    /// The image that could not be had, if that is it.
    pub image: Option<WantedImage>,
}

/// An image that a container needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedImage {
    /// As the pod names it.
    pub name: String,
    /// For one of its volumes.
    pub of_volume: bool,
}

/// What is being done to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fetching its image, creating and starting it.
    Starting,
    /// Its postStart hook runs.
    PostStart,
    /// It has been asked to stop, and will be killed then.
    Stopping(Timestamp),
}

/// Why a running container is to be stopped although its pod is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhealthy {
    /// The event's message.
    pub message: String,
    /// How long it gets, in seconds, if not as long as the pod says.
    pub grace_seconds: Option<i64>,
}

/// One container's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerState {
    /// The latest one.
    pub instance: Option<Instance>,
    /// How the one before it ended.
    pub last: Option<LastState>,
    /// How often it was restarted.
    pub restarts: u32,
    /// What is being done to it.
    pub operation: Option<Operation>,
    /// Why the next one could not be started.
    pub problem: Option<Problem>,
    /// Between restarts.
    pub backoff: Backoff,
    /// Between pulls.
    pub image_backoff: Backoff,
    /// Its startup probe has succeeded (or it has none), and its postStart hook.
    pub started: bool,
    /// Its readiness probe succeeds (or it has none).
    pub ready: bool,
    /// It must be stopped.
    pub unhealthy: Option<Unhealthy>,
    /// What the latest one is held to.
    pub applied: Option<Resources>,
}

/// [`Terminated`] that can be compared.
pub type LastState = Box<TerminatedEq>;

/// A container's end as the API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct TerminatedEq(pub Terminated);

impl Eq for TerminatedEq {}

impl ContainerState {
    /// Whether the latest one runs.
    pub fn is_running(&self) -> bool {
        self.instance.as_ref().is_some_and(Instance::is_running)
    }

    /// How the latest one ended, if it has.
    pub fn exit(&self) -> Option<&crate::runtime::Exit> {
        match &self.instance.as_ref()?.phase {
            Phase::Exited(_, exit) => Some(exit),
            Phase::Created | Phase::Running(_) => None,
        }
    }

    /// Whether there ever was one.
    pub fn ever_ran(&self) -> bool {
        self.instance.is_some() || self.last.is_some()
    }
}

/// How far a pod that is deleted is with leaving its services: before it has, its containers are not asked to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leaving {
    /// Not begun.
    #[default]
    Todo,
    /// Under way.
    Since(Timestamp),
    /// No new connections come; that took so long.
    Left(SignedDuration),
}

/// Everything that is known about a pod besides the object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodState {
    /// The node does not run it.
    pub rejected: Option<Rejection>,
    /// The node sends it away.
    pub evicted: Option<Evicted>,
    /// When the agent first saw it.
    pub started_at: Option<Timestamp>,
    /// Its volumes are there.
    pub volumes: Step<()>,
    /// Its sandbox is there and connected.
    pub network: Step<Connected>,
    /// Its containers, by name.
    pub containers: BTreeMap<String, ContainerState>,
    /// It reached an end, and stays there: `Succeeded` or `Failed`.
    pub finished: Option<&'static str>,
    /// What it may use.
    pub resize: Resize,
    /// Services no longer lead to it.
    pub leaving: Leaving,
    /// Sandbox and volumes are gone again.
    pub torn_down: Step<()>,
    /// Its containers and the object are gone.
    pub deleted: Step<()>,
    /// The object is gone already.
    pub removed: bool,
}

impl PodState {
    /// The state of `name`; nothing known: the default.
    pub fn container(&self, name: &str) -> &ContainerState {
        static UNKNOWN: std::sync::LazyLock<ContainerState> = std::sync::LazyLock::new(ContainerState::default);
        self.containers.get(name).unwrap_or(&UNKNOWN)
    }

    /// Whether the init containers are through: they are, for good, once another container ran.
    pub fn is_initialized(&self, pod: &Pod) -> bool {
        pod.spec.containers.iter().any(|c| self.container(&c.name).ever_ran())
            || pod.spec.init_containers.iter().all(|c| self.is_init_done(c))
    }

    /// Whether the container after this init container may start.
    pub fn is_init_done(&self, container: &Container) -> bool {
        let state = self.container(&container.name);
        if container.is_sidecar() {
            state.is_running() && state.started
        } else {
            state.exit().is_some_and(|e| e.code == 0)
        }
    }

    /// Whether a container that ended so is started again.
    pub fn restarts(pod: &Pod, container: &Container, code: i32) -> bool {
        if pod.spec.is_ephemeral(&container.name) {
            return false;
        }
        if container.restart_policy_rules.iter().any(|r| r.action == "Restart" && r.exit_codes.matches(code)) {
            return true;
        }
        let own = if pod.spec.is_plain_init(&container.name) { None } else { container.restart_policy };
        match own.unwrap_or(pod.spec.restart_policy) {
            // An init container that has done its work is not repeated.
            RestartPolicy::Always if pod.spec.is_plain_init(&container.name) => code != 0,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }
}
