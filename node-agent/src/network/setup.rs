//! Prepares a node: kernel settings, the tunnel's device, the datapath.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::mpsc;
use xebec_cni::ipam::Pool;
use xebec_cni::netlink::{self, Link, Netlink};
use xebec_cni::sysctl;
use xebec_ebpf_loader::layout::{ALIVE_PORT, Addr, Config, Frontend, SocketKey};
use xebec_ebpf_loader::{Datapath, Events, Maps, Prefixes, Table};

use super::flow_table::FlowTable;
use super::peers::{Local, vtep_mac};
use super::pod_network::{Families, NodeNetwork};
use super::xdp::{self, Xdp};
use crate::check::{self, machine::ThisMachine};
use crate::policy::sync::PolicyMaps;
use crate::policy::{Ear, Gate, Lookups, Questions};
use crate::proxy::NameQuestion;
use crate::proxy::sync::{OwnPorts, ServiceMaps};
use crate::sight::{Sight, trace};

/// The tunnel's device.
pub const VXLAN_DEVICE: &str = "xb-vxlan";
/// IANA's port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4_789;
/// The one network in it.
const VNI: u32 = 7_653;
/// Outer Ethernet excluded: IP, UDP, VXLAN and the inner Ethernet header.
const VXLAN_OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// How much longer IPv6's header is.
const MORE_OF_V6: u32 = 20;
/// In a cluster without IPv4: as many bits of numbers for a node's pods as its range has addresses, but no more than these.
const NUMBER_BITS: u8 = 16;

/// What the tunnel between the nodes' addresses takes of a packet, of which this is one.
pub const fn vxlan_overhead(node: IpAddr) -> u32 {
    if node.is_ipv4() { VXLAN_OVERHEAD } else { VXLAN_OVERHEAD + MORE_OF_V6 }
}
/// Ports for source NAT: apart from NodePorts (30000 to 32767) and from Linux's range for outgoing sockets (32768 to
/// 60999), so that no socket of the node's own can have the tuple.
const NAT_PORTS: [u16; 2] = [10_240, 29_999];

/// When other nodes are reached through VXLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// Where the other node is not on the uplink's link.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: every node must be on the link.
    Never,
}

/// How a node forwards to a backend on another node what comes to it from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadBalancerMode {
    /// Under its own address; the answer comes back through it.
    #[default]
    Snat,
    /// As it came, through the tunnel; the backend's node answers the client itself.
    Dsr,
}

/// What the network needs to know.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// This node's name.
    pub node_name: String,
    /// The interface that has its address; none: look for it.
    pub uplink: Option<String>,
    /// What there is of IPv4.
    pub v4: Option<NetworkConfig4>,
    /// And of IPv6: at least one of the two.
    pub v6: Option<NetworkConfig6>,
    /// Whether pods' first addresses are those of IPv6, where there are both.
    pub v6_first: bool,
    /// First and last NodePort.
    pub node_ports: (u16, u16),
    /// When to tunnel.
    pub tunnel: Tunnel,
    /// When the uplink's driver forwards.
    pub xdp: Xdp,
    /// Whether pods reach the outside under the node's address.
    pub masquerade: bool,
    /// Where the BPF file system is, or is to be mounted: `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// The cgroup (v2) whose processes see services: the node's.
    pub cgroup: PathBuf,
    /// Where address leases are kept.
    pub lease_dir: PathBuf,
    /// The folder with the pods' network namespaces, by the pods' uids.
    pub pod_namespaces: PathBuf,
    /// The file with what domain names of policies have led to.
    pub domain_names: PathBuf,
}

/// What it needs to know of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkConfig4 {
    /// This node's address (`InternalIP`).
    pub node_address: Ipv4Addr,
    /// The node's range, of `spec.podCIDRs`.
    pub pod_cidr: Ipv4Net,
    /// All pods' range.
    pub cluster_cidr: Ipv4Net,
    /// All services' range.
    pub service_cidr: Ipv4Net,
}

/// What it needs to know of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkConfig6 {
    /// This node's address, on the same interface as the other. Beside IPv4 there may be none: then its pods reach no more than
    /// the cluster.
    pub node_address: Option<Ipv6Addr>,
    /// The node's range, of `spec.podCIDRs`.
    pub pod_cidr: Ipv6Net,
    /// All pods' range.
    pub cluster_cidr: Ipv6Net,
    /// All services' range.
    pub service_cidr: Ipv6Net,
}

