//! What a worker has under way: each ends in a [`Done`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::context::Context;
use super::super::spec;
use super::super::start::{Start, StartError};
use super::super::state::{Connected, Instance};
use super::until;
use crate::api::pod::{Handler, Resources};
use crate::api::status::PodStatus;
use crate::api::{ApiError, Pod};
use crate::drain;
use crate::events::About;
use crate::network::PodIdentity;
use crate::runtime::{Exit, Phase, RuntimeError};
use crate::volumes::PodVolumes;

/// What has come of an operation.
pub enum Done {
    Mounted(Result<PodVolumes, String>),
    /// The devices that the pod claims are not ready.
    NotPrepared(String),
    Connected(Result<Connected, String>),
    Started {
        container: String,
        id: String,
        result: Result<Instance, StartError>,
    },
    PostStart {
        container: String,
        id: String,
        error: Option<String>,
    },
    Stopped {
        id: String,
        exit: Exit,
    },
    Inspected {
        id: String,
        exit: Option<Exit>,
    },
    Resized {
        applied: Vec<(String, Resources)>,
        error: Option<String>,
    },
    Left(drain::Outcome),
    TornDown(Result<(), String>),
    Deleted(Result<(), String>),
    Reported {
        status: PodStatus,
        result: Result<(), ApiError>,
    },
    Nothing,
}

pub async fn mount(context: Arc<Context>, pod: Arc<Pod>) -> Done {
    Done::Mounted(context.parts.volumes.mount(pod).await.map_err(|e| e.to_string()))
}

pub async fn connect(context: Arc<Context>, pod: Arc<Pod>) -> Done {
    match context.parts.devices.prepare(&pod).await {
        Ok(()) => Done::Connected(connected(&context, &pod).await),
        Err(error) => Done::NotPrepared(error),
    }
}

async fn connected(context: &Context, pod: &Pod) -> Result<Connected, String> {
    if pod.spec.host_users == Some(false) && !pod.spec.host_network {
        return Err("hostUsers: false: this node gives no user namespaces to pods".to_owned());
    }
    check_runtime_class(context, &pod.spec.runtime_class_name).await?;
    let hostname = spec::own_hostname(pod, &context.cluster_domain)?;
    let wanted = spec::sandbox(pod, hostname, context.pod_pids_max);
    let sandbox = context.parts.runtime.create_sandbox(&wanted).await.map_err(|e| e.to_string())?;
    let addresses = match &sandbox.netns {
        None => vec![context.host_ip],
        Some(netns) => {
            let made = context.parts.network.setup(&spec::identity(pod), netns).await;
            made.map_err(|e| e.to_string())?.0
        }
    };
    Ok(Connected { sandbox, addresses })
}

/// The handlers that this node has: one, by two names.
const HANDLERS: [&str; 2] = ["", "runc"];

/// Whether the node can run pods of a class.
async fn check_runtime_class(context: &Context, class: &str) -> Result<(), String> {
    if class.is_empty() {
        return Ok(());
    }
    let path = format!("/apis/node.k8s.io/v1/runtimeclasses/{class}");
    let found: Value = context.rest.get(&path).await.map_err(|e| format!("failed to get RuntimeClass {class}: {e}"))?;
    let handler = found["handler"].as_str().unwrap_or_default();
    if HANDLERS.contains(&handler) {
        return Ok(());
    }
    Err(format!("failed to get sandbox runtime: no runtime for {handler:?} is configured"))
}

pub async fn start(context: Arc<Context>, start: Start) -> Done {
    let result = super::super::start::start(&context, &start).await;
    Done::Started { container: start.container, id: start.id, result }
}

pub async fn post_start(
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: String,
    id: String,
    address: Option<IpAddr>,
) -> Done {
    let handler = pod.spec.container(&container).and_then(|c| c.lifecycle.post_start.clone());
    let error = match handler {
        // Upstream sets no limit to it but the container's end; a day stands for that.
        Some(handler) => {
            hook(&context, &pod, &container, &id, &handler, address, Duration::from_secs(86_400)).await.err()
        }
        None => None,
    };
    Done::PostStart { container, id, error }
}

async fn hook(
    context: &Context,
    pod: &Pod,
    container: &str,
    id: &str,
    handler: &Handler,
    address: Option<IpAddr>,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(timeout)).await;
        return Ok(());
    }
    let Some(container) = pod.spec.container(container) else { return Ok(()) };
    context.parts.prober.hook(handler, container, id, address, timeout).await
}

pub async fn leave_services(context: Arc<Context>, pod: Arc<Pod>, within: Duration) -> Done {
    Done::Left(context.parts.services.let_go(&spec::identity(&pod), within).await)
}

/// How to stop a container.
pub struct Stop {
    pub pod: Arc<Pod>,
    pub container: String,
    pub id: String,
    pub deadline: Timestamp,
    /// Whether its preStop hook is to run first.
    pub hook: bool,
    pub address: Option<IpAddr>,
    /// Cancelled when it has ended.
    pub cancel: CancellationToken,
}

