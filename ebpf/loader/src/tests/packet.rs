//! Packets as the tests write them.

use std::net::Ipv4Addr;

use xebec_ebpf_layout::proto;

pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const MAC_B: [u8; 6] = super::UPLINK_MAC;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
/// The sequence number of every segment made here.
pub const SEQ: u32 = 0x0102_0304;

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    /// Options are padded to words by whoever gives them.
    Tcp {
        src: u16,
        dst: u16,
        seq: u32,
        ack: u32,
        flags: u8,
        options: Vec<u8>,
        payload: Vec<u8>,
    },
    Udp {
        src: u16,
        dst: u16,
        payload: Vec<u8>,
    },
    /// For an error, `id` is its unused half, `sequence` the MTU, `body` the quote.
    Icmp {
        kind: u8,
        code: u8,
        id: u16,
        sequence: u16,
        body: Vec<u8>,
    },
    /// The common header alone, without a right checksum.
    Sctp {
        src: u16,
        dst: u16,
    },
    Arp(Vec<u8>),
}

impl L4 {
    pub fn tcp(src: u16, dst: u16, flags: u8) -> Self {
        Self::Tcp { src, dst, seq: SEQ, ack: 0, flags, options: Vec::new(), payload: Vec::new() }
    }

    pub fn syn(src: u16, dst: u16) -> Self {
        Self::tcp(src, dst, SYN)
    }

    pub fn syn_ack(src: u16, dst: u16) -> Self {
        Self::tcp(src, dst, SYN | ACK)
    }

    /// A segment with an odd number of bytes.
    pub fn ack(src: u16, dst: u16) -> Self {
        Self::tcp(src, dst, ACK).with_payload(101)
    }

    pub fn udp(src: u16, dst: u16) -> Self {
        Self::Udp { src, dst, payload: b"an odd number of bytes!".to_vec() }
    }

    pub fn echo(kind: u8, id: u16) -> Self {
        Self::Icmp { kind, code: 0, id, sequence: 1, body: b"ping".to_vec() }
    }

    pub fn with_payload(mut self, length: usize) -> Self {
        if let Self::Tcp { payload, .. } | Self::Udp { payload, .. } = &mut self {
            *payload = (0..length).map(|i| i as u8).collect();
        }
        self
    }

    pub fn with_ports(mut self, new_src: u16, new_dst: u16) -> Self {
        if let Self::Tcp { src, dst, .. } | Self::Udp { src, dst, .. } | Self::Sctp { src, dst } = &mut self {
            (*src, *dst) = (new_src, new_dst);
        }
        self
    }

    pub fn with_options(mut self, bytes: &[u8]) -> Self {
        if let Self::Tcp { options, .. } = &mut self {
            *options = bytes.to_vec();
        }
        self
    }

    /// The same flow's next packet.
    pub fn established(self) -> Self {
        match self {
            Self::Tcp { src, dst, .. } => Self::ack(src, dst),
            other => other,
        }
    }

    /// What the other side sends.
    pub fn answer(&self, src: u16, dst: u16) -> Self {
        match self {
            Self::Tcp { .. } => Self::syn_ack(src, dst),
            _ => Self::udp(src, dst),
        }
    }

    pub fn ports(&self) -> (u16, u16) {
        match self {
            Self::Tcp { src, dst, .. } | Self::Udp { src, dst, .. } => (*src, *dst),
            _ => (0, 0),
        }
    }

    pub fn proto(&self) -> u8 {
        match self {
            Self::Tcp { .. } => proto::TCP,
            Self::Udp { .. } => proto::UDP,
            Self::Sctp { .. } => proto::SCTP,
            _ => proto::ICMP,
        }
    }

    pub fn parse(protocol: u8, bytes: &[u8]) -> Self {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        match protocol {
            proto::SCTP => Self::Sctp { src: u16_at(0), dst: u16_at(2) },
            proto::TCP => Self::Tcp {
                src: u16_at(0),
                dst: u16_at(2),
                seq: u32_at(4),
                ack: u32_at(8),
                flags: bytes[13],
                options: bytes[20..usize::from(bytes[12] >> 4) * 4].to_vec(),
                payload: bytes[usize::from(bytes[12] >> 4) * 4..].to_vec(),
            },
            proto::UDP => Self::Udp { src: u16_at(0), dst: u16_at(2), payload: bytes[8..].to_vec() },
            _ => Self::Icmp {
                kind: bytes[0],
                code: bytes[1],
                id: u16_at(4),
                sequence: u16_at(6),
                body: bytes[8..].to_vec(),
            },
        }
    }

    /// The bytes with a zero checksum, and where the checksum goes.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        match self {
            Self::Tcp { src, dst, seq, ack, flags, options, payload } => {
                out.extend(src.to_be_bytes());
                out.extend(dst.to_be_bytes());
                out.extend(seq.to_be_bytes());
                out.extend(ack.to_be_bytes());
                out.extend([(5 + options.len() as u8 / 4) << 4, *flags, 0x20, 0, 0, 0, 0, 0]);
                out.extend(options);
                out.extend(payload);
                (out, 16)
            }
            Self::Udp { src, dst, payload } => {
                out.extend(src.to_be_bytes());
                out.extend(dst.to_be_bytes());
                out.extend((8 + payload.len() as u16).to_be_bytes());
                out.extend([0, 0]);
                out.extend(payload);
                (out, 6)
            }
            Self::Icmp { kind, code, id, sequence, body } => {
                out.extend([*kind, *code, 0, 0]);
                out.extend(id.to_be_bytes());
                out.extend(sequence.to_be_bytes());
                out.extend(body);
                (out, 2)
            }
            Self::Sctp { src, dst } => {
                out.extend(src.to_be_bytes());
                out.extend(dst.to_be_bytes());
                out.extend([0; 8]);
                (out, 8)
            }
            Self::Arp(bytes) => (bytes.clone(), 0),
        }
    }
}

