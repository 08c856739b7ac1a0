//! Direct server return: the node that the client addressed hands the packet on as it is, and the backend's node
//! translates it and answers the client itself. So the backend sees the client's address, the way back is one hop shorter,
//! and the first node can die without a connection breaking: any other chooses the same backend (Maglev).
//!
//! On its way the packet is in the tunnel. Its inner source MAC address, which nobody looks at, carries the choice: the
//! backend's address and port. Of an IPv6 address that has room for the last four bytes only: those before them are the same for
//! all pods of a node (see `paired` in the CNI plugin's leases), and the node to send to is looked up before they are gone.

use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, Port, StepKind, flow_flags};

use crate::config::{config, dual_stack, in_pod_net};
use crate::maps::Scratch;
use crate::nat::{self, store};
use crate::packet::Packet;
use crate::{deliver, flows, handover, mss, overlay, trace};

/// In the packet's own MAC addresses, from the uplink's program to the tunnel's.
#[repr(C)]
#[derive(Clone, Copy)]
struct Macs {
    destination: [u16; 3],
    /// In pairs of bytes, for it is not aligned to more.
    backend: [u16; 2],
    port: u16,
}

/// The destination of packets that the tunnel's program is to address.
const NOBODY: [u16; 3] = [0; 3];

#[inline(always)]
fn pair(bytes: [u8; 2]) -> u16 {
    u16::from_ne_bytes(bytes)
}

impl Macs {
    #[inline(always)]
    fn backend(&self) -> Addr {
        let [a, b] = self.backend[0].to_ne_bytes();
        let [c, d] = self.backend[1].to_ne_bytes();
        Addr::from_v4_word(u32::from_ne_bytes([a, b, c, d]))
    }
}

/// Hands a packet on to the node of `backend`.
#[inline(always)]
pub fn forward(ctx: &TcContext, packet: &Packet, backend: &Addr, port: Port) -> Result<i32, DropReason> {
    let [a, b, c, d] = backend.v4_word().to_ne_bytes();
    let mut macs = Macs { destination: NOBODY, backend: [pair([a, b]), pair([c, d])], port: port.0 };
    nat::count_hop(ctx, packet)?;
    trace::step(StepKind::DirectReturn, 0, backend, port);
    if dual_stack() && !backend.is_v4() {
        let peer = deliver::peer(backend).ok_or(DropReason::NoPeer)?;
        overlay::address(ctx, packet, &peer)?;
        let [a, b, c, d, e, f] = peer.vtep_mac;
        macs.destination = [pair([a, b]), pair([c, d]), pair([e, f])];
    }
    store(ctx, 0, &macs)?;
    Ok(deliver::into_tunnel())
}

/// Whether a packet in the tunnel's device was told by [`forward`] where the tunnel leads.
#[inline(always)]
pub fn is_addressed(ctx: &TcContext, packet: &Packet) -> bool {
    let [a, b, c, d, e, f] = config!(vxlan_mac);
    let own = [pair([a, b]), pair([c, d]), pair([e, f])];
    packet.is_v6() && ctx.load::<Macs>(0).is_ok_and(|macs| macs.destination != NOBODY && macs.destination != own)
}

/// The backend that a packet in the tunnel is on its way to, and its port. One of IPv6 is taken for a pod of this node.
#[inline(always)]
pub fn chosen(ctx: &TcContext, packet: &Packet) -> Option<(Addr, Port)> {
    let macs: Macs = ctx.load(0).ok()?;
    let mut backend = macs.backend();
    // What is handed to a former owner leads to no backend, and where the nodes have IPv4, by that.
    if packet.is_v6() && macs.port != handover::NO_PORT.0 {
        let net = config!(pod6_net);
        backend = Addr([net.0[0], net.0[1], net.0[2], backend.v4_word()]);
    }
    Some((backend, Port(macs.port)))
}

/// Takes a packet that another node has handed on to a backend of ours; false if it is none.
#[inline(always)]
pub fn accept(ctx: &TcContext, scratch: &mut Scratch) -> Result<bool, DropReason> {
    let Some((backend, port)) = chosen(ctx, &scratch.packet) else { return Ok(false) };
    if port == handover::NO_PORT || deliver::leaves_node(&backend) || !deliver::leaves_node(&scratch.packet.key.dst) {
        return Ok(false);
    }
    let known = flows::known(&scratch.packet, &mut scratch.to);
    if known && scratch.to.dst == backend && scratch.to.dst_port == port {
        scratch.to.direct_return = 0;
        return Ok(true);
    }
    let key = &scratch.packet.key;
    scratch.to.src = key.src;
    scratch.to.dst = backend;
    scratch.to.src_port = key.src_port;
    scratch.to.dst_port = port;
    scratch.to.direct_return = 0;
    // If the way back is taken, this client has the same port open to the backend through another frontend.
    if !flows::record_plain(scratch, 0, 0, flow_flags::DIRECT_RETURN)? {
        return Err(DropReason::NatPortsExhausted);
    }
    Ok(true)
}

/// What a backend of ours sends directly must announce a segment size that fits the tunnel, by which the client's come.
#[inline(always)]
pub fn fit(ctx: &TcContext, scratch: &Scratch) -> Result<(), DropReason> {
    let from_pod = in_pod_net(&scratch.packet.key.src);
    if from_pod && scratch.to.direct_return != 0 {
        let ends = if scratch.packet.is_v6() { config!(node6) } else { config!(node) };
        mss::clamp(ctx, &scratch.packet, deliver::largest_between(&ends))
    } else {
        Ok(())
    }
}
