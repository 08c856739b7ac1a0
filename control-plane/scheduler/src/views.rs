//! Pods, nodes and the rest, as the scheduler sees them: what placing depends on, with quantities added up.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use xebec_controllers::runtime::cache::View;
use xebec_controllers::runtime::kind::{self, Kind};
use xebec_controllers::runtime::labels::LabelSelector;
use xebec_controllers::runtime::meta::{Condition, Meta, null_default};
use xebec_controllers::views::{
    ClaimUse, PodClaim, RawPodClaim, RawPodClaimStatus, Taint, Toleration, claim_uses, pod_claims, tolerations,
};
pub use xebec_controllers::views::{NodeSelector, NodeTerm};
use xebec_schema::quantity::Quantity;

/// What a container that asks for nothing is taken to use when nodes are scored: 100m and 200 MB.
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_storage_bytes: i64,
    /// Everything else, by name.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; what is no quantity counts as nothing (the API server let it through once).
    fn parse(list: &BTreeMap<String, QuantityText>) -> Self {
        let mut resources = Self::default();
        for (name, text) in list {
            let Ok(quantity) = Quantity::parse(&text.0) else { continue };
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity.milli_value(),
                "memory" => resources.memory_bytes = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage_bytes = quantity.value(),
                _ => {
                    resources.other.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    /// Adds another amount.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes another amount away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_storage_bytes = with(self.ephemeral_storage_bytes, other.ephemeral_storage_bytes);
        for (name, amount) in &other.other {
            let sum = self.other.entry(name.clone()).or_default();
            *sum = with(*sum, *amount);
        }
    }
}

/// A quantity as text: a JSON string or number.
#[derive(Clone, Debug)]
struct QuantityText(String);

impl<'de> Deserialize<'de> for QuantityText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(serde_json::Number),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Text(text) => Self(text),
            Either::Number(number) => Self(number.to_string()),
        })
    }
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    /// Metadata, without annotations.
    pub metadata: Meta,
    /// Where it is placed; empty if it is not.
    pub node_name: String,
    /// Who is to place it.
    pub scheduler_name: String,
    /// How much it matters.
    pub priority: i32,
    /// It does not push others out.
    pub never_preempts: bool,
    /// What it asks for.
    pub requests: Resources,
    /// What it is taken to use, for scores: CPU in thousandths, memory in bytes.
    pub usage: (i64, i64),
    /// Ports of the node that it takes.
    pub host_ports: Vec<HostPort>,
    /// Images of its containers; empty once it is placed.
    pub images: Vec<String>,
    /// How many containers it has, init containers among them.
    pub containers: usize,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What attracts and repels it.
    pub affinity: Option<Box<Affinity>>,
    /// Taints it puts up with; empty once it is placed.
    pub tolerations: Arc<[Toleration]>,
    /// How it is to be spread with its like.
    pub spread: Vec<SpreadConstraint>,
    /// The claims that its volumes stand for.
    pub claims: Box<[ClaimUse]>,
    /// The devices that it claims.
    pub device_claims: Box<[PodClaim]>,
    /// It is not to be placed while there are any.
    pub gates: usize,
    /// It has ended.
    pub is_finished: bool,
    /// The node on which room is being made for it.
    pub nominated_node: String,
    /// `PodScheduled`.
    pub scheduled: Option<Condition>,
    /// When its node took it on.
    pub start_time: Option<Timestamp>,
}

impl View for Pod {
    fn kind() -> &'static Kind {
        &kind::POD
    }
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Pod {
    /// Whether it puts up with a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }

    /// The names of the claims that it uses, and whether each is made for it.
    pub fn claims(&self) -> impl Iterator<Item = (String, bool)> + '_ {
        self.claims.iter().map(|claim| match claim {
            ClaimUse::Named(name) => (name.to_string(), false),
            ClaimUse::Ephemeral(volume) => (format!("{}-{volume}", self.metadata.name), true),
        })
    }

    /// The uid of the owner that manages it: pods that have the same are spread.
    pub fn owner(&self) -> Option<&str> {
        self.metadata.controller().map(|owner| owner.uid.as_str())
    }
}

/// A port of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Its number.
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// The address; `0.0.0.0` is all.
    pub ip: String,
}

