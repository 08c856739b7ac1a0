//! Which node answers ARP, or neighbour discovery, for a load balancer address.
//!
//! Every node works it out alone, by rendezvous hashing over the nodes that are fit: they agree as soon as they know
//! the same nodes, and when one goes only its addresses move.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::proxy::LoadBalancerAddresses;

/// The networks on each node's link; `None` of a node that has not said.
pub type Links = BTreeMap<String, Option<Vec<IpNet>>>;

/// The owner of each address; addresses that no node can take are absent. An address of a network that is on some node's link
/// is answered for there: nobody would hear the others. One that is on none is routed to the nodes, to any of them.
pub fn owners(addresses: &LoadBalancerAddresses, fit: &BTreeSet<String>, links: &Links) -> BTreeMap<IpAddr, String> {
    addresses
        .iter()
        .filter_map(|(address, allowed)| {
            let is_on_a_link = links.values().flatten().flatten().any(|net| net.contains(address));
            let is_heard = |node: &String| match links.get(node) {
                Some(Some(nets)) if is_on_a_link => nets.iter().any(|net| net.contains(address)),
                _ => true,
            };
            let may = |node: &String| allowed.as_ref().is_none_or(|allowed| allowed.contains(node));
            let candidates = fit.iter().filter(|node| may(node) && is_heard(node));
            let owner = candidates.max_by_key(|node| (weight(*address, node), *node))?;
            Some((*address, owner.clone()))
        })
        .collect()
}

/// FNV-1a over both, mixed: the same on every node and in every version.
fn weight(address: IpAddr, node: &str) -> u64 {
    let mix = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let hash = match address {
        IpAddr::V4(v4) => v4.octets().into_iter().fold(0xcbf2_9ce4_8422_2325, mix),
        IpAddr::V6(v6) => v6.octets().into_iter().fold(0xcbf2_9ce4_8422_2325, mix),
    };
    let hash = node.bytes().fold(hash, mix);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
