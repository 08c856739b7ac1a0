//! Cluster DNS, answered on every node from its own watch of Services and EndpointSlices: no pods, no extra hop.
//!
//! [`zone`] is what the names are (pure); [`server`] speaks the protocol and forwards what is not ours.

pub mod server;
pub mod zone;

use std::sync::Arc;

use parking_lot::RwLock;

use zone::{Service, Slice, Zone};

/// The zone that the server answers from, shared with whoever keeps it up to date.
#[derive(Clone, Debug)]
pub struct Names(Arc<RwLock<Zone>>);

impl Names {
    /// An empty zone.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(RwLock::new(zone)))
    }

    /// Adds a service, or replaces what was known of it.
    pub fn set_service(&self, service: Service) {
        self.0.write().set_service(service);
    }

    /// Forgets a service.
    pub fn remove_service(&self, namespace: &str, name: &str) {
        self.0.write().remove_service(namespace, name);
    }

    /// Adds a slice of endpoints, or replaces it.
    pub fn set_slice(&self, slice: Slice) {
        self.0.write().set_slice(slice);
    }

    /// Forgets a slice of endpoints of a service.
    pub fn remove_slice(&self, namespace: &str, service: &str, name: &str) {
        self.0.write().remove_slice(namespace, service, name);
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
