//! Parsing: what the hooks look at in a packet.

use aya_ebpf::programs::{TcContext, XdpContext};
use xebec_ebpf_layout::{Addr, DatagramKey, DatagramPorts, FlowKey, Port, proto};

use crate::config::{config, dual_stack};
use crate::frame::Frame;
use crate::maps::{DATAGRAMS, Scratch, scratch};
use crate::nat::{self, Tuple};
use crate::sctp;

/// Length of an Ethernet header; every interface with a hook is an Ethernet one.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// `__sk_buff.protocol` of an IPv4 packet.
pub const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
/// Length of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;
/// Length of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;
/// `__sk_buff.protocol` of an IPv6 packet.
pub const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// `__sk_buff.protocol` of an ARP packet.
pub const ETH_P_ARP: u32 = 0x0806_u16.to_be() as u32;

/// Bits of the TCP flags.
pub mod tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// ICMP types (RFC 792).
pub mod icmp_type {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const ECHO_REQUEST: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// ICMPv6 types (RFC 4443, RFC 4861).
pub mod icmp6_type {
    pub const UNREACHABLE: u8 = 1;
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Errors are numbered up to this one.
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// IPv6 extension headers (RFC 8200).
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
    /// So many are looked through. What has more is left to the kernel, and no policy allows it.
    pub const MOST: u32 = 6;
}

/// An Ethernet header, in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ethernet {
    dst: [u16; 3],
    src: [u16; 3],
    protocol: u16,
}

/// An IPv4 header (RFC 791), in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    pub version_length: u8,
    pub tos: u8,
    pub total_length: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub proto: u8,
    pub check: u16,
    pub src: u32,
    pub dst: u32,
}

impl Ipv4 {
    /// Length of the header in bytes.
    #[inline(always)]
    pub fn length(&self) -> usize {
        ((self.version_length & 0x0f) as usize) << 2
    }

    /// Whether the packet is in one piece and the header has no options.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.length() == IPV4_LEN && u16::from_be(self.fragment) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0
    }
}

/// An IPv6 header (RFC 8200) before its addresses, in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    pub version_class_flow: u32,
    pub length: u16,
    pub next: u8,
    pub hop_limit: u8,
}

/// The first bytes of a TCP header (RFC 9293), in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tcp {
    pub ports: [u16; 2],
    pub seq: u32,
    pub ack: u32,
    pub offset: u8,
    pub flags: u8,
    pub window: u16,
}

/// What kind of packet it is, as far as translation goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Another protocol, or a fragment whose first one was not seen: not translated.
    Opaque = 0,
    /// TCP, UDP, SCTP or ICMP echo: the key's ports are filled in.
    Flow = 1,
    /// An ICMP error, about another packet.
    IcmpError = 2,
    /// A later fragment of one of these, but ICMP: the key's ports are those of the first; there is no header after IP's.
    Fragment = 3,
}

/// A packet. Of the two IP headers one is its own; its addresses are in the key.
#[repr(C)]
pub struct Packet {
    pub key: FlowKey,
    pub ip: Ipv4,
    pub ip6: Ipv6,
    /// Of an IPv6 packet: its fragment's identification.
    fragment6_id: u32,
    /// And its fragment field, as IPv4 has it.
    fragment6: u16,
    /// 1 for IPv6.
    v6: u8,
    /// Where the header after IP's begins.
    pub l4: u32,
    /// A [`Kind`], as its number: this lives in memory that starts as zeros.
    kind: u8,
    /// TCP's flags; of SCTP what its first chunk says, in their terms; 0 for others.
    pub tcp_flags: u8,
}

/// Reads the IPv4 header; `None` if the packet is too short or is not version 4.
#[inline(always)]
fn ipv4(ctx: &impl Frame) -> Option<Ipv4> {
    let ip: Ipv4 = ctx.read(ETH_LEN)?;
    if ip.version_length >> 4 != 4 || ip.length() < IPV4_LEN {
        return None;
    }
    Some(ip)
}

