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
    /// Kernel's monotonic clock in seconds when policies first selected the pod; 0 if they did from its beginning, or
    /// never did. Connections that stood then are judged by who seems to have begun them.
    pub isolated_at_s: u32,
    /// The rule set for connections to it; zeros: all are allowed.
    pub ingress: [u32; 2],
    /// The rule set for connections from it; zeros: all are allowed.
    pub egress: [u32; 2],
}

impl LocalPod {
    /// All zeros.
    pub const NOWHERE: Self =
        Self { ifindex: 0, mac: [0; 6], host_mac: [0; 6], flags: 0, isolated_at_s: 0, ingress: [0; 2], egress: [0; 2] };

    /// Whether policies select the pod.
    #[inline(always)]
    pub const fn is_isolated(&self) -> bool {
        self.ingress[0] | self.ingress[1] | self.egress[0] | self.egress[1] != 0
    }
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
    /// The largest packet that gets there, in bytes of IP, where that is less than the link or the tunnel carries; else 0.
    pub mtu: u16,
}

/// How many bytes of the packets of the benchmark of XDP are given: Ethernet, IPv4 and TCP without options, and two more.
pub const YARDSTICK_BYTES: usize = 56;

/// Where a node's datapath answers that it lives (UDP).
pub const ALIVE_PORT: u16 = 10_254;
/// What it is asked, and what it answers.
pub const ALIVE_QUESTION: [u8; 8] = *b"xbalive1";

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