impl HostPort {
    /// Whether both cannot be had at once.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |p: &Self| p.ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || any(self) || any(other))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPod {
    metadata: Meta,
    spec: RawSpec,
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: String,
    scheduler_name: String,
    priority: Option<i32>,
    preemption_policy: Option<String>,
    #[serde(deserialize_with = "null_default")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "null_default")]
    init_containers: Vec<RawContainer>,
    #[serde(deserialize_with = "null_default")]
    overhead: BTreeMap<String, QuantityText>,
    #[serde(deserialize_with = "null_default")]
    resources: RawResources,
    #[serde(deserialize_with = "null_default")]
    node_selector: BTreeMap<String, String>,
    affinity: Option<Box<Affinity>>,
    #[serde(deserialize_with = "tolerations")]
    tolerations: Arc<[Toleration]>,
    #[serde(deserialize_with = "null_default")]
    topology_spread_constraints: Vec<SpreadConstraint>,
    #[serde(rename = "volumes", deserialize_with = "claim_uses")]
    claims: Box<[ClaimUse]>,
    #[serde(deserialize_with = "null_default")]
    resource_claims: Vec<RawPodClaim>,
    #[serde(deserialize_with = "null_default")]
    scheduling_gates: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    name: String,
    #[serde(deserialize_with = "null_default")]
    image: String,
    restart_policy: Option<String>,
    #[serde(deserialize_with = "null_default")]
    resources: RawResources,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<RawPort>,
    /// What its node says that it has, if that may differ from what it asks for.
    #[serde(skip)]
    held: Option<Held>,
}

/// What a container has on its node while what it asks for is another matter (KEP-1287).
struct Held {
    resources: Resources,
    /// The node will never grant what is asked for.
    instead: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawResources {
    #[serde(deserialize_with = "null_default")]
    requests: BTreeMap<String, QuantityText>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: String,
    nominated_node_name: String,
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
    start_time: Option<Timestamp>,
    #[serde(deserialize_with = "null_default")]
    container_statuses: Vec<RawContainerStatus>,
    #[serde(deserialize_with = "null_default")]
    init_container_statuses: Vec<RawContainerStatus>,
    #[serde(deserialize_with = "null_default")]
    resource_claim_statuses: Vec<RawPodClaimStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerStatus {
    name: String,
    #[serde(deserialize_with = "null_default")]
    resources: RawResources,
    #[serde(deserialize_with = "null_default")]
    allocated_resources: BTreeMap<String, QuantityText>,
}

/// Notes what the containers of a placed pod have.
fn hold(spec: &mut RawSpec, status: &RawStatus) {
    let infeasible =
        status.conditions.iter().any(|c| c.kind == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"));
    for (containers, statuses) in [
        (&mut spec.containers, &status.container_statuses),
        (&mut spec.init_containers, &status.init_container_statuses),
    ] {
        for told in statuses.iter().filter(|s| !s.resources.requests.is_empty()) {
            if let Some(container) = containers.iter_mut().find(|c| c.name == told.name) {
                let mut resources = Resources::parse(&told.resources.requests);
                resources.raise_to(&Resources::parse(&told.allocated_resources));
                container.held = Some(Held { resources, instead: infeasible });
            }
        }
    }
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let RawPod { mut metadata, mut spec, status } = raw;
        metadata.annotations = BTreeMap::new();
        hold(&mut spec, &status);
        // What only says where the pod may go is of no use once it is there.
        let placed = !spec.node_name.is_empty();
        let images = if placed { Vec::new() } else { spec.containers.iter().map(|c| c.image.clone()).collect() };
        let tolerations = if placed { Arc::default() } else { std::mem::take(&mut spec.tolerations) };
        let host_ports = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().filter(|c| c.is_sidecar()))
            .flat_map(|c| &c.ports)
            .filter(|p| p.host_port != 0)
            .map(|p| HostPort {
                port: p.host_port,
                protocol: if p.protocol.is_empty() { "TCP".into() } else { p.protocol.clone() },
                ip: if p.host_ip.is_empty() { "0.0.0.0".into() } else { p.host_ip.clone() },
            })
            .collect();
        Self {
            node_name: spec.node_name.clone(),
            scheduler_name: spec.scheduler_name.clone(),
            priority: spec.priority.unwrap_or_default(),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            requests: requests(&spec, false),
            usage: {
                let usage = requests(&spec, true);
                (usage.cpu_milli, usage.memory_bytes)
            },
            host_ports,
            images,
            containers: spec.containers.len() + spec.init_containers.len(),
            node_selector: spec.node_selector,
            affinity: spec.affinity,
            tolerations,
            spread: spec.topology_spread_constraints,
            claims: spec.claims,
            device_claims: pod_claims(&spec.resource_claims, &status.resource_claim_statuses),
            gates: spec.scheduling_gates.len(),
            is_finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            nominated_node: status.nominated_node_name,
            scheduled: status.conditions.into_iter().find(|c| c.kind == "PodScheduled"),
            start_time: status.start_time,
            metadata,
        }
    }
}

impl RawContainer {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }

