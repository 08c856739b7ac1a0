//! The node's uplink: what comes from outside for NodePorts and load balancer addresses, and what pods send there.
//!
//! In: replies and known flows by the flow table; else a new flow to a service. A backend on this node keeps the
//! client's address; one elsewhere sees this node's, so that the answer comes back here. Out: answers of local
//! backends get the service's address back; pods' own connections to the world get the node's.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{
    DropReason, EVENT_NEW_FLOW, FlowKind, SCOPE_EXTERNAL, Service, ServiceKey, node_address_flags, proto, service_flags,
};

use crate::config::{config, in_cluster_net, in_pod_net};
use crate::maps::{NODE_ADDRESSES, Scratch, scratch};
use crate::packet::{ETH_P_ARP, ETH_P_IP, Kind};
use crate::service::Count;
use crate::{arp, deliver, event, flows, icmp, nat, packet, reject, service};

const PASS: i32 = TC_ACT_OK;
const VXLAN_PORT: u16 = 4789;

#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    // SAFETY: the context the kernel gave us.
    match unsafe { (*ctx.skb.skb).protocol } {
        ETH_P_IP => {
            let Some(scratch) = scratch() else { return PASS };
            if !packet::parse(&ctx, &mut scratch.packet) {
                return PASS;
            }
            let result = ingress(&ctx, scratch);
            event::verdict(&ctx, &scratch.packet.key, result)
        }
        ETH_P_ARP => arp::answer(&ctx),
        _ => PASS,
    }
}

#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    // SAFETY: the context the kernel gave us.
    if unsafe { (*ctx.skb.skb).protocol } != ETH_P_IP {
        return PASS;
    }
    let Some(scratch) = scratch() else { return PASS };
    if !packet::parse(&ctx, &mut scratch.packet) {
        return PASS;
    }
    let result = egress(&ctx, scratch);
    event::verdict(&ctx, &scratch.packet.key, result)
}

#[inline(always)]
fn ingress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    if in_pod_net(&scratch.packet.key.dst) {
        return direct(ctx, scratch);
    }
    let packet = &scratch.packet;
    if packet.is(Kind::IcmpError) {
        return icmp::error(ctx, packet);
    }
    if !packet.is(Kind::Flow) {
        return Ok(PASS);
    }
    if flows::known(packet, &mut scratch.to) {
        return translate(ctx, scratch);
    }
    let key = &packet.key;
    if key.proto == proto::ICMP {
        return Ok(PASS);
    }
    match service::lookup(&key.dst, key.dst_port, key.proto, SCOPE_EXTERNAL, node_address_flags::LOCAL) {
        Some((frontend, found)) => begin(ctx, scratch, &frontend, found),
        None => Ok(PASS),
    }
}

/// A packet to a pod's own address: from another node's pod, by route; or from somebody outside who has a route to pods,
/// and then the pod's answer must not be masqueraded.
#[inline(always)]
fn direct(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    let packet = &scratch.packet;
    let key = &packet.key;
    // SAFETY: only its presence is read.
    let inside = in_cluster_net(&key.src) || unsafe { NODE_ADDRESSES.get(key.src) }.is_some();
    if !inside && packet.is(Kind::Flow) && config!(masquerade) != 0 && !flows::known(packet, &mut scratch.to) {
        scratch.to.src = key.src;
        scratch.to.dst = key.dst;
        scratch.to.src_port = key.src_port;
        scratch.to.dst_port = key.dst_port;
        // If the way back is taken, the client has the same port open through a service, whose answers come first.
        flows::record_plain(scratch, 0, 0)?;
    }
    deliver::to_local_pod(ctx, &scratch.packet.key.dst).unwrap_or(Ok(PASS))
}

/// Gives the packet the tuple `scratch.to` and sends it on.
#[inline(always)]
pub fn translate(ctx: &TcContext, scratch: &Scratch) -> Result<i32, DropReason> {
    let leaves = deliver::leaves_node(&scratch.to.dst);
    nat::rewrite(ctx, &scratch.packet, &scratch.to, leaves)?;
    deliver::onward(ctx, &scratch.to.dst, leaves)
}

/// A new flow to a service.
#[inline(always)]
fn begin(ctx: &TcContext, scratch: &mut Scratch, frontend: &ServiceKey, mut found: Service) -> Result<i32, DropReason> {
    let key = &scratch.packet.key;
    let hash = service::hash(key);
    let choice = if found.affinity_timeout_s != 0 { service::client_hash(key) } else { hash };
    let Some((id, backend)) = service::choose(frontend, &mut found, choice) else {
        service::count(found.id, Count::Refused);
        if found.flags & service_flags::DROP_IF_EMPTY != 0 {
            return Err(DropReason::NoLocalBackend);
        }
        event::count_drop(ctx, DropReason::NoBackend, key, found.id);
        return reject::refuse(ctx, &scratch.packet);
    };
    scratch.to.src = key.src;
    scratch.to.dst = backend.addr;
    scratch.to.src_port = key.src_port;
    scratch.to.dst_port = backend.port;
    let leaves = deliver::leaves_node(&backend.addr);
    // A backend here answers through our uplink, where the answer is recognised; and if this client already uses the
    // same port towards the same backend through another frontend, the two are told apart by a port of ours.
    let plain = !leaves && flows::record_plain(scratch, found.id, id)?;
    if !plain {
        let kinds = (FlowKind::ServiceForward, FlowKind::ServiceReply);
        flows::record_with_port(scratch, kinds, found.id, id, hash)?;
    }
    service::count(found.id, Count::UplinkFlow);
    if config!(flow_events) != 0 {
        event::report(ctx, EVENT_NEW_FLOW, 0, &scratch.packet.key, found.id, id);
    }
    translate(ctx, scratch)
}

#[inline(always)]
fn egress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    let packet = &scratch.packet;
    let key = &packet.key;
    // Between pods nothing is translated.
    if in_cluster_net(&key.dst) || !packet.is(Kind::Flow) {
        return Ok(PASS);
    }
    // The tunnel's own packets.
    if config!(vxlan_ifindex) != 0 && key.proto == proto::UDP && key.dst_port.get() == VXLAN_PORT {
        return Ok(PASS);
    }
    if flows::known(packet, &mut scratch.to) {
        nat::rewrite(ctx, packet, &scratch.to, false)?;
        return Ok(PASS);
    }
    if config!(masquerade) == 0 || !in_pod_net(&key.src) {
        return Ok(PASS);
    }
    // Nodes know the way back to pods. SAFETY: only its presence is read.
    if unsafe { NODE_ADDRESSES.get(key.dst) }.is_some() {
        return Ok(PASS);
    }
    let hash = service::hash(key);
    scratch.to.dst = key.dst;
    scratch.to.dst_port = key.dst_port;
    let kinds = (FlowKind::MasqueradeForward, FlowKind::MasqueradeReply);
    flows::record_with_port(scratch, kinds, 0, 0, hash)?;
    nat::rewrite(ctx, &scratch.packet, &scratch.to, false)?;
    Ok(PASS)
}
