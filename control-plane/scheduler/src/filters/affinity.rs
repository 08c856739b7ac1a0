//! Pods that must be near others, or must not.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use crate::snapshot::Snapshot;
use crate::views::{Namespaces, Node, Pod, PodTerm};

/// A label of nodes with one of its values: a place.
type Place = (String, String);

/// Where the pod must and must not go, for the sake of others.
#[derive(Debug, Default)]
pub struct Terms {
    /// Places where pods are that repel this one.
    repelled_by_others: BTreeSet<Place>,
    /// Places where pods are that this one repels.
    repelled: BTreeSet<Place>,
    /// The labels by which the pod is attracted, and how many pods that all terms select are at each place.
    keys: Vec<String>,
    attracted: BTreeMap<Place, usize>,
    /// No pod is there that the terms select, but they select the pod itself: it is the first of its group.
    is_first: bool,
    any: bool,
}

/// Whether a term of `owner` selects a pod.
pub(crate) fn selects(term: &PodTerm, owner: &Pod, pod: &Pod, namespaces: &Namespaces) -> bool {
    let namespace = &pod.metadata.namespace;
    let in_namespace = if term.namespaces.is_empty() && term.namespace_selector.is_none() {
        *namespace == owner.metadata.namespace
    } else {
        let labels = namespaces.get(namespace);
        let by_labels = |s: &xebec_controllers::runtime::labels::LabelSelector| {
            s.is_empty() || labels.is_some_and(|l| s.matches(l))
        };
        term.namespaces.contains(namespace) || term.namespace_selector.as_ref().is_some_and(by_labels)
    };
    in_namespace && term.label_selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels))
}

impl Terms {
    pub(super) fn new(snapshot: &Snapshot, pod: &Pod, without: &dyn Fn(&Pod) -> bool) -> Self {
        let mut terms = Self::default();
        let place = |node: &Node, key: &str| Some((key.to_owned(), node.metadata.labels.get(key)?.clone()));
        for key in &snapshot.repelling {
            let Some((node, other)) = snapshot.placed(key).filter(|(_, p)| !without(p)) else { continue };
            let Some(affinity) = &other.affinity else { continue };
            for term in &affinity.pod_anti_affinity.required {
                if selects(term, other, pod, &snapshot.namespaces) {
                    terms.repelled_by_others.extend(place(node, &term.topology_key));
                }
            }
        }
        terms.any = !terms.repelled_by_others.is_empty();
        let Some(affinity) = &pod.affinity else { return terms };
        let (to, against) = (&affinity.pod_affinity.required, &affinity.pod_anti_affinity.required);
        terms.any |= !to.is_empty() || !against.is_empty();
        if to.is_empty() && against.is_empty() {
            return terms;
        }
        for (node, info) in snapshot.live() {
            for other in info.pods.values().filter(|p| !without(p)) {
                for term in against {
                    if selects(term, pod, other, &snapshot.namespaces) {
                        terms.repelled.extend(place(node, &term.topology_key));
                    }
                }
                if !to.is_empty() && to.iter().all(|t| selects(t, pod, other, &snapshot.namespaces)) {
                    for term in to {
                        if let Some(place) = place(node, &term.topology_key) {
                            *terms.attracted.entry(place).or_default() += 1;
                        }
                    }
                }
            }
        }
        terms.keys = to.iter().map(|t| t.topology_key.clone()).collect();
        terms.is_first = terms.attracted.is_empty() && to.iter().all(|t| selects(t, pod, pod, &snapshot.namespaces));
        terms
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.any
    }

    pub(super) fn check(&self, node: &Node) -> Result<(), Refusal> {
        let label = |key: &String| node.metadata.labels.get(key).map(|v| (key.clone(), v.clone()));
        for key in &self.keys {
            let reason = "node(s) didn't match pod affinity rules";
            match label(key) {
                None => return Err(Refusal::one(reason, true)),
                Some(place) if !self.is_first && !self.attracted.contains_key(&place) => {
                    return Err(Refusal::one(reason, true));
                }
                Some(_) => {}
            }
        }
        let is_in = |places: &BTreeSet<Place>| places.iter().any(|(k, v)| node.metadata.labels.get(k) == Some(v));
        if is_in(&self.repelled) {
            return Err(Refusal::one("node(s) didn't match pod anti-affinity rules", false));
        }
        if is_in(&self.repelled_by_others) {
            return Err(Refusal::one("node(s) didn't satisfy existing pods anti-affinity rules", false));
        }
        Ok(())
    }
}
