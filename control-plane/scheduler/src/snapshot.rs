//! The cluster as it is for placing: nodes with what is placed on them, kept up to date change by change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xebec_controllers::runtime::meta::Key;

use crate::devices::Devices;
use crate::filters::Shelf;
use crate::views::{Namespaces, Node, PodRef, Resources};

/// A node, and what is placed on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node; `None` while only its pods are known.
    pub node: Option<Arc<Node>>,
    /// Its pods.
    pub pods: BTreeMap<Key, PodRef>,
    /// What its pods ask for.
    pub requested: Resources,
    /// What its pods are taken to use, for scores: CPU in thousandths, memory in bytes.
    pub usage: (i64, i64),
    /// How many pods of each owner it has.
    pub owners: BTreeMap<String, usize>,
}

impl NodeInfo {
    /// Places a pod.
    pub fn add(&mut self, pod: &PodRef) {
        self.requested.add(&pod.requests);
        self.usage.0 += pod.usage.0;
        self.usage.1 += pod.usage.1;
        if let Some(owner) = pod.owner() {
            *self.owners.entry(owner.to_owned()).or_default() += 1;
        }
        self.pods.insert(pod.metadata.key(), pod.clone());
    }

    /// Takes a pod away.
    pub fn remove(&mut self, key: &Key) -> Option<PodRef> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.requests);
        self.usage.0 -= pod.usage.0;
        self.usage.1 -= pod.usage.1;
        if let Some(owner) = pod.owner()
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
        Some(pod)
    }
}

/// The cluster.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes, by name.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Labels of namespaces.
    pub namespaces: Namespaces,
    /// Where each placed pod is.
    places: BTreeMap<Key, String>,
    /// Placed pods that repel others.
    pub repelling: BTreeSet<Key>,
    /// Placed pods that attract or repel others, if only weakly.
    pub attracting: BTreeSet<Key>,
    /// Pods for which room is being made, by node.
    pub nominated: BTreeMap<String, BTreeMap<Key, PodRef>>,
    /// Claims, and what there is for them.
    pub shelf: Shelf,
    /// Devices, and claims to them.
    pub devices: Devices,
    /// On how many nodes each image is, with its size in bytes.
    pub images: BTreeMap<String, (usize, i64)>,
}

impl Snapshot {
    /// A new or changed node.
    pub fn put_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone();
        self.forget_images(&name);
        for (image, size) in &node.images {
            let entry = self.images.entry(image.clone()).or_insert((0, *size));
            entry.0 += 1;
            entry.1 = *size;
        }
        self.nodes.entry(name).or_default().node = Some(node.clone());
    }

    /// A node is gone; its pods are still known.
    pub fn remove_node(&mut self, name: &str) {
        self.forget_images(name);
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    fn forget_images(&mut self, name: &str) {
        let Some(node) = self.nodes.get(name).and_then(|i| i.node.clone()) else { return };
        for image in node.images.keys() {
            if let Some(entry) = self.images.get_mut(image) {
                entry.0 -= 1;
                if entry.0 == 0 {
                    self.images.remove(image);
                }
            }
        }
    }

    /// A placed pod, new or changed.
    pub fn put_pod(&mut self, pod: &PodRef) {
        let key = pod.metadata.key();
        self.remove_pod(&key);
        if let Some(affinity) = &pod.affinity {
            let (to, against) = (&affinity.pod_affinity, &affinity.pod_anti_affinity);
            if !against.required.is_empty() {
                self.repelling.insert(key.clone());
            }
            if !(to.required.is_empty() && to.preferred.is_empty() && against.preferred.is_empty()) {
                self.attracting.insert(key.clone());
            }
        }
        self.nodes.entry(pod.node_name.clone()).or_default().add(pod);
        self.places.insert(key, pod.node_name.clone());
    }

    /// A pod is not placed any more.
    pub fn remove_pod(&mut self, key: &Key) {
        let Some(place) = self.places.remove(key) else { return };
        self.repelling.remove(key);
        self.attracting.remove(key);
        if let Some(info) = self.nodes.get_mut(&place) {
            info.remove(key);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&place);
            }
        }
    }

    /// Where a pod is placed, and the pod.
    pub fn placed(&self, key: &Key) -> Option<(&Node, &PodRef)> {
        let info = self.nodes.get(self.places.get(key)?)?;
        Some((info.node.as_deref()?, info.pods.get(key)?))
    }

    /// Room is being made for a pod on a node; on none if it is empty.
    pub fn nominate(&mut self, pod: &PodRef, node: &str) {
        let key = pod.metadata.key();
        self.forget_nomination(&key);
        if !node.is_empty() {
            self.nominated.entry(node.to_owned()).or_default().insert(key, pod.clone());
        }
    }

    /// Room is no longer being made for a pod.
    pub fn forget_nomination(&mut self, key: &Key) {
        self.nominated.retain(|_, pods| {
            pods.remove(key);
            !pods.is_empty()
        });
    }

    /// The nodes that are there, with what is placed on them.
    pub fn live(&self) -> impl Iterator<Item = (&Node, &NodeInfo)> {
        self.nodes.values().filter_map(|info| Some((info.node.as_deref()?, info)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::views::Pod;

    #[test]
    fn sums_follow_changes() {
        let mut snapshot = Snapshot::default();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {
            "images": [{"names": ["i"], "sizeBytes": 5}]}}))
        .unwrap();
        snapshot.put_node(&Arc::new(node.clone()));
        snapshot.put_node(&Arc::new(node));
        assert_eq!(snapshot.images["i"], (1, 5));
        let pod = |cpu: &str, node: &str| -> PodRef {
            Arc::new(
                serde_json::from_value::<Pod>(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
                    "nodeName": node, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}}))
                .unwrap(),
            )
        };
        snapshot.put_pod(&pod("1", "a"));
        snapshot.put_pod(&pod("2", "a"));
        assert_eq!(snapshot.nodes["a"].requested.cpu_milli, 2000);
        snapshot.put_pod(&pod("2", "b"));
        assert_eq!(snapshot.nodes["a"].requested.cpu_milli, 0);
        assert_eq!(snapshot.live().count(), 1);
        snapshot.remove_pod(&Key::new("n", "p"));
        assert!(!snapshot.nodes.contains_key("b"));
        snapshot.remove_node("a");
        assert!(snapshot.nodes.is_empty() && snapshot.images.is_empty());
    }
}
