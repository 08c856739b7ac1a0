//! Namespaces that are being deleted: everything in them goes, pods first, and then they do (upstream
//! `pkg/controller/namespace`, KEP-5080).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::Context;
use crate::runtime::api::{ApiError, DeleteOptions, Scope};
use crate::runtime::cache::Change;
use crate::runtime::discovery::{Served, served};
use crate::runtime::informer::read_list;
use crate::runtime::meta::{Condition, Key, MetadataOnly, condition, seconds};
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::Namespace;

/// The finalizer of `spec.finalizers` that is ours.
const FINALIZER: &str = "kubernetes";
/// Looking again while pods take their time to stop, and while other contents are left.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What is left of a kind in a namespace, after its deletion has been asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// `pods`, `deployments.apps`.
    pub resource: String,
    /// How many objects.
    pub count: usize,
    /// What they wait for, each with how many objects.
    pub finalizers: std::collections::BTreeMap<String, usize>,
}

/// What the planner looks at.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// A group that could not be asked what it serves.
    pub discovery_failure: Option<String>,
    /// A deletion or list that failed.
    pub deletion_failure: Option<String>,
    /// Kinds of which something is left.
    pub remaining: Vec<Remaining>,
}

/// Says in the namespace's status what keeps it, or lets it go.
pub fn plan(namespace: &Namespace, found: &Found, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let conditions = conditions(namespace, found, now);
    if conditions != namespace.status.conditions {
        let patch = json!({"status": {"phase": "Terminating", "conditions": conditions}});
        plan.act(Write::merge(&kind::NAMESPACE, &namespace.metadata, "status", patch).into());
    }
    if !found.remaining.is_empty() || found.deletion_failure.is_some() || found.discovery_failure.is_some() {
        plan.look_again(LOOK_AGAIN);
    }
    plan
}

