//! What the agent writes on containerd's containers, to know them again after a restart.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::network::PodIdentity;
use crate::runtime::{ContainerSpec, Exit, LocalImage, Phase, Record};

const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER: &str = "io.kubernetes.container.name";
const ATTEMPT: &str = "xebec.io/attempt";
const IMAGE_ID: &str = "xebec.io/image-id";
const CGROUP: &str = "xebec.io/cgroup";
const STOP_SIGNAL: &str = "xebec.io/stop-signal";
/// `code oom started finished`, with times in seconds.
const EXIT: &str = "xebec.io/exit";

/// What the labels of a container say.
#[derive(Clone, Debug)]
pub struct Known {
    /// The container as it was created, or as it ended.
    pub record: Record,
    /// Its cgroup, from the root of the hierarchy.
    pub cgroup: String,
    /// What stops it.
    pub stop_signal: i32,
}

/// The labels of a new container.
pub fn labels(spec: &ContainerSpec, cgroup: &str, stop_signal: i32) -> HashMap<String, String> {
    let labels = [
        (POD_NAMESPACE, spec.pod.namespace.clone()),
        (POD_NAME, spec.pod.name.clone()),
        (POD_UID, spec.pod.uid.clone()),
        (CONTAINER, spec.name.clone()),
        (ATTEMPT, spec.attempt.to_string()),
        (IMAGE_ID, spec.image.id.clone()),
        (CGROUP, cgroup.to_owned()),
        (STOP_SIGNAL, stop_signal.to_string()),
    ];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The label that tells how a container ended.
pub fn exit_label(started_at: Option<Timestamp>, exit: &Exit) -> (String, String) {
    let started = started_at.map_or(0, Timestamp::as_second);
    let oom = u8::from(exit.oom_killed);
    (EXIT.to_owned(), format!("{} {oom} {started} {}", exit.code, exit.finished_at.as_second()))
}

/// Reads the labels; none if the container is not ours.
pub fn known(container: &containerd_client::services::v1::Container) -> Option<Known> {
    let label = |name: &str| container.labels.get(name);
    let record = Record {
        id: container.id.clone(),
        pod: PodIdentity {
            namespace: label(POD_NAMESPACE)?.clone(),
            name: label(POD_NAME)?.clone(),
            uid: label(POD_UID)?.clone(),
        },
        name: label(CONTAINER)?.clone(),
        attempt: label(ATTEMPT)?.parse().ok()?,
        image: LocalImage {
            name: container.image.clone(),
            id: label(IMAGE_ID).cloned().unwrap_or_default(),
            ..LocalImage::default()
        },
        phase: label(EXIT).and_then(|text| parse_exit(text)).unwrap_or(Phase::Created),
    };
    Some(Known {
        record,
        cgroup: label(CGROUP).cloned().unwrap_or_default(),
        stop_signal: label(STOP_SIGNAL).and_then(|s| s.parse().ok()).unwrap_or(libc::SIGTERM),
    })
}

fn parse_exit(text: &str) -> Option<Phase> {
    let mut fields = text.split(' ');
    let code = fields.next()?.parse().ok()?;
    let oom_killed = fields.next()? == "1";
    let started = Timestamp::from_second(fields.next()?.parse().ok()?).ok()?;
    let finished_at = Timestamp::from_second(fields.next()?.parse().ok()?).ok()?;
    Some(Phase::Exited(Some(started), Exit { code, finished_at, oom_killed }))
}
