//! What is left of the machine, and what pods use of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::plan::{ContainerStats, PodStats};
use super::threshold::{Observation, Signal};
use crate::api::Pod;
use crate::disk::{self, FileSystem};
use crate::node::machine;
use crate::pods::Context;
use crate::pods::spec::identity;
use crate::runtime::DiskUsage;

/// Where the node's disks are looked at.
#[derive(Clone, Debug)]
pub struct Places {
    /// Pods' files.
    pub node: PathBuf,
    /// Images, and what containers write.
    pub images: PathBuf,
}

impl Places {
    /// Whether images have a disk of their own.
    pub fn are_split(&self) -> bool {
        let device = |path: &Path| FileSystem::of(path).map(|fs| fs.device);
        device(&self.node) != device(&self.images)
    }

    /// What is left of everything that can be told.
    pub fn observe(&self) -> BTreeMap<Signal, Observation> {
        let mut observed = BTreeMap::new();
        let mut add = |signal, available: Option<i64>, capacity: Option<i64>| {
            // A file system that does not say how many files it can hold cannot run short of them.
            if let (Some(available), Some(capacity)) = (available, capacity.filter(|capacity| *capacity > 0)) {
                observed.insert(signal, Observation { available: available.min(capacity), capacity });
            }
        };
        add(Signal::MemoryAvailable, machine::memory("MemAvailable:"), machine::memory("MemTotal:"));
        let disks = [
            (&self.node, Signal::NodeFsAvailable, Signal::NodeFsInodesFree),
            (&self.images, Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
        ];
        for (path, bytes, inodes) in disks {
            let Some(fs) = FileSystem::of(path) else { continue };
            add(bytes, Some(fs.bytes_available), Some(fs.bytes));
            add(inodes, Some(fs.inodes_free), Some(fs.inodes));
        }
        if let Some((threads, max)) = machine::threads() {
            add(Signal::PidAvailable, Some(max.saturating_sub(threads)), Some(max));
        }
        observed
    }
}

/// What a pod uses; none if nothing is known of it.
pub async fn pod(context: &Context, pod: &Pod) -> Option<PodStats> {
    let mut stats = PodStats::default();
    for container in pod.spec.every_container() {
        let latest = context.latest(&pod.metadata.uid, &container.name);
        let Some(latest) = latest.map(|latest| latest.borrow().clone()).filter(|latest| latest.running) else {
            continue;
        };
        let runtime = &context.parts.runtime;
        let usage = runtime.usage(&latest.id).await.ok()?;
        let logs = context.log_path(&identity(pod), &container.name, latest.attempt);
        let used = ContainerStats {
            memory_bytes: usage.memory_working_set_bytes,
            root: runtime.disk_usage(&latest.id).await.ok()?,
            logs: of_folder(logs.parent()?.to_owned()).await,
        };
        stats.processes += usage.processes;
        stats.containers.insert(container.name.clone(), used);
    }
    stats.volumes = context.parts.volumes.local_usage(pod).await;
    Some(stats)
}

/// What a folder takes; nothing if it cannot be told.
pub async fn of_folder(path: PathBuf) -> DiskUsage {
    let told = path.display().to_string();
    match tokio::task::spawn_blocking(move || disk::usage(&path)).await {
        Ok(Ok(usage)) => usage,
        Ok(Err(error)) => {
            tracing::debug!(path = told, %error, "what a folder takes cannot be told");
            DiskUsage::default()
        }
        Err(_) => DiskUsage::default(),
    }
}
