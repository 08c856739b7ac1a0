//! The uplink's flow table: what to make of a packet, by its five-tuple.
//!
//! A translated connection has two entries, one for each direction, each holding the tuple to write. The table is LRU:
//! when it is full the longest unused go. A lost forward entry is made again from the service and the surviving
//! reverse entry, whose port allocation starts at the same place for the same client.

use crate::{Addr, Port};

/// A packet's five-tuple as it arrives. For ICMP echo, of either family, the identifier stands in for the requester's port, and 0 for the
/// other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// What becomes of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address to write.
    pub src: Addr,
    /// Destination address to write.
    pub dst: Addr,
    /// Source port to write.
    pub src_port: Port,
    /// Destination port to write.
    pub dst_port: Port,
    /// A [`FlowKind`], as its number.
    pub kind: u8,
    /// [`flow_flags`].
    pub flags: u8,
    /// Zero.
    pub padding: u16,
    /// [`crate::Service::id`], 0 for masquerade.
    pub service: u32,
    /// The backend's id, to notice when it is gone; 0 for masquerade.
    pub backend: u32,
    /// Kernel's monotonic clock at the last packet, in seconds.
    pub last_seen_s: u32,
    /// The same at the packet that the entry was made for, in microseconds, of which these are the last 32 bits.
    pub begun_us: u32,
}

/// Which side of which translation an entry is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// From a client outside to a service.
    ServiceForward = 1,
    /// From the backend to the client.
    ServiceReply = 2,
    /// From a pod to the world outside.
    MasqueradeForward = 3,
    /// And back.
    MasqueradeReply = 4,
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// A packet came back: the connection stands.
    pub const REPLIED: u8 = 1;
    /// FIN or RST was seen.
    pub const CLOSING: u8 = 2;
    /// A policy's connection: the pod sent its FIN.
    pub const POD_FINISHED: u8 = 4;
    /// A policy's connection: the peer sent its FIN.
    pub const PEER_FINISHED: u8 = 8;
    /// Came through the tunnel from the node that the client addressed, and is answered directly.
    pub const DIRECT_RETURN: u8 = 16;
}

/// Places in [`crate::map::FLOW_COUNTERS`].
pub mod flow_counters {
    /// Entries that were added to the flow table. Those of them that are not there any more were evicted: nothing else
    /// removes one.
    pub const ADDED: u32 = 0;
    /// Packets of known flows that the uplink's XDP program has carried.
    pub const CARRIED_BY_XDP: u32 = 1;
    /// Size of the array.
    pub const COUNT: u32 = 2;
}

/// A datagram in fragments: its later ones have no ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The datagram's identification; of IPv4's 16 bits.
    pub id: u32,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// The ports that its first fragment has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramPorts {
    /// Source port.
    pub src: Port,
    /// Destination port.
    pub dst: Port,
}

impl FlowKey {
    /// The same five-tuple seen from the other side.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            proto: self.proto,
            padding: [0; 3],
        }
    }
}

impl Flow {
    /// Seconds after its last packet when a flow's port may be given to another.
    #[inline(always)]
    pub const fn idle_limit_s(&self, proto: u8) -> u32 {
        idle_limit_s(self.flags, proto)
    }
}

#[inline(always)]
pub(crate) const fn idle_limit_s(flags: u8, proto: u8) -> u32 {
    if flags & flow_flags::CLOSING != 0 {
        10
    } else if proto != crate::proto::TCP && proto != crate::proto::SCTP {
        120
    } else if flags & flow_flags::REPLIED != 0 {
        // RFC 5382 REQ-5: an established connection's mapping lasts at least 2 hours and 4 minutes.
        7_440
    } else {
        60
    }
}