impl NetworkConfig {
    /// The address that other nodes' networks know this one by, whichever family comes first; none if the configuration has neither family's.
    pub fn main_address(&self) -> Option<IpAddr> {
        let v6 = self.v6.and_then(|v6| v6.node_address).map(IpAddr::V6);
        self.v4.map(|v4| IpAddr::V4(v4.node_address)).or(v6)
    }

    /// The range that pods' leases are taken from: their IPv4 addresses, or, where there are none, numbers that their IPv6
    /// addresses go with.
    fn leases(&self) -> Ipv4Net {
        match (self.v4, self.v6) {
            (Some(v4), _) => v4.pod_cidr,
            (None, v6) => {
                let bits = v6.map_or(NUMBER_BITS, |v6| 128 - v6.pod_cidr.prefix_len()).min(NUMBER_BITS);
                Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32 - bits)
            }
        }
    }
}

/// Why the network is not up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Something the kernel lacks.
    #[error("this machine's kernel lacks what the network needs:\n{0}")]
    Kernel(check::Report),
    /// The node has no address that the cluster could use.
    #[error("the node has no address of the cluster's family: give --node-ip")]
    NoAddress,
    /// No interface has the node's address.
    #[error("no interface {} has the node's address {address}: name the right one as uplink, or the right address", interface.as_deref().unwrap_or("of this machine"))]
    NoUplink {
        /// The node's address.
        address: IpAddr,
        /// The interface that was named, if one was.
        interface: Option<String>,
    },
    /// Routes, addresses or devices.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Kernel settings.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// The datapath.
    #[error(transparent)]
    Datapath(#[from] xebec_ebpf_loader::Error),
}

/// A node's network, ready.
pub struct Network {
    /// Connects pods.
    pub pods: Arc<NodeNetwork>,
    /// For [`crate::proxy::run`].
    pub services: ServiceMaps,
    /// For [`crate::proxy::run`]: sockets whose peer's address was translated.
    pub sockets: Table<SocketKey, Frontend>,
    /// The uplink's flow table.
    pub flow_table: FlowTable,
    /// For [`super::run::run`].
    pub peers: PeerMaps,
    /// For [`crate::policy::run`]: until that runs, no pod is connected.
    pub policy: (PolicyMaps, (Questions, Lookups)),
    /// For the DNS server.
    pub ear: Ear,
    /// For [`Sight::run`], and for the kubelet API.
    pub sight: (Arc<Sight>, Events),
    /// For [`crate::proxy::run`].
    pub names_asked: mpsc::Receiver<NameQuestion>,
    /// For [`super::run::run`]: this node.
    pub local: Local,
    /// The uplink.
    pub uplink: Link,
}

/// The maps that depend on other nodes.
pub struct PeerMaps {
    /// Other nodes.
    pub peers: Prefixes<xebec_ebpf_loader::layout::Peer>,
    /// Nodes' addresses.
    pub node_addresses: Table<Addr, u32>,
    /// Load balancer addresses.
    pub lb_addresses: Table<Addr, u32>,
    /// The way to who had those before that have moved here.
    pub former_owners: Table<Addr, Addr>,
}

