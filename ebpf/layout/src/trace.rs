//! What the programs decide on a traced packet, in order.

use crate::{Addr, Port};

/// Decisions that a [`TraceLog`] holds; more than any packet meets in one program.
pub const TRACE_STEPS: usize = 24;

/// One decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TraceStep {
    /// A [`StepKind`], as its number.
    pub kind: u8,
    /// A [`crate::Direction`], as its number, for policies; else 0.
    pub direction: u8,
    /// The port that goes with the address.
    pub port: Port,
    /// What it is about, by its number: see [`StepKind`].
    pub number: u32,
    /// An address; or a rule set and an identity.
    pub addr: Addr,
}

/// What was decided; the words in brackets are [`TraceStep::number`], [`TraceStep::addr`] and [`TraceStep::port`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// The destination is a service's (its id; the address and port of the frontend, zeros for a NodePort).
    Service = 1,
    /// A backend was chosen (its id, address and port).
    Backend = 2,
    /// It was chosen because this client met it before (its id).
    Affinity = 3,
    /// The packet belongs to a flow that is known.
    KnownFlow = 4,
    /// Dropped or refused (a [`crate::DropReason`], as its number).
    Drop = 5,
    /// No policy selects the pod in this direction.
    NotSelected = 6,
    /// The peer is the pod's own node, which policies do not bar.
    OwnNode = 7,
    /// Policies allow it (the rule set, then the peer's identity, in place of the address).
    Allowed = 8,
    /// They do not (likewise).
    Denied = 9,
    /// Part of a connection that was allowed before.
    KnownConnection = 10,
    /// Into a pod (the interface; the pod's address), past the hook of packets to it.
    ToPod = 11,
    /// Into a pod, by that hook.
    ToPodHook = 12,
    /// Out by the uplink to a node on its link (its address).
    ToNeighbour = 13,
    /// Out by the uplink, wherever the kernel's routes say.
    ByRoute = 14,
    /// Into the tunnel's device.
    IntoTunnel = 15,
    /// The tunnel leads to a node (its address).
    Tunnel = 16,
    /// Back out of the interface it came in by: an answer made of the packet.
    Back = 17,
    /// The source written to the packet.
    Source = 18,
    /// The destination written to it.
    Destination = 19,
    /// Handed on as it is: the backend's node (which has this address) answers the client itself.
    DirectReturn = 20,
}

impl StepKind {
    /// Every kind.
    pub const ALL: [Self; 20] = [
        Self::Service,
        Self::Backend,
        Self::Affinity,
        Self::KnownFlow,
        Self::Drop,
        Self::NotSelected,
        Self::OwnNode,
        Self::Allowed,
        Self::Denied,
        Self::KnownConnection,
        Self::ToPod,
        Self::ToPodHook,
        Self::ToNeighbour,
        Self::ByRoute,
        Self::IntoTunnel,
        Self::Tunnel,
        Self::Back,
        Self::Source,
        Self::Destination,
        Self::DirectReturn,
    ];
}

/// All decisions since somebody set the count to 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceLog {
    /// How many there are.
    pub count: u32,
    /// The decisions.
    pub steps: [TraceStep; TRACE_STEPS],
}

impl TraceLog {
    /// No decisions.
    pub const EMPTY: Self = Self {
        count: 0,
        steps: [TraceStep { kind: 0, direction: 0, port: Port(0), number: 0, addr: Addr::UNSPECIFIED }; TRACE_STEPS],
    };
}
