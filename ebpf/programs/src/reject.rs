//! Refusals: a client whose service has no endpoint is told so at once.

use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::bpf_skb_change_tail;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, proto};

use crate::nat::{self, fold16, store};
use crate::packet::{ETH_LEN, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Packet, Tcp, icmp_type, icmp6_type, tcp};
use crate::{deliver, sctp};

/// Answers with a TCP reset, an SCTP abort, or ICMP "port unreachable" for UDP, out of the interface the packet came in by.
#[inline(always)]
pub fn refuse(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    match packet.key.proto {
        proto::TCP => reset(ctx, packet),
        proto::SCTP => Ok(if sctp::abort(ctx, packet)? { deliver::back(ctx) } else { TC_ACT_SHOT }),
        // With options or extensions the quote would have to be longer; nobody sends those.
        proto::UDP if packet.l4 as usize != ETH_LEN + if packet.is_v6() { IPV6_LEN } else { IPV4_LEN } => {
            Ok(TC_ACT_SHOT)
        }
        proto::UDP if packet.is_v6() => unreachable6::<SHORT6>(ctx, packet, [icmp6_type::UNREACHABLE, PORT6], 0),
        proto::UDP => unreachable::<SHORT>(ctx, packet, PORT, 0),
        _ => Ok(TC_ACT_SHOT),
    }
}

/// Exchanges the MAC addresses.
#[inline(always)]
pub fn turn_round(ctx: &TcContext) -> Result<(), DropReason> {
    let macs: [[u16; 3]; 2] = ctx.load(0).map_err(|_| DropReason::RewriteFailed)?;
    store(ctx, 0, &[macs[1], macs[0]])
}

/// Turns the segment into the reset that answers it (RFC 9293 section 3.5.2). Addresses and ports change places, which
/// leaves the checksum as it is; options and data stay, which a receiver ignores.
#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    if packet.tcp_flags & tcp::RST != 0 {
        return Ok(TC_ACT_SHOT);
    }
    let l4 = packet.l4 as usize;
    let old: Tcp = ctx.load(l4).map_err(|_| DropReason::RewriteFailed)?;
    let header = u32::from(old.offset >> 4) << 2;
    let consumed = packet
        .payload_length()
        .wrapping_sub(header)
        .wrapping_add(u32::from(old.flags & tcp::SYN != 0))
        .wrapping_add(u32::from(old.flags & tcp::FIN != 0));
    let answers_ack = old.flags & tcp::ACK != 0;
    let new = Tcp {
        ports: [old.ports[1], old.ports[0]],
        seq: if answers_ack { old.ack } else { 0 },
        ack: if answers_ack { 0 } else { u32::from_be(old.seq).wrapping_add(consumed).to_be() },
        offset: old.offset,
        flags: if answers_ack { tcp::RST } else { tcp::RST | tcp::ACK },
        window: 0,
    };
    let last = |t: &Tcp| u32::from(u16::from_ne_bytes([t.offset, t.flags])) + u32::from(t.window);
    let change = u64::from(!old.seq)
        + u64::from(new.seq)
        + u64::from(!old.ack)
        + u64::from(new.ack)
        + u64::from(!last(&old))
        + u64::from(last(&new));
    nat::replace_l4(ctx, l4 + 16, change, 0)?;
    store(ctx, l4, &new)?;
    nat::rewrite_ip(ctx, packet, &packet.key.dst, &packet.key.src, false)?;
    turn_round(ctx)?;
    Ok(deliver::back(ctx))
}

/// The ICMP message with its IP header, in front of the quote.
#[repr(C)]
struct Unreachable {
    ip: Ipv4,
    /// Type and code.
    kind: [u8; 2],
    check: u16,
    /// For [`FRAGMENTATION_NEEDED`].
    mtu: u32,
}

/// Codes of "destination unreachable" (RFC 792).
const PORT: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// The same of RFC 4443.
const PORT6: u8 = 4;
/// Words of a quote: the IP header and 8 bytes; or up to what the kernel lets nobody cut off, TCP's checksum.
const SHORT: usize = (IPV4_LEN + 8) / 4;
const LONG: usize = (IPV4_LEN + 20) / 4;
const SHORT6: usize = (IPV6_LEN + 8) / 4;
const LONG6: usize = (IPV6_LEN + 20) / 4;

