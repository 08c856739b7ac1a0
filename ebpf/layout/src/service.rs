//! Services: the frontend a client addresses, the slots of its backend set, the backends.

use crate::{Addr, Port};

/// For clients inside the cluster: the node's sockets, pods' and its own.
pub const SCOPE_CLUSTER: u8 = 0;
/// For packets that come in by the uplink.
pub const SCOPE_EXTERNAL: u8 = 1;

/// A frontend. [`Addr::any_of_family`] as the address means: any address of the family in
/// [`crate::map::NODE_ADDRESSES`], for NodePorts.
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
    /// Which backend set: the first half of a [`ChunkKey`].
    pub set: u32,
    /// Number of slots in the set; with 0 the client is refused. A backend may have several slots (Maglev).
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
    /// Only clients in [`crate::map::SOURCE_RANGES`] are served: `loadBalancerSourceRanges`.
    pub const SOURCE_RANGES: u32 = 2;
    /// A client stays with its backend while the set holds it: the set's [`super::MemberKey`]s are written.
    pub const STICKY: u32 = 4;
    /// A backend on another node answers the client itself (direct server return).
    pub const DIRECT_RETURN: u32 = 8;
}

/// Some slots of a backend set, [`SLOTS_PER_CHUNK`] of them. Sets are written whole under a new number before a
/// [`Service`] names it, and removed when none does.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The set.
    pub set: u32,
    /// A slot's number divided by [`SLOTS_PER_CHUNK`].
    pub chunk: u32,
}

/// Slots in a [`Chunk`]: most services have fewer backends, so that a set is one entry.
pub const SLOTS_PER_CHUNK: u32 = 16;

/// The backends' ids in consecutive slots; 0 behind the last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Chunk(pub [u32; SLOTS_PER_CHUNK as usize]);

/// Says that a set holds a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// The set.
    pub set: u32,
    /// The backend's id.
    pub backend: u32,
}

/// A client of a service port, for which a backend is remembered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Its address; for sockets of this node [`AffinityKey::local`], since their address is not chosen yet.
    pub client: Addr,
    /// [`Service::id`].
    pub service: u32,
}

/// Clients behind sockets: by network namespace, for `sessionAffinity: ClientIP`.
pub const CLIENT_NAMESPACE: u32 = 1;
/// Clients behind sockets: the socket itself, for datagram sockets that are not connected.
pub const CLIENT_SOCKET: u32 = 2;

impl AffinityKey {
    /// A client known by a cookie of the kernel's. The address cannot be anybody's (`::/96` is reserved, RFC 4291).
    #[inline(always)]
    pub const fn local(kind: u32, cookie: u64, service: u32) -> Self {
        Self { client: Addr([0, kind, cookie as u32, (cookie >> 32) as u32]), service }
    }
}

/// The backend that a client met.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The backend's id.
    pub backend: u32,
    /// Kernel's monotonic clock at its last connection, in seconds.
    pub last_seen_s: u32,
}

/// A range of clients that a service port serves; the data of a prefix of [`SOURCE_RANGE_BITS`] bits and the range's own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// [`Service::id`].
    pub service: u32,
    /// The range's first address.
    pub addr: Addr,
}

/// Bits in front of the address in a [`SourceRange`].
pub const SOURCE_RANGE_BITS: u32 = 32;

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
    /// TCP connections of sockets of the node: from `connect()` to established.
    pub socket_times: ConnectTimes,
    /// TCP connections from outside: from the packet that begins one to the backend's answer, both as the uplink's
    /// programs see them. A packet that is sent again begins anew. Direct returns are not seen.
    pub uplink_times: ConnectTimes,
}

/// Buckets of [`ConnectTimes`].
pub const CONNECT_BUCKETS: usize = 21;

/// How long connections took to be established.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConnectTimes {
    /// All of them together, in microseconds.
    pub sum_us: u64,
    /// How many there were, each in the bucket that [`connect_bucket`] says.
    pub buckets: [u32; CONNECT_BUCKETS],
    /// Zero.
    pub padding: u32,
}

/// The bucket of a duration: the first is up to 16 microseconds, each next up to twice as much; the last is the rest.
#[inline(always)]
pub const fn connect_bucket(us: u32) -> usize {
    let mut bucket = 0;
    // Without a loop, for the verifier, and without the instruction set's missing count of leading zeros.
    let mut rest = us.wrapping_sub(1) >> 4;
    if us == 0 {
        rest = 0;
    }
    if rest >= 1 << 16 {
        rest >>= 16;
        bucket += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        bucket += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        bucket += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        bucket += 2;
    }
    if rest >= 1 << 1 {
        rest >>= 1;
        bucket += 1;
    }
    bucket += rest as usize;
    if bucket < CONNECT_BUCKETS { bucket } else { CONNECT_BUCKETS - 1 }
}

/// A translated datagram socket and the backend it talks to.
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
    /// [`Service::id`].
    pub service: u32,
    /// Kernel's monotonic clock at `connect()`, in microseconds, of which these are the last 32 bits. 0 for datagrams.
    pub begun_us: u32,
}

/// What a TCP socket is connected to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// What the program believes.
    pub frontend: Frontend,
    /// The backend's address. If the socket's is another, it has been connected anew since, to no service.
    pub addr: Addr,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub padding: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double() {
        assert_eq!([0, 1, 16].map(connect_bucket), [0; 3]);
        for bucket in 1..CONNECT_BUCKETS - 1 {
            let last = 16_u32 << bucket;
            assert_eq!(connect_bucket(last / 2 + 1), bucket);
            assert_eq!(connect_bucket(last), bucket);
        }
        assert_eq!([(16 << 19) + 1, u32::MAX].map(connect_bucket), [CONNECT_BUCKETS - 1; 2]);
    }
}
