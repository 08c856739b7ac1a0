//! Which nodes a pod can be placed on, and why not on the others; the words are upstream's
//! (`pkg/scheduler/framework/plugins`).

mod affinity;
mod spread;
mod storage;

use std::sync::Arc;

use crate::devices::claimed::{Claimed, Grant};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::views::{Node, Pod, PodRef};

use affinity::Terms;
pub(crate) use affinity::selects;
use spread::Spread;
pub(crate) use spread::{count as count_like, selector as spread_selector};
use storage::Storage;
pub use storage::{Binding, Shelf, is_bound};

/// Why a pod cannot be placed on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words.
    pub reasons: Vec<String>,
    /// Taking other pods away would not help.
    pub is_final: bool,
    /// Something went wrong: other nodes are not looked at.
    pub is_error: bool,
}

impl Refusal {
    pub(crate) fn one(reason: impl Into<String>, is_final: bool) -> Self {
        Self { reasons: vec![reason.into()], is_final, is_error: false }
    }

    pub(crate) fn error(reason: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::one(reason, true) }
    }
}

/// What is worked out for a pod once, before nodes are looked at.
#[derive(Debug)]
pub struct Prepared {
    spread: Spread,
    terms: Terms,
    storage: Storage,
    devices: Arc<Claimed>,
}

impl Prepared {
    /// Looks at the cluster for what concerns the pod.
    pub fn new(snapshot: &Snapshot, pod: &Pod) -> Self {
        Self::with(snapshot, pod, &|_| false, Arc::new(Claimed::new(&snapshot.devices, pod)))
    }

    /// The same with pods thought away, which have no say in what devices the pod claims.
    pub fn without(&self, snapshot: &Snapshot, pod: &Pod, without: &dyn Fn(&Pod) -> bool) -> Self {
        Self::with(snapshot, pod, without, self.devices.clone())
    }

    fn with(snapshot: &Snapshot, pod: &Pod, without: &dyn Fn(&Pod) -> bool, devices: Arc<Claimed>) -> Self {
        Self {
            spread: Spread::new(snapshot, pod, without),
            terms: Terms::new(snapshot, pod, without),
            storage: Storage::new(snapshot, pod, without),
            devices,
        }
    }

    /// Why the pod can be placed nowhere.
    pub fn refusal(&self) -> Option<&str> {
        self.storage.refusal().or_else(|| self.devices.refusal())
    }

    /// The devices that the pod claims.
    pub fn devices(&self) -> &Claimed {
        &self.devices
    }

    /// What is to be done on a node, on which the pod can be placed, for the devices that it claims.
    pub fn grants(&self, snapshot: &Snapshot, pod: &Pod, node: &Node) -> Vec<Grant> {
        self.devices.grants(&snapshot.devices, pod, node).unwrap_or_default()
    }

    /// What is to be done on a node, on which the pod can be placed, for its claims.
    pub fn bindings(&self, snapshot: &Snapshot, node: &Node) -> Vec<Binding> {
        self.storage.bindings(&snapshot.shelf, node).unwrap_or_default()
    }

    /// Whether other pods' places matter to this pod.
    pub fn depends_on_others(&self) -> bool {
        !self.spread.is_empty() || !self.terms.is_empty()
    }
}

/// Whether a pod can be placed on a node. `nominated` are pods that room is being made for there, which count as if they
/// were there.
pub fn check(
    pod: &Pod,
    (node, info): (&Node, &NodeInfo),
    nominated: &[&PodRef],
    snapshot: &Snapshot,
    prepared: &Prepared,
) -> Result<(), Refusal> {
    unschedulable(pod, node)?;
    if !pod.node_name.is_empty() && pod.node_name != node.metadata.name {
        return Err(Refusal::one("node(s) didn't match the requested node name", true));
    }
    taints(pod, node)?;
    if !matches_affinity(pod, node) {
        return Err(Refusal::one("node(s) didn't match Pod's node affinity/selector", true));
    }
    ports(pod, info, nominated)?;
    fit(pod, node, info, nominated)?;
    prepared.storage.bindings(&snapshot.shelf, node)?;
    prepared.spread.check(node)?;
    prepared.terms.check(node)?;
    prepared.devices.grants(&snapshot.devices, pod, node).map(drop)
}

fn unschedulable(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let taint = xebec_controllers::views::Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Default::default()
    };
    if node.unschedulable && !pod.tolerates(&taint) {
        return Err(Refusal::one("node(s) were unschedulable", true));
    }
    Ok(())
}

/// Whether the pod puts up with the node's hard taints.
pub fn tolerates_taints(pod: &Pod, node: &Node) -> bool {
    let hard = |effect: &str| effect == "NoSchedule" || effect == "NoExecute";
    node.taints.iter().filter(|t| hard(&t.effect)).all(|t| pod.tolerates(t))
}

fn taints(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    if tolerates_taints(pod, node) { Ok(()) } else { Err(Refusal::one("node(s) had untolerated taint(s)", true)) }
}

/// Whether the node is what the pod's selector and affinity ask for.
pub fn matches_affinity(pod: &Pod, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    if !pod.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let required = pod.affinity.as_ref().and_then(|a| a.node_affinity.required.as_ref());
    required.is_none_or(|selector| selector.matches(&node.metadata.name, labels))
}

fn ports(pod: &Pod, info: &NodeInfo, nominated: &[&PodRef]) -> Result<(), Refusal> {
    if pod.host_ports.is_empty() {
        return Ok(());
    }
    let mut taken = info.pods.values().chain(nominated.iter().copied()).flat_map(|p| &p.host_ports);
    if taken.any(|t| pod.host_ports.iter().any(|p| p.conflicts(t))) {
        return Err(Refusal::one("node(s) didn't have free ports for the requested pod ports", false));
    }
    Ok(())
}

fn fit(pod: &Pod, node: &Node, info: &NodeInfo, nominated: &[&PodRef]) -> Result<(), Refusal> {
    let mut reasons = Vec::new();
    let mut is_final = false;
    let count = i64::try_from(info.pods.len() + nominated.len()).unwrap_or(i64::MAX);
    if count >= node.max_pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut look = |name: &str, asked: i64, there: i64, taken: i64| {
        if asked > 0 && asked > there - taken {
            reasons.push(format!("Insufficient {name}"));
            is_final |= asked > there;
        }
    };
    let sum = |amount: fn(&Pod) -> i64| nominated.iter().map(|p| amount(p)).sum::<i64>();
    let (asked, there, taken) = (&pod.requests, &node.allocatable, &info.requested);
    look("cpu", asked.cpu_milli, there.cpu_milli, taken.cpu_milli + sum(|p| p.requests.cpu_milli));
    look("memory", asked.memory_bytes, there.memory_bytes, taken.memory_bytes + sum(|p| p.requests.memory_bytes));
    look(
        "ephemeral-storage",
        asked.ephemeral_storage_bytes,
        there.ephemeral_storage_bytes,
        taken.ephemeral_storage_bytes + sum(|p| p.requests.ephemeral_storage_bytes),
    );
    for (name, amount) in &asked.other {
        let get = |of: &std::collections::BTreeMap<String, i64>| of.get(name).copied().unwrap_or_default();
        let nominated: i64 = nominated.iter().map(|p| get(&p.requests.other)).sum();
        look(name, *amount, get(&there.other), get(&taken.other) + nominated);
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, is_final, is_error: false }) }
}
