//! What must hold at every moment, checked at every write: rolling updates stay within their bounds, and no node is
//! given more pods than it takes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use xebec_controllers::views::{Deployment, Pod, ReplicaSet};
use xebec_store::{Operation, Revision};

/// Pods that a node of the simulation takes.
pub const PODS_PER_NODE: usize = 110;

/// A mirror of the objects that the invariants are about.
#[derive(Debug, Default)]
pub struct Mirror {
    pods: BTreeMap<String, Pod>,
    /// Keys of pods, by the set that owns them and by node.
    by_set: BTreeMap<String, BTreeSet<String>>,
    by_node: BTreeMap<String, BTreeSet<String>>,
    sets: BTreeMap<String, ReplicaSet>,
    deployments: BTreeMap<String, Deployment>,
    /// Deployments that have been complete, and have had no node of theirs die since: their bounds hold.
    steady: BTreeSet<String>,
    /// Nodes that have been killed: what is on them does not count.
    dead_nodes: BTreeSet<String>,
}

impl Mirror {
    /// A node is killed: the pods on it are lost, which is no roll-out's fault.
    pub fn node_killed(&mut self, node: &str) {
        self.dead_nodes.insert(node.to_owned());
        self.steady.clear();
    }

    /// Pods are deleted by hand: deployments are held to their bounds when they are complete again.
    pub fn disturbed(&mut self) {
        self.steady.clear();
    }

    /// A deployment is scaled: its availability is a new one.
    pub fn scaled(&mut self, namespace: &str, name: &str) {
        self.steady.remove(&format!("/registry/apps/deployments/{namespace}/{name}"));
    }

    /// Takes a write in; what is wrong after it.
    pub fn take(&mut self, revision: Revision, operation: &Operation) -> Vec<String> {
        let (key, value) = match operation {
            Operation::Put(key, value) => (key, Some(value)),
            Operation::Delete(key) => (key, None),
        };
        let wrong = if key.starts_with("/registry/core/pods/") {
            let old = set(&mut self.pods, key, value.map(|v| v.as_ref()));
            self.index(key, old.as_ref());
            let new = self.pods.get(key);
            let sets: BTreeSet<String> = old.iter().chain(new).filter_map(owning_set).collect();
            let node = new.map(|p| p.spec.node_name.clone()).unwrap_or_default();
            let deployments: BTreeSet<String> = sets.iter().filter_map(|s| self.owning_deployment(s)).collect();
            let mut wrong: Vec<String> = deployments.iter().filter_map(|d| self.check(d)).collect();
            wrong.extend(self.check_node(&node));
            wrong
        } else if key.starts_with("/registry/apps/replicasets/") {
            set(&mut self.sets, key, value.map(|v| v.as_ref()));
            Vec::new()
        } else if key.starts_with("/registry/apps/deployments/") {
            set(&mut self.deployments, key, value.map(|v| v.as_ref()));
            self.settle(key);
            Vec::new()
        } else {
            Vec::new()
        };
        wrong.into_iter().map(|w| format!("at revision {revision}: {w}")).collect()
    }

    /// Files a pod that has changed.
    fn index(&mut self, key: &str, old: Option<&Pod>) {
        for (pod, is_new) in [(old, false), (self.pods.get(key), true)] {
            let Some(pod) = pod else { continue };
            let node = Some(pod.spec.node_name.clone()).filter(|n| !n.is_empty());
            for (index, value) in [(&mut self.by_set, owning_set(pod)), (&mut self.by_node, node)] {
                let Some(keys) = value.map(|v| index.entry(v).or_default()) else { continue };
                if is_new {
                    keys.insert(key.to_owned())
                } else {
                    keys.remove(key)
                };
            }
        }
    }

    fn owning_deployment(&self, set_key: &str) -> Option<String> {
        let meta = &self.sets.get(set_key)?.metadata;
        let owner = meta.controller().filter(|o| o.kind == "Deployment")?;
        Some(format!("/registry/apps/deployments/{}/{}", meta.namespace, owner.name))
    }

    /// A deployment that says it is complete is held to its bounds from then on.
    fn settle(&mut self, key: &str) {
        let Some(deployment) = self.deployments.get(key) else {
            self.steady.remove(key);
            return;
        };
        let (wanted, status) = (deployment.replicas(), &deployment.status);
        let complete = status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.replicas == wanted
            && status.available_replicas == wanted;
        if complete {
            self.steady.insert(key.to_owned());
        }
    }

