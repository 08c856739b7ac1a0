//! Follows claims and devices, and writes down what claims get before their pods are placed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use xebec_clock::{Clock, Random};
use xebec_controllers::resource_claim::FINALIZER;
use xebec_controllers::runtime::api::{Api, ApiError, PatchKind};
use xebec_controllers::runtime::cache::{Cache, Change, View};
use xebec_controllers::runtime::kind;
use xebec_controllers::runtime::meta::{Key, Meta, condition, condition_is_true, seconds};
use xebec_controllers::runtime::plan::exact_patch;
use xebec_controllers::views::{Consumer, DeviceClass, DeviceTaintRule, ResourceClaim, ResourceSlice};

use super::Devices;
use super::claimed::Grant;
use crate::queue::Queue;
use crate::run::World;
use crate::views::Pod;

/// How long devices may take to be ready (upstream's `bindingTimeout`).
const TIMEOUT: Duration = Duration::from_secs(600);
/// How often a claim that others write too is tried again.
const ATTEMPTS: usize = 5;

/// Claims, and what there is for them.
#[derive(Clone, Default)]
pub(crate) struct DeviceCaches {
    pub claims: Arc<Cache<ResourceClaim>>,
    pub slices: Arc<Cache<ResourceSlice>>,
    pub classes: Arc<Cache<DeviceClass>>,
    pub rules: Arc<Cache<DeviceTaintRule>>,
    /// A claim has changed.
    changed: Arc<Notify>,
}

/// Why a pod's claims could not be given to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    #[error("{0}: {1}")]
    Api(String, ApiError),
    #[error("claim {0} got deleted in the meantime")]
    Deleted(Key),
    #[error("claim {0} got allocated elsewhere in the meantime")]
    Elsewhere(Key),
    #[error("claim {0} binding failed: reason={1}, message={2:?}")]
    Refused(String, String, String),
    #[error("device binding timeout")]
    Late,
}

/// Has changes of one kind put into the snapshot, and pods tried again that they may help.
fn follow_kind<V: View>(
    cache: &Cache<V>,
    (world, queue): (&Arc<Mutex<World>>, &Arc<Queue>),
    put: fn(&mut Devices, &Arc<V>),
    remove: fn(&mut Devices, &str),
) {
    let (world, queue) = (world.clone(), queue.clone());
    cache.on_change(move |change| {
        match change {
            Change::Removed(gone) => remove(&mut world.lock().snapshot.devices, &gone.meta().name),
            Change::Added(new) | Change::Updated(_, new) => put(&mut world.lock().snapshot.devices, new),
        }
        queue.revive(|pod| !pod.device_claims.is_empty());
    });
}

impl DeviceCaches {
    /// Has changes put into the snapshot, and pods tried again that they may help.
    pub fn follow(&self, world: &Arc<Mutex<World>>, queue: &Arc<Queue>) {
        self.follow_claims(world, queue);
        follow_kind(&self.slices, (world, queue), Devices::put_slice, Devices::remove_slice);
        follow_kind(&self.rules, (world, queue), Devices::put_rule, Devices::remove_rule);
        follow_kind(&self.classes, (world, queue), Devices::put_class, Devices::remove_class);
    }

    fn follow_claims(&self, world: &Arc<Mutex<World>>, queue: &Arc<Queue>) {
        let (world, queue, changed) = (world.clone(), queue.clone(), self.changed.clone());
        self.claims.on_change(move |change| {
            let claim = change.latest();
            {
                let mut world = world.lock();
                match change {
                    Change::Removed(claim) => world.snapshot.devices.remove_claim(claim),
                    Change::Added(claim) | Change::Updated(_, claim) => world.snapshot.devices.put_claim(claim),
                }
                world.let_go(&claim.metadata.namespace, &queue);
            }
            changed.notify_waiters();
            // Devices that are free again help all; what else happens to a claim, those who use it.
            let had = change.previous().is_some_and(|before| before.status.allocation.is_some());
            let freed = had && (matches!(change, Change::Removed(_)) || claim.status.allocation.is_none());
            let same = change.previous().is_some_and(|before| before.status == claim.status);
            if freed {
                queue.revive(|pod| !pod.device_claims.is_empty());
            } else if !same || matches!(change, Change::Removed(_)) {
                queue.revive(|pod| uses(pod, &claim.metadata));
            }
        });
    }

