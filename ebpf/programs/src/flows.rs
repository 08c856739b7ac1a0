//! The flow table of the uplink path.

use aya_ebpf::bindings::BPF_NOEXIST;
use xebec_ebpf_layout::{DropReason, Flow, FlowKey, FlowKind, Port, StepKind, flow_counters, flow_flags, proto};

use crate::config::{config, node_like};
use crate::event::{now_s, now_us};
use crate::maps::{BACKENDS, FLOW_COUNTERS, FLOWS, Scratch};
use crate::nat::Tuple;
use crate::packet::Packet;
use crate::service::{self, Times};
use crate::trace;

const DIRECT_RETURN: u8 = flow_flags::DIRECT_RETURN;

/// How many ports are tried for a flow. With half the range in use, one in 2^32 flows finds none.
const PORT_TRIES: u32 = 32;

/// A flow in use passes the neighbour table this often, in seconds: see [`is_due`].
const NEIGHBOUR_CHECK_S: u32 = 16;

/// What becomes of this packet by an earlier decision, written to `to`; false if there was none, or it no longer stands.
#[inline(always)]
pub fn known(packet: &Packet, to: &mut Tuple) -> bool {
    let Some(flow) = find(packet, to) else { return false };
    note(packet, to, flow, now_s());
    true
}

/// As [`known`], for who may leave the packet to another hook after all: the entry stays as it is until [`note`].
#[inline(always)]
pub fn find(packet: &Packet, to: &mut Tuple) -> Option<&'static mut Flow> {
    let entry = FLOWS.get_ptr_mut(&packet.key)?;
    // SAFETY: a live map value. Another CPU may write the same fields at the same time: each is one word and either
    // value will do.
    let flow = unsafe { &mut *entry };
    if flow.kind == FlowKind::ServiceForward as u8 && !still_stands(packet, flow) {
        return None;
    }
    to.src = flow.src;
    to.dst = flow.dst;
    to.src_port = flow.src_port;
    to.dst_port = flow.dst_port;
    to.direct_return = u32::from(flow.flags & DIRECT_RETURN != 0);
    trace::step(StepKind::KnownFlow, flow.service, &to.dst, to.dst_port);
    Some(flow)
}

/// Notes in its entry that the packet was seen, and what it says about the connection.
#[inline(always)]
pub fn note(packet: &Packet, to: &Tuple, flow: &mut Flow, now: u32) {
    let mut flags = flow.flags;
    if flow.kind == FlowKind::ServiceReply as u8 || flow.kind == FlowKind::MasqueradeReply as u8 {
        if flags & flow_flags::REPLIED == 0 && flow.service != 0 && packet.key.proto == proto::TCP {
            service::count_time(flow.service, Times::Uplink, now_us().wrapping_sub(flow.begun_us));
        }
        flags |= flow_flags::REPLIED;
    }
    if packet.is_closing() {
        flags |= flow_flags::CLOSING;
    } else if packet.is_syn() {
        flags &= !(flow_flags::CLOSING | flow_flags::REPLIED);
    }
    if flow.last_seen_s != now || flow.flags != flags {
        flow.last_seen_s = now;
        flow.flags = flags;
    }
    if packet.is_closing() {
        close_other_side(to, packet.key.proto);
    }
}

/// Whether this packet of a flow is one that the kernel should send, so that it finds out whether the neighbour is still
/// there: it asks only those that it sends to itself. One packet in so many seconds, of each flow in another.
#[inline(always)]
pub fn is_due(packet: &Packet, flow: &Flow, now: u32) -> bool {
    let turn = now.wrapping_add(u32::from(packet.key.src_port.get() ^ packet.key.dst_port.get()));
    flow.last_seen_s != now && turn % NEIGHBOUR_CHECK_S == 0
}

/// As [`known`], of packets that answer: a pod that sends what seems to be a client's from outside has no flow there.
#[inline(always)]
pub fn answers(packet: &Packet, to: &mut Tuple) -> bool {
    // SAFETY: read at once.
    let Some(flow) = (unsafe { FLOWS.get(&packet.key) }) else { return false };
    (flow.kind == FlowKind::ServiceReply as u8 || flow.kind == FlowKind::MasqueradeReply as u8) && known(packet, to)
}

/// As [`known`], of packets to a service: the node's own and its pods' are not to be taken for answers here.
#[inline(always)]
pub fn asks(packet: &Packet, to: &mut Tuple) -> bool {
    // SAFETY: read at once.
    let Some(flow) = (unsafe { FLOWS.get(&packet.key) }) else { return false };
    flow.kind == FlowKind::ServiceForward as u8 && known(packet, to)
}

/// Whether a packet to a service follows the flow's earlier choice: not a new connection, and for UDP, which has none,
/// not to an endpoint that is gone.
#[inline(always)]
fn still_stands(packet: &Packet, flow: &Flow) -> bool {
    if packet.is_of_connection() {
        return !packet.is_syn();
    }
    // To a pod's own address.
    if flow.backend == 0 {
        return true;
    }
    // SAFETY: read at once.
    match unsafe { BACKENDS.get(flow.backend) } {
        Some(backend) => backend.addr == flow.dst && backend.port == flow.dst_port,
        None => false,
    }
}

/// Marks the entry of the opposite direction, so that a port is soon free whichever side closed.
#[inline(always)]
fn close_other_side(to: &Tuple, proto: u8) {
    let other =
        FlowKey { src: to.dst, dst: to.src, src_port: to.dst_port, dst_port: to.src_port, proto, padding: [0; 3] };
    if let Some(entry) = FLOWS.get_ptr_mut(&other) {
        // SAFETY: a live map value; a lost race only delays the mark.
        unsafe { (*entry).flags |= flow_flags::CLOSING };
    }
}

