//! The way on, past the kernel's forwarding where that is shorter.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_OK, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, LocalPod, Peer, Port, StepKind, peer_flags, proto};

use crate::config::{config, dual_stack, in_cluster_net, in_pod_net};
use crate::maps::{LOCAL_PODS, NODE_ADDRESSES, PEERS};
use crate::nat::store;
use crate::packet::{ETH_LEN, Packet};
use crate::trace;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Into the network namespace of the pod that has `addr`; `None` if no pod here has it. Straight, or, if policies select
/// it or the packet may be an answer to translate, by its interface's hook.
#[inline(always)]
pub fn to_local_pod(ctx: &TcContext, packet: &Packet, addr: &Addr) -> Option<Result<i32, DropReason>> {
    // SAFETY: copied at once.
    let pod: LocalPod = *unsafe { LOCAL_PODS.get(addr) }?;
    if let Err(reason) = store(ctx, 0, &[pod.mac, pod.host_mac]) {
        return Some(Err(reason));
    }
    let by_hook = pod.is_isolated() || packet.key.proto == proto::SCTP;
    trace::step(if by_hook { StepKind::ToPodHook } else { StepKind::ToPod }, pod.ifindex, addr, Port(0));
    // SAFETY: plain numbers.
    Some(Ok(unsafe { if by_hook { bpf_redirect(pod.ifindex, 0) } else { bpf_redirect_peer(pod.ifindex, 0) } } as i32))
}

/// The peer that has `addr`.
#[inline(always)]
pub fn peer(addr: &Addr) -> Option<Peer> {
    PEERS.get(&Key::new(128, *addr)).copied()
}

/// How much longer an IPv6 header is than IPv4's.
const MORE_OF_V6: u32 = 20;

/// The largest packet that the tunnel between two addresses carries, of which this is one.
#[inline(always)]
pub fn largest_between(end: &Addr) -> u32 {
    if dual_stack() && !end.is_v4() { config!(vxlan_mtu).wrapping_sub(MORE_OF_V6) } else { config!(vxlan_mtu) }
}

/// The largest packet that the tunnel to a peer carries.
#[inline(always)]
pub fn tunnel_mtu(peer: &Peer) -> u32 {
    let (mtu, largest) = (u32::from(peer.mtu), largest_between(&peer.node));
    if mtu != 0 && mtu < largest { mtu } else { largest }
}

/// The largest packet that gets to a peer; 0 if that is what its link carries.
#[inline(always)]
pub fn mtu(peer: &Peer) -> u32 {
    if peer.flags & peer_flags::TUNNEL != 0 { tunnel_mtu(peer) } else { peer.mtu.into() }
}

/// `__sk_buff.gso_size` of a packet of which each segment to be has a size of its own, as SCTP's have.
const SEGMENTS_DIFFER: u32 = 0xffff;

/// Whether only the kernel's own forwarding can tell if the packet's segments fit.
#[inline(always)]
pub fn has_various_segments(ctx: &TcContext) -> bool {
    // SAFETY: the context the kernel gave us.
    unsafe { (*ctx.skb.skb).gso_size == SEGMENTS_DIFFER }
}

/// Whether the packet, or each of its segments to be, has at most `mtu` bytes.
#[inline(always)]
pub fn fits(ctx: &TcContext, packet: &Packet, mtu: u32) -> bool {
    // SAFETY: the context the kernel gave us.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    let length = if gso_size != 0 {
        // 20 (IPv6: 40) bytes of IP and up to 60 of TCP go in front of each segment; ours never have more than 40 of options.
        gso_size + if packet.is_v6() { 40 } else { 20 } + 32
    } else {
        ctx.len() - ETH_LEN as u32
    };
    length <= mtu
}

/// Out by the uplink to a neighbour on its link, whose address the kernel resolves.
#[inline(always)]
pub fn to_neighbour(neighbour: &Addr) -> i32 {
    let mut next_hop = bpf_redir_neigh {
        nh_family: AF_INET,
        // SAFETY: all zeros is a valid value of the union, whose larger member the helper reads in whole.
        __bindgen_anon_1: unsafe { core::mem::zeroed::<bpf_redir_neigh__bindgen_ty_1>() },
    };
    if !dual_stack() || neighbour.is_v4() {
        next_hop.__bindgen_anon_1.ipv4_nh = neighbour.v4_word();
    } else {
        next_hop.nh_family = AF_INET6;
        next_hop.__bindgen_anon_1.ipv6_nh = neighbour.0;
    }
    let uplink = config!(uplink_ifindex);
    trace::step(StepKind::ToNeighbour, uplink, neighbour, Port(0));
    // SAFETY: the pointer and the length are of a live local.
    unsafe { bpf_redirect_neigh(uplink, &raw mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// Out by the uplink, wherever the kernel's routes say.
#[inline(always)]
pub fn by_route() -> i32 {
    let uplink = config!(uplink_ifindex);
    trace::step(StepKind::ByRoute, uplink, &Addr::UNSPECIFIED, Port(0));
    // SAFETY: no parameters is a documented choice: the kernel looks up the route.
    unsafe { bpf_redirect_neigh(uplink, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Into the VXLAN device, where [`crate::overlay`] addresses it.
#[inline(always)]
pub fn into_tunnel() -> i32 {
    let tunnel = config!(vxlan_ifindex);
    trace::step(StepKind::IntoTunnel, tunnel, &Addr::UNSPECIFIED, Port(0));
    // SAFETY: plain numbers.
    unsafe { bpf_redirect(tunnel, 0) as i32 }
}

/// Back out of the interface it came in by.
#[inline(always)]
pub fn back(ctx: &TcContext) -> i32 {
    trace::step(StepKind::Back, 0, &Addr::UNSPECIFIED, Port(0));
    // SAFETY: the context the kernel gave us.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}

/// Up to the node's own sockets, from a hook of packets that leave.
#[inline(always)]
pub fn up(ctx: &TcContext) -> i32 {
    trace::step(StepKind::Back, 0, &Addr::UNSPECIFIED, Port(0));
    // SAFETY: the context the kernel gave us.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Whether a packet to `dst` leaves the node, so that translation counts its hop.
#[inline(always)]
pub fn leaves_node(dst: &Addr) -> bool {
    if in_pod_net(dst) {
        return false;
    }
    // SAFETY: read at once.
    match unsafe { NODE_ADDRESSES.get(dst) } {
        Some(flags) => *flags & xebec_ebpf_layout::node_address_flags::LOCAL == 0,
        None => true,
    }
}

/// The way on for a translated packet, from an ingress hook.
#[inline(always)]
pub fn onward(ctx: &TcContext, packet: &Packet, dst: &Addr, leaves_node: bool) -> Result<i32, DropReason> {
    if !leaves_node {
        return match to_local_pod(ctx, packet, dst) {
            Some(result) => result,
            // The node itself, or a pod that is just going.
            None => Ok(TC_ACT_OK),
        };
    }
    if in_cluster_net(dst) {
        return peer(dst).map(|peer| to_peer(&peer)).ok_or(DropReason::NoPeer);
    }
    Ok(by_route())
}

/// To another node.
#[inline(always)]
pub fn to_peer(peer: &Peer) -> i32 {
    if peer.flags & peer_flags::TUNNEL != 0 { into_tunnel() } else { to_neighbour(&peer.node) }
}
