//! Can the node take the pod? Each filter gives upstream's reason if not
//! (`pkg/scheduler/framework/plugins`).

use xebec_controllers::views::Taint;

use crate::affinity::PodRules;
use crate::snapshot::{NodeState, Snapshot};
use crate::spread::SpreadRules;
use crate::views::{Node, NodeSelector, NodeSelectorTerm, Pod};

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words; one node may have several reasons.
    pub reasons: Vec<String>,
    /// Whether it might if other pods left.
    pub resolvable: bool,
}

impl Refusal {
    fn because(reason: impl Into<String>, resolvable: bool) -> Self {
        Self { reasons: vec![reason.into()], resolvable }
    }
}

/// What is worked out once a pod, for all nodes.
pub struct Rules<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Which pods it must be near to, or away from.
    pub pods: PodRules,
    /// How its like must be spread.
    pub spread: SpreadRules,
}

impl<'a> Rules<'a> {
    /// The rules of a pod, in the cluster as it is.
    pub fn new(snapshot: &Snapshot, pod: &'a Pod) -> Self {
        Self { pod, pods: PodRules::new(snapshot, pod), spread: SpreadRules::new(snapshot, pod) }
    }

    /// Runs every filter, in upstream's order; the first that refuses decides.
    pub fn check(&self, snapshot: &Snapshot, node: &Node, state: &NodeState) -> Result<(), Refusal> {
        let pod = self.pod;
        unschedulable(pod, node)?;
        taints(pod, node)?;
        node_affinity(pod, node)?;
        ports(pod, state)?;
        fit(snapshot, pod, node, state)?;
        self.spread.check(node)?;
        self.pods.check(node)
    }
}

fn refuse_unless(holds: bool, reason: &str, resolvable: bool) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::because(reason, resolvable)) }
}

fn unschedulable(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let cordon =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let tolerated = || pod.spec.tolerations.iter().any(|t| t.tolerates(&cordon));
    refuse_unless(!node.unschedulable || tolerated(), "node(s) were unschedulable", false)
}

fn taints(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let hard = node.taints.iter().filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"));
    let untolerated = hard.filter(|taint| !pod.spec.tolerations.iter().any(|t| t.tolerates(taint))).count();
    refuse_unless(untolerated == 0, "node(s) had untolerated taint(s)", false)
}

fn node_affinity(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let labels = &node.metadata.labels;
    let selected = pod.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = &pod.spec.affinity.node_affinity.required;
    let matches = selected && required.as_ref().is_none_or(|selector| selects(selector, node));
    refuse_unless(matches, "node(s) didn't match Pod's node affinity/selector", false)
}

fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
}

/// Whether a node matches a term; an empty term matches none.
pub fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let fields = [("metadata.name".to_owned(), node.metadata.name.clone())].into();
    let empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
    !empty
        && term.match_expressions.iter().all(|r| r.matches(&node.metadata.labels))
        && term.match_fields.iter().all(|r| r.matches(&fields))
}

fn ports(pod: &Pod, state: &NodeState) -> Result<(), Refusal> {
    let mut taken = state.pods.values().flat_map(|p| &p.host_ports);
    let free = pod.host_ports.is_empty() || !taken.any(|t| pod.host_ports.iter().any(|w| w.conflicts(t)));
    refuse_unless(free, "node(s) didn't have free ports for the requested pod ports", true)
}

fn fit(snapshot: &Snapshot, pod: &Pod, node: &Node, state: &NodeState) -> Result<(), Refusal> {
    let requested = snapshot.requested_for(pod, &node.metadata.name, state);
    let reasons = node.allocatable.lacking(&requested, &pod.requests);
    if reasons.is_empty() {
        return Ok(());
    }
    // On a node that is too small even when empty, nothing is gained by emptying it.
    let resolvable = node.allocatable.lacking(&crate::resources::Resources::default(), &pod.requests).is_empty();
    Err(Refusal { reasons, resolvable })
}
