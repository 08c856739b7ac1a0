//! What is set when the programs are loaded.

use crate::Addr;

/// The programs' one global. The verifier sees its fields as constants, so a branch that a node does not need costs
/// it nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's main address: the source of what it forwards on behalf of others.
    pub node: Addr,
    /// The interface that has it.
    pub uplink_ifindex: u32,
    /// The collect-metadata VXLAN device; 0 where there is none.
    pub vxlan_ifindex: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// All pods of the cluster: network, as on the wire.
    pub cluster_net: u32,
    /// Its mask, as on the wire.
    pub cluster_mask: u32,
    /// The pods of this node: network, as on the wire.
    pub pod_net: u32,
    /// Its mask, as on the wire.
    pub pod_mask: u32,
    /// Addresses of services: network, as on the wire.
    pub service_net: u32,
    /// Its mask, as on the wire.
    pub service_mask: u32,
    /// First and last NodePort, in the machine's byte order.
    pub node_ports: [u16; 2],
    /// First and last port that source NAT may take, in the machine's byte order. Apart from NodePorts and from the
    /// range that the node's own sockets are given.
    pub nat_ports: [u16; 2],
    /// The largest packet that fits into the tunnel between IPv4 addresses, in bytes of IP; between those of IPv6, 20 less.
    pub vxlan_mtu: u32,
    /// The uplink's MAC address.
    pub uplink_mac: [u8; 6],
    /// 1: the decisions on each packet are written to [`crate::map::TRACE`]. Only in copies that see made-up packets.
    pub trace: u8,
    /// 1 if pods may reach the world outside the cluster under the node's address.
    pub masquerade: u8,
    /// The VXLAN device's own MAC address.
    pub vxlan_mac: [u8; 6],
    /// 1: there is IPv6, too; else the programs leave it to the kernel.
    pub dual_stack: u8,
    /// Zero.
    pub padding: u8,
    /// The node's main IPv6 address; zeros if it has none.
    pub node6: Addr,
    /// All IPv6 pods of the cluster: network.
    pub cluster6_net: Addr,
    /// Its mask.
    pub cluster6_mask: Addr,
    /// The IPv6 pods of this node: network.
    pub pod6_net: Addr,
    /// Its mask.
    pub pod6_mask: Addr,
    /// IPv6 addresses of services: network.
    pub service6_net: Addr,
    /// Its mask.
    pub service6_mask: Addr,
    /// First and last port that the node's own sockets are given for connections, in the machine's byte order; zeros if any of
    /// them may be source NAT's or a NodePort. See [`crate::map::OWN_PORTS`].
    pub own_ports: [u16; 2],
    /// Zero; room for what comes without a new layout.
    pub reserved: [u8; 4],
}

impl Config {
    /// What an object file holds before the loader sets it.
    pub const ZERO: Self = Self {
        node: Addr::UNSPECIFIED,
        uplink_ifindex: 0,
        vxlan_ifindex: 0,
        vni: 0,
        cluster_net: 0,
        cluster_mask: 0,
        pod_net: 0,
        pod_mask: 0,
        service_net: 0,
        service_mask: 0,
        node_ports: [0; 2],
        nat_ports: [0; 2],
        vxlan_mtu: 0,
        uplink_mac: [0; 6],
        trace: 0,
        masquerade: 0,
        vxlan_mac: [0; 6],
        dual_stack: 0,
        padding: 0,
        node6: Addr::UNSPECIFIED,
        cluster6_net: Addr::UNSPECIFIED,
        cluster6_mask: Addr::UNSPECIFIED,
        pod6_net: Addr::UNSPECIFIED,
        pod6_mask: Addr::UNSPECIFIED,
        service6_net: Addr::UNSPECIFIED,
        service6_mask: Addr::UNSPECIFIED,
        own_ports: [0; 2],
        reserved: [0; 4],
    };
}
