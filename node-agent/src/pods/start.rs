//! Starting one container, from its image to its first process: read top-down.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::env::environment;
use super::images::{self, ImageProblem};
use super::spec::{self, Ingredients};
use super::state::{Connected, Instance};
use crate::api::Pod;
use crate::api::pod::Container;
use crate::events::About;
use crate::runtime::{ContainerSpec, Exit, LocalImage, Phase, RuntimeError};
use crate::volumes::PodVolumes;

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The pod does not want it any more.
    Cancelled,
    /// An image is not there.
    Image(ImageProblem),
    /// Its configuration cannot be made: the waiting reason and message.
    Config(&'static str, String),
    /// It was created, but its process did not start: its end, and the message.
    Process(Box<Instance>, String),
}

/// What to start.
pub struct Start {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container's name.
    pub container: String,
    /// Its id to be.
    pub id: String,
    /// How many there were before it.
    pub attempt: u32,
    /// The pod's sandbox and addresses.
    pub connected: Connected,
    /// The pod's volumes.
    pub volumes: PodVolumes,
    /// Of an ephemeral container with a target: that container's id, if it runs.
    pub target: Option<String>,
    /// Gives up.
    pub cancel: CancellationToken,
}

/// Starts it.
pub async fn start(context: &Context, start: &Start) -> Result<Instance, StartError> {
    let about = || About::container(&start.pod, &start.container);
    let Some(container) = start.pod.spec.container(&start.container) else {
        return Err(StartError::Cancelled);
    };
    let found = async {
        let volumes = images::of_volumes(context, &start.pod, container).await?;
        Ok::<_, ImageProblem>((volumes, images::of_container(context, &start.pod, container).await?))
    };
    let (volumes, image) = tokio::select! {
        biased;
        () = start.cancel.cancelled() => return Err(StartError::Cancelled),
        found = found => found.map_err(StartError::Image)?,
    };
    let spec = match build(context, start, container, image.clone(), &volumes).await {
        Ok(spec) => spec,
        Err((reason, message)) => {
            context.events.warning(about(), "Failed", format!("Error: {message}"));
            return Err(StartError::Config(reason, message));
        }
    };
    if start.cancel.is_cancelled() {
        return Err(StartError::Cancelled);
    }
    context.owners.lock().insert(start.id.clone(), start.pod.metadata.uid.clone());
    if let Err(error) = context.parts.runtime.create(&spec).await {
        context.owners.lock().remove(&start.id);
        drop(context.parts.runtime.remove(&start.id).await);
        context.events.warning(about(), "Failed", format!("Error: {error}"));
        let reason = match error {
            // What the image or the pod says about the user, for example.
            RuntimeError::Invalid(_) => "CreateContainerConfigError",
            _ => "CreateContainerError",
        };
        return Err(StartError::Config(reason, error.to_string()));
    }
    context.events.normal(about(), "Created", "Container created");
    if start.cancel.is_cancelled() {
        drop(context.parts.runtime.remove(&start.id).await);
        context.owners.lock().remove(&start.id);
        return Err(StartError::Cancelled);
    }
    let mut instance = Instance {
        id: start.id.clone(),
        attempt: start.attempt,
        image,
        phase: Phase::Created,
        message: None,
        reason: None,
    };
    match context.parts.runtime.start(&start.id).await {
        Ok(since) => {
            context.events.normal(about(), "Started", "Container started");
            instance.phase = Phase::Running(since);
            Ok(instance)
        }
        Err(error) => {
            context.events.warning(about(), "Failed", format!("Error: {error}"));
            // What the shell says of a command that it cannot run, and containerd with it.
            let exit = Exit { code: 128, finished_at: context.clock.now(), oom_killed: false };
            instance.phase = Phase::Exited(Some(Timestamp::UNIX_EPOCH), exit);
            instance.reason = Some("StartError".to_owned());
            instance.message = Some(error.to_string());
            Err(StartError::Process(Box::new(instance), error.to_string()))
        }
    }
}

async fn build(
    context: &Context,
    start: &Start,
    container: &Container,
    image: LocalImage,
    of_volumes: &[(usize, LocalImage)],
) -> Result<ContainerSpec, (&'static str, String)> {
    let config = |message: String| ("CreateContainerConfigError", message);
    let pod = &start.pod;
    let target = &container.target_container_name;
    if !target.is_empty() && start.target.is_none() {
        return Err(config(format!("unable to find target container {target}")));
    }
    let facts = context.facts(&start.connected.addresses);
    let sources = context.sources(pod, container).await.map_err(|e| config(e.to_string()))?;
    let env = environment(pod, container, &sources, &facts).map_err(|e| config(e.to_string()))?;
    let volumes = &context.parts.volumes;
    let mounts = volumes.container_mounts(pod, container, &start.id, &start.volumes, &env, &facts).await;
    let mut mounts = mounts.map_err(|e| config(e.to_string()))?;
    for (index, image) in of_volumes {
        let mount = volumes.image_mount(pod, container, *index, image, &env).await;
        mounts.push(mount.map_err(|e| ("CreateContainerError", format!("failed to generate container spec: {e}")))?);
    }
    let edits = context.parts.devices.edits(pod, container).await.map_err(config)?;
    let with = Ingredients {
        id: start.id.clone(),
        attempt: start.attempt,
        image,
        hostname: spec::own_hostname(pod, &context.cluster_domain).map_err(config)?,
        env,
        mounts,
        edits,
        log_path: context.log_path(&spec::identity(pod), &container.name, start.attempt),
        capacity_bytes: context.allocatable.memory_bytes,
        target: start.target.clone(),
    };
    Ok(spec::container(pod, container, &start.connected, with))
}
