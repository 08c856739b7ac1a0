//! Endpoints that somebody has made by hand, for a service without a selector, become EndpointSlices (upstream
//! `pkg/controller/endpointslicemirroring`): whoever follows services reads slices only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::context::Context;
use crate::endpoints::slices::{Group, MANAGED_BY, new_slice};
use crate::runtime::cache::{BY_SERVICE, Change};
use crate::runtime::meta::{Key, Meta};
use crate::runtime::plan::{Action, Note, Plan, Write, map_patch};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{
    Address, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Endpoints, SERVICE_NAME_LABEL, Service, Subset,
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label, if it is `true`, have slices from somewhere else.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints with this annotation are a lock of an old kind of leader election, and lead nowhere.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something of the Endpoints only.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of a subset, and endpoints of a slice; the rest is left out.
const LIMIT: usize = 1000;

/// The endpoints of a group, by what makes them different: address, host name, and whom they lead to.
type Members = BTreeMap<(String, String, String, String), Endpoint>;

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The endpoints.
    pub endpoints: Option<&'a Endpoints>,
    /// The service of the same name.
    pub service: Option<&'a Service>,
    /// The service's slices, also those that are not ours.
    pub slices: &'a [Arc<EndpointSlice>],
}

/// Makes the slices say what the endpoints do: one slice for each family and set of ports.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::nothing();
    let mut slices: Vec<&EndpointSlice> =
        view.slices.iter().map(|s| &**s).filter(|s| is_ours(&s.metadata) && !s.metadata.is_terminating()).collect();
    let selected = view.service.is_none_or(|service| !service.spec.selector.is_empty());
    let Some(endpoints) = view.endpoints.filter(|e| is_mirrored(&e.metadata) && !selected) else {
        plan.step(slices.into_iter().map(remove).collect());
        return plan;
    };
    let (groups, skipped) = wanted(endpoints);
    plan.step(skipped.notes(&endpoints.metadata));
    let mut writes = Vec::new();
    let mut missing = Vec::new();
    for (group, members) in groups {
        match slices.iter().position(|s| s.address_type == group.0 && s.ports == group.1) {
            Some(at) => writes.extend(update(endpoints, slices.remove(at), &group, members)),
            None => missing.push((group, members)),
        }
    }
    for (group, members) in missing {
        // A slice that nobody needs any more is used again: followers then see one change, not a gap.
        match slices.iter().position(|s| s.address_type == group.0) {
            Some(at) => writes.extend(update(endpoints, slices.remove(at), &group, members)),
            None if endpoints.metadata.is_terminating() => {}
            None => writes.push(create(endpoints, &group, members)),
        }
    }
    plan.step(writes);
    plan.step(slices.into_iter().map(remove).collect());
    plan
}

fn is_ours(meta: &Meta) -> bool {
    meta.labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER)
}

fn is_mirrored(meta: &Meta) -> bool {
    meta.labels.get(SKIP).is_none_or(|skip| skip != "true") && !meta.annotations.contains_key(LEADER)
}

fn remove(slice: &EndpointSlice) -> Action {
    Write::delete(&kind::ENDPOINT_SLICE, &slice.metadata).into()
}

/// Addresses that are not mirrored.
#[derive(Default)]
struct Skipped {
    invalid: usize,
    all: usize,
}

impl Skipped {
    fn notes(&self, meta: &Meta) -> Vec<Action> {
        let warning = |reason: &str, message: String| {
            Action::from(Note::warning(meta.reference(&kind::ENDPOINTS), reason, message))
        };
        let mut notes = Vec::new();
        if self.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", self.invalid);
            notes.push(warning("InvalidIPAddress", message));
        }
        if self.all > self.invalid {
            let message = format!(
                "A max of {LIMIT} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were \
                 skipped",
                self.all
            );
            notes.push(warning("TooManyAddressesToMirror", message));
        }
        notes
    }
}

