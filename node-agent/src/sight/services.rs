//! What the kernel's maps hold for services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::{
    Backend, Chunk, ChunkKey, SCOPE_CLUSTER, SLOTS_PER_CHUNK, Service, ServiceCounters, ServiceKey,
};
use xebec_ebpf_loader::{Error, Maps};

use super::flows::protocol;

/// A frontend, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// Its address and port; `0.0.0.0` and `[::]` stand for any address of a node in their family.
    pub address: SocketAddr,
    /// `TCP`, ...
    pub protocol: String,
    /// `cluster` for clients inside, `external` for those that come in by the uplink.
    pub scope: String,
    /// The service port's number on this node.
    pub id: u32,
    /// Its backends, each once; `None`: a slot of the set is not written, which would be an error of the agent's.
    pub backends: Vec<Option<SocketAddr>>,
    /// Seconds for which a client stays with its backend; 0 without session affinity.
    pub affinity_timeout_s: u32,
    /// Connections of this node's sockets.
    pub socket_connections: u64,
    /// Flows from outside.
    pub uplink_flows: u64,
    /// Clients that were refused for want of a backend.
    pub refused: u64,
}

/// Reads them all, sorted.
pub fn read(maps: &Maps) -> Result<Vec<Frontend>, Error> {
    let chunks: BTreeMap<ChunkKey, Chunk> = maps.slots.entries()?.into_iter().collect();
    let backends: BTreeMap<u32, Backend> = maps.backends.entries()?.into_iter().collect();
    let counters: BTreeMap<u32, ServiceCounters> = maps.service_counters.entries()?.into_iter().collect();
    let frontend = |(key, service): (ServiceKey, Service)| {
        let counters = counters.get(&service.id).copied().unwrap_or_default();
        Frontend {
            address: SocketAddr::new(key.addr.to_ip(), key.port.get()),
            protocol: protocol(key.proto),
            scope: if key.scope == SCOPE_CLUSTER { "cluster" } else { "external" }.to_owned(),
            id: service.id,
            backends: backends_of(&service, &chunks, &backends),
            affinity_timeout_s: service.affinity_timeout_s,
            socket_connections: counters.socket_connections,
            uplink_flows: counters.uplink_flows,
            refused: counters.refused,
        }
    };
    let mut all: Vec<Frontend> = maps.services.entries()?.into_iter().map(frontend).collect();
    all.sort();
    Ok(all)
}

fn backends_of(
    service: &Service,
    chunks: &BTreeMap<ChunkKey, Chunk>,
    backends: &BTreeMap<u32, Backend>,
) -> Vec<Option<SocketAddr>> {
    let slot = |slot: u32| {
        let chunk = chunks.get(&ChunkKey { set: service.set, chunk: slot / SLOTS_PER_CHUNK })?;
        let backend = backends.get(&chunk.0[(slot % SLOTS_PER_CHUNK) as usize])?;
        Some(SocketAddr::new(backend.addr.to_ip(), backend.port.get()))
    };
    // With Maglev a backend has many slots.
    (0..service.count).map(slot).collect::<BTreeSet<_>>().into_iter().collect()
}