impl Network {
    /// Brings the node's network up, or takes it over from an agent that was here before: no connection breaks. Blocks for
    /// about a tenth of a second.
    pub fn start(config: &NetworkConfig) -> Result<Self, SetupError> {
        let report = check::network(&ThisMachine, &config.cgroup);
        if !report.is_sufficient() {
            return Err(SetupError::Kernel(report));
        }
        sysctl::prepare_node()?;
        let address = config.main_address().ok_or(SetupError::NoAddress)?;
        let mut netlink = Netlink::open()?;
        let uplink = find_uplink(&mut netlink, config, address)?;
        sysctl::set(&format!("net/ipv4/conf/{}/rp_filter", uplink.name), "0")?;
        if let Some(v4) = &config.v4 {
            netlink.set_unreachable(v4.pod_cidr.trunc().into())?;
        }
        if let Some(v6) = &config.v6 {
            prepare_v6(&mut netlink, v6, &uplink)?;
        }
        let vxlan = match config.tunnel {
            Tunnel::Never => None,
            Tunnel::Auto => ensure_vxlan(&mut netlink, address, &uplink)
                .inspect_err(|error| tracing::warn!(%error, "no VXLAN: only nodes on the link can be reached"))
                .ok(),
            Tunnel::Always => Some(ensure_vxlan(&mut netlink, address, &uplink)?),
        };
        let programs = datapath_config(config, address, &uplink, vxlan.as_ref());
        let (mut datapath, maps) = Datapath::load(&config.bpffs, &programs)?;
        datapath.attach_sockets(&config.cgroup)?;
        datapath.attach_uplink(uplink.index)?;
        let xdp = xdp::apply(config.xdp, &mut datapath, &uplink)?;
        match &vxlan {
            Some(link) => datapath.attach_overlay(link.index)?,
            None => datapath.detach_overlay()?,
        }
        let local = local(&mut netlink, config, address, &uplink, vxlan.as_ref())?;
        let Maps {
            services,
            slots,
            members,
            source_ranges,
            backends,
            service_counters,
            sockets,
            flows,
            flow_counters,
            local_pods,
            peers,
            node_addresses,
            lb_addresses,
            former_owners,
            ..
        } = maps;
        let policy = PolicyMaps {
            identities: maps.identities,
            blocks: maps.blocks,
            rules: maps.rules,
            revision: maps.revision,
            connections: maps.connections,
        };
        let seen = datapath.open_maps()?;
        let traced = trace::Datapath {
            bpffs: config.bpffs.clone(),
            config: programs,
            pod_namespaces: config.pod_namespaces.clone(),
        };
        let (ask, names_asked) = mpsc::channel(8);
        let (gate, questions) = Gate::new();
        let (ear, lookups) = Ear::new(config.domain_names.clone());
        let pool = Pool::new(&config.lease_dir, config.leases());
        let mtu = pod_mtu(config.tunnel, address, &uplink);
        let families = Families { node: config.v4.map(|v4| v4.node_address), v6: config.v6, v6_first: config.v6_first };
        let pods = NodeNetwork::new(pool, mtu, families, datapath, local_pods, gate);
        Ok(Self {
            pods: Arc::new(pods),
            services: ServiceMaps {
                services,
                slots,
                members,
                source_ranges,
                backends,
                service_counters,
                own_ports: OwnPorts::new(&programs, maps.own_ports),
            },
            sockets,
            flow_table: FlowTable { flows, counters: flow_counters },
            peers: PeerMaps { peers, node_addresses, lb_addresses, former_owners },
            policy: (policy, (questions, lookups)),
            sight: (Sight::new(&config.node_name, seen, xdp, traced, (ask, ear.clone())), maps.events),
            ear,
            names_asked,
            local,
            uplink,
        })
    }
}

/// The kernel's settings for IPv6, and the address that is said to be the node's.
fn prepare_v6(netlink: &mut Netlink, v6: &NetworkConfig6, uplink: &Link) -> Result<(), SetupError> {
    // Forwarding turns off what the uplink hears of routers, unless it is told to listen all the same.
    sysctl::set(&format!("net/ipv6/conf/{}/accept_ra", uplink.name), "2")?;
    sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
    if let Some(address) = v6.node_address {
        let here = netlink.addresses6()?.iter().any(|(index, net)| *index == uplink.index && net.addr() == address);
        if !here {
            return Err(SetupError::NoUplink { address: address.into(), interface: Some(uplink.name.clone()) });
        }
    }
    Ok(netlink.set_unreachable(v6.pod_cidr.trunc().into())?)
}

/// With the tunnel only for some peers, packets for those that are too large are fragmented or refused with "fragmentation
/// needed"; all others keep the link's full size.
fn pod_mtu(tunnel: Tunnel, address: IpAddr, uplink: &Link) -> u32 {
    match tunnel {
        Tunnel::Always => uplink.mtu.saturating_sub(vxlan_overhead(address)),
        Tunnel::Auto | Tunnel::Never => uplink.mtu,
    }
}

fn find_uplink(netlink: &mut Netlink, config: &NetworkConfig, address: IpAddr) -> Result<Link, SetupError> {
    let addresses = netlink.all_addresses()?;
    let found = netlink.links()?.into_iter().find(|link| {
        config.uplink.as_ref().is_none_or(|name| *name == link.name)
            && addresses.iter().any(|(index, net)| *index == link.index && net.addr() == address)
    });
    found.ok_or_else(|| SetupError::NoUplink { address, interface: config.uplink.clone() })
}

