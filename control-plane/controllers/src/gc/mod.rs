//! The garbage collector: what an owner's deletion does to what it owns (upstream `pkg/controller/garbagecollector`).
//!
//! Every kind's metadata is watched, and makes a graph of owners and dependents. An object goes when all of its owners
//! are gone; an owner that is deleted in the foreground goes when nothing is left that blocks it; one that is deleted
//! with `orphan` lets its dependents go first.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::runtime::api::{ApiError, DeleteOptions, Scope};
use crate::runtime::discovery::served;
use crate::runtime::informer;
use crate::runtime::kind::Kind;
use crate::runtime::meta::{Key, Meta, OwnerReference};
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError};

pub use graph::Gone;
use graph::{Graph, KindFeed, Object};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How often the served kinds are looked up.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// How long definitions of kinds are let come in before the served kinds are looked up again.
const SETTLE: Duration = Duration::from_millis(50);
/// Owners known to be gone that are remembered.
const ABSENT_LIMIT: usize = 500;

/// An owner, as a dependent's plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Solid,
    /// It is being deleted in the foreground, and waits for its dependents.
    Waiting,
    /// It is gone.
    Gone,
}

/// What the planner looks at: an object, its owners, and what it owns.
#[derive(Debug)]
pub struct View<'a> {
    /// The object's kind.
    pub kind: &'a Kind,
    /// The object.
    pub meta: &'a Meta,
    /// Its owners, in the order of its references.
    pub owners: &'a [Owner],
    /// What it owns: kind, metadata, whether its reference to the object blocks the object's deletion.
    pub dependents: &'a [(Kind, Meta, bool)],
}

/// What becomes of an object.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::nothing();
    let has = |finalizer: &str| view.meta.has_finalizer(finalizer);
    if view.meta.is_terminating() {
        if has(ORPHAN) {
            let uid = &view.meta.uid;
            plan.step(
                view.dependents.iter().map(|(kind, meta, _)| without_owners(kind, meta, &[uid]).into()).collect(),
            );
            plan.act(Write::without_finalizer(view.kind, view.meta, ORPHAN).into());
        } else if has(FOREGROUND) && !view.dependents.iter().any(|(_, _, blocks)| *blocks) {
            plan.act(Write::without_finalizer(view.kind, view.meta, FOREGROUND).into());
        }
        return plan;
    }
    if view.owners.is_empty() {
        return plan;
    }
    if view.owners.contains(&Owner::Solid) {
        // Owners that are gone, or on their way out, no longer count.
        let gone: Vec<&str> = view
            .meta
            .owner_references
            .iter()
            .zip(view.owners)
            .filter(|(_, owner)| **owner != Owner::Solid)
            .map(|(reference, _)| reference.uid.as_str())
            .collect();
        if !gone.is_empty() {
            plan.act(without_owners(view.kind, view.meta, &gone).into());
        }
        return plan;
    }
    let policy = if view.owners.contains(&Owner::Waiting) && !view.dependents.is_empty() {
        if closes_circle(view) {
            // Everybody in a circle would wait for the next one: this object holds its owners up no longer.
            plan.act(unblocking(view).into());
            return plan;
        }
        "Foreground"
    } else if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    let options = DeleteOptions {
        propagation_policy: Some(policy),
        // Only as it was looked at: it may have found a new owner since.
        resource_version: Some(view.meta.resource_version),
        ..DeleteOptions::default()
    };
    plan.act(Write::delete_with(view.kind, view.meta, options).into());
    plan
}

/// Whether an object is being deleted in the foreground: it goes after what it owns.
fn waits(meta: &Meta) -> bool {
    meta.is_terminating() && meta.has_finalizer(FOREGROUND)
}

/// Whether what the object owns waits for its dependents already, while the object blocks an owner that waits, too: they
/// may wait for each other (upstream `attemptToDeleteItem`, which takes some for circles that are none, harmlessly).
fn closes_circle(view: &View<'_>) -> bool {
    view.dependents.iter().any(|(_, meta, _)| waits(meta))
        && view.meta.owner_references.iter().any(|r| r.block_owner_deletion == Some(true))
}

/// Takes `blockOwnerDeletion` off all references of the object.
fn unblocking(view: &View<'_>) -> Write {
    let mut references = view.meta.owner_references.clone();
    references.iter_mut().for_each(|r| r.block_owner_deletion = Some(false));
    Write::merge_exact(view.kind, view.meta, "", json!({"metadata": {"ownerReferences": references}}))
}

fn without_owners(kind: &Kind, meta: &Meta, uids: &[&str]) -> Write {
    let left: Vec<&OwnerReference> = meta.owner_references.iter().filter(|r| !uids.contains(&r.uid.as_str())).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    Write::merge_exact(kind, meta, "", json!({"metadata": {"ownerReferences": left}}))
}

