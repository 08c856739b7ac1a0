//! Cluster DNS, answered on every node from its own watch of Services and EndpointSlices: no pods, no extra hop.
//!
//! - [`zone`] is what the names are. Pure.
//! - [`server`] has the sockets: [`udp`] and, behind it, [`fast`] answer what the zone knows, from bytes ([`wire`]) made
//!   before; [`answer`] is the long way, for aliases, TCP and all that is not ours.
//!   The enforcers of policies by names hear of addresses before clients do ([`crate::policy::ear`]).
//! - [`autopath`] walks the client's search list, so that it need not; [`forward`] asks others.

pub mod answer;
pub mod autopath;
pub mod fast;
pub mod forward;
pub mod server;
pub mod udp;
pub mod wire;
pub mod zone;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::api::watch::Change;
use crate::proxy::views;
use zone::{Endpoint, Port, Service, Slice, Zone};

/// The zone that the server answers from, shared with whoever keeps it up to date.
#[derive(Clone, Debug)]
pub struct Names(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    zone: RwLock<Zone>,
    /// Counts changes; answers that were kept hold for one state.
    generation: AtomicU64,
}

impl Names {
    /// An empty zone.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(Inner { zone: RwLock::new(zone), generation: AtomicU64::new(1) }))
    }

    /// Changes whenever the zone does.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce(&mut Zone)) {
        let mut zone = self.0.zone.write();
        change(&mut zone);
        // Under the lock: whoever reads the new number and then the zone sees the change.
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes in what happened to services.
    pub fn services_changed(&self, change: &Change<views::Service>) {
        self.change(|zone| match change {
            Change::All(all) => zone.replace_services(all.iter().map(|s| service(s)).collect()),
            Change::Put(new) => zone.set_service(service(new)),
            Change::Gone(old) => zone.remove_service(&old.name.namespace, &old.name.name),
        });
    }

    /// Takes in what happened to endpoint slices.
    pub fn slices_changed(&self, change: &Change<views::EndpointSlice>) {
        self.change(|zone| match change {
            Change::All(all) => zone.replace_slices(all.iter().filter_map(|s| slice(s)).collect()),
            Change::Put(new) => match slice(new) {
                Some(slice) => zone.set_slice(slice),
                None => zone.remove_slice(&new.name.namespace, &new.name.name),
            },
            Change::Gone(old) => zone.remove_slice(&old.name.namespace, &old.name.name),
        });
    }

    fn soa(&self) -> hickory_proto::rr::Record {
        self.0.zone.read().soa()
    }

    fn lookup(
        &self,
        name: &hickory_proto::rr::LowerName,
        kind: hickory_proto::rr::RecordType,
        turn: u64,
    ) -> zone::Found {
        self.0.zone.read().lookup(name, kind, turn)
    }
}

fn service(view: &views::Service) -> Service {
    let port = |p: &views::ServicePort| Port {
        name: p.name.as_ref().to_owned(),
        protocol: p.protocol.name().to_owned(),
        number: p.number,
    };
    Service {
        namespace: view.name.namespace.as_ref().to_owned(),
        name: view.name.name.as_ref().to_owned(),
        addresses: view.cluster_ips.to_vec(),
        ports: view.ports.iter().map(port).collect(),
        external_name: view.external_name.as_deref().map(str::to_owned),
    }
}

/// `None`: the slice belongs to no service.
fn slice(view: &views::EndpointSlice) -> Option<Slice> {
    let port = |p: &views::EndpointPort| Port {
        name: p.name.as_ref().to_owned(),
        protocol: p.protocol.name().to_owned(),
        number: p.number,
    };
    let endpoint = |e: &views::Endpoint| Endpoint {
        addresses: e.addresses().collect(),
        hostname: e.hostname.as_deref().map(str::to_owned),
        ready: e.conditions.is_ready(),
    };
    Some(Slice {
        namespace: view.name.namespace.as_ref().to_owned(),
        name: view.name.name.as_ref().to_owned(),
        service: view.service.as_deref()?.to_owned(),
        endpoints: view.endpoints.iter().map(endpoint).collect(),
        ports: view.ports.iter().map(port).collect(),
    })
}
