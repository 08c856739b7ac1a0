//! The node's uplink: what comes from outside for NodePorts and load balancer addresses, and what pods send there.
//!
//! In: replies and known flows by the flow table; else a new flow to a service. A backend on this node keeps the
//! client's address; one elsewhere sees this node's, so that the answer comes back here. Out: answers of local
//! backends get the service's address back; pods' own connections to the world get the node's.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{
    AffinityKey, Backend, DropReason, FlowKind, SCOPE_EXTERNAL, Service, ServiceKey, node_address_flags, own_ports,
    proto, service_flags,
};

use crate::association::Outcome;
use crate::config::{config, in_cluster_net, in_pod_net, node_like};
use crate::frame::Frame as _;
use crate::icmp::Way;
use crate::maps::{NODE_ADDRESSES, OWN_PORTS, Scratch};
use crate::packet::{ETH_LEN, ETH_P_ARP, ETH_P_IP, Ipv4, Kind, Packet, tcp};
use crate::service::Count;
use crate::{
    alive, arp, association, deliver, direct_return, event, flows, handover, icmp, mss, nat, ndp, packet, reject, sctp,
    service,
};

const PASS: i32 = TC_ACT_OK;
const VXLAN_PORT: u16 = 4789;
/// `PACKET_OTHERHOST` of `linux/if_packet.h`: not to this interface's address.
const PACKET_OTHERHOST: u32 = 3;

#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    if is_own(&ctx, Way::In) || is_for_another(&ctx) {
        return PASS;
    }
    // SAFETY: the context the kernel gave us.
    if unsafe { (*ctx.skb.skb).protocol } == ETH_P_ARP {
        return arp::answer(&ctx);
    }
    let Some(scratch) = packet::take(&ctx) else { return PASS };
    packet::join_fragments(&mut scratch.packet);
    let result = ingress(&ctx, scratch);
    event::verdict(&ctx, &scratch.packet.key, result)
}

#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    if is_own(&ctx, Way::Out) {
        return PASS;
    }
    let Some(scratch) = packet::take(&ctx) else { return PASS };
    packet::join_fragments(&mut scratch.packet);
    let result = egress(&ctx, scratch);
    event::verdict(&ctx, &scratch.packet.key, result)
}

/// The beginning of a plain packet of IPv4.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    ip: Ipv4,
    ports: [u16; 2],
}

/// Whether the packet is of a connection that a process of the node has made to somebody: no flow and no service has its port,
/// so nothing below would find anything. Most packets of a node that serves nobody from outside are such, and they are
/// spared looking in tables that are in no cache.
#[inline(always)]
fn is_own(ctx: &TcContext, way: Way) -> bool {
    let [first, last] = config!(own_ports);
    if last == 0 || OWN_PORTS.get(0).copied() != Some(own_ports::UNSHARED) {
        return false;
    }
    // SAFETY: the context the kernel gave us.
    if unsafe { (*ctx.skb.skb).protocol } != ETH_P_IP {
        return false;
    }
    let Some(Head { ip, ports }) = ctx.read::<Head>(ETH_LEN) else { return false };
    let (addr, port) = match way {
        Way::In => (ip.dst, ports[1]),
        Way::Out => (ip.src, ports[0]),
    };
    let port = u16::from_be(port);
    ip.is_plain()
        && (ip.proto == proto::TCP || ip.proto == proto::UDP)
        && addr == config!(node).v4_word()
        && (first..=last).contains(&port)
}

/// Whether the frame is another machine's: a switch that has forgotten where that is floods it to all. Each node has every
/// service, so what is answered here would be answered twice.
#[inline(always)]
fn is_for_another(ctx: &TcContext) -> bool {
    // SAFETY: the context the kernel gave us.
    if unsafe { (*ctx.skb.skb).pkt_type } != PACKET_OTHERHOST {
        return false;
    }
    ctx.read(0).is_some_and(|to| !packet::is_uplinks(&to))
}

