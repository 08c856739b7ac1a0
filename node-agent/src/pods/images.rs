//! The images that a container needs, its own and those that are its volumes: fetched if their pull policy asks for that
//! (image_manager.go upstream).

use super::context::Context;
use super::state::WantedImage;
use crate::api::Pod;
use crate::api::pod::Container;
use crate::events::About;
use crate::images::reference::{ImageName, credentials};
use crate::runtime::LocalImage;

/// Why an image is not there: the waiting reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageProblem {
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Which.
    pub image: WantedImage,
}

/// The container's own.
pub async fn of_container(context: &Context, pod: &Pod, container: &Container) -> Result<LocalImage, ImageProblem> {
    let wanted = WantedImage { name: container.image.clone(), of_volume: false };
    let about = About::container(pod, &container.name);
    let found = ensure(context, pod, &about, &wanted, &container.image_pull_policy).await;
    found.map_err(|problem| told(context, &about, problem))
}

/// Those that it mounts, with the places of the mounts in its list.
pub async fn of_volumes(
    context: &Context,
    pod: &Pod,
    container: &Container,
) -> Result<Vec<(usize, LocalImage)>, ImageProblem> {
    let mut images = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let volume = pod.spec.volumes.iter().find(|volume| volume.name == mount.name);
        let Some(source) = volume.and_then(|volume| volume.image.as_ref()) else { continue };
        let wanted = WantedImage { name: source.reference.clone(), of_volume: true };
        let found = ensure(context, pod, &About::pod(pod), &wanted, &source.pull_policy).await;
        let about = || About::container(pod, &container.name);
        images.push((index, found.map_err(|problem| told(context, &about(), problem))?));
    }
    Ok(images)
}

/// The event of a container that cannot start without its image.
fn told(context: &Context, about: &About, problem: ImageProblem) -> ImageProblem {
    if matches!(problem.reason, "ErrImageNeverPull" | "ErrImagePull") || problem.image.of_volume {
        context.events.warning(about.clone(), "Failed", format!("Error: {}", problem.reason));
    }
    problem
}

async fn ensure(
    context: &Context,
    pod: &Pod,
    about: &About,
    wanted: &WantedImage,
    policy: &str,
) -> Result<LocalImage, ImageProblem> {
    let events = &context.events;
    let name = &wanted.name;
    let problem = |reason: &'static str, message: String| ImageProblem { reason, message, image: wanted.clone() };
    let parsed = ImageName::parse(name).map_err(|e| {
        let message =
            format!("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {e}");
        events.warning(about.clone(), "InspectFailed", message.clone());
        problem("InvalidImageName", message)
    })?;
    let images = &context.parts.images;
    // The runtime may know it under the name as it is written: simulated ones do.
    let present = images.find(name).await.map_err(|e| {
        let message = format!("Failed to inspect image \"{name}\": {e}");
        events.warning(about.clone(), "InspectFailed", message.clone());
        problem("ImageInspectError", message)
    })?;
    let policy = match policy {
        "" if parsed.is_latest() => "Always",
        "" => "IfNotPresent",
        policy => policy,
    };
    match (policy, present) {
        ("Never", None) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            events.warning(about.clone(), "ErrImageNeverPull", message.clone());
            return Err(problem("ErrImageNeverPull", message));
        }
        ("Never" | "IfNotPresent", Some(image)) => {
            let how = "already present on machine and can be accessed by the pod";
            events.normal(about.clone(), "Pulled", format!("Container image \"{name}\" {how}"));
            return Ok(image);
        }
        _ => {}
    }
    events.normal(about.clone(), "Pulling", format!("Pulling image \"{name}\""));
    let secrets = context.pull_secrets(pod).await;
    let began = context.clock.now();
    match images.pull(name, &credentials(&secrets, &parsed.to_string())).await {
        Ok(image) => {
            let took = context.clock.now().duration_since(began);
            let took = format!("{:.3}s", took.as_secs_f64().max(0.0));
            let size = image.size_bytes;
            let message = format!(
                "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {size} bytes."
            );
            events.normal(about.clone(), "Pulled", message);
            Ok(image)
        }
        Err(error) => {
            events.warning(about.clone(), "Failed", format!("Failed to pull image \"{name}\": {error}"));
            Err(problem("ErrImagePull", error.to_string()))
        }
    }
}