    fn requests(&self, with_defaults: bool) -> Resources {
        let mut resources = Resources::parse(&self.resources.requests);
        match &self.held {
            Some(held) if held.instead => {
                let Resources { cpu_milli, memory_bytes, .. } = held.resources;
                (resources.cpu_milli, resources.memory_bytes) = (cpu_milli, memory_bytes);
            }
            Some(held) => resources.raise_to(&held.resources),
            None => {}
        }
        if with_defaults {
            if !self.resources.requests.contains_key("cpu") {
                resources.cpu_milli = DEFAULT_CPU_MILLI;
            }
            if !self.resources.requests.contains_key("memory") {
                resources.memory_bytes = DEFAULT_MEMORY_BYTES;
            }
        }
        resources
    }
}

/// What a pod asks for: its containers together with its sidecars, or an init container with the sidecars before it,
/// whichever is more; what the pod as a whole asks for overrides that; and the overhead (KEP-753, KEP-2837).
fn requests(spec: &RawSpec, with_defaults: bool) -> Resources {
    let mut sum = Resources::default();
    spec.containers.iter().for_each(|c| sum.add(&c.requests(with_defaults)));
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in &spec.init_containers {
        let own = container.requests(with_defaults);
        if container.is_sidecar() {
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut together = sidecars.clone();
            together.add(&own);
            peak.raise_to(&together);
        }
    }
    sum.add(&sidecars);
    sum.raise_to(&peak);
    let whole = Resources::parse(&spec.resources.requests);
    if spec.resources.requests.contains_key("cpu") {
        sum.cpu_milli = whole.cpu_milli;
    }
    if spec.resources.requests.contains_key("memory") {
        sum.memory_bytes = whole.memory_bytes;
    }
    sum.add(&Resources::parse(&spec.overhead));
    sum
}

/// `core/v1 Affinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// To nodes.
    #[serde(deserialize_with = "null_default")]
    pub node_affinity: NodeAffinity,
    /// To pods.
    #[serde(deserialize_with = "null_default")]
    pub pod_affinity: PodAffinity,
    /// Against pods.
    #[serde(deserialize_with = "null_default")]
    pub pod_anti_affinity: PodAffinity,
}

/// `core/v1 NodeAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// What nodes must be like.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// What nodes had better be like.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub preferred: Vec<PreferredNode>,
}

/// `core/v1 PreferredSchedulingTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PreferredNode {
    /// How much it counts, 1 to 100.
    pub weight: i64,
    /// What nodes had better be like.
    pub preference: NodeTerm,
}

/// `core/v1 PodAffinity` and `PodAntiAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodAffinity {
    /// What must hold.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub required: Vec<PodTerm>,
    /// What had better hold.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub preferred: Vec<PreferredPod>,
}

/// `core/v1 PodAffinityTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTerm {
    /// Which pods; `None` is none.
    pub label_selector: Option<LabelSelector>,
    /// In which namespaces; the pod's own if none are named.
    #[serde(deserialize_with = "null_default")]
    pub namespaces: Vec<String>,
    /// In which namespaces, by their labels.
    pub namespace_selector: Option<LabelSelector>,
    /// The label whose value makes nodes one place.
    pub topology_key: String,
}

/// `core/v1 WeightedPodAffinityTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreferredPod {
    /// How much it counts, 1 to 100.
    pub weight: i64,
    /// Which pods, and where.
    pub pod_affinity_term: PodTerm,
}