    /// Waits until all are known.
    pub async fn synced(&self) {
        self.classes.synced().await;
        self.rules.synced().await;
        self.slices.synced().await;
        self.claims.synced().await;
    }

    /// Reserves a pod's claims for it, with the devices that they get, and waits until those are ready.
    pub async fn grant(
        &self,
        api: &Api,
        (clock, random): (&Clock, &Random),
        pod: &Pod,
        grants: &[Grant],
    ) -> Result<(), GrantError> {
        for grant in grants {
            self.write(api, (clock, random), pod, grant).await?;
        }
        if !grants.iter().any(waits) {
            return Ok(());
        }
        match tokio::time::timeout(TIMEOUT, self.ready(grants)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(GrantError::Late),
        }
    }

    /// Writes a grant down, on what the claim has become if others write it too.
    async fn write(
        &self,
        api: &Api,
        (clock, random): (&Clock, &Random),
        pod: &Pod,
        grant: &Grant,
    ) -> Result<(), GrantError> {
        let allocation = grant.allocation.as_deref().map(|allocation| {
            let mut allocation = allocation.clone();
            allocation.allocation_timestamp = Some(seconds(clock.now()));
            for share in allocation.devices.results.iter_mut().filter_map(|device| device.share_id.as_mut()) {
                *share = random.uuid();
            }
            json!(allocation)
        });
        let mut claim = grant.claim.clone();
        let key = claim.metadata.key();
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            match self.try_write(api, pod, &claim, allocation.as_ref()).await {
                Err(GrantError::Api(_, error)) if error.is_conflict() && attempts > 0 => {
                    let fresh = api.get(&kind::RESOURCE_CLAIM, &key.namespace, &key.name).await;
                    let what = format!("get updated claim {key} after conflict");
                    claim = Arc::new(fresh.map_err(|error| GrantError::Api(what, error))?);
                    if claim.metadata.uid != grant.claim.metadata.uid {
                        return Err(GrantError::Deleted(key));
                    }
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_write(
        &self,
        api: &Api,
        pod: &Pod,
        claim: &Arc<ResourceClaim>,
        allocation: Option<&Value>,
    ) -> Result<(), GrantError> {
        let key = claim.metadata.key();
        if claim.metadata.is_terminating() {
            return Err(GrantError::Deleted(key));
        }
        let mut claim = claim.clone();
        let mut status = json!({});
        let mut what = "reservation";
        if let Some(allocation) = allocation {
            if claim.status.allocation.is_some() {
                return Err(GrantError::Elsewhere(key));
            }
            // First the finalizer: a claim with devices must not go before somebody has taken them back.
            if !claim.metadata.has_finalizer(FINALIZER) {
                let mut finalizers = claim.metadata.finalizers.clone();
                finalizers.push(FINALIZER.to_owned());
                let patch = json!({"metadata": {"finalizers": finalizers}});
                let written = self.patch(api, &claim.metadata, "", patch).await;
                claim = written.map_err(|e| GrantError::Api(format!("add finalizer to claim {key}"), e))?;
            }
            status["allocation"] = allocation.clone();
            what = "allocation and reservation";
        }
        let mut consumers = claim.status.reserved_for.clone();
        if !claim.is_reserved_for(&pod.metadata.uid) {
            consumers.push(Consumer::pod(&pod.metadata));
        }
        status["reservedFor"] = json!(consumers);
        let written = self.patch(api, &claim.metadata, "status", json!({"status": status})).await;
        written.map(drop).map_err(|e| GrantError::Api(format!("add {what} to claim {key}"), e))
    }

    /// Changes a claim, provided that it is as it is known; the answer is known at once.
    async fn patch(
        &self,
        api: &Api,
        meta: &Meta,
        subresource: &'static str,
        patch: Value,
    ) -> Result<Arc<ResourceClaim>, ApiError> {
        let patch = exact_patch(meta, patch);
        let kind = ResourceClaim::kind();
        let body = api.patch(kind, &meta.namespace, &meta.name, subresource, PatchKind::Merge, &patch).await?;
        let claim: ResourceClaim = serde_json::from_slice(&body).map_err(|e| ApiError::Decode(e.to_string()))?;
        self.claims.wrote(claim.clone());
        Ok(Arc::new(claim))
    }

    async fn ready(&self, grants: &[Grant]) -> Result<(), GrantError> {
        loop {
            let changed = self.changed.notified();
            let mut all = true;
            for grant in grants.iter().filter(|grant| waits(grant)) {
                let meta = &grant.claim.metadata;
                let claim = self.claims.get(&meta.key()).filter(|claim| claim.metadata.uid == meta.uid);
                let claim = claim.ok_or_else(|| GrantError::Deleted(meta.key()))?;
                all &= is_ready(&claim)?;
            }
            if all {
                return Ok(());
            }
            changed.await;
        }
    }

    /// What was granted is not wanted: the claims are not reserved for the pod any more, and those whose devices did not
    /// become ready lose them.
    pub async fn take_back(&self, api: &Api, pod: &Pod, grants: &[Grant], failed: bool) {
        for grant in grants {
            let meta = &grant.claim.metadata;
            let outcome = if failed && waits(grant) {
                self.deallocate(api, &meta.key(), &meta.uid).await
            } else {
                let uid = &pod.metadata.uid;
                let patch = json!({"metadata": {"uid": meta.uid},
                    "status": {"reservedFor": [{"$patch": "delete", "uid": uid}]}});
                let kind = ResourceClaim::kind();
                api.patch(kind, &meta.namespace, &meta.name, "status", PatchKind::Strategic, &patch).await.map(drop)
            };
            if let Err(error) = outcome
                && !error.is_not_found()
            {
                tracing::debug!(claim = %meta.key(), %error, "a claim could not be taken back");
            }
        }
    }

    /// Takes the devices away from a claim.
    pub async fn deallocate(&self, api: &Api, key: &Key, uid: &str) -> Result<(), ApiError> {
        let Some(claim) = self.claims.get(key).filter(|claim| claim.metadata.uid == uid) else { return Ok(()) };
        let patch = json!({"status": {"allocation": null, "reservedFor": null, "devices": null}});
        self.patch(api, &claim.metadata, "status", patch).await.map(drop)
    }
}

/// Whether a pod uses a claim.
fn uses(pod: &Pod, claim: &Meta) -> bool {
    pod.metadata.namespace == claim.namespace
        && pod.device_claims.iter().any(|known| known.object().is_some_and(|(name, _)| name == claim.name))
}

/// Whether the devices of a grant are ready only when their drivers say so.
pub(crate) fn waits(grant: &Grant) -> bool {
    let results = grant.allocation().map(|allocation| allocation.devices.results.as_slice());
    results.unwrap_or_default().iter().any(|device| !device.binding_conditions.is_empty())
}

fn is_ready(claim: &ResourceClaim) -> Result<bool, GrantError> {
    let Some(allocation) = &claim.status.allocation else { return Ok(false) };
    for device in allocation.devices.results.iter().filter(|device| !device.binding_conditions.is_empty()) {
        let told = claim.status.devices.iter().find(|told| {
            (&told.driver, &told.pool, &told.device) == (&device.driver, &device.pool, &device.device)
                && told.share_id == device.share_id
        });
        let Some(told) = told else { return Ok(false) };
        let mut failures =
            device.binding_failure_conditions.iter().filter_map(|kind| condition(&told.conditions, kind));
        if let Some(failed) = failures.find(|failed| failed.is_true()) {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let name = claim.metadata.name.clone();
            return Err(GrantError::Refused(name, text(&failed.reason), text(&failed.message)));
        }
        if !device.binding_conditions.iter().all(|kind| condition_is_true(&told.conditions, kind)) {
            return Ok(false);
        }
    }
    Ok(true)
}
