//! Keeps the snapshot up to date, takes pods from the queue, and carries decisions out.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};
use xebec_controllers::runtime::api::{Api, ApiError, DeleteOptions, PatchKind, Scope};
use xebec_controllers::runtime::cache::{Cache, Change, View};
use xebec_controllers::runtime::meta::{Key, seconds};
use xebec_controllers::runtime::plan::Note;
use xebec_controllers::runtime::recorder::{Recorder, recorder};
use xebec_controllers::runtime::{informer, kind};
use xebec_controllers::views::{Namespace, PodDisruptionBudget, ResourceClaim};

use crate::devices::bind::{DeviceCaches, waits};
use crate::devices::claimed::Grant;
use crate::filters::Binding;
use crate::preemption::{Budget, Preemption};
use crate::queue::Queue;
use crate::schedule::{Decision, schedule};
use crate::snapshot::Snapshot;
use crate::views::{Node, Pod, PodRef};
use crate::volumes::Storage;

/// The scheduler that pods ask for if they ask for none.
pub const SCHEDULER_NAME: &str = "default-scheduler";
/// Decisions that are being carried out at once.
const CONCURRENCY: usize = 64;

/// What is known of the cluster.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    /// Pods that are placed, though the watch has not said so yet, by uid: where.
    assumed: BTreeMap<String, String>,
    /// Pods that wait for a claim to devices to be made.
    held_back: BTreeMap<Key, PodRef>,
}

impl World {
    /// Claims of a namespace have changed: pods that waited for them are to be placed.
    pub(crate) fn let_go(&mut self, namespace: &str, queue: &Queue) {
        let devices = &self.snapshot.devices;
        let ready = self.held_back.range(Key::new(namespace, "")..).take_while(|(key, _)| key.namespace == namespace);
        let ready: Vec<Key> = ready.filter(|(_, pod)| !devices.holds_back(pod)).map(|(key, _)| key.clone()).collect();
        for pod in ready.iter().filter_map(|key| self.held_back.remove(key)) {
            queue.put(&pod);
        }
    }

    /// A pod is to be placed, once the claims are made that it needs.
    fn wait(&mut self, pod: &PodRef, queue: &Queue) {
        let key = pod.metadata.key();
        if self.snapshot.devices.holds_back(pod) {
            queue.remove(&key);
            self.held_back.insert(key, pod.clone());
        } else {
            self.held_back.remove(&key);
            queue.put(pod);
        }
    }
}

/// Places pods until `cancel`. `client` is a user who may do everything.
pub async fn run(client: kube::Client, clock: Clock, random: Random, cancel: CancellationToken) {
    let api = Api::new(client);
    let mut set = JoinSet::new();
    let (recorder, write_events) = recorder(SCHEDULER_NAME, api.clone(), clock.clone(), cancel.clone());
    set.spawn(write_events);
    let world = Arc::new(Mutex::new(World::default()));
    let queue = Arc::new(Queue::default());
    let pods: Arc<Cache<Pod>> = Arc::default();
    let nodes: Arc<Cache<Node>> = Arc::default();
    let namespaces: Arc<Cache<Namespace>> = Arc::default();
    let budgets: Arc<Cache<PodDisruptionBudget>> = Arc::default();
    follow_pods(&pods, &world, &queue);
    follow_nodes(&nodes, &world, &queue);
    follow_namespaces(&namespaces, &world);
    let storage = Storage::default();
    storage.follow(&world, &queue);
    let devices = DeviceCaches::default();
    devices.follow(&world, &queue);
    // Nodes before pods, or the first pods would be refused for want of nodes.
    let follow = (&api, &random, &cancel);
    start(&mut set, &namespaces, follow);
    start(&mut set, &budgets, follow);
    start(&mut set, &storage.classes, follow);
    start(&mut set, &storage.volumes, follow);
    start(&mut set, &storage.claims, follow);
    start(&mut set, &devices.classes, follow);
    start(&mut set, &devices.rules, follow);
    start(&mut set, &devices.slices, follow);
    start(&mut set, &devices.claims, follow);
    start(&mut set, &nodes, follow);
    start(&mut set, &pods, follow);
    let synced = async {
        namespaces.synced().await;
        budgets.synced().await;
        storage.classes.synced().await;
        storage.volumes.synced().await;
        storage.claims.synced().await;
        devices.synced().await;
        nodes.synced().await;
        pods.synced().await;
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        () = synced => {}
    }
    let scheduler = Scheduler { api, clock, random, recorder, world, queue, budgets, storage, devices };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = scheduler.work() => {}
    }
}

