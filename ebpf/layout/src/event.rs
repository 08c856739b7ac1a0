//! Flow events and drop reasons.

use crate::{Addr, Port};

/// A packet was dropped or refused; [`Event::reason`] says why.
pub const EVENT_DROP: u8 = 1;
/// A flow began. Reported only while [`crate::map::WATCHED`] says so.
pub const EVENT_NEW_FLOW: u8 = 2;

/// One record of the event ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Kernel's monotonic clock, in nanoseconds.
    pub at_ns: u64,
    /// The packet's source.
    pub src: Addr,
    /// The packet's destination.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// IP protocol.
    pub proto: u8,
    /// [`EVENT_DROP`] or [`EVENT_NEW_FLOW`].
    pub kind: u8,
    /// A [`DropReason`], as its number; 0 for none.
    pub reason: u8,
    /// A [`crate::Direction`], as its number, where a pod's own hook saw the packet; else 0.
    pub direction: u8,
    /// The interface where the program ran.
    pub ifindex: u32,
    /// Length of the packet in bytes.
    pub length: u32,
    /// [`crate::Service::id`]; 0 for none.
    pub service: u32,
    /// The backend's id; 0 for none.
    pub backend: u32,
}

/// Why a packet was dropped or refused. The numbers index the drop counters.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A service without a ready endpoint: refused.
    NoBackend = 1,
    /// A pod sent from an address that is not its own.
    SpoofedSource = 2,
    /// No port was free for source NAT.
    NatPortsExhausted = 3,
    /// The packet could not be rewritten (the kernel had no memory, or it is truncated).
    RewriteFailed = 4,
    /// An address in the service range where no service is: refused.
    NoSuchService = 5,
    /// The time to live ran out.
    TtlExpired = 6,
    /// Sent into the tunnel for an address that no peer has.
    NoPeer = 7,
    /// `externalTrafficPolicy: Local` and no endpoint on this node.
    NoLocalBackend = 8,
    /// The client is in none of the service's `loadBalancerSourceRanges`.
    SourceNotAllowed = 9,
    /// No policy of the destination allows it.
    PolicyIngress = 16,
    /// No policy of the source allows it.
    PolicyEgress = 17,
}

impl DropReason {
    /// Size of the counters' array: more than the largest number.
    pub const COUNT: u32 = 24;

    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::NoBackend,
        Self::SpoofedSource,
        Self::NatPortsExhausted,
        Self::RewriteFailed,
        Self::NoSuchService,
        Self::TtlExpired,
        Self::NoPeer,
        Self::NoLocalBackend,
        Self::SourceNotAllowed,
        Self::PolicyIngress,
        Self::PolicyEgress,
    ];

    /// As metrics and `xebec flows` name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no-backend",
            Self::SpoofedSource => "spoofed-source",
            Self::NatPortsExhausted => "nat-ports-exhausted",
            Self::RewriteFailed => "rewrite-failed",
            Self::NoSuchService => "no-such-service",
            Self::TtlExpired => "ttl-expired",
            Self::NoPeer => "no-peer",
            Self::NoLocalBackend => "no-local-backend",
            Self::SourceNotAllowed => "source-not-allowed",
            Self::PolicyIngress => "policy-ingress",
            Self::PolicyEgress => "policy-egress",
        }
    }
}
