//! StatefulSets: pods with numbers, one after the other (upstream `pkg/controller/statefulset`).

mod claims;
mod identity;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;

use crate::claim::{self, claim};
use crate::context::Context;
use crate::history::{History, Owner, Revision};
use crate::runtime::cache::BY_CONTROLLER;
use crate::runtime::kind;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Action, Note, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{ControllerRevision, PersistentVolumeClaim, Pod, StatefulSet, StatefulSetStatus};

use identity::{ordinal, pod_name, revision_of};

/// The label by which revisions are told.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// The label that says which revision a pod is of.
const REVISION_LABEL: &str = "controller-revision-hash";

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// Its pods, and orphans of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// Its history.
    pub revisions: &'a [Arc<ControllerRevision>],
    /// The claims of its namespace.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
}

/// A set, its revisions and its pods by number, while a plan is made.
struct Update<'a> {
    view: &'a View<'a>,
    now: Timestamp,
    current: Revision,
    newest: Revision,
    /// The pods that there are, by number.
    pods: BTreeMap<i32, Arc<Pod>>,
    status: StatefulSetStatus,
    plan: Plan,
}

/// Brings the pods to what is wanted, and the status to what is.
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let set = view.set;
    let own_name = |pod: &Pod| ordinal(&set.metadata.name, &pod.metadata.name).is_some();
    let claims = claim(&set.metadata, &kind::STATEFUL_SET, &set.spec.selector, view.pods, own_name);
    let mut plan = Plan::nothing();
    plan.step(claims.actions);
    let template = set.spec.template.value();
    let owner = Owner {
        meta: &set.metadata,
        kind: &kind::STATEFUL_SET,
        template: &template,
        hash_label: HASH_LABEL,
        collisions: set.status.collision_count,
    };
    let history = History::of(&owner, view.revisions);
    let Some(newest) = history.newest().cloned() else { return plan };
    let current = history.get(&set.status.current_revision).unwrap_or(&newest).clone();
    if !set.metadata.is_terminating() {
        plan.step(history.actions.clone());
    }
    let pods: BTreeMap<i32, Arc<Pod>> = claims
        .owned
        .into_iter()
        .filter_map(|pod| Some((ordinal(&set.metadata.name, &pod.metadata.name)?, pod)))
        .collect();
    let status = StatefulSetStatus { collision_count: history.collisions, ..StatefulSetStatus::default() };
    let mut update = Update { view, now, current, newest, pods, status, plan };
    update.count();
    if !set.metadata.is_terminating() {
        update.retain_claims();
        update.manage();
    }
    update.tell();
    let mut in_use: BTreeSet<&str> = update.pods.values().map(|pod| revision_of(pod)).collect();
    in_use.extend([update.current.name.as_str(), update.newest.name.as_str()]);
    let surplus = history.truncate(&in_use, set.spec.revision_history_limit);
    update.plan.step(surplus);
    update.plan
}

