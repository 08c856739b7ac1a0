//! Pods whose devices have a `NoExecute` taint that their claims do not put up with, or only for so long, are deleted
//! (KEP-5055; upstream `pkg/controller/devicetainteviction`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::context::Context;
use crate::runtime::cache::{BY_POOL, Cache, Change};
use crate::runtime::meta::Key;
use crate::runtime::plan::{Note, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{
    AllocatedDevice, Allocation, DeviceTaint, DeviceTaintRule, Pod, ResourceClaim, ResourceSlice, pool_key,
};

const NO_EXECUTE: &str = "NoExecute";

/// Deletes a pod that is due to go by now.
pub fn plan(pod: &Pod, due: Option<Timestamp>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(due) = due else { return plan };
    if due > now {
        plan.look_again(Duration::try_from(due.duration_since(now)).unwrap_or_default());
        return plan;
    }
    let message = "Device Taint manager: deleting due to NoExecute taint";
    let conditions = pod.disrupted("DeletionByDeviceTaintManager", message, now);
    let patch = json!({"status": {"conditions": conditions}});
    let regarding = pod.metadata.reference(&kind::POD);
    plan.act(Note::normal(regarding, "DeviceTaintManagerEviction", "Marking for deletion").into());
    plan.act(Write::merge_exact(&kind::POD, &pod.metadata, "status", patch).into());
    plan.act(Write::delete(&kind::POD, &pod.metadata).into());
    plan
}

/// When a pod must go for the taints of devices that its claims have; never if `None`. `taints` gives those of a device
/// that evict, each with the time it was put on.
pub fn due(
    pod: &Pod,
    claims: &[Arc<ResourceClaim>],
    taints: impl Fn(&AllocatedDevice) -> Vec<(DeviceTaint, Timestamp)>,
) -> Option<Timestamp> {
    if pod.spec.node_name.is_empty() || !pod.is_active() {
        return None;
    }
    let mine = claims.iter().filter(|claim| claim.is_reserved_for(&pod.metadata.uid));
    let devices = mine.filter_map(|claim| claim.status.allocation.as_deref()).flat_map(|a| &a.devices.results);
    devices.flat_map(|device| taints(device).into_iter().filter_map(|(taint, since)| goes(device, &taint, since))).min()
}

/// When who has a device must go for a taint that was put on it at a time.
fn goes(device: &AllocatedDevice, taint: &DeviceTaint, since: Timestamp) -> Option<Timestamp> {
    let tolerations = device.tolerations.iter().filter(|t| t.effect == NO_EXECUTE && t.tolerates(taint));
    let mut shortest = None;
    for toleration in tolerations {
        // Put up with forever.
        let seconds = toleration.toleration_seconds?.max(0);
        shortest = Some(shortest.map_or(seconds, |s: i64| s.min(seconds)));
    }
    let wait = SignedDuration::from_secs(shortest.unwrap_or_default());
    Some(since.checked_add(wait).unwrap_or(Timestamp::MAX))
}

/// The taints of a device that evict: those that its driver publishes in the newest generation of its pool, and those
/// of rules.
fn evicting(
    device: &AllocatedDevice,
    slices: &[Arc<ResourceSlice>],
    rules: &[Arc<DeviceTaintRule>],
) -> Vec<(DeviceTaint, Timestamp)> {
    let since = |taint: &DeviceTaint, made: Option<Timestamp>| taint.time_added.or(made).unwrap_or_default();
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    let mut out = Vec::new();
    for slice in slices.iter().filter(|slice| Some(slice.spec.pool.generation) == newest) {
        for known in slice.spec.devices.iter().filter(|known| known.name == device.device) {
            let made = slice.metadata.creation_timestamp;
            out.extend(known.taints.iter().map(|taint| (taint.clone(), since(taint, made))));
        }
    }
    for rule in rules.iter().filter(|rule| rule.taints(&device.driver, &device.pool, &device.device)) {
        let taint = &rule.spec.taint;
        out.push((taint.clone(), since(taint, rule.metadata.creation_timestamp)));
    }
    out.retain(|(taint, _)| taint.effect == NO_EXECUTE);
    out
}

/// The controller; its keys are pods.
#[derive(Debug)]
pub struct DeviceTaintEviction {
    cx: Context,
    queue: Arc<Keys>,
}

/// Looks at the pods that use devices of which `concerns` says so.
fn consumers(claims: &Cache<ResourceClaim>, keys: &Keys, concerns: impl Fn(&AllocatedDevice) -> bool) {
    for claim in claims.list() {
        let has = |allocation: &Allocation| allocation.devices.results.iter().any(&concerns);
        if claim.status.allocation.as_deref().is_some_and(has) {
            add_consumers(&claim, keys);
        }
    }
}

fn add_consumers(claim: &ResourceClaim, keys: &Keys) {
    for consumer in claim.status.reserved_for.iter().filter(|consumer| consumer.is_pod()) {
        keys.add(Key::new(&claim.metadata.namespace, &consumer.name));
    }
}

fn has_taints(slice: &ResourceSlice) -> bool {
    slice.spec.devices.iter().flat_map(|device| &device.taints).any(|taint| taint.effect == NO_EXECUTE)
}

impl DeviceTaintEviction {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            let placed = change.previous().is_none_or(|old| old.spec.node_name != pod.spec.node_name);
            if placed && !pod.spec.node_name.is_empty() && pod.claims_devices() {
                keys.add(pod.metadata.key());
            }
        });
        let keys = queue.clone();
        cx.caches.resource_claims.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) && change.latest().status.allocation.is_some() {
                add_consumers(change.latest(), &keys);
            }
        });
        let (keys, claims) = (queue.clone(), cx.caches.resource_claims.clone());
        cx.caches.resource_slices.on_change(move |change| {
            let slice = change.latest();
            if has_taints(slice) {
                let (driver, pool) = (&slice.spec.driver, &slice.spec.pool.name);
                consumers(&claims, &keys, |device| device.driver == *driver && device.pool == *pool);
            }
        });
        let (keys, claims) = (queue.clone(), cx.caches.resource_claims.clone());
        cx.caches.device_taint_rules.on_change(move |change| {
            let rule = change.latest();
            consumers(&claims, &keys, |device| rule.taints(&device.driver, &device.pool, &device.device));
        });
        Arc::new(Self { cx: cx.of("device-taint-eviction"), queue })
    }
}

