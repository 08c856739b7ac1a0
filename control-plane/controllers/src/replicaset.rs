//! ReplicaSets and ReplicationControllers: as many pods as are wanted (upstream `pkg/controller/replicaset`, which also
//! serves both).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;

use crate::claim::{self, claim, pod_from_template};
use crate::context::{Caches, Context};
use crate::runtime::cache::{BY_CONTROLLER, BY_NODE, Cache, View as CacheView};
use crate::runtime::kind::{self, Kind};
use crate::runtime::meta::{Condition, Key, seconds};
use crate::runtime::plan::{Action, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{Pod, ReplicaSet, ReplicaSetStatus, ReplicationController};

/// Pods made or deleted by one plan, at most.
const BURST: usize = 500;
/// Pods with a lower cost are deleted first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A kind that is like a ReplicaSet.
pub trait Replicated: CacheView {
    /// The object as a ReplicaSet.
    fn set(&self) -> &ReplicaSet;
    /// Its cache.
    fn cache(caches: &Caches) -> &Arc<Cache<Self>>
    where
        Self: Sized;
}

impl Replicated for ReplicaSet {
    fn set(&self) -> &ReplicaSet {
        self
    }

    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.replica_sets
    }
}

impl Replicated for ReplicationController {
    fn set(&self) -> &ReplicaSet {
        &self.0
    }

    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.replication_controllers
    }
}

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// Which of the two kinds it is.
    pub kind: &'static Kind,
    /// The set.
    pub set: &'a ReplicaSet,
    /// Its pods, and orphans of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// How many active pods of the set and its siblings (other sets of the same owner) each node has.
    pub related: &'a BTreeMap<String, usize>,
    /// What went wrong when the last plan was carried out: a reason and a message.
    pub failure: Option<&'a (String, String)>,
}

/// Brings the number of pods to what is wanted, and the status to what is.
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let set = view.set;
    let claims = claim(&set.metadata, view.kind, &set.spec.selector, view.pods, |pod: &Pod| pod.is_active());
    let active: Vec<&Pod> = claims.owned.iter().map(Arc::as_ref).filter(|p| p.is_active()).collect();
    let terminating = claims.owned.iter().filter(|p| p.metadata.is_terminating() && !p.is_finished()).count();

    let mut plan = Plan::nothing();
    plan.step(claims.actions);
    if !set.metadata.is_terminating() {
        let wanted = usize::try_from(set.replicas()).unwrap_or_default();
        if active.len() < wanted {
            plan.slow_start(create(view, (wanted - active.len()).min(BURST)));
        } else if active.len() > wanted {
            plan.step(delete(view, &active, (active.len() - wanted).min(BURST), now));
        }
    }
    let status = status(view, &active, terminating, now);
    if status != set.status {
        let patch = json!({"status": status});
        let write = Write::merge(view.kind, &set.metadata, "status", patch).into();
        // Beside the first of the others: it holds them up as little as their failure does it.
        match plan.steps.first_mut() {
            Some(step) => step.push(write),
            None => plan.act(write),
        }
    }
    if let Some(wait) = next_available(set.spec.min_ready_seconds, &active, now) {
        plan.look_again(wait);
    }
    plan
}

fn create(view: &View<'_>, count: usize) -> Vec<Action> {
    let set = view.set;
    let body = pod_from_template(&set.spec.template.value(), &set.metadata, view.kind);
    let report = Report {
        regarding: set.metadata.reference(view.kind),
        success: Some(("SuccessfulCreate", "Created pod: {}".into())),
        failure: Some(("FailedCreate", "Error creating: ".into())),
    };
    let write = Write::create(&kind::POD, &set.metadata.namespace, body).reported(report);
    vec![write.into(); count]
}

fn delete(view: &View<'_>, active: &[&Pod], count: usize, now: Timestamp) -> Vec<Action> {
    let mut ranked: Vec<&Pod> = active.to_vec();
    ranked.sort_by(|a, b| deletion_order(a, b, view.related, now));
    let report = Report {
        regarding: view.set.metadata.reference(view.kind),
        success: Some(("SuccessfulDelete", "Deleted pod: {}".into())),
        failure: Some(("FailedDelete", "Error deleting: ".into())),
    };
    ranked[..count].iter().map(|p| Write::delete(&kind::POD, &p.metadata).reported(report.clone()).into()).collect()
}

