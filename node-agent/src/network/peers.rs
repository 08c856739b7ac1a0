//! What the other nodes call for: routes, peers of the tunnel, addresses that NodePorts are served on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use xebec_cni::netlink::{Mac, Route};
use xebec_ebpf_loader::layout::{Addr, Peer, node_address_flags, peer_flags};

use super::nodes::Node;
use super::setup::Tunnel;

/// Bits of an address in the 16-byte form before those of IPv4.
const V4_PREFIX: u32 = 96;

/// This node, as far as the plan depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub name: String,
    /// All its addresses that NodePorts are served on.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The address that others know it by.
    pub address: Ipv4Addr,
    /// The interface that has it.
    pub uplink: u32,
    /// The networks on that interface's link.
    pub on_link: Vec<Ipv4Net>,
    /// The tunnel's interface, if there is one.
    pub vxlan: Option<u32>,
    /// When to use it.
    pub tunnel: Tunnel,
}

/// What there should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Routes to other nodes' pods.
    pub routes: BTreeSet<Route>,
    /// Other nodes by prefix: address and length in bits of 128.
    pub peers: BTreeMap<(Addr, u32), PeerEntry>,
    /// Nodes' addresses, with [`node_address_flags`].
    pub node_addresses: BTreeMap<Addr, u32>,
    /// Nodes that cannot be reached, and why.
    pub unreachable: BTreeMap<String, String>,
}

/// A [`Peer`], comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerEntry(pub Peer);

/// The hardware address of a node's VXLAN device: each has its own, and all can work it out.
pub fn vtep_mac(node: Ipv4Addr) -> Mac {
    let [a, b, c, d] = node.octets();
    [0x0a, 0x5a, a, b, c, d]
}

/// Works it out.
pub fn plan<'a>(nodes: impl Iterator<Item = &'a Node>, local: &Local) -> Plan {
    let mut plan = Plan::default();
    for node in nodes {
        let name = &node.metadata.name;
        if *name == local.name {
            continue;
        }
        for ip in node.ips() {
            plan.node_addresses.insert(ip.into(), node_address_flags::PEER);
        }
        // A node that has only just joined has no range yet.
        let (Some(ip), Some(pods)) = (node.internal_ip(), node.pod_cidr()) else { continue };
        match way(ip, local) {
            Ok(tunnel) => plan.add_peer(ip, pods.trunc(), tunnel, local),
            Err(reason) => {
                plan.unreachable.insert(name.clone(), reason);
            }
        }
    }
    for ip in &local.addresses {
        plan.node_addresses.insert((*ip).into(), node_address_flags::LOCAL);
    }
    plan
}

/// The tunnel's interface, or none for the link.
fn way(ip: Ipv4Addr, local: &Local) -> Result<Option<u32>, String> {
    let is_neighbour = local.on_link.iter().any(|net| net.contains(&ip));
    match local.tunnel {
        Tunnel::Never if !is_neighbour => {
            Err(format!("{ip} is not on this node's link and tunnels are off: set tunnel to auto"))
        }
        Tunnel::Never => Ok(None),
        Tunnel::Auto if is_neighbour => Ok(None),
        Tunnel::Auto | Tunnel::Always => match local.vxlan {
            Some(index) => Ok(Some(index)),
            None => Err(format!("{ip} needs the tunnel and the kernel has no VXLAN: load the module vxlan")),
        },
    }
}

impl Plan {
    fn add_peer(&mut self, ip: Ipv4Addr, pods: Ipv4Net, tunnel: Option<u32>, local: &Local) {
        let flags = if tunnel.is_some() { peer_flags::TUNNEL } else { 0 };
        let peer = PeerEntry(Peer { node: ip.into(), flags, vtep_mac: vtep_mac(ip), padding: [0; 2] });
        let length = V4_PREFIX + u32::from(pods.prefix_len());
        self.peers.insert((pods.network().into(), length), peer);
        let route = match tunnel {
            Some(index) => {
                // What a node sends through the tunnel is answered through it, not past it.
                self.peers.insert((ip.into(), 128), peer);
                Route { destination: pods, gateway: None, interface: index, source: Some(local.address) }
            }
            None => {
                Route { destination: pods, gateway: Some(ip), interface: local.uplink, source: Some(local.address) }
            }
        };
        self.routes.insert(route);
    }
}
