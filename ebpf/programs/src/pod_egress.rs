//! The host side of a pod's veth pair, inwards: every packet a pod sends.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Direction, DropReason, LocalPod, StepKind, peer_flags};

use crate::config::{config, in_cluster_net, in_pod_net, in_service_net, node_like};
use crate::maps::{LOCAL_PODS, Scratch};
use crate::packet::{Kind, Packet};
use crate::{deliver, event, flows, nat, packet, policy, reject, trace, uplink};

const PASS: i32 = TC_ACT_OK;

#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    let Some(scratch) = packet::take(&ctx) else { return PASS };
    let result = egress(&ctx, scratch);
    event::verdict(&ctx, &scratch.packet.key, result)
}

#[inline(always)]
fn egress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    let Scratch { packet, back, to, .. } = scratch;
    let (packet, key) = (&*packet, &packet.key);
    // SAFETY: the context the kernel gave us.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: copied at once.
    let pod: LocalPod = match unsafe { LOCAL_PODS.get(key.src) } {
        Some(pod) if pod.ifindex == ifindex => *pod,
        // What every IPv6 stack says to its link by itself: who is there, and who is a router. Nobody needs it here.
        _ if packet.is_v6() && (key.src.is_link_local_v6() || key.src.is_unspecified()) => return Ok(TC_ACT_SHOT),
        _ => return Err(DropReason::SpoofedSource),
    };
    if pod.is_isolated() {
        policy::judge(ctx, packet, back, &pod, Direction::Egress)?;
    } else {
        trace::policy(StepKind::NotSelected, Direction::Egress, [0; 2], [0; 2]);
    }
    if !pod.is_isolated() && packet.is_syn() {
        event::new_flow(ctx, Direction::Egress as u8, key, 0, 0);
    }
    if in_pod_net(&key.dst) {
        return deliver::to_local_pod(ctx, &key.dst).unwrap_or(Ok(PASS));
    }
    // The answer to a flow that had to take this node's address for its source (see `uplink`).
    if key.dst == node_like(&key.dst) && packet.is(Kind::Flow) && flows::answers(packet, to) {
        return uplink::translate(ctx, scratch);
    }
    if in_cluster_net(&key.dst) || config!(vxlan_ifindex) != 0 {
        // Beside pods, the addresses of nodes behind the tunnel are peers': what comes by the tunnel is answered there.
        if let Some(peer) = deliver::peer(&key.dst) {
            if peer.flags & peer_flags::TUNNEL == 0 {
                nat::count_hop(ctx, packet)?;
                return Ok(deliver::to_neighbour(&peer.node));
            }
            if fits_tunnel(ctx, packet) {
                nat::count_hop(ctx, packet)?;
                return Ok(deliver::into_tunnel());
            }
            // The kernel's forwarding fragments it, or tells the pod the smaller MTU.
            return Ok(PASS);
        }
    }
    if in_service_net(&key.dst) {
        // The socket hooks translate services' addresses; what comes here is for none. Like kube-proxy's nftables
        // mode, and unlike its iptables mode, we do not let it out on the default route.
        event::count_drop(ctx, DropReason::NoSuchService, key, 0);
        return reject::refuse(ctx, packet);
    }
    Ok(PASS)
}

/// Whether the packet (or each of its segments to be) fits into the tunnel.
#[inline(always)]
fn fits_tunnel(ctx: &TcContext, packet: &Packet) -> bool {
    // SAFETY: the context the kernel gave us.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    let length = if gso_size != 0 {
        // 20 (IPv6: 40) bytes of IP and up to 60 of TCP go in front of each segment; ours never have more than 40 of options.
        gso_size + if packet.is_v6() { 40 } else { 20 } + 32
    } else {
        ctx.len() - packet::ETH_LEN as u32
    };
    length <= config!(vxlan_mtu)
}
