//! Devices that pods claim (KEP-4381; upstream `pkg/kubelet/cm/dra`).
//!
//! Their drivers run on the node, mostly as pods, and make themselves known by a socket in the directory that [`plugins`]
//! follows. [`manager::DeviceManager`] has them prepare what a pod claims before its first container, and undo that after
//! its last; [`prepared`] remembers on disk what was prepared. What a container gets of it is said in CDI files: [`cdi`]. [`fake`] is a driver
//! for tests.

pub mod cdi;
pub mod fake;
pub mod manager;
pub mod plugins;
pub mod prepared;
mod rpc;
#[cfg(test)]
mod tests;

use async_trait::async_trait;

use crate::api::Pod;
use crate::api::pod::Container;
use crate::network::PodIdentity;

pub use cdi::ContainerEdits;

/// Makes devices usable.
#[async_trait]
pub trait Devices: Send + Sync + 'static {
    /// Has what a pod claims prepared. May be called again after it failed, or was done.
    async fn prepare(&self, pod: &Pod) -> Result<(), String>;

    /// What a container of the pod gets of it.
    async fn edits(&self, pod: &Pod, container: &Container) -> Result<Vec<ContainerEdits>, String>;

    /// Has that undone, once none of the pod's containers runs.
    async fn unprepare(&self, pod: &PodIdentity) -> Result<(), String>;

    /// The same for all pods that are not among these.
    async fn collect(&self, pods: &[PodIdentity]);
}

/// No devices need anything: as in simulations.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDevices;

#[async_trait]
impl Devices for NoDevices {
    async fn prepare(&self, _: &Pod) -> Result<(), String> {
        Ok(())
    }

    async fn edits(&self, _: &Pod, _: &Container) -> Result<Vec<ContainerEdits>, String> {
        Ok(Vec::new())
    }

    async fn unprepare(&self, _: &PodIdentity) -> Result<(), String> {
        Ok(())
    }

    async fn collect(&self, _: &[PodIdentity]) {}
}