fn start<V: View>(
    set: &mut JoinSet<()>,
    cache: &Arc<Cache<V>>,
    (api, random, cancel): (&Api, &Random, &CancellationToken),
) {
    let kind = V::kind().clone();
    set.spawn(informer::run(api.clone(), kind, cache.clone(), Scope::default(), random.clone(), cancel.clone()));
}

fn follow_pods(pods: &Cache<Pod>, world: &Arc<Mutex<World>>, queue: &Arc<Queue>) {
    let (world, queue) = (world.clone(), queue.clone());
    pods.on_change(move |change| {
        let pod = change.latest();
        let key = pod.metadata.key();
        let mut world = world.lock();
        let is_gone = matches!(change, Change::Removed(_)) || pod.is_finished;
        if is_gone || !pod.node_name.is_empty() {
            world.held_back.remove(&key);
        }
        if is_gone {
            let was_placed = world.snapshot.placed(&key).is_some();
            world.snapshot.remove_pod(&key);
            world.snapshot.forget_nomination(&key);
            world.assumed.remove(&pod.metadata.uid);
            drop(world);
            queue.remove(&key);
            if was_placed {
                queue.revive(|_| true);
            }
        } else if !pod.node_name.is_empty() {
            world.assumed.remove(&pod.metadata.uid);
            world.snapshot.put_pod(pod);
            world.snapshot.forget_nomination(&key);
            drop(world);
            queue.remove(&key);
            let looks_different = change.previous().is_none_or(|old| {
                old.node_name.is_empty()
                    || old.metadata.labels != pod.metadata.labels
                    || old.metadata.is_terminating() != pod.metadata.is_terminating()
                    || old.requests != pod.requests
            });
            if looks_different {
                queue.revive(|p| p.affinity.is_some() || !p.spread.is_empty() || !p.nominated_node.is_empty());
            }
        } else if !world.assumed.contains_key(&pod.metadata.uid) {
            world.snapshot.nominate(pod, &pod.nominated_node);
            if pod.metadata.is_terminating() || pod.scheduler_name != SCHEDULER_NAME || pod.gates > 0 {
                world.held_back.remove(&key);
                queue.remove(&key);
            } else {
                world.wait(pod, &queue);
            }
        }
    });
}

fn follow_nodes(nodes: &Cache<Node>, world: &Arc<Mutex<World>>, queue: &Arc<Queue>) {
    let (world, queue) = (world.clone(), queue.clone());
    nodes.on_change(move |change| {
        match change {
            Change::Removed(node) => world.lock().snapshot.remove_node(&node.metadata.name),
            Change::Added(node) | Change::Updated(_, node) => world.lock().snapshot.put_node(node),
        }
        if change.previous().is_none_or(|old| !old.is_like(change.latest())) {
            queue.revive(|_| true);
        }
    });
}

fn follow_namespaces(namespaces: &Cache<Namespace>, world: &Arc<Mutex<World>>) {
    let world = world.clone();
    namespaces.on_change(move |change| {
        let meta = &change.latest().metadata;
        let known = &mut world.lock().snapshot.namespaces;
        if matches!(change, Change::Removed(_)) {
            known.remove(&meta.name);
        } else {
            known.insert(meta.name.clone(), meta.labels.clone());
        }
    });
}

struct Scheduler {
    api: Api,
    clock: Clock,
    random: Random,
    recorder: Recorder,
    world: Arc<Mutex<World>>,
    queue: Arc<Queue>,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    storage: Storage,
    devices: DeviceCaches,
}