    fn check(&self, key: &str) -> Option<String> {
        let deployment = self.deployments.get(key).filter(|_| self.steady.contains(key))?;
        let wanted = deployment.replicas();
        let rolling = deployment.spec.strategy.rolling_update.clone()?;
        let surge = rolling.max_surge?.of(wanted, true)?;
        let unavailable = rolling.max_unavailable?.of(wanted, false)?;
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        let sets = self.by_set.iter().filter(|(set, _)| self.owning_deployment(set).as_deref() == Some(key));
        let pods: Vec<&Pod> = sets
            .flat_map(|(_, keys)| keys)
            .filter_map(|k| self.pods.get(k))
            .filter(|p| p.is_active() && !self.dead_nodes.contains(&p.spec.node_name))
            .collect();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let (active, ready) = (count(pods.len()), count(pods.iter().filter(|p| p.is_ready()).count()));
        if active > wanted + surge {
            return Some(format!("{key} has {active} pods, {wanted} wanted and {surge} more allowed"));
        }
        if ready < wanted - unavailable {
            return Some(format!("{key} has {ready} ready pods, {wanted} wanted and {unavailable} fewer allowed"));
        }
        None
    }

    fn check_node(&self, node: &str) -> Option<String> {
        if node.is_empty() {
            return None;
        }
        let keys = self.by_node.get(node).into_iter().flatten();
        let count = keys.filter_map(|k| self.pods.get(k)).filter(|p| !p.is_finished()).count();
        (count > PODS_PER_NODE).then(|| format!("node {node} has {count} pods"))
    }
}

/// Puts or removes an object of the mirror; the one before.
fn set<T: for<'de> Deserialize<'de>>(map: &mut BTreeMap<String, T>, key: &str, value: Option<&[u8]>) -> Option<T> {
    match value.and_then(|v| serde_json::from_slice(v).ok()) {
        Some(new) => map.insert(key.to_owned(), new),
        None => map.remove(key),
    }
}

fn owning_set(pod: &Pod) -> Option<String> {
    let owner = pod.metadata.controller().filter(|o| o.kind == "ReplicaSet")?;
    Some(format!("/registry/apps/replicasets/{}/{}", pod.metadata.namespace, owner.name))
}

/// What must hold when everything has come to rest: every wanted pod is there, on a living node, and ready; and nothing
/// is left that belongs to nobody. `objects` are all objects of the cluster, `living` the nodes.
pub fn at_rest(objects: &[Value], living: &BTreeSet<String>) -> Vec<String> {
    let uids: BTreeSet<&str> = objects.iter().filter_map(|o| o["metadata"]["uid"].as_str()).collect();
    let mut wrong = Vec::new();
    for object in objects {
        let name = format!(
            "{} {}/{}",
            object["kind"].as_str().unwrap_or_default(),
            object["metadata"]["namespace"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        for owner in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            if !uids.contains(owner["uid"].as_str().unwrap_or_default()) {
                wrong.push(format!("{name} is left of {} {}", owner["kind"], owner["name"]));
            }
        }
        match object["kind"].as_str() {
            Some("Pod") => wrong.extend(pod_at_rest(object, &name, living)),
            Some("Deployment") => {
                let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
                for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
                    let have = object["status"][field].as_i64().unwrap_or_default();
                    if have != wanted {
                        wrong.push(format!("{name}: {field} is {have}, {wanted} wanted"));
                    }
                }
            }
            _ => {}
        }
    }
    wrong
}

fn pod_at_rest(object: &Value, name: &str, living: &BTreeSet<String>) -> Option<String> {
    let pod: Pod = serde_json::from_value(object.clone()).ok()?;
    if pod.is_finished() {
        return None;
    }
    // What was on a dead node stays, on its way out, until the node is back or removed.
    if !living.contains(&pod.spec.node_name) {
        return (!pod.metadata.is_terminating()).then(|| format!("{name} is on {:?}", pod.spec.node_name));
    }
    (!pod.is_ready() || pod.metadata.is_terminating()).then(|| format!("{name} is not ready: {}", object["status"]))
}
