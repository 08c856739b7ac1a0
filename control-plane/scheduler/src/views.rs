//! Pods and nodes as the scheduler sees them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use xebec_controllers::runtime::cache::View;
use xebec_controllers::runtime::kind::{self, Kind};
use xebec_controllers::runtime::labels::{LabelSelector, Requirement};
use xebec_controllers::runtime::meta::{Condition, Key, Meta, null_default};
use xebec_controllers::views::{Taint, Toleration};

use crate::resources::Resources;

/// `core/v1 Pod`, what decides where it runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: PodSpec,
    /// What is.
    pub status: PodStatus,
    /// What the pod takes of a node: the larger of what its containers ask for together and what it takes to start.
    pub requests: Resources,
    /// Ports of the node that the pod takes: address (empty: all), protocol, number.
    pub host_ports: Vec<HostPort>,
    /// The containers' images.
    pub images: Vec<String>,
}

/// A port of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPort {
    /// Empty: all addresses.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: u16,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: Meta,
    spec: RawPodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    overhead: BTreeMap<String, String>,
    host_network: bool,
    #[serde(flatten)]
    spec: PodSpec,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let RawPodSpec { containers, init_containers, overhead, host_network, spec } = raw.spec;
        let requests = Resources::of_pod(&containers, &init_containers, &overhead);
        let ports = containers.iter().flat_map(|c| &c.ports);
        let host_ports = ports.filter_map(|p| p.host_port(host_network)).collect();
        let images = containers.into_iter().map(|c| c.image).collect();
        Self { metadata: raw.metadata, spec, status: raw.status, requests, host_ports, images }
    }
}

/// `core/v1 PodSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where the pod runs; empty until it is decided.
    pub node_name: String,
    /// Who decides.
    pub scheduler_name: String,
    /// Labels that the node must have.
    #[serde(deserialize_with = "null_default")]
    pub node_selector: BTreeMap<String, String>,
    /// More that the node must or should be.
    #[serde(deserialize_with = "null_default")]
    pub affinity: Affinity,
    /// Taints it puts up with.
    #[serde(deserialize_with = "null_default")]
    pub tolerations: Vec<Toleration>,
    /// How its like are to be spread.
    #[serde(deserialize_with = "null_default")]
    pub topology_spread_constraints: Vec<SpreadConstraint>,
    /// Pods with a larger number go first.
    pub priority: i32,
    /// `Never`: does not push others out.
    pub preemption_policy: String,
    /// Somebody has yet to say that it may be scheduled.
    #[serde(deserialize_with = "null_default")]
    pub scheduling_gates: Vec<serde::de::IgnoredAny>,
}

/// `core/v1 Container`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// What it runs.
    pub image: String,
    /// What it asks for.
    pub resources: ContainerResources,
    /// Its ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ContainerPort>,
    /// `Always` on an init container makes it a sidecar.
    pub restart_policy: Option<String>,
}

/// `core/v1 ResourceRequirements`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerResources {
    /// Quantities by resource.
    #[serde(deserialize_with = "null_default")]
    pub requests: BTreeMap<String, String>,
}

/// `core/v1 ContainerPort`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    host_port: u16,
    container_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: String,
}

impl ContainerPort {
    fn host_port(&self, host_network: bool) -> Option<HostPort> {
        let port = if self.host_port == 0 && host_network { self.container_port } else { self.host_port };
        let protocol = if self.protocol.is_empty() { "TCP".to_owned() } else { self.protocol.clone() };
        (port != 0).then(|| HostPort { ip: self.host_ip.clone(), protocol, port })
    }
}

/// `core/v1 Affinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// To nodes.
    #[serde(deserialize_with = "null_default")]
    pub node_affinity: NodeAffinity,
    /// To where certain pods run.
    #[serde(deserialize_with = "null_default")]
    pub pod_affinity: PodAffinity,
    /// Away from where certain pods run.
    #[serde(deserialize_with = "null_default")]
    pub pod_anti_affinity: PodAffinity,
}

/// `core/v1 NodeAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// Any of its terms must match.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// Each that matches counts.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub preferred: Vec<PreferredNodes>,
}

/// `core/v1 NodeSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// Any of them must match.
    #[serde(deserialize_with = "null_default")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// `core/v1 NodeSelectorTerm`. An empty one matches nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// Of labels.
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement>,
    /// Of fields, of which there is `metadata.name`.
    #[serde(deserialize_with = "null_default")]
    pub match_fields: Vec<Requirement>,
}