fn ensure_vxlan(netlink: &mut Netlink, address: IpAddr, uplink: &Link) -> Result<Link, netlink::Error> {
    let mac = vtep_mac(address);
    let mtu = uplink.mtu.saturating_sub(vxlan_overhead(address));
    let mut link = netlink.link(VXLAN_DEVICE)?;
    if link.as_ref().is_some_and(|link| link.kind != "vxlan" || link.mac != mac) {
        netlink.delete_link(VXLAN_DEVICE)?;
        link = None;
    }
    if link.is_none() {
        netlink.create_vxlan(VXLAN_DEVICE, VXLAN_PORT, mac, mtu)?;
        link = netlink.link(VXLAN_DEVICE)?;
    }
    let link = link.ok_or_else(|| netlink::Error {
        action: format!("find interface {VXLAN_DEVICE}"),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    })?;
    if link.mtu != mtu {
        netlink.set_mtu(link.index, mtu)?;
    }
    // Its neighbours are worked out, not asked for.
    netlink.set_up(link.index, false)?;
    Ok(Link { mtu, ..link })
}

fn local(
    netlink: &mut Netlink,
    config: &NetworkConfig,
    address: IpAddr,
    uplink: &Link,
    vxlan: Option<&Link>,
) -> Result<Local, SetupError> {
    let counts = |net: &IpNet| match net {
        IpNet::V4(_) => config.v4.is_some(),
        IpNet::V6(v6) => config.v6.is_some() && !v6.addr().is_unicast_link_local(),
    };
    let all = netlink.all_addresses()?.into_iter().filter(|(index, net)| *index == uplink.index && counts(net));
    let on_uplink: Vec<IpNet> = all.map(|(_, net)| net).collect();
    let mut addresses: BTreeSet<IpAddr> = on_uplink.iter().map(IpNet::addr).collect();
    addresses.insert(address);
    Ok(Local {
        name: config.node_name.clone(),
        addresses,
        address,
        address6: config.v6.and_then(|v6| v6.node_address),
        uplink: uplink.index,
        on_link: on_uplink.iter().filter(|net| net.prefix_len() < net.max_prefix_len()).map(IpNet::trunc).collect(),
        vxlan: vxlan.map(|link| link.index),
        tunnel: config.tunnel,
    })
}

/// The ports that the kernel gives the node's sockets, unless some of them may be others'.
fn own_ports(node_ports: (u16, u16)) -> [u16; 2] {
    let Some([first, last]) = sysctl::local_ports() else { return [0; 2] };
    let apart = |from: u16, to: u16| last < from || to < first;
    let others = [(NAT_PORTS[0], NAT_PORTS[1]), node_ports, (ALIVE_PORT, ALIVE_PORT)];
    if others.into_iter().all(|(from, to)| apart(from, to)) { [first, last] } else { [0; 2] }
}

fn datapath_config(config: &NetworkConfig, address: IpAddr, uplink: &Link, vxlan: Option<&Link>) -> Config {
    let word = |ip: Ipv4Addr| Addr::from(ip).v4_word();
    let addr = |ip: Ipv6Addr| Addr::from(IpAddr::V6(ip));
    // Without IPv4, ranges that no address is in.
    let none = Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32);
    let none =
        NetworkConfig4 { node_address: Ipv4Addr::UNSPECIFIED, pod_cidr: none, cluster_cidr: none, service_cidr: none };
    let v4 = config.v4.unwrap_or(none);
    let v4 = Config {
        node: v4.node_address.into(),
        uplink_ifindex: uplink.index,
        vxlan_ifindex: vxlan.map_or(0, |link| link.index),
        vni: VNI,
        cluster_net: word(v4.cluster_cidr.network()),
        cluster_mask: word(v4.cluster_cidr.netmask()),
        pod_net: word(v4.pod_cidr.network()),
        pod_mask: word(v4.pod_cidr.netmask()),
        service_net: word(v4.service_cidr.network()),
        service_mask: word(v4.service_cidr.netmask()),
        node_ports: [config.node_ports.0, config.node_ports.1],
        nat_ports: NAT_PORTS,
        own_ports: own_ports(config.node_ports),
        vxlan_mtu: vxlan.map_or(0, |_| uplink.mtu.saturating_sub(VXLAN_OVERHEAD)),
        uplink_mac: uplink.mac,
        masquerade: u8::from(config.masquerade),
        vxlan_mac: vtep_mac(address),
        ..Config::ZERO
    };
    let Some(v6) = &config.v6 else { return v4 };
    Config {
        dual_stack: 1,
        node6: v6.node_address.map_or(Addr::UNSPECIFIED, addr),
        cluster6_net: addr(v6.cluster_cidr.network()),
        cluster6_mask: addr(v6.cluster_cidr.netmask()),
        pod6_net: addr(v6.pod_cidr.network()),
        pod6_mask: addr(v6.pod_cidr.netmask()),
        service6_net: addr(v6.service_cidr.network()),
        service6_mask: addr(v6.service_cidr.netmask()),
        ..v4
    }
}