/// Prepares the key and the entry of the way back from `scratch.to`.
#[inline(always)]
fn prepare(scratch: &mut Scratch, kind: FlowKind, service: u32, backend: u32) {
    let Scratch { packet, to, back, entry } = scratch;
    let key = &packet.key;
    back.src = to.dst;
    back.dst = to.src;
    back.src_port = to.dst_port;
    back.dst_port = to.src_port;
    back.proto = key.proto;
    entry.src = key.dst;
    entry.dst = key.src;
    entry.src_port = key.dst_port;
    entry.dst_port = key.src_port;
    entry.kind = kind as u8;
    entry.flags = 0;
    entry.service = service;
    entry.backend = backend;
    entry.last_seen_s = now_s();
    entry.begun_us = now_us();
}

/// Records both directions of a translation that keeps the client's address and port: `scratch.to` is the packet's
/// new tuple. False if the way back is taken by another flow of this client.
#[inline(always)]
pub fn record_plain(scratch: &mut Scratch, service: u32, backend: u32, flags: u8) -> Result<bool, DropReason> {
    prepare(scratch, FlowKind::ServiceReply, service, backend);
    scratch.entry.flags = flags;
    if !claim(&scratch.back, &scratch.entry) {
        return Ok(false);
    }
    record_forward(scratch, FlowKind::ServiceForward)?;
    Ok(true)
}

/// Records both directions of a flow to the backend in `scratch.to`: under the client's own address and port if it may be
/// `plain`. If this client already uses the same port towards the same backend through another frontend, or may not, the
/// two are told apart by a port of ours.
#[inline(always)]
pub fn record_to_backend(
    scratch: &mut Scratch,
    plain: bool,
    service: u32,
    backend: u32,
    hash: u32,
) -> Result<(), DropReason> {
    if plain && record_plain(scratch, service, backend, 0)? {
        return Ok(());
    }
    record_with_port(scratch, (FlowKind::ServiceForward, FlowKind::ServiceReply), service, backend, hash)
}

/// Records the one direction that this node sees of a flow whose backend answers the client itself.
#[inline(always)]
pub fn record_direct_return(scratch: &mut Scratch, service: u32, backend: u32) -> Result<(), DropReason> {
    prepare(scratch, FlowKind::ServiceForward, service, backend);
    scratch.entry.flags = DIRECT_RETURN;
    record_forward(scratch, FlowKind::ServiceForward)
}

/// Gives the flow a port of the node's address as its source (filling in `scratch.to`), and records both directions.
#[inline(always)]
pub fn record_with_port(
    scratch: &mut Scratch,
    kinds: (FlowKind, FlowKind),
    service: u32,
    backend: u32,
    hash: u32,
) -> Result<(), DropReason> {
    let [first, last] = config!(nat_ports);
    let range = u32::from(last.wrapping_sub(first)) + 1;
    scratch.to.src = node_like(&scratch.packet.key.src);
    prepare(scratch, kinds.1, service, backend);
    for attempt in 0..PORT_TRIES {
        let port = Port::new(first.wrapping_add((hash.wrapping_add(attempt) % range) as u16));
        scratch.back.dst_port = port;
        if claim(&scratch.back, &scratch.entry) {
            scratch.to.src_port = port;
            return record_forward(scratch, kinds.0);
        }
    }
    Err(DropReason::NatPortsExhausted)
}

/// Takes the reply tuple `back` for this flow, unless another live flow has it.
#[inline(always)]
fn claim(back: &FlowKey, reply: &Flow) -> bool {
    if add(back, reply) {
        return true;
    }
    // SAFETY: read at once; a race with another claim is settled by the write below, last one wins, and only for a
    // tuple that was idle.
    let Some(holder) = (unsafe { FLOWS.get(back) }) else { return false };
    let same = holder.src == reply.src
        && holder.dst == reply.dst
        && holder.src_port == reply.src_port
        && holder.dst_port == reply.dst_port;
    let idle = reply.last_seen_s.wrapping_sub(holder.last_seen_s) > holder.idle_limit_s(back.proto);
    (same || idle) && FLOWS.insert(back, reply, 0).is_ok()
}

/// Writes the entry of the packet's own direction; the entry of the way back was prepared before.
#[inline(always)]
fn record_forward(scratch: &mut Scratch, kind: FlowKind) -> Result<(), DropReason> {
    let Scratch { packet, to, entry, .. } = scratch;
    entry.src = to.src;
    entry.dst = to.dst;
    entry.src_port = to.src_port;
    entry.dst_port = to.dst_port;
    entry.kind = kind as u8;
    if add(&packet.key, entry) {
        return Ok(());
    }
    FLOWS.insert(&packet.key, &*entry, 0).map_err(|_| DropReason::RewriteFailed)
}

/// Adds an entry where there is none, and counts it.
#[inline(always)]
fn add(key: &FlowKey, flow: &Flow) -> bool {
    if FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)).is_err() {
        return false;
    }
    count(flow_counters::ADDED);
    true
}

/// Counts one more of [`flow_counters`].
#[inline(always)]
pub fn count(what: u32) {
    if let Some(counter) = FLOW_COUNTERS.get_ptr_mut(what) {
        // SAFETY: the slot is this CPU's own, and the program is not preempted by another of ours on it.
        unsafe { *counter += 1 };
    }
}
