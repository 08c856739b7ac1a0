//! Clients of SCTP services inside the cluster.
//!
//! The kernel asks no hook when a socket of SCTP connects. So what [`crate::socket`] does once for others is done here for
//! each packet: for a pod's where it leaves the pod, before policies see it, for the node's own where it leaves the node; for
//! the answers where they come into the pod, after policies have seen them. Flows are those of [`crate::flows`].

use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, SCOPE_CLUSTER, node_address_flags};

use crate::config::in_pod_net;
use crate::maps::Scratch;
use crate::packet::Kind;
use crate::service::{self, Count};
use crate::{deliver, event, flows, nat, uplink};

/// Nodes' addresses that count for NodePorts: inside the cluster, any node's.
const ANY_NODE: u32 = node_address_flags::LOCAL | node_address_flags::PEER;

/// What a packet is to become.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is for no service.
    Keep,
    /// It has become one to a backend.
    Translated,
    /// The service has no backend: its sender is to be told.
    Refuse,
}

/// Makes a service's address a backend's.
#[inline(always)]
pub fn send(ctx: &TcContext, scratch: &mut Scratch) -> Result<Outcome, DropReason> {
    if !scratch.packet.is(Kind::Flow) {
        return Ok(Outcome::Keep);
    }
    if !flows::asks(&scratch.packet, &mut scratch.to) {
        let outcome = begin(ctx, scratch)?;
        if outcome != Outcome::Translated {
            return Ok(outcome);
        }
    }
    nat::rewrite(ctx, &scratch.packet, &scratch.to, false)?;
    scratch.packet.becomes(&scratch.to);
    Ok(Outcome::Translated)
}

/// A new association, if it is with a service.
#[inline(always)]
fn begin(ctx: &TcContext, scratch: &mut Scratch) -> Result<Outcome, DropReason> {
    let key = &scratch.packet.key;
    let Some((frontend, mut found)) = service::lookup(&key.dst, key.dst_port, key.proto, SCOPE_CLUSTER, ANY_NODE)
    else {
        return Ok(Outcome::Keep);
    };
    // The first packet may be sent again before it is answered: all of them choose the same backend.
    let hash = service::hash(key);
    let Some((id, backend)) = uplink::choose(scratch, &frontend, &mut found, hash) else {
        service::count(found.id, Count::Refused);
        event::count_drop(ctx, DropReason::NoBackend, &scratch.packet.key, found.id);
        return Ok(Outcome::Refuse);
    };
    let key = &scratch.packet.key;
    if is_of_node(&key.src) && is_of_node(&backend.addr) {
        // From the node to itself: that passes no interface, so that it could not come back.
        event::count_drop(ctx, DropReason::NoBackend, key, found.id);
        return Ok(Outcome::Refuse);
    }
    let is_itself = backend.addr == key.src;
    scratch.to.src = key.src;
    scratch.to.dst = backend.addr;
    scratch.to.src_port = key.src_port;
    scratch.to.dst_port = backend.port;
    scratch.to.direct_return = 0;
    // Nobody gets packets from himself by an interface.
    flows::record_to_backend(scratch, !is_itself, found.id, id, hash)?;
    service::count(found.id, Count::SocketConnection);
    event::new_flow(ctx, 0, &scratch.packet.key, found.id, id);
    Ok(Outcome::Translated)
}

/// Whether this is an address of the node itself.
#[inline(always)]
fn is_of_node(addr: &Addr) -> bool {
    !in_pod_net(addr) && !deliver::leaves_node(addr)
}

/// Gives a backend's answer the service's address.
#[inline(always)]
pub fn receive(ctx: &TcContext, scratch: &mut Scratch) -> Result<(), DropReason> {
    let Scratch { packet, to, .. } = scratch;
    if packet.is(Kind::Flow) && flows::answers(packet, to) { nat::rewrite(ctx, packet, to, false) } else { Ok(()) }
}