/// This CPU's working memory with the IP packet read into it; `None` if it is something else, or malformed, and then the
/// kernel may judge it.
#[inline(always)]
pub fn take(ctx: &TcContext) -> Option<&'static mut Scratch> {
    // SAFETY: the context the kernel gave us.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    if protocol == ETH_P_IP {
        let scratch = scratch()?;
        return parse(ctx, &mut scratch.packet).then_some(scratch);
    }
    if dual_stack() && protocol == ETH_P_IPV6 {
        let scratch = scratch()?;
        return read_v6(ctx, &mut scratch.packet).is_some().then_some(scratch);
    }
    None
}

/// Whether a MAC address is that of the uplink.
#[inline(always)]
pub fn is_uplinks(mac: &[u16; 3]) -> bool {
    let own = config!(uplink_mac);
    // SAFETY: both are six bytes.
    let own: [u16; 3] = unsafe { core::mem::transmute(own) };
    mac[0] == own[0] && mac[1] == own[1] && mac[2] == own[2]
}

/// This CPU's working memory with a plain packet to this machine read into it: TCP or UDP, in one piece, all headers there and
/// none of them with options. `None` if it is anything else.
#[inline(always)]
pub fn take_plain(ctx: &XdpContext) -> Option<&'static mut Scratch> {
    let ethernet: Ethernet = ctx.read(0)?;
    if !is_uplinks(&ethernet.dst) {
        return None;
    }
    let protocol = u32::from(ethernet.protocol);
    let scratch = scratch()?;
    let packet = &mut scratch.packet;
    let (l4, next, length) = if protocol == ETH_P_IP {
        let ip = read_header(ctx, packet)?;
        if !ip.is_plain() {
            return None;
        }
        (ETH_LEN + IPV4_LEN, ip.proto, u16::from_be(ip.total_length) as usize)
    } else if dual_stack() && protocol == ETH_P_IPV6 {
        let ip = read_header6(ctx, packet)?;
        (ETH_LEN + IPV6_LEN, ip.next, IPV6_LEN + u16::from_be(ip.length) as usize)
    } else {
        return None;
    };
    let l4_length = match next {
        proto::TCP => TCP_LEN,
        proto::UDP => UDP_LEN,
        _ => return None,
    };
    let end = ETH_LEN + length;
    if l4 + l4_length > end || end > ctx.data_end().wrapping_sub(ctx.data()) {
        return None;
    }
    read_l4(ctx, packet, l4, next, false)?;
    Some(scratch)
}

/// Bits of a fragment field in the machine's byte order, as IPv4 has it.
pub const MORE_FRAGMENTS: u16 = 0x2000;
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Remembers the ports of a datagram whose first fragment this is; finds them if it is a later one.
#[inline(always)]
pub fn join_fragments(packet: &mut Packet) {
    let (id, fragment) = packet.fragment();
    if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0 {
        return;
    }
    let key = &packet.key;
    let datagram = DatagramKey { src: key.src, dst: key.dst, id, proto: key.proto, padding: [0; 3] };
    if fragment & FRAGMENT_OFFSET == 0 {
        if packet.is(Kind::Flow) && !packet.is_icmp() {
            let ports = DatagramPorts { src: packet.key.src_port, dst: packet.key.dst_port };
            // If this fails the later fragments go untranslated, and the datagram is lost.
            let _ = DATAGRAMS.insert(datagram, ports, 0);
        }
        return;
    }
    // SAFETY: read at once.
    if let Some(ports) = unsafe { DATAGRAMS.get(datagram) } {
        packet.key.src_port = ports.src;
        packet.key.dst_port = ports.dst;
        packet.kind = Kind::Fragment as u8;
    }
}

/// Reads an IPv4 packet's headers into `packet`; false if it is malformed, and then the kernel may judge it.
#[inline(always)]
fn parse(ctx: &TcContext, packet: &mut Packet) -> bool {
    read(ctx, packet).is_some()
}

#[inline(always)]
fn read(ctx: &impl Frame, packet: &mut Packet) -> Option<()> {
    let ip = read_header(ctx, packet)?;
    let l4 = ETH_LEN + ip.length();
    read_l4(ctx, packet, l4, ip.proto, u16::from_be(ip.fragment) & FRAGMENT_OFFSET != 0)
}

