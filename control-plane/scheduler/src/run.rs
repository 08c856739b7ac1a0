//! Feeds the decision and carries it out.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};
use xebec_controllers::runtime::api::{Api, DeleteOptions, Scope};
use xebec_controllers::runtime::cache::{Cache, Change};
use xebec_controllers::runtime::executor::{Executor, Sinks};
use xebec_controllers::runtime::informer;
use xebec_controllers::runtime::kind;
use xebec_controllers::runtime::meta::{Key, condition, seconds};
use xebec_controllers::runtime::plan::{Note, Plan, Write};
use xebec_controllers::runtime::recorder;

use crate::preempt::{self, Preemption};
use crate::queue::Queue;
use crate::schedule::{Decision, Unschedulable, schedule};
use crate::snapshot::Snapshot;
use crate::views::{Node, Pod};

/// Bindings that are under way at once.
const BINDINGS: usize = 32;

/// Places pods until `cancel`.
pub async fn run(client: kube::Client, clock: Clock, random: Random, cancel: CancellationToken) {
    let api = Api::new(client);
    let (recorder, events) = recorder::recorder("default-scheduler", api.clone(), clock.clone(), cancel.clone());
    let (pods, nodes) = (Arc::new(Cache::<Pod>::default()), Arc::new(Cache::<Node>::default()));
    let shared = Arc::new(Shared::default());
    shared.follow(&pods, &nodes);
    let mut tasks = JoinSet::new();
    tasks.spawn(events);
    let scope = Scope::default;
    // Nodes first: a pod that is seen before any node is would be said to have none.
    let follow = |random: &Random| random.clone();
    let kind = || kind::NODE.clone();
    tasks.spawn(informer::run(api.clone(), kind(), nodes.clone(), scope(), follow(&random), cancel.clone()));
    nodes.synced().await;
    let kind = kind::POD.clone();
    tasks.spawn(informer::run(api.clone(), kind, pods.clone(), scope(), follow(&random), cancel.clone()));
    // Answers to our own writes are no news: the watch brings them.
    let executor = Executor::new(api, recorder, Sinks::default());
    Scheduler { shared, pods, executor, clock, random }.work(cancel).await;
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    queue: Queue,
}

impl Shared {
    fn follow(self: &Arc<Self>, pods: &Cache<Pod>, nodes: &Cache<Node>) {
        let shared = self.clone();
        pods.on_change(move |change| {
            shared.state.lock().pod_changed(change);
            shared.wake.notify_one();
        });
        let shared = self.clone();
        nodes.on_change(move |change| {
            shared.state.lock().node_changed(change);
            shared.wake.notify_one();
        });
    }
}

impl State {
    fn pod_changed(&mut self, change: &Change<'_, Pod>) {
        let pod = change.latest();
        let key = pod.key();
        let gone = matches!(change, Change::Removed(_)) || pod.is_finished();
        if gone {
            self.queue.remove(&key);
            self.snapshot.remove_pod(&key);
            self.queue.something_changed();
        } else if !pod.spec.node_name.is_empty() {
            self.queue.remove(&key);
            self.snapshot.place(pod.clone(), &pod.spec.node_name);
            // Its arrival may be what another pod's affinity waits for, its new labels, too.
            let relevant = change.previous().is_none_or(|old| {
                old.spec.node_name.is_empty()
                    || old.metadata.labels != pod.metadata.labels
                    || old.requests != pod.requests
            });
            if relevant {
                self.queue.something_changed();
            }
        } else if pod.is_waiting() && pod.spec.scheduling_gates.is_empty() {
            // Our own word about it, in its status, is no reason to try again.
            let own_word = change.previous().is_some_and(|old| {
                old.metadata.labels == pod.metadata.labels
                    && old.metadata.generation == pod.metadata.generation
                    && old.spec.scheduling_gates.is_empty()
            });
            if !own_word {
                self.queue.add(key, pod.spec.priority);
            }
        } else {
            self.queue.remove(&key);
        }
    }

    fn node_changed(&mut self, change: &Change<'_, Node>) {
        let node = change.latest();
        if matches!(change, Change::Removed(_)) {
            self.snapshot.remove_node(&node.metadata.name);
            return;
        }
        let relevant = change.previous().is_none_or(|old| {
            old.unschedulable != node.unschedulable
                || old.taints != node.taints
                || old.allocatable != node.allocatable
                || old.metadata.labels != node.metadata.labels
        });
        self.snapshot.set_node(node.clone());
        if relevant {
            self.queue.something_changed();
        }
    }
}

struct Scheduler {
    shared: Arc<Shared>,
    pods: Arc<Cache<Pod>>,
    executor: Executor,
    clock: Clock,
    random: Random,
}

/// How carrying out a decision ended.
enum Outcome {
    Bound,
    BindingFailed(Key),
    Told,
}

