//! Pods.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use serde::Deserialize;

use super::device::{PodClaim, RawPodClaim, RawPodClaimStatus, pod_claims};
use super::storage::{ClaimUse, claim_uses};
use crate::runtime::cache::{BY_CONTROLLER, BY_NODE};
use crate::runtime::kind;
use crate::runtime::labels::Requirement;
use crate::runtime::meta::{Condition, Meta, condition, condition_is_true, exact, null_default, seconds};

/// `core/v1 Pod`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: PodSpec,
    /// What is.
    pub status: PodStatus,
}

super::view!(Pod, kind::POD, |pod| {
    let mut indexes = Vec::new();
    if let Some(owner) = pod.metadata.controller() {
        indexes.push((BY_CONTROLLER, owner.uid.clone()));
    }
    if !pod.spec.node_name.is_empty() {
        indexes.push((BY_NODE, pod.spec.node_name.clone()));
    }
    indexes
});

/// `core/v1 PodSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where the pod is placed; empty if it is not.
    pub node_name: String,
    /// The containers.
    #[serde(deserialize_with = "exact")]
    pub containers: Vec<Container>,
    /// The containers that run first, and sidecars among them.
    #[serde(deserialize_with = "exact")]
    pub init_containers: Vec<Container>,
    /// `Always`, `OnFailure`, `Never`.
    pub restart_policy: String,
    /// The host name it asks for.
    pub hostname: String,
    /// The headless service it belongs to.
    pub subdomain: String,
    /// The claims that its volumes stand for.
    #[serde(rename = "volumes", deserialize_with = "claim_uses")]
    pub claims: Box<[ClaimUse]>,
    /// The devices that it claims.
    #[serde(deserialize_with = "null_default")]
    resource_claims: Box<[RawPodClaim]>,
    /// Taints it puts up with.
    #[serde(deserialize_with = "tolerations")]
    pub tolerations: Arc<[Toleration]>,
    /// How long it may take to stop, in seconds.
    pub termination_grace_period_seconds: Option<i64>,
    /// The one node that its affinity permits by name: where a DaemonSet wants it.
    #[serde(rename = "affinity", deserialize_with = "named_node")]
    pub affinity_node: Option<Box<str>>,
}

/// What admission has nearly every pod put up with: a node that is not ready or cannot be reached, for a while.
static USUAL_TOLERATIONS: LazyLock<Arc<[Toleration]>> = LazyLock::new(|| {
    let usual = |key: &str| Toleration {
        key: key.to_owned(),
        operator: "Exists".to_owned(),
        effect: "NoExecute".to_owned(),
        toleration_seconds: Some(300),
        ..Toleration::default()
    };
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(usual).into()
});

/// Reads tolerations; the usual ones are kept once for all pods that have them.
pub fn tolerations<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<[Toleration]>, D::Error> {
    let own: Vec<Toleration> = null_default(deserializer)?;
    Ok(if *own == **USUAL_TOLERATIONS { USUAL_TOLERATIONS.clone() } else { own.into() })
}

/// Of an affinity, the node that it names.
fn named_node<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Affinity {
        #[serde(deserialize_with = "null_default")]
        node_affinity: NodeAffinity,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct NodeAffinity {
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
        required: Selector,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Selector {
        node_selector_terms: Vec<Term>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Term {
        #[serde(deserialize_with = "null_default")]
        match_fields: Vec<Requirement>,
    }
    let affinity: Affinity = null_default(deserializer)?;
    let by_name = affinity.node_affinity.required.node_selector_terms.into_iter().flat_map(|term| term.match_fields);
    let mut by_name = by_name.filter(|field| field.key == "metadata.name" && field.operator == "In");
    Ok(by_name.next().and_then(|field| field.values.into_iter().next()).map(String::into_boxed_str))
}

/// `core/v1 Container`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Ports, for services that refer to them by name.
    #[serde(deserialize_with = "exact")]
    pub ports: Vec<ContainerPort>,
    /// `Always` on an init container makes it a sidecar.
    pub restart_policy: Option<String>,
}

/// `core/v1 ContainerPort`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub container_port: u16,
    /// `TCP`, `UDP`, `SCTP`; empty is TCP.
    pub protocol: String,
}

