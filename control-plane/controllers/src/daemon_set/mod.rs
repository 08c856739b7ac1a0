//! DaemonSets: a pod on every node that can take one (upstream `pkg/controller/daemon`).
//!
//! The controller says on which node each pod goes by its node affinity; the scheduler puts it there.

mod nodes;
mod rolling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::claim::{self, claim, pod_from_template};
use crate::context::Context;
use crate::history::{History, Owner};
use crate::runtime::cache::{BY_CONTROLLER, Change};
use crate::runtime::kind;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Action, Note, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{ControllerRevision, DaemonSet, DaemonSetStatus, Node, Pod};

use nodes::Placement;

/// The label by which a revision and its pods are told.
const HASH_LABEL: &str = "controller-revision-hash";
const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";
/// Pods made or deleted by one plan.
const BURST: usize = 250;
/// A failed pod is replaced after this, so that one that always fails does not keep everybody busy.
const FAILED_BACKOFF: SignedDuration = SignedDuration::from_secs(1);

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The set.
    pub set: &'a DaemonSet,
    /// Its pods, and orphans of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// The set's history.
    pub revisions: &'a [Arc<ControllerRevision>],
}

/// A node, and the set's pods on it.
struct OnNode<'a> {
    node: &'a Node,
    /// Whether the pod should be there, and whether one that is there may stay.
    placement: Placement,
    /// The oldest first.
    pods: Vec<Arc<Pod>>,
}

/// Brings the pods to what is wanted, and the status to what is.
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let set = view.set;
    let claims = claim(&set.metadata, &kind::DAEMON_SET, &set.spec.selector, view.pods, |_| true);
    let mut plan = Plan::nothing();
    plan.step(claims.actions);
    let template = set.spec.template.value();
    let owner = Owner {
        meta: &set.metadata,
        kind: &kind::DAEMON_SET,
        template: &template,
        hash_label: HASH_LABEL,
        collisions: set.status.collision_count,
    };
    let history = History::of(&owner, view.revisions);
    let Some(newest) = history.newest() else { return plan };
    let on_nodes = by_node(view, &template, &claims.owned);
    let mut status = status(view, &on_nodes, &newest.hash, now);
    status.collision_count = history.collisions;
    if !set.metadata.is_terminating() {
        plan.step(history.actions.clone());
        let mut work = Work {
            set,
            template: &template,
            hash: &newest.hash,
            now,
            plan: &mut plan,
            create: Vec::new(),
            delete: Vec::new(),
        };
        work.lost(&on_nodes, &claims.owned);
        work.place(&on_nodes);
        if work.create.is_empty() && work.delete.is_empty() && set.spec.update_strategy.kind != "OnDelete" {
            rolling::roll(&mut work, &on_nodes);
        }
        work.finish();
        let mut in_use: BTreeSet<&str> =
            claims.owned.iter().filter_map(|pod| pod.metadata.labels.get(HASH_LABEL)).map(String::as_str).collect();
        in_use.insert(&newest.name);
        plan.step(history.truncate(&in_use, set.spec.revision_history_limit));
    }
    if status != set.status {
        let patch = json!({"status": status});
        let write = Write::merge(&kind::DAEMON_SET, &set.metadata, "status", patch).into();
        match plan.steps.first_mut() {
            Some(step) => step.push(write),
            None => plan.act(write),
        }
    }
    if set.spec.min_ready_seconds > 0 && status.number_available < status.number_ready {
        plan.look_again(Duration::from_secs(set.spec.min_ready_seconds.max(1).unsigned_abs()));
    }
    plan
}

/// The node that a pod is on, or is to go to.
fn node_of(pod: &Pod) -> &str {
    if pod.spec.node_name.is_empty() {
        pod.spec.affinity_node.as_deref().unwrap_or_default()
    } else {
        &pod.spec.node_name
    }
}