/// An Ethernet frame with an IPv4 or an ARP packet.
#[derive(Clone, Debug, Eq)]
pub struct Frame {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    pub l4: L4,
    pub without_udp_checksum: bool,
    /// The bytes it was parsed from.
    raw: Option<Vec<u8>>,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Frame {
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, l4: L4) -> Self {
        Self { dst_mac: MAC_B, src_mac: MAC_A, src, dst, ttl: 64, l4, without_udp_checksum: false, raw: None }
    }

    pub fn with_src_mac(self, src_mac: [u8; 6]) -> Self {
        Self { src_mac, ..self }
    }

    pub fn with_dst_mac(self, dst_mac: [u8; 6]) -> Self {
        Self { dst_mac, ..self }
    }

    pub fn arp(arp: &Arp) -> Self {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, arp.operation];
        bytes.extend(arp.sender_mac);
        bytes.extend(arp.sender.octets());
        bytes.extend(arp.target_mac);
        bytes.extend(arp.target.octets());
        Self { dst_mac: [0xff; 6], ..Self::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, L4::Arp(bytes)) }
    }

    pub fn as_arp(&self) -> Arp {
        let L4::Arp(bytes) = &self.l4 else { panic!("not ARP") };
        let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
        Arp {
            operation: bytes[7],
            sender_mac: bytes[8..14].try_into().unwrap(),
            sender: ip(14),
            target_mac: bytes[18..24].try_into().unwrap(),
            target: ip(24),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut out = Vec::new();
        out.extend(self.dst_mac);
        out.extend(self.src_mac);
        if let L4::Arp(bytes) = &self.l4 {
            out.extend([8, 6]);
            out.extend(bytes);
            return out;
        }
        out.extend([8, 0]);
        let (mut l4, at) = self.l4.bytes();
        let check = !sum_with(&l4, self.pseudo(l4.len()));
        if !self.without_udp_checksum {
            l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        let mut ip = vec![0x45, 0];
        ip.extend((20 + l4.len() as u16).to_be_bytes());
        ip.extend([0x12, 0x34, 0x40, 0, self.ttl, self.l4.proto(), 0, 0]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        let check = !sum(&ip);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        out.extend(ip);
        out.extend(l4);
        out
    }

    pub fn parse(raw: &[u8]) -> Self {
        let mac = |at: usize| <[u8; 6]>::try_from(&raw[at..at + 6]).unwrap();
        let mut frame = Self { dst_mac: mac(0), src_mac: mac(6), raw: Some(raw.to_vec()), ..Self::arp(&Arp::ZERO) };
        if raw[12..14] == [8, 6] {
            frame.l4 = L4::Arp(raw[14..].to_vec());
            return frame;
        }
        let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&raw[at..at + 4]).unwrap());
        (frame.src, frame.dst, frame.ttl) = (ip(26), ip(30), raw[22]);
        frame.l4 = L4::parse(raw[23], &raw[34..]);
        frame.without_udp_checksum = raw[23] == proto::UDP && raw[40..42] == [0, 0];
        frame
    }

    /// The pseudo header's sum; none for ICMP.
    fn pseudo(&self, length: usize) -> u32 {
        if self.l4.proto() == proto::ICMP {
            return 0;
        }
        let mut bytes = Vec::new();
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend([0, self.l4.proto()]);
        bytes.extend((length as u16).to_be_bytes());
        u32::from(sum(&bytes))
    }

    /// Checks the IP checksum and the one after it, over the bytes that came out.
    pub fn assert_checksums(&self) {
        let raw = self.bytes();
        assert_eq!(sum(&raw[14..34]), 0xffff, "IP checksum of {self:?}");
        let length = usize::from(u16::from_be_bytes([raw[16], raw[17]]));
        assert_eq!(length, raw.len() - 14, "IP length of {self:?}");
        assert_eq!(sum_with(&raw[34..], self.pseudo(raw.len() - 34)), 0xffff, "checksum of {self:?}");
    }
}

/// An ARP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    pub operation: u8,
    pub sender_mac: [u8; 6],
    pub sender: Ipv4Addr,
    pub target_mac: [u8; 6],
    pub target: Ipv4Addr,
}

impl Arp {
    const ZERO: Self = Self {
        operation: 0,
        sender_mac: [0; 6],
        sender: Ipv4Addr::UNSPECIFIED,
        target_mac: [0; 6],
        target: Ipv4Addr::UNSPECIFIED,
    };
}

/// One's complement sum (RFC 1071).
pub fn sum(bytes: &[u8]) -> u16 {
    sum_with(bytes, 0)
}

pub fn sum_with(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
