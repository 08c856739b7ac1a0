//! PodDisruptionBudgets: how many evictions may be granted now (upstream `pkg/controller/disruption`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::runtime::api::ApiError;
use crate::runtime::cache::Change;
use crate::runtime::kind::Kind;
use crate::runtime::meta::{Condition, Key, OwnerReference, condition, seconds};
use crate::runtime::plan::{Note, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{Pod, PodDisruptionBudget, PodDisruptionBudgetStatus};

/// An eviction that was granted, and not seen to happen for so long, did not happen.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The budget.
    pub budget: &'a PodDisruptionBudget,
    /// The pods that its selector selects.
    pub pods: &'a [Arc<Pod>],
    /// How many pods their controllers want, by the controller's uid; an error if one cannot be told.
    pub scales: &'a Result<BTreeMap<String, i32>, String>,
}

/// Brings the budget's status up to date.
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let budget = view.budget;
    let mut plan = Plan::nothing();
    let mut status = PodDisruptionBudgetStatus {
        observed_generation: budget.metadata.generation,
        conditions: budget.status.conditions.clone(),
        ..PodDisruptionBudgetStatus::default()
    };
    match expectations(view) {
        Ok((expected, desired)) => {
            let (disrupted, next) = still_disrupted(view, now);
            if let Some(wait) = next {
                plan.look_again(wait);
            }
            let healthy = view
                .pods
                .iter()
                .filter(|p| p.is_active() && p.is_ready() && !disrupted.contains_key(&p.metadata.name))
                .count();
            let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
            let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            set(&mut status, value, reason, "", budget.metadata.generation, now);
            status.disrupted_pods = disrupted;
            status.current_healthy = healthy;
            status.desired_healthy = desired;
            status.expected_pods = expected;
            status.disruptions_allowed = allowed;
        }
        Err(message) => {
            // Nothing may be evicted while it is not known what is wanted.
            let PodDisruptionBudgetStatus { current_healthy, desired_healthy, expected_pods, .. } = budget.status;
            status = PodDisruptionBudgetStatus {
                disrupted_pods: budget.status.disrupted_pods.clone(),
                current_healthy,
                desired_healthy,
                expected_pods,
                ..status
            };
            set(&mut status, "False", "SyncFailed", &message, budget.metadata.generation, now);
            let regarding = budget.metadata.reference(&kind::POD_DISRUPTION_BUDGET);
            if status != budget.status {
                plan.act(Note::warning(regarding, "CalculateExpectedPodCountFailed", message).into());
            }
        }
    }
    if status != budget.status {
        let mut patch = json!({"status": status});
        // Absent in the new one: to be taken out of the old one.
        let mut disrupted = json!(status.disrupted_pods);
        for gone in budget.status.disrupted_pods.keys().filter(|p| !status.disrupted_pods.contains_key(*p)) {
            disrupted[gone] = Value::Null;
        }
        patch["status"]["disruptedPods"] = disrupted;
        plan.act(Write::merge_exact(&kind::POD_DISRUPTION_BUDGET, &budget.metadata, "status", patch).into());
    }
    plan
}

/// How many pods there should be, and how many of them must be healthy.
fn expectations(view: &View<'_>) -> Result<(i32, i32), String> {
    use crate::views::IntOrPercent::{Int, Percent};
    let spec = &view.budget.spec;
    let count = i32::try_from(view.pods.iter().filter(|p| !p.is_finished()).count()).unwrap_or(i32::MAX);
    let by_scale = || view.scales.as_ref().map(|s| s.values().sum::<i32>()).map_err(Clone::clone);
    let wrong = |text: &str| format!("invalid value `{text}`: it is neither a number nor a percentage");
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => {
            let expected = by_scale()?;
            let unavailable = max.of(expected, true).ok_or_else(|| wrong(&format!("{max:?}")))?;
            Ok((expected, (expected - unavailable).max(0)))
        }
        (None, Some(Int(min))) => Ok((count, *min)),
        (None, Some(min @ Percent(text))) => {
            let expected = by_scale()?;
            Ok((expected, min.of(expected, true).ok_or_else(|| wrong(text))?))
        }
        (None, None) => Ok((count, 1)),
    }
}

/// Granted evictions that are still to happen, and when the next of them is out of time.
fn still_disrupted(view: &View<'_>, now: Timestamp) -> (BTreeMap<String, Timestamp>, Option<Duration>) {
    let mut next: Option<Duration> = None;
    let mut left = view.budget.status.disrupted_pods.clone();
    left.retain(|name, granted| {
        let pending = view.pods.iter().any(|p| p.metadata.name == *name && !p.metadata.is_terminating());
        let due = granted.checked_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
        let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
        let keep = pending && !wait.is_zero();
        if keep {
            next = Some(next.map_or(wait, |n| n.min(wait)));
        }
        keep
    });
    (left, next)
}

fn set(
    status: &mut PodDisruptionBudgetStatus,
    value: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    let old = condition(&status.conditions, "DisruptionAllowed").filter(|c| c.status == value);
    let since = old.and_then(|c| c.last_transition_time).unwrap_or_else(|| seconds(now));
    status.conditions.retain(|c| c.kind != "DisruptionAllowed");
    status.conditions.push(Condition {
        kind: "DisruptionAllowed".into(),
        status: value.into(),
        observed_generation: Some(generation),
        last_transition_time: Some(since),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Condition::default()
    });
}

