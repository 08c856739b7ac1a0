//! Ranges of service addresses, and the addresses in them (upstream `pkg/controller/servicecidrs` and
//! `pkg/registry/core/service/ipallocator/controller`).
//!
//! The API server writes and removes address objects together with their services. What is put right here is what came
//! about otherwise: services from before there were such objects, and objects that somebody has made or changed by hand.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::context::Context;
use crate::runtime::cache::Change;
use crate::runtime::meta::{Condition, Key, condition, seconds};
use crate::runtime::plan::{Note, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{IpAddress, Service, ServiceCidr};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long a range that is being deleted stays at least: an address may be on its way to be given out from it.
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How old an address without a service must be to be removed.
const ORPHAN_GRACE: SignedDuration = SignedDuration::from_secs(60);
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// Says that a range is ready, and lets go of one that is deleted when no address needs it any more.
pub fn plan_range(range: &ServiceCidr, all: &[Arc<ServiceCidr>], addresses: &[Arc<IpAddress>], now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let meta = &range.metadata;
    let held = meta.has_finalizer(FINALIZER);
    let Some(deleted) = meta.deletion_timestamp else {
        if !held {
            // The rest follows when the finalizer is seen: it is not to be ready without.
            plan.act(Write::with_finalizer(&kind::SERVICE_CIDR, meta, FINALIZER).into());
        } else {
            say(&mut plan, range, ("True", "", "Kubernetes Service CIDR is ready"), now);
        }
        return plan;
    };
    if !held {
        return plan;
    }
    if is_needed(range, all, addresses) {
        let why =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        say(&mut plan, range, ("False", "Terminating", why), now);
        return plan;
    }
    let due = deleted.checked_add(DELETION_GRACE).unwrap_or(Timestamp::MAX);
    let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
    if wait.is_zero() {
        plan.act(Write::without_finalizer(&kind::SERVICE_CIDR, meta, FINALIZER).into());
    } else {
        plan.look_again(wait);
    }
    plan
}

/// Whether services have addresses that no other range contains.
fn is_needed(range: &ServiceCidr, all: &[Arc<ServiceCidr>], addresses: &[Arc<IpAddress>]) -> bool {
    let others: Vec<_> = all
        .iter()
        .filter(|other| other.metadata.uid != range.metadata.uid && !other.metadata.is_terminating())
        .flat_map(|other| other.nets().collect::<Vec<_>>())
        .collect();
    let mut bare = range.nets().filter(|net| !others.iter().any(|other| other.contains(net))).peekable();
    if bare.peek().is_none() {
        return false;
    }
    let bare: Vec<_> = bare.collect();
    let managed = addresses.iter().filter(|a| a.metadata.labels.get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR));
    managed
        .filter_map(|address| address.metadata.name.parse::<IpAddr>().ok())
        .any(|ip| bare.iter().any(|net| net.contains(&ip)) && !others.iter().any(|net| net.contains(&ip)))
}

fn say(plan: &mut Plan, range: &ServiceCidr, (status, reason, message): (&str, &str, &str), now: Timestamp) {
    let old = condition(&range.status.conditions, "Ready");
    let texts = |c: &Condition| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default());
    if old.is_some_and(|old| old.status == status && texts(old) == (reason.to_owned(), message.to_owned())) {
        return;
    }
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time);
    let mut conditions: Vec<Condition> =
        range.status.conditions.iter().filter(|c| c.kind != "Ready").cloned().collect();
    conditions.push(Condition {
        kind: "Ready".into(),
        status: status.into(),
        last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Condition::default()
    });
    let patch = json!({"status": {"conditions": conditions}});
    plan.act(Write::merge_exact(&kind::SERVICE_CIDR, &range.metadata, "status", patch).into());
}

