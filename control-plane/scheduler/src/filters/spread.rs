//! Topology spread constraints that must hold (KEP-895, KEP-3022, KEP-3243).

use std::collections::BTreeMap;

use xebec_controllers::runtime::labels::{LabelSelector, Requirement};

use super::{Refusal, matches_affinity, tolerates_taints};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::views::{Node, Pod, SpreadConstraint};

/// How the pod's like is spread now, for each constraint.
#[derive(Debug, Default)]
pub struct Spread(Vec<Counted>);

#[derive(Debug)]
struct Counted {
    key: String,
    max_skew: i64,
    /// 1 if the pod itself counts.
    itself: i64,
    counts: BTreeMap<String, i64>,
    least: i64,
}

/// The pods that a constraint counts.
pub(crate) fn selector(constraint: &SpreadConstraint, pod: &Pod) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    for key in &constraint.match_label_keys {
        if let Some(value) = pod.metadata.labels.get(key) {
            let values = vec![value.clone()];
            selector.match_expressions.push(Requirement { key: key.clone(), operator: "In".into(), values });
        }
    }
    Some(selector)
}

/// How many of a node's pods are of the pod's like.
pub(crate) fn count(info: &NodeInfo, pod: &Pod, selector: &LabelSelector, without: &dyn Fn(&Pod) -> bool) -> i64 {
    let like = |p: &Pod| {
        p.metadata.namespace == pod.metadata.namespace
            && !p.metadata.is_terminating()
            && selector.matches(&p.metadata.labels)
            && !without(p)
    };
    i64::try_from(info.pods.values().filter(|p| like(p)).count()).unwrap_or(i64::MAX)
}

impl Spread {
    pub(super) fn new(snapshot: &Snapshot, pod: &Pod, without: &dyn Fn(&Pod) -> bool) -> Self {
        let hard: Vec<&SpreadConstraint> =
            pod.spread.iter().filter(|c| c.when_unsatisfiable == "DoNotSchedule").collect();
        let eligible = |c: &SpreadConstraint, node: &Node| {
            let by_affinity = c.node_affinity_policy.as_deref() == Some("Ignore") || matches_affinity(pod, node);
            let by_taints = c.node_taints_policy.as_deref() != Some("Honor") || tolerates_taints(pod, node);
            by_affinity && by_taints
        };
        // Nodes that lack any of the keys are no place at all.
        let has_all = |node: &Node| hard.iter().all(|c| node.metadata.labels.contains_key(&c.topology_key));
        let counted = hard
            .iter()
            .map(|constraint| {
                let selector = selector(constraint, pod);
                let mut counts: BTreeMap<String, i64> = BTreeMap::new();
                for (node, info) in snapshot.live().filter(|(n, _)| has_all(n) && eligible(constraint, n)) {
                    let place = counts.entry(node.metadata.labels[&constraint.topology_key].clone()).or_default();
                    if let Some(selector) = &selector {
                        *place += count(info, pod, selector, without);
                    }
                }
                let places = i64::try_from(counts.len()).unwrap_or(i64::MAX);
                let enough = constraint.min_domains.is_none_or(|min| places >= min);
                let itself = selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels));
                Counted {
                    key: constraint.topology_key.clone(),
                    max_skew: constraint.max_skew,
                    itself: i64::from(itself),
                    least: if enough { counts.values().min().copied().unwrap_or_default() } else { 0 },
                    counts,
                }
            })
            .collect();
        Self(counted)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn check(&self, node: &Node) -> Result<(), Refusal> {
        for constraint in &self.0 {
            let Some(place) = node.metadata.labels.get(&constraint.key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Refusal::one(reason, true));
            };
            let there = constraint.counts.get(place).copied().unwrap_or_default();
            if there + constraint.itself - constraint.least > constraint.max_skew {
                return Err(Refusal::one("node(s) didn't match pod topology spread constraints", false));
            }
        }
        Ok(())
    }
}
