//! Where a pod goes: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use xebec_controllers::views::ResourceClaim;

use crate::devices::claimed::Grant;
use crate::filters::{Binding, Prepared, Refusal, check};
use crate::preemption::{Budget, Preemption, preempt};
use crate::scores::score;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::views::{Node, Pod, PodRef};

/// In clusters larger than this, only a part of the nodes that a pod fits on is scored.
const SCORE_ALL_UP_TO: usize = 100;

/// Nothing can be made of claims to devices that nobody uses.
const NO_IDLE_CLAIMS: &str = "no new claims to deallocate";

/// What becomes of a pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It is placed.
    Place {
        /// Where.
        node: String,
        /// What is to be done for its claims to volumes first.
        bindings: Vec<Binding>,
        /// What is to be done for its claims to devices first.
        grants: Vec<Grant>,
    },
    /// It is not.
    Refuse {
        /// Why not, in upstream's words.
        message: String,
        /// How room is made for it.
        preemption: Option<Preemption>,
        /// A claim that holds devices for nobody where the pod cannot go: it is to have others.
        idle: Option<Arc<ResourceClaim>>,
    },
    /// It cannot be said where it can be placed.
    Fail {
        /// Why, in upstream's words.
        message: String,
    },
}

/// Pods for which room is being made on a node, and which this pod must leave it to.
pub(crate) fn nominated_on<'a>(snapshot: &'a Snapshot, pod: &Pod, node: &str) -> Vec<&'a PodRef> {
    let Some(nominated) = snapshot.nominated.get(node) else { return Vec::new() };
    nominated.values().filter(|p| p.priority >= pod.priority && p.metadata.uid != pod.metadata.uid).collect()
}

/// Decides where a pod goes. Nodes are looked at from the `turn`-th on, so that in a large cluster all get theirs.
pub fn schedule(snapshot: &Snapshot, pod: &Pod, budgets: &[Budget], turn: usize) -> Decision {
    let nodes: Vec<(&Node, &NodeInfo)> = snapshot.live().collect();
    if nodes.is_empty() {
        let message = "no nodes available to schedule pods".into();
        return Decision::Refuse { message, preemption: None, idle: None };
    }
    let prepared = Prepared::new(snapshot, pod);
    if let Some(why) = prepared.refusal() {
        let none = format!("0/{} nodes are available:", nodes.len());
        let count = nodes.len();
        let message = format!(
            "{none} {why}. {NO_IDLE_CLAIMS}, preemption: {none} {count} Preemption is not helpful for scheduling."
        );
        return Decision::Refuse { message, preemption: None, idle: None };
    }
    let place = |node: &Node| Decision::Place {
        node: node.metadata.name.clone(),
        bindings: prepared.bindings(snapshot, node),
        grants: prepared.grants(snapshot, pod, node),
    };
    let enough = enough_nodes(nodes.len());
    let start = turn % nodes.len();
    let mut feasible: Vec<(&Node, &NodeInfo)> = Vec::new();
    let mut refusals: BTreeMap<String, Refusal> = BTreeMap::new();
    // The node that room was made on comes first, and is taken if it is free now.
    if let Some(info) = snapshot.nodes.get(&pod.nominated_node)
        && let Some(node) = info.node.as_deref()
        && check(pod, (node, info), &nominated_on(snapshot, pod, &node.metadata.name), snapshot, &prepared).is_ok()
    {
        return place(node);
    }
    for (node, info) in nodes[start..].iter().chain(&nodes[..start]) {
        let nominated = nominated_on(snapshot, pod, &node.metadata.name);
        match check(pod, (node, info), &nominated, snapshot, &prepared) {
            Ok(()) => feasible.push((node, info)),
            Err(refusal) if refusal.is_error => return Decision::Fail { message: refusal.reasons.concat() },
            Err(refusal) => {
                refusals.insert(node.metadata.name.clone(), refusal);
            }
        }
        if feasible.len() >= enough {
            break;
        }
    }
    if feasible.is_empty() {
        return refuse(snapshot, pod, &prepared, &refusals, budgets);
    }
    let scores = score(snapshot, pod, &feasible);
    let best = feasible.iter().zip(scores).max_by(|((a, _), x), ((b, _), y)| {
        // Of equals any will do, but not always the same.
        x.total_cmp(y).then_with(|| tie(pod, &a.metadata.name).cmp(&tie(pod, &b.metadata.name)))
    });
    match best {
        Some(((node, _), _)) => place(node),
        None => refuse(snapshot, pod, &prepared, &refusals, budgets),
    }
}

/// How many nodes are enough to choose from (upstream's `numFeasibleNodesToFind`).
fn enough_nodes(nodes: usize) -> usize {
    if nodes <= SCORE_ALL_UP_TO {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SCORE_ALL_UP_TO)
}

/// A number that depends on pod and node alone (FNV-1a).
fn tie(pod: &Pod, node: &str) -> u64 {
    let bytes = pod.metadata.uid.bytes().chain(node.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn refuse(
    snapshot: &Snapshot,
    pod: &Pod,
    prepared: &Prepared,
    refusals: &BTreeMap<String, Refusal>,
    budgets: &[Budget],
) -> Decision {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in refusals.values().flat_map(|r| &r.reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    let mut message = format!("0/{} nodes are available: {}.", refusals.len(), parts.join(", "));
    let idle = prepared.devices().idle(snapshot, pod).cloned();
    let preemption = match preempt(snapshot, pod, prepared, refusals, budgets) {
        Ok(preemption) => Some(preemption),
        Err(why) => {
            let told = match &idle {
                Some(_) => "deallocation of ResourceClaim completed",
                None if prepared.devices().is_empty() => NO_IDLE_CLAIMS,
                None => "still not schedulable",
            };
            message.push_str(&format!(" {told}, preemption: {why}"));
            None
        }
    };
    Decision::Refuse { message, preemption, idle }
}

#[cfg(test)]
mod tests;
