//! Preemption: which pods of lower priority would have to go for a pod to have room. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::filter::Rules;
use crate::schedule::{Unschedulable, summary};
use crate::snapshot::{NodeState, Snapshot};
use crate::views::{Node, Pod};

/// Room that can be made.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// Where.
    pub node: String,
    /// The pods that have to go.
    pub victims: Vec<Arc<Pod>>,
}

/// The node where making room does the least harm; or, in upstream's words, why there is none.
pub fn preempt(snapshot: &Snapshot, pod: &Pod, failure: &Unschedulable) -> Result<Preemption, String> {
    if pod.spec.preemption_policy == "Never" {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    // Victims of an earlier preemption that are still going make room already.
    if let Some((_, state)) = snapshot.nomination(&pod.key()).and_then(|name| snapshot.node(name))
        && state.pods.values().any(|p| p.metadata.is_terminating() && p.spec.priority < pod.spec.priority)
    {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut best: Option<(Harm, Preemption)> = None;
    let mut hopeless: BTreeMap<&str, usize> = BTreeMap::new();
    for (node, state) in snapshot.nodes() {
        let resolvable = failure.refusals.get(&node.metadata.name).is_none_or(|refusal| refusal.resolvable);
        if !resolvable {
            *hopeless.entry("Preemption is not helpful for scheduling").or_insert(0) += 1;
            continue;
        }
        let Some(victims) = victims(snapshot, pod, node, state) else {
            *hopeless.entry("No preemption victims found for incoming pod").or_insert(0) += 1;
            continue;
        };
        let harm = Harm::of(&victims);
        if best.as_ref().is_none_or(|(least, _)| harm < *least) {
            best = Some((harm, Preemption { node: node.metadata.name.clone(), victims }));
        }
    }
    best.map(|(_, preemption)| preemption).ok_or_else(|| summary(failure.nodes, &hopeless))
}

/// Less harm sorts first (upstream's `pickOneNodeForPreemption`): the highest priority among the victims, the sum of
/// their priorities, their number; at last, those that began latest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Harm {
    highest: i32,
    sum: i64,
    count: usize,
    earliest_start: std::cmp::Reverse<Timestamp>,
}

impl Harm {
    fn of(victims: &[Arc<Pod>]) -> Self {
        let highest = victims.iter().map(|v| v.spec.priority).max().unwrap_or(i32::MIN);
        let starts = victims.iter().filter(|v| v.spec.priority == highest).filter_map(|v| v.status.start_time);
        Self {
            highest,
            // Shifted, so that more victims of negative priority are more harm.
            sum: victims.iter().map(|v| i64::from(v.spec.priority) + i64::from(i32::MAX) + 1).sum(),
            count: victims.len(),
            earliest_start: std::cmp::Reverse(starts.min().unwrap_or(Timestamp::MAX)),
        }
    }
}

/// The pods of a node that would have to go: as few as possible, the most important ones stay. `None`: it would not
/// help.
fn victims(snapshot: &Snapshot, pod: &Pod, node: &Arc<Node>, state: &NodeState) -> Option<Vec<Arc<Pod>>> {
    let (lower, mut kept): (Vec<_>, Vec<_>) =
        state.pods.values().cloned().partition(|other| other.spec.priority < pod.spec.priority);
    if lower.is_empty() {
        return None;
    }
    let fits = |kept: &[Arc<Pod>]| {
        let mut world = snapshot.clone();
        for other in state.pods.values() {
            if !kept.iter().any(|k| k.key() == other.key()) {
                world.remove_pod(&other.key());
            }
        }
        let rules = Rules::new(&world, pod);
        world.node(&node.metadata.name).is_some_and(|(node, state)| rules.check(&world, node, state).is_ok())
    };
    if !fits(&kept) {
        return None;
    }
    // The most important, and among equals the longest running, are let stay first.
    let mut candidates = lower;
    candidates.sort_by_key(|p| (std::cmp::Reverse(p.spec.priority), p.status.start_time, p.key()));
    let mut victims = Vec::new();
    for candidate in candidates {
        kept.push(candidate.clone());
        if !fits(&kept) {
            kept.pop();
            victims.push(candidate);
        }
    }
    Some(victims).filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schedule::{Decision, schedule};

    fn node(name: &str) -> Arc<Node> {
        let value =
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn pod(name: &str, priority: i32, cpu: &str) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn try_preempt(snapshot: &Snapshot, pod: &Pod) -> Result<Preemption, String> {
        match schedule(snapshot, pod, 0) {
            Decision::Unschedulable(failure) => preempt(snapshot, pod, &failure),
            Decision::Node(node) => panic!("there is room on {node}"),
        }
    }

    #[test]
    fn the_least_important_go_and_no_more_than_needed() {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b"] {
            snapshot.set_node(node(name));
        }
        snapshot.place(pod("a1", 5, "1"), "a");
        snapshot.place(pod("a2", 1, "1"), "a");
        snapshot.place(pod("b1", 6, "1"), "b");
        snapshot.place(pod("b2", 7, "1"), "b");
        let found = try_preempt(&snapshot, &pod("p", 10, "1")).unwrap();
        assert_eq!(found.node, "a");
        assert_eq!(found.victims.iter().map(|v| v.metadata.name.as_str()).collect::<Vec<_>>(), ["a2"]);
        let found = try_preempt(&snapshot, &pod("p", 6, "2")).unwrap();
        assert_eq!((found.node.as_str(), found.victims.len()), ("a", 2), "priority 7 is out of reach");
    }

    #[test]
    fn why_not() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a"));
        snapshot.place(pod("a1", 5, "2"), "a");
        assert_eq!(
            try_preempt(&snapshot, &pod("p", 5, "1")).unwrap_err(),
            "0/1 nodes are available: 1 No preemption victims found for incoming pod."
        );
        assert_eq!(
            try_preempt(&snapshot, &pod("p", 9, "3")).unwrap_err(),
            "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        );
        let mut polite = (*pod("p", 9, "1")).clone();
        polite.spec.preemption_policy = "Never".into();
        assert_eq!(try_preempt(&snapshot, &polite).unwrap_err(), "not eligible due to preemptionPolicy=Never.");
    }
}