/// Reads an IPv4 header into `packet`.
#[inline(always)]
fn read_header(ctx: &impl Frame, packet: &mut Packet) -> Option<Ipv4> {
    let ip = ipv4(ctx)?;
    packet.ip = ip;
    packet.v6 = 0;
    packet.key.src = Addr::from_v4_word(ip.src);
    packet.key.dst = Addr::from_v4_word(ip.dst);
    Some(ip)
}

/// Reads an IPv6 header into `packet`, without its extensions.
#[inline(always)]
fn read_header6(ctx: &impl Frame, packet: &mut Packet) -> Option<Ipv6> {
    let ip: Ipv6 = ctx.read(ETH_LEN)?;
    if ip.version_class_flow & 0xf000_0000_u32.to_be() != 0x6000_0000_u32.to_be() {
        return None;
    }
    packet.ip6 = ip;
    packet.v6 = 1;
    packet.fragment6_id = 0;
    packet.fragment6 = 0;
    packet.key.src = ctx.read(ETH_LEN + 8)?;
    packet.key.dst = ctx.read(ETH_LEN + 24)?;
    Some(ip)
}

/// Reads an IPv6 packet's headers into `packet`; `None` if it is malformed.
#[inline(always)]
fn read_v6(ctx: &impl Frame, packet: &mut Packet) -> Option<()> {
    let ip = read_header6(ctx, packet)?;
    let (mut next, mut l4) = (ip.next, ETH_LEN + IPV6_LEN);
    let (mut id, mut fragment) = (0, 0);
    for _ in 0..extension::MOST {
        if next == extension::FRAGMENT {
            let header: [u32; 2] = ctx.read(l4)?;
            let [after, _, high, low] = header[0].to_ne_bytes();
            let field = u16::from_be_bytes([high, low]);
            next = after;
            id = header[1];
            fragment = field >> 3 | if field & 1 != 0 { MORE_FRAGMENTS } else { 0 };
            l4 += 8;
            if fragment & FRAGMENT_OFFSET != 0 {
                break;
            }
        } else if matches!(next, extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION) {
            let [after, length]: [u8; 2] = ctx.read(l4)?;
            next = after;
            l4 += (length as usize + 1) << 3;
        } else {
            break;
        }
    }
    packet.fragment6_id = id;
    packet.fragment6 = fragment;
    read_l4(ctx, packet, l4, next, fragment & FRAGMENT_OFFSET != 0)
}

