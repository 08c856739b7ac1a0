//! Packets as bytes: made up, and read back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::proto;

use super::super::flows;

/// Length of an Ethernet header.
const ETH_LEN: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// As Linux sends them.
const HOP_LIMIT: u8 = 64;
const ICMPV6: u8 = 58;
/// TCP flags.
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// SCTP chunks: the first of an association, and the one that refuses it.
const INIT: u8 = 1;
const ABORT: u8 = 6;

/// From where to where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuple {
    /// Address and port that it is from.
    pub source: SocketAddr,
    /// Address and port that it is for.
    pub destination: SocketAddr,
    /// `TCP`, `UDP`, `SCTP`, or a number.
    pub protocol: String,
}

/// A packet that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its tuple.
    pub tuple: Tuple,
    /// What it tells who gets it, if it is a refusal.
    pub refusal: Option<&'static str>,
}

/// The number of a protocol that has ports.
pub fn number(protocol: &str) -> Option<u8> {
    match protocol {
        "TCP" => Some(proto::TCP),
        "UDP" => Some(proto::UDP),
        "SCTP" => Some(proto::SCTP),
        _ => None,
    }
}

/// The first packet of a connection. `None` if the addresses are of two families, or the protocol has no ports.
pub fn first(tuple: &Tuple, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Option<Vec<u8>> {
    made(tuple, source_mac, destination_mac, SYN)
}

/// One that comes later in it. (Of SCTP it is as the first: the driver's program, which it is made for, leaves both alone.)
pub fn later(tuple: &Tuple, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Option<Vec<u8>> {
    made(tuple, source_mac, destination_mac, ACK)
}

/// Addresses a frame to an interface.
pub fn address(frame: &mut [u8], to: [u8; 6]) {
    frame.iter_mut().zip(to).for_each(|(byte, of_address)| *byte = of_address);
}

/// Of TCP with these flags.
fn made(tuple: &Tuple, source_mac: [u8; 6], destination_mac: [u8; 6], flags: u8) -> Option<Vec<u8>> {
    let protocol = number(&tuple.protocol)?;
    let (source, destination) = (tuple.source.ip(), tuple.destination.ip());
    let mut payload = header(protocol, tuple.source.port(), tuple.destination.port(), flags);
    if let Some(at) = checksum_at(protocol) {
        let sum = pseudo_sum(source, destination, protocol, payload.len()) + sum(&payload);
        payload[at..at + 2].copy_from_slice(&(!fold(sum)).to_be_bytes());
    }
    let (kind, header) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (IPV4, ipv4(source, destination, protocol, payload.len())),
        (IpAddr::V6(source), IpAddr::V6(destination)) => (IPV6, ipv6(source, destination, protocol, payload.len())),
        _ => return None,
    };
    Some([&destination_mac[..], &source_mac, &kind.to_be_bytes(), &header, &payload].concat())
}

/// The transport header, without its checksum.
fn header(protocol: u8, source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    match protocol {
        // Number 0, nothing acknowledged, five words of header.
        proto::TCP => out.extend([0, 0, 0, 0, 0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]),
        // Its own length.
        proto::UDP => out.extend([0, 8, 0, 0]),
        // Verification tag and checksum (left to the network card); then INIT, with a tag, a window, streams and a number.
        _ => {
            out.extend([0; 8]);
            out.extend([INIT, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        }
    }
    out
}

fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        proto::TCP => Some(16),
        proto::UDP => Some(6),
        _ => None,
    }
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> Vec<u8> {
    let total = (20 + length) as u16;
    let mut out = vec![0x45, 0];
    out.extend(total.to_be_bytes());
    // No identification, may not be fragmented.
    out.extend([0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
    out.extend(source.octets());
    out.extend(destination.octets());
    let check = !fold(sum(&out));
    out[10..12].copy_from_slice(&check.to_be_bytes());
    out
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((length as u16).to_be_bytes());
    out.extend([protocol, HOP_LIMIT]);
    out.extend(source.octets());
    out.extend(destination.octets());
    out
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let of = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    of(source) + of(destination) + u32::from(protocol) + length as u32
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Reads a packet; `None` if it is cut short or of no family that we know.
pub fn read(bytes: &[u8]) -> Option<Seen> {
    let kind = u16::from_be_bytes([*bytes.get(12)?, *bytes.get(13)?]);
    let ip = bytes.get(ETH_LEN..)?;
    let (source, destination, protocol, payload) = match kind {
        IPV4 => {
            let four = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
            let length = usize::from(*ip.first()? & 0x0f) * 4;
            (four(12)?, four(16)?, *ip.get(9)?, ip.get(length..)?)
        }
        IPV6 => {
            let sixteen = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
            (sixteen(8)?, sixteen(24)?, *ip.get(6)?, ip.get(40..)?)
        }
        _ => return None,
    };
    let has_ports = matches!(protocol, proto::TCP | proto::UDP | proto::SCTP);
    let port = |at: usize| match has_ports {
        true => Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?])),
        false => Some(0),
    };
    let tuple = Tuple {
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
        protocol: flows::protocol(protocol),
    };
    let refusal = match (protocol, payload.first()) {
        (proto::TCP, _) if payload.get(13).is_some_and(|flags| flags & RST != 0) => Some("TCP reset"),
        (proto::SCTP, _) if payload.get(12) == Some(&ABORT) => Some("SCTP abort"),
        (proto::ICMP, Some(3)) | (ICMPV6, Some(1)) => Some("ICMP port unreachable"),
        _ => None,
    };
    Some(Seen { tuple, refusal })
}

/// Bytes as text.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// And back; `None` if they are none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_is_read_back_with_right_checksums() {
        for (source, destination) in [("10.0.0.1:5", "10.0.0.2:80"), ("[fd00::1]:5", "[fd00::2]:80")] {
            for protocol in ["TCP", "UDP", "SCTP"] {
                let tuple = Tuple {
                    source: source.parse().unwrap(),
                    destination: destination.parse().unwrap(),
                    protocol: protocol.to_owned(),
                };
                let mut bytes = first(&tuple, [1; 6], [3; 6]).unwrap();
                address(&mut bytes, [2; 6]);
                assert_eq!(Some(&bytes), first(&tuple, [1; 6], [2; 6]).as_ref());
                assert_eq!(read(&bytes), Some(Seen { tuple: tuple.clone(), refusal: None }));
                assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes.clone()));
                let l4 = ETH_LEN + if tuple.source.is_ipv4() { 20 } else { 40 };
                if protocol != "SCTP" {
                    let number = number(protocol).unwrap();
                    let all = pseudo_sum(tuple.source.ip(), tuple.destination.ip(), number, bytes.len() - l4);
                    assert_eq!(fold(all + sum(&bytes[l4..])), 0xffff);
                }
                if tuple.source.is_ipv4() {
                    assert_eq!(fold(sum(&bytes[ETH_LEN..l4])), 0xffff);
                }
                for length in 0..bytes.len() {
                    // Never a panic.
                    let _ = read(&bytes[..length]);
                }
            }
        }
        let mixed = Tuple {
            source: "10.0.0.1:5".parse().unwrap(),
            destination: "[fd00::2]:80".parse().unwrap(),
            protocol: "TCP".into(),
        };
        assert_eq!(first(&mixed, [1; 6], [2; 6]), None);
        assert_eq!((from_hex("0"), from_hex("zz")), (None, None));
    }

    #[test]
    fn what_comes_later_opens_nothing_and_refusals_are_known() {
        const L4: usize = ETH_LEN + 20;
        let tuple = |protocol: &str| Tuple {
            source: "10.0.0.1:5".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            protocol: protocol.to_owned(),
        };
        let flags = |bytes: Option<Vec<u8>>| bytes.unwrap()[L4 + 13];
        assert_eq!(flags(first(&tuple("TCP"), [1; 6], [2; 6])), SYN);
        assert_eq!(flags(later(&tuple("TCP"), [1; 6], [2; 6])), ACK);
        for (protocol, at, value, refusal) in [("TCP", 13, RST | ACK, "TCP reset"), ("SCTP", 12, ABORT, "SCTP abort")] {
            let mut bytes = first(&tuple(protocol), [1; 6], [2; 6]).unwrap();
            bytes[L4 + at] = value;
            assert_eq!(read(&bytes).unwrap().refusal, Some(refusal));
        }
    }
}
