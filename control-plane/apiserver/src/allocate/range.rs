//! Ranges of addresses and ports, and the order in which they are tried.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use xebec_clock::Random;

/// At most this many addresses of a range are used: of an IPv6 range nobody needs more.
const MOST: u128 = 1 << 20;

/// Addresses for services. Neither the first nor the last of the network are used (the last of an IPv6 network is).
#[derive(Clone)]
pub(super) struct AddressRange {
    cidr: IpNet,
    first: u128,
    count: u128,
}

impl AddressRange {
    pub(super) fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
        let unused = if matches!(cidr, IpNet::V4(_)) { 2 } else { 1 };
        Self { cidr, first: number(cidr.network()).saturating_add(1), count: size.saturating_sub(unused).min(MOST) }
    }

    pub(super) fn cidr(&self) -> IpNet {
        self.cidr
    }

    pub(super) fn is_ipv4(&self) -> bool {
        matches!(self.cidr, IpNet::V4(_))
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && number(address).checked_sub(self.first).is_some_and(|offset| offset < self.count)
    }

    /// All addresses, from a random one on: first those above the part that is left to those who choose their address,
    /// then that part.
    pub(super) fn candidates(&self, random: &Random) -> impl Iterator<Item = IpAddr> + use<> {
        let reserved = if self.count <= 16 { 0 } else { (self.count / 16).clamp(16, 256) };
        let (ipv4, first) = (self.is_ipv4(), self.first);
        let upper = rotate(reserved, self.count - reserved, random);
        let lower = rotate(0, reserved, random);
        upper.chain(lower).map(move |offset| address(ipv4, first.saturating_add(offset)))
    }
}

/// `start..start + count`, beginning somewhere in it.
fn rotate(start: u128, count: u128, random: &Random) -> impl Iterator<Item = u128> + use<> {
    let shift = u128::from(random.below(u64::try_from(count).unwrap_or(u64::MAX)));
    (0..count).map(move |i| start + (i + shift) % count)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(ipv4: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if ipv4 => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// Node ports.
pub(super) struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    pub(super) fn new((first, last): (u16, u16)) -> Self {
        Self { first, last }
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// As for addresses (KEP-3668): the first ports of a wide range are tried last.
    pub(super) fn candidates(&self, random: &Random) -> impl Iterator<Item = u16> + use<> {
        let count = u128::from(self.last.saturating_sub(self.first)) + 1;
        let reserved = if count <= 16 { 0 } else { (count / 32).clamp(16, 128) };
        let first = u128::from(self.first);
        let upper = rotate(reserved, count - reserved, random);
        let lower = rotate(0, reserved, random);
        upper.chain(lower).filter_map(move |offset| u16::try_from(first + offset).ok())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}