#[async_trait]
impl Controller for DeviceTaintEviction {
    fn name(&self) -> &'static str {
        "device-taint-eviction"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(pod) = caches.pods.get(key) else { return Ok(None) };
        let claims: Vec<_> = pod
            .device_claims()
            .iter()
            .filter_map(|claim| caches.resource_claims.get(&Key::new(&key.namespace, claim.object()?.0)))
            .collect();
        let rules = caches.device_taint_rules.list();
        let due = due(&pod, &claims, |device| {
            let slices = caches.resource_slices.by_index(BY_POOL, &pool_key(&device.driver, &device.pool));
            evicting(device, &slices, &rules)
        });
        let plan = plan(&pod, due, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn due_at(tolerations: Value, reserved: &str) -> Option<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"nodeName": "a"}, "status": {"phase": "Running"}}))
        .unwrap();
        let claim: ResourceClaim = serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n"},
            "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": reserved}],
                "allocation": {"devices": {"results": [
                    {"request": "r", "driver": "d", "pool": "p", "device": "x", "tolerations": tolerations}]}}}}))
        .unwrap();
        let slice = |generation: i64, taints: Value| -> Arc<ResourceSlice> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": generation.to_string()}, "spec": {"driver": "d",
                    "pool": {"name": "p", "generation": generation}, "devices": [{"name": "x", "taints": taints}]}}))
                .unwrap(),
            )
        };
        let at = "2026-01-01T00:00:00Z";
        let slices = [
            slice(1, json!([{"key": "old", "effect": "NoExecute", "timeAdded": "2025-01-01T00:00:00Z"}])),
            slice(2, json!([{"key": "mild", "effect": "NoSchedule", "timeAdded": "2025-01-01T00:00:00Z"}])),
        ];
        let rule = json!({"metadata": {"name": "r", "creationTimestamp": at}, "spec": {"deviceSelector": {"driver": "d"},
            "taint": {"key": "broken", "effect": "NoExecute"}}});
        let rules = [Arc::new(serde_json::from_value(rule).unwrap())];
        let due = due(&pod, &[Arc::new(claim)], |device| evicting(device, &slices, &rules));
        due.map(|due| due.to_string())
    }

    #[test]
    fn who_may_keep_a_tainted_device_and_for_how_long() {
        let at = |text: &str| Some(format!("2026-01-01T00:{text}Z"));
        assert_eq!(due_at(json!([]), "u"), at("00:00"));
        assert_eq!(due_at(json!([]), "somebody else"), None);
        let tolerates = |seconds: Value| json!([{"key": "broken", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        assert_eq!(due_at(tolerates(json!(null)), "u"), None);
        assert_eq!(due_at(tolerates(json!(90)), "u"), at("01:30"));
    }

    #[test]
    fn a_pod_whose_time_is_up_is_deleted() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert!(plan(&pod, None, now).is_empty());
        let later = now + SignedDuration::from_secs(5);
        assert_eq!(plan(&pod, Some(later), now).requeue_after, Some(Duration::from_secs(5)));
        assert_eq!(plan(&pod, Some(now), now).actions().count(), 3);
    }
}
