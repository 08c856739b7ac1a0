//! A service's EndpointSlices: endpoints that have the same ports share slices of at most a hundred, and one that is
//! there already stays where it is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{HEADLESS, View, address_of, families, hostname_of, is_headless, ports_of, target_of};
use crate::runtime::kind::{self, Kind};
use crate::runtime::meta::Meta;
use crate::runtime::plan::{Action, Write, map_patch};
use crate::views::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, HintName, Hints, Pod, SERVICE_NAME_LABEL,
};

const SLICE_LIMIT: usize = 100;
/// The label that says which controller a slice is of.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Slices are grouped by address family and ports.
pub(crate) type Group = (&'static str, Vec<EndpointPort>);

pub(super) fn is_ours(meta: &Meta) -> bool {
    meta.labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER)
}

pub(super) fn plan(view: &View<'_>) -> Vec<Action> {
    let mut wanted = wanted(view);
    let mut actions = Vec::new();
    // Slices in which room is left, with the endpoints that they keep.
    let mut kept: Vec<(&EndpointSlice, Group, Vec<Endpoint>)> = Vec::new();
    for slice in view.slices.iter().filter(|s| is_ours(&s.metadata) && !s.metadata.is_terminating()) {
        let family = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
        let group = (family, slice.ports.clone());
        let Some(endpoints) = wanted.get_mut(&group) else {
            actions.push(Write::delete(&kind::ENDPOINT_SLICE, &slice.metadata).into());
            continue;
        };
        let mut keep = Vec::new();
        for endpoint in &slice.endpoints {
            let uid = endpoint.target_ref.as_ref().map(|r| r.uid.clone()).unwrap_or_default();
            if let Some(new) = endpoints.remove(&uid) {
                keep.push(new);
            }
        }
        kept.push((slice, group, keep));
    }
    for (slice, group, keep) in &mut kept {
        let Some(rest) = wanted.get_mut(group) else { continue };
        while keep.len() < SLICE_LIMIT
            && let Some((_, endpoint)) = rest.pop_first()
        {
            keep.push(endpoint);
        }
        let labels = labels(view);
        if *keep != slice.endpoints || labels != slice.metadata.labels {
            actions.push(update(slice, keep, &labels));
        }
    }
    let filled: Vec<Group> = kept.into_iter().map(|(_, group, _)| group).collect();
    for (group, rest) in wanted {
        let mut rest: Vec<Endpoint> = rest.into_values().collect();
        if rest.is_empty() && !filled.contains(&group) {
            actions.push(create(view, &group, &[]));
        }
        while !rest.is_empty() {
            let more = rest.split_off(rest.len().min(SLICE_LIMIT));
            actions.push(create(view, &group, &rest));
            rest = more;
        }
    }
    actions
}

/// The endpoints that there are to be, by group and pod; for each family at least one group, if need be an empty one.
fn wanted(view: &View<'_>) -> BTreeMap<Group, BTreeMap<String, Endpoint>> {
    let mut groups: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for family in families(view.service) {
        let mut any = false;
        for pod in view.pods.iter().filter(|p| !p.is_finished()) {
            let Some(address) = address_of(pod, family) else { continue };
            any = true;
            groups
                .entry((family, ports_of(view.service, pod)))
                .or_default()
                .insert(pod.metadata.uid.clone(), endpoint(view, pod, address));
        }
        if !any {
            groups.entry((family, Vec::new())).or_default();
        }
    }
    groups
}

fn endpoint(view: &View<'_>, pod: &Pod, address: &str) -> Endpoint {
    let serving = pod.is_ready();
    let terminating = pod.metadata.is_terminating();
    let publish = view.service.spec.publish_not_ready_addresses;
    let node = (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone());
    let zone = node.as_ref().and_then(|n| view.zones.get(n).cloned());
    let ready = publish || (serving && !terminating);
    Endpoint {
        addresses: vec![address.to_owned()],
        hints: ready.then(|| hints(view, node.as_ref(), zone.as_ref())).flatten(),
        conditions: EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: hostname_of(view.service, pod),
        zone,
        node_name: node,
        target_ref: Some(target_of(pod)),
    }
}

/// Whom a ready endpoint is meant for, by the service's `trafficDistribution` (upstream
/// `staging/src/k8s.io/endpointslice/trafficdist`).
fn hints(view: &View<'_>, node: Option<&String>, zone: Option<&String>) -> Option<Hints> {
    let same_node = match view.service.spec.traffic_distribution.as_deref() {
        Some("PreferSameNode") => true,
        Some("PreferSameZone" | "PreferClose") => false,
        _ => return None,
    };
    let named = |name: Option<&String>| name.map(|name| HintName { name: name.clone() }).into_iter().collect();
    let hints = Hints { for_zones: named(zone), for_nodes: named(node.filter(|_| same_node)) };
    (hints != Hints::default()).then_some(hints)
}

fn labels(view: &View<'_>) -> BTreeMap<String, String> {
    let mut labels = view.service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if is_headless(view.service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.into(), view.service.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn update(slice: &EndpointSlice, endpoints: &[Endpoint], labels: &BTreeMap<String, String>) -> Action {
    let mut patch = json!({"endpoints": endpoints});
    if let Some(labels) = map_patch(labels, &slice.metadata.labels) {
        patch["metadata"] = json!({"labels": labels});
    }
    Write::merge_exact(&kind::ENDPOINT_SLICE, &slice.metadata, "", patch).into()
}

fn create(view: &View<'_>, group: &Group, endpoints: &[Endpoint]) -> Action {
    let service = &view.service.metadata;
    let body = new_slice(service, &kind::SERVICE, &labels(view), group, endpoints);
    Write::create(&kind::ENDPOINT_SLICE, &service.namespace, body).into()
}

/// A slice that is not there yet, named after its owner.
pub(crate) fn new_slice(
    owner: &Meta,
    owner_kind: &Kind,
    labels: &BTreeMap<String, String>,
    (family, ports): &Group,
    endpoints: &[Endpoint],
) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", owner.name),
            "namespace": owner.namespace,
            "labels": labels,
            "ownerReferences": [owner.as_controller(owner_kind)],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}
