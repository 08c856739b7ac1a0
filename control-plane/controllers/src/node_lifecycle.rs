//! Nodes that give no sign of life: their conditions become unknown, taints keep pods away and send them off, and
//! their pods stop counting as ready (upstream `pkg/controller/nodelifecycle`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::json;
use xebec_clock::Clock;

use crate::context::Context;
use crate::runtime::cache::{BY_NODE, Change};
use crate::runtime::meta::{Condition, Key, condition, seconds};
use crate::runtime::plan::{Action, Note, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{Node, Pod, Taint};

const PERIOD: Duration = Duration::from_secs(5);
/// The conditions that a node's agent keeps up; the agent gone, nothing is known about them.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that, when true, keep new pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// When this share of the nodes (and more than two) are gone it is rather our view that is broken, and no pods are
/// sent off.
const UNHEALTHY_PERCENT: usize = 55;
/// Pods are sent off a node at most every so often (upstream: 0.1 nodes a second).
const EVICTION_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// A sign of life: what the node's lease and status said, and when that was seen to change, by a clock of our own that
/// nobody sets, so that nodes' clocks may differ and ours may be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignOfLife {
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    seen: Timestamp,
}

/// What the planner looks at.
pub struct View<'a> {
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// How long each has been silent.
    pub silent_for: &'a BTreeMap<String, SignedDuration>,
    /// The pods of nodes that are not ready.
    pub pods: &'a (dyn Fn(&str) -> Vec<Arc<Pod>> + Sync),
    /// How long a node may be silent.
    pub grace: SignedDuration,
    /// Whether pods may be sent off one more node now.
    pub may_evict: bool,
}

/// The plan, and whether pods are sent off a node by it.
pub fn plan(view: &View<'_>, now: Timestamp) -> (Plan, bool) {
    let mut plan = Plan::nothing();
    plan.look_again(PERIOD);
    let mut may_evict = view.may_evict;
    let statuses: Vec<(&Node, Option<Vec<Condition>>)> =
        view.nodes.iter().map(|n| (n.as_ref(), silenced(n, view, now))).collect();
    let readiness = |node: &Node, new: &Option<Vec<Condition>>| {
        let conditions = new.as_deref().unwrap_or(&node.status.conditions);
        condition(conditions, "Ready").map_or("Unknown".to_owned(), |c| c.status.clone())
    };
    let unready = statuses.iter().filter(|(n, new)| readiness(n, new) != "True").count();
    let disrupted = unready == statuses.len() || (unready > 2 && unready * 100 >= statuses.len() * UNHEALTHY_PERCENT);
    let (mut writes, mut pod_writes) = (Vec::new(), Vec::new());
    for (node, new) in &statuses {
        let was_ready = condition(&node.status.conditions, "Ready").is_some_and(Condition::is_true);
        let ready = readiness(node, new);
        if let Some(conditions) = new {
            let patch = json!({"status": {"conditions": conditions}});
            writes.push(Write::merge_exact(&kind::NODE, &node.metadata, "status", patch).into());
            if was_ready {
                let message = format!("Node {} status is now: NodeNotReady", node.metadata.name);
                writes.push(Note::normal(node.metadata.reference(&kind::NODE), "NodeNotReady", message).into());
            }
        }
        if ready != "True" {
            pod_writes.extend((view.pods)(&node.metadata.name).iter().flat_map(|p| not_ready(p, now)));
        }
        // The taints follow once the conditions are written: that changes the node, and it is looked at again.
        if new.is_none()
            && let Some(taints) = taints(node, &ready, disrupted, &mut may_evict, now)
        {
            let patch = json!({"spec": {"taints": taints}});
            writes.push(Write::merge_exact(&kind::NODE, &node.metadata, "", patch).into());
        }
    }
    plan.step(writes);
    plan.step(pod_writes);
    (plan, view.may_evict && !may_evict)
}

/// The conditions of a node that has been silent too long, if they do not say so yet.
fn silenced(node: &Node, view: &View<'_>, now: Timestamp) -> Option<Vec<Condition>> {
    if *view.silent_for.get(&node.metadata.name)? <= view.grace {
        return None;
    }
    let mut conditions = node.status.conditions.clone();
    for kind in REPORTED {
        match conditions.iter_mut().find(|c| c.kind == kind) {
            Some(c) if c.status == "Unknown" => {}
            Some(c) => {
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(seconds(now));
            }
            None => conditions.push(Condition {
                kind: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp,
                last_transition_time: Some(seconds(now)),
                ..Condition::default()
            }),
        }
    }
    (conditions != node.status.conditions).then_some(conditions)
}