/// Removes an address object of the allocator that stands for no service.
pub fn plan_address(address: &IpAddress, service: Option<&Service>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let meta = &address.metadata;
    if meta.labels.get(MANAGED_BY).is_none_or(|by| by != ALLOCATOR) || meta.is_terminating() {
        return plan;
    }
    let parent = &address.spec.parent_ref;
    let name = &meta.name;
    let (reason, why) = if !parent.is_service() {
        (
            "IPAddressNotAllocated",
            format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up"),
        )
    } else if service.is_some_and(|service| has(service, name)) {
        return plan;
    } else {
        let old = meta.creation_timestamp.unwrap_or(now).checked_add(ORPHAN_GRACE).unwrap_or(Timestamp::MAX);
        let wait = Duration::try_from(old.duration_since(now)).unwrap_or_default();
        if !wait.is_zero() {
            plan.look_again(wait);
            return plan;
        }
        match service {
            None => ("IPAddressNotAllocated", format!("IPAddress {name} appears to have leaked: cleaning up")),
            Some(_) => {
                let service = format!("{}/{}", parent.namespace, parent.name);
                let why = format!("IPAddress: {name} for Service {service} has a wrong reference; cleaning up");
                ("IPAddressWrongReference", why)
            }
        }
    };
    plan.act(Note::warning(meta.reference(&kind::IP_ADDRESS), reason, why).into());
    plan.act(Write::delete(&kind::IP_ADDRESS, meta).into());
    plan
}

fn has(service: &Service, address: &str) -> bool {
    service.spec.cluster_ips.iter().any(|ip| ip == address) || service.spec.cluster_ip == address
}

/// The addresses of a service that must have objects.
pub fn addresses(service: &Service) -> Vec<IpAddr> {
    if service.spec.kind == "ExternalName" {
        return Vec::new();
    }
    let all = service.spec.cluster_ips.iter().chain([&service.spec.cluster_ip]);
    let mut out: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    out.dedup();
    out.sort();
    out.dedup();
    out
}

/// Makes the object of a service's address, or tells that it is another's.
pub fn plan_service(service: &Service, address: IpAddr, object: Option<&IpAddress>) -> Plan {
    let mut plan = Plan::nothing();
    let regarding = service.metadata.reference(&kind::SERVICE);
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let Some(object) = object else {
        let parent = json!({"resource": "services", "namespace": service.metadata.namespace,
            "name": service.metadata.name});
        let body = json!({
            "apiVersion": kind::IP_ADDRESS.api_version(), "kind": "IPAddress",
            "metadata": {"name": address.to_string(), "labels": {FAMILY: family, MANAGED_BY: ALLOCATOR}},
            "spec": {"parentRef": parent},
        });
        plan.act(Write::create(&kind::IP_ADDRESS, "", body).accept_existing().into());
        let message = format!("Cluster IP [{family}]: {address} is not allocated; repairing");
        plan.act(Note::warning(regarding, "ClusterIPNotAllocated", message).into());
        return plan;
    };
    let parent = &object.spec.parent_ref;
    let own = parent.is_service()
        && (&parent.namespace, &parent.name) == (&service.metadata.namespace, &service.metadata.name);
    if !own {
        let message =
            format!("Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service");
        plan.act(Note::warning(regarding, "ClusterIPAlreadyAllocated", message).into());
    }
    plan
}

/// The controller of ranges.
#[derive(Debug)]
pub struct Ranges {
    cx: Context,
    queue: Arc<Keys>,
}

impl Ranges {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let (keys, ranges) = (queue.clone(), cx.caches.service_cidrs.clone());
        cx.caches.service_cidrs.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
            // A range may stand in for another that is to go.
            leaving(&ranges.list()).for_each(|key| keys.add(key));
        });
        let (keys, ranges) = (queue.clone(), cx.caches.service_cidrs.clone());
        cx.caches.ip_addresses.on_change(move |change| {
            if matches!(change, Change::Removed(_)) {
                leaving(&ranges.list()).for_each(|key| keys.add(key));
            }
        });
        Arc::new(Self { cx: cx.of("service-cidr-controller"), queue })
    }
}

