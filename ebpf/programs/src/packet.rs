//! Parsing: what the hooks look at in a packet.

use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, DatagramKey, DatagramPorts, FlowKey, Port, proto};

use crate::maps::{DATAGRAMS, Scratch, scratch};

/// Length of an Ethernet header; every interface with a hook is an Ethernet one.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// `__sk_buff.protocol` of an IPv4 packet.
pub const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
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
    /// Another protocol, or a fragment whose first one was not seen: not translated. (SCTP's ports are filled in.)
    Opaque = 0,
    /// TCP, UDP or ICMP echo: the key's ports are filled in.
    Flow = 1,
    /// An ICMP error, about another packet.
    IcmpError = 2,
    /// A later fragment of TCP or UDP: the key's ports are those of the first; there is no header after IP's.
    Fragment = 3,
}

/// An IPv4 packet.
#[repr(C)]
pub struct Packet {
    pub key: FlowKey,
    pub ip: Ipv4,
    /// Where the header after IP's begins.
    pub l4: u32,
    /// A [`Kind`], as its number: this lives in memory that starts as zeros.
    kind: u8,
    /// TCP's flags, 0 for others.
    pub tcp_flags: u8,
}

/// Reads the IPv4 header; `None` if the packet is too short or is not version 4.
#[inline(always)]
pub fn ipv4(ctx: &TcContext) -> Option<Ipv4> {
    let ip: Ipv4 = ctx.load(ETH_LEN).ok()?;
    if ip.version_length >> 4 != 4 || ip.length() < IPV4_LEN {
        return None;
    }
    Some(ip)
}

/// This CPU's working memory with the IPv4 packet read into it; `None` if it is something else, or malformed, and then the
/// kernel may judge it.
#[inline(always)]
pub fn take(ctx: &TcContext) -> Option<&'static mut Scratch> {
    // SAFETY: the context the kernel gave us.
    if unsafe { (*ctx.skb.skb).protocol } != ETH_P_IP {
        return None;
    }
    let scratch = scratch()?;
    if parse(ctx, &mut scratch.packet) { Some(scratch) } else { None }
}

/// Remembers the ports of a datagram whose first fragment this is; finds them if it is a later one.
#[inline(always)]
pub fn join_fragments(packet: &mut Packet) {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let fragment = u16::from_be(packet.ip.fragment);
    if fragment & (MORE | OFFSET) == 0 {
        return;
    }
    let Packet { key, ip, .. } = packet;
    let datagram = DatagramKey { src: key.src, dst: key.dst, id: ip.id, proto: key.proto, padding: 0 };
    if fragment & OFFSET == 0 {
        if packet.is(Kind::Flow) && packet.key.proto != proto::ICMP {
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
fn read(ctx: &TcContext, packet: &mut Packet) -> Option<()> {
    let ip = ipv4(ctx)?;
    let l4 = ETH_LEN + ip.length();
    packet.ip = ip;
    packet.l4 = l4 as u32;
    packet.key.src = Addr::from_v4_word(ip.src);
    packet.key.dst = Addr::from_v4_word(ip.dst);
    packet.key.src_port = Port(0);
    packet.key.dst_port = Port(0);
    packet.key.proto = ip.proto;
    packet.kind = Kind::Opaque as u8;
    packet.tcp_flags = 0;
    // A later fragment: ports are in the first only.
    if u16::from_be(ip.fragment) & 0x1fff != 0 {
        return Some(());
    }
    match ip.proto {
        proto::TCP => {
            let tcp: Tcp = ctx.load(l4).ok()?;
            packet.key.src_port = Port(tcp.ports[0]);
            packet.key.dst_port = Port(tcp.ports[1]);
            packet.tcp_flags = tcp.flags;
            packet.kind = Kind::Flow as u8;
        }
        proto::UDP => {
            let ports: [u16; 2] = ctx.load(l4).ok()?;
            packet.key.src_port = Port(ports[0]);
            packet.key.dst_port = Port(ports[1]);
            packet.kind = Kind::Flow as u8;
        }
        proto::SCTP => {
            let ports: [u16; 2] = ctx.load(l4).ok()?;
            packet.key.src_port = Port(ports[0]);
            packet.key.dst_port = Port(ports[1]);
        }
        proto::ICMP => {
            // Type, code, checksum, identifier.
            let icmp: [u16; 3] = ctx.load(l4).ok()?;
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
        _ => {}
    }
    Some(())
}

impl Packet {
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

    /// Whether this begins a TCP connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.key.proto == proto::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether this ends a TCP connection, or half of it.
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.key.proto == proto::TCP && self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }
}