impl Update<'_> {
    fn set(&self) -> &StatefulSet {
        self.view.set
    }

    /// The numbers that there should be.
    fn wanted(&self) -> std::ops::Range<i32> {
        let start = self.set().spec.ordinals.start;
        start..start.saturating_add(self.set().replicas().max(0))
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && pod.is_available(self.set().spec.min_ready_seconds, self.now)
    }

    /// Neither on its way out nor wanting.
    fn is_healthy(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && !pod.metadata.is_terminating()
    }

    /// Whether pods wait for each other.
    fn in_order(&self) -> bool {
        self.set().spec.pod_management_policy != "Parallel"
    }

    /// The status as the pods are.
    fn count(&mut self) {
        let mut status = self.status.clone();
        for pod in self.pods.values() {
            status.replicas += 1;
            status.ready_replicas += i32::from(is_running_and_ready(pod));
            status.available_replicas += i32::from(self.is_available(pod));
            if !pod.metadata.is_terminating() {
                status.current_replicas += i32::from(revision_of(pod) == self.current.name);
                status.updated_replicas += i32::from(revision_of(pod) == self.newest.name);
            }
        }
        status.observed_generation = Some(self.set().metadata.generation);
        status.current_revision.clone_from(&self.current.name);
        status.update_revision.clone_from(&self.newest.name);
        status.conditions.clone_from(&self.set().status.conditions);
        self.status = status;
    }

    /// Makes, deletes and updates pods: as many steps as order permits.
    fn manage(&mut self) {
        let mut creations = Vec::new();
        for number in self.wanted() {
            match self.step_up(number) {
                Next::Done => {}
                Next::Act(actions) => {
                    creations.extend(actions);
                    if self.in_order() {
                        self.plan_each(creations);
                        return;
                    }
                }
                Next::Wait => {
                    if self.in_order() {
                        self.plan_each(creations);
                        return;
                    }
                }
            }
        }
        self.plan_each(creations);
        if !self.step_down() {
            return;
        }
        if self.set().spec.update_strategy.kind != "OnDelete" {
            self.roll();
        }
    }

    /// Each action in a step of its own, so that a pod comes after its claims.
    fn plan_each(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.plan.act(action);
        }
    }

    /// What a wanted number needs.
    fn step_up(&mut self, number: i32) -> Next {
        let Some(pod) = self.pods.get(&number).cloned() else { return Next::Act(self.create(number)) };
        if pod.is_finished() && !pod.metadata.is_terminating() {
            return Next::Act(self.recreate(&pod));
        }
        if pod.metadata.is_terminating() || !is_running_and_ready(&pod) {
            return Next::Wait;
        }
        if !self.is_available(&pod) {
            self.look_when_available(&pod);
            return Next::Wait;
        }
        match identity::repair(self.set(), &pod, number) {
            Some(action) => Next::Act(vec![action]),
            None => Next::Done,
        }
    }

    fn look_when_available(&mut self, pod: &Pod) {
        if let Some(since) = pod.ready_since() {
            let left = since.as_second() + self.set().spec.min_ready_seconds - self.now.as_second();
            self.plan.look_again(Duration::from_secs(left.max(1).unsigned_abs()));
        }
    }

    /// The claims that a number lacks, and its pod.
    fn create(&self, number: i32) -> Vec<Action> {
        let set = self.view.set;
        let partition = set.spec.update_strategy.rolling_update.partition.unwrap_or_default();
        let rolling = set.spec.update_strategy.kind != "OnDelete";
        let old = rolling && number < set.spec.ordinals.start.saturating_add(partition);
        let revision = if old { &self.current } else { &self.newest };
        let name = pod_name(&set.metadata.name, number);
        let regarding = set.metadata.reference(&kind::STATEFUL_SET);
        let mut actions = claims::missing(set, number, self.view.claims);
        let report = Report {
            regarding,
            success: Some((
                "SuccessfulCreate",
                format!("create Pod {name} in StatefulSet {} successful", set.metadata.name),
            )),
            failure: Some((
                "FailedCreate",
                format!("create Pod {name} in StatefulSet {} failed error: ", set.metadata.name),
            )),
        };
        let body = identity::pod(set, number, revision);
        actions.push(Write::create(&kind::POD, &set.metadata.namespace, body).reported(report).into());
        actions
    }

    /// A pod that has ended makes room for its successor.
    fn recreate(&self, pod: &Pod) -> Vec<Action> {
        let set = &self.view.set.metadata;
        let regarding = set.reference(&kind::STATEFUL_SET);
        let note = if pod.status.phase == "Failed" {
            let message =
                format!("StatefulSet {}/{} is recreating failed Pod {}", set.namespace, set.name, pod.metadata.name);
            Note::warning(regarding, "RecreatingFailedPod", message)
        } else {
            let message = format!(
                "StatefulSet {}/{} is recreating terminated Pod {}",
                set.namespace, set.name, pod.metadata.name
            );
            Note::normal(regarding, "RecreatingTerminatedPod", message)
        };
        vec![note.into(), self.delete(pod)]
    }

    fn delete(&self, pod: &Pod) -> Action {
        let (set, name) = (&self.view.set.metadata, &pod.metadata.name);
        let report = Report {
            regarding: set.reference(&kind::STATEFUL_SET),
            success: Some(("SuccessfulDelete", format!("delete Pod {name} in StatefulSet {} successful", set.name))),
            failure: Some(("FailedDelete", format!("delete Pod {name} in StatefulSet {} failed error: ", set.name))),
        };
        Write::delete(&kind::POD, &pod.metadata).reported(report).into()
    }

    /// Deletes pods whose numbers are not wanted, the highest first. False: the rest waits.
    fn step_down(&mut self) -> bool {
        let wanted = self.wanted();
        let condemned: Vec<Arc<Pod>> =
            self.pods.iter().rev().filter(|(n, _)| !wanted.contains(n)).map(|(_, pod)| pod.clone()).collect();
        let first_unhealthy =
            self.pods.iter().find(|(_, pod)| !self.is_healthy(pod)).map(|(_, pod)| pod.metadata.name.clone());
        let mut deletions = Vec::new();
        for pod in condemned {
            if pod.metadata.is_terminating() {
                if self.in_order() {
                    return false;
                }
                continue;
            }
            // In order, one that is not ready waits, unless it is the very one that holds the others up.
            let holds_up = first_unhealthy.as_ref() == Some(&pod.metadata.name);
            if self.in_order() && !holds_up && !self.is_available(&pod) {
                self.look_when_available(&pod);
                return false;
            }
            deletions.push(self.delete(&pod));
            self.forget(&pod);
            if self.in_order() {
                self.plan.step(deletions);
                return false;
            }
        }
        self.plan.step(deletions);
        true
    }

    fn forget(&mut self, pod: &Pod) {
        self.status.current_replicas -= i32::from(revision_of(pod) == self.current.name);
        self.status.updated_replicas -= i32::from(revision_of(pod) == self.newest.name);
    }

    /// Deletes pods of old revisions, the highest number first, as many as may be missing.
    fn roll(&mut self) {
        let set = self.view.set;
        let rolling = &set.spec.update_strategy.rolling_update;
        let first = self.wanted().start.saturating_add(rolling.partition.unwrap_or_default());
        let share = rolling.max_unavailable.as_ref().and_then(|most| most.of(set.replicas(), true));
        let most = usize::try_from(share.unwrap_or(1)).unwrap_or_default().max(1);
        let wanted: Vec<Arc<Pod>> = self.wanted().filter_map(|number| self.pods.get(&number).cloned()).collect();
        let missing = self.wanted().len() - wanted.len();
        let unavailable =
            missing + wanted.iter().filter(|pod| !self.is_available(pod) || pod.metadata.is_terminating()).count();
        let mut room = most.saturating_sub(unavailable);
        let mut deletions = Vec::new();
        for number in self.wanted().rev().filter(|number| *number >= first) {
            let Some(pod) = self.pods.get(&number).cloned() else { continue };
            if revision_of(&pod) == self.newest.name || pod.metadata.is_terminating() {
                if most == 1 && !self.is_healthy(&pod) {
                    break;
                }
                continue;
            }
            // An old pod that is not available anyway costs nothing.
            let free = !self.is_available(&pod);
            if !free && room == 0 {
                break;
            }
            room -= usize::from(!free);
            deletions.push(self.delete(&pod));
            self.forget(&pod);
            if most == 1 {
                break;
            }
        }
        self.plan.step(deletions);
    }

    /// Claims belong to the set, to their pod, or to nobody, as the policy says.
    fn retain_claims(&mut self) {
        let wanted = self.wanted();
        let actions: Vec<Action> = self
            .pods
            .iter()
            .flat_map(|(number, pod)| {
                claims::owners(self.view.set, *number, pod, wanted.contains(number), self.view.claims)
            })
            .collect();
        self.plan.step(actions);
    }

    /// Writes the status, if it is another.
    fn tell(&mut self) {
        let set = self.view.set;
        let status = &mut self.status;
        let all = set.replicas();
        let complete = status.updated_replicas == all && status.ready_replicas == all && status.replicas == all;
        if set.spec.update_strategy.kind != "OnDelete" && complete {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        if *status != set.status {
            let patch = json!({"status": status});
            let write = Write::merge(&kind::STATEFUL_SET, &set.metadata, "status", patch).into();
            // First, for what comes after may fail or take long.
            match self.plan.steps.first_mut() {
                Some(step) => step.push(write),
                None => self.plan.act(write),
            }
        }
    }
}

