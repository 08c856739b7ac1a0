//! Deployments: roll from one template to the next through ReplicaSets (upstream `pkg/controller/deployment`).
//!
//! A plan makes one move: take up or let go of sets, make the new set, scale, or clean up. The answers to its writes
//! are in the caches before the next plan is made, so the moves follow one another at once.

mod revision;
mod scale;
mod status;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::{self, claim};
use crate::context::Context;
use crate::runtime::cache::{BY_CONTROLLER, Change};
use crate::runtime::kind;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Action, Note, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{Deployment, IntOrPercent, Pod, ReplicaSet};

pub use revision::{REVISION, template_hash};

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The deployment.
    pub deployment: &'a Deployment,
    /// Its ReplicaSets, and orphans of its namespace.
    pub sets: &'a [Arc<ReplicaSet>],
    /// The pods of its ReplicaSets.
    pub pods: &'a [Arc<Pod>],
}

/// A deployment with its sets sorted into the new one and the old ones.
struct Rollout<'a> {
    deployment: &'a Deployment,
    new: Option<&'a ReplicaSet>,
    /// By age, the oldest first.
    old: Vec<&'a ReplicaSet>,
    now: Timestamp,
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Deployment, sets: &'a [Arc<ReplicaSet>], now: Timestamp) -> Self {
        let mut old: Vec<&ReplicaSet> = sets.iter().map(Arc::as_ref).collect();
        old.sort_by(|a, b| {
            let age = |s: &ReplicaSet| (s.metadata.creation_timestamp, s.metadata.name.clone());
            age(a).cmp(&age(b))
        });
        let template = revision::comparable(&deployment.spec.template.value());
        let new = old.iter().position(|s| revision::comparable(&s.spec.template.value()) == template);
        let new = new.map(|at| old.remove(at));
        Self { deployment, new, old, now }
    }

    fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> + '_ {
        self.old.iter().copied().chain(self.new)
    }

    fn is_rolling(&self) -> bool {
        self.deployment.spec.strategy.kind != "Recreate"
    }

    /// `(maxSurge, maxUnavailable)` in pods: shares of surge are rounded up, of unavailability down, and not both
    /// are zero, or nothing could move.
    fn bounds(&self) -> (i32, i32) {
        if !self.is_rolling() {
            return (0, 0);
        }
        let total = self.deployment.replicas();
        let rolling = self.deployment.spec.strategy.rolling_update.clone().unwrap_or_default();
        let quarter = || IntOrPercent::Percent("25%".into());
        let surge = rolling.max_surge.unwrap_or_else(quarter).of(total, true).unwrap_or_default();
        let unavailable = rolling.max_unavailable.unwrap_or_else(quarter).of(total, false).unwrap_or_default();
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    fn max_surge(&self) -> i32 {
        self.bounds().0
    }

    fn max_unavailable(&self) -> i32 {
        if self.deployment.replicas() == 0 { 0 } else { self.bounds().1.min(self.deployment.replicas()) }
    }

    /// How many pods the new set may have now, being at `current`.
    fn new_set_size(&self, current: i32) -> i32 {
        let wanted = self.deployment.replicas();
        if !self.is_rolling() {
            return wanted;
        }
        let total: i32 = self.all().map(ReplicaSet::replicas).sum();
        let room = wanted + self.max_surge() - total;
        if room <= 0 { current } else { current + room.min(wanted - current) }
    }
}

/// Makes the next move.
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let deployment = view.deployment;
    let mut plan = Plan::nothing();
    if deployment.spec.selector.is_empty() {
        let regarding = deployment.metadata.reference(&kind::DEPLOYMENT);
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        if deployment.status.observed_generation < deployment.metadata.generation {
            plan.act(Note::warning(regarding, "SelectingAll", message).into());
            let status = json!({"status": {"observedGeneration": deployment.metadata.generation}});
            plan.act(Write::merge(&kind::DEPLOYMENT, &deployment.metadata, "status", status).into());
        }
        return plan;
    }
    let claims =
        claim(&deployment.metadata, &kind::DEPLOYMENT, &deployment.spec.selector, view.sets, |_: &ReplicaSet| true);
    if !claims.actions.is_empty() {
        plan.step(claims.actions);
        return plan;
    }
    let rollout = Rollout::new(deployment, &claims.owned, now);
    // Without the status: it is told of together with the progress that is in it, or after a roll-back the deadline that was
    // exceeded before would seem to be exceeded still.
    if !deployment.metadata.is_terminating()
        && let Some(actions) = revision::bring_up_to_date(&rollout)
    {
        plan.step(actions);
        return plan;
    }
    let moves =
        if deployment.metadata.is_terminating() { Moves::status_only() } else { next_moves(&rollout, view.pods) };
    for step in moves.steps {
        plan.step(step);
    }
    status::finish(&mut plan, &rollout, moves.tracks_progress, moves.condition);
    plan
}

/// What a plan does, before the status.
#[derive(Default)]
struct Moves {
    steps: Vec<Vec<Action>>,
    /// Whether the status tells of progress (it does not while paused or being scaled).
    tracks_progress: bool,
    /// Reason and message of a `Progressing` condition to set.
    condition: Option<(&'static str, String)>,
}

impl Moves {
    fn status_only() -> Self {
        Self::default()
    }

    fn rollout() -> Self {
        Self { tracks_progress: true, ..Self::default() }
    }

