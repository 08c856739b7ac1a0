//! What the other nodes call for: routes, peers of the tunnel, addresses that NodePorts are served on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use xebec_cni::netlink::{Mac, Route};
use xebec_ebpf_loader::layout::{Addr, Peer, node_address_flags, peer_flags};

use super::mtu::{self, Paths};
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
    pub addresses: BTreeSet<IpAddr>,
    /// The address that others know it by: of IPv4, if the cluster has that.
    pub address: IpAddr,
    /// Its IPv6 address, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// The interface that has them.
    pub uplink: u32,
    /// The networks on that interface's link.
    pub on_link: Vec<IpNet>,
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
pub fn vtep_mac(node: IpAddr) -> Mac {
    match node {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x0a, 0x5a, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            // FNV-1a: nodes' addresses may differ in any of their bytes.
            let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            let [a, b, c, d] = v6.octets().into_iter().fold(0x811c_9dc5, mix).to_be_bytes();
            [0x0a, 0x5b, a, b, c, d]
        }
    }
}

/// Works it out.
pub fn plan<'a>(nodes: impl Iterator<Item = &'a Node>, local: &Local, paths: &Paths) -> Plan {
    let mut plan = Plan::default();
    for node in nodes {
        let name = &node.metadata.name;
        if *name == local.name {
            continue;
        }
        for ip in node.ips() {
            plan.node_addresses.insert(ip.into(), node_address_flags::PEER);
        }
        let Some(ip) = node.internal_like(local.address) else { continue };
        if ip.is_ipv4() {
            // A node that has only just joined has no range yet.
            let Some(pods) = node.pod_cidr() else { continue };
            match way(ip, local) {
                Ok(tunnel) => plan.add_peer(ip, ip, pods.trunc().into(), tunnel, (local, paths)),
                Err(reason) => {
                    plan.unreachable.insert(name.clone(), reason);
                    continue;
                }
            }
        }
        let Some(pods6) = node.pod_cidr6() else { continue };
        let (neighbour, tunnel) = match (local.address6, node.internal_ip6()) {
            (Some(_), Some(ip6)) => (ip6.into(), way(ip6.into(), local)),
            // One of the two has no IPv6 address: the tunnel, which is one of IPv4, carries it all the same.
            _ => (ip, tunnel(ip, local)),
        };
        match tunnel {
            Ok(tunnel) => plan.add_peer(ip, neighbour, pods6.trunc().into(), tunnel, (local, paths)),
            Err(reason) => {
                plan.unreachable.insert(name.clone(), format!("by IPv6: {reason}"));
            }
        }
    }
    for ip in &local.addresses {
        plan.node_addresses.insert((*ip).into(), node_address_flags::LOCAL);
    }
    plan
}

/// The tunnel's interface, or none for the link.
fn way(ip: IpAddr, local: &Local) -> Result<Option<u32>, String> {
    let is_neighbour = local.on_link.iter().any(|net| net.contains(&ip));
    match local.tunnel {
        Tunnel::Never if !is_neighbour => {
            Err(format!("{ip} is not on this node's link and tunnels are off: set tunnel to auto"))
        }
        Tunnel::Never => Ok(None),
        Tunnel::Auto if is_neighbour => Ok(None),
        Tunnel::Auto | Tunnel::Always => tunnel(ip, local),
    }
}

fn tunnel(ip: IpAddr, local: &Local) -> Result<Option<u32>, String> {
    match (local.tunnel, local.vxlan) {
        (Tunnel::Never, _) => Err(format!("{ip} needs the tunnel and tunnels are off: set tunnel to auto")),
        (_, Some(index)) => Ok(Some(index)),
        (_, None) => Err(format!("{ip} needs the tunnel and the kernel has no VXLAN: load the module vxlan")),
    }
}

impl Plan {
    /// `ip` is the node's address at the end of the tunnel, `neighbour` that of the pods' family if it has one.
    fn add_peer(
        &mut self,
        ip: IpAddr,
        neighbour: IpAddr,
        pods: IpNet,
        tunnel: Option<u32>,
        (local, paths): (&Local, &Paths),
    ) {
        let (flags, node) = match tunnel {
            Some(_) => (peer_flags::TUNNEL, ip),
            None => (0, neighbour),
        };
        // Both families take the same path.
        let mtu = mtu::limit(paths, ip, tunnel.is_some());
        let peer = PeerEntry(Peer { node: node.into(), flags, vtep_mac: vtep_mac(ip), mtu });
        let offset = if matches!(pods, IpNet::V4(_)) { V4_PREFIX } else { 0 };
        self.peers.insert((pods.network().into(), offset + u32::from(pods.prefix_len())), peer);
        let source = match pods {
            IpNet::V4(_) => Some(local.address),
            IpNet::V6(_) => local.address6.map(IpAddr::V6),
        };
        let route = match tunnel {
            Some(index) => {
                // What a node sends through the tunnel is answered through it, not past it.
                self.peers.insert((neighbour.into(), 128), peer);
                Route { destination: pods, gateway: None, interface: index, source }
            }
            None => Route { destination: pods, gateway: Some(neighbour), interface: local.uplink, source },
        };
        self.routes.insert(route);
    }
}
