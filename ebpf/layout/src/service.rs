//! Services: the frontend a client addresses, the slots of its backend set, the backends.

use crate::{Addr, Port};

/// For clients inside the cluster: the node's sockets, pods' and its own.
pub const SCOPE_CLUSTER: u8 = 0;
/// For packets that come in by the uplink.
pub const SCOPE_EXTERNAL: u8 = 1;

/// A frontend. [`Addr::UNSPECIFIED`] as the address means: any address in [`crate::map::NODE_ADDRESSES`], for NodePorts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The service's address.
    pub addr: Addr,
    /// The service's port.
    pub port: Port,
    /// The IP protocol ([`crate::proto`]).
    pub proto: u8,
    /// [`SCOPE_CLUSTER`] or [`SCOPE_EXTERNAL`]: traffic policies may differ between the two.
    pub scope: u8,
}

/// What a frontend leads to. One write replaces it, so a reader sees the old backend set or the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Service {
    /// The service port's id: for counters and events.
    pub id: u32,
    /// Which backend set: the first half of a [`SlotKey`].
    pub set: u32,
    /// Number of slots in the set; with 0 the client is refused.
    pub count: u32,
    /// [`service_flags`].
    pub flags: u32,
    /// How long a client stays with its backend; 0: no session affinity.
    pub affinity_timeout_s: u32,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// A client with no backend is dropped, not refused: `externalTrafficPolicy: Local` on a node without a backend,
    /// where another node is to answer.
    pub const DROP_IF_EMPTY: u32 = 1;
}

/// One slot of a backend set. Sets are written whole under a new number before a [`Service`] names it, and removed when
/// none does.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// The set.
    pub set: u32,
    /// `0..count`.
    pub slot: u32,
}

/// An endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Backend {
    /// The endpoint's address.
    pub addr: Addr,
    /// The endpoint's port.
    pub port: Port,
    /// Zero.
    pub padding: u16,
}

/// What the socket hooks and the uplink count for a service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceCounters {
    /// Connections (or for UDP from inside, translated sends) from sockets of the node.
    pub socket_connections: u64,
    /// New flows from outside.
    pub uplink_flows: u64,
    /// Clients that were refused for want of a backend.
    pub refused: u64,
}

/// A translated socket and the backend it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The kernel's number of the socket, never used again.
    pub cookie: u64,
    /// The backend's address: an unconnected UDP socket may talk to several.
    pub addr: Addr,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub padding: [u16; 3],
}

/// The address that the program behind a socket believes it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// The service's address.
    pub addr: Addr,
    /// The service's port.
    pub port: Port,
    /// Zero.
    pub padding: u16,
}
