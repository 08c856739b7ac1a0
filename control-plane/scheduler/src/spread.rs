//! Pods spread over places (PodTopologySpread, KEP-895).

use std::collections::BTreeMap;

use crate::filter::Refusal;
use crate::snapshot::Snapshot;
use crate::views::{Node, Pod, SpreadConstraint};

/// How many matching pods are in each place, for each constraint.
#[derive(Debug, Default)]
pub struct SpreadRules {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
    /// Pods of the same owner by node: without constraints of its own, a pod keeps away from its like (upstream's
    /// default constraints by hostname).
    siblings: Option<BTreeMap<String, i64>>,
}

#[derive(Debug)]
struct Counted {
    key: String,
    max_skew: i64,
    counts: BTreeMap<String, i64>,
    /// The fewest pods in any place.
    least: i64,
    /// Whether the pod itself is counted where it goes.
    own: i64,
}

impl SpreadRules {
    /// Counts the pods that run.
    pub fn new(snapshot: &Snapshot, pod: &Pod) -> Self {
        let constraints = &pod.spec.topology_spread_constraints;
        let (hard, soft): (Vec<_>, Vec<_>) = constraints.iter().partition(|c| c.when_unsatisfiable != "ScheduleAnyway");
        let counted = |list: Vec<&SpreadConstraint>| list.into_iter().map(|c| count(snapshot, pod, c)).collect();
        let siblings = constraints.is_empty().then(|| siblings(snapshot, pod)).flatten();
        Self { hard: counted(hard), soft: counted(soft), siblings }
    }

    /// Whether the pod may go to a node.
    pub fn check(&self, node: &Node) -> Result<(), Refusal> {
        let refuse = |reason: &str, resolvable| Err(Refusal { reasons: vec![reason.to_owned()], resolvable });
        for constraint in &self.hard {
            let Some(value) = node.metadata.labels.get(&constraint.key) else {
                return refuse("node(s) didn't match pod topology spread constraints (missing required label)", false);
            };
            let there = constraint.counts.get(value).copied().unwrap_or(0) + constraint.own;
            if there - constraint.least > constraint.max_skew {
                return refuse("node(s) didn't match pod topology spread constraints", true);
            }
        }
        Ok(())
    }

    /// How crowded the node is with the pod's like; less is better. `None`: that does not matter.
    pub fn crowding(&self, node: &Node) -> Option<i64> {
        if let Some(siblings) = &self.siblings {
            return Some(siblings.get(&node.metadata.name).copied().unwrap_or(0));
        }
        if self.soft.is_empty() {
            return None;
        }
        let of = |c: &Counted| {
            let value = node.metadata.labels.get(&c.key)?;
            Some(c.counts.get(value).copied().unwrap_or(0) + c.max_skew - 1)
        };
        // A node without the label is no place at all: the worst.
        Some(self.soft.iter().map(|c| of(c).unwrap_or(i64::from(i32::MAX))).sum())
    }
}

fn count(snapshot: &Snapshot, pod: &Pod, constraint: &SpreadConstraint) -> Counted {
    let key = &constraint.topology_key;
    let labels = &pod.metadata.labels;
    let same = |other: &Pod| constraint.match_label_keys.iter().all(|k| other.metadata.labels.get(k) == labels.get(k));
    let selects = |other: &Pod| {
        other.metadata.namespace == pod.metadata.namespace
            && constraint.label_selector.as_ref().is_some_and(|s| s.matches(&other.metadata.labels))
            && same(other)
    };
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (node, state) in snapshot.nodes() {
        // Nodes that the pod's own affinity leaves out are no places to compare with (nodeAffinityPolicy: Honor).
        let Some(value) = node.metadata.labels.get(key).filter(|_| eligible(pod, node)) else { continue };
        let matching = state.pods.values().filter(|p| !p.metadata.is_terminating() && selects(p)).count();
        *counts.entry(value.clone()).or_insert(0) += i64::try_from(matching).unwrap_or(i64::MAX);
    }
    let few = constraint.min_domains.is_some_and(|wanted| (counts.len() as i64) < wanted);
    let least = if few { 0 } else { counts.values().min().copied().unwrap_or(0) };
    Counted { key: key.clone(), max_skew: constraint.max_skew.max(1), counts, least, own: i64::from(selects(pod)) }
}

fn eligible(pod: &Pod, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    let required = &pod.spec.affinity.node_affinity.required;
    pod.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        && required.as_ref().is_none_or(|s| s.node_selector_terms.iter().any(|t| crate::filter::matches_term(t, node)))
}

fn siblings(snapshot: &Snapshot, pod: &Pod) -> Option<BTreeMap<String, i64>> {
    let owner = &pod.metadata.controller()?.uid;
    let mut counts = BTreeMap::new();
    for (node, state) in snapshot.nodes() {
        let is_sibling =
            |p: &Pod| !p.metadata.is_terminating() && p.metadata.controller().is_some_and(|o| o.uid == *owner);
        let count = state.pods.values().filter(|p| is_sibling(p)).count();
        if count > 0 {
            counts.insert(node.metadata.name.clone(), i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    Some(counts)
}
