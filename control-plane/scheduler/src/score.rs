//! Which of the nodes that can take the pod is best. Each score is 0 to 100; the weights are upstream's.

use crate::filter::{Rules, matches_term};
use crate::resources::Resources;
use crate::snapshot::NodeState;
use crate::views::{Node, Pod};

const MAX: i64 = 100;
/// What a container that asks for nothing is taken to use, so that such pods spread as well (upstream's
/// `DefaultMilliCPURequest` and `DefaultMemoryRequest`).
const ASSUMED_CPU_MILLI: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;
/// Image sizes between which the score grows.
const IMAGE_BYTES: (i64, i64) = (23 << 20, 1000 << 20);

/// The total for each node, in the nodes' order.
pub fn scores(rules: &Rules<'_>, nodes: &[(&Node, &NodeState)]) -> Vec<i64> {
    let pod = rules.pod;
    let each = |f: &dyn Fn(&Node, &NodeState) -> i64| -> Vec<i64> { nodes.iter().map(|(n, s)| f(n, s)).collect() };
    let weighted = [
        (3, reversed(each(&|node, _| soft_taints(pod, node)))),
        (2, normalised(each(&|node, _| node_preference(pod, node)))),
        (2, reversed(each(&|node, _| rules.spread.crowding(node).unwrap_or(0)))),
        (2, normalised(each(&|node, _| rules.pods.points(node)))),
        (1, each(&|node, state| least_allocated(pod, node, state))),
        (1, each(&|node, state| balanced(pod, node, state))),
        (1, each(&|node, _| images_at_hand(&pod.images, node))),
    ];
    (0..nodes.len()).map(|i| weighted.iter().map(|(weight, scores)| weight * scores[i]).sum()).collect()
}

/// The best gets 100, the worst 0, the others in proportion; all the same: all 0.
fn normalised(raw: Vec<i64>) -> Vec<i64> {
    let (Some(&least), Some(&most)) = (raw.iter().min(), raw.iter().max()) else { return raw };
    if least == most {
        return vec![0; raw.len()];
    }
    raw.into_iter().map(|value| MAX * (value - least) / (most - least)).collect()
}

/// The same where less is better.
fn reversed(raw: Vec<i64>) -> Vec<i64> {
    normalised(raw.into_iter().map(|value| -value).collect())
}

fn soft_taints(pod: &Pod, node: &Node) -> i64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|taint| !pod.spec.tolerations.iter().any(|t| t.tolerates(taint))).count() as i64
}

fn node_preference(pod: &Pod, node: &Node) -> i64 {
    let preferred = &pod.spec.affinity.node_affinity.preferred;
    preferred.iter().filter(|p| matches_term(&p.preference, node)).map(|p| p.weight).sum()
}

/// CPU and memory with the pod on the node: used and available. Pods that ask for nothing are taken to use something.
fn usage(pod: &Pod, node: &Node, state: &NodeState) -> [(i64, i64); 2] {
    let assumed = |requests: &Resources| {
        let or = |asked: i64, default: i64| if asked == 0 { default } else { asked };
        (or(requests.cpu_milli, ASSUMED_CPU_MILLI), or(requests.memory, ASSUMED_MEMORY))
    };
    let all = state.pods.values().map(|p| assumed(&p.requests)).chain([assumed(&pod.requests)]);
    let (cpu, memory) = all.fold((0, 0), |(cpu, memory), (c, m)| (cpu + c, memory + m));
    [(cpu, node.allocatable.cpu_milli), (memory, node.allocatable.memory)]
}

fn least_allocated(pod: &Pod, node: &Node, state: &NodeState) -> i64 {
    let free = |(used, have): (i64, i64)| if have == 0 || used > have { 0 } else { (have - used) * MAX / have };
    usage(pod, node, state).map(free).iter().sum::<i64>() / 2
}

/// CPU and memory used to the same degree is best.
fn balanced(pod: &Pod, node: &Node, state: &NodeState) -> i64 {
    let per_mille = |(used, have): (i64, i64)| if have == 0 { 1000 } else { (used * 1000 / have).min(1000) };
    let [cpu, memory] = usage(pod, node, state).map(per_mille);
    // The standard deviation of two values is half their distance.
    (1000 - (cpu - memory).abs() / 2) * MAX / 1000
}

fn images_at_hand(images: &[String], node: &Node) -> i64 {
    let bytes: i64 = images.iter().filter_map(|image| node.images.get(image)).sum();
    let (least, most) = IMAGE_BYTES;
    (bytes.clamp(least, most) - least) * MAX / (most - least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_in_proportion() {
        assert_eq!(normalised(vec![2, 4, 3]), [0, 100, 50]);
        assert_eq!(reversed(vec![2, 4, 3]), [100, 0, 50]);
        assert_eq!(normalised(vec![7, 7]), [0, 0]);
        assert!(normalised(Vec::new()).is_empty());
    }
}
