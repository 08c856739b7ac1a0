//! Network policy: who may talk to a pod, and to whom it may.
//!
//! A pod that policies select is judged by a *rule set* for each direction; its peer by an *identity*, which stands for
//! everything that policies could tell it apart by. Both are hashes of what they mean, so an agent that starts finds the
//! maps as it would write them. A verdict is one lookup, however many policies there are.

use crate::{Addr, Port};

/// What a verdict is looked up by, in a map of prefixes: set and identity in full, then as much of the protocol and port
/// as the rule names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// The rule set, [`crate::LocalPod::ingress`] or [`crate::LocalPod::egress`].
    pub set: [u32; 2],
    /// The peer's identity; zeros: any that the set has no rules of its own for.
    pub identity: [u32; 2],
    /// The IP protocol.
    pub proto: u8,
    /// Zero.
    pub padding: u8,
    /// The destination port.
    pub port: Port,
}

impl RuleKey {
    /// Length in bits of a key for every protocol.
    pub const ANY_PROTO: u32 = 128;
    /// Length in bits of a key for every port of a protocol.
    pub const ANY_PORT: u32 = 144;
    /// Length in bits of a key for one port.
    pub const EXACT: u32 = 160;
}

/// Values of the rule map.
pub mod verdict {
    /// The connection may be.
    pub const ALLOW: u32 = 1;
    /// It may not.
    pub const DENY: u32 = 2;
}

/// The set of a pod whose policies are not known: it has no rules, so that nothing is allowed.
pub const DENY_ALL: [u32; 2] = [1, 0];

/// Which way a connection goes, seen from a pod.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the pod.
    Ingress = 1,
    /// From the pod.
    Egress = 2,
}

/// A connection that a pod's policies allow, by its five-tuple as the pod sends it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The revision of the policies that allowed it.
    pub revision: u32,
    /// Kernel's monotonic clock at the last packet, in seconds.
    pub last_seen_s: u32,
    /// Who began it: a [`Direction`], as its number.
    pub direction: u8,
    /// [`crate::flow_flags`].
    pub flags: u8,
    /// Zero.
    pub padding: u16,
}

impl Connection {
    /// Seconds without packets after which the connection is forgotten. Those of [`crate::Flow::idle_limit_s`].
    #[inline(always)]
    pub const fn idle_limit_s(&self, proto: u8) -> u32 {
        crate::flow::idle_limit_s(self.flags, proto)
    }
}

/// A datagram of which an allowed fragment was seen: those that follow it bear no ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The header's identification.
    pub id: u32,
    /// IP protocol.
    pub proto: u8,
    /// The [`Direction`] it was judged for.
    pub direction: u8,
    /// Zero.
    pub padding: u16,
}
