//! The decision: one pod, one snapshot, one answer. Pure.

use std::collections::BTreeMap;

use crate::filter::{Refusal, Rules};
use crate::score;
use crate::snapshot::{NodeState, Snapshot};
use crate::views::{Node, Pod};

/// What is decided of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs on this node.
    Node(String),
    /// No node can take it.
    Unschedulable(Unschedulable),
}

/// Why no node can take a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// Each node's reasons.
    pub refusals: BTreeMap<String, Refusal>,
}

impl Unschedulable {
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable`, as upstream's `FitError`.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.refusals.values().flat_map(|r| &r.reasons) {
            *counts.entry(reason).or_insert(0) += 1;
        }
        summary(self.nodes, &counts)
    }
}

/// Reasons with their counts, in the order of the text, as upstream sorts them.
pub fn summary(nodes: usize, counts: &BTreeMap<&str, usize>) -> String {
    let mut reasons: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

/// Decides where a pod runs. `turn` chooses among nodes that are equally good.
pub fn schedule(snapshot: &Snapshot, pod: &Pod, turn: u64) -> Decision {
    let rules = Rules::new(snapshot, pod);
    let mut feasible: Vec<(&Node, &NodeState)> = Vec::new();
    let mut failure = Unschedulable::default();
    // Room that was made for the pod is looked at first: nothing else is, if it suffices.
    if let Some(node) = snapshot.nomination(&pod.key())
        && let Some((node, state)) = snapshot.node(node)
        && rules.check(snapshot, node, state).is_ok()
    {
        return Decision::Node(node.metadata.name.clone());
    }
    for (node, state) in snapshot.nodes() {
        failure.nodes += 1;
        match rules.check(snapshot, node, state) {
            Ok(()) => feasible.push((node, state)),
            Err(refusal) => {
                failure.refusals.insert(node.metadata.name.clone(), refusal);
            }
        }
    }
    let scores = match feasible.as_slice() {
        [] => return Decision::Unschedulable(failure),
        [(only, _)] => return Decision::Node(only.metadata.name.clone()),
        several => score::scores(&rules, several),
    };
    let best = scores.iter().copied().max().unwrap_or(0);
    let equals: Vec<&Node> =
        feasible.iter().zip(&scores).filter(|(_, score)| **score == best).map(|((node, _), _)| *node).collect();
    let chosen = usize::try_from(turn % equals.len() as u64).unwrap_or(0);
    Decision::Node(equals[chosen].metadata.name.clone())
}

#[cfg(test)]
mod tests;