/// The controller.
#[derive(Debug)]
pub struct Disruption {
    cx: Context,
    queue: Arc<Keys>,
}

impl Disruption {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.disruption_budgets.on_change(move |change| keys.add(change.latest().metadata.key()));
        let (keys, budgets) = (queue.clone(), cx.caches.disruption_budgets.clone());
        cx.caches.pods.on_change(move |change: &Change<'_, Pod>| {
            for budget in budgets.in_namespace(&change.latest().metadata.namespace) {
                let mut pods = change.previous().into_iter().chain([change.latest()]);
                if pods.any(|p| selects(&budget, p)) {
                    keys.add(budget.metadata.key());
                }
            }
        });
        Arc::new(Self { cx: cx.of("controllermanager"), queue })
    }

    /// How many pods the pods' controllers want.
    async fn scales(
        &self,
        namespace: &str,
        pods: &[Arc<Pod>],
    ) -> Result<Result<BTreeMap<String, i32>, String>, ApiError> {
        let mut scales = BTreeMap::new();
        for pod in pods {
            let Some(owner) = pod.metadata.controller() else {
                return Ok(Err(format!("found no controllers for pod {:?}", pod.metadata.name)));
            };
            let mut owner = owner.clone();
            // A ReplicaSet of a Deployment is at the size that the roll-out gives it; the Deployment says what is wanted.
            if owner.kind == "ReplicaSet"
                && let Some(set) = self.cx.caches.replica_sets.get(&Key::new(namespace, &owner.name))
                && let Some(deployment) = set.metadata.controller().filter(|d| d.kind == "Deployment")
            {
                owner = deployment.clone();
            }
            if scales.contains_key(&owner.uid) {
                continue;
            }
            match self.scale_of(namespace, &owner).await? {
                Some(replicas) => scales.insert(owner.uid, replicas),
                None => {
                    return Ok(Err(format!(
                        "{} {}/{} does not have a scale that can be looked up",
                        owner.kind, namespace, owner.name
                    )));
                }
            };
        }
        Ok(Ok(scales))
    }

    async fn scale_of(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<i32>, ApiError> {
        #[derive(Deserialize)]
        struct Scaled {
            spec: ScaledSpec,
        }
        #[derive(Deserialize)]
        struct ScaledSpec {
            #[serde(default)]
            replicas: Option<i32>,
        }
        let key = Key::new(namespace, &owner.name);
        let kind: &Kind = match owner.kind.as_str() {
            "Deployment" => return Ok(self.cx.caches.deployments.get(&key).map(|d| d.replicas())),
            "ReplicaSet" => return Ok(self.cx.caches.replica_sets.get(&key).map(|s| s.replicas())),
            "StatefulSet" => &kind::STATEFUL_SET,
            "ReplicationController" => &kind::REPLICATION_CONTROLLER,
            _ => return Ok(None),
        };
        match self.cx.api.get::<Scaled>(kind, namespace, &owner.name).await {
            Ok(scaled) => Ok(Some(scaled.spec.replicas.unwrap_or(1))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    budget.spec.selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels))
}

#[async_trait]
impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(budget) = self.cx.caches.disruption_budgets.get(key) else { return Ok(None) };
        let mut pods = self.cx.caches.pods.in_namespace(&key.namespace);
        pods.retain(|p| selects(&budget, p));
        let scales = self.scales(&key.namespace, &pods).await?;
        let plan = plan(&View { budget: &budget, pods: &pods, scales: &scales }, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::{Action, Verb};

    fn status(spec: Value, ready: usize, unready: usize, scale: i32) -> Value {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "n"},
            "spec": spec, "status": {"disruptedPods": {"p0": "2026-01-01T00:00:00Z", "gone": "2026-01-01T00:00:00Z"}}}))
        .unwrap();
        let pods: Vec<Arc<Pod>> = (0..ready + unready)
            .map(|i| {
                let ready = if i < ready { "True" } else { "False" };
                Arc::new(
                    serde_json::from_value(
                        json!({"metadata": {"name": format!("p{i}")}, "status": {"phase": "Running",
                    "conditions": [{"type": "Ready", "status": ready}]}}),
                    )
                    .unwrap(),
                )
            })
            .collect();
        let scales = Ok(BTreeMap::from([("o".to_owned(), scale)]));
        let plan =
            plan(&View { budget: &budget, pods: &pods, scales: &scales }, "2026-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(plan.requeue_after, Some(Duration::from_secs(60)));
        let patch = plan.actions().find_map(|a| match a {
            Action::Write(w) => match &w.verb {
                Verb::Patch("status", _, patch) => Some(patch["status"].clone()),
                _ => None,
            },
            Action::Event(_) => None,
        });
        patch.unwrap()
    }

    #[test]
    fn allowance() {
        let numbers = |s: &Value| {
            ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"].map(|f| s[f].as_i64().unwrap())
        };
        // p0's eviction was granted, so it does not count as healthy.
        assert_eq!(numbers(&status(json!({"minAvailable": 2}), 4, 1, 5)), [3, 2, 5, 1]);
        assert_eq!(numbers(&status(json!({"maxUnavailable": 1}), 5, 0, 5)), [4, 4, 5, 0]);
        assert_eq!(numbers(&status(json!({"minAvailable": "50%"}), 5, 0, 5)), [4, 3, 5, 1]);
        assert_eq!(status(json!({"minAvailable": 1}), 3, 0, 3)["disruptedPods"]["gone"], Value::Null);
    }
}
