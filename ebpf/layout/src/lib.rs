#![no_std]
//! What is in the eBPF maps: the one definition that the programs and the agent share.
//!
//! Every type is `repr(C)`, has no hidden padding, and its size and alignment are asserted at compile time. Addresses
//! are 16 bytes, IPv4 as v4-mapped IPv6 (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), so that one program text serves
//! both families. Addresses and ports are in network byte order, as on the wire; everything else is in the machine's.

mod address;
mod config;
mod event;
mod flow;
mod network;
mod policy;
mod service;
mod trace;

pub use address::{Addr, Port};
pub use config::Config;
pub use event::{DropReason, EVENT_DROP, EVENT_NEW_FLOW, Event};
pub use flow::{DatagramKey, DatagramPorts, Flow, FlowKey, FlowKind, flow_counters, flow_flags};
pub use network::{
    ALIVE_PORT, ALIVE_QUESTION, LocalPod, Peer, YARDSTICK_BYTES, lb_address_flags, node_address_flags, peer_flags,
};
pub use policy::{Connection, DENY_ALL, Direction, FragmentKey, RuleKey, verdict};
pub use service::{
    Affinity, AffinityKey, Backend, CLIENT_NAMESPACE, CLIENT_SOCKET, Chunk, ChunkKey, Frontend, MemberKey,
    SCOPE_CLUSTER, SCOPE_EXTERNAL, SLOTS_PER_CHUNK, SOURCE_RANGE_BITS, Service, ServiceCounters, ServiceKey, SocketKey,
    SourceRange, Stream, connect_bucket, service_flags,
};
pub use service::{CONNECT_BUCKETS, ConnectTimes};
pub use trace::{StepKind, TRACE_STEPS, TraceLog, TraceStep};

/// The version of this layout; part of the path where maps are pinned. Add one with every change that makes an
/// existing map unreadable.
pub const VERSION: u32 = 6;

/// The maps' names, as they are pinned and as the programs' object file has them.
pub mod map {
    /// [`super::ServiceKey`] to [`super::Service`].
    pub const SERVICES: &str = "SERVICES";
    /// [`super::ChunkKey`] to [`super::Chunk`]: the slots of backend sets.
    pub const SLOTS: &str = "SLOTS";
    /// [`super::MemberKey`] to 1, of sets whose clients stay with their backend.
    pub const MEMBERS: &str = "MEMBERS";
    /// [`super::AffinityKey`] to [`super::Affinity`].
    pub const AFFINITY: &str = "AFFINITY";
    /// Prefixes of [`super::SourceRange`] to 1.
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// A backend's id to [`super::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// [`super::Service::id`] to [`super::ServiceCounters`].
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    /// [`super::SocketKey`] to [`super::Frontend`].
    pub const SOCKETS: &str = "SOCKETS";
    /// The kernel's number of a TCP socket to [`super::Stream`].
    pub const STREAMS: &str = "STREAMS";
    /// [`super::FlowKey`] to [`super::Flow`].
    pub const FLOWS: &str = "FLOWS";
    /// Per-CPU counts by [`super::flow_counters`].
    pub const FLOW_COUNTERS: &str = "FLOW_COUNTERS";
    /// [`super::DatagramKey`] to [`super::DatagramPorts`].
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// A pod's [`super::Addr`] to [`super::LocalPod`].
    pub const LOCAL_PODS: &str = "LOCAL_PODS";
    /// A prefix of addresses to the [`super::Peer`] that has them.
    pub const PEERS: &str = "PEERS";
    /// A node's [`super::Addr`] to [`super::node_address_flags`].
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// A load balancer [`super::Addr`] to [`super::lb_address_flags`].
    pub const LB_ADDRESSES: &str = "LB_ADDRESSES";
    /// A load balancer [`super::Addr`] that has moved here to an [`super::Addr`] at the node that had it before.
    pub const FORMER_OWNERS: &str = "FORMER_OWNERS";
    /// A pod's [`super::Addr`] to its identity.
    pub const IDENTITIES: &str = "IDENTITIES";
    /// A prefix of addresses to the identity of those in it that are in no longer one.
    pub const BLOCKS: &str = "BLOCKS";
    /// A prefix of [`super::RuleKey`] to a [`super::verdict`].
    pub const RULES: &str = "RULES";
    /// [`super::FlowKey`], as the pod sends, to [`super::Connection`].
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// One number, raised after each change of the policies.
    pub const REVISION: &str = "REVISION";
    /// One [`super::own_ports`].
    pub const OWN_PORTS: &str = "OWN_PORTS";
    /// One number: until when (kernel's monotonic clock, in seconds) somebody wants to be told of new flows.
    pub const WATCHED: &str = "WATCHED";
    /// Per-CPU packet counts by [`super::DropReason`].
    pub const DROPS: &str = "DROPS";
    /// One [`super::TraceLog`], of a copy of the programs that is there to trace.
    pub const TRACE: &str = "TRACE";
    /// The ring of [`super::Event`]s.
    pub const EVENTS: &str = "EVENTS";