impl Scheduler {
    async fn work(self, cancel: CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < BINDINGS
                && let Some(pod) = self.next()
            {
                under_way.push(self.carry_out(pod));
            }
            let due = self.shared.state.lock().queue.next_due();
            let sleep = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(outcome) = under_way.next() => self.finish(outcome),
                () = self.shared.wake.notified() => {}
                () = sleep => {}
            }
        }
    }

    fn finish(&self, outcome: Outcome) {
        if let Outcome::BindingFailed(key) = outcome {
            let mut state = self.shared.state.lock();
            state.snapshot.remove_pod(&key);
            state.queue.failed(&key, Instant::now());
            state.queue.something_changed();
        }
    }

    /// Decides about the next pod. What is decided holds in the snapshot at once.
    fn next(&self) -> Option<(Arc<Pod>, Result<String, Refused>)> {
        let mut state = self.shared.state.lock();
        loop {
            let key = state.queue.pop(Instant::now())?;
            let Some(pod) = self.pods.get(&key).filter(|p| p.is_waiting()) else {
                state.queue.remove(&key);
                continue;
            };
            let decision = match schedule(&state.snapshot, &pod, self.random.next_u64()) {
                Decision::Node(node) => {
                    state.snapshot.place(pod.clone(), &node);
                    Ok(node)
                }
                Decision::Unschedulable(failure) => {
                    state.queue.unschedulable(&key, Instant::now());
                    let preemption = preempt::preempt(&state.snapshot, &pod, &failure);
                    if let Ok(preemption) = &preemption {
                        state.snapshot.nominate(pod.clone(), &preemption.node);
                    }
                    Err(Refused { failure, preemption })
                }
            };
            return Some((pod, decision));
        }
    }

    async fn carry_out(&self, (pod, decision): (Arc<Pod>, Result<String, Refused>)) -> Outcome {
        let plan = match decision {
            Ok(node) => return self.bind(&pod, &node).await,
            Err(refused) => refusal_plan(&pod, &refused, self.clock.now()),
        };
        if let Err(error) = self.executor.execute(plan).await {
            tracing::debug!(pod = %pod.key(), %error, "could not tell of a pod that has no node");
        }
        Outcome::Told
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Outcome {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
            "target": {"kind": "Node", "name": node},
        });
        let mut plan = Plan::nothing();
        plan.act(Write::post(&kind::POD, &pod.metadata, "binding", binding).into());
        let message = format!("Successfully assigned {} to {node}", pod.key());
        plan.act(Note::normal(pod.metadata.reference(&kind::POD), "Scheduled", message).into());
        match self.executor.execute(plan).await {
            Ok(()) => Outcome::Bound,
            Err(error) => {
                tracing::warn!(pod = %pod.key(), node, %error, "binding failed");
                Outcome::BindingFailed(pod.key())
            }
        }
    }
}

/// What came of a pod that no node can take.
struct Refused {
    failure: Unschedulable,
    preemption: Result<Preemption, String>,
}

/// Says why, and makes room if that is possible.
fn refusal_plan(pod: &Pod, refused: &Refused, now: jiff::Timestamp) -> Plan {
    let mut message = refused.failure.message();
    if let Err(why_not) = &refused.preemption
        && refused.failure.nodes > 0
    {
        message += &format!(" no new claims to deallocate, preemption: {why_not}");
    }
    let mut plan = Plan::nothing();
    let mut status = json!({});
    let told = condition(&pod.status.conditions, "PodScheduled");
    if told.is_none_or(|c| c.status != "False" || c.message.as_deref() != Some(&message)) {
        let since = told.filter(|c| c.status == "False").and_then(|c| c.last_transition_time);
        let mut conditions: Vec<_> =
            pod.status.conditions.iter().filter(|c| c.kind != "PodScheduled").map(|c| json!(c)).collect();
        conditions.push(json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "observedGeneration": pod.metadata.generation, "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or_else(|| seconds(now)),
        }));
        status["conditions"] = conditions.into();
    }
    if let Ok(preemption) = &refused.preemption {
        status["nominatedNodeName"] = preemption.node.as_str().into();
    }
    let mut actions = vec![Note::warning(pod.metadata.reference(&kind::POD), "FailedScheduling", message).into()];
    if status.as_object().is_some_and(|s| !s.is_empty()) {
        actions.push(Write::merge(&kind::POD, &pod.metadata, "status", json!({"status": status})).into());
    }
    plan.step(actions);
    if let Ok(preemption) = &refused.preemption {
        plan.step(preemption.victims.iter().map(|victim| disrupt(victim, now)).collect());
        for victim in &preemption.victims {
            let message = format!("Preempted by pod {} on node {}", pod.metadata.uid, preemption.node);
            plan.act(Note::normal(victim.metadata.reference(&kind::POD), "Preempted", message).into());
            plan.act(Write::delete_with(&kind::POD, &victim.metadata, DeleteOptions::default()).into());
        }
    }
    plan
}

/// Tells a victim why it goes (condition DisruptionTarget, KEP-3329).
fn disrupt(victim: &Pod, now: jiff::Timestamp) -> xebec_controllers::runtime::plan::Action {
    let mut conditions: Vec<_> =
        victim.status.conditions.iter().filter(|c| c.kind != "DisruptionTarget").map(|c| json!(c)).collect();
    conditions.push(json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
        "lastTransitionTime": seconds(now),
    }));
    Write::merge(&kind::POD, &victim.metadata, "status", json!({"status": {"conditions": conditions}})).into()
}
