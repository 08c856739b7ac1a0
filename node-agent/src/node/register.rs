//! Registers the node, and keeps its status as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use xebec_clock::Clock;

use super::lease;
use super::status::{self, Facts, Observed, conditions};
use crate::api::{ApiError, Meta, Rest};
use crate::events::{About, Recorder};
use crate::eviction::Pressure;
use crate::images::manifest::architecture;
use crate::runtime::{Images, Runtime};
use crate::volumes::persistent;

/// How long the network may take to be up until it is told that it is not. Nothing is told before, not even that the agent
/// lives: one that dies over and over is not to keep its node.
const SETTLE: Duration = Duration::from_secs(3);
/// How often the machine and the runtime are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the status is reported if nothing changes, in rounds of [`LOOK_EVERY`]: five minutes.
const REPORT_ROUNDS: u32 = 60;
/// How often the images are listed, in rounds.
const IMAGE_ROUNDS: u32 = 6;

/// What a node registers with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What does not change.
    pub facts: Facts,
    /// Labels besides the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with, as in `spec.taints`.
    pub taints: Vec<Value>,
    /// Where pods' files are.
    pub data: PathBuf,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Node {
    metadata: Meta,
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<StoredCondition>,
    capacity: BTreeMap<String, String>,
    allocatable: BTreeMap<String, String>,
}

impl NodeStatus {
    /// What pods may have of the extended resources whose capacity others wrote down: all of it; `None` for what is no
    /// longer there (kubelet: `MachineInfo` and allocatable's setter). Empty, if the status says so already.
    fn extended(&self) -> BTreeMap<String, Option<String>> {
        let own = |name: &String| !name.contains('/');
        let all =
            self.capacity.iter().filter(|(name, amount)| !own(name) && self.allocatable.get(*name) != Some(*amount));
        let gone = self.allocatable.keys().filter(|name| !own(name) && !self.capacity.contains_key(*name));
        all.map(|(name, amount)| (name.clone(), Some(amount.clone()))).chain(gone.map(|n| (n.clone(), None))).collect()
    }
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
struct StoredCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// Registers the node, trying until it succeeds; gives its uid.
pub async fn register(config: &NodeConfig, rest: &Rest) -> String {
    let mut delay = Duration::from_millis(100);
    loop {
        match try_register(config, rest).await {
            Ok(uid) => return uid,
            Err(error) => tracing::warn!(%error, "the node is not registered yet"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(7));
    }
}

async fn try_register(config: &NodeConfig, rest: &Rest) -> Result<String, ApiError> {
    let name = &config.facts.name;
    let mut labels = config.labels.clone();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".to_owned());
        labels.insert(format!("{prefix}/arch"), architecture().to_owned());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), name.clone());
    let path = format!("/api/v1/nodes/{name}");
    let existing = match rest.get::<Node>(&path).await {
        Ok(node) => Some(node.metadata),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let volumes = config.data.join(persistent::DIRECTORY).display().to_string();
    let annotations = BTreeMap::from([(persistent::DIRECTORY_ANNOTATION.to_owned(), volumes)]);
    match existing {
        Some(meta) => {
            // What was put there by others stays.
            let lacks = |has: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
                wanted.iter().any(|(key, value)| has.get(key) != Some(value))
            };
            if lacks(&meta.labels, &labels) || lacks(&meta.annotations, &annotations) {
                let patch = json!({ "metadata": { "labels": labels, "annotations": annotations } });
                rest.patch::<Value>(&path, &patch).await?;
            }
            Ok(meta.uid)
        }
        None => {
            let mut spec = json!({});
            if !config.taints.is_empty() {
                spec["taints"] = json!(config.taints);
            }
            let node = json!({
                "apiVersion": "v1", "kind": "Node", "spec": spec,
                "metadata": { "name": name, "labels": labels, "annotations": annotations },
            });
            let made: Node = rest.post("/api/v1/nodes", &node).await?;
            Ok(made.metadata.uid)
        }
    }
}

/// What may be wrong with the node, as its other parts know it.
#[derive(Debug)]
pub struct Problems {
    /// Why pods cannot be connected.
    pub network: watch::Receiver<Option<String>>,
    /// Why the kernel does not hold all services.
    pub services: watch::Receiver<Option<String>>,
    /// Why flows may be forgotten.
    pub flows: watch::Receiver<Option<String>>,
    /// Why large packets do not get to other nodes.
    pub paths: watch::Receiver<Option<String>>,
    /// What is short.
    pub pressure: watch::Receiver<Pressure>,
}

