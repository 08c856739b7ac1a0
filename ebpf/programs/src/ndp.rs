//! Neighbour discovery for load balancer addresses: no interface has them, so the kernel would not answer (RFC 4861).

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::helpers::bpf_skb_change_tail;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, lb_address_flags, proto};

use crate::config::config;
use crate::deliver;
use crate::maps::LB_ADDRESSES;
use crate::nat::{fold16, store, sum_of};
use crate::packet::{ETH_LEN, IPV6_LEN, Ipv6, Packet, icmp6_type};

/// Where the message begins: nobody puts extension headers in front.
const L4: usize = ETH_LEN + IPV6_LEN;
/// Everybody on the link.
const ALL_NODES: Addr = Addr([0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()]);
const ALL_NODES_MAC: [u16; 3] = [0x3333_u16, 0, 1_u16.to_be()];
/// Bits of an advertisement's flags: it was asked for; it replaces what was known.
const SOLICITED: u32 = 0x4000_0000_u32.to_be();
const OVERRIDE: u32 = 0x2000_0000_u32.to_be();
/// The option that holds the target's hardware address, of 8 bytes.
const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];
/// Those that crossed a router have less (RFC 4861 section 7.1.1).
const HOP_LIMIT: u8 = 255;
/// Length of an advertisement with its option.
const LENGTH: usize = 32;

/// A solicitation or an advertisement, without its options.
#[repr(C)]
#[derive(Clone, Copy)]
struct Neighbour {
    kind: [u8; 2],
    check: u16,
    reserved: u32,
    target: Addr,
}

/// An advertisement from the IP header on.
#[repr(C)]
struct Advertisement {
    ip: Ipv6,
    src: Addr,
    dst: Addr,
    kind: [u8; 2],
    check: u16,
    flags: u32,
    target: Addr,
    option: [u8; 2],
    /// In pairs of bytes, for it is not aligned to more.
    mac: [u16; 3],
}

/// Answers a solicitation for an address this node owns, and gives up one that another node advertises; leaves everything
/// else to the kernel.
#[inline(always)]
pub fn answer(ctx: &TcContext, packet: &Packet) -> i32 {
    let pass = TC_ACT_OK;
    if packet.key.proto != proto::ICMPV6 || packet.l4 as usize != L4 || packet.ip6.hop_limit != HOP_LIMIT {
        return pass;
    }
    let Ok(heard) = ctx.load::<Neighbour>(L4) else { return pass };
    // SAFETY: read at once.
    match unsafe { LB_ADDRESSES.get(heard.target) } {
        Some(flags) if *flags & lb_address_flags::OWNED != 0 => {}
        _ => return pass,
    }
    let Ok(sender) = ctx.load::<[u16; 3]>(6) else { return pass };
    let mac = config!(uplink_mac);
    let own = [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ];
    match heard.kind {
        [icmp6_type::NEIGHBOUR_SOLICITATION, 0] => {
            advertise(ctx, &packet.key.src, &heard.target, sender, own).unwrap_or(pass)
        }
        // Another node has taken the address, and does not wait for our agent, which may be away, to let go of it.
        [icmp6_type::NEIGHBOUR_ADVERTISEMENT, 0] if sender != own => {
            let _ = LB_ADDRESSES.remove(heard.target);
            pass
        }
        _ => pass,
    }
}

/// Turns the solicitation into its answer. One from nowhere is a probe for a duplicate, and is answered to all (RFC 4862
/// section 5.4.3).
#[inline(always)]
fn advertise(ctx: &TcContext, asker: &Addr, target: &Addr, mac: [u16; 3], own: [u16; 3]) -> Option<i32> {
    let is_probe = asker.is_unspecified();
    let (dst, dst_mac) = if is_probe { (ALL_NODES, ALL_NODES_MAC) } else { (*asker, mac) };
    // SAFETY: the context the kernel gave us.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, (L4 + LENGTH) as u32, 0) } != 0 {
        return None;
    }
    let mut message = Advertisement {
        ip: Ipv6 {
            version_class_flow: 0x6000_0000_u32.to_be(),
            length: (LENGTH as u16).to_be(),
            next: proto::ICMPV6,
            hop_limit: HOP_LIMIT,
        },
        src: *target,
        dst,
        kind: [icmp6_type::NEIGHBOUR_ADVERTISEMENT, 0],
        check: 0,
        flags: if is_probe { OVERRIDE } else { OVERRIDE | SOLICITED },
        target: *target,
        option: TARGET_LINK_ADDRESS,
        mac: own,
    };
    let mut sum = u64::from((LENGTH as u32).to_be()) + u64::from(u32::from(proto::ICMPV6).to_be());
    sum += u64::from(u16::from_ne_bytes(message.kind)) + u64::from(message.flags);
    sum += u64::from(u16::from_ne_bytes(message.option));
    sum += u64::from(own[0]) + u64::from(own[1]) + u64::from(own[2]);
    // The target is the source, too.
    sum += sum_of(&dst) + sum_of(target) * 2;
    message.check = !fold16(sum);
    store(ctx, ETH_LEN, &message).ok()?;
    store(ctx, 0, &[dst_mac, own]).ok()?;
    Some(deliver::back(ctx))
}