#[inline(always)]
fn ingress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    if in_pod_net(&scratch.packet.key.dst) {
        return direct(ctx, scratch);
    }
    let packet = &scratch.packet;
    if packet.is(Kind::IcmpError) {
        return icmp::error(ctx, packet, Way::In);
    }
    if !packet.has_ports() {
        return Ok(if packet.is_v6() { ndp::answer(ctx, packet) } else { PASS });
    }
    if flows::known(packet, &mut scratch.to) {
        return translate(ctx, scratch);
    }
    let key = &packet.key;
    if packet.is_icmp() || packet.is(Kind::Fragment) {
        return Ok(PASS);
    }
    match service::lookup(&key.dst, key.dst_port, key.proto, SCOPE_EXTERNAL, node_address_flags::LOCAL) {
        Some((frontend, found)) => match handover::former_owner(&scratch.packet) {
            Some(node) => direct_return::forward(ctx, &scratch.packet, &node, handover::NO_PORT),
            None => begin(ctx, scratch, &frontend, found),
        },
        None if alive::is_asked(ctx, &scratch.packet) => alive::answer(ctx, &scratch.packet, &mut scratch.to),
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
        flows::record_plain(scratch, 0, 0, 0)?;
    }
    deliver::to_local_pod(ctx, &scratch.packet, &scratch.packet.key.dst).unwrap_or(Ok(PASS))
}

/// Gives the packet the tuple `scratch.to` and sends it on.
#[inline(always)]
pub fn translate(ctx: &TcContext, scratch: &Scratch) -> Result<i32, DropReason> {
    let leaves = deliver::leaves_node(&scratch.to.dst);
    if scratch.to.direct_return != 0 && leaves {
        return direct_return::forward(ctx, &scratch.packet, &scratch.to.dst, scratch.to.dst_port);
    }
    if !leaves || !in_cluster_net(&scratch.to.dst) {
        answer_fits(ctx, &scratch.packet)?;
        nat::rewrite(ctx, &scratch.packet, &scratch.to, leaves)?;
        return deliver::onward(ctx, &scratch.packet, &scratch.to.dst, leaves);
    }
    let packet = &scratch.packet;
    let peer = deliver::peer(&scratch.to.dst).ok_or(DropReason::NoPeer)?;
    let mtu = deliver::mtu(&peer);
    if mtu != 0 {
        if packet.must_not_fragment() && !deliver::fits(ctx, packet, mtu) {
            return reject::too_big(ctx, packet, mtu);
        }
        mss::clamp(ctx, packet, mtu)?;
    }
    nat::rewrite(ctx, packet, &scratch.to, true)?;
    Ok(deliver::to_peer(&peer))
}

/// A backend behind a small path announces a segment size that fits it, so that what the client sends does.
#[inline(always)]
fn answer_fits(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    if packet.tcp_flags & tcp::SYN == 0 || !in_cluster_net(&packet.key.src) {
        return Ok(());
    }
    match deliver::peer(&packet.key.src).map(|peer| deliver::mtu(&peer)) {
        Some(mtu) if mtu != 0 => mss::clamp(ctx, packet, mtu),
        _ => Ok(()),
    }
}

/// A new flow to a service.
#[inline(always)]
pub fn begin(
    ctx: &TcContext,
    scratch: &mut Scratch,
    frontend: &ServiceKey,
    mut found: Service,
) -> Result<i32, DropReason> {
    let key = &scratch.packet.key;
    if found.flags & service_flags::SOURCE_RANGES != 0 && !service::allows(found.id, &key.src) {
        event::count_drop(ctx, DropReason::SourceNotAllowed, key, found.id);
        return Ok(TC_ACT_SHOT);
    }
    let hash = service::hash(key);
    let Some((id, backend)) = choose(scratch, frontend, &mut found, hash) else {
        service::count(found.id, Count::Refused);
        let key = &scratch.packet.key;
        if found.flags & service_flags::DROP_IF_EMPTY != 0 {
            event::count_drop(ctx, DropReason::NoLocalBackend, key, found.id);
            return Ok(TC_ACT_SHOT);
        }
        event::count_drop(ctx, DropReason::NoBackend, key, found.id);
        return reject::refuse(ctx, &scratch.packet);
    };
    let key = &scratch.packet.key;
    scratch.to.src = key.src;
    scratch.to.dst = backend.addr;
    scratch.to.src_port = key.src_port;
    scratch.to.dst_port = backend.port;
    let leaves = deliver::leaves_node(&backend.addr);
    // A backend in another node's own network has no program that would answer.
    let can_return = config!(vxlan_ifindex) != 0 && in_cluster_net(&backend.addr);
    let direct = leaves && found.flags & service_flags::DIRECT_RETURN != 0 && can_return;
    scratch.to.direct_return = u32::from(direct);
    record(scratch, &found, id, leaves, hash)?;
    service::count(found.id, Count::UplinkFlow);
    event::new_flow(ctx, 0, &scratch.packet.key, found.id, id);
    translate(ctx, scratch)
}

