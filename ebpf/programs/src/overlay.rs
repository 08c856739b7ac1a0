//! The VXLAN device (RFC 7348) in collect-metadata mode: one device for all peers, addressed packet by packet.

use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, TC_ACT_OK, bpf_tunnel_key};
use aya_ebpf::helpers::bpf_skb_set_tunnel_key;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{DropReason, Peer, Port, SCOPE_EXTERNAL, StepKind};

use crate::config::{config, dual_stack, in_pod_net};
use crate::maps::Scratch;
use crate::nat::store;
use crate::packet::{Kind, Packet};
use crate::{deliver, direct_return, event, flows, handover, icmp, mss, packet, service, trace, uplink};

const PASS: i32 = TC_ACT_OK;

/// Out: whose packet it is decides where the tunnel leads.
#[classifier]
pub fn overlay_egress(ctx: TcContext) -> i32 {
    let Some(scratch) = packet::take(&ctx) else { return PASS };
    let result = egress(&ctx, &scratch.packet);
    event::verdict(&ctx, &scratch.packet.key, result)
}

/// In: to a pod directly; answers to this node's translated flows on their way; the rest is for the node itself.
#[classifier]
pub fn overlay_ingress(ctx: TcContext) -> i32 {
    let Some(scratch) = packet::take(&ctx) else { return PASS };
    packet::join_fragments(&mut scratch.packet);
    let result = ingress(&ctx, scratch);
    event::verdict(&ctx, &scratch.packet.key, result)
}

#[inline(always)]
fn egress(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let peer = match deliver::peer(&packet.key.dst) {
        Some(peer) => {
            store(ctx, 0, &[peer.vtep_mac, config!(vxlan_mac)])?;
            peer
        }
        None if direct_return::is_addressed(ctx, packet) => return Ok(PASS),
        // To a service, handed on: the source MAC says to which backend, and stays.
        None => {
            let backend = direct_return::chosen(ctx, packet).ok_or(DropReason::NoPeer)?.0;
            let peer = deliver::peer(&backend).ok_or(DropReason::NoPeer)?;
            store(ctx, 0, &peer.vtep_mac)?;
            peer
        }
    };
    address(ctx, packet, &peer)?;
    Ok(PASS)
}

/// Says where the tunnel leads, and has TCP's segments fit into it.
#[inline(always)]
pub fn address(ctx: &TcContext, packet: &Packet, peer: &Peer) -> Result<(), DropReason> {
    mss::clamp(ctx, packet, deliver::tunnel_mtu(peer))?;
    trace::step(StepKind::Tunnel, 0, &peer.node, Port(0));
    // SAFETY: plain numbers, for which all zeros is a valid value.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = config!(vni);
    key.tunnel_ttl = 64;
    // Between IPv6 addresses no datagram is without a checksum (RFC 8200 section 8.1).
    let flags = if dual_stack() && !peer.node.is_v4() {
        key.__bindgen_anon_1.remote_ipv6 = peer.node.0;
        BPF_F_TUNINFO_IPV6
    } else {
        // The one address that the kernel wants in its own byte order.
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(peer.node.v4_word());
        BPF_F_ZERO_CSUM_TX
    };
    // SAFETY: the pointer and the length are of a live local.
    let result = unsafe {
        bpf_skb_set_tunnel_key(ctx.skb.skb, &raw mut key, size_of::<bpf_tunnel_key>() as u32, u64::from(flags))
    };
    if result == 0 { Ok(()) } else { Err(DropReason::RewriteFailed) }
}

#[inline(always)]
fn ingress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    let packet = &scratch.packet;
    mss::clamp(ctx, packet, config!(vxlan_mtu))?;
    if in_pod_net(&packet.key.dst) {
        return deliver::to_local_pod(ctx, packet, &packet.key.dst).unwrap_or(Ok(PASS));
    }
    if packet.is(Kind::IcmpError) {
        return icmp::error(ctx, packet, icmp::Way::In);
    }
    if !packet.has_ports() {
        return Ok(PASS);
    }
    if direct_return::accept(ctx, scratch)? || flows::known(&scratch.packet, &mut scratch.to) {
        return uplink::translate(ctx, scratch);
    }
    // A connection that this node was thought to know: it is treated as if it had come here in the first place.
    if direct_return::chosen(ctx, &scratch.packet).is_some_and(|(_, port)| port == handover::NO_PORT) {
        let key = &scratch.packet.key;
        if let Some((frontend, found)) = service::lookup(&key.dst, key.dst_port, key.proto, SCOPE_EXTERNAL, 0) {
            return uplink::begin(ctx, scratch, &frontend, found);
        }
    }
    Ok(PASS)
}
