//! Looks at the node every few seconds, and sends pods away if it must.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::measure::{self, Places};
use super::plan::{self, Candidate, Conditions};
use super::threshold::{Observation, Signal, Threshold};
use super::{EvictionConfig, Pressure};
use crate::api::Pod;
use crate::events::About;
use crate::images::unused::Unused;
use crate::pods::Context;
use crate::pods::manager::Pods;
use crate::pods::state::Evicted;

/// How long a pod that has to go may take before the next may have to.
const CLEANUP: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const CLEANUP_LOOK: Duration = Duration::from_secs(1);

/// A pod that has to go.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// Its uid.
    pub uid: String,
    /// Why.
    pub why: Evicted,
}

/// What it takes to keep a node from running short.
pub struct Evictor {
    /// When pods have to go.
    pub config: EvictionConfig,
    /// What the workers share.
    pub context: Arc<Context>,
    /// The node's pods.
    pub pods: Pods,
    /// Where to look.
    pub places: Places,
    /// Images that nobody uses go first.
    pub unused: Arc<Unused>,
    /// Takes pods that have to go.
    pub evictions: mpsc::Sender<Eviction>,
    /// Is told what is short.
    pub pressure: watch::Sender<Pressure>,
}

impl Evictor {
    /// Until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let mut conditions = Conditions::default();
        loop {
            let round = async {
                let evicted = self.round(&mut conditions).await;
                if evicted.is_empty() {
                    tokio::time::sleep(self.config.every).await;
                } else {
                    self.wait_until_gone(&evicted).await;
                }
            };
            if cancel.run_until_cancelled(round).await.is_none() {
                return;
            }
        }
    }

    /// Looks once; gives the uids of the pods that have to go.
    async fn round(&self, conditions: &mut Conditions) -> Vec<String> {
        let observed = self.places.observe();
        let met = plan::met(&self.config.hard, &observed);
        let pressure = conditions.observe(&met, Instant::now(), self.config.pressure_transition);
        crate::news::tell(&self.pressure, pressure);
        let over = self.over_limits().await;
        if !over.is_empty() {
            return over;
        }
        let Some(threshold) = met.first() else { return Vec::new() };
        self.reclaim(threshold, &observed).await
    }

    /// The pods that may have to go.
    fn active(&self) -> impl Iterator<Item = Arc<Pod>> {
        self.pods.all().into_iter().filter(|pod| !pod.status.is_final() && pod.metadata.deletion_timestamp.is_none())
    }

    /// Sends those away that have more on disk than they may.
    async fn over_limits(&self) -> Vec<String> {
        let split = self.places.are_split();
        let mut evicted = Vec::new();
        for pod in self.active().filter(|pod| plan::has_disk_limits(pod)) {
            let Some(stats) = measure::pod(&self.context, &pod).await else { continue };
            let Some(message) = plan::over_limits(&pod, &stats, split) else { continue };
            if self.evict(&pod, message, false).await {
                evicted.push(pod.metadata.uid.clone());
            }
        }
        evicted
    }

    /// Makes room: by what nobody misses, or else by one pod.
    async fn reclaim(&self, threshold: &Threshold, observed: &BTreeMap<Signal, Observation>) -> Vec<String> {
        let resource = threshold.signal.resource();
        let about = About::node(&self.context.node_name);
        let message = format!("Attempting to reclaim {resource}");
        self.context.events.warning(about, "EvictionThresholdMet", message);
        let split = self.places.are_split();
        let images = matches!(threshold.signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
        if threshold.signal.is_disk() && (images || !split) {
            self.unused.remove_all().await;
            if plan::met(&self.config.hard, &self.places.observe()).is_empty() {
                tracing::info!(resource, "unused images made enough room");
                return Vec::new();
            }
        }
        let mut candidates: Vec<Candidate> = Vec::new();
        for pod in self.active() {
            let stats = measure::pod(&self.context, &pod).await;
            candidates.push((pod, stats));
        }
        plan::rank(threshold.signal, split, &mut candidates);
        for (pod, stats) in &candidates {
            let message = plan::message(threshold, observed.get(&threshold.signal), pod, stats.as_ref());
            if self.evict(pod, message, true).await {
                return vec![pod.metadata.uid.clone()];
            }
        }
        tracing::warn!(resource, "the node is short of it, and no pod can be sent away");
        Vec::new()
    }

    /// Sends a pod away, unless it must stay. `disrupted`: not for what it did itself.
    async fn evict(&self, pod: &Pod, message: String, disrupted: bool) -> bool {
        if plan::is_critical(pod) {
            tracing::warn!(namespace = %pod.metadata.namespace, pod = %pod.metadata.name, "a critical pod is not sent away");
            return false;
        }
        self.context.events.warning(About::pod(pod), "Evicted", message.clone());
        let eviction = Eviction { uid: pod.metadata.uid.clone(), why: Evicted { message, disrupted } };
        self.evictions.send(eviction).await.is_ok()
    }

    async fn wait_until_gone(&self, uids: &[String]) {
        let gone = async {
            while self.active().any(|pod| uids.contains(&pod.metadata.uid)) {
                tokio::time::sleep(CLEANUP_LOOK).await;
            }
        };
        if tokio::time::timeout(CLEANUP, gone).await.is_err() {
            tracing::warn!("pods that were sent away are still there");
        }
    }
}