/// The backend of a new flow.
#[inline(always)]
pub fn choose(scratch: &Scratch, frontend: &ServiceKey, found: &mut Service, hash: u32) -> Option<(u32, Backend)> {
    let key = &scratch.packet.key;
    if found.affinity_timeout_s == 0 {
        return service::choose(frontend, found, hash);
    }
    let hash = service::client_hash(key);
    if found.flags & service_flags::STICKY == 0 {
        return service::choose(frontend, found, hash);
    }
    let client = AffinityKey { client: key.src, service: found.id };
    service::choose_again(frontend, found, &client, hash)
}

/// Records a new flow to the backend in `scratch.to`.
#[inline(always)]
fn record(scratch: &mut Scratch, found: &Service, backend: u32, leaves: bool, hash: u32) -> Result<(), DropReason> {
    if scratch.to.direct_return != 0 {
        return flows::record_direct_return(scratch, found.id, backend);
    }
    // A backend here answers through our uplink, where the answer is recognised.
    flows::record_to_backend(scratch, !leaves, found.id, backend, hash)
}

#[inline(always)]
fn egress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    let packet = &scratch.packet;
    let key = &packet.key;
    // Between pods nothing is translated.
    if in_cluster_net(&key.dst) {
        return Ok(PASS);
    }
    if packet.is(Kind::IcmpError) {
        return icmp::error(ctx, packet, Way::Out);
    }
    if !packet.has_ports() {
        return Ok(PASS);
    }
    if key.proto == proto::SCTP
        && !in_pod_net(&key.src)
        && let Some(verdict) = own_association(ctx, scratch)?
    {
        return Ok(verdict);
    }
    let packet = &scratch.packet;
    let key = &packet.key;
    // The tunnel's own packets.
    if config!(vxlan_ifindex) != 0 && key.proto == proto::UDP && key.dst_port.get() == VXLAN_PORT {
        return Ok(PASS);
    }
    if flows::known(packet, &mut scratch.to) {
        direct_return::fit(ctx, scratch)?;
        nat::rewrite(ctx, &scratch.packet, &scratch.to, false)?;
        return Ok(PASS);
    }
    if config!(masquerade) == 0 || !in_pod_net(&key.src) || packet.is(Kind::Fragment) {
        return Ok(PASS);
    }
    // A node without an address of the family cannot lend it.
    if packet.is_v6() && node_like(&key.src).is_unspecified() {
        return Ok(PASS);
    }
    // Nodes know the way back to pods. SAFETY: only its presence is read.
    if unsafe { NODE_ADDRESSES.get(key.dst) }.is_some() {
        return Ok(PASS);
    }
    let hash = service::hash(key);
    scratch.to.dst = key.dst;
    scratch.to.dst_port = key.dst_port;
    scratch.to.direct_return = 0;
    let kinds = (FlowKind::MasqueradeForward, FlowKind::MasqueradeReply);
    flows::record_with_port(scratch, kinds, 0, 0, hash)?;
    nat::rewrite(ctx, &scratch.packet, &scratch.to, false)?;
    Ok(PASS)
}

/// A packet of SCTP from a process of the node; none if it is for no service.
#[inline(always)]
fn own_association(ctx: &TcContext, scratch: &mut Scratch) -> Result<Option<i32>, DropReason> {
    match association::send(ctx, scratch)? {
        Outcome::Keep => return Ok(None),
        Outcome::Translated => {}
        Outcome::Refuse => {
            return Ok(Some(if sctp::abort(ctx, &scratch.packet)? { deliver::up(ctx) } else { TC_ACT_SHOT }));
        }
    }
    let dst = &scratch.to.dst;
    deliver::onward(ctx, &scratch.packet, dst, deliver::leaves_node(dst)).map(Some)
}
