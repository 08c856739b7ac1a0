#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, a key would be copied to the stack, which has 512 bytes"
)]
//! The eBPF programs, a file for each hook, and the vocabulary they share.
//!
//! Hooks:
//! - [`socket`]: the node's sockets and its pods': a service's address becomes a backend's at `connect()`.
//! - [`uplink`]: packets from and to outside: NodePort, load balancer addresses, masquerade.
//! - [`uplink_xdp`]: those of them that only pass through, before the kernel has made packets of them, where the driver can.
//! - [`pod_egress`]: packets from a pod: to its neighbours directly, to other nodes by link or tunnel.
//! - [`pod_ingress`]: packets to a pod that policies select.
//! - [`overlay`]: the VXLAN device.
//! - [`latency`]: the steps of TCP connections.
//!
//! Vocabulary: [`frame`] (a packet's bytes), [`packet`] (parsing), [`service`] (frontend and backend lookup), [`flows`] (the flow table), [`nat`]
//! (rewriting with right checksums), [`deliver`] (the way on), [`reject`] (answers instead of silence), [`arp`] and [`ndp`],
//! [`alive`] (that this node lives),
//! [`association`] (SCTP clients inside) and [`sctp`] (its checksums and refusals), [`policy`] (who may talk to whom),
//! [`icmp`] (errors about translated flows), [`mss`] (segments that fit the tunnel), [`direct_return`] (backends that
//! answer clients themselves), [`handover`] (addresses that have moved), [`event`] (drops and flows made visible), [`trace`]
//! (decisions written down, in copies of the programs that see made-up packets).

mod alive;
mod arp;
mod association;
mod config;
mod deliver;
mod direct_return;
mod event;
mod flows;
mod frame;
mod handover;
mod icmp;
mod latency;
mod maps;
mod mss;
mod nat;
mod ndp;
mod overlay;
mod packet;
mod pod_egress;
mod pod_ingress;
mod policy;
mod reject;
mod sctp;
mod service;
mod socket;
mod trace;
mod uplink;
mod uplink_xdp;
mod yardstick;

/// The helpers that programs call are only for programs under a GPL-compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier admits no program that could panic; the compiler wants this all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