/// `core/v1 Toleration`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// The taint's key; empty with `Exists` is any.
    pub key: String,
    /// `Exists`, or `Equal` (the default); `Lt` and `Gt` compare numbers.
    pub operator: String,
    /// The taint's value.
    pub value: String,
    /// The taint's effect; empty is any.
    pub effect: String,
    /// How long a `NoExecute` taint is put up with; forever if `None`.
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether it puts up with a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect {
            return false;
        }
        if !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        let numbers = || Some((taint.value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => !self.key.is_empty() && self.value == taint.value,
            "Lt" => numbers().is_some_and(|(have, bound)| have < bound),
            "Gt" => numbers().is_some_and(|(have, bound)| have > bound),
            _ => false,
        }
    }
}

/// `core/v1 Taint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
    /// When a `NoExecute` taint was put on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Timestamp>,
}

/// `core/v1 PodStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub phase: String,
    /// `Ready` and others.
    #[serde(deserialize_with = "exact")]
    pub conditions: Vec<Condition>,
    /// Its address, empty if it has none yet.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// Its addresses, of each family.
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pub pod_ips: Vec<PodIp>,
    /// Why it is as it is.
    pub reason: String,
    /// When its node took it on.
    pub start_time: Option<Timestamp>,
    /// Its containers.
    #[serde(deserialize_with = "exact")]
    pub container_statuses: Vec<ContainerStatus>,
    /// Its init containers.
    #[serde(deserialize_with = "exact")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// The claims that were made for it.
    #[serde(deserialize_with = "null_default")]
    resource_claim_statuses: Box<[RawPodClaimStatus]>,
}

/// `core/v1 PodIP`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// `core/v1 ContainerStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// The container.
    pub name: String,
    /// How often it was started again.
    pub restart_count: u32,
    /// Its state.
    pub state: Option<ContainerState>,
}

/// `core/v1 ContainerState`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// It has ended.
    pub terminated: Option<Terminated>,
}

/// `core/v1 ContainerStateTerminated`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Its exit code.
    pub exit_code: i32,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl Pod {
    /// The names of the claims that it uses.
    pub fn claims(&self) -> impl Iterator<Item = String> + '_ {
        self.spec.claims.iter().map(|claim| match claim {
            ClaimUse::Named(name) => name.to_string(),
            ClaimUse::Ephemeral(volume) => format!("{}-{volume}", self.metadata.name),
        })
    }

    /// The devices that it claims.
    pub fn device_claims(&self) -> Box<[PodClaim]> {
        pod_claims(&self.spec.resource_claims, &self.status.resource_claim_statuses)
    }

    /// Whether it claims devices.
    pub fn claims_devices(&self) -> bool {
        !self.spec.resource_claims.is_empty()
    }

    /// Its conditions with a `DisruptionTarget` of now: why it has to go (KEP-3329).
    pub fn disrupted(&self, reason: &str, message: &str, now: Timestamp) -> Vec<Condition> {
        let others = self.status.conditions.iter().filter(|c| c.kind != "DisruptionTarget");
        let disrupted = Condition {
            kind: "DisruptionTarget".into(),
            status: "True".into(),
            observed_generation: Some(self.metadata.generation),
            last_transition_time: Some(seconds(now)),
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..Condition::default()
        };
        others.cloned().chain([disrupted]).collect()
    }

    /// Whether it has ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it counts towards a controller's replicas: neither ended nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.metadata.is_terminating()
    }

    /// Whether it is ready to serve.
    pub fn is_ready(&self) -> bool {
        condition_is_true(&self.status.conditions, "Ready")
    }

    /// When it became ready; `None` if it is not.
    pub fn ready_since(&self) -> Option<Timestamp> {
        condition(&self.status.conditions, "Ready")
            .filter(|c| c.is_true())
            .map(|c| c.last_transition_time.unwrap_or_default())
    }

    /// Whether it has been ready for `min_ready_seconds`.
    pub fn is_available(&self, min_ready_seconds: i64, now: Timestamp) -> bool {
        self.ready_since()
            .is_some_and(|since| min_ready_seconds == 0 || since.as_second() + min_ready_seconds <= now.as_second())
    }

    /// Restarts of all its containers: the most of any (upstream's `maxContainerRestarts`).
    pub fn max_restarts(&self) -> u32 {
        self.status.container_statuses.iter().map(|s| s.restart_count).max().unwrap_or_default()
    }
}
