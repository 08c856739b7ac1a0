//! Pods that nobody will clean up: of nodes that are gone, on their way out without a node, or ended long ago
//! (upstream `pkg/controller/podgc`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::context::Context;
use crate::runtime::api::DeleteOptions;
use crate::runtime::cache::Change;
use crate::runtime::meta::{Key, condition_is_true};
use crate::runtime::plan::{Action, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{Node, Pod};

const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be gone before its pods are.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// Ended pods that are kept.
const ENDED_LIMIT: usize = 12_500;
/// A node with this taint is known to be off, so that its pods can be taken for stopped.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// All pods.
    pub pods: &'a [Arc<Pod>],
    /// All nodes, by name.
    pub nodes: &'a BTreeMap<&'a str, &'a Node>,
    /// Since when nodes have been missing that pods are on.
    pub missing_since: &'a BTreeMap<String, Timestamp>,
}

/// Deletes what nobody else will.
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let mut actions = Vec::new();
    let mut ended: Vec<&Pod> = Vec::new();
    for pod in view.pods {
        let node = pod.spec.node_name.as_str();
        let is_gone = view.missing_since.get(node).is_some_and(|since| now.duration_since(*since) >= QUARANTINE);
        if is_gone {
            actions.extend(remove(pod, "PodGC: node no longer exists", now));
        } else if pod.metadata.is_terminating() && node.is_empty() {
            actions.extend(remove(pod, "", now));
        } else if pod.metadata.is_terminating() && view.nodes.get(node).is_some_and(|n| is_out_of_service(n)) {
            actions.extend(remove(pod, "PodGC: node is out of service", now));
        } else if pod.is_finished() && !pod.metadata.is_terminating() {
            ended.push(pod);
        }
    }
    if let Some(excess) = ended.len().checked_sub(ENDED_LIMIT) {
        ended.sort_by_key(|p| (p.metadata.creation_timestamp, p.metadata.key()));
        actions.extend(ended[..excess].iter().flat_map(|p| remove(p, "", now)));
    }
    let mut plan = Plan::nothing();
    // Two writes for a pod: the first must be through before the second.
    let (marks, deletions): (Vec<Action>, Vec<Action>) = actions
        .into_iter()
        .partition(|a| matches!(a, Action::Write(w) if matches!(w.verb, crate::runtime::plan::Verb::Patch(..))));
    plan.step(marks);
    plan.step(deletions);
    plan.look_again(PERIOD);
    plan
}

fn is_out_of_service(node: &Node) -> bool {
    !condition_is_true(&node.status.conditions, "Ready") && node.spec.taints.iter().any(|t| t.key == OUT_OF_SERVICE)
}

/// Ends the pod, if it has not, and deletes it at once.
fn remove(pod: &Pod, message: &str, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if !pod.is_finished() {
        let mut patch: Value = json!({"status": {"phase": "Failed"}});
        if !message.is_empty() {
            patch["status"]["conditions"] = json!(pod.disrupted("DeletionByPodGC", message, now));
        }
        actions.push(Write::merge_exact(&kind::POD, &pod.metadata, "status", patch).into());
    }
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    actions.push(Write::delete_with(&kind::POD, &pod.metadata, options).into());
    actions
}

/// The controller.
#[derive(Debug)]
pub struct PodGc {
    cx: Context,
    queue: Arc<Keys>,
    missing_since: Mutex<BTreeMap<String, Timestamp>>,
}

impl PodGc {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        queue.add(Key::default());
        let keys = queue.clone();
        cx.caches.nodes.on_change(move |change| {
            if matches!(change, Change::Removed(_)) {
                keys.add(Key::default());
            }
        });
        // A pod that is deleted before it is placed has no node that would confirm it.
        let keys = queue.clone();
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            if pod.metadata.is_terminating() && pod.spec.node_name.is_empty() && !matches!(change, Change::Removed(_)) {
                keys.add(Key::default());
            }
        });
        Arc::new(Self { cx: cx.of("pod-garbage-collector"), queue, missing_since: Mutex::default() })
    }

    /// Brings up to date since when nodes have been missing.
    fn missing(&self, pods: &[Arc<Pod>], nodes: &BTreeMap<&str, &Node>, now: Timestamp) -> BTreeMap<String, Timestamp> {
        let used: BTreeSet<&str> = pods.iter().map(|p| p.spec.node_name.as_str()).filter(|n| !n.is_empty()).collect();
        let mut missing = self.missing_since.lock();
        missing.retain(|name, _| used.contains(name.as_str()) && !nodes.contains_key(name.as_str()));
        for name in used.into_iter().filter(|n| !nodes.contains_key(n)) {
            missing.entry(name.to_owned()).or_insert(now);
        }
        missing.clone()
    }
}

#[async_trait]
impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "podgc"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, _key: &Key) -> Result<Option<Duration>, SyncError> {
        let now = self.cx.clock.now();
        let (pods, nodes) = (self.cx.caches.pods.list(), self.cx.caches.nodes.list());
        let nodes: BTreeMap<&str, &Node> = nodes.iter().map(|n| (n.metadata.name.as_str(), n.as_ref())).collect();
        let missing_since = self.missing(&pods, &nodes, now);
        let plan = plan(&View { pods: &pods, nodes: &nodes, missing_since: &missing_since }, now);
        self.cx.execute(plan).await?;
        Ok(Some(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::Verb;

    fn pod(name: &str, node: &str, deleting: bool, phase: &str) -> Arc<Pod> {
        let deletion = deleting.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name,
                "deletionTimestamp": deletion}, "spec": {"nodeName": node}, "status": {"phase": phase}}))
            .unwrap(),
        )
    }

    fn deleted(pods: &[Arc<Pod>], nodes: &[Node], gone_for_seconds: i64) -> Vec<String> {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let nodes: BTreeMap<&str, &Node> = nodes.iter().map(|n| (n.metadata.name.as_str(), n)).collect();
        let missing = BTreeMap::from([("gone".to_owned(), now - SignedDuration::from_secs(gone_for_seconds))]);
        plan(&View { pods, nodes: &nodes, missing_since: &missing }, now)
            .actions()
            .filter_map(|a| match a {
                Action::Write(w) if matches!(w.verb, Verb::Delete(_)) => Some(w.name.clone()),
                _ => None,
            })
            .collect()
    }

    fn node(name: &str, taint: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": [
            {"key": taint, "effect": "NoExecute"}]}}))
        .unwrap()
    }

    #[test]
    fn pods_of_gone_nodes_go_after_a_while() {
        let pods = [pod("a", "gone", false, "Running"), pod("b", "here", false, "Running")];
        let nodes = [node("here", "x")];
        assert!(deleted(&pods, &nodes, 10).is_empty());
        assert_eq!(deleted(&pods, &nodes, 41), ["a"]);
    }

    #[test]
    fn terminating_pods_that_nobody_will_confirm() {
        let pods = [
            pod("unplaced", "", true, "Pending"),
            pod("off", "off", true, "Running"),
            pod("on", "on", true, "Running"),
        ];
        assert_eq!(deleted(&pods, &[node("off", OUT_OF_SERVICE), node("on", "x")], 0), ["unplaced", "off"]);
    }
}