/// `core/v1 PreferredSchedulingTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PreferredNodes {
    /// 1 to 100.
    pub weight: i64,
    /// Which nodes.
    pub preference: NodeSelectorTerm,
}

/// `core/v1 PodAffinity` and `PodAntiAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodAffinity {
    /// All must be met.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub required: Vec<PodTerm>,
    /// Each that is met counts.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub preferred: Vec<PreferredPods>,
}

/// `core/v1 WeightedPodAffinityTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreferredPods {
    /// 1 to 100.
    pub weight: i64,
    /// Which pods.
    pub pod_affinity_term: PodTerm,
}

/// `core/v1 PodAffinityTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTerm {
    /// Which pods; without it, none.
    pub label_selector: Option<LabelSelector>,
    /// Which namespaces; empty with no selector: the pod's own.
    #[serde(deserialize_with = "null_default")]
    pub namespaces: Vec<String>,
    /// An empty one is all namespaces.
    pub namespace_selector: Option<LabelSelector>,
    /// Nodes with the same value of this label are one place.
    pub topology_key: String,
}

impl PodTerm {
    /// Whether the term, in the spec of a pod of `own_namespace`, speaks of `other`. Namespaces are selected by name
    /// or all together.
    pub fn selects(&self, own_namespace: &str, other: &Pod) -> bool {
        let namespace = &other.metadata.namespace;
        let everywhere = self.namespace_selector.as_ref().is_some_and(LabelSelector::is_empty);
        let listed = match (self.namespaces.is_empty(), &self.namespace_selector) {
            (true, None) => namespace == own_namespace,
            (_, selector) => {
                self.namespaces.contains(namespace)
                    || selector.as_ref().is_some_and(|s| {
                        // Every namespace carries its name as a label (KEP-2161).
                        let labels = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), namespace.clone())]);
                        !s.is_empty() && s.matches(&labels)
                    })
            }
        };
        (everywhere || listed) && self.label_selector.as_ref().is_some_and(|s| s.matches(&other.metadata.labels))
    }
}

/// `core/v1 TopologySpreadConstraint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadConstraint {
    /// The largest permitted difference.
    pub max_skew: i64,
    /// Nodes with the same value of this label are one place.
    pub topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: String,
    /// Which pods; without it, none.
    pub label_selector: Option<LabelSelector>,
    /// Labels whose values the pod's own must be equal to.
    #[serde(deserialize_with = "null_default")]
    pub match_label_keys: Vec<String>,
    /// With fewer places than this, the fewest pods in a place count as none.
    pub min_domains: Option<i64>,
}

/// `core/v1 PodStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Succeeded` and `Failed` take no room.
    pub phase: String,
    /// `PodScheduled` among others.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// Where room is being made for the pod.
    pub nominated_node_name: String,
    /// When it began to run.
    pub start_time: Option<Timestamp>,
}

impl Pod {
    /// Namespace and name.
    pub fn key(&self) -> Key {
        self.metadata.key()
    }

    /// Whether it has ended: it takes no room any more.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it waits for a node from us.
    pub fn is_waiting(&self) -> bool {
        self.spec.node_name.is_empty()
            && matches!(self.spec.scheduler_name.as_str(), "" | "default-scheduler")
            && !self.is_finished()
            && !self.metadata.is_terminating()
    }
}

impl View for Pod {
    fn kind() -> &'static Kind {
        &kind::POD
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `core/v1 Node`, what decides which pods it can take.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawNode")]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// Cordoned.
    pub unschedulable: bool,
    /// What pods must put up with.
    pub taints: Vec<Taint>,
    /// What there is for pods.
    pub allocatable: Resources,
    /// Images that it has, with their sizes in bytes.
    pub images: BTreeMap<String, i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: Meta,
    spec: RawNodeSpec,
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    unschedulable: bool,
    #[serde(deserialize_with = "null_default")]
    taints: Vec<Taint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    #[serde(deserialize_with = "null_default")]
    allocatable: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    images: Vec<RawImage>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawImage {
    #[serde(deserialize_with = "null_default")]
    names: Vec<String>,
    size_bytes: i64,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        let images = raw.status.images.into_iter();
        Self {
            metadata: raw.metadata,
            unschedulable: raw.spec.unschedulable,
            taints: raw.spec.taints,
            allocatable: Resources::of_quantities(&raw.status.allocatable),
            images: images.flat_map(|i| i.names.into_iter().map(move |name| (name, i.size_bytes))).collect(),
        }
    }
}

impl View for Node {
    fn kind() -> &'static Kind {
        &kind::NODE
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
