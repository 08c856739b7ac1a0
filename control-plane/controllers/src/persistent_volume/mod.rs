//! Persistent volumes: which claim has which (upstream `pkg/controller/volume/persistentvolume`), those that are made for
//! claims, and the claims that are made for pods.
//!
//! A claim and a volume point to each other, `spec.volumeName` and `spec.claimRef`; binding writes the volume first, on
//! the condition that nobody else has. One worker plans all claims and volumes, so that no two claims are promised the same.

pub mod claim;
pub mod ephemeral;
pub mod matching;
pub mod provision;
pub mod volume;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::context::Context;
use crate::runtime::cache::Change;
use crate::runtime::meta::Key;
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{PersistentVolume, PersistentVolumeClaim};

/// The claim's binding has been completed once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// It was the controller that bound it, and not who made it.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made the volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The node that the claim's pod will be on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// How often claims without a volume are looked at again (upstream's resync period).
const RESYNC: Duration = Duration::from_secs(15);

/// The controller of claims and volumes. Keys with a namespace are claims, those without are volumes.
#[derive(Debug)]
pub struct Binder {
    cx: Context,
    queue: Arc<Keys>,
}

impl Binder {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let this = Arc::new(Self { cx: cx.of("persistentvolume-controller"), queue: Arc::default() });
        let (keys, claims) = (this.queue.clone(), cx.caches.claims.clone());
        cx.caches.volumes.on_change(move |change| {
            let volume = change.latest();
            keys.add(volume.metadata.key());
            if let Some(by) = &volume.spec.claim_ref {
                keys.add(Key::new(&by.namespace, &by.name));
            }
            let freed = volume.status.phase == "Available"
                && change.previous().is_none_or(|old| old.status.phase != "Available");
            if freed || matches!(change, Change::Removed(_)) {
                waiting(&claims.list(), &volume.metadata.name).for_each(|key| keys.add(key));
            }
        });
        let (keys, volumes) = (this.queue.clone(), cx.caches.volumes.clone());
        cx.caches.claims.on_change(move |change| {
            let claim = change.latest();
            keys.add(claim.metadata.key());
            for volume in volumes.list().iter().filter(|v| is_about(v, claim)) {
                keys.add(volume.metadata.key());
            }
        });
        let (keys, claims) = (this.queue.clone(), cx.caches.claims.clone());
        cx.caches.storage_classes.on_change(move |_| {
            waiting(&claims.list(), "").for_each(|key| keys.add(key));
        });
        let (keys, claims) = (this.queue.clone(), cx.caches.claims.clone());
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            if pod.spec.claims.is_empty() || change.previous().is_some() {
                return;
            }
            for name in pod.claims() {
                let key = Key::new(&pod.metadata.namespace, &name);
                if claims.get(&key).is_some_and(|claim| claim.spec.volume_name.is_empty()) {
                    keys.add(key);
                }
            }
        });
        this
    }

    async fn claim(&self, claim: &PersistentVolumeClaim) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let (volumes, classes) = (caches.volumes.list(), caches.storage_classes.list());
        let pods = if claim.spec.volume_name.is_empty() {
            caches.pods.in_namespace(&claim.metadata.namespace)
        } else {
            vec![]
        };
        let view = claim::View { claim, volumes: &volumes, classes: &classes, pods: &pods };
        let selected = claim.metadata.annotations.get(SELECTED_NODE);
        let node = selected.and_then(|name| caches.nodes.get(&Key::new("", name)));
        let made = provision::plan_provision(&view, node.as_deref());
        let plan = claim::plan_claim(&view);
        self.cx.execute(plan).await?;
        self.cx.execute(made).await?;
        Ok((claim.spec.volume_name.is_empty() && !claim.metadata.is_terminating()).then_some(RESYNC))
    }

    async fn volume(&self, volume: &PersistentVolume) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let by = volume.spec.claim_ref.as_ref();
        let mut claim = by.and_then(|by| caches.claims.get(&Key::new(&by.namespace, &by.name)));
        if let Some(by) = by.filter(|by| !by.uid.is_empty())
            && claim.as_ref().is_none_or(|claim| claim.metadata.uid != by.uid)
        {
            // What the cache does not know may be on its way: a volume is not given up for that.
            let kind = &crate::runtime::kind::PERSISTENT_VOLUME_CLAIM;
            claim = match self.cx.api.get(kind, &by.namespace, &by.name).await {
                Ok(claim) => Some(Arc::new(claim)),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            };
        }
        let host = volume::removal_node(volume);
        let nodes = host.map(|_| caches.nodes.list()).unwrap_or_default();
        let is_host = |meta: &crate::runtime::meta::Meta| {
            host.is_some_and(|host| {
                meta.name == host || meta.labels.get("kubernetes.io/hostname").is_some_and(|l| l == host)
            })
        };
        let node = nodes.iter().map(|node| &node.metadata).find(|meta| is_host(meta));
        let view = volume::View { volume, claim: claim.as_deref(), node };
        self.cx.execute(volume::plan_volume(&view)).await?;
        Ok(None)
    }
}

/// Claims that have no volume, or wait for the one of this name.
fn waiting<'a>(claims: &'a [Arc<PersistentVolumeClaim>], volume: &'a str) -> impl Iterator<Item = Key> + 'a {
    let waits =
        move |claim: &PersistentVolumeClaim| claim.spec.volume_name.is_empty() || claim.spec.volume_name == volume;
    claims.iter().filter(move |claim| waits(claim)).map(|claim| claim.metadata.key())
}

fn is_about(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let by = volume.spec.claim_ref.as_ref();
    let names = by.is_some_and(|by| by.name == claim.metadata.name && by.namespace == claim.metadata.namespace);
    names || volume.metadata.name == claim.spec.volume_name
}

#[async_trait]
impl Controller for Binder {
    fn name(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        if key.namespace.is_empty() {
            return match self.cx.caches.volumes.get(key) {
                Some(volume) => self.volume(&volume).await,
                None => Ok(None),
            };
        }
        match self.cx.caches.claims.get(key) {
            Some(claim) => self.claim(&claim).await,
            None => Ok(None),
        }
    }
}
