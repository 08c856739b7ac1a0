//! What a node's datapath holds and has dropped, in one answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::{flow_counters, lb_address_flags};
use xebec_ebpf_loader::{Error, Maps};

use crate::network::XdpState;
use crate::network::flow_table::Fill;

/// A node's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNetwork {
    /// The node's name.
    pub node: String,
    /// Its pods.
    pub pods: u64,
    /// Those of them that policies select.
    pub isolated_pods: u64,
    /// Frontends of services.
    pub frontends: u64,
    /// Endpoints.
    pub backends: u64,
    /// Entries of the uplink's flow table.
    pub flows: u64,
    /// Whether the uplink's driver forwards what only passes through.
    pub xdp: XdpState,
    /// Packets that it has forwarded.
    pub carried_by_xdp: u64,
    /// Connections that policies have allowed.
    pub connections: u64,
    /// Load balancer addresses that this node answers for.
    pub announced: BTreeSet<IpAddr>,
    /// Packets dropped or refused, by reason; without those that never happened.
    pub dropped: BTreeMap<String, u64>,
    /// Entries of the maps that hold what there is, by the maps' names.
    pub entries: BTreeMap<String, u64>,
}

/// Reads it.
pub(super) fn read(node: &str, xdp: XdpState, maps: &Maps) -> Result<NodeNetwork, Error> {
    let pods = maps.local_pods.entries()?;
    let dropped = maps.drops()?.into_iter().filter(|(_, count)| *count > 0);
    let announced = maps.lb_addresses.entries()?.into_iter().filter(|(_, flags)| flags & lb_address_flags::OWNED != 0);
    Ok(NodeNetwork {
        node: node.to_owned(),
        pods: pods.len() as u64,
        isolated_pods: pods.iter().filter(|(_, pod)| pod.is_isolated()).count() as u64,
        frontends: maps.services.count()? as u64,
        backends: maps.backends.count()? as u64,
        flows: Fill::read(&maps.flows, &maps.flow_counters)?.present,
        xdp,
        carried_by_xdp: maps.flow_counters.sum(flow_counters::CARRIED_BY_XDP)?,
        connections: maps.connections.count()? as u64,
        announced: announced.map(|(addr, _)| addr.to_ip()).collect(),
        dropped: dropped.map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
        entries: maps.entries_by_map()?.into_iter().map(|(map, count)| (map.to_owned(), count as u64)).collect(),
    })
}
