//! What keeps storage while it is used lets go of it when it is not (upstream `pkg/controller/volume/pvcprotection`,
//! `pvprotection` and `vacprotection`): claims that no pod uses, volumes that are not bound, and classes of attributes that
//! neither names lose their finalizer once they are deleted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::context::Context;
use crate::runtime::cache::Change;
use crate::runtime::kind::Kind;
use crate::runtime::meta::{Key, Meta};
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{PersistentVolume, PersistentVolumeClaim, Pod, VolumeAttributesClass};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const OF_ATTRIBUTES: &str = "kubernetes.io/vac-protection";

/// Lets go of a claim that is deleted and that no pod of its namespace uses any more.
pub fn plan_claim(claim: &PersistentVolumeClaim, pods: &[Arc<Pod>]) -> Plan {
    let used = pods.iter().any(|pod| !pod.is_finished() && pod.claims().any(|name| name == claim.metadata.name));
    release(&kind::PERSISTENT_VOLUME_CLAIM, &claim.metadata, OF_CLAIMS, !used)
}

/// Lets go of a volume that is deleted and not bound any more.
pub fn plan_volume(volume: &PersistentVolume) -> Plan {
    release(&kind::PERSISTENT_VOLUME, &volume.metadata, OF_VOLUMES, volume.status.phase != "Bound")
}

/// Holds a class of attributes, and lets go of one that is deleted and that nothing names any more.
pub fn plan_attributes_class(class: &VolumeAttributesClass, used: bool) -> Plan {
    let meta = &class.metadata;
    if meta.is_terminating() || meta.has_finalizer(OF_ATTRIBUTES) {
        return release(&kind::VOLUME_ATTRIBUTES_CLASS, meta, OF_ATTRIBUTES, !used);
    }
    let mut plan = Plan::nothing();
    plan.act(Write::with_finalizer(&kind::VOLUME_ATTRIBUTES_CLASS, meta, OF_ATTRIBUTES).into());
    plan
}

fn release(kind: &Kind, meta: &Meta, finalizer: &str, unused: bool) -> Plan {
    let mut plan = Plan::nothing();
    if unused && meta.is_terminating() && meta.has_finalizer(finalizer) {
        plan.act(Write::without_finalizer(kind, meta, finalizer).into());
    }
    plan
}

/// The controller of claims.
#[derive(Debug)]
pub struct Claims {
    cx: Context,
    queue: Arc<Keys>,
}

impl Claims {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.claims.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) && change.latest().metadata.is_terminating() {
                keys.add(change.latest().metadata.key());
            }
        });
        let keys = queue.clone();
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            if matches!(change, Change::Removed(_)) || pod.is_finished() {
                for name in pod.claims() {
                    keys.add(Key::new(&pod.metadata.namespace, &name));
                }
            }
        });
        Arc::new(Self { cx: cx.of("pvc-protection-controller"), queue })
    }
}

#[async_trait]
impl Controller for Claims {
    fn name(&self) -> &'static str {
        "pvc-protection"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(claim) = self.cx.caches.claims.get(key) else { return Ok(None) };
        let pods = self.cx.caches.pods.in_namespace(&key.namespace);
        self.cx.execute(plan_claim(&claim, &pods)).await?;
        Ok(None)
    }
}

/// The controller of volumes.
#[derive(Debug)]
pub struct Volumes {
    cx: Context,
    queue: Arc<Keys>,
}

impl Volumes {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.volumes.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) && change.latest().metadata.is_terminating() {
                keys.add(change.latest().metadata.key());
            }
        });
        Arc::new(Self { cx: cx.of("pv-protection-controller"), queue })
    }
}

#[async_trait]
impl Controller for Volumes {
    fn name(&self) -> &'static str {
        "pv-protection"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(volume) = self.cx.caches.volumes.get(key) else { return Ok(None) };
        self.cx.execute(plan_volume(&volume)).await?;
        Ok(None)
    }
}

/// The controller of classes of attributes.
#[derive(Debug)]
pub struct AttributesClasses {
    cx: Context,
    queue: Arc<Keys>,
}

impl AttributesClasses {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.attributes_classes.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
        });
        // Those that are named no more may be let go.
        let keys = queue.clone();
        cx.caches.claims.on_change(move |change| {
            let named = change.previous().into_iter().flat_map(|claim| claim.attributes_classes());
            named.for_each(|name| keys.add(Key::new("", name)));
        });
        let keys = queue.clone();
        cx.caches.volumes.on_change(move |change| {
            let named = change.previous().and_then(|volume| volume.spec.volume_attributes_class_name.as_ref());
            named.into_iter().for_each(|name| keys.add(Key::new("", name)));
        });
        Arc::new(Self { cx: cx.of("volumeattributesclass-protection-controller"), queue })
    }
}

#[async_trait]
impl Controller for AttributesClasses {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(class) = caches.attributes_classes.get(key) else { return Ok(None) };
        let named =
            |volume: &Arc<PersistentVolume>| volume.spec.volume_attributes_class_name.as_ref() == Some(&key.name);
        let used = caches.claims.list().iter().any(|claim| claim.attributes_classes().any(|name| *name == key.name))
            || caches.volumes.list().iter().any(named);
        self.cx.execute(plan_attributes_class(&class, used)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(deleted: bool) -> PersistentVolumeClaim {
        let at = deleted.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "deletionTimestamp": at,
            "finalizers": ["other", OF_CLAIMS]}}))
        .unwrap()
    }

    fn pod(phase: &str, claim: &str) -> Arc<Pod> {
        let volumes =
            json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}, {"name": "e", "emptyDir": {}}]);
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": volumes},
                "status": {"phase": phase}}))
            .unwrap(),
        )
    }

    #[test]
    fn a_claim_is_kept_while_a_pod_uses_it() {
        assert!(plan_claim(&claim(false), &[]).is_empty());
        assert!(plan_claim(&claim(true), &[pod("Running", "c")]).is_empty());
        assert_eq!(plan_claim(&claim(true), &[pod("Succeeded", "c"), pod("Running", "d")]).actions().count(), 1);
    }

    #[test]
    fn a_volume_is_kept_while_it_is_bound() {
        let volume = |phase: &str| {
            let metadata = json!({"name": "v", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [OF_VOLUMES]});
            serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap()
        };
        assert!(plan_volume(&volume("Bound")).is_empty());
        assert_eq!(plan_volume(&volume("Released")).actions().count(), 1);
    }

    #[test]
    fn a_class_of_attributes_is_held_and_kept_while_it_is_named() {
        let class = |held: bool, deleted: bool| -> VolumeAttributesClass {
            let at = deleted.then_some("2026-01-01T00:00:00Z");
            let finalizers = if held { json!([OF_ATTRIBUTES]) } else { json!([]) };
            let metadata = json!({"name": "fast", "uid": "u", "deletionTimestamp": at, "finalizers": finalizers});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        assert_eq!(plan_attributes_class(&class(false, false), false).actions().count(), 1);
        assert!(plan_attributes_class(&class(true, false), false).is_empty());
        assert!(plan_attributes_class(&class(true, true), true).is_empty());
        assert_eq!(plan_attributes_class(&class(true, true), false).actions().count(), 1);
        assert!(plan_attributes_class(&class(false, true), false).is_empty(), "somebody else's finalizer");
        let status = json!({"currentVolumeAttributesClassName": "b", "modifyVolumeStatus": {"targetVolumeAttributesClassName": "c"}});
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"volumeAttributesClassName": "a"}, "status": status})).unwrap();
        assert_eq!(claim.attributes_classes().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
