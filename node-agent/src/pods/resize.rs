//! Changing what running containers may use (KEP-1287): whether the node grants it, and what is left to do. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::context::Allocatable;
use super::resources::pod_request;
use super::state::Step;
use crate::api::Pod;
use crate::api::pod::{Container, PodSpec, Resources};

/// What is known of a pod's resources besides what its object asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resize {
    /// What the node has granted, by container.
    pub granted: BTreeMap<String, Resources>,
    /// What it has granted to the pod as a whole.
    pub granted_pod: Option<Resources>,
    /// Why it has not granted what the object asks for.
    pub pending: Option<Pending>,
    /// What was granted last is not in force everywhere yet.
    pub in_progress: Option<InProgress>,
    /// Putting it in force.
    pub step: Step<()>,
}

/// Why a pod does not get what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred`: later, perhaps. `Infeasible`: not on this node.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The generation of the object that asks for it.
    pub generation: Option<i64>,
}

/// A change that is being put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InProgress {
    /// The generation of the object that asked for it.
    pub generation: Option<i64>,
    /// What went wrong the last time it was tried.
    pub error: Option<String>,
}

impl Resize {
    /// What the pod was granted when the agent first saw it (again): what was reported, or else what it asks for.
    pub fn of(pod: &Pod) -> Self {
        let told = |name: &str| pod.status.every_container().find(|s| s.name == name)?.resources.clone();
        let granted = pod.spec.all_containers().map(|c| {
            let mut resources = told(&c.name).unwrap_or_else(|| c.resources.clone());
            // What cannot be changed is not reported.
            for (list, asked) in
                [(&mut resources.requests, &c.resources.requests), (&mut resources.limits, &c.resources.limits)]
            {
                let others = asked.iter().filter(|(name, _)| !is_changeable(name));
                list.extend(others.map(|(name, amount)| (name.clone(), amount.clone())));
            }
            (c.name.clone(), resources)
        });
        Self { granted: granted.collect(), granted_pod: pod.spec.resources.clone(), ..Self::default() }
    }

    /// What a container has been granted.
    pub fn of_container<'a>(&'a self, container: &'a Container) -> &'a Resources {
        self.granted.get(&container.name).unwrap_or(&container.resources)
    }

    /// Whether the object asks for something else than what has been granted.
    pub fn is_wanted(&self, pod: &Pod) -> bool {
        pod.spec.resources != self.granted_pod
            || pod.spec.all_containers().any(|c| *self.of_container(c) != c.resources)
    }

    /// The node grants all that the object asks for.
    pub fn grant(&mut self, pod: &Pod) {
        self.granted = pod.spec.all_containers().map(|c| (c.name.clone(), c.resources.clone())).collect();
        self.granted_pod.clone_from(&pod.spec.resources);
        self.pending = None;
        self.in_progress = Some(InProgress { generation: pod.metadata.generation, error: None });
        self.step = Step::Todo;
    }

    /// The pod with what it has been granted in place of what it asks for.
    pub fn granted_to(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if !self.is_wanted(pod) {
            return Arc::clone(pod);
        }
        let mut granted = Pod::clone(pod);
        granted.spec.resources.clone_from(&self.granted_pod);
        for container in granted.spec.init_containers.iter_mut().chain(&mut granted.spec.containers) {
            container.resources = self.of_container(container).clone();
        }
        Arc::new(granted)
    }
}

fn is_changeable(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory")
}

/// The part of resources that a container's status tells, and that can be changed while it runs.
pub fn reported(resources: &Resources) -> Resources {
    let part = |list: &BTreeMap<String, Value>| -> BTreeMap<String, Value> {
        let shown = list.iter().filter(|(name, _)| is_changeable(name) || *name == "ephemeral-storage");
        shown.map(|(name, amount)| (name.clone(), amount.clone())).collect()
    };
    Resources { limits: part(&resources.limits), requests: part(&resources.requests), claims: Vec::new() }
}

