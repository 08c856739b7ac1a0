//! Pods that do not put up with their node's `NoExecute` taints, or only for so long, are deleted (upstream
//! `pkg/controller/tainteviction`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::context::Context;
use crate::runtime::cache::{BY_NODE, Change};
use crate::runtime::meta::Key;
use crate::runtime::plan::{Action, Note, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{Node, Pod, Taint};

/// Deletes the pods of a node whose time is up.
pub fn plan(node: &Node, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let taints: Vec<&Taint> = node.spec.taints.iter().filter(|t| t.effect == "NoExecute").collect();
    if taints.is_empty() {
        return plan;
    }
    let (mut marks, mut deletions): (Vec<Action>, Vec<Action>) = (Vec::new(), Vec::new());
    for pod in pods.iter().filter(|p| p.is_active()) {
        match left(pod, &taints, now) {
            None => {}
            Some(left) if left.is_zero() => {
                marks.push(mark(pod, now));
                let message = format!("Marking for deletion Pod {}", pod.metadata.key());
                let regarding = pod.metadata.reference(&kind::POD);
                deletions.push(Note::normal(regarding, "TaintManagerEviction", message).into());
                deletions.push(Write::delete(&kind::POD, &pod.metadata).into());
            }
            Some(left) => plan.look_again(left),
        }
    }
    plan.step(marks);
    plan.step(deletions);
    plan
}

/// How long the pod may stay; forever if `None`.
fn left(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let Some(toleration) = pod
            .spec
            .tolerations
            .iter()
            .filter(|t| t.tolerates(taint))
            .min_by_key(|t| t.toleration_seconds.unwrap_or(i64::MAX))
        else {
            return Some(Duration::ZERO);
        };
        let Some(seconds) = toleration.toleration_seconds else { continue };
        let since = taint.time_added.unwrap_or(now);
        let due = since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
        shortest = Some(shortest.map_or(left, |s| s.min(left)));
    }
    shortest
}

fn mark(pod: &Pod, now: Timestamp) -> Action {
    let message = "Taint manager: deleting due to NoExecute taint";
    let conditions = pod.disrupted("DeletionByTaintManager", message, now);
    let patch = json!({"status": {"conditions": conditions}});
    Write::merge_exact(&kind::POD, &pod.metadata, "status", patch).into()
}

/// The controller; its keys are nodes.
#[derive(Debug)]
pub struct TaintEviction {
    cx: Context,
    queue: Arc<Keys>,
}

impl TaintEviction {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.nodes.on_change(move |change| {
            let taints = |n: &Node| n.spec.taints.clone();
            if change.previous().is_none_or(|old| taints(old) != taints(change.latest())) {
                keys.add(change.latest().metadata.key());
            }
        });
        let (keys, nodes) = (queue.clone(), cx.caches.nodes.clone());
        cx.caches.pods.on_change(move |change: &Change<'_, Pod>| {
            let pod = change.latest();
            let placed = change.previous().is_none_or(|old| old.spec.node_name != pod.spec.node_name)
                && !pod.spec.node_name.is_empty();
            let key = Key::new("", &pod.spec.node_name);
            if placed && nodes.get(&key).is_some_and(|n| n.spec.taints.iter().any(|t| t.effect == "NoExecute")) {
                keys.add(key);
            }
        });
        Arc::new(Self { cx: cx.of("taint-eviction-controller"), queue })
    }
}

#[async_trait]
impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        4
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(node) = self.cx.caches.nodes.get(key) else { return Ok(None) };
        let plan = plan(&node, &self.cx.caches.pods.by_index(BY_NODE, &key.name), self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::runtime::plan::Verb;

    fn run(tolerations: Value, now: &str) -> (bool, Option<Duration>) {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"taints": [
            {"key": "gone", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
            {"key": "full", "effect": "NoSchedule"}]}}))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a", "tolerations": tolerations}, "status": {"phase": "Running"}}))
        .unwrap();
        let plan = plan(&node, &[Arc::new(pod)], now.parse().unwrap());
        let deleted = plan.actions().any(|a| matches!(a, Action::Write(w) if matches!(w.verb, Verb::Delete(_))));
        (deleted, plan.requeue_after)
    }

    #[test]
    fn who_may_stay_and_for_how_long() {
        assert_eq!(run(json!([]), "2026-01-01T00:00:01Z"), (true, None));
        let forever = json!([{"key": "gone", "operator": "Exists"}]);
        assert_eq!(run(forever, "2026-06-01T00:00:00Z"), (false, None));
        let a_while = json!([{"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        assert_eq!(run(a_while.clone(), "2026-01-01T00:04:00Z"), (false, Some(Duration::from_secs(60))));
        assert_eq!(run(a_while, "2026-01-01T00:05:00Z"), (true, None));
        let other = json!([{"key": "full", "operator": "Exists"}]);
        assert_eq!(run(other, "2026-01-01T00:00:01Z"), (true, None));
    }
}
