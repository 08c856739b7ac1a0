//! Which nodes a DaemonSet's pods go to (upstream `NodeShouldRunDaemonPod`, `AddOrUpdateDaemonPodTolerations`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::views::{Node, NodeTerm, Taint, Toleration};

/// What is to become of the set's pod on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// There should be one.
    pub run: bool,
    /// One that is there may stay.
    pub stay: bool,
}

/// Taints that every daemon puts up with: it is there for the node, not for itself.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// What a pod's spec says of where it may run.
pub(super) struct Rules {
    node_name: String,
    selector: BTreeMap<String, String>,
    /// Any of them is to match; `None` if there are none to match.
    terms: Option<Vec<NodeTerm>>,
    tolerations: Vec<Toleration>,
}

impl Rules {
    pub fn of(spec: &Value) -> Self {
        let mut with_all = spec.clone();
        tolerate(&mut with_all);
        let read = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
        let terms = &spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
        Self {
            node_name: spec["nodeName"].as_str().unwrap_or_default().to_owned(),
            selector: serde_json::from_value(spec["nodeSelector"].clone()).unwrap_or_default(),
            terms: terms.is_array().then(|| serde_json::from_value(terms.clone()).unwrap_or_default()),
            tolerations: read(&with_all["tolerations"]),
        }
    }

    pub fn place(&self, node: &Node) -> Placement {
        let labels = &node.metadata.labels;
        let named = self.node_name.is_empty() || self.node_name == node.metadata.name;
        let selected = self.selector.iter().all(|(k, v)| labels.get(k) == Some(v));
        let matches = |term: &NodeTerm| term.matches(&node.metadata.name, labels);
        let wanted = named && selected && self.terms.as_ref().is_none_or(|terms| terms.iter().any(matches));
        let unwelcome = |effects: &[&str]| {
            let mut taints = node.spec.taints.iter().filter(|taint| effects.contains(&taint.effect.as_str()));
            taints.any(|taint: &Taint| !self.tolerations.iter().any(|t| t.tolerates(taint)))
        };
        Placement {
            run: wanted && !unwelcome(&["NoSchedule", "NoExecute"]),
            stay: wanted && !unwelcome(&["NoExecute"]),
        }
    }
}

/// Whether two states of a node differ in what matters here.
pub(super) fn differ(old: &Node, new: &Node) -> bool {
    old.metadata.labels != new.metadata.labels || old.spec.taints != new.spec.taints
}

/// Ties a pod's spec to a node, whatever else its affinity asks for.
pub(super) fn bind(spec: &mut Value, node: &str) {
    let by_name = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let required = &mut spec["affinity"]["nodeAffinity"][REQUIRED];
    match required["nodeSelectorTerms"].as_array_mut().filter(|terms| !terms.is_empty()) {
        Some(terms) => terms.iter_mut().for_each(|term| term["matchFields"] = by_name.clone()),
        None => *required = json!({"nodeSelectorTerms": [{"matchFields": by_name}]}),
    }
}

/// Adds what every daemon puts up with.
pub(super) fn tolerate(spec: &mut Value) {
    let host_network = spec["hostNetwork"] == true;
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for (key, effect) in TOLERATED.into_iter().chain(host_network.then_some(NETWORK_UNAVAILABLE)) {
        let wanted = json!({"key": key, "operator": "Exists", "effect": effect});
        match tolerations.iter_mut().find(|t| t["key"] == key && t["effect"] == effect && t["operator"] == "Exists") {
            Some(there) => *there = wanted,
            None => tolerations.push(wanted),
        }
    }
    spec["tolerations"] = tolerations.into();
}