/// How long after a kill the runtime is asked what has become of it.
const AFTER_KILL: Duration = Duration::from_secs(1);

pub async fn stop(context: Arc<Context>, stop: Stop) -> Done {
    let cancel = stop.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Done::Nothing,
        done = stop_and_kill(&context, &stop) => done,
    }
}

async fn stop_and_kill(context: &Context, stop: &Stop) -> Done {
    // Whoever sets the clock does not change the grace period.
    let deadline = Instant::now() + until(context.clock.now(), stop.deadline);
    let remaining = || deadline.saturating_duration_since(Instant::now());
    let handler = stop.pod.spec.container(&stop.container).and_then(|c| c.lifecycle.pre_stop.as_ref());
    if let Some(handler) = handler.filter(|_| stop.hook) {
        let run = hook(context, &stop.pod, &stop.container, &stop.id, handler, stop.address, remaining());
        match tokio::time::timeout(remaining(), run).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let about = About::container(&stop.pod, &stop.container);
                context.events.warning(about, "FailedPreStopHook", format!("PreStopHook failed: {error}"));
            }
            Err(_) => tracing::debug!(container = %stop.container, "the preStop hook took the whole grace period"),
        }
    }
    let runtime = &context.parts.runtime;
    if let Err(error) = runtime.signal(&stop.id, None).await {
        tracing::warn!(container = %stop.container, %error, "cannot ask the container to stop");
    }
    // At least a second between asking and killing: a hook may have used up the grace period.
    tokio::time::sleep(remaining().max(Duration::from_secs(1))).await;
    loop {
        if let Err(error) = runtime.signal(&stop.id, Some(libc::SIGKILL)).await {
            tracing::warn!(container = %stop.container, %error, "cannot kill the container");
        }
        tokio::time::sleep(AFTER_KILL).await;
        // The event may have been lost.
        if let Some(exit) = exit_of(context, &stop.id).await {
            return Done::Stopped { id: stop.id.clone(), exit };
        }
    }
}

pub async fn inspect(context: Arc<Context>, id: String) -> Done {
    let exit = exit_of(&context, &id).await;
    Done::Inspected { id, exit }
}

/// How a container ended; one that the runtime does not know has ended too.
async fn exit_of(context: &Context, id: &str) -> Option<Exit> {
    match context.parts.runtime.inspect(id).await {
        Ok(record) => match record.phase {
            Phase::Exited(_, exit) => Some(exit),
            Phase::Created | Phase::Running(_) => None,
        },
        Err(RuntimeError::NotFound(_)) => Some(Exit { code: 137, finished_at: context.clock.now(), oom_killed: false }),
        Err(_) => None,
    }
}

pub async fn remove(context: Arc<Context>, id: String) -> Done {
    if let Err(error) = context.parts.runtime.remove(&id).await {
        tracing::debug!(%id, %error, "an old container is left for later");
    }
    Done::Nothing
}

pub async fn tear_down(context: Arc<Context>, pod: Arc<Pod>) -> Done {
    let identity = spec::identity(&pod);
    let result = async {
        if !pod.spec.host_network {
            let netns = context.parts.runtime.netns_path(&identity);
            context.parts.network.teardown(&identity, &netns).await.map_err(|e| e.to_string())?;
        }
        context.parts.devices.unprepare(&identity).await?;
        let cgroup = super::super::resources::cgroup(&pod.spec, &identity.uid);
        context.parts.runtime.remove_sandbox(&identity, &cgroup).await.map_err(|e| e.to_string())?;
        context.parts.volumes.unmount(&identity).await.map_err(|e| e.to_string())
    };
    Done::TornDown(result.await)
}

pub async fn delete(context: Arc<Context>, pod: Arc<Pod>, ids: Vec<String>, removed: bool) -> Done {
    let identity = spec::identity(&pod);
    let result = async {
        for id in &ids {
            context.parts.runtime.remove(id).await.map_err(|e| e.to_string())?;
            context.owners.lock().remove(id);
        }
        context.parts.volumes.forget(&identity).await.map_err(|e| e.to_string())?;
        if removed {
            return Ok(());
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}", identity.namespace, identity.name);
        match context.rest.delete_now(&path, &identity.uid).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    };
    Done::Deleted(result.await)
}

pub async fn report(context: Arc<Context>, pod: PodIdentity, status: PodStatus, gone: Vec<String>) -> Done {
    let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name);
    // The uid is a precondition: a pod of the same name that came later is another one.
    let mut patch = json!({ "metadata": { "uid": pod.uid }, "status": status });
    if let Some(conditions) = patch["status"]["conditions"].as_array_mut() {
        conditions.extend(gone.iter().map(|kind| json!({ "$patch": "delete", "type": kind })));
    }
    let result = context.rest.patch::<Value>(&path, &patch).await.map(drop);
    Done::Reported { status, result }
}
