//! Pods, peers and addresses of nodes.

use crate::Addr;

/// A pod on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The host side of its veth pair.
    pub ifindex: u32,
    /// MAC address of its own side.
    pub mac: [u8; 6],
    /// MAC address of the host side.
    pub host_mac: [u8; 6],
    /// Zero.
    pub flags: u32,
}

/// Another node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node's address.
    pub node: Addr,
    /// [`peer_flags`].
    pub flags: u32,
    /// MAC address of its VXLAN device.
    pub vtep_mac: [u8; 6],
    /// Zero.
    pub padding: [u8; 2],
}

/// Bits of [`Peer::flags`].
pub mod peer_flags {
    /// Reached through VXLAN; without it, by the uplink's link.
    pub const TUNNEL: u32 = 1;
}

/// Values of the node address map.
pub mod node_address_flags {
    /// An address of this node.
    pub const LOCAL: u32 = 1;
    /// An address of another node.
    pub const PEER: u32 = 2;
}

/// Values of the load balancer address map.
pub mod lb_address_flags {
    /// This node answers ARP for it.
    pub const OWNED: u32 = 1;
}
