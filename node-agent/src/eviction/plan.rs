//! Which thresholds are met, what the node is told of it, and which pod has to go: pure (eviction/helpers.go upstream).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use xebec_schema::quantity::{Format, Quantity};

use super::Pressure;
use super::threshold::{Observation, Signal, Threshold};
use crate::api::Pod;
use crate::api::pod::{Container, PodSpec};
use crate::pods::resources::pod_request;
use crate::runtime::DiskUsage;

const STORAGE: &str = "ephemeral-storage";

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Memory that the kernel cannot take back at once, in bytes.
    pub memory_bytes: u64,
    /// What it has written to its root file system.
    pub root: DiskUsage,
    /// Its logs.
    pub logs: DiskUsage,
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStats {
    /// Its running containers, by name.
    pub containers: BTreeMap<String, ContainerStats>,
    /// Its volumes that are on the node's disk and go with it, by name.
    pub volumes: BTreeMap<String, DiskUsage>,
    /// Processes.
    pub processes: u64,
}

impl PodStats {
    fn memory_bytes(&self) -> i64 {
        whole(self.containers.values().map(|c| c.memory_bytes).sum())
    }

    /// What it has on the disks that are looked at.
    fn disk(&self, on: On) -> DiskUsage {
        let mut sum = DiskUsage::default();
        for container in self.containers.values() {
            if on.root {
                sum.add(container.root);
            }
            if on.rest {
                sum.add(container.logs);
            }
        }
        if on.rest {
            self.volumes.values().for_each(|volume| sum.add(*volume));
        }
        sum
    }
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What of a pod is on a disk that is short.
#[derive(Clone, Copy)]
struct On {
    /// What containers write to their root file systems: beside the images.
    root: bool,
    /// Logs and volumes.
    rest: bool,
}

impl On {
    /// `split`: images have a disk of their own.
    fn disk_of(signal: Signal, split: bool) -> Self {
        let images = matches!(signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
        Self { root: !split || images, rest: !split || !images }
    }
}

/// The conditions of the node: when each was last called for.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    seen: [Option<Instant>; 3],
}

impl Conditions {
    /// What holds, now that `met` are met. It holds on for the transition period.
    pub fn observe(&mut self, met: &[Threshold], now: Instant, transition: Duration) -> Pressure {
        let mut pressed = Pressure::default();
        met.iter().for_each(|threshold| threshold.signal.presses(&mut pressed));
        for (seen, holds) in self.seen.iter_mut().zip([pressed.memory, pressed.disk, pressed.pid]) {
            if holds {
                *seen = Some(now);
            }
        }
        let holds = |seen: Option<Instant>| seen.is_some_and(|at| now == at || now.duration_since(at) < transition);
        Pressure { memory: holds(self.seen[0]), disk: holds(self.seen[1]), pid: holds(self.seen[2]) }
    }
}

/// The thresholds that are met, the most urgent first.
pub fn met(thresholds: &[Threshold], observed: &BTreeMap<Signal, Observation>) -> Vec<Threshold> {
    let is_met = |t: &&Threshold| observed.get(&t.signal).is_some_and(|observed| t.is_met(observed));
    thresholds.iter().filter(is_met).copied().collect()
}

/// Pods of this priority and above keep the cluster going: they are never sent away.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// Whether a pod must stay whatever happens.
pub fn is_critical(pod: &Pod) -> bool {
    pod.spec.priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL)
        || pod.metadata.annotations.contains_key("kubernetes.io/config.mirror")
}

/// Whether a pod may be under limits of what it has on disk.
pub fn has_disk_limits(pod: &Pod) -> bool {
    pod.spec.volumes.iter().any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()))
        || pod.spec.all_containers().any(|c| c.resources.limits.contains_key(STORAGE))
}

/// Why a pod has to go for what it has on disk, if so: the message.
pub fn over_limits(pod: &Pod, stats: &PodStats, split: bool) -> Option<String> {
    over_volume_limit(pod, stats).or_else(|| over_pod_limit(pod, stats)).or_else(|| {
        let mut limited = pod.spec.containers.iter().filter(|c| limit(c).is_some_and(|l| !l.is_zero()));
        limited.find_map(|container| {
            let used = stats.containers.get(&container.name)?;
            let bytes = used.logs.bytes + if split { 0 } else { used.root.bytes };
            let limit = limit(container).filter(|limit| bytes_of(bytes) > *limit)?;
            Some(format!("Container {} exceeded its local ephemeral storage limit \"{limit}\". ", container.name))
        })
    })
}

fn bytes_of(bytes: u64) -> Quantity {
    Quantity::new(whole(bytes), Format::BinarySi)
}

fn limit(container: &Container) -> Option<Quantity> {
    container.resources.limits.get(STORAGE).and_then(Quantity::of_json)
}

fn over_volume_limit(pod: &Pod, stats: &PodStats) -> Option<String> {
    pod.spec.volumes.iter().find_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref().and_then(Quantity::of_json)?;
        let used = bytes_of(stats.volumes.get(&volume.name)?.bytes);
        let over = !limit.is_zero() && !limit.is_negative() && used > limit;
        over.then(|| format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{limit}\". ", volume.name))
    })
}

