//! Which of the nodes that a pod can be placed on is best. Each score is 0 to 100; the weights are upstream's defaults.

use std::collections::BTreeMap;

use crate::filters::{count_like, selects, spread_selector};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::views::{Node, Pod, SpreadConstraint};

const MAX: f64 = 100.0;
const TAINTS_WEIGHT: f64 = 3.0;
const NODE_AFFINITY_WEIGHT: f64 = 2.0;
const SPREAD_WEIGHT: f64 = 2.0;
const POD_AFFINITY_WEIGHT: f64 = 2.0;

/// Images smaller than this are not worth going after; so many bytes for each container are as good as it gets.
const IMAGE_BYTES: (f64, f64) = (23.0 * 1024.0 * 1024.0, 1000.0 * 1024.0 * 1024.0);

const ZONE: &str = "topology.kubernetes.io/zone";

/// Scores nodes; in the order given.
pub fn score(snapshot: &Snapshot, pod: &Pod, nodes: &[(&Node, &NodeInfo)]) -> Vec<f64> {
    let mut scores = vec![0.0; nodes.len()];
    let mut add = |weight: f64, values: Vec<f64>| {
        for (score, value) in scores.iter_mut().zip(values) {
            *score += weight * value;
        }
    };
    add(1.0, nodes.iter().map(|(n, i)| least_allocated(pod, n, i)).collect());
    add(1.0, nodes.iter().map(|(n, i)| balanced(pod, n, i)).collect());
    add(TAINTS_WEIGHT, reversed(nodes.iter().map(|(n, _)| soft_taints(pod, n)).collect()));
    add(NODE_AFFINITY_WEIGHT, normalised(nodes.iter().map(|(n, _)| node_affinity(pod, n)).collect()));
    add(SPREAD_WEIGHT, spread(pod, nodes));
    add(POD_AFFINITY_WEIGHT, pod_affinity(snapshot, pod, nodes));
    add(1.0, nodes.iter().map(|(n, _)| images(snapshot, pod, n)).collect());
    scores
}

/// The most becomes 100.
fn normalised(values: Vec<f64>) -> Vec<f64> {
    let max = values.iter().copied().fold(0.0, f64::max);
    values.into_iter().map(|v| if max > 0.0 { v / max * MAX } else { 0.0 }).collect()
}

/// The least becomes 100, the most 0.
fn reversed(values: Vec<f64>) -> Vec<f64> {
    normalised(values).into_iter().map(|v| MAX - v).collect()
}

#[expect(clippy::cast_precision_loss, reason = "scores need no more than the leading digits")]
fn float(value: i64) -> f64 {
    value as f64
}

/// Shares of CPU and memory that are in use with the pod placed.
fn shares(pod: &Pod, node: &Node, info: &NodeInfo) -> [f64; 2] {
    let share = |used: i64, there: i64| if there > 0 { (float(used) / float(there)).min(1.0) } else { 1.0 };
    [
        share(info.usage.0 + pod.usage.0, node.allocatable.cpu_milli),
        share(info.usage.1 + pod.usage.1, node.allocatable.memory_bytes),
    ]
}

fn least_allocated(pod: &Pod, node: &Node, info: &NodeInfo) -> f64 {
    let [cpu, memory] = shares(pod, node, info);
    (2.0 - cpu - memory) / 2.0 * MAX
}

/// CPU and memory had better run out together: the standard deviation of two shares is half their distance.
fn balanced(pod: &Pod, node: &Node, info: &NodeInfo) -> f64 {
    let [cpu, memory] = shares(pod, node, info);
    (1.0 - (cpu - memory).abs() / 2.0) * MAX
}

fn soft_taints(pod: &Pod, node: &Node) -> f64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !pod.tolerates(t)).count();
    float(i64::try_from(soft).unwrap_or(i64::MAX))
}

fn node_affinity(pod: &Pod, node: &Node) -> f64 {
    let preferred = pod.affinity.iter().flat_map(|a| &a.node_affinity.preferred);
    float(
        preferred.filter(|p| p.preference.matches(&node.metadata.name, &node.metadata.labels)).map(|p| p.weight).sum(),
    )
}

/// The fewer of its like are there, the better: by the pod's own soft constraints or, if it has none at all, over nodes
/// and zones with the pods of the same owner.
fn spread(pod: &Pod, nodes: &[(&Node, &NodeInfo)]) -> Vec<f64> {
    let soft: Vec<&SpreadConstraint> = pod.spread.iter().filter(|c| c.when_unsatisfiable == "ScheduleAnyway").collect();
    let mut cost = vec![0.0; nodes.len()];
    if !soft.is_empty() {
        for constraint in soft {
            let Some(selector) = spread_selector(constraint, pod) else { continue };
            let count = |i: &NodeInfo| count_like(i, pod, &selector, &|_| false);
            add_places(&mut cost, nodes, &constraint.topology_key, constraint.max_skew, count);
        }
        return lowest_best(&cost);
    }
    let Some(owner) = pod.owner().filter(|_| pod.spread.is_empty()) else { return cost };
    let count = |i: &NodeInfo| i64::try_from(i.owners.get(owner).copied().unwrap_or_default()).unwrap_or(i64::MAX);
    for (cost, (_, info)) in cost.iter_mut().zip(nodes) {
        *cost += float(count(info)) * (float(i64::try_from(nodes.len()).unwrap_or(i64::MAX)) + 2.0).ln();
    }
    if nodes.iter().any(|(n, _)| n.metadata.labels.contains_key(ZONE)) {
        add_places(&mut cost, nodes, ZONE, 1, count);
    }
    lowest_best(&cost)
}

