//! Binding of claims before their pod is placed: what has been decided is written down, and the pod waits until the
//! volumes' controller, or somebody's provisioner, has brought it about (upstream `BindPodVolumes`).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use xebec_controllers::persistent_volume::SELECTED_NODE;
use xebec_controllers::persistent_volume::claim::claim_volume;
use xebec_controllers::runtime::api::{Api, ApiError, PatchKind};
use xebec_controllers::runtime::cache::{Cache, Change};
use xebec_controllers::runtime::executor::Sinks;
use xebec_controllers::runtime::kind::{self, Kind};
use xebec_controllers::runtime::meta::{Key, Meta};
use xebec_controllers::runtime::plan::exact_patch;
use xebec_controllers::views::{PersistentVolume, PersistentVolumeClaim, StorageClass};

use crate::filters::{Binding, is_bound};
use crate::queue::Queue;
use crate::run::World;

/// How long volumes may take to be made (upstream's `bindTimeoutSeconds`).
const TIMEOUT: Duration = Duration::from_secs(600);

/// What the scheduler knows of storage.
#[derive(Clone, Default)]
pub(crate) struct Storage {
    pub claims: Arc<Cache<PersistentVolumeClaim>>,
    pub volumes: Arc<Cache<PersistentVolume>>,
    pub classes: Arc<Cache<StorageClass>>,
    /// A claim has changed.
    changed: Arc<Notify>,
}

/// Why a pod's claims could not be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("provisioning failed for PVC {0:?}")]
    Refused(String),
    #[error("binding volumes: context deadline exceeded")]
    Late,
}

impl Storage {
    /// Has changes put into the snapshot, and pods tried again that they may help.
    pub fn follow(&self, world: &Arc<Mutex<World>>, queue: &Arc<Queue>) {
        let revive = {
            let queue = queue.clone();
            move || queue.revive(|pod| !pod.claims.is_empty())
        };
        let (world_, revive_, changed) = (world.clone(), revive.clone(), self.changed.clone());
        self.claims.on_change(move |change| {
            match change {
                Change::Removed(claim) => world_.lock().snapshot.shelf.remove_claim(&claim.metadata.key()),
                Change::Added(claim) | Change::Updated(_, claim) => world_.lock().snapshot.shelf.put_claim(claim),
            }
            changed.notify_waiters();
            revive_();
        });
        let (world_, revive_) = (world.clone(), revive.clone());
        self.volumes.on_change(move |change| {
            match change {
                Change::Removed(volume) => world_.lock().snapshot.shelf.remove_volume(&volume.metadata.name),
                Change::Added(volume) | Change::Updated(_, volume) => world_.lock().snapshot.shelf.put_volume(volume),
            }
            revive_();
        });
        let world = world.clone();
        self.classes.on_change(move |change| {
            let class = change.latest();
            {
                let classes = &mut world.lock().snapshot.shelf.classes;
                match change {
                    Change::Removed(_) => drop(classes.remove(&class.metadata.name)),
                    _ => drop(classes.insert(class.metadata.name.clone(), class.clone())),
                }
            }
            revive();
        });
    }

    /// Writes down what has been decided, and waits until it is so.
    pub async fn bind(&self, api: &Api, bindings: &[Binding], node: &str) -> Result<(), BindError> {
        for binding in bindings {
            match binding {
                Binding::Volume { claim, volume } => {
                    let Some(patch) = claim_volume(claim, volume) else { continue };
                    let body = self.write(api, &kind::PERSISTENT_VOLUME, &volume.metadata, patch).await?;
                    self.take_in(&kind::PERSISTENT_VOLUME, &body);
                }
                Binding::Provision { claim } => {
                    if claim.metadata.annotations.get(SELECTED_NODE).is_some_and(|selected| selected == node) {
                        continue;
                    }
                    let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                    let body = self.write(api, &kind::PERSISTENT_VOLUME_CLAIM, &claim.metadata, patch).await?;
                    self.take_in(&kind::PERSISTENT_VOLUME_CLAIM, &body);
                }
            }
        }
        match tokio::time::timeout(TIMEOUT, self.bound(bindings, node)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(BindError::Late),
        }
    }

    async fn write(&self, api: &Api, kind: &Kind, meta: &Meta, patch: Value) -> Result<bytes::Bytes, ApiError> {
        let patch = exact_patch(meta, patch);
        api.patch(kind, &meta.namespace, &meta.name, "", PatchKind::Merge, &patch).await
    }

    /// The answer to a write is known at once.
    fn take_in(&self, kind: &Kind, body: &[u8]) {
        let mut sinks = Sinks::default();
        sinks.add(&self.claims);
        sinks.add(&self.volumes);
        sinks.wrote(kind, body);
    }

    async fn bound(&self, bindings: &[Binding], node: &str) -> Result<(), BindError> {
        loop {
            let changed = self.changed.notified();
            let mut all = true;
            for binding in bindings {
                let key = binding.claim().metadata.key();
                match self.state(&key, binding, node) {
                    Some(is_bound) => all &= is_bound,
                    None => return Err(BindError::Refused(key.to_string())),
                }
            }
            if all {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Whether a claim is bound; `None` if it will not be, on this node.
    fn state(&self, key: &Key, binding: &Binding, node: &str) -> Option<bool> {
        let claim = self.claims.get(key).filter(|claim| claim.metadata.uid == binding.claim().metadata.uid)?;
        if is_bound(&claim) {
            return Some(true);
        }
        let given_up = matches!(binding, Binding::Provision { .. })
            && claim.spec.volume_name.is_empty()
            && claim.metadata.annotations.get(SELECTED_NODE).is_none_or(|selected| selected != node);
        (!given_up).then_some(false)
    }
}