/// `core/v1 TopologySpreadConstraint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadConstraint {
    /// How far the numbers may be apart.
    pub max_skew: i64,
    /// The label whose value makes nodes one place.
    pub topology_key: String,
    /// `DoNotSchedule`, `ScheduleAnyway`.
    pub when_unsatisfiable: String,
    /// Which pods.
    pub label_selector: Option<LabelSelector>,
    /// Labels whose values are taken over from the pod.
    #[serde(deserialize_with = "null_default")]
    pub match_label_keys: Vec<String>,
    /// How many places there must be at least.
    pub min_domains: Option<i64>,
    /// Whether nodes that the pod's node affinity excludes count: `Honor` (they do not), `Ignore`.
    pub node_affinity_policy: Option<String>,
    /// Whether nodes whose taints the pod does not put up with count: `Ignore` (they do), `Honor`.
    pub node_taints_policy: Option<String>,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawNode")]
pub struct Node {
    /// Metadata, without annotations.
    pub metadata: Meta,
    /// Cordoned.
    pub unschedulable: bool,
    /// What pods must put up with.
    pub taints: Vec<Taint>,
    /// What there is for pods.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Images at hand, by name, with their size in bytes.
    pub images: BTreeMap<String, i64>,
}

impl View for Node {
    fn kind() -> &'static Kind {
        &kind::NODE
    }
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Node {
    /// Whether all that placing depends on is the same.
    pub fn is_like(&self, other: &Self) -> bool {
        self.unschedulable == other.unschedulable
            && self.taints == other.taints
            && self.allocatable == other.allocatable
            && self.max_pods == other.max_pods
            && self.metadata.labels == other.metadata.labels
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNode {
    metadata: Meta,
    spec: RawNodeSpec,
    status: RawNodeStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNodeSpec {
    unschedulable: bool,
    #[serde(deserialize_with = "null_default")]
    taints: Vec<Taint>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNodeStatus {
    #[serde(deserialize_with = "null_default")]
    allocatable: BTreeMap<String, QuantityText>,
    #[serde(deserialize_with = "null_default")]
    images: Vec<RawImage>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawImage {
    #[serde(deserialize_with = "null_default")]
    names: Vec<String>,
    size_bytes: i64,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        let mut metadata = raw.metadata;
        metadata.annotations = BTreeMap::new();
        let mut allocatable = Resources::parse(&raw.status.allocatable);
        let max_pods = allocatable.other.remove("pods").unwrap_or_default();
        let images = raw.status.images.into_iter();
        let images = images.flat_map(|i| i.names.into_iter().map(move |name| (name, i.size_bytes))).collect();
        Self { metadata, unschedulable: raw.spec.unschedulable, taints: raw.spec.taints, allocatable, max_pods, images }
    }
}

/// A namespace's labels, for selectors.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// A shared pod.
pub type PodRef = Arc<Pod>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_the_peak_of_a_pods_life() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"resources": {"requests": {"cpu": "250m", "memory": "64Mi", "example.com/gpu": 1}}}, {}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"resources": {"requests": {"cpu": "1", "memory": "16Mi"}}}],
            "overhead": {"cpu": "10m"}}}))
        .unwrap();
        assert_eq!(pod.requests.cpu_milli, 1110);
        assert_eq!(pod.requests.memory_bytes, 64 << 20);
        assert_eq!(pod.requests.other["example.com/gpu"], 1);
        assert_eq!(pod.usage.1, (64 << 20) + 2 * DEFAULT_MEMORY_BYTES);
    }

    #[test]
    fn a_pod_that_is_resized_counts_with_what_it_has_and_what_it_wants() {
        let pod = |asked: &str, has: &str, reason: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": asked}}}]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                    "containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": has}},
                        "allocatedResources": {"cpu": has}}]}}))
            .unwrap()
        };
        assert_eq!(pod("2", "1", "Deferred").requests.cpu_milli, 2000);
        assert_eq!(pod("1", "2", "Deferred").requests.cpu_milli, 2000);
        assert_eq!(pod("2", "1", "Infeasible").requests.cpu_milli, 1000);
    }
}