/// Adds, for each node, how many of the pod's like are at its place, weighted so that many small places do not outweigh
/// few large ones.
fn add_places(
    cost: &mut [f64],
    nodes: &[(&Node, &NodeInfo)],
    key: &str,
    max_skew: i64,
    count: impl Fn(&NodeInfo) -> i64,
) {
    let mut places: BTreeMap<&str, i64> = BTreeMap::new();
    for (node, info) in nodes {
        if let Some(place) = node.metadata.labels.get(key) {
            *places.entry(place).or_default() += count(info);
        }
    }
    let weight = (float(i64::try_from(places.len()).unwrap_or(i64::MAX)) + 2.0).ln();
    for (cost, (node, _)) in cost.iter_mut().zip(nodes) {
        match node.metadata.labels.get(key) {
            Some(place) => *cost += float(places[place.as_str()]) * weight + float(max_skew - 1),
            // No place at all is the worst place.
            None => *cost += float(places.values().max().copied().unwrap_or_default() + 1) * weight,
        }
    }
}

fn lowest_best(cost: &[f64]) -> Vec<f64> {
    let max = cost.iter().copied().fold(0.0, f64::max);
    let min = cost.iter().copied().fold(f64::INFINITY, f64::min);
    cost.iter().map(|c| if max > 0.0 { MAX * (max + min - c) / max } else { MAX }).collect()
}

/// Near what attracts the pod, far from what it repels, and what pods that are there think of it.
fn pod_affinity(snapshot: &Snapshot, pod: &Pod, nodes: &[(&Node, &NodeInfo)]) -> Vec<f64> {
    let mut places: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let own = pod.affinity.as_deref();
    let has_own =
        own.is_some_and(|a| !a.pod_affinity.preferred.is_empty() || !a.pod_anti_affinity.preferred.is_empty());
    if has_own && let Some(own) = own {
        for (node, info) in snapshot.live() {
            for other in info.pods.values() {
                for (terms, sign) in [(&own.pod_affinity.preferred, 1), (&own.pod_anti_affinity.preferred, -1)] {
                    for p in terms {
                        let term = &p.pod_affinity_term;
                        if selects(term, pod, other, &snapshot.namespaces)
                            && let Some(value) = node.metadata.labels.get(&term.topology_key)
                        {
                            *places.entry((&term.topology_key, value)).or_default() += sign * p.weight;
                        }
                    }
                }
            }
        }
    }
    for key in &snapshot.attracting {
        let Some((node, other)) = snapshot.placed(key) else { continue };
        let Some(theirs) = &other.affinity else { continue };
        // A required term counts one (upstream's HardPodAffinityWeight).
        let required = theirs.pod_affinity.required.iter().map(|t| (t, 1));
        let to = theirs.pod_affinity.preferred.iter().map(|p| (&p.pod_affinity_term, p.weight));
        let against = theirs.pod_anti_affinity.preferred.iter().map(|p| (&p.pod_affinity_term, -p.weight));
        for (term, weight) in required.chain(to).chain(against) {
            if selects(term, other, pod, &snapshot.namespaces)
                && let Some(value) = node.metadata.labels.get(&term.topology_key)
            {
                *places.entry((&term.topology_key, value)).or_default() += weight;
            }
        }
    }
    let sums: Vec<i64> = nodes
        .iter()
        .map(|(n, _)| {
            let at = places.iter().filter(|((k, v), _)| n.metadata.labels.get(*k).is_some_and(|have| have == v));
            at.map(|(_, weight)| weight).sum()
        })
        .collect();
    let (min, max) = (sums.iter().min().copied().unwrap_or(0), sums.iter().max().copied().unwrap_or(0));
    sums.iter().map(|s| if max > min { MAX * float(s - min) / float(max - min) } else { 0.0 }).collect()
}

fn images(snapshot: &Snapshot, pod: &Pod, node: &Node) -> f64 {
    let total = snapshot.nodes.len().max(1);
    let mut sum = 0.0;
    for image in &pod.images {
        let name = normalised_name(image);
        if let Some(size) = node.images.get(image.as_str()).or_else(|| node.images.get(&name)) {
            let nodes =
                snapshot.images.get(image.as_str()).or_else(|| snapshot.images.get(&name)).map_or(1, |(n, _)| *n);
            // An image that few nodes have does not draw all pods there.
            let share = float(i64::try_from(nodes).unwrap_or(1)) / float(i64::try_from(total).unwrap_or(1));
            sum += float(*size) * share;
        }
    }
    let (low, high) = (IMAGE_BYTES.0, IMAGE_BYTES.1 * float(i64::try_from(pod.containers.max(1)).unwrap_or(1)));
    MAX * (sum.clamp(low, high) - low) / (high - low)
}

/// A name without a tag means `latest`.
fn normalised_name(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}
