//! IPv6 packets as the tests write them.

use std::net::Ipv6Addr;

use xebec_ebpf_layout::proto;

use super::packet::{L4, MAC_A, MAC_B, sum_with};

/// An Ethernet frame with an IPv6 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame6 {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub hop_limit: u8,
    /// Extension headers: each its number, and its bytes without the first, which names the next.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub l4: L4,
}

/// Hop-by-hop options: padding.
pub fn hop_by_hop() -> (u8, Vec<u8>) {
    (0, vec![0, 1, 4, 0, 0, 0, 0])
}

/// A fragment header: offset in units of 8 bytes, and whether more follow.
pub fn fragment(offset: u16, more: bool, id: u32) -> (u8, Vec<u8>) {
    let field = (offset << 3) | u16::from(more);
    (44, [&[0], &field.to_be_bytes()[..], &id.to_be_bytes()].concat())
}

/// ICMPv6's numbers in place of ICMP's.
fn number(l4: &L4) -> u8 {
    match l4.proto() {
        proto::ICMP => proto::ICMPV6,
        other => other,
    }
}

impl Frame6 {
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, l4: L4) -> Self {
        Self { dst_mac: MAC_B, src_mac: MAC_A, src, dst, hop_limit: 64, extensions: Vec::new(), l4 }
    }

    pub fn with(mut self, extension: (u8, Vec<u8>)) -> Self {
        self.extensions.push(extension);
        self
    }

    /// What follows the IP header, its checksum right.
    pub fn payload(&self) -> Vec<u8> {
        let (mut l4, at) = self.l4.bytes();
        let check = !sum_with(&l4, self.pseudo(l4.len()));
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        l4
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_around(&self.payload())
    }

    /// The frame with other bytes behind the headers: a fragment's.
    pub fn bytes_around(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = [&self.dst_mac[..], &self.src_mac, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
        let length: usize = self.extensions.iter().map(|(_, bytes)| 1 + bytes.len()).sum::<usize>() + payload.len();
        out.extend((length as u16).to_be_bytes());
        let mut numbers = self.extensions.iter().map(|(number, _)| *number).chain([number(&self.l4)]);
        out.extend(numbers.next());
        out.push(self.hop_limit);
        out.extend(self.src.octets());
        out.extend(self.dst.octets());
        for (_, bytes) in &self.extensions {
            out.extend(numbers.next());
            out.extend(bytes);
        }
        out.extend(payload);
        out
    }

    pub fn parse(raw: &[u8]) -> Self {
        assert_eq!(raw[12..14], [0x86, 0xdd]);
        let mac = |at: usize| <[u8; 6]>::try_from(&raw[at..at + 6]).unwrap();
        let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&raw[at..at + 16]).unwrap());
        assert_eq!(usize::from(u16::from_be_bytes([raw[18], raw[19]])), raw.len() - 54, "IP length");
        let (mut next, mut at, mut extensions) = (raw[20], 54, Vec::new());
        while matches!(next, 0 | 43 | 44 | 60) {
            let length = if next == 44 { 8 } else { (usize::from(raw[at + 1]) + 1) * 8 };
            extensions.push((next, raw[at + 1..at + length].to_vec()));
            (next, at) = (raw[at], at + length);
        }
        let l4 = L4::parse(if next == proto::ICMPV6 { proto::ICMP } else { next }, &raw[at..]);
        let frame =
            Self { dst_mac: mac(0), src_mac: mac(6), src: ip(22), dst: ip(38), hop_limit: raw[21], extensions, l4 };
        // A later fragment has none.
        if !frame.extensions.iter().any(|(number, _)| *number == 44) {
            let length = raw.len() - at;
            assert_eq!(sum_with(&raw[at..], frame.pseudo(length)), 0xffff, "checksum of {frame:?}");
        }
        frame
    }

    /// The pseudo header's sum.
    pub fn pseudo(&self, length: usize) -> u32 {
        let mut bytes = [self.src.octets(), self.dst.octets()].concat();
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, number(&self.l4)]);
        u32::from(sum_with(&bytes, 0))
    }
}