fn leaving(ranges: &[Arc<ServiceCidr>]) -> impl Iterator<Item = Key> {
    ranges.iter().filter(|range| range.metadata.is_terminating()).map(|range| range.metadata.key())
}

#[async_trait]
impl Controller for Ranges {
    fn name(&self) -> &'static str {
        "service-cidr"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(range) = caches.service_cidrs.get(key) else { return Ok(None) };
        let (all, addresses) = (caches.service_cidrs.list(), caches.ip_addresses.list());
        let plan = plan_range(&range, &all, &addresses, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

/// The controller of addresses without services.
#[derive(Debug)]
pub struct Addresses {
    cx: Context,
    queue: Arc<Keys>,
}

impl Addresses {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.ip_addresses.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
        });
        Arc::new(Self { cx: cx.of("ipallocator-repair-controller"), queue })
    }
}

#[async_trait]
impl Controller for Addresses {
    fn name(&self) -> &'static str {
        "address-repair"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(address) = self.cx.caches.ip_addresses.get(key) else { return Ok(None) };
        let parent = &address.spec.parent_ref;
        let service = self.cx.caches.services.get(&Key::new(&parent.namespace, &parent.name));
        let plan = plan_address(&address, service.as_deref(), self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

/// The controller of services without addresses.
#[derive(Debug)]
pub struct Allocations {
    cx: Context,
    queue: Arc<Keys>,
}

impl Allocations {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.services.on_change(move |change| {
            let changed = change.previous().is_none_or(|old| addresses(old) != addresses(change.latest()));
            if changed && !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
        });
        let (keys, services) = (queue.clone(), cx.caches.services.clone());
        cx.caches.ip_addresses.on_change(move |change| {
            let parent = &change.latest().spec.parent_ref;
            let service = Key::new(&parent.namespace, &parent.name);
            if matches!(change, Change::Removed(_)) && services.get(&service).is_some() {
                keys.add(service);
            }
        });
        Arc::new(Self { cx: cx.of("ipallocator-repair-controller"), queue })
    }
}

#[async_trait]
impl Controller for Allocations {
    fn name(&self) -> &'static str {
        "allocation-repair"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(service) = self.cx.caches.services.get(key) else { return Ok(None) };
        for address in addresses(&service) {
            let name = address.to_string();
            if self.cx.caches.ip_addresses.get(&Key::new("", &name)).is_some() {
                continue;
            }
            // The two caches are filled side by side: what one lacks may be on its way.
            let object = match self.cx.api.get::<IpAddress>(&kind::IP_ADDRESS, "", &name).await {
                Ok(object) => Some(object),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            };
            if object.is_none() {
                match self.cx.api.get::<Service>(&kind::SERVICE, &key.namespace, &key.name).await {
                    Ok(now) if has(&now, &name) && !now.metadata.is_terminating() => {}
                    Ok(_) => continue,
                    Err(error) if error.is_not_found() => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
            self.cx.execute(plan_service(&service, address, object.as_ref())).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::runtime::plan::{Action, Verb};

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn range(name: &str, cidr: &str, deleted: Option<&str>) -> Arc<ServiceCidr> {
        let meta = json!({"name": name, "uid": name, "deletionTimestamp": deleted, "finalizers": [FINALIZER]});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"cidrs": [cidr]}})).unwrap())
    }

    fn address(name: &str, service: &str) -> Arc<IpAddress> {
        let meta = json!({"name": name, "uid": name, "labels": {MANAGED_BY: ALLOCATOR},
            "creationTimestamp": "2026-01-01T00:00:30Z"});
        let parent = json!({"resource": "services", "namespace": "n", "name": service});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"parentRef": parent}})).unwrap())
    }

    fn patch(plan: &Plan) -> Value {
        let Some(Action::Write(write)) = plan.actions().next() else { return Value::Null };
        let Verb::Patch(_, _, patch) = &write.verb else { panic!("{:?}", write.verb) };
        patch.clone()
    }

    #[test]
    fn a_range_is_held_first_and_ready_then() {
        let fresh: ServiceCidr =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"cidrs": ["10.0.0.0/24"]}})).unwrap();
        let held = patch(&plan_range(&fresh, &[], &[], now()));
        assert_eq!(held["metadata"]["finalizers"], json!([FINALIZER]));
        let ready = patch(&plan_range(&range("a", "10.0.0.0/24", None), &[], &[], now()));
        let condition = &ready["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Ready"), &json!("True")));
        let mut done = ServiceCidr::clone(&range("a", "10.0.0.0/24", None));
        done.status.conditions = serde_json::from_value(ready["status"]["conditions"].clone()).unwrap();
        assert!(plan_range(&done, &[], &[], now()).is_empty());
    }

    #[test]
    fn a_range_goes_when_nobody_needs_it() {
        let leaving = range("a", "10.0.0.0/24", Some("2026-01-01T00:00:00Z"));
        let used = [address("10.0.0.9", "s"), address("10.9.0.9", "t")];
        let told = patch(&plan_range(&leaving, std::slice::from_ref(&leaving), &used, now()));
        assert_eq!(told["status"]["conditions"][0]["reason"], "Terminating");
        let wider = range("b", "10.0.0.0/16", None);
        let gone = patch(&plan_range(&leaving, &[leaving.clone(), wider], &used, now()));
        assert_eq!(gone["metadata"]["finalizers"], Value::Null, "another range contains it");
        let part = range("c", "10.0.0.0/28", None);
        let gone = patch(&plan_range(&leaving, &[leaving.clone(), part], &used, now()));
        assert_eq!(gone["metadata"]["finalizers"], Value::Null, "another contains what is used of it");
        let late = range("a", "10.0.0.0/24", Some("2026-01-01T00:00:55Z"));
        let wait = plan_range(&late, std::slice::from_ref(&late), &used[1..], now());
        assert_eq!((wait.is_empty(), wait.requeue_after), (true, Some(Duration::from_secs(5))));
    }

    #[test]
    fn addresses_of_nobody_are_removed_after_a_while() {
        let service: Service = serde_json::from_value(
            json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIP": "10.0.0.9"}}),
        )
        .unwrap();
        assert!(plan_address(&address("10.0.0.9", "s"), Some(&service), now()).is_empty());
        let young = plan_address(&address("10.0.0.9", "gone"), None, now());
        assert_eq!((young.is_empty(), young.requeue_after), (true, Some(Duration::from_secs(30))));
        let later = "2026-01-01T00:02:00Z".parse().unwrap();
        assert_eq!(plan_address(&address("10.0.0.9", "gone"), None, later).actions().count(), 2);
        assert_eq!(plan_address(&address("10.0.0.8", "s"), Some(&service), later).actions().count(), 2);
        let mut own = IpAddress::clone(&address("10.0.0.9", "gone"));
        own.metadata.labels.clear();
        assert!(plan_address(&own, None, later).is_empty(), "what users make is theirs");
    }

    #[test]
    fn services_without_objects_get_them() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n"},
            "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9", "fd00::9"]}}))
        .unwrap();
        assert_eq!(addresses(&service).len(), 2);
        let ip = addresses(&service)[1];
        let made = plan_service(&service, ip, None);
        let Some(Action::Write(write)) = made.actions().next() else { panic!("no write") };
        assert_eq!((write.name.as_str(), &write.kind), ("fd00::9", &kind::IP_ADDRESS));
        let own = address("10.0.0.9", "s");
        assert!(plan_service(&service, addresses(&service)[0], Some(&own)).is_empty());
        let other = address("10.0.0.9", "t");
        assert!(matches!(plan_service(&service, addresses(&service)[0], Some(&other)).actions().next(),
            Some(Action::Event(note)) if note.reason == "ClusterIPAlreadyAllocated"));
    }
}
