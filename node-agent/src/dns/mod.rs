//! Cluster DNS, answered on every node from its own watch of Services and EndpointSlices: no pods, no extra hop.
//!
//! [`zone`] is what the names are (pure); [`server`] speaks the protocol and forwards what is not ours.

pub mod server;
pub mod zone;

use std::sync::Arc;

use parking_lot::RwLock;

use crate::api::watch::Change;
use crate::proxy::views;
use zone::{Endpoint, Port, Service, Slice, Zone};

/// The zone that the server answers from, shared with whoever keeps it up to date.
#[derive(Clone, Debug)]
pub struct Names(Arc<RwLock<Zone>>);

impl Names {
    /// An empty zone.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(RwLock::new(zone)))
    }

    /// Takes in what happened to services.
    pub fn services_changed(&self, change: &Change<views::Service>) {
        let mut zone = self.0.write();
        match change {
            Change::All(all) => zone.replace_services(all.iter().map(|s| service(s)).collect()),
            Change::Put(new) => zone.set_service(service(new)),
            Change::Gone(old) => zone.remove_service(&old.metadata.namespace, &old.metadata.name),
        }
    }

    /// Takes in what happened to endpoint slices.
    pub fn slices_changed(&self, change: &Change<views::EndpointSlice>) {
        let mut zone = self.0.write();
        match change {
            Change::All(all) => zone.replace_slices(all.iter().filter_map(|s| slice(s)).collect()),
            Change::Put(new) => match slice(new) {
                Some(slice) => zone.set_slice(slice),
                None => zone.remove_slice(&new.metadata.namespace, &new.metadata.name),
            },
            Change::Gone(old) => zone.remove_slice(&old.metadata.namespace, &old.metadata.name),
        }
    }

    fn soa(&self) -> hickory_proto::rr::Record {
        self.0.read().soa()
    }

    fn lookup(
        &self,
        name: &hickory_proto::rr::LowerName,
        kind: hickory_proto::rr::RecordType,
        turn: u64,
    ) -> zone::Found {
        self.0.read().lookup(name, kind, turn)
    }
}

fn service(view: &views::Service) -> Service {
    let spec = &view.spec;
    let port = |p: &views::ServicePort| {
        let protocol = if p.protocol.is_empty() { "tcp".to_owned() } else { p.protocol.to_ascii_lowercase() };
        Port { name: p.name.clone(), protocol, number: p.port }
    };
    let single = std::slice::from_ref(&spec.cluster_ip);
    let addresses = if spec.cluster_ips.is_empty() { single } else { &spec.cluster_ips[..] };
    Service {
        namespace: view.metadata.namespace.clone(),
        name: view.metadata.name.clone(),
        // "None" is no address: the service is headless.
        addresses: addresses.iter().filter_map(|a| a.parse().ok()).collect(),
        ports: spec.ports.iter().map(port).collect(),
        external_name: (spec.r#type == "ExternalName").then(|| spec.external_name.clone()),
    }
}

/// `None`: the slice belongs to no service.
fn slice(view: &views::EndpointSlice) -> Option<Slice> {
    let port = |p: &views::EndpointPort| {
        let protocol = p.protocol.as_deref().unwrap_or("tcp").to_ascii_lowercase();
        Some(Port { name: p.name.clone().unwrap_or_default(), protocol, number: p.port? })
    };
    let endpoint = |e: &views::Endpoint| Endpoint {
        addresses: e.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
        hostname: e.hostname.clone(),
        ready: e.conditions.ready.unwrap_or(true),
    };
    Some(Slice {
        namespace: view.metadata.namespace.clone(),
        name: view.metadata.name.clone(),
        service: view.service()?.to_owned(),
        endpoints: view.endpoints.iter().map(endpoint).collect(),
        ports: view.ports.iter().filter_map(port).collect(),
    })
}
