//! ICMP errors about translated packets.
//!
//! An error quotes the packet it is about: the IP header and 8 bytes more (RFC 792; RFC 4443: as much as fits). We sent
//! that packet translated; for its sender to recognise it, the quote gets its first form back. That makes path MTU
//! discovery work through NodePorts and masquerade, and tells clients outside of a port that a backend does not have.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DropReason, FlowKey, Port, flow_flags, proto};

use crate::maps::FLOWS;
use crate::nat::{self, fold16};
use crate::packet::{IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Packet};
use crate::{deliver, direct_return};

/// Length of an ICMP header.
const ICMP_LEN: usize = 8;

/// Which way an error goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// The packet that an error is about.
pub struct Quote {
    pub src: Addr,
    pub dst: Addr,
    pub proto: u8,
    /// The IPv4 header's checksum.
    check: u16,
    /// Where its IP header begins.
    ip: usize,
    /// Where the header after it begins.
    pub l4: usize,
}

/// Reads what an error is about; `None` if it has options or extensions, which nobody sends.
#[inline(always)]
pub fn quote(ctx: &TcContext, packet: &Packet) -> Option<Quote> {
    let at = packet.l4 as usize + ICMP_LEN;
    if packet.is_v6() {
        let ip: Ipv6 = ctx.load(at).ok()?;
        let (src, dst) = (ctx.load(at + 8).ok()?, ctx.load(at + 24).ok()?);
        return Some(Quote { src, dst, proto: ip.next, check: 0, ip: at, l4: at + IPV6_LEN });
    }
    let ip: Ipv4 = ctx.load(at).ok()?;
    if ip.length() != IPV4_LEN {
        return None;
    }
    let (src, dst) = (Addr::from_v4_word(ip.src), Addr::from_v4_word(ip.dst));
    Some(Quote { src, dst, proto: ip.proto, check: ip.check, ip: at, l4: at + IPV4_LEN })
}

/// Translates an error about one of our flows; others pass.
#[inline(always)]
pub fn error(ctx: &TcContext, packet: &Packet, way: Way) -> Result<i32, DropReason> {
    let pass = Ok(TC_ACT_OK);
    let Some(quote) = quote(ctx, packet) else { return pass };
    if !matches!(quote.proto, proto::TCP | proto::UDP | proto::SCTP) {
        return pass;
    }
    let Ok(ports) = ctx.load::<[u16; 2]>(quote.l4) else { return pass };
    // The entry for the answer to the quoted packet says where that packet came from.
    let answer = FlowKey {
        src: quote.dst,
        dst: quote.src,
        src_port: Port(ports[1]),
        dst_port: Port(ports[0]),
        proto: quote.proto,
        padding: [0; 3],
    };
    // SAFETY: copied at once.
    let Some(flow) = (unsafe { FLOWS.get(&answer) }).copied() else { return pass };
    if way == Way::In && flow.flags & flow_flags::DIRECT_RETURN != 0 && deliver::leaves_node(&flow.dst) {
        return direct_return::forward(ctx, packet, &flow.dst, flow.dst_port);
    }

    requote(ctx, packet, &quote, &flow.dst, &flow.src)?;
    // The quoted ports.
    let old = u32::from(ports[0]) | u32::from(ports[1]) << 16;
    let new = u32::from(flow.dst_port.0) | u32::from(flow.src_port.0) << 16;
    nat::replace_l4(ctx, packet.l4 as usize + 2, u64::from(!old) + u64::from(new), 0)?;
    nat::store(ctx, quote.l4, &[flow.dst_port.0, flow.src_port.0])?;
    // The error itself goes to who sent the packet; if it is from whom the packet was for, that has another address there.
    let from = if packet.key.src == quote.dst { &flow.src } else { &packet.key.src };
    if way == Way::Out {
        nat::readdress_icmp(ctx, packet, from, &flow.dst, false)?;
        return pass;
    }
    let leaves = deliver::leaves_node(&flow.dst);
    nat::readdress_icmp(ctx, packet, from, &flow.dst, leaves)?;
    deliver::onward(ctx, packet, &flow.dst, leaves)
}

/// Writes new addresses into the quoted IP header.
#[inline(always)]
fn requote(ctx: &TcContext, packet: &Packet, quote: &Quote, src: &Addr, dst: &Addr) -> Result<(), DropReason> {
    if packet.is_v6() {
        let change = nat::change_of(&quote.src, src) + nat::change_of(&quote.dst, dst);
        nat::replace_l4(ctx, packet.l4 as usize + 2, change, 0)?;
        return nat::store(ctx, quote.ip + 8, &[*src, *dst]);
    }
    // Its checksum keeps its sum the same, so that the ICMP checksum does not see the change.
    let (src, dst) = (src.v4_word(), dst.v4_word());
    let (old_src, old_dst) = (quote.src.v4_word(), quote.dst.v4_word());
    let sum = u64::from(!quote.check) + u64::from(!old_src) + u64::from(src) + u64::from(!old_dst) + u64::from(dst);
    nat::store(ctx, quote.ip + 10, &(!fold16(sum)))?;
    nat::store(ctx, quote.ip + 12, &[src, dst])
}