    /// Those that know open connections, which another version of the layout takes over too, if their entries' sizes are
    /// the same. A change of what is in them at the same size therefore needs another name.
    pub const CARRIED_OVER: [&str; 5] = [AFFINITY, SOCKETS, STREAMS, FLOWS, DATAGRAMS];

    /// Those that a made-up packet leaves a trace in: a copy of the programs that is there for such packets has its own.
    pub const PRIVATE_IN_TRACE: [&str; 11] = [
        AFFINITY,
        SERVICE_COUNTERS,
        SOCKETS,
        STREAMS,
        FLOWS,
        FLOW_COUNTERS,
        DATAGRAMS,
        CONNECTIONS,
        WATCHED,
        DROPS,
        EVENTS,
    ];

    /// Those that outlive the agent. (`EVENTS` does too: a reader that reopens it goes on where it was.)
    pub const PINNED: [&str; 26] = [
        SERVICES,
        SLOTS,
        MEMBERS,
        AFFINITY,
        SOURCE_RANGES,
        BACKENDS,
        SERVICE_COUNTERS,
        SOCKETS,
        STREAMS,
        FLOWS,
        FLOW_COUNTERS,
        DATAGRAMS,
        LOCAL_PODS,
        PEERS,
        NODE_ADDRESSES,
        LB_ADDRESSES,
        FORMER_OWNERS,
        IDENTITIES,
        BLOCKS,
        RULES,
        CONNECTIONS,
        REVISION,
        OWN_PORTS,
        WATCHED,
        DROPS,
        EVENTS,
    ];
}

/// Whether a service may have a port of [`Config::own_ports`] at the node's own address: a frontend, or a backend. If none
/// has, the uplink's programs have nothing to do with packets of such ports.
pub mod own_ports {
    /// The agent has not said yet.
    pub const UNKNOWN: u32 = 0;
    /// None has, or ever had.
    pub const UNSHARED: u32 = 1;
    /// One has, or had: connections to it may be open still. It stays so.
    pub const SHARED: u32 = 2;
}

/// IP protocol numbers (IANA).
pub mod proto {
    /// Internet Control Message Protocol, RFC 792.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}

/// Marks the types as plain data for aya's user side, and asserts their layout.
macro_rules! layout {
    ($($name:ident: size $size:literal align $align:literal;)*) => {
        $(
            const _: () = assert!(core::mem::size_of::<$name>() == $size, "size changed: raise VERSION");
            const _: () = assert!(core::mem::align_of::<$name>() == $align, "alignment changed: raise VERSION");
            // SAFETY: repr(C), every bit pattern is valid, and the sizes asserted above leave no hidden padding.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $name {}
        )*
    };
}

layout! {
    Addr: size 16 align 4;
    Port: size 2 align 2;
    ServiceKey: size 20 align 4;
    Service: size 20 align 4;
    ChunkKey: size 8 align 4;
    Chunk: size 64 align 4;
    MemberKey: size 8 align 4;
    AffinityKey: size 20 align 4;
    Affinity: size 8 align 4;
    SourceRange: size 20 align 4;
    Backend: size 20 align 4;
    ConnectTimes: size 96 align 8;
    ServiceCounters: size 216 align 8;
    TraceStep: size 24 align 4;
    TraceLog: size 580 align 4;
    SocketKey: size 32 align 8;
    Frontend: size 28 align 4;
    Stream: size 48 align 4;
    FlowKey: size 40 align 4;
    Flow: size 56 align 4;
    LocalPod: size 40 align 4;
    RuleKey: size 20 align 4;
    Connection: size 12 align 4;
    FragmentKey: size 40 align 4;
    DatagramKey: size 40 align 4;
    DatagramPorts: size 4 align 2;
    Peer: size 28 align 4;
    Config: size 200 align 4;
    Event: size 64 align 8;
}
