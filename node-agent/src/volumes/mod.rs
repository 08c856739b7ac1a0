//! A pod's files: its volumes, and what the kubelet puts into every container (`/etc/hosts`, the termination message).

pub mod atomic;
mod certificate;
pub mod files;
pub mod local;
pub mod objects;
pub mod payload;
pub mod persistent;
mod token;
mod trust;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::api::Pod;
use crate::api::pod::Container;
use crate::network::PodIdentity;
use crate::pods::env::Facts;
use crate::runtime::{DiskUsage, LocalImage, Mount};

/// Why a pod's files cannot be made: the message of the event `FailedMount`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VolumeError(pub String);

/// A pod's mounted volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodVolumes {
    /// Where each volume is on the node.
    pub paths: BTreeMap<String, PathBuf>,
}

/// How a container ended, as far as its message depends on it.
#[derive(Clone, Debug)]
pub struct Ended<'a> {
    /// The container.
    pub container: &'a Container,
    /// Its runtime id.
    pub id: &'a str,
    /// Its log.
    pub log_path: PathBuf,
    /// Whether it failed.
    pub failed: bool,
}

/// Makes and removes pods' files.
#[async_trait]
pub trait Volumes: Send + Sync + 'static {
    /// Makes the pod's volumes and keeps them up to date until [`Volumes::unmount`]. Again for the same pod: the same.
    async fn mount(&self, pod: Arc<Pod>) -> Result<PodVolumes, VolumeError>;

    /// The pod's object has changed: its labels may be in a file.
    async fn update(&self, pod: Arc<Pod>);

    /// Takes the volumes away, with what is in those that live as long as the pod. What is not there is no error.
    async fn unmount(&self, pod: &PodIdentity) -> Result<(), VolumeError>;

    /// Removes everything else of the pod: its directory and its logs.
    async fn forget(&self, _pod: &PodIdentity) -> Result<(), VolumeError> {
        Ok(())
    }

    /// Removes what is there of pods that are not `live`: they went while no agent ran.
    async fn collect(&self, _live: &[PodIdentity]) -> Result<(), VolumeError> {
        Ok(())
    }

    /// What is to be mounted into a container.
    async fn container_mounts(
        &self,
        _pod: &Pod,
        _container: &Container,
        _id: &str,
        _volumes: &PodVolumes,
        _env: &[(String, String)],
        _facts: &Facts,
    ) -> Result<Vec<Mount>, VolumeError> {
        Ok(Vec::new())
    }

    /// What is to be mounted into a container of a volume that is an image: `index` is that of the mount in the
    /// container.
    async fn image_mount(
        &self,
        pod: &Pod,
        container: &Container,
        index: usize,
        image: &LocalImage,
        env: &[(String, String)],
    ) -> Result<Mount, VolumeError>;

    /// What the pod's volumes take that are on the node's disk and go with it, by name.
    async fn local_usage(&self, _pod: &Pod) -> BTreeMap<String, DiskUsage> {
        BTreeMap::new()
    }

    /// What a container left for its status when it ended.
    async fn termination_message(&self, _pod: &PodIdentity, _ended: Ended<'_>) -> Option<String> {
        None
    }
}
