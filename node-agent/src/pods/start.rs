//! Starting one container, from its image to its first process: read top-down.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::env::environment;
use super::spec::{self, Ingredients};
use super::state::{Connected, Instance};
use crate::api::Pod;
use crate::api::pod::Container;
use crate::events::About;
use crate::images::reference::{ImageName, credentials};
use crate::runtime::{Exit, LocalImage, Phase, RuntimeError};
use crate::volumes::PodVolumes;

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The pod does not want it any more.
    Cancelled,
    /// Its image is not there: the waiting reason and message.
    Image(&'static str, String),
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
    let image = tokio::select! {
        biased;
        () = start.cancel.cancelled() => return Err(StartError::Cancelled),
        image = image(context, &start.pod, container) => image?,
    };
    let spec = match build(context, start, container, image.clone()).await {
        Ok(spec) => spec,
        Err(message) => {
            context.events.warning(about(), "Failed", format!("Error: {message}"));
            return Err(StartError::Config("CreateContainerConfigError", message));
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
) -> Result<crate::runtime::ContainerSpec, String> {
    let pod = &start.pod;
    let target = &container.target_container_name;
    if !target.is_empty() && start.target.is_none() {
        return Err(format!("unable to find target container {target}"));
    }
    let facts = context.facts(&start.connected.addresses);
    let sources = context.sources(pod, container).await.map_err(|e| e.to_string())?;
    let env = environment(pod, container, &sources, &facts).map_err(|e| e.to_string())?;
    let volumes = &context.parts.volumes;
    let mounts = volumes
        .container_mounts(pod, container, &start.id, &start.volumes, &env, &facts)
        .await
        .map_err(|e| e.to_string())?;
    let edits = context.parts.devices.edits(pod, container).await?;
    let with = Ingredients {
        id: start.id.clone(),
        attempt: start.attempt,
        image,
        hostname: spec::own_hostname(pod, &context.cluster_domain)?,
        env,
        mounts,
        edits,
        log_path: context.log_path(&spec::identity(pod), &container.name, start.attempt),
        capacity_bytes: context.allocatable.memory_bytes,
        target: start.target.clone(),
    };
    Ok(spec::container(pod, container, &start.connected, with))
}

/// The container's image, fetched if its pull policy asks for that (image_manager.go upstream).
async fn image(context: &Context, pod: &Pod, container: &Container) -> Result<LocalImage, StartError> {
    let about = || About::container(pod, &container.name);
    let events = &context.events;
    let name = &container.image;
    let parsed = ImageName::parse(name).map_err(|e| {
        let message =
            format!("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {e}");
        events.warning(about(), "InspectFailed", message.clone());
        StartError::Image("InvalidImageName", message)
    })?;
    let full = parsed.to_string();
    let images = &context.parts.images;
    // The runtime may know it under the name as it is written: simulated ones do.
    let present = images.find(name).await.map_err(|e| {
        let message = format!("Failed to inspect image \"{name}\": {e}");
        events.warning(about(), "InspectFailed", message.clone());
        StartError::Image("ImageInspectError", message)
    })?;
    let policy = match container.image_pull_policy.as_str() {
        "" if parsed.is_latest() => "Always",
        "" => "IfNotPresent",
        policy => policy,
    };
    match (policy, present) {
        ("Never", None) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            events.warning(about(), "ErrImageNeverPull", message.clone());
            events.warning(about(), "Failed", "Error: ErrImageNeverPull");
            return Err(StartError::Image("ErrImageNeverPull", message));
        }
        ("Never" | "IfNotPresent", Some(image)) => {
            let how = "already present on machine and can be accessed by the pod";
            events.normal(about(), "Pulled", format!("Container image \"{name}\" {how}"));
            return Ok(image);
        }
        _ => {}
    }
    events.normal(about(), "Pulling", format!("Pulling image \"{name}\""));
    let secrets = context.pull_secrets(pod).await;
    let began = context.clock.now();
    match images.pull(name, &credentials(&secrets, &full)).await {
        Ok(image) => {
            let took = context.clock.now().duration_since(began);
            let took = format!("{:.3}s", took.as_secs_f64().max(0.0));
            events.normal(
                about(),
                "Pulled",
                format!(
                    "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    image.size_bytes
                ),
            );
            Ok(image)
        }
        Err(error) => {
            events.warning(about(), "Failed", format!("Failed to pull image \"{name}\": {error}"));
            events.warning(about(), "Failed", "Error: ErrImagePull");
            Err(StartError::Image("ErrImagePull", error.to_string()))
        }
    }
}
