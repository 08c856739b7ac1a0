//! The host side of a pod's veth pair, inwards: every packet a pod sends.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Direction, DropReason, LocalPod, StepKind, proto};

use crate::association::Outcome;
use crate::config::{config, in_cluster_net, in_pod_net, in_service_net, node_like};
use crate::maps::{LOCAL_PODS, Scratch};
use crate::packet::{Kind, Packet};
use crate::{association, deliver, event, flows, mss, nat, packet, policy, reject, trace, uplink};

const PASS: i32 = TC_ACT_OK;

#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    let Some(scratch) = packet::take(&ctx) else { return PASS };
    let result = egress(&ctx, scratch);
    event::verdict(&ctx, &scratch.packet.key, result)
}

#[inline(always)]
fn egress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    let Some(pod) = sender(ctx, &scratch.packet)? else { return Ok(TC_ACT_SHOT) };
    if scratch.packet.key.proto == proto::SCTP && association::send(ctx, scratch)? == Outcome::Refuse {
        return reject::refuse(ctx, &scratch.packet);
    }
    let Scratch { packet, back, to, .. } = scratch;
    let (packet, key) = (&*packet, &packet.key);
    if pod.is_isolated() {
        policy::judge(ctx, packet, back, &pod, Direction::Egress)?;
    } else {
        trace::policy(StepKind::NotSelected, Direction::Egress, [0; 2], [0; 2]);
    }
    if !pod.is_isolated() && packet.is_syn() {
        event::new_flow(ctx, Direction::Egress as u8, key, 0, 0);
    }
    if in_pod_net(&key.dst) {
        return deliver::to_local_pod(ctx, packet, &key.dst).unwrap_or(Ok(PASS));
    }
    // The answer to a flow that had to take this node's address for its source (see `uplink`).
    if key.dst == node_like(&key.dst) && packet.is(Kind::Flow) && flows::answers(packet, to) {
        return uplink::translate(ctx, scratch);
    }
    if in_cluster_net(&key.dst) || config!(vxlan_ifindex) != 0 {
        // Beside pods, the addresses of nodes behind the tunnel are peers': what comes by the tunnel is answered there.
        if let Some(peer) = deliver::peer(&key.dst) {
            let mtu = deliver::mtu(&peer);
            if mtu != 0 {
                if !deliver::fits(ctx, packet, mtu) {
                    // The kernel's forwarding fragments what may be fragmented.
                    let can_tell = packet.must_not_fragment() && !deliver::has_various_segments(ctx);
                    return if can_tell { reject::too_big(ctx, packet, mtu) } else { Ok(PASS) };
                }
                mss::clamp(ctx, packet, mtu)?;
            }
            nat::count_hop(ctx, packet)?;
            return Ok(deliver::to_peer(&peer));
        }
    }
    if in_service_net(&key.dst) {
        // Services' addresses have been translated; what comes here is for none. Like kube-proxy's nftables
        // mode, and unlike its iptables mode, we do not let it out on the default route.
        event::count_drop(ctx, DropReason::NoSuchService, key, 0);
        return reject::refuse(ctx, packet);
    }
    Ok(PASS)
}

/// The pod whose packet it is; none if it is to be dropped without a word.
#[inline(always)]
fn sender(ctx: &TcContext, packet: &Packet) -> Result<Option<LocalPod>, DropReason> {
    let src = &packet.key.src;
    // SAFETY: the context the kernel gave us.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: copied at once.
    match unsafe { LOCAL_PODS.get(src) } {
        Some(pod) if pod.ifindex == ifindex => Ok(Some(*pod)),
        // What every IPv6 stack says to its link by itself: who is there, and who is a router. Nobody needs it here.
        _ if packet.is_v6() && (src.is_link_local_v6() || src.is_unspecified()) => Ok(None),
        _ => Err(DropReason::SpoofedSource),
    }
}