impl Problems {
    /// Waits for news.
    async fn changed(&mut self) {
        let Self { network, services, flows, paths, pressure } = self;
        // Who is gone has no more news.
        async fn news<T>(of: &mut watch::Receiver<T>) {
            if of.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        tokio::select! {
            biased;
            () = news(network) => {}
            () = news(services) => {}
            () = news(flows) => {}
            () = news(paths) => {}
            () = news(pressure) => {}
        }
    }
}

/// Keeps the registered node's lease and status for ever.
#[expect(clippy::too_many_arguments, reason = "one caller, and each is another part of the agent")]
pub async fn run(
    config: NodeConfig,
    rest: Rest,
    uid: String,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    events: Recorder,
    mut problems: Problems,
    clock: Clock,
) {
    // An agent that takes a node over has the network up in less than a second. Told meanwhile that the node is not ready, the
    // cluster would send its load balancer addresses and its pods' clients elsewhere, and back.
    drop(tokio::time::timeout(SETTLE, problems.network.wait_for(Option::is_none)).await);
    let renewing = lease::keep(rest.clone(), config.facts.name.clone(), uid, clock.clone());
    let about = About::node(&config.facts.name);
    events.normal(about.clone(), "Starting", "Starting kubelet.");
    let reporting = async {
        let mut reporter =
            Reporter { config, rest, clock, since: BTreeMap::new(), extended: BTreeMap::new(), reported: None };
        let mut observed = Observed::default();
        for round in 0_u32.. {
            observed.pressure = *problems.pressure.borrow_and_update();
            observed.runtime = Some(runtime.version().await.map_err(|e| e.to_string()));
            observed.network_problem = problems.network.borrow_and_update().clone();
            observed.service_problem = problems.services.borrow_and_update().clone();
            observed.flow_problem = problems.flows.borrow_and_update().clone();
            observed.path_problem = problems.paths.borrow_and_update().clone();
            if round % IMAGE_ROUNDS == 0 {
                observed.images = images.images().await.unwrap_or_default();
            }
            reporter.report(&observed, round % REPORT_ROUNDS == 0, &events, &about).await;
            tokio::select! {
                biased;
                () = problems.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    };
    tokio::join!(renewing, reporting);
}

struct Reporter {
    config: NodeConfig,
    rest: Rest,
    clock: Clock,
    /// Since when a condition has had its value.
    since: BTreeMap<&'static str, (bool, Timestamp)>,
    /// What of extended resources is to be told to be allocatable.
    extended: BTreeMap<String, Option<String>>,
    reported: Option<Observed>,
}

impl Reporter {
    /// Whether the API has other conditions than were reported: the control plane may have taken the node for dead, or
    /// somebody may have deleted it. Or whether somebody gave it resources. When it cannot be asked, nothing is known.
    async fn is_overruled(&mut self, observed: &Observed) -> bool {
        let stored = match self.rest.get::<Node>(&format!("/api/v1/nodes/{}", self.config.facts.name)).await {
            Ok(node) => node.status,
            Err(error) => return error.is_not_found(),
        };
        let differing = conditions(observed).into_iter().filter(|own| {
            let status = if own.holds { "True" } else { "False" };
            !stored.conditions.iter().any(|s| s.kind == own.kind && s.status == status)
        });
        let kinds: Vec<_> = differing.map(|own| own.kind).collect();
        // What the node says now is news again.
        for kind in &kinds {
            self.since.remove(kind);
        }
        self.extended = stored.extended();
        !kinds.is_empty() || !self.extended.is_empty()
    }

    async fn report(&mut self, observed: &Observed, due: bool, events: &Recorder, about: &About) {
        if !due && self.reported.as_ref() == Some(observed) && !self.is_overruled(observed).await {
            return;
        }
        let now = self.clock.now_seconds();
        for condition in conditions(observed) {
            let before = self.since.get(condition.kind).map(|(holds, _)| *holds);
            if before == Some(condition.holds) {
                continue;
            }
            self.since.insert(condition.kind, (condition.holds, now));
            // What upstream says on a change, the first state included.
            let event = match (condition.kind, condition.holds) {
                ("Ready", true) => "NodeReady",
                ("Ready", false) => "NodeNotReady",
                ("MemoryPressure", false) => "NodeHasSufficientMemory",
                ("MemoryPressure", true) => "NodeHasInsufficientMemory",
                ("DiskPressure", false) => "NodeHasNoDiskPressure",
                ("DiskPressure", true) => "NodeHasDiskPressure",
                ("PIDPressure", false) => "NodeHasSufficientPID",
                ("PIDPressure", true) => "NodeHasInsufficientPID",
                ("PathMTUReduced", false) => "NodeHasFullSizePaths",
                ("PathMTUReduced", true) => "NodeHasSmallPaths",
                ("FlowTablePressure", false) => "NodeHasRoomForFlows",
                ("FlowTablePressure", true) => "NodeHasNoRoomForFlows",
                (_, false) => "NodeHasAllServices",
                (_, true) => "NodeLacksServices",
            };
            events.normal(about.clone(), event, format!("Node {} status is now: {event}", self.config.facts.name));
        }
        let since =
            |kind: &str, holds: bool| self.since.get(kind).filter(|(value, _)| *value == holds).map(|(_, at)| *at);
        let mut patch = status::status(&self.config.facts, observed, since, now);
        // Said once: what is then still missing is found by the next look.
        for (name, amount) in std::mem::take(&mut self.extended) {
            patch["status"]["allocatable"][name] = json!(amount);
        }
        let path = format!("/api/v1/nodes/{}/status", self.config.facts.name);
        match self.rest.patch::<Value>(&path, &patch).await {
            Ok(_) => self.reported = Some(observed.clone()),
            Err(error) => {
                tracing::warn!(%error, "the node's status was not reported");
                self.reported = None;
                if error.is_not_found() {
                    // Somebody deleted the node: it comes back, as upstream's does on restart.
                    drop(try_register(&self.config, &self.rest).await);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_resources_are_allocatable_in_full() {
        let status = |capacity: Value, allocatable: Value| -> NodeStatus {
            serde_json::from_value(json!({ "capacity": capacity, "allocatable": allocatable })).unwrap()
        };
        let given = status(json!({ "cpu": "2", "example.com/gpu": "3" }), json!({ "cpu": "1" })).extended();
        assert_eq!(given, BTreeMap::from([("example.com/gpu".to_owned(), Some("3".to_owned()))]));
        let same = json!({ "cpu": "2", "example.com/gpu": "3" });
        assert!(status(same.clone(), same.clone()).extended().is_empty());
        let gone = status(json!({ "cpu": "2" }), same).extended();
        assert_eq!(gone, BTreeMap::from([("example.com/gpu".to_owned(), None)]));
    }
}
