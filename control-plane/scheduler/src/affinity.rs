//! Pods near to or away from other pods (InterPodAffinity).

use std::collections::{BTreeMap, BTreeSet};

use crate::filter::Refusal;
use crate::snapshot::Snapshot;
use crate::views::{Node, Pod, PodTerm};

/// A place: a topology key with a value.
type Place = (String, String);

/// What the pods that run mean for one that is to be placed.
#[derive(Debug, Default)]
pub struct PodRules {
    /// For each required affinity term: its key, and the places where it is met.
    affinity: Vec<(String, BTreeSet<String>)>,
    /// No pod meets any affinity term, and the pod meets them all itself: it is the first of its group.
    first_of_group: bool,
    /// Places that the pod's own anti-affinity bars.
    barred: BTreeSet<Place>,
    /// Places that the anti-affinity of pods that run there bars.
    barred_by_others: BTreeSet<Place>,
    /// Points by place, from preferred terms both ways.
    points: BTreeMap<Place, i64>,
}

impl PodRules {
    /// Looks at every pod that runs, once.
    pub fn new(snapshot: &Snapshot, pod: &Pod) -> Self {
        let own = &pod.spec.affinity;
        let required = &own.pod_affinity.required;
        let mut rules = Self {
            affinity: required.iter().map(|term| (term.topology_key.clone(), BTreeSet::new())).collect(),
            ..Self::default()
        };
        let namespace = pod.metadata.namespace.as_str();
        let indifferent = required.is_empty()
            && own.pod_affinity.preferred.is_empty()
            && own.pod_anti_affinity.required.is_empty()
            && own.pod_anti_affinity.preferred.is_empty();
        for (node, state) in snapshot.nodes() {
            for other in state.pods.values() {
                if !indifferent {
                    rules.look_at(pod, namespace, other, node);
                }
                rules.heed(other, pod, node);
            }
        }
        rules.first_of_group = !rules.affinity.is_empty()
            && rules.affinity.iter().all(|(_, places)| places.is_empty())
            && required.iter().all(|term| term.selects(namespace, pod));
        rules
    }

    /// What the pod's own terms say of a pod that runs.
    fn look_at(&mut self, pod: &Pod, namespace: &str, other: &Pod, node: &Node) {
        let own = &pod.spec.affinity;
        for (term, (key, places)) in own.pod_affinity.required.iter().zip(&mut self.affinity) {
            if let Some(value) = node.metadata.labels.get(key)
                && term.selects(namespace, other)
            {
                places.insert(value.clone());
            }
        }
        for term in &own.pod_anti_affinity.required {
            self.barred.extend(place(term, node).filter(|_| term.selects(namespace, other)));
        }
        let near = own.pod_affinity.preferred.iter().map(|p| (p, 1));
        let far = own.pod_anti_affinity.preferred.iter().map(|p| (p, -1));
        for (preferred, sign) in near.chain(far) {
            let term = &preferred.pod_affinity_term;
            if let Some(place) = place(term, node).filter(|_| term.selects(namespace, other)) {
                *self.points.entry(place).or_insert(0) += sign * preferred.weight;
            }
        }
    }

    /// What the terms of a pod that runs say of the pod.
    fn heed(&mut self, other: &Pod, pod: &Pod, node: &Node) {
        let theirs = &other.spec.affinity;
        let namespace = other.metadata.namespace.as_str();
        for term in &theirs.pod_anti_affinity.required {
            self.barred_by_others.extend(place(term, node).filter(|_| term.selects(namespace, pod)));
        }
        let near = theirs.pod_affinity.preferred.iter().map(|p| (p, 1));
        let far = theirs.pod_anti_affinity.preferred.iter().map(|p| (p, -1));
        for (preferred, sign) in near.chain(far) {
            let term = &preferred.pod_affinity_term;
            if let Some(place) = place(term, node).filter(|_| term.selects(namespace, pod)) {
                *self.points.entry(place).or_insert(0) += sign * preferred.weight;
            }
        }
        // A required affinity of a pod that runs is a weak wish for company (weight 1, upstream's hardPodAffinityWeight).
        for term in &theirs.pod_affinity.required {
            if let Some(place) = place(term, node).filter(|_| term.selects(namespace, pod)) {
                *self.points.entry(place).or_insert(0) += 1;
            }
        }
    }

    /// Whether a node is in the right places.
    pub fn check(&self, node: &Node) -> Result<(), Refusal> {
        let refuse = |reason: &str| Err(Refusal { reasons: vec![reason.to_owned()], resolvable: true });
        let labels = &node.metadata.labels;
        let met = |(key, places): &(String, BTreeSet<String>)| {
            labels.get(key).is_some_and(|value| places.contains(value) || self.first_of_group)
        };
        if !self.affinity.iter().all(met) {
            let reason = "node(s) didn't match pod affinity rules".to_owned();
            return Err(Refusal { reasons: vec![reason], resolvable: false });
        }
        let inside = |(key, value): &Place| labels.get(key) == Some(value);
        if self.barred.iter().any(inside) {
            return refuse("node(s) didn't match pod anti-affinity rules");
        }
        if self.barred_by_others.iter().any(inside) {
            return refuse("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Ok(())
    }

    /// The node's points; more is better.
    pub fn points(&self, node: &Node) -> i64 {
        let labels = &node.metadata.labels;
        self.points.iter().filter(|((key, value), _)| labels.get(key) == Some(value)).map(|(_, points)| points).sum()
    }
}

fn place(term: &PodTerm, node: &Node) -> Option<Place> {
    Some((term.topology_key.clone(), node.metadata.labels.get(&term.topology_key)?.clone()))
}