/// Whether the container has to be restarted for `new` to be in force (its `resizePolicy`).
pub fn restarts(container: &Container, old: &Resources, new: &Resources) -> bool {
    container.resize_policy.iter().filter(|p| p.restart_policy == "RestartContainer").any(|policy| {
        let of = |resources: &Resources| {
            let name = &policy.resource_name;
            (resources.requests.get(name).cloned(), resources.limits.get(name).cloned())
        };
        let ((old_request, old_limit), (request, limit)) = (of(old), of(new));
        // A memory request is for the scheduler only.
        old_limit != limit || policy.resource_name == "cpu" && old_request != request
    })
}

/// What a pod takes of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

impl Room {
    /// What a pod asks for.
    pub fn of(spec: &PodSpec) -> Self {
        Self { cpu_milli: pod_request(spec, "cpu"), memory_bytes: pod_request(spec, "memory") }
    }
}

/// Why there is no room: the resource, and a sentence about it as upstream's admission says it.
pub fn shortage(wanted: Room, used: Room, allocatable: &Allocatable) -> Option<(&'static str, String)> {
    let short = |resource: &str, requested: i64, used: i64, capacity: i64| {
        format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    };
    for (resource, wanted, used, capacity) in [
        ("cpu", wanted.cpu_milli, used.cpu_milli, allocatable.cpu_milli),
        ("memory", wanted.memory_bytes, used.memory_bytes, allocatable.memory_bytes),
    ] {
        if wanted > 0 && used.saturating_add(wanted) > capacity {
            return Some((resource, short(resource, wanted, used, capacity)));
        }
    }
    None
}

/// What the node has granted to its pods that have not ended.
#[derive(Debug)]
pub struct Ledger {
    rooms: Mutex<BTreeMap<String, Room>>,
    /// Counts how often something was given back.
    freed: watch::Sender<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { rooms: Mutex::default(), freed: watch::channel(0).0 }
    }
}

impl Ledger {
    /// What all pods but the one with `uid` have.
    pub fn others(&self, uid: &str) -> Room {
        sum_of_others(&self.rooms.lock(), uid)
    }

    /// The pod with `uid` has so much.
    pub fn set(&self, uid: &str, room: Room) {
        let before = self.rooms.lock().insert(uid.to_owned(), room);
        if before.is_some_and(|b| b.cpu_milli > room.cpu_milli || b.memory_bytes > room.memory_bytes) {
            self.freed.send_modify(|count| *count += 1);
        }
    }

    /// The pod with `uid` has nothing any more.
    pub fn remove(&self, uid: &str) {
        if self.rooms.lock().remove(uid).is_some() {
            self.freed.send_modify(|count| *count += 1);
        }
    }

    /// Changes when something is given back.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    /// Gives the pod what it asks for, or says why not.
    pub fn try_grant(&self, pod: &Pod, allocatable: &Allocatable) -> Result<(), Pending> {
        let wanted = Room::of(&pod.spec);
        let generation = pod.metadata.generation;
        for (resource, requested, capacity) in [
            ("memory", wanted.memory_bytes, allocatable.memory_bytes),
            ("cpu", wanted.cpu_milli, allocatable.cpu_milli),
        ] {
            if requested > capacity {
                let message = format!(
                    "Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}"
                );
                return Err(Pending { reason: "Infeasible", message, generation });
            }
        }
        let uid = &pod.metadata.uid;
        {
            let mut rooms = self.rooms.lock();
            let used = sum_of_others(&rooms, uid);
            // One that asks for no more than it has can always have it.
            let has = rooms.get(uid).copied().unwrap_or_default();
            let grows = wanted.cpu_milli > has.cpu_milli || wanted.memory_bytes > has.memory_bytes;
            if grows && let Some((_, message)) = shortage(wanted, used, allocatable) {
                return Err(Pending { reason: "Deferred", message, generation });
            }
            rooms.entry(uid.clone()).or_insert(wanted);
        }
        self.set(uid, wanted);
        Ok(())
    }
}