fn by_node<'a>(view: &View<'a>, template: &Value, owned: &[Arc<Pod>]) -> Vec<OnNode<'a>> {
    let mut pods: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in owned {
        pods.entry(node_of(pod)).or_default().push(pod.clone());
    }
    let rules = nodes::Rules::of(&template["spec"]);
    view.nodes
        .iter()
        .map(|node| {
            let mut pods = pods.remove(node.metadata.name.as_str()).unwrap_or_default();
            pods.sort_by_key(|pod| (pod.metadata.creation_timestamp, pod.metadata.name.clone()));
            OnNode { node, placement: rules.place(node), pods }
        })
        .collect()
}

fn hash_of(pod: &Pod) -> &str {
    pod.metadata.labels.get(HASH_LABEL).map_or("", String::as_str)
}

fn status(view: &View<'_>, nodes: &[OnNode<'_>], hash: &str, now: Timestamp) -> DaemonSetStatus {
    let set = view.set;
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        conditions: set.status.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    for on_node in nodes {
        let has = !on_node.pods.is_empty();
        if !on_node.placement.run {
            status.number_misscheduled += i32::from(has);
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(has);
        // The oldest speaks for the node.
        let Some(pod) = on_node.pods.first() else { continue };
        let any_updated = on_node.pods.iter().any(|pod| hash_of(pod) == hash);
        status.updated_number_scheduled += i32::from(any_updated && (hash_of(pod) == hash || on_node.pods.len() > 1));
        if on_node.pods.iter().any(|pod| pod.is_ready()) {
            status.number_ready += 1;
        }
        if on_node.pods.iter().any(|pod| pod.is_available(set.spec.min_ready_seconds, now)) {
            status.number_available += 1;
        }
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    status
}

/// What is to be made and deleted.
struct Work<'a> {
    set: &'a DaemonSet,
    template: &'a Value,
    hash: &'a str,
    now: Timestamp,
    plan: &'a mut Plan,
    /// Nodes that get a pod.
    create: Vec<String>,
    delete: Vec<Arc<Pod>>,
}

impl Work<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.set.spec.min_ready_seconds, self.now)
    }

    /// Pods that are to go to nodes that do not exist.
    fn lost(&mut self, nodes: &[OnNode<'_>], owned: &[Arc<Pod>]) {
        let known: BTreeSet<&str> = nodes.iter().map(|on_node| on_node.node.metadata.name.as_str()).collect();
        let unplaced = owned.iter().filter(|pod| pod.spec.node_name.is_empty() && !pod.metadata.is_terminating());
        self.delete.extend(unplaced.filter(|pod| !known.contains(node_of(pod))).cloned());
    }

    /// One pod on each node that should have one, none where it may not stay.
    fn place(&mut self, nodes: &[OnNode<'_>]) {
        for on_node in nodes {
            let active: Vec<&Arc<Pod>> = on_node.pods.iter().filter(|pod| !pod.metadata.is_terminating()).collect();
            if !on_node.placement.stay {
                self.delete.extend(active.into_iter().cloned());
                continue;
            }
            let (ended, running): (Vec<_>, Vec<_>) = active.into_iter().partition(|pod| pod.is_finished());
            for pod in &ended {
                self.replace_ended(on_node, pod);
            }
            if !ended.is_empty() {
                continue;
            }
            if running.is_empty() {
                // One on its way out keeps its place until it is gone.
                if on_node.placement.run && on_node.pods.is_empty() {
                    self.create.push(on_node.node.metadata.name.clone());
                }
                continue;
            }
            self.delete_doubles(&running);
        }
    }

    fn replace_ended(&mut self, on_node: &OnNode<'_>, pod: &Arc<Pod>) {
        let ready_at = pod.metadata.creation_timestamp.and_then(|made| made.checked_add(FAILED_BACKOFF).ok());
        let left = ready_at.and_then(|at| Duration::try_from(at.duration_since(self.now)).ok());
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            self.plan.look_again(left);
            return;
        }
        let (name, node) = (&pod.metadata.name, &on_node.node.metadata.name);
        let regarding = self.set.metadata.reference(&kind::DAEMON_SET);
        let note = if pod.status.phase == "Failed" {
            let message = format!(
                "Found failed daemon pod {}/{name} on node {node}, will try to kill it",
                pod.metadata.namespace
            );
            Note::warning(regarding, "FailedDaemonPod", message)
        } else {
            let message = format!(
                "Found succeeded daemon pod {}/{name} on node {node}, will try to delete it",
                pod.metadata.namespace
            );
            Note::normal(regarding, "SucceededDaemonPod", message)
        };
        self.plan.act(note.into());
        self.delete.push(pod.clone());
    }

    /// Where one is enough, the oldest of each sort stays: while a new one takes over, there are two.
    fn delete_doubles(&mut self, running: &[&Arc<Pod>]) {
        let surge = rolling::surge(self.set, usize::MAX) > 0;
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.iter().partition(|pod| hash_of(pod) == self.hash);
        if surge {
            self.delete.extend(old.iter().skip(1).chain(new.iter().skip(1)).map(|pod| (*pod).clone()));
        } else {
            self.delete.extend(running.iter().skip(1).map(|pod| (*pod).clone()));
        }
    }

    /// Puts what was decided into the plan.
    fn finish(self) {
        let regarding = self.set.metadata.reference(&kind::DAEMON_SET);
        let deleted = Report {
            regarding: regarding.clone(),
            success: Some(("SuccessfulDelete", "Deleted pod: {}".into())),
            failure: Some(("FailedDelete", "Error deleting: ".into())),
        };
        let created = Report {
            regarding,
            success: Some(("SuccessfulCreate", "Created pod: {}".into())),
            failure: Some(("FailedCreate", "Error creating: ".into())),
        };
        let deletions: Vec<Action> = self
            .delete
            .iter()
            .take(BURST)
            .map(|pod| Write::delete(&kind::POD, &pod.metadata).reported(deleted.clone()).into())
            .collect();
        let creations: Vec<Action> = self
            .create
            .iter()
            .take(BURST)
            .map(|node| {
                let body = pod_for(self.set, self.template, self.hash, node);
                Write::create(&kind::POD, &self.set.metadata.namespace, body).reported(created.clone()).into()
            })
            .collect();
        self.plan.slow_start(creations);
        self.plan.step(deletions);
    }
}

