//! Addresses and ports, as on the wire.

use core::fmt;

/// The first word of [`Addr::of_namespace`]: no host has an address that begins so (RFC 4291: `ff00::/8` is multicast).
const LOOPBACK_OF_NAMESPACE: u32 = u32::MAX;

/// An IPv6 address, or a v4-mapped IPv4 one; four 32-bit words (the programs compare and copy words) holding the
/// bytes in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// `::`, which in a service's key stands for any IPv6 address of the node.
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `0.0.0.0`, which in a service's key stands for any IPv4 address of the node.
    pub const UNSPECIFIED_V4: Self = Self::from_v4_word(0);

    /// What stands for any address of the node in this one's family.
    #[inline(always)]
    pub const fn any_of_family(&self) -> Self {
        if self.is_v4() { Self::UNSPECIFIED_V4 } else { Self::UNSPECIFIED }
    }

    /// Whether this stands for any address of the node.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] | self.0[1] == 0 && self.0[3] == 0 && (self.0[2] == 0 || self.is_v4())
    }

    /// Whether this is an IPv6 address that means something on its link only (`fe80::/10`).
    #[inline(always)]
    pub const fn is_link_local_v6(&self) -> bool {
        self.0[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be()
    }

    /// Whether this is in the network `net` with the mask `mask`.
    #[inline(always)]
    pub const fn is_in(&self, net: &Self, mask: &Self) -> bool {
        self.0[0] & mask.0[0] == net.0[0]
            && self.0[1] & mask.0[1] == net.0[1]
            && self.0[2] & mask.0[2] == net.0[2]
            && self.0[3] & mask.0[3] == net.0[3]
    }

    /// The v4-mapped form of four bytes read from the wire as one word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, 0x0000_ffff_u32.to_be(), word])
    }

    /// The IPv4 address as it stands on the wire; the last word of an IPv6 address.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0x0000_ffff_u32.to_be()
    }

    /// Whether this is `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        (self.is_v4() && self.0[3] & 0xff00_0000_u32.to_be() == 0x7f00_0000_u32.to_be())
            || (self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be())
    }

    /// What a service's key has for a loopback address of the network namespace with this cookie (`SO_NETNS_COOKIE`):
    /// each namespace has its own.
    #[inline(always)]
    pub const fn of_namespace(&self, cookie: u64) -> Self {
        Self([LOOPBACK_OF_NAMESPACE, cookie as u32, (cookie >> 32) as u32, self.0[3]])
    }

    /// From the 16 bytes of an IPv6 address.
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// The 16 bytes of the IPv6 address.
    pub fn octets(&self) -> [u8; 16] {
        let mut out = [0; 16];
        for (chunk, word) in out.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        out
    }

    /// As the standard library has it, v4-mapped addresses as IPv4, loopback addresses whosever they are.
    pub fn to_ip(&self) -> core::net::IpAddr {
        if self.0[0] == LOOPBACK_OF_NAMESPACE {
            let is_v6 = self.0[3] == 1_u32.to_be();
            let words = if is_v6 { [0, 0, 0, self.0[3]] } else { Self::from_v4_word(self.0[3]).0 };
            return Self(words).to_ip();
        }
        core::net::Ipv6Addr::from(self.octets()).to_canonical()
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        Self::from_octets(match ip {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        })
    }
}

impl From<core::net::Ipv4Addr> for Addr {
    fn from(ip: core::net::Ipv4Addr) -> Self {
        core::net::IpAddr::V4(ip).into()
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

/// A port in network byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port(pub u16);

impl Port {
    /// From the machine's byte order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// In the machine's byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn addresses_go_there_and_back() {
        for ip in [
            IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 1, 2, 3, 4, 5, 6)),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ] {
            assert_eq!(Addr::from(ip).to_ip(), ip);
        }
    }

    #[test]
    fn loopback_addresses_are_a_namespaces_own() {
        for ip in [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let addr = Addr::from(ip);
            assert!(addr.is_loopback());
            let (one, other) = (addr.of_namespace(7), addr.of_namespace(7 << 32));
            assert!(one != other && !one.is_loopback() && !one.is_v4());
            assert_eq!(one.to_ip(), ip);
        }
        assert!(!Addr::from(Ipv4Addr::new(128, 0, 0, 127)).is_loopback());
        assert!(!Addr::UNSPECIFIED.is_loopback());
    }

    #[test]
    fn the_word_of_an_ipv4_address_is_as_on_the_wire() {
        let addr = Addr::from(Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(addr.v4_word().to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(Addr::from_v4_word(addr.v4_word()), addr);
        assert!(addr.is_v4() && !Addr::UNSPECIFIED.is_v4());
    }

    #[test]
    fn each_family_has_its_own_any() {
        let (v4, v6) = (Addr::from(Ipv4Addr::new(10, 96, 0, 1)), Addr::from(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(v4.any_of_family().to_ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        assert_eq!(v6.any_of_family().to_ip(), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        assert!(v4.any_of_family().is_unspecified() && v6.any_of_family().is_unspecified());
        assert!(!v4.is_unspecified() && !v6.is_unspecified());
    }

    #[test]
    fn prefixes_and_scopes() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let (net, mask) = (addr("fd00:10:244::"), addr("ffff:ffff:ffff:ff00::"));
        assert!(addr("fd00:10:244:7::9").is_in(&net, &mask) && !addr("fd00:10:245::9").is_in(&net, &mask));
        assert!(addr("fe80::1").is_link_local_v6() && addr("febf::1").is_link_local_v6());
        assert!(!addr("fec0::1").is_link_local_v6() && !addr("169.254.1.1").is_link_local_v6());
    }

    #[test]
    fn ports_are_in_network_order() {
        assert_eq!(Port::new(80).0.to_ne_bytes(), [0, 80]);
        assert_eq!(Port::new(30_080).get(), 30_080);
    }
}