fn conditions(namespace: &Namespace, found: &Found, now: Timestamp) -> Vec<Condition> {
    let sum = |parts: Vec<String>| (!parts.is_empty()).then(|| parts.join(", "));
    let contents =
        sum(found.remaining.iter().map(|r| format!("{} has {} resource instances", r.resource, r.count)).collect());
    let mut waiting = std::collections::BTreeMap::<&str, usize>::new();
    for (finalizer, count) in found.remaining.iter().flat_map(|r| &r.finalizers) {
        *waiting.entry(finalizer).or_default() += count;
    }
    let finalizers = sum(waiting.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect());
    let table = [
        (
            "NamespaceDeletionDiscoveryFailure",
            found.discovery_failure.as_ref().map(|e| format!("Discovery failed for some groups, 1 failing: {e}")),
            ("DiscoveryFailed", "ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("GroupVersionParsingFailed", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            found.deletion_failure.as_ref().map(|e| format!("Failed to delete all resource types, 1 remaining: {e}")),
            (
                "ContentDeletionFailed",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        (
            "NamespaceContentRemaining",
            contents.map(|c| format!("Some resources are remaining: {c}")),
            ("SomeResourcesRemain", "ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers.map(|f| format!("Some content in the namespace has finalizers remaining: {f}")),
            ("SomeFinalizersRemain", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    table
        .into_iter()
        .map(|(kind, problem, (bad, good, good_message))| {
            let status = if problem.is_some() { "True" } else { "False" };
            let old = condition(&namespace.status.conditions, kind);
            let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
            Condition {
                kind: kind.into(),
                status: status.into(),
                last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
                reason: Some(if problem.is_some() { bad } else { good }.into()),
                message: Some(problem.unwrap_or_else(|| good_message.into())),
                ..Condition::default()
            }
        })
        .collect()
}

/// The controller.
#[derive(Debug)]
pub struct Namespaces {
    cx: Context,
    queue: Arc<Keys>,
}

impl Namespaces {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.namespaces.on_change(move |change| {
            if change.latest().metadata.is_terminating() && !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
        });
        // A pod that is gone may be the last thing that a namespace waited for.
        let (keys, namespaces) = (queue.clone(), cx.caches.namespaces.clone());
        cx.caches.pods.on_change(move |change| {
            let key = Key::new("", &change.latest().metadata.namespace);
            if matches!(change, Change::Removed(_)) && namespaces.get(&key).is_some_and(|n| n.metadata.is_terminating())
            {
                keys.add(key);
            }
        });
        Arc::new(Self { cx: cx.of("namespace-controller"), queue })
    }

    /// Deletes what there is, and sees what is left.
    async fn empty(&self, namespace: &str) -> Result<Found, ApiError> {
        let (kinds, discovery_failure) = served(&self.cx.api).await?;
        let mut found = Found { discovery_failure, ..Found::default() };
        let (pods, others): (Vec<Served>, Vec<Served>) = kinds
            .into_iter()
            .filter(|s| s.kind.namespaced && s.can(&["list", "delete"]))
            .partition(|s| s.kind == kind::POD);
        for kinds in [pods, others] {
            for served in kinds {
                if let Err(error) = self.delete_all(namespace, &served, &mut found).await {
                    found.deletion_failure = Some(format!("{}: {error}", served.kind.plural));
                }
            }
            // What pods need (secrets, services, accounts) stays until they have stopped.
            if !found.remaining.is_empty() || found.deletion_failure.is_some() {
                break;
            }
        }
        Ok(found)
    }

    async fn delete_all(&self, namespace: &str, served: &Served, found: &mut Found) -> Result<(), ApiError> {
        let kind = &served.kind;
        let scope = Scope { namespace: namespace.to_owned(), metadata_only: true, ..Scope::default() };
        let (items, _) = read_list::<MetadataOnly>(&self.cx.api, kind, &scope).await?;
        if items.is_empty() {
            return Ok(());
        }
        let background = || DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
        if served.can(&["deletecollection"]) {
            self.cx.api.delete_collection(kind, namespace, &background()).await?;
        } else {
            for item in items.iter().filter(|i| !i.metadata.is_terminating()) {
                let options = DeleteOptions { uid: Some(item.metadata.uid.clone()), ..background() };
                match self.cx.api.delete(kind, namespace, &item.metadata.name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                    _ => {}
                }
            }
        }
        let (left, _) = read_list::<MetadataOnly>(&self.cx.api, kind, &scope).await?;
        if !left.is_empty() {
            let resource =
                if kind.group.is_empty() { kind.plural.to_string() } else { format!("{}.{}", kind.plural, kind.group) };
            let mut remaining = Remaining { resource, count: left.len(), ..Remaining::default() };
            for finalizer in left.iter().flat_map(|i| &i.metadata.finalizers) {
                *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
            found.remaining.push(remaining);
        }
        Ok(())
    }

    /// Takes our finalizer away; without one left, the API server removes the namespace.
    async fn finalize(&self, name: &str, uid: &str) -> Result<(), SyncError> {
        let mut current: Value = match self.cx.api.get(&kind::NAMESPACE, "", name).await {
            Ok(current) => current,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if current["metadata"]["uid"] != uid {
            return Ok(());
        }
        let left: Vec<Value> = current["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        let left: Vec<Value> = left.into_iter().filter(|f| f != FINALIZER).collect();
        current["spec"]["finalizers"] = Value::Array(left);
        match self.cx.api.replace(&kind::NAMESPACE, "", name, "finalize", &current).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        2
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(namespace) = self.cx.caches.namespaces.get(key) else { return Ok(None) };
        if !namespace.metadata.is_terminating() || !namespace.spec.finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        let found = self.empty(&key.name).await?;
        tracing::debug!(namespace = key.name, left = ?found, "emptied");
        let plan = plan(&namespace, &found, self.cx.clock.now());
        let wait = plan.requeue_after;
        if wait.is_none() {
            self.finalize(&key.name, &namespace.metadata.uid).await?;
            return Ok(None);
        }
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::{Action, Verb};

    #[test]
    fn what_is_left_is_told() {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}}))
                .unwrap();
        let remaining = Remaining {
            resource: "pods".into(),
            count: 2,
            finalizers: [("batch.kubernetes.io/job-tracking".to_owned(), 1)].into(),
        };
        let found = Found { remaining: vec![remaining], ..Found::default() };
        let plan = plan(&namespace, &found, "2026-01-01T00:00:05Z".parse().unwrap());
        let Some(Action::Write(write)) = plan.actions().next() else { panic!("no write") };
        let Verb::Patch("status", _, patch) = &write.verb else { panic!("no status") };
        let messages: Vec<&str> =
            patch["status"]["conditions"].as_array().unwrap().iter().filter_map(|c| c["message"].as_str()).collect();
        assert_eq!(messages[3], "Some resources are remaining: pods has 2 resource instances");
        assert_eq!(
            messages[4],
            "Some content in the namespace has finalizers remaining: batch.kubernetes.io/job-tracking in 1 resource instances"
        );
        assert_eq!(plan.requeue_after, Some(LOOK_AGAIN));
    }

    #[test]
    fn an_empty_namespace_is_let_go() {
        let plan = plan(&Namespace::default(), &Found::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(plan.requeue_after, None);
    }
}