    fn with(mut self, actions: Vec<Action>) -> Self {
        if !actions.is_empty() {
            self.steps.push(actions);
        }
        self
    }
}

fn next_moves(rollout: &Rollout<'_>, pods: &[Arc<Pod>]) -> Moves {
    let deployment = rollout.deployment;
    if deployment.spec.paused {
        let moves = Moves::status_only().with(scale::to_deployment(rollout));
        return moves.with(revision::clean_up(rollout));
    }
    if scale::is_due(rollout) {
        return Moves::status_only().with(scale::to_deployment(rollout));
    }
    if rollout.is_rolling() { rolling(rollout) } else { recreate(rollout, pods) }
}

fn rolling(rollout: &Rollout<'_>) -> Moves {
    let Some(new) = rollout.new else { return create_new(rollout) };
    let moves = found_new(rollout);
    let up = scale::new_set(rollout, new);
    if !up.is_empty() {
        return moves.with(up);
    }
    let down = scale::old_sets(rollout, new);
    if !down.is_empty() {
        return moves.with(down);
    }
    finish_or_wait(rollout, moves)
}

fn recreate(rollout: &Rollout<'_>, pods: &[Arc<Pod>]) -> Moves {
    let down: Vec<Action> = rollout.old.iter().flat_map(|s| scale::set_size(rollout, s, 0)).collect();
    if !down.is_empty() {
        return found_new(rollout).with(down);
    }
    let new_uid = rollout.new.map(|s| s.metadata.uid.as_str());
    let old_pod_lives = pods
        .iter()
        .any(|p| !p.is_finished() && p.metadata.controller().is_some_and(|owner| Some(owner.uid.as_str()) != new_uid));
    if old_pod_lives {
        return found_new(rollout);
    }
    let Some(new) = rollout.new else { return create_new(rollout) };
    let moves = found_new(rollout);
    let up = scale::new_set(rollout, new);
    if up.is_empty() { finish_or_wait(rollout, moves) } else { moves.with(up) }
}

fn finish_or_wait(rollout: &Rollout<'_>, moves: Moves) -> Moves {
    if status::is_complete(rollout.deployment, &rollout.deployment.status) {
        moves.with(revision::clean_up(rollout))
    } else {
        moves
    }
}

/// The new set was there before the deployment knew of it (a roll-back, or a restart).
fn found_new(rollout: &Rollout<'_>) -> Moves {
    let mut moves = Moves::rollout();
    let known = rollout.deployment.status.conditions.iter().any(|c| c.kind == "Progressing");
    if let Some(new) = rollout.new
        && !known
    {
        moves.condition = Some(("FoundNewReplicaSet", format!("Found new replica set \"{}\"", new.metadata.name)));
    }
    moves
}

fn create_new(rollout: &Rollout<'_>) -> Moves {
    let deployment = rollout.deployment;
    let replicas = rollout.new_set_size(0);
    let body = revision::new_set(rollout, replicas);
    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let collisions = deployment.status.collision_count.unwrap_or_default() + 1;
    let taken = json!({"status": {"collisionCount": collisions}});
    let taken = Write::merge_exact(&kind::DEPLOYMENT, &deployment.metadata, "status", taken);
    let report = Report {
        regarding: deployment.metadata.reference(&kind::DEPLOYMENT),
        success: (replicas > 0)
            .then(|| ("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {replicas}"))),
        failure: Some(("ReplicaSetCreateError", format!("Failed to create new replica set \"{name}\": "))),
    };
    let create =
        Write::create(&kind::REPLICA_SET, &deployment.metadata.namespace, body).reported(report).or_if_exists(taken);
    let revision = revision::next(rollout).to_string();
    let annotate: Value = json!({"metadata": {"annotations": {REVISION: revision}}});
    let mut moves = Moves::rollout().with(vec![create.into()]);
    if deployment.metadata.annotations.get(REVISION) != Some(&revision) {
        let annotate = Write::merge(&kind::DEPLOYMENT, &deployment.metadata, "", annotate);
        moves = moves.with(vec![annotate.into()]);
    }
    moves.condition = Some(("NewReplicaSetCreated", format!("Created new replica set \"{name}\"")));
    moves
}

/// The controller.
#[derive(Debug)]
pub struct Deployments {
    cx: Context,
    queue: Arc<Keys>,
}

impl Deployments {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.deployments.on_change(move |change| keys.add(change.latest().metadata.key()));
        claim::follow(&cx.caches.deployments, &cx.caches.replica_sets, &queue, |deployment: &Deployment, set| {
            deployment.spec.selector.matches(&set.labels)
        });
        // Recreate waits for the last old pod.
        let (keys, sets) = (queue.clone(), cx.caches.replica_sets.clone());
        cx.caches.pods.on_change(move |change: &Change<'_, Pod>| {
            if let Change::Removed(pod) = change
                && let Some(owner) = pod.metadata.controller()
                && let Some(set) = sets.get(&Key::new(&pod.metadata.namespace, &owner.name))
                && let Some(deployment) = set.metadata.controller()
            {
                keys.add(Key::new(&pod.metadata.namespace, &deployment.name));
            }
        });
        Arc::new(Self { cx: cx.of("deployment-controller"), queue })
    }
}

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(deployment) = caches.deployments.get(key) else { return Ok(None) };
        let sets = claim::candidates(&caches.replica_sets, &deployment.metadata, &deployment.spec.selector);
        let pods: Vec<Arc<Pod>> = if deployment.spec.strategy.kind == "Recreate" {
            sets.iter().flat_map(|s| caches.pods.by_index(BY_CONTROLLER, &s.metadata.uid)).collect()
        } else {
            Vec::new()
        };
        let plan = plan(&View { deployment: &deployment, sets: &sets, pods: &pods }, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests;
