//! Drops and flows made visible.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Direction, DropReason, EVENT_DROP, EVENT_NEW_FLOW, Event, FlowKey, StepKind};

use crate::maps::{DROPS, EVENTS, WATCHED};
use crate::trace;

/// The kernel's monotonic clock, in seconds.
#[inline(always)]
pub fn now_s() -> u32 {
    // SAFETY: no arguments, no preconditions.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// The same in microseconds, of which these are the last 32 bits; never 0.
#[inline(always)]
pub fn now_us() -> u32 {
    // SAFETY: no arguments, no preconditions.
    ((unsafe { bpf_ktime_get_ns() } / 1_000) as u32) | 1
}

/// Counts a dropped or refused packet, and reports it.
#[inline(always)]
pub fn count_drop(ctx: &TcContext, reason: DropReason, key: &FlowKey, service: u32) {
    trace::step(StepKind::Drop, reason as u32, &key.dst, key.dst_port);
    if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the slot is this CPU's own, and the program is not preempted by another of ours on it.
        unsafe { *counter += 1 };
    }
    let direction = match reason {
        DropReason::PolicyIngress => Direction::Ingress as u8,
        DropReason::PolicyEgress => Direction::Egress as u8,
        _ => 0,
    };
    report(ctx, EVENT_DROP, reason as u8, direction, key, service, 0);
}

/// Reports a flow that begins, if somebody wants to know.
#[inline(always)]
pub fn new_flow(ctx: &TcContext, direction: u8, key: &FlowKey, service: u32, backend: u32) {
    // Nobody: mostly.
    let until = WATCHED.get(0).copied().unwrap_or_default();
    if until != 0 && now_s() <= until {
        report(ctx, EVENT_NEW_FLOW, 0, direction, key, service, backend);
    }
}

/// Puts an event into the ring; if that is full, the event is lost, not the packet.
#[inline(always)]
fn report(ctx: &TcContext, kind: u8, reason: u8, direction: u8, key: &FlowKey, service: u32, backend: u32) {
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    entry.write(Event {
        // SAFETY: no arguments, no preconditions.
        at_ns: unsafe { bpf_ktime_get_ns() },
        src: key.src,
        dst: key.dst,
        src_port: key.src_port,
        dst_port: key.dst_port,
        proto: key.proto,
        kind,
        reason,
        direction,
        // SAFETY: the context the kernel gave us.
        ifindex: unsafe { (*ctx.skb.skb).ifindex },
        length: ctx.len(),
        service,
        backend,
    });
    entry.submit(0);
}

/// The verdict on a packet, with its drop counted.
#[inline(always)]
pub fn verdict(ctx: &TcContext, key: &FlowKey, result: Result<i32, DropReason>) -> i32 {
    match result {
        Ok(action) => action,
        Err(reason) => {
            count_drop(ctx, reason, key, 0);
            TC_ACT_SHOT
        }
    }
}
