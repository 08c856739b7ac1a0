//! Rewriting a packet's tuple, with its checksums.
//!
//! The layer 4 checksum may be complete, or hold only the pseudo header's sum (`CHECKSUM_PARTIAL`, the usual case for
//! packets of a local socket that crossed a veth pair). Only the kernel knows which, so changes go to its helper in
//! two parts: addresses as a change of the pseudo header, ports as a change of the rest.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, Port, StepKind, proto};

use crate::frame::Frame;
use crate::packet::{ETH_LEN, Ipv4, Kind, Packet};
use crate::{sctp, trace};

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
#[derive(Clone, Copy)]
struct Tail {
    ttl: u8,
    proto: u8,
    check: u16,
    src: u32,
    dst: u32,
}

/// What follows the IPv6 header's first 4 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tail6 {
    length: u16,
    next: u8,
    hop_limit: u8,
    src: Addr,
    dst: Addr,
}

/// One's complement sum of a change from `old` to `new` (RFC 1624), to be folded.
#[inline(always)]
pub fn change(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// Folds a one's complement sum to 32 bits.
#[inline(always)]
pub fn fold32(sum: u64) -> u32 {
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

/// The time to live (IPv6: hop limit) after a hop that we count; or as it is.
#[inline(always)]
fn after_hop(ttl: u8, hop: bool) -> Result<u8, DropReason> {
    match (hop, ttl) {
        (true, 0 | 1) => Err(DropReason::TtlExpired),
        (true, _) => Ok(ttl - 1),
        (false, _) => Ok(ttl),
    }
}

/// Writes the IP header's addresses (and time to live) with its checksum.
#[inline(always)]
pub fn rewrite_ip(ctx: &impl Frame, packet: &Packet, src: &Addr, dst: &Addr, hop: bool) -> Result<(), DropReason> {
    if packet.is_v6() {
        return rewrite_ip6(ctx, packet, src, dst, hop);
    }
    let ip = &packet.ip;
    let (src, dst) = (src.v4_word(), dst.v4_word());
    let ttl = after_hop(ip.ttl, hop)?;
    ctx.write(ETH_LEN + 8, &Tail { ttl, proto: ip.proto, check: header_check(ip, ttl, src, dst), src, dst })
}

/// The IPv4 header's checksum with another time to live and other addresses.
#[inline(always)]
pub fn header_check(ip: &Ipv4, ttl: u8, src: u32, dst: u32) -> u16 {
    let old = u32::from(u16::from_ne_bytes([ip.ttl, ip.proto]));
    let new = u32::from(u16::from_ne_bytes([ttl, ip.proto]));
    !fold16(u64::from(!ip.check) + change(ip.src, src) + change(ip.dst, dst) + change(old, new))
}

/// The same for IPv6, which has no header checksum.
#[inline(always)]
fn rewrite_ip6(ctx: &impl Frame, packet: &Packet, src: &Addr, dst: &Addr, hop: bool) -> Result<(), DropReason> {
    let ip = &packet.ip6;
    let hop_limit = after_hop(ip.hop_limit, hop)?;
    if hop {
        let old = u32::from(u16::from_ne_bytes([ip.next, ip.hop_limit]));
        let new = u32::from(u16::from_ne_bytes([ip.next, hop_limit]));
        ctx.adjust_sum(change(old, new));
    }
    ctx.write(ETH_LEN + 4, &Tail6 { length: ip.length, next: ip.next, hop_limit, src: *src, dst: *dst })
}

/// Counts a hop and leaves everything else.
#[inline(always)]
pub fn count_hop(ctx: &impl Frame, packet: &Packet) -> Result<(), DropReason> {
    rewrite_ip(ctx, packet, &packet.key.src, &packet.key.dst, true)
}

/// Changes the layer 4 checksum at `offset` as the addresses of its pseudo header change.
#[inline(always)]
fn replace_addresses(
    ctx: &impl Frame,
    packet: &Packet,
    offset: usize,
    src: &Addr,
    dst: &Addr,
    flags: u32,
) -> Result<(), DropReason> {
    let change = addresses(packet, src, dst);
    ctx.adjust_l4(offset, change, flags | BPF_F_PSEUDO_HDR)?;
    if packet.is_v6() {
        // The helper takes it that a header checksum has made up for the addresses, and corrects the packet's own sum by the
        // layer 4 one. IPv6 has none: addresses and layer 4 make up for each other. (Newer kernels can be told, by a flag that
        // older ones refuse.)
        ctx.adjust_sum(change);
    }
    Ok(())
}

/// How a pseudo header's sum changes with the addresses.
#[inline(always)]
fn addresses(packet: &Packet, src: &Addr, dst: &Addr) -> u64 {
    if !packet.is_v6() {
        return change(packet.ip.src, src.v4_word()) + change(packet.ip.dst, dst.v4_word());
    }
    let (old_src, old_dst) = (&packet.key.src, &packet.key.dst);
    change_of(old_src, src) + change_of(old_dst, dst)
}

/// An address's part in a sum. Word by word: through an iterator the verifier would not see the end.
#[inline(always)]
pub fn sum_of(addr: &Addr) -> u64 {
    u64::from(addr.0[0]) + u64::from(addr.0[1]) + u64::from(addr.0[2]) + u64::from(addr.0[3])
}

/// One's complement sum of a change of a whole address.
#[inline(always)]
pub fn change_of(old: &Addr, new: &Addr) -> u64 {
    change(old.0[0], new.0[0]) + change(old.0[1], new.0[1]) + change(old.0[2], new.0[2]) + change(old.0[3], new.0[3])
}

/// Writes new addresses of an ICMP message that is no echo: ICMPv6's checksum sees them.
#[inline(always)]
pub fn readdress_icmp(ctx: &impl Frame, packet: &Packet, src: &Addr, dst: &Addr, hop: bool) -> Result<(), DropReason> {
    if packet.is_v6() {
        replace_addresses(ctx, packet, packet.l4 as usize + 2, src, dst, 0)?;
    }
    rewrite_ip(ctx, packet, src, dst, hop)
}

/// Writes `to` into the packet. `hop`: the packet goes on without the kernel's forwarding, so we count its hop.
#[inline(always)]
pub fn rewrite(ctx: &impl Frame, packet: &Packet, to: &Tuple, hop: bool) -> Result<(), DropReason> {
    let key = &packet.key;
    let l4 = packet.l4 as usize;
    let (src, dst) = (&to.src, &to.dst);
    trace::step(StepKind::Source, 0, src, to.src_port);
    trace::step(StepKind::Destination, 0, dst, to.dst_port);
    // The header after IP's is in the first fragment.
    if packet.is(Kind::Fragment) {
        return rewrite_ip(ctx, packet, src, dst, hop);
    }
    let old_ports = u32::from(key.src_port.0) | u32::from(key.dst_port.0) << 16;
    let new_ports = u32::from(to.src_port.0) | u32::from(to.dst_port.0) << 16;
    let ports = change(old_ports, new_ports);
    match key.proto {
        proto::TCP => {
            replace_addresses(ctx, packet, l4 + 16, src, dst, 0)?;
            ctx.adjust_l4(l4 + 16, ports, 0)?;
            ctx.write(l4, &[to.src_port.0, to.dst_port.0])?;
        }
        proto::UDP => {
            // A zero checksum means none, and stays so.
            replace_addresses(ctx, packet, l4 + 6, src, dst, BPF_F_MARK_MANGLED_0)?;
            ctx.adjust_l4(l4 + 6, ports, BPF_F_MARK_MANGLED_0)?;
            ctx.write(l4, &[to.src_port.0, to.dst_port.0])?;
        }
        proto::SCTP => {
            if packet.is_v6() {
                // IPv4's header checksum makes up for its addresses; nothing does for these.
                ctx.adjust_sum(addresses(packet, src, dst));
            }
            sctp::rewrite(ctx, packet, to)?;
        }
        _ => {
            // ICMP echo: one of the two is the identifier, the other zero; no pseudo header, but in IPv6.
            if packet.is_v6() {
                replace_addresses(ctx, packet, l4 + 2, src, dst, 0)?;
            }
            ctx.adjust_l4(l4 + 2, ports, 0)?;
            ctx.write(l4 + 4, &(to.src_port.0 | to.dst_port.0))?;
        }
    }
    rewrite_ip(ctx, packet, src, dst, hop)
}