fn sum_of_others(rooms: &BTreeMap<String, Room>, uid: &str) -> Room {
    rooms.iter().filter(|(other, _)| *other != uid).fold(Room::default(), |sum, (_, room)| Room {
        cpu_milli: sum.cpu_milli.saturating_add(room.cpu_milli),
        memory_bytes: sum.memory_bytes.saturating_add(room.memory_bytes),
    })
}

/// An event's message: what it is about, and the resources as JSON (kubelet `events/pod_resize.go`).
pub fn message(prefix: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<Value> {
        let entry = |c: &Container| json!({ "name": c.name, "resources": c.resources });
        containers.iter().map(entry).collect()
    };
    let mut summary = serde_json::Map::new();
    let sidecars: Vec<Container> = pod.spec.init_containers.iter().filter(|c| c.is_sidecar()).cloned().collect();
    if !sidecars.is_empty() {
        summary.insert("initContainers".to_owned(), list(&sidecars).into());
    }
    summary.insert("containers".to_owned(), list(&pod.spec.containers).into());
    summary.insert("generation".to_owned(), generation.unwrap_or(0).into());
    if !error.is_empty() {
        summary.insert("error".to_owned(), error.into());
    }
    format!("{prefix}: {}", Value::Object(summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "uid": uid, "generation": 2 },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn room_is_granted_as_far_as_there_is_some() {
        let ledger = Ledger::default();
        let allocatable = Allocatable { cpu_milli: 1000, memory_bytes: 1 << 30, pods: 10 };
        ledger.set("a", Room { cpu_milli: 500, memory_bytes: 0 });
        ledger.set("b", Room { cpu_milli: 400, memory_bytes: 0 });
        assert_eq!(ledger.try_grant(&pod("a", "600m"), &allocatable), Ok(()));
        let pending = ledger.try_grant(&pod("a", "601m"), &allocatable).unwrap_err();
        assert_eq!(pending.reason, "Deferred");
        let expected = "Node didn't have enough resource: cpu, requested: 601, used: 400, capacity: 1000";
        assert_eq!(pending.message, expected);
        assert_eq!(ledger.try_grant(&pod("a", "1001m"), &allocatable).unwrap_err().reason, "Infeasible");
        let mut freed = ledger.freed();
        freed.mark_unchanged();
        ledger.remove("b");
        assert!(freed.has_changed().unwrap());
        assert_eq!(ledger.try_grant(&pod("a", "601m"), &allocatable), Ok(()));
    }

    #[test]
    fn what_was_granted_is_in_force_until_more_is() {
        let asked = pod("a", "600m");
        let mut resize = Resize::of(&pod("a", "500m"));
        assert!(resize.is_wanted(&asked));
        assert_eq!(resize.granted_to(&asked).spec.containers[0].resources.requests["cpu"], "500m");
        resize.grant(&asked);
        assert!(!resize.is_wanted(&asked));
        assert_eq!(resize.in_progress, Some(InProgress { generation: Some(2), error: None }));
        assert_eq!(
            message("Pod resize started", &asked, Some(2), ""),
            r#"Pod resize started: {"containers":[{"name":"c","resources":{"requests":{"cpu":"600m"}}}],"generation":2}"#
        );
    }

    #[test]
    fn some_changes_need_a_restart() {
        let container: Container = serde_json::from_value(json!({ "resizePolicy": [
            { "resourceName": "cpu", "restartPolicy": "NotRequired" },
            { "resourceName": "memory", "restartPolicy": "RestartContainer" },
        ]}))
        .unwrap();
        let resources = |cpu: &str, memory: &str| -> Resources {
            serde_json::from_value(json!({ "limits": { "cpu": cpu, "memory": memory } })).unwrap()
        };
        assert!(!restarts(&container, &resources("1", "1Gi"), &resources("2", "1Gi")));
        assert!(restarts(&container, &resources("1", "1Gi"), &resources("1", "2Gi")));
    }
}
