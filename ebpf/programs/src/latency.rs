//! How long the node's sockets wait for a service's connection to be established.

use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use xebec_ebpf_layout::{Addr, Port};

use crate::event::now_us;
use crate::service::{self, Times};
use crate::socket;

/// `BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB`: the answer to our SYN is there.
const ESTABLISHED: u32 = 4;
const AF_INET: u32 = 2;

/// Every step of every TCP connection in the node's cgroup; one of them is looked at.
#[sock_ops]
pub fn latency(ctx: SockOpsContext) -> u32 {
    if ctx.op() == ESTABLISHED {
        established(&ctx);
    }
    1
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let addr = if ctx.family() == AF_INET { Addr::from_v4_word(ctx.remote_ip4()) } else { remote6(ctx) };
    // As on the wire, in the word's upper half on little-endian machines.
    let port = ctx.remote_port();
    let port = Port(if cfg!(target_endian = "little") { port >> 16 } else { port } as u16);
    // SAFETY: the context is a socket's.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    let Some(known) = socket::stream(cookie, &addr, port) else { return };
    service::count_time(known.service, Times::Socket, now_us().wrapping_sub(known.begun_us));
}

#[inline(always)]
fn remote6(ctx: &SockOpsContext) -> Addr {
    // SAFETY: the context the kernel gave us; word by word, as the verifier demands.
    unsafe {
        Addr([
            core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[0]),
            core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[1]),
            core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[2]),
            core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[3]),
        ])
    }
}