/// The taints that a node's conditions call for, if it has others.
fn taints(node: &Node, ready: &str, disrupted: bool, may_evict: &mut bool, now: Timestamp) -> Option<Vec<Taint>> {
    let taint = |key: &str, effect: &str| Taint {
        key: key.into(),
        effect: effect.into(),
        time_added: Some(seconds(now)),
        ..Taint::default()
    };
    let mut wanted: Vec<Taint> = Vec::new();
    match ready {
        "False" => wanted.push(taint(NOT_READY, "NoSchedule")),
        "Unknown" => wanted.push(taint(UNREACHABLE, "NoSchedule")),
        _ => {}
    }
    for (kind, key) in PRESSURES {
        if condition(&node.status.conditions, kind).is_some_and(Condition::is_true) {
            wanted.push(taint(key, "NoSchedule"));
        }
    }
    if node.spec.unschedulable {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule"));
    }
    let sent_off = match ready {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    };
    let has = |key: &str| node.spec.taints.iter().any(|t| t.key == key && t.effect == "NoExecute");
    if let Some(key) = sent_off.filter(|_| !disrupted) {
        let already = has(NOT_READY) || has(UNREACHABLE);
        if already || *may_evict {
            wanted.push(taint(key, "NoExecute"));
            *may_evict &= already;
        }
    }
    let ours = |t: &Taint| {
        let by_condition = t.effect == "NoSchedule"
            && (t.key == NOT_READY
                || t.key == UNREACHABLE
                || t.key == UNSCHEDULABLE
                || PRESSURES.iter().any(|(_, key)| t.key == *key));
        by_condition || (t.effect == "NoExecute" && (t.key == NOT_READY || t.key == UNREACHABLE))
    };
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut taints: Vec<Taint> =
        node.spec.taints.iter().filter(|t| !ours(t) || wanted.iter().any(|w| same(w, t))).cloned().collect();
    for new in wanted {
        if !taints.iter().any(|t| same(t, &new)) {
            taints.push(new);
        }
    }
    (taints != node.spec.taints).then_some(taints)
}

/// A pod whose node is not ready is not, whatever it last said.
fn not_ready(pod: &Pod, now: Timestamp) -> Vec<Action> {
    if !pod.is_ready() || pod.is_finished() {
        return Vec::new();
    }
    let mut conditions = pod.status.conditions.clone();
    for ready in conditions.iter_mut().filter(|c| c.kind == "Ready") {
        ready.status = "False".into();
        ready.last_transition_time = Some(seconds(now));
    }
    let patch = json!({"status": {"conditions": conditions}});
    vec![
        Write::merge_exact(&kind::POD, &pod.metadata, "status", patch).into(),
        Note::warning(pod.metadata.reference(&kind::POD), "NodeNotReady", "Node is not ready").into(),
    ]
}

/// The controller.
#[derive(Debug)]
pub struct NodeLifecycle {
    cx: Context,
    queue: Arc<Keys>,
    /// Measures silence.
    steady: Clock,
    grace: SignedDuration,
    signs: Mutex<BTreeMap<String, SignOfLife>>,
    last_eviction: Mutex<Option<Timestamp>>,
}

impl NodeLifecycle {
    /// Connects the controller to the caches; a node may be silent for `grace`.
    pub fn new(cx: &Context, grace: Duration) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        queue.add(Key::default());
        let keys = queue.clone();
        cx.caches.nodes.on_change(move |change: &Change<'_, Node>| {
            let state = |n: &Node| {
                let conditions = n.status.conditions.iter();
                let conditions: Vec<_> = conditions.map(|c| (c.kind.clone(), c.status.clone())).collect();
                (conditions, n.spec.clone().unschedulable, n.spec.taints.clone())
            };
            // Heartbeats alone can wait for the next round.
            if change.previous().is_none_or(|old| state(old) != state(change.latest())) {
                keys.add(Key::default());
            }
        });
        let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::from_secs(40));
        Arc::new(Self {
            cx: cx.of("node-controller"),
            queue,
            steady: cx.clock.steady(),
            grace,
            signs: Mutex::default(),
            last_eviction: Mutex::default(),
        })
    }

    /// Takes note of new signs of life; how long each node has given none.
    fn silent_for(&self, nodes: &[Arc<Node>], now: Timestamp) -> BTreeMap<String, SignedDuration> {
        let mut signs = self.signs.lock();
        let names: BTreeSet<&str> = nodes.iter().map(|n| n.metadata.name.as_str()).collect();
        signs.retain(|name, _| names.contains(name.as_str()));
        for node in nodes {
            let name = &node.metadata.name;
            let lease = self.cx.caches.node_leases.get(&Key::new("kube-node-lease", name));
            let lease = lease.and_then(|l| l.spec.renew_time);
            let heartbeat = condition(&node.status.conditions, "Ready").and_then(|c| c.last_heartbeat_time);
            match signs.get_mut(name) {
                Some(sign) if sign.lease == lease && sign.heartbeat == heartbeat => {}
                Some(sign) => *sign = SignOfLife { lease, heartbeat, seen: now },
                None => {
                    signs.insert(name.clone(), SignOfLife { lease, heartbeat, seen: now });
                }
            }
        }
        signs.iter().map(|(name, sign)| (name.clone(), now.duration_since(sign.seen))).collect()
    }
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, _key: &Key) -> Result<Option<Duration>, SyncError> {
        let now = self.steady.now();
        let nodes = self.cx.caches.nodes.list();
        let silent_for = self.silent_for(&nodes, now);
        let last_eviction = *self.last_eviction.lock();
        let pods = |name: &str| self.cx.caches.pods.by_index(BY_NODE, name);
        let view = View {
            nodes: &nodes,
            silent_for: &silent_for,
            pods: &pods,
            grace: self.grace,
            may_evict: last_eviction.is_none_or(|last| now.duration_since(last) >= EVICTION_INTERVAL),
        };
        let (plan, evicts) = plan(&view, self.cx.clock.now());
        if evicts {
            *self.last_eviction.lock() = Some(now);
        }
        self.cx.execute(plan).await?;
        Ok(Some(PERIOD))
    }
}

#[cfg(test)]
mod tests;
