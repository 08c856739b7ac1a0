//! Rewriting a packet's tuple, with its checksums.
//!
//! The layer 4 checksum may be complete, or hold only the pseudo header's sum (`CHECKSUM_PARTIAL`, the usual case for
//! packets of a local socket that crossed a veth pair). Only the kernel knows which, so changes go to its helper in
//! two parts: addresses as a change of the pseudo header, ports as a change of the rest.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, Port, StepKind, proto};

use crate::packet::{ETH_LEN, Kind, Packet};
use crate::trace;

/// The tuple to write.
#[repr(C)]
pub struct Tuple {
    pub src: Addr,
    pub dst: Addr,
    pub src_port: Port,
    pub dst_port: Port,
    /// 1: not to be written; the node that has `dst` does, and answers the client itself.
    pub direct_return: u32,
}

/// What follows the IP header's first 8 bytes.
#[repr(C)]
struct Tail {
    ttl: u8,
    proto: u8,
    check: u16,
    src: u32,
    dst: u32,
}

/// One's complement sum of a change from `old` to `new` (RFC 1624), to be folded.
#[inline(always)]
fn change(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

#[inline(always)]
fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

/// Folds a one's complement sum to the 16 bits that a checksum field has, not yet inverted.
#[inline(always)]
pub fn fold16(sum: u64) -> u16 {
    let sum = fold32(sum);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Writes `size_of::<T>()` bytes at `offset`.
#[inline(always)]
pub fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), DropReason> {
    // SAFETY: the context the kernel gave us; the helper checks the bounds.
    let result = unsafe {
        bpf_skb_store_bytes(ctx.skb.skb, offset as u32, core::ptr::from_ref(value).cast(), size_of::<T>() as u32, 0)
    };
    if result == 0 { Ok(()) } else { Err(DropReason::RewriteFailed) }
}

/// Adds `change` to the layer 4 checksum at `offset`.
#[inline(always)]
pub fn replace_l4(ctx: &TcContext, offset: usize, change: u64, flags: u32) -> Result<(), DropReason> {
    // SAFETY: the context the kernel gave us; the helper checks the bounds.
    let result =
        unsafe { bpf_l4_csum_replace(ctx.skb.skb, offset as u32, 0, u64::from(fold32(change)), u64::from(flags)) };
    if result == 0 { Ok(()) } else { Err(DropReason::RewriteFailed) }
}

/// Writes the IP header's addresses (and time to live) with its checksum.
#[inline(always)]
pub fn rewrite_ip(ctx: &TcContext, packet: &Packet, src: u32, dst: u32, hop: bool) -> Result<(), DropReason> {
    let ip = &packet.ip;
    let ttl = if hop {
        if ip.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        ip.ttl - 1
    } else {
        ip.ttl
    };
    let old = u32::from(u16::from_ne_bytes([ip.ttl, ip.proto]));
    let new = u32::from(u16::from_ne_bytes([ttl, ip.proto]));
    let sum = u64::from(!ip.check) + change(ip.src, src) + change(ip.dst, dst) + change(old, new);
    store(ctx, ETH_LEN + 8, &Tail { ttl, proto: ip.proto, check: !fold16(sum), src, dst })
}

/// Writes `to` into the packet. `hop`: the packet goes on without the kernel's forwarding, so we count its hop.
#[inline(always)]
pub fn rewrite(ctx: &TcContext, packet: &Packet, to: &Tuple, hop: bool) -> Result<(), DropReason> {
    let key = &packet.key;
    let l4 = packet.l4 as usize;
    let (src, dst) = (to.src.v4_word(), to.dst.v4_word());
    trace::step(StepKind::Source, 0, &to.src, to.src_port);
    trace::step(StepKind::Destination, 0, &to.dst, to.dst_port);
    // The header after IP's is in the first fragment.
    if packet.is(Kind::Fragment) {
        return rewrite_ip(ctx, packet, src, dst, hop);
    }
    let old_ports = u32::from(key.src_port.0) | u32::from(key.dst_port.0) << 16;
    let new_ports = u32::from(to.src_port.0) | u32::from(to.dst_port.0) << 16;
    let addresses = change(packet.ip.src, src) + change(packet.ip.dst, dst);
    let ports = change(old_ports, new_ports);
    match key.proto {
        proto::TCP => {
            replace_l4(ctx, l4 + 16, addresses, BPF_F_PSEUDO_HDR)?;
            replace_l4(ctx, l4 + 16, ports, 0)?;
            store(ctx, l4, &[to.src_port.0, to.dst_port.0])?;
        }
        proto::UDP => {
            // A zero checksum means none, and stays so.
            replace_l4(ctx, l4 + 6, addresses, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0)?;
            replace_l4(ctx, l4 + 6, ports, BPF_F_MARK_MANGLED_0)?;
            store(ctx, l4, &[to.src_port.0, to.dst_port.0])?;
        }
        _ => {
            // ICMP echo: one of the two is the identifier, the other zero; no pseudo header.
            replace_l4(ctx, l4 + 2, ports, 0)?;
            store(ctx, l4 + 4, &(to.src_port.0 | to.dst_port.0))?;
        }
    }
    rewrite_ip(ctx, packet, src, dst, hop)
}