/// What becomes of a number.
enum Next {
    /// It is as it should be.
    Done,
    /// Something is to be done first.
    Act(Vec<Action>),
    /// It is on its way.
    Wait,
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pod.status.phase == "Running" && pod.is_ready()
}

/// The controller.
#[derive(Debug)]
pub struct StatefulSets {
    cx: Context,
    queue: Arc<Keys>,
}

impl StatefulSets {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.stateful_sets.on_change(move |change| keys.add(change.latest().metadata.key()));
        claim::follow(&cx.caches.stateful_sets, &cx.caches.pods, &queue, |set: &StatefulSet, pod| {
            set.spec.selector.matches(&pod.labels)
        });
        Arc::new(Self { cx: cx.of("statefulset-controller"), queue })
    }
}

#[async_trait]
impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(set) = caches.stateful_sets.get(key) else { return Ok(None) };
        let pods = claim::candidates(&caches.pods, &set.metadata, &set.spec.selector);
        let revisions = caches.controller_revisions.by_index(BY_CONTROLLER, &set.metadata.uid);
        let claims = if set.spec.volume_claim_templates.is_empty() {
            Vec::new()
        } else {
            caches.claims.in_namespace(&key.namespace)
        };
        let view = View { set: &set, pods: &pods, revisions: &revisions, claims: &claims };
        let plan = plan(&view, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests;
