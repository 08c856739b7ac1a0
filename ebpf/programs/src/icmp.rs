//! ICMP errors about translated packets.
//!
//! An error quotes the packet it is about: the IP header and 8 bytes more (RFC 792). We sent that packet translated;
//! for its sender to recognise it, the quote gets its first form back. That makes path MTU discovery work through
//! NodePorts and masquerade, and tells clients outside of a port that a backend does not have.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, FlowKey, Port, flow_flags, proto};

use crate::maps::FLOWS;
use crate::nat::{self, fold16};
use crate::packet::{IPV4_LEN, Ipv4, Packet};
use crate::{deliver, direct_return};

/// Length of an ICMP header.
const ICMP_LEN: usize = 8;

/// Which way an error goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// Translates an error about one of our flows; others pass.
#[inline(always)]
pub fn error(ctx: &TcContext, packet: &Packet, way: Way) -> Result<i32, DropReason> {
    let pass = Ok(TC_ACT_OK);
    let l4 = packet.l4 as usize;
    let quote = l4 + ICMP_LEN;
    let Ok(ip) = ctx.load::<Ipv4>(quote) else { return pass };
    if ip.length() != IPV4_LEN || (ip.proto != proto::TCP && ip.proto != proto::UDP) {
        return pass;
    }
    let Ok(ports) = ctx.load::<[u16; 2]>(quote + IPV4_LEN) else { return pass };
    // The entry for the answer to the quoted packet says where that packet came from.
    let answer = FlowKey {
        src: Addr::from_v4_word(ip.dst),
        dst: Addr::from_v4_word(ip.src),
        src_port: Port(ports[1]),
        dst_port: Port(ports[0]),
        proto: ip.proto,
        padding: [0; 3],
    };
    // SAFETY: copied at once.
    let Some(flow) = (unsafe { FLOWS.get(&answer) }).copied() else { return pass };
    if way == Way::In && flow.flags & flow_flags::DIRECT_RETURN != 0 && deliver::leaves_node(&flow.dst) {
        return direct_return::forward(ctx, packet, &flow.dst, flow.dst_port);
    }

    // The quoted IP header: its checksum keeps its sum the same, so that the ICMP checksum does not see the change.
    let (src, dst) = (flow.dst.v4_word(), flow.src.v4_word());
    let sum = u64::from(!ip.check) + u64::from(!ip.src) + u64::from(src) + u64::from(!ip.dst) + u64::from(dst);
    nat::store(ctx, quote + 10, &(!fold16(sum)))?;
    nat::store(ctx, quote + 12, &[src, dst])?;
    // The quoted ports.
    let old = u32::from(ports[0]) | u32::from(ports[1]) << 16;
    let new = u32::from(flow.dst_port.0) | u32::from(flow.src_port.0) << 16;
    nat::replace_l4(ctx, l4 + 2, u64::from(!old) + u64::from(new), 0)?;
    nat::store(ctx, quote + IPV4_LEN, &[flow.dst_port.0, flow.src_port.0])?;
    // The error itself goes to who sent the packet; if it is from whom the packet was for, that has another address there.
    let from = if packet.ip.src == ip.dst { dst } else { packet.ip.src };
    if way == Way::Out {
        nat::rewrite_ip(ctx, packet, from, src, false)?;
        return pass;
    }
    let leaves = deliver::leaves_node(&flow.dst);
    nat::rewrite_ip(ctx, packet, from, src, leaves)?;
    deliver::onward(ctx, &flow.dst, leaves)
}
