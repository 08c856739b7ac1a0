//! What the scheduler knows of the cluster, kept up to date change by change.

use std::collections::BTreeMap;
use std::sync::Arc;

use xebec_controllers::runtime::meta::Key;

use crate::resources::Resources;
use crate::views::{Node, Pod};

/// A node with what runs on it.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// `None`: pods are known of a node that is not.
    pub node: Option<Arc<Node>>,
    /// Its pods, those that are on their way to it included.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    /// What they take together.
    pub requested: Resources,
}

impl NodeState {
    /// Adds a pod.
    pub fn add(&mut self, pod: Arc<Pod>) {
        self.remove(&pod.key());
        self.requested.add(&pod.requests);
        self.pods.insert(pod.key(), pod);
    }

    /// Removes a pod, if it is there.
    pub fn remove(&mut self, key: &Key) {
        if let Some(pod) = self.pods.remove(key) {
            self.requested.subtract(&pod.requests);
        }
    }
}

/// All nodes, and where each pod is.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeState>,
    /// Where each pod is, so that it can be found when it moves or goes.
    places: BTreeMap<Key, String>,
    /// Pods for which room is being made on a node.
    nominated: BTreeMap<Key, (String, Arc<Pod>)>,
}

impl Snapshot {
    /// Adds a node, or replaces what was known of it.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone();
        self.nodes.entry(name).or_default().node = Some(node);
    }

    /// Forgets a node; its pods stay known until they go.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
            if state.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Puts a pod on a node, wherever it was before.
    pub fn place(&mut self, pod: Arc<Pod>, node: &str) {
        let key = pod.key();
        self.nominated.remove(&key);
        if let Some(before) = self.places.insert(key.clone(), node.to_owned())
            && before != node
        {
            self.take_from(&before, &key);
        }
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }

    /// Takes a pod from wherever it is.
    pub fn remove_pod(&mut self, key: &Key) {
        self.nominated.remove(key);
        if let Some(node) = self.places.remove(key) {
            self.take_from(&node, key);
        }
    }

    fn take_from(&mut self, node: &str, key: &Key) {
        if let Some(state) = self.nodes.get_mut(node) {
            state.remove(key);
            if state.node.is_none() && state.pods.is_empty() {
                self.nodes.remove(node);
            }
        }
    }

    /// Keeps room on a node for a pod.
    pub fn nominate(&mut self, pod: Arc<Pod>, node: &str) {
        self.nominated.insert(pod.key(), (node.to_owned(), pod));
    }

    /// Lets the room go that was kept for a pod.
    pub fn clear_nomination(&mut self, key: &Key) {
        self.nominated.remove(key);
    }

    /// Where room is kept for a pod.
    pub fn nomination(&self, key: &Key) -> Option<&str> {
        self.nominated.get(key).map(|(node, _)| node.as_str())
    }

    /// The nodes that exist, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeState)> {
        self.nodes.values().filter_map(|state| Some((state.node.as_ref()?, state)))
    }

    /// A node that exists.
    pub fn node(&self, name: &str) -> Option<(&Arc<Node>, &NodeState)> {
        let state = self.nodes.get(name)?;
        Some((state.node.as_ref()?, state))
    }

    /// What is taken of a node as `pod` sees it: what runs there, and what room is kept for pods that go before it.
    pub fn requested_for(&self, pod: &Pod, node: &str, state: &NodeState) -> Resources {
        let mut requested = state.requested.clone();
        for (key, (place, other)) in &self.nominated {
            if place == node && other.spec.priority >= pod.spec.priority && *key != pod.key() {
                requested.add(&other.requests);
            }
        }
        requested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, cpu: &str) -> Arc<Pod> {
        let value = serde_json::json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn what_is_added_can_be_taken_away() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(Arc::new(Node {
            metadata: serde_json::from_value(serde_json::json!({"name": "a"})).unwrap(),
            ..Node::default()
        }));
        snapshot.place(pod("p", "100m"), "a");
        snapshot.place(pod("p", "200m"), "a");
        snapshot.place(pod("q", "50m"), "b");
        assert_eq!(snapshot.node("a").unwrap().1.requested.cpu_milli, 200);
        assert!(snapshot.node("b").is_none(), "no such node");
        snapshot.place(pod("q", "50m"), "a");
        assert_eq!(snapshot.node("a").unwrap().1.requested.cpu_milli, 250);
        snapshot.remove_pod(&Key::new("n", "p"));
        snapshot.remove_pod(&Key::new("n", "q"));
        assert_eq!(snapshot.node("a").unwrap().1.requested, Resources::default());
        snapshot.remove_node("a");
        assert_eq!(snapshot.nodes().count(), 0);
    }

    #[test]
    fn kept_room_counts_for_those_who_come_after() {
        let mut snapshot = Snapshot::default();
        let first = Arc::new(Pod {
            spec: crate::views::PodSpec { priority: 10, ..Default::default() },
            ..(*pod("f", "1")).clone()
        });
        snapshot.nominate(first.clone(), "a");
        let state = NodeState::default();
        assert_eq!(snapshot.requested_for(&pod("p", "1"), "a", &state).cpu_milli, 1000);
        assert_eq!(snapshot.requested_for(&first, "a", &state).cpu_milli, 0);
        assert_eq!(snapshot.requested_for(&pod("p", "1"), "b", &state).cpu_milli, 0);
    }
}
