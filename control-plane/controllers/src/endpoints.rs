//! EndpointSlices, and the older Endpoints, of services with a selector (upstream `pkg/controller/endpointslice`,
//! `pkg/controller/endpoint`).

mod legacy;
pub(crate) mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::context::Context;
use crate::runtime::cache::{BY_SERVICE, Change};
use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::{Key, ObjectReference};
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{EndpointPort, EndpointSlice, Endpoints, Pod, Service, ServicePort, TargetPort};

/// The label that headless services' endpoints carry.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The service.
    pub service: &'a Service,
    /// The pods that its selector selects.
    pub pods: &'a [Arc<Pod>],
    /// Zones of the pods' nodes.
    pub zones: &'a BTreeMap<String, String>,
    /// Its slices.
    pub slices: &'a [Arc<EndpointSlice>],
    /// Its endpoints.
    pub endpoints: Option<&'a Endpoints>,
}

/// Brings a service's slices and endpoints up to date.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::nothing();
    let service = view.service;
    if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" || service.metadata.is_terminating() {
        return plan;
    }
    plan.step(slices::plan(view));
    plan.step(legacy::plan(view));
    plan
}

fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip == "None"
}

/// The families that a service's endpoints are of: those of the service, or of whatever pods have.
fn families(service: &Service) -> Vec<&'static str> {
    let mut families: Vec<&'static str> =
        service.spec.ip_families.iter().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if families.is_empty() {
        families.push("IPv4");
    }
    families
}

/// The pod's address of a family.
fn address_of<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    let mut addresses = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str()).chain([pod.status.pod_ip.as_str()]);
    addresses.find(|a| !a.is_empty() && a.contains(':') == (family == "IPv6"))
}

/// The ports that a pod has for a service, in the service's order; named ports that it lacks are left out.
fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let resolve = |port: &ServicePort| {
        let number = match &port.target_port {
            None => port.port,
            Some(TargetPort::Number(0)) => port.port,
            Some(TargetPort::Number(number)) => *number,
            Some(TargetPort::Name(name)) => named_port(pod, name, protocol(&port.protocol))?,
        };
        Some(EndpointPort {
            name: port.name.clone(),
            protocol: protocol(&port.protocol).to_owned(),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    };
    service.spec.ports.iter().filter_map(resolve).collect()
}

fn protocol(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

fn named_port(pod: &Pod, name: &str, wanted: &str) -> Option<u16> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    pod.spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| &c.ports)
        .find(|p| p.name == name && protocol(&p.protocol) == wanted)
        .map(|p| p.container_port)
}

/// The pod's host name below the service's.
fn hostname_of(service: &Service, pod: &Pod) -> Option<String> {
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    named.then(|| pod.spec.hostname.clone())
}

fn target_of(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: "Pod".into(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The controller.
#[derive(Debug)]
pub struct EndpointsController {
    cx: Context,
    queue: Arc<Keys>,
    /// Services that went and whose endpoints have not followed yet. Those of a service without a selector go too, but
    /// only with it: who makes endpoints may do so before the service is there.
    gone: Arc<Mutex<BTreeSet<Key>>>,
}

impl EndpointsController {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let gone = Arc::<Mutex<BTreeSet<Key>>>::default();
        let (keys, went) = (queue.clone(), gone.clone());
        cx.caches.services.on_change(move |change| {
            let key = change.latest().metadata.key();
            match change {
                Change::Removed(_) => went.lock().insert(key.clone()),
                Change::Added(_) | Change::Updated(..) => went.lock().remove(&key),
            };
            keys.add(key);
        });
        let (keys, services) = (queue.clone(), cx.caches.services.clone());
        cx.caches.pods.on_change(move |change: &Change<'_, Pod>| {
            let namespace = &change.latest().metadata.namespace;
            for service in services.in_namespace(namespace) {
                if service.spec.selector.is_empty() {
                    continue;
                }
                let selector = LabelSelector::equalities(&service.spec.selector);
                let mut pods = change.previous().into_iter().chain([change.latest()]);
                if pods.any(|p| selector.matches(&p.metadata.labels)) {
                    keys.add(service.metadata.key());
                }
            }
        });
        let keys = queue.clone();
        cx.caches.endpoint_slices.on_change(move |change: &Change<'_, EndpointSlice>| {
            let meta = &change.latest().metadata;
            if let Some(service) = meta.labels.get(crate::views::SERVICE_NAME_LABEL)
                && slices::is_ours(meta)
            {
                keys.add(Key::new(&meta.namespace, service));
            }
        });
        let keys = queue.clone();
        cx.caches.endpoints.on_change(move |change| keys.add(change.latest().metadata.key()));
        let (keys, services) = (queue.clone(), cx.caches.services.clone());
        cx.caches.nodes.on_change(move |change| {
            let zone = |n: &crate::views::Node| n.metadata.labels.get(ZONE).cloned();
            // A node's zone is known before its pods are; it hardly ever changes.
            if let Change::Updated(old, new) = change
                && zone(old) != zone(new)
            {
                services.list().iter().for_each(|s| keys.add(s.metadata.key()));
            }
        });
        Arc::new(Self { cx: cx.of("endpoint-slice-controller"), queue, gone })
    }
}

const ZONE: &str = "topology.kubernetes.io/zone";

#[async_trait]
impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let endpoints = caches.endpoints.get(key);
        let Some(service) = caches.services.get(key) else {
            // Slices are the garbage collector's; endpoints have no owner.
            let mut plan = Plan::nothing();
            let gone = self.gone.lock().contains(key);
            if let Some(endpoints) = endpoints.filter(|e| gone || legacy::is_ours(&e.metadata)) {
                plan.act(Write::delete(&kind::ENDPOINTS, &endpoints.metadata).into());
            }
            self.cx.execute(plan).await?;
            self.gone.lock().remove(key);
            return Ok(None);
        };
        let selector = LabelSelector::equalities(&service.spec.selector);
        let pods: Vec<Arc<Pod>> = if service.spec.selector.is_empty() {
            Vec::new()
        } else {
            let mut pods = caches.pods.in_namespace(&key.namespace);
            pods.retain(|p| selector.matches(&p.metadata.labels));
            pods
        };
        let zones = pods
            .iter()
            .filter_map(|p| {
                let node = caches.nodes.get(&Key::new("", &p.spec.node_name))?;
                Some((p.spec.node_name.clone(), node.metadata.labels.get(ZONE)?.clone()))
            })
            .collect();
        let slices = caches.endpoint_slices.by_index(BY_SERVICE, &key.to_string());
        let view =
            View { service: &service, pods: &pods, zones: &zones, slices: &slices, endpoints: endpoints.as_deref() };
        self.cx.execute(plan(&view)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