/// How a decision is carried out.
enum Action<'a> {
    /// By a few requests.
    Short(BoxFuture<'a, ()>),
    /// When volumes have been made or devices are ready, which may take minutes.
    Long(BoxFuture<'a, ()>),
}

impl Scheduler {
    async fn work(&self) {
        let mut under_way: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        let mut waiting: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        let mut turn = 0_usize;
        loop {
            let busy = under_way.len() >= CONCURRENCY;
            let pod = tokio::select! {
                biased;
                Some(()) = under_way.next() => continue,
                Some(()) = waiting.next() => continue,
                pod = self.queue.next(), if !busy => pod,
            };
            turn = turn.wrapping_add(1);
            match self.decide(pod, turn) {
                Action::Short(action) => under_way.push(action),
                Action::Long(action) => waiting.push(action),
            }
        }
    }

    /// Decides at once; the future carries the decision out.
    fn decide(&self, pod: PodRef, turn: usize) -> Action<'_> {
        let budgets: Vec<Budget> = self.budgets.list().iter().filter_map(|b| budget(b)).collect();
        let mut world = self.world.lock();
        match schedule(&world.snapshot, &pod, &budgets, turn) {
            Decision::Place { node, bindings, grants } => {
                let mut placed = Pod::clone(&pod);
                placed.node_name.clone_from(&node);
                world.assumed.insert(pod.metadata.uid.clone(), node.clone());
                world.snapshot.put_pod(&Arc::new(placed));
                world.snapshot.forget_nomination(&pod.metadata.key());
                world.snapshot.shelf.promise(&bindings, &node);
                for grant in &grants {
                    grant.allocation.iter().for_each(|a| world.snapshot.devices.promise(&grant.claim, a));
                }
                match (bindings.is_empty(), grants.iter().any(waits)) {
                    (true, false) if grants.is_empty() => Action::Short(Box::pin(self.place(pod, node).map(drop))),
                    (true, false) => Action::Short(Box::pin(self.grant_and_place(pod, node, grants))),
                    _ => Action::Long(Box::pin(self.bind_and_place(pod, node, bindings, grants))),
                }
            }
            Decision::Fail { message } => Action::Short(Box::pin(self.fail(pod, message))),
            Decision::Refuse { message, preemption, idle } => {
                if let Some(preemption) = &preemption {
                    world.snapshot.nominate(&pod, &preemption.node);
                }
                Action::Short(Box::pin(self.refuse(pod, message, preemption, idle)))
            }
        }
    }

    async fn bind_and_place(&self, pod: PodRef, node: String, bindings: Vec<Binding>, grants: Vec<Grant>) {
        let bound = self.storage.bind(&self.api, &bindings, &node).await;
        self.world.lock().snapshot.shelf.take_back(&bindings);
        match bound {
            Ok(()) => self.grant_and_place(pod, node, grants).await,
            Err(error) => {
                let message = format!("running PreBind plugin \"VolumeBinding\": {error}");
                self.forget_promises(&grants);
                self.not_placed(&pod, &message);
            }
        }
    }

    async fn grant_and_place(&self, pod: PodRef, node: String, grants: Vec<Grant>) {
        let granted = self.devices.grant(&self.api, (&self.clock, &self.random), &pod, &grants).await;
        self.forget_promises(&grants);
        let failed = granted.is_err();
        let placed = match granted {
            Ok(()) => self.place(pod.clone(), node).await,
            Err(error) => {
                let message = format!("running PreBind plugin \"DynamicResources\": {error}");
                self.not_placed(&pod, &message);
                false
            }
        };
        if !placed {
            self.devices.take_back(&self.api, &pod, &grants, failed).await;
        }
    }

    fn forget_promises(&self, grants: &[Grant]) {
        let devices = &mut self.world.lock().snapshot.devices;
        grants.iter().for_each(|grant| devices.take_back(&grant.claim));
    }

    /// Nobody can say where a pod can be placed: it is tried again after a while.
    async fn fail(&self, pod: PodRef, message: String) {
        let meta = &pod.metadata;
        self.queue.failed(&meta.key());
        if let Err(error) = self.tell(&pod, ("SchedulerError", &message), None).await {
            tracing::debug!(pod = %meta.key(), %error, "a pod's condition could not be written");
        }
        self.recorder.record(Note::warning(meta.reference(&kind::POD), "FailedScheduling", message));
    }

    /// Takes back what was assumed, and has the pod tried again.
    fn not_placed(&self, pod: &Pod, message: &str) {
        let meta = &pod.metadata;
        {
            let mut world = self.world.lock();
            if world.assumed.remove(&meta.uid).is_some() {
                world.snapshot.remove_pod(&meta.key());
            }
        }
        self.queue.failed(&meta.key());
        self.recorder.record(Note::warning(meta.reference(&kind::POD), "FailedScheduling", message));
    }

    /// Places a pod; whether that went well.
    async fn place(&self, pod: PodRef, node: String) -> bool {
        let meta = &pod.metadata;
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match self.api.create_at(kind::POD.object_path(&meta.namespace, &meta.name, "binding"), &body).await {
            Ok(_) => {
                self.queue.remove(&meta.key());
                let message = format!("Successfully assigned {}/{} to {node}", meta.namespace, meta.name);
                self.recorder.record(Note::normal(meta.reference(&kind::POD), "Scheduled", message));
                true
            }
            Err(error) => {
                tracing::debug!(pod = %meta.key(), %error, "a pod could not be bound");
                if error.is_not_found() {
                    let mut world = self.world.lock();
                    if world.assumed.remove(&meta.uid).is_some() {
                        world.snapshot.remove_pod(&meta.key());
                    }
                    drop(world);
                    self.queue.remove(&meta.key());
                    return false;
                }
                self.not_placed(&pod, &format!("binding rejected: {error}"));
                false
            }
        }
    }

    async fn refuse(
        &self,
        pod: PodRef,
        message: String,
        preemption: Option<Preemption>,
        idle: Option<Arc<ResourceClaim>>,
    ) {
        let meta = &pod.metadata;
        let nominated = preemption.as_ref().map(|p| p.node.clone());
        // Back in the queue first: what the victims' going sets off must find the pod there.
        self.queue.refused(&meta.key());
        if let Some(claim) = idle
            && let Err(error) = self.devices.deallocate(&self.api, &claim.metadata.key(), &claim.metadata.uid).await
        {
            tracing::debug!(claim = %claim.metadata.key(), %error, "a claim could not be taken back");
        }
        if let Some(preemption) = preemption {
            for victim in &preemption.victims {
                if let Err(error) = self.evict(&pod, victim, &preemption.node).await {
                    tracing::debug!(victim = %victim.metadata.key(), %error, "a pod could not be preempted");
                }
            }
        }
        if let Err(error) = self.tell(&pod, ("Unschedulable", &message), nominated).await {
            tracing::debug!(pod = %meta.key(), %error, "a pod's condition could not be written");
        }
        self.recorder.record(Note::warning(meta.reference(&kind::POD), "FailedScheduling", message));
    }

    async fn evict(&self, pod: &Pod, victim: &Pod, node: &str) -> Result<(), ApiError> {
        let meta = &victim.metadata;
        if meta.is_terminating() {
            return Ok(());
        }
        let message = format!("{SCHEDULER_NAME}: preempting to accommodate a higher priority pod");
        let condition = self.condition(victim, "DisruptionTarget", "True", "PreemptionByScheduler", &message);
        self.patch(victim, json!({"conditions": [condition]})).await?;
        let options = DeleteOptions { uid: Some(meta.uid.clone()), ..DeleteOptions::default() };
        match self.api.delete(&kind::POD, &meta.namespace, &meta.name, &options).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
            _ => {}
        }
        let message = format!("Preempted by pod {} on node {node}", pod.metadata.uid);
        self.recorder.record(Note::normal(meta.reference(&kind::POD), "Preempted", message));
        Ok(())
    }

    /// Puts down in the pod's status why it is not placed, unless that stands there already.
    async fn tell(
        &self,
        pod: &Pod,
        (reason, message): (&str, &str),
        nominated: Option<String>,
    ) -> Result<(), ApiError> {
        let known = pod.scheduled.as_ref().is_some_and(|c| {
            c.status == "False"
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
                && c.observed_generation == Some(pod.metadata.generation)
        });
        if known && nominated.is_none() {
            return Ok(());
        }
        let mut condition = self.condition(pod, "PodScheduled", "False", reason, message);
        if let Some(since) = pod.scheduled.as_ref().filter(|c| c.status == "False").and_then(|c| c.last_transition_time)
        {
            condition["lastTransitionTime"] = json!(since);
        }
        let mut status = json!({"conditions": [condition]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = node.into();
        }
        self.patch(pod, status).await
    }

    fn condition(&self, pod: &Pod, kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastProbeTime": null,
            "lastTransitionTime": seconds(self.clock.now()), "observedGeneration": pod.metadata.generation})
    }

    async fn patch(&self, pod: &Pod, status: Value) -> Result<(), ApiError> {
        let meta = &pod.metadata;
        let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
        let patched =
            self.api.patch(&kind::POD, &meta.namespace, &meta.name, "status", PatchKind::Strategic, &patch).await;
        match patched {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn budget(budget: &PodDisruptionBudget) -> Option<Budget> {
    Some(Budget {
        namespace: budget.metadata.namespace.clone(),
        selector: budget.spec.selector.clone()?,
        allowed: budget.status.disruptions_allowed,
    })
}
