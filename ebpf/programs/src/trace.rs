//! Decisions written down, for made-up packets.
//!
//! Only a copy of the programs that was loaded with [`xebec_ebpf_layout::Config::trace`] does that: for all others the
//! verifier knows the flag to be 0, and leaves out what hangs on it.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, Direction, Port, StepKind, TraceLog};

use crate::config::config;
use crate::maps::TRACE;
use crate::packet;
use crate::socket::{self, Caller};

/// Writes down a decision.
#[inline(always)]
pub fn step(kind: StepKind, number: u32, addr: &Addr, port: Port) {
    if config!(trace) == 0 {
        return;
    }
    write(kind, 0, number, addr, port);
}

/// Writes down what a policy decided: by which rule set, about which identity.
#[inline(always)]
pub fn policy(kind: StepKind, direction: Direction, set: [u32; 2], identity: [u32; 2]) {
    if config!(trace) == 0 {
        return;
    }
    write(kind, direction as u8, 0, &Addr([set[0], set[1], identity[0], identity[1]]), Port(0));
}

#[inline(always)]
fn write(kind: StepKind, direction: u8, number: u32, addr: &Addr, port: Port) {
    let Some(log) = TRACE.get_ptr_mut(0) else { return };
    let log: *mut TraceLog = log;
    // SAFETY: a live map value, which nobody but this run of the program uses.
    let log = unsafe { &mut *log };
    let Some(step) = log.steps.get_mut(log.count as usize) else { return };
    log.count += 1;
    step.kind = kind as u8;
    step.direction = direction;
    step.port = port;
    step.number = number;
    step.addr = *addr;
}

/// A process's `connect()`, as a packet: what the socket hooks would make of its destination. (The kernel runs no hooks
/// of sockets on request; this runs the same code.) The cookies of socket and network namespace are in the control block.
#[classifier]
pub fn trace_connect(ctx: TcContext) -> i32 {
    let Some(scratch) = packet::take(&ctx) else { return 0 };
    // SAFETY: the context the kernel gave us.
    let cb = unsafe { (*ctx.skb.skb).cb };
    let caller = Made {
        protocol: scratch.packet.key.proto,
        cookie: u64::from(cb[0]) | u64::from(cb[1]) << 32,
        namespace: u64::from(cb[2]) | u64::from(cb[3]) << 32,
    };
    socket::decide(&caller, scratch.packet.key.dst, scratch.packet.key.dst_port)
}

/// Who is made up to call `connect()`.
struct Made {
    protocol: u8,
    cookie: u64,
    namespace: u64,
}

impl Caller for Made {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        self.cookie
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        self.namespace
    }
}