fn over_pod_limit(pod: &Pod, stats: &PodStats) -> Option<String> {
    let limit = pod_limit(&pod.spec)?;
    let used = stats.disk(On { root: true, rest: true }).bytes;
    let message = || format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
    (bytes_of(used) > limit).then(message)
}

/// What all containers may have on disk together; none if none is limited.
fn pod_limit(spec: &PodSpec) -> Option<Quantity> {
    spec.all_containers().find_map(limit)?;
    let of = |container: &Container| limit(container).unwrap_or(Quantity::ZERO);
    let (mut sidecars, mut peak) = (Quantity::ZERO, Quantity::ZERO);
    for container in &spec.init_containers {
        if container.is_sidecar() {
            sidecars = sidecars.add(&of(container));
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.add(&of(container)));
        }
    }
    let together = spec.containers.iter().fold(sidecars, |sum, container| sum.add(&of(container)));
    Some(together.max(peak))
}

/// A pod that may have to go, and what it uses, if that is known.
pub type Candidate = (std::sync::Arc<Pod>, Option<PodStats>);

/// Puts pods in the order in which they have to go for `signal`: those that use more than they asked for, then by priority,
/// then by how much more they use. `split`: images have a disk of their own.
pub fn rank(signal: Signal, split: bool, candidates: &mut [Candidate]) {
    let on = On::disk_of(signal, split);
    candidates.sort_by(|(pod, stats), (other, others)| {
        let (Some(stats), Some(others)) = (stats, others) else {
            // One of which nothing is known goes first.
            return stats.is_some().cmp(&others.is_some()).then_with(|| by_priority(pod, other));
        };
        match signal {
            Signal::MemoryAvailable => {
                let over = |pod: &Pod, stats: &PodStats| stats.memory_bytes() - pod_request(&pod.spec, "memory");
                by_excess(over(pod, stats), over(other, others), by_priority(pod, other))
            }
            Signal::PidAvailable => by_priority(pod, other).then(others.processes.cmp(&stats.processes)),
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => {
                let over = |pod: &Pod, stats: &PodStats| whole(stats.disk(on).bytes) - pod_request(&pod.spec, STORAGE);
                by_excess(over(pod, stats), over(other, others), by_priority(pod, other))
            }
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => {
                // Nobody can ask for them: what is used is too much.
                let over = |stats: &PodStats| whole(stats.disk(on).inodes);
                by_excess(over(stats), over(others), by_priority(pod, other))
            }
        }
    });
}

/// Who uses more than asked for goes before who does not, and the rest by priority, the larger excess first.
fn by_excess(over: i64, others: i64, by_priority: Ordering) -> Ordering {
    (others > 0).cmp(&(over > 0)).then(by_priority).then(others.cmp(&over))
}

fn by_priority(pod: &Pod, other: &Pod) -> Ordering {
    pod.spec.priority.unwrap_or(0).cmp(&other.spec.priority.unwrap_or(0))
}

/// Why a pod has to go: what its status and its event say.
pub fn message(threshold: &Threshold, observed: Option<&Observation>, pod: &Pod, stats: Option<&PodStats>) -> String {
    let resource = threshold.signal.resource();
    let mut message = format!("The node was low on resource: {resource}. ");
    if let Some(observed) = observed {
        let (least, left) = (threshold.of(observed.capacity), threshold.signal.amount(observed.available));
        message.push_str(&format!("Threshold quantity: {least}, available: {left}. "));
    }
    let Some(stats) = stats else { return message };
    let own = pod.spec.resources.as_ref().and_then(|r| r.requests.get(resource)).and_then(Quantity::of_json);
    if let (Some(request), "memory") = (own, resource) {
        let used = Quantity::new(stats.memory_bytes(), Format::BinarySi);
        message.push_str(&larger("Pod", &pod.metadata.name, used, request, resource));
    }
    for container in pod.spec.containers.iter().chain(&pod.spec.init_containers) {
        let Some(used) = stats.containers.get(&container.name) else { continue };
        let used = match resource {
            "memory" => bytes_of(used.memory_bytes),
            STORAGE => bytes_of(used.root.bytes.saturating_add(used.logs.bytes)),
            _ => continue,
        };
        let asked = container.resources.requests.get(resource).and_then(Quantity::of_json);
        let asked = asked.unwrap_or(Quantity::ZERO);
        if used > asked {
            message.push_str(&larger("Container", &container.name, used, asked, resource));
        }
    }
    message
}

fn larger(what: &str, name: &str, used: Quantity, asked: Quantity, resource: &str) -> String {
    format!("{what} {name} was using {used}, request is {asked}, has larger consumption of {resource}. ")
}

/// How much of a signal is kept back from pods.
pub fn reserved(thresholds: &[Threshold], signal: Signal, capacity: i64) -> i64 {
    thresholds.iter().find(|t| t.signal == signal).map_or(0, |t| t.of(capacity).value().clamp(0, capacity))
}

#[cfg(test)]
mod tests;