/// Which of two pods goes first (upstream `controller.ActivePodsWithRanks`).
fn deletion_order(a: &Pod, b: &Pod, related: &BTreeMap<String, usize>, now: Timestamp) -> Ordering {
    let placed = |p: &Pod| !p.spec.node_name.is_empty();
    let phase = |p: &Pod| match p.status.phase.as_str() {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = |p: &Pod| p.metadata.annotations.get(DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0_i32);
    let crowd = |p: &Pod| related.get(&p.spec.node_name).copied().unwrap_or_default();
    placed(a)
        .cmp(&placed(b))
        .then(phase(a).cmp(&phase(b)))
        .then(a.is_ready().cmp(&b.is_ready()))
        .then(cost(a).cmp(&cost(b)))
        .then(crowd(b).cmp(&crowd(a)))
        .then_with(|| match (a.ready_since(), b.ready_since()) {
            (Some(x), Some(y)) => by_age(x, y, a, b, now),
            _ => Ordering::Equal,
        })
        .then(b.max_restarts().cmp(&a.max_restarts()))
        .then_with(|| {
            let (x, y) = (a.metadata.creation_timestamp, b.metadata.creation_timestamp);
            by_age(x.unwrap_or(now), y.unwrap_or(now), a, b, now)
        })
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// The younger goes first, in powers of two, so that within a cohort it is as good as random which one goes.
fn by_age(a_since: Timestamp, b_since: Timestamp, a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    if a_since == b_since {
        return Ordering::Equal;
    }
    let rank = |since: Timestamp| {
        let nanoseconds = now.duration_since(since).as_nanos();
        u128::try_from(nanoseconds).ok().filter(|n| *n > 0).map(u128::ilog2)
    };
    rank(a_since).cmp(&rank(b_since)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn status(view: &View<'_>, active: &[&Pod], terminating: usize, now: Timestamp) -> ReplicaSetStatus {
    let set = view.set;
    let template_labels = set.spec.template.labels();
    let labelled = |p: &&&Pod| template_labels.iter().all(|(k, v)| p.metadata.labels.get(k) == Some(v));
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let mut conditions = set.status.conditions.clone();
    match view.failure {
        Some((reason, message)) => {
            if !conditions.iter().any(|c| c.kind == "ReplicaFailure" && c.reason.as_ref() == Some(reason)) {
                conditions.retain(|c| c.kind != "ReplicaFailure");
                conditions.push(Condition {
                    kind: "ReplicaFailure".into(),
                    status: "True".into(),
                    last_transition_time: Some(seconds(now)),
                    reason: Some(reason.clone()),
                    message: Some(message.clone()),
                    ..Condition::default()
                });
            }
        }
        None => conditions.retain(|c| c.kind != "ReplicaFailure"),
    }
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: count(active.iter().filter(labelled).count()),
        ready_replicas: count(active.iter().filter(|p| p.is_ready()).count()),
        available_replicas: count(active.iter().filter(|p| p.is_available(set.spec.min_ready_seconds, now)).count()),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions,
    }
}

/// How long until the next ready pod has been ready long enough.
fn next_available(min_ready_seconds: i64, active: &[&Pod], now: Timestamp) -> Option<Duration> {
    active
        .iter()
        .filter(|p| !p.is_available(min_ready_seconds, now))
        .filter_map(|p| p.ready_since())
        .map(|since| (since.as_second() + min_ready_seconds - now.as_second()).max(1).unsigned_abs())
        .min()
        .map(Duration::from_secs)
}

/// The controller.
#[derive(Debug)]
pub struct ReplicaSets<V> {
    cx: Context,
    sets: PhantomData<fn() -> V>,
    queue: Arc<Keys>,
    failures: Mutex<BTreeMap<Key, (String, String)>>,
}

impl<V: Replicated> ReplicaSets<V> {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        V::cache(&cx.caches).on_change(move |change| keys.add(change.latest().meta().key()));
        claim::follow(V::cache(&cx.caches), &cx.caches.pods, &queue, |set: &V, pod| {
            set.set().spec.selector.matches(&pod.labels)
        });
        let component =
            if V::kind() == &kind::REPLICA_SET { "replicaset-controller" } else { "replication-controller" };
        Arc::new(Self { cx: cx.of(component), sets: PhantomData, queue, failures: Mutex::default() })
    }

    /// Active pods by node, of all sets that have the same owner; only of nodes that matter.
    fn related(&self, set: &ReplicaSet, pods: &[Arc<Pod>]) -> BTreeMap<String, usize> {
        let siblings: Vec<String> = match set.metadata.controller() {
            Some(owner) => {
                let sets = V::cache(&self.cx.caches).by_index(BY_CONTROLLER, &owner.uid);
                sets.iter().map(|s| s.meta().uid.clone()).collect()
            }
            None => vec![set.metadata.uid.clone()],
        };
        let mut nodes: BTreeMap<String, usize> =
            pods.iter().filter(|p| !p.spec.node_name.is_empty()).map(|p| (p.spec.node_name.clone(), 0)).collect();
        for (node, count) in &mut nodes {
            let on_node = self.cx.caches.pods.by_index(BY_NODE, node);
            let of_siblings = |p: &Pod| p.metadata.controller().is_some_and(|o| siblings.contains(&o.uid));
            *count = on_node.iter().filter(|p| p.is_active() && of_siblings(p)).count();
        }
        nodes
    }
}

#[async_trait]
impl<V: Replicated> Controller for ReplicaSets<V> {
    fn name(&self) -> &'static str {
        if V::kind() == &kind::REPLICA_SET { "replicaset" } else { "replicationcontroller" }
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(found) = V::cache(&self.cx.caches).get(key) else {
            self.failures.lock().remove(key);
            return Ok(None);
        };
        let set = found.set();
        let pods = claim::candidates(&self.cx.caches.pods, &set.metadata, &set.spec.selector);
        let surplus = pods.iter().filter(|p| p.is_active()).count() > usize::try_from(set.replicas()).unwrap_or(0);
        let related = if surplus { self.related(set, &pods) } else { BTreeMap::new() };
        let failure = self.failures.lock().get(key).cloned();
        let view = View { kind: V::kind(), set, pods: &pods, related: &related, failure: failure.as_ref() };
        let plan = plan(&view, self.cx.clock.now());
        let wait = plan.requeue_after;
        match self.cx.execute(plan).await {
            Ok(()) => {
                if self.failures.lock().remove(key).is_some() {
                    self.queue.add(key.clone());
                }
                Ok(wait)
            }
            Err(failure) => {
                if failure.creating || failure.deleting {
                    let reason = if failure.creating { "FailedCreate" } else { "FailedDelete" };
                    let entry = (reason.to_owned(), failure.error.to_string());
                    self.failures.lock().insert(key.clone(), entry);
                }
                Err(failure.into())
            }
        }
    }
}

#[cfg(test)]
mod tests;