/// The controller; its keys' names are uids.
pub struct GarbageCollector {
    cx: Context,
    queue: Arc<Keys>,
    graph: Arc<Mutex<Graph>>,
    absent: Mutex<BTreeSet<String>>,
    gone: Gone,
    kinds_changed: Arc<Notify>,
}

impl GarbageCollector {
    /// A collector that knows of nothing yet; [`GarbageCollector::follow`] feeds it. It sees all kinds, so it also
    /// tells `gone` of every object that goes.
    pub fn new(cx: &Context, gone: Gone) -> Arc<Self> {
        Arc::new(Self {
            cx: cx.of("garbage-collector-controller"),
            queue: Arc::default(),
            graph: Arc::default(),
            absent: Mutex::default(),
            gone,
            kinds_changed: Arc::default(),
        })
    }

    /// Watches all kinds, those that come later too, until `cancel`.
    pub async fn follow(self: Arc<Self>, cancel: CancellationToken) {
        let mut followed: BTreeMap<Kind, CancellationToken> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            match served(&self.cx.api).await {
                Ok((kinds, missing)) => {
                    let kinds: BTreeSet<Kind> = kinds
                        .into_iter()
                        .filter(|s| s.can(&["list", "watch", "delete"]) && s.kind.kind != "Event")
                        .map(|s| s.kind)
                        .collect();
                    if missing.is_none() {
                        followed.retain(|kind, token| {
                            let stays = kinds.contains(kind);
                            if !stays {
                                token.cancel();
                                self.graph.lock().forget_kind(kind);
                            }
                            stays
                        });
                    }
                    for kind in kinds {
                        if followed.contains_key(&kind) {
                            continue;
                        }
                        let token = cancel.child_token();
                        followed.insert(kind.clone(), token.clone());
                        self.graph.lock().expect_kind(&kind);
                        let feed = Arc::new(KindFeed::new(
                            kind.clone(),
                            self.graph.clone(),
                            self.queue.clone(),
                            self.gone.clone(),
                            self.kinds_changed.clone(),
                        ));
                        let scope = Scope { metadata_only: true, ..Scope::default() };
                        tasks.spawn(informer::run(
                            self.cx.api.clone(),
                            kind,
                            feed,
                            scope,
                            self.cx.random.clone(),
                            token,
                        ));
                    }
                    self.graph.lock().discovered = true;
                }
                Err(error) => tracing::debug!(%error, "cannot look up the served kinds"),
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.kinds_changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(DISCOVERY_PERIOD) => {}
            }
        }
    }

    /// Looks an owner up that the graph does not have: it may be of a kind that cannot be watched, or just not be known yet.
    async fn look_up(&self, reference: &OwnerReference, namespace: &str) -> Result<Owner, ApiError> {
        if self.absent.lock().contains(&reference.uid) {
            return Ok(Owner::Gone);
        }
        let kind = self.graph.lock().kind_of(reference);
        let kind = match kind {
            Some(kind) => kind,
            None => {
                let (kinds, _) = served(&self.cx.api).await?;
                match kinds.into_iter().map(|s| s.kind).find(|k| graph::is_kind(k, reference)) {
                    Some(kind) => kind,
                    // A kind that is not served may be a CRD on its way in or out: nothing is deleted on a guess.
                    None => return Ok(Owner::Solid),
                }
            }
        };
        let namespace = if kind.namespaced { namespace } else { "" };
        let found: Result<Object, ApiError> = if kind.namespaced && namespace.is_empty() {
            // A cluster-scoped object cannot have a namespaced owner.
            return Ok(Owner::Solid);
        } else {
            self.cx.api.get(&kind, namespace, &reference.name).await
        };
        match found {
            Ok(object) if object.metadata.uid == reference.uid => {
                Ok(if waits(&object.metadata) { Owner::Waiting } else { Owner::Solid })
            }
            Err(error) if !error.is_not_found() => Err(error),
            _ => {
                let mut absent = self.absent.lock();
                if absent.len() >= ABSENT_LIMIT {
                    absent.clear();
                }
                absent.insert(reference.uid.clone());
                Ok(Owner::Gone)
            }
        }
    }
}

#[async_trait]
impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        8
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let (kind, meta, dependents) = {
            let graph = self.graph.lock();
            if !graph.is_complete() {
                // Half a graph has owners without dependents, and dependents without owners.
                return Ok(Some(Duration::from_millis(200)));
            }
            let Some((kind, meta)) = graph.get(&key.name) else { return Ok(None) };
            (kind, meta, graph.dependents(&key.name))
        };
        let mut owners = Vec::with_capacity(meta.owner_references.len());
        for reference in &meta.owner_references {
            let known = self.graph.lock().owner(reference, &meta.namespace);
            owners.push(match known {
                Some(owner) => owner,
                None => self.look_up(reference, &meta.namespace).await?,
            });
        }
        let plan = plan(&View { kind: &kind, meta: &meta, owners: &owners, dependents: &dependents });
        self.cx.execute(plan).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