/// The pod for a node.
fn pod_for(set: &DaemonSet, template: &Value, hash: &str, node: &str) -> Value {
    let mut pod = pod_from_template(template, &set.metadata, &kind::DAEMON_SET);
    pod["metadata"]["labels"][HASH_LABEL] = hash.into();
    if let Some(generation) = set.metadata.annotations.get(GENERATION) {
        pod["metadata"]["labels"][GENERATION_LABEL] = generation.as_str().into();
    }
    nodes::bind(&mut pod["spec"], node);
    nodes::tolerate(&mut pod["spec"]);
    pod
}

/// The controller.
#[derive(Debug)]
pub struct DaemonSets {
    cx: Context,
    queue: Arc<Keys>,
}

impl DaemonSets {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.daemon_sets.on_change(move |change| keys.add(change.latest().metadata.key()));
        let (keys, sets) = (queue.clone(), cx.caches.daemon_sets.clone());
        cx.caches.nodes.on_change(move |change: &Change<'_, Node>| {
            let matters = change.previous().is_none_or(|old| nodes::differ(old, change.latest()))
                || matches!(change, Change::Removed(_));
            if matters {
                sets.list().iter().for_each(|set| keys.add(set.metadata.key()));
            }
        });
        claim::follow(&cx.caches.daemon_sets, &cx.caches.pods, &queue, |set: &DaemonSet, pod| {
            set.spec.selector.matches(&pod.labels)
        });
        Arc::new(Self { cx: cx.of("daemonset-controller"), queue })
    }
}

#[async_trait]
impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        2
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(set) = caches.daemon_sets.get(key) else { return Ok(None) };
        let pods = claim::candidates(&caches.pods, &set.metadata, &set.spec.selector);
        let nodes = caches.nodes.list();
        let revisions = caches.controller_revisions.by_index(BY_CONTROLLER, &set.metadata.uid);
        let view = View { set: &set, pods: &pods, nodes: &nodes, revisions: &revisions };
        let plan = plan(&view, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests;