/// Reads the header after IP's.
#[inline(always)]
fn read_l4(ctx: &impl Frame, packet: &mut Packet, l4: usize, protocol: u8, is_later_fragment: bool) -> Option<()> {
    packet.l4 = l4 as u32;
    packet.key.src_port = Port(0);
    packet.key.dst_port = Port(0);
    packet.key.proto = protocol;
    packet.kind = Kind::Opaque as u8;
    packet.tcp_flags = 0;
    // Ports are in the first only.
    if is_later_fragment {
        return Some(());
    }
    match protocol {
        proto::TCP => {
            let tcp: Tcp = ctx.read(l4)?;
            packet.key.src_port = Port(tcp.ports[0]);
            packet.key.dst_port = Port(tcp.ports[1]);
            packet.tcp_flags = tcp.flags;
            packet.kind = Kind::Flow as u8;
        }
        proto::UDP => {
            let ports: [u16; 2] = ctx.read(l4)?;
            packet.key.src_port = Port(ports[0]);
            packet.key.dst_port = Port(ports[1]);
            packet.kind = Kind::Flow as u8;
        }
        proto::SCTP => {
            let ports: [u16; 2] = ctx.read(l4)?;
            packet.key.src_port = Port(ports[0]);
            packet.key.dst_port = Port(ports[1]);
            packet.tcp_flags = sctp::first_chunk(ctx, l4).map_or(0, sctp::flags);
            packet.kind = Kind::Flow as u8;
        }
        proto::ICMP => {
            // Type, code, checksum, identifier.
            let icmp: [u16; 3] = ctx.read(l4)?;
            match icmp[0].to_ne_bytes()[0] {
                icmp_type::ECHO_REQUEST => {
                    packet.key.src_port = Port(icmp[2]);
                    packet.kind = Kind::Flow as u8;
                }
                icmp_type::ECHO_REPLY => {
                    packet.key.dst_port = Port(icmp[2]);
                    packet.kind = Kind::Flow as u8;
                }
                icmp_type::UNREACHABLE | icmp_type::TIME_EXCEEDED | icmp_type::PARAMETER_PROBLEM => {
                    packet.kind = Kind::IcmpError as u8;
                }
                _ => {}
            }
        }
        proto::ICMPV6 if dual_stack() && packet.v6 != 0 => {
            let icmp: [u16; 3] = ctx.read(l4)?;
            match icmp[0].to_ne_bytes()[0] {
                icmp6_type::ECHO_REQUEST => {
                    packet.key.src_port = Port(icmp[2]);
                    packet.kind = Kind::Flow as u8;
                }
                icmp6_type::ECHO_REPLY => {
                    packet.key.dst_port = Port(icmp[2]);
                    packet.kind = Kind::Flow as u8;
                }
                icmp6_type::UNREACHABLE..=icmp6_type::PARAMETER_PROBLEM => {
                    packet.kind = Kind::IcmpError as u8;
                }
                _ => {}
            }
        }
        _ => {}
    }
    Some(())
}

impl Packet {
    /// Whether it is one of IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        dual_stack() && self.v6 != 0
    }

    /// Whether it is ICMP of its family.
    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        if self.is_v6() { self.key.proto == proto::ICMPV6 } else { self.key.proto == proto::ICMP }
    }

    /// The identification of the datagram that it is a fragment of, and the fragment field as IPv4 has it, in the machine's
    /// byte order: [`MORE_FRAGMENTS`] and [`FRAGMENT_OFFSET`].
    #[inline(always)]
    pub fn fragment(&self) -> (u32, u16) {
        if self.is_v6() {
            (self.fragment6_id, self.fragment6)
        } else {
            (u32::from(self.ip.id), u16::from_be(self.ip.fragment))
        }
    }

    /// Length of what follows IP's header with its options or extensions, in bytes.
    #[inline(always)]
    pub fn payload_length(&self) -> u32 {
        let headers = self.l4.wrapping_sub(ETH_LEN as u32);
        if self.is_v6() {
            (u32::from(u16::from_be(self.ip6.length)) + IPV6_LEN as u32).wrapping_sub(headers)
        } else {
            u32::from(u16::from_be(self.ip.total_length)).wrapping_sub(headers)
        }
    }

    /// What kind of packet it is.
    #[inline(always)]
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u8
    }

    /// Whether its five-tuple is known.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.is(Kind::Flow) || self.is(Kind::Fragment)
    }

    /// Whether its sender wants to be told if it is too large.
    #[inline(always)]
    pub fn must_not_fragment(&self) -> bool {
        self.is_v6() || u16::from_be(self.ip.fragment) & 0x4000 != 0
    }

    /// Whether its protocol says where connections begin and end.
    #[inline(always)]
    pub fn is_of_connection(&self) -> bool {
        self.key.proto == proto::TCP || self.key.proto == proto::SCTP
    }

    /// Whether this begins a connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether this ends a connection, or half of it.
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }

    /// Makes it what it is after its tuple was rewritten, with no hop counted.
    #[inline(always)]
    pub fn becomes(&mut self, to: &Tuple) {
        if !self.is_v6() {
            let (src, dst) = (to.src.v4_word(), to.dst.v4_word());
            self.ip.check = nat::header_check(&self.ip, self.ip.ttl, src, dst);
            self.ip.src = src;
            self.ip.dst = dst;
        }
        self.key.src = to.src;
        self.key.dst = to.dst;
        self.key.src_port = to.src_port;
        self.key.dst_port = to.dst_port;
    }
}
