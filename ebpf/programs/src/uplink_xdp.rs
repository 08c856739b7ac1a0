//! The uplink before the kernel has made packets of what arrives: where the driver can, flows through this node take the
//! short way.
//!
//! This decides nothing. It carries plain packets of flows that [`crate::uplink`] has recorded, that leave the node again, and
//! whose next neighbour the kernel knows; it writes what that would, and sends them back out of the interface they came in by,
//! by which that would send them too. All else it passes on untouched: new flows, pods here, tunnels, direct return,
//! fragments, options, errors, packets at the end of their life or too large for the way.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup};
use aya_ebpf::helpers::bpf_fib_lookup as fib_lookup;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use xebec_ebpf_layout::{Addr, FlowKind, flow_counters, peer_flags, proto};

use crate::config::{config, in_cluster_net};
use crate::event::now_s;
use crate::frame::Frame as _;
use crate::maps::{Scratch, WAYS, WAYS_OUT, WayOut};
use crate::nat::{self, Tuple, fold16, sum_of};
use crate::packet::{IPV6_LEN, Packet};
use crate::{deliver, flows, packet, service};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Traffic class and flow label of an IPv6 header's first word.
const FLOW_INFO: u32 = 0x0fff_ffff_u32.to_be();

#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    carry(&ctx).unwrap_or(XDP_PASS)
}

/// Carries the packet if it is one to carry.
#[inline(always)]
fn carry(ctx: &XdpContext) -> Option<u32> {
    let Scratch { packet, to, .. } = packet::take_plain(ctx)?;
    let flow = flows::find(packet, to)?;
    let is_service = flow.kind == FlowKind::ServiceForward as u8 || flow.kind == FlowKind::ServiceReply as u8;
    let now = now_s();
    if !is_service || to.direct_return != 0 || hops_left(packet) <= 1 || flows::is_due(packet, flow, now) {
        return None;
    }
    if has_partial_checksum(ctx, packet)? {
        return None;
    }
    let way = way(ctx, packet, to, now)?;
    flows::note(packet, to, flow, now);
    // All that could be wrong with it was looked at before, for a packet half rewritten is nobody's.
    if nat::rewrite(ctx, packet, to, true).is_err() || ctx.write(0, &way.macs).is_err() {
        return Some(XDP_ABORTED);
    }
    flows::count(flow_counters::CARRIED_BY_XDP);
    Some(XDP_TX)
}

/// Time to live, or hop limit.
#[inline(always)]
fn hops_left(packet: &Packet) -> u8 {
    if packet.is_v6() { packet.ip6.hop_limit } else { packet.ip.ttl }
}

/// Length of the packet from IP's header on, as that says.
#[inline(always)]
fn length(packet: &Packet) -> u16 {
    if packet.is_v6() {
        u16::from_be(packet.ip6.length).wrapping_add(IPV6_LEN as u16)
    } else {
        u16::from_be(packet.ip.total_length)
    }
}

/// Whether the layer 4 checksum seems to hold only the pseudo header's sum, as it does in packets that never were on a wire:
/// the rest would be for us to add up. (One packet in 65,536 only seems so.) `None` if there is no such field.
#[inline(always)]
fn has_partial_checksum(ctx: &XdpContext, packet: &Packet) -> Option<bool> {
    let key = &packet.key;
    let checksum: u16 = ctx.read(packet.l4 as usize + if key.proto == proto::TCP { 16 } else { 6 })?;
    let addresses = if packet.is_v6() {
        sum_of(&key.src) + sum_of(&key.dst)
    } else {
        u64::from(packet.ip.src) + u64::from(packet.ip.dst)
    };
    let rest = u64::from(u16::from(key.proto).to_be()) + u64::from((packet.payload_length() as u16).to_be());
    Some(checksum == fold16(addresses + rest))
}

/// The way by the uplink to the neighbour that [`deliver::onward`] would send to. The kernel is asked once a second for each
/// destination: to ask it for every packet would take longer than all the rest.
#[inline(always)]
fn way(ctx: &XdpContext, packet: &Packet, to: &Tuple, now: u32) -> Option<&'static WayOut> {
    let class = if packet.is_v6() { packet.ip6.version_class_flow & FLOW_INFO } else { u32::from(packet.ip.tos) };
    let place = service::mix(service::mix(class, to.dst.v4_word()), to.src.v4_word()) % WAYS_OUT;
    // SAFETY: the place is this CPU's own, and the program is not preempted by another of ours on it; what an earlier packet
    // left is a valid value, and so are zeros.
    let way = unsafe { &mut *WAYS.get_ptr_mut(place)? };
    if way.asked_s != now || way.class != class || way.dst != to.dst || way.src != to.src {
        let answer = ask(ctx, packet, to, class)?;
        way.src = to.src;
        way.dst = to.dst;
        way.class = class;
        way.asked_s = now;
        way.macs = [answer.dmac, answer.smac];
        // SAFETY: the kernel fills this one in.
        way.mtu = u32::from(unsafe { answer.__bindgen_anon_1.mtu_result });
    }
    (u32::from(length(packet)) <= way.mtu).then_some(way)
}

/// Asks the kernel for the way.
#[inline(always)]
fn ask(ctx: &XdpContext, packet: &Packet, to: &Tuple, class: u32) -> Option<bpf_fib_lookup> {
    if !deliver::leaves_node(&to.dst) {
        return None;
    }
    let to_pod = in_cluster_net(&to.dst);
    let target = if to_pod {
        let peer = deliver::peer(&to.dst)?;
        if peer.flags & peer_flags::TUNNEL != 0 || peer.node.is_v4() == packet.is_v6() {
            return None;
        }
        peer.node
    } else {
        to.dst
    };
    // SAFETY: all zeros is a valid value of each field and union.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    query.l4_protocol = packet.key.proto;
    // That it says how large a packet may be.
    query.__bindgen_anon_1.tot_len = 1;
    query.ifindex = config!(uplink_ifindex);
    if packet.is_v6() {
        query.family = AF_INET6;
        query.__bindgen_anon_2.flowinfo = class;
        query.__bindgen_anon_3.ipv6_src = to.src.0;
        query.__bindgen_anon_4.ipv6_dst = target.0;
    } else {
        query.family = AF_INET;
        query.__bindgen_anon_2.tos = packet.ip.tos;
        query.__bindgen_anon_3.ipv4_src = to.src.v4_word();
        query.__bindgen_anon_4.ipv4_dst = target.v4_word();
    }
    // SAFETY: the context the kernel gave us; pointer and length are of a live local.
    let found = unsafe {
        fib_lookup(ctx.ctx.cast(), &raw mut query, size_of::<bpf_fib_lookup>() as i32, BPF_FIB_LOOKUP_OUTPUT)
    };
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || query.ifindex != config!(uplink_ifindex) {
        return None;
    }
    // Peers are on the link: whoever has a gateway there means something else by it.
    (!to_pod || next_hop(packet, &query) == target).then_some(query)
}

/// Whom the kernel has found: the target itself, or a gateway.
#[inline(always)]
fn next_hop(packet: &Packet, answer: &bpf_fib_lookup) -> Addr {
    // SAFETY: of the two the one that the family has.
    unsafe {
        if packet.is_v6() {
            Addr(answer.__bindgen_anon_4.ipv6_dst)
        } else {
            Addr::from_v4_word(answer.__bindgen_anon_4.ipv4_dst)
        }
    }
}