/// The slices that there are to be; none is empty.
fn wanted(endpoints: &Endpoints) -> (BTreeMap<Group, Members>, Skipped) {
    let mut groups: BTreeMap<Group, Members> = BTreeMap::new();
    let mut skipped = Skipped::default();
    for subset in &endpoints.subsets {
        let ports = ports_of(subset);
        let all =
            subset.addresses.iter().map(|a| (a, true)).chain(subset.not_ready_addresses.iter().map(|a| (a, false)));
        let mut added = 0;
        for (address, ready) in all {
            if added == LIMIT {
                break;
            }
            let Some((family, endpoint)) = endpoint(address, ready) else {
                skipped.invalid += 1;
                continue;
            };
            added += 1;
            let target = address.target_ref.as_ref();
            let identity = (
                endpoint.addresses[0].clone(),
                address.hostname.clone(),
                target.map(|t| t.namespace.clone()).unwrap_or_default(),
                target.map(|t| t.name.clone()).unwrap_or_default(),
            );
            groups.entry((family, ports.clone())).or_default().insert(identity, endpoint);
        }
        skipped.all += subset.addresses.len() + subset.not_ready_addresses.len() - added;
    }
    (groups, skipped)
}

fn ports_of(subset: &Subset) -> Vec<EndpointPort> {
    let port = |p: &crate::views::SubsetPort| EndpointPort {
        name: p.name.clone(),
        protocol: p.protocol.clone(),
        port: Some(p.port),
        app_protocol: p.app_protocol.clone(),
    };
    subset.ports.iter().map(port).collect()
}

fn endpoint(address: &Address, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: EndpointConditions { ready: Some(ready), ..EndpointConditions::default() },
        hostname: (!address.hostname.is_empty()).then(|| address.hostname.clone()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv6() { "IPv6" } else { "IPv4" }, endpoint))
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone();
    labels.insert(SERVICE_NAME_LABEL.into(), endpoints.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    annotations
}

fn update(endpoints: &Endpoints, slice: &EndpointSlice, (_, ports): &Group, members: Members) -> Option<Action> {
    let mut patch = json!({});
    if slice.ports != *ports {
        patch["ports"] = json!(ports);
    }
    let wanted: Vec<Endpoint> = members.into_values().take(LIMIT).collect();
    if slice.endpoints != wanted {
        patch["endpoints"] = json!(wanted);
    }
    if let Some(labels) = map_patch(&labels(endpoints), &slice.metadata.labels) {
        patch["metadata"]["labels"] = labels;
    }
    if let Some(annotations) = map_patch(&annotations(endpoints), &slice.metadata.annotations) {
        patch["metadata"]["annotations"] = annotations;
    }
    let same = patch.as_object().is_some_and(serde_json::Map::is_empty);
    (!same).then(|| Write::merge_exact(&kind::ENDPOINT_SLICE, &slice.metadata, "", patch).into())
}

fn create(endpoints: &Endpoints, group: &Group, members: Members) -> Action {
    let meta = &endpoints.metadata;
    let members: Vec<Endpoint> = members.into_values().take(LIMIT).collect();
    let mut body = new_slice(meta, &kind::ENDPOINTS, &labels(endpoints), group, &members);
    body["metadata"]["annotations"] = json!(annotations(endpoints));
    Write::create(&kind::ENDPOINT_SLICE, &meta.namespace, body).into()
}

/// The controller.
#[derive(Debug)]
pub struct Mirroring {
    cx: Context,
    queue: Arc<Keys>,
}

impl Mirroring {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.endpoints.on_change(move |change: &Change<'_, Endpoints>| {
            let mut states = change.previous().into_iter().chain([change.latest()]);
            if states.any(|e| is_mirrored(&e.metadata)) {
                keys.add(change.latest().metadata.key());
            }
        });
        let keys = queue.clone();
        cx.caches.services.on_change(move |change: &Change<'_, Service>| {
            let mut states = change.previous().into_iter().chain([change.latest()]);
            if states.any(|s| s.spec.selector.is_empty()) {
                keys.add(change.latest().metadata.key());
            }
        });
        let keys = queue.clone();
        cx.caches.endpoint_slices.on_change(move |change: &Change<'_, EndpointSlice>| {
            let mut states = change.previous().into_iter().chain([change.latest()]);
            let ours = states.find(|s| is_ours(&s.metadata));
            if let Some(service) = ours.and_then(|s| s.metadata.labels.get(SERVICE_NAME_LABEL)) {
                keys.add(Key::new(&change.latest().metadata.namespace, service));
            }
        });
        Arc::new(Self { cx: cx.of("endpoint-slice-mirroring-controller"), queue })
    }
}

#[async_trait]
impl Controller for Mirroring {
    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let (endpoints, service) = (caches.endpoints.get(key), caches.services.get(key));
        let slices = caches.endpoint_slices.by_index(BY_SERVICE, &key.to_string());
        let view = View { endpoints: endpoints.as_deref(), service: service.as_deref(), slices: &slices };
        self.cx.execute(plan(&view)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