/// Tells the sender how large a packet may be (RFC 1191 section 4). The quote has room for the header of a fragment of
/// IPv6 and the ports after it.
#[inline(always)]
pub fn too_big(ctx: &TcContext, packet: &Packet, mtu: u32) -> Result<i32, DropReason> {
    if packet.is_v6() {
        unreachable6::<LONG6>(ctx, packet, [icmp6_type::PACKET_TOO_BIG, 0], mtu)
    } else {
        unreachable::<LONG>(ctx, packet, FRAGMENTATION_NEEDED, mtu)
    }
}

/// Puts the message in front of the packet, which becomes its quote, cut to so many words.
#[inline(always)]
fn unreachable<const WORDS: usize>(ctx: &TcContext, packet: &Packet, code: u8, mtu: u32) -> Result<i32, DropReason> {
    let quote_len = WORDS * 4;
    const ADDED: usize = size_of::<Unreachable>();
    let failed = |_| DropReason::RewriteFailed;
    // SAFETY: the context the kernel gave us.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, (ETH_LEN + quote_len) as u32, 0) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let quote: [u32; WORDS] = ctx.load(ETH_LEN).map_err(failed)?;
    ctx.adjust_room(ADDED as i32, BPF_ADJ_ROOM_MAC, u64::from(BPF_F_ADJ_ROOM_FIXED_GSO)).map_err(failed)?;
    let kind = [icmp_type::UNREACHABLE, code];
    let mtu = mtu.to_be();
    let mut sum = u64::from(u16::from_ne_bytes(kind)) + u64::from(mtu);
    for word in quote {
        sum += u64::from(word);
    }
    let ip = Ipv4 {
        version_length: 0x45,
        // Network control, as Linux sends its ICMP errors.
        tos: 0xc0,
        total_length: ((ADDED + quote_len) as u16).to_be(),
        id: 0,
        fragment: 0,
        ttl: 64,
        proto: proto::ICMP,
        check: 0,
        src: packet.ip.dst,
        dst: packet.ip.src,
    };
    let ip_sum = u64::from(u16::from_ne_bytes([ip.version_length, ip.tos]))
        + u64::from(ip.total_length)
        + u64::from(u16::from_ne_bytes([ip.ttl, ip.proto]))
        + u64::from(ip.src)
        + u64::from(ip.dst);
    let message = Unreachable { ip: Ipv4 { check: !fold16(ip_sum), ..ip }, kind, check: !fold16(sum), mtu };
    store(ctx, ETH_LEN, &message)?;
    turn_round(ctx)?;
    Ok(deliver::back(ctx))
}

/// The same for IPv6, whose checksum includes the addresses.
#[repr(C)]
struct Unreachable6 {
    ip: Ipv6,
    src: Addr,
    dst: Addr,
    /// Type and code.
    kind: [u8; 2],
    check: u16,
    /// For "packet too big".
    mtu: u32,
}

/// As [`unreachable`], by ICMPv6 (RFC 4443 sections 3.1 and 3.2).
#[inline(always)]
fn unreachable6<const WORDS: usize>(
    ctx: &TcContext,
    packet: &Packet,
    kind: [u8; 2],
    mtu: u32,
) -> Result<i32, DropReason> {
    const ADDED: usize = size_of::<Unreachable6>();
    let quote_len = WORDS * 4;
    let length = ADDED - IPV6_LEN + quote_len;
    let mtu = mtu.to_be();
    let failed = |_| DropReason::RewriteFailed;
    // SAFETY: the context the kernel gave us.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, (ETH_LEN + quote_len) as u32, 0) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let quote: [u32; WORDS] = ctx.load(ETH_LEN).map_err(failed)?;
    ctx.adjust_room(ADDED as i32, BPF_ADJ_ROOM_MAC, u64::from(BPF_F_ADJ_ROOM_FIXED_GSO)).map_err(failed)?;
    // The pseudo header's length and next header; its addresses are those of the quote.
    let mut sum = u64::from((length as u32).to_be()) + u64::from(u32::from(proto::ICMPV6).to_be());
    sum += u64::from(u16::from_ne_bytes(kind)) + u64::from(mtu);
    for word in quote {
        sum += u64::from(word);
    }
    sum += nat::sum_of(&packet.key.src) + nat::sum_of(&packet.key.dst);
    let message = Unreachable6 {
        ip: Ipv6 {
            version_class_flow: 0x6000_0000_u32.to_be(),
            length: (length as u16).to_be(),
            next: proto::ICMPV6,
            hop_limit: 64,
        },
        src: packet.key.dst,
        dst: packet.key.src,
        kind,
        check: !fold16(sum),
        mtu,
    };
    store(ctx, ETH_LEN, &message)?;
    turn_round(ctx)?;
    Ok(deliver::back(ctx))
}
