//! A service's Endpoints, for clients that do not know slices.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{HEADLESS, View, address_of, families, hostname_of, is_headless, ports_of, target_of};
use crate::runtime::kind;
use crate::runtime::meta::Meta;
use crate::runtime::plan::{Action, Write, map_patch};
use crate::views::{Address, Subset, SubsetPort};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Addresses of an Endpoints object; the rest is left out.
const ADDRESS_LIMIT: usize = 1000;

pub(super) fn is_ours(meta: &Meta) -> bool {
    meta.labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER)
}

pub(super) fn plan(view: &View<'_>) -> Vec<Action> {
    let service = &view.service.metadata;
    let subsets = subsets(view);
    let labels = labels(view);
    let write = match view.endpoints {
        None => {
            let body = json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": service.name, "namespace": service.namespace, "labels": labels},
                "subsets": subsets,
            });
            Write::create(&kind::ENDPOINTS, &service.namespace, body).accept_existing()
        }
        Some(current) if current.subsets == subsets && current.metadata.labels == labels => return Vec::new(),
        Some(current) => {
            let subsets = if subsets.is_empty() { Value::Null } else { json!(subsets) };
            let mut patch = json!({"subsets": subsets});
            if let Some(labels) = map_patch(&labels, &current.metadata.labels) {
                patch["metadata"] = json!({"labels": labels});
            }
            Write::merge_exact(&kind::ENDPOINTS, &current.metadata, "", patch)
        }
    };
    vec![write.into()]
}

fn labels(view: &View<'_>) -> BTreeMap<String, String> {
    let mut labels = view.service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if is_headless(view.service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn subsets(view: &View<'_>) -> Vec<Subset> {
    let service = view.service;
    let publish = service.spec.publish_not_ready_addresses;
    let family = families(service)[0];
    let mut by_ports: BTreeMap<Vec<SubsetPort>, Subset> = BTreeMap::new();
    let pods = view.pods.iter().filter(|p| !p.is_finished() && (publish || !p.metadata.is_terminating()));
    for pod in pods.take(ADDRESS_LIMIT) {
        let Some(ip) = address_of(pod, family) else { continue };
        let mut ports: Vec<SubsetPort> = ports_of(service, pod)
            .into_iter()
            .map(|p| SubsetPort {
                name: p.name,
                port: p.port.unwrap_or_default(),
                protocol: p.protocol,
                app_protocol: p.app_protocol,
            })
            .collect();
        // Without ports, only a headless service's endpoints mean anything.
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        ports.sort();
        let address = Address {
            ip: ip.to_owned(),
            hostname: hostname_of(service, pod).unwrap_or_default(),
            node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
            target_ref: Some(target_of(pod)),
        };
        let subset = by_ports.entry(ports.clone()).or_insert_with(|| Subset { ports, ..Subset::default() });
        if publish || pod.is_ready() {
            subset.addresses.push(address);
        } else {
            subset.not_ready_addresses.push(address);
        }
    }
    let mut subsets: Vec<Subset> = by_ports.into_values().collect();
    for subset in &mut subsets {
        subset.addresses.sort();
        subset.not_ready_addresses.sort();
    }
    subsets
}
