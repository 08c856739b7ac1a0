//! Ranges of addresses, as pools of load balancer addresses are written.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// From one address to another, both of it: written as a network (whose first and last address are left out if it has
/// more than two), or as `FIRST-LAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address pool: give a network, 172.30.0.128/25, or first-last");
        if let Some((first, last)) = text.split_once('-') {
            let first: IpAddr = first.trim().parse().map_err(|_| wrong())?;
            let last: IpAddr = last.trim().parse().map_err(|_| wrong())?;
            if first > last || first.is_ipv4() != last.is_ipv4() {
                return Err(wrong());
            }
            return Ok(Self { first, last });
        }
        let net: IpNet = text.trim().parse().map_err(|_| wrong())?;
        let mut hosts = net.hosts();
        let first = hosts.next().ok_or_else(wrong)?;
        // `hosts` leaves out the broadcast address.
        let last = match net {
            IpNet::V4(v4) if v4.prefix_len() < 31 => IpAddr::V4((u32::from(v4.broadcast()) - 1).into()),
            other => other.broadcast(),
        };
        Ok(Self { first, last })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl AddressRange {
    /// Whether its addresses are of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// Whether the address is one of it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether an address is of both.
    pub fn meets(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// How many addresses it has.
    pub fn size(&self) -> i64 {
        let size = match (self.first, self.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(b) - u32::from(a)) + 1,
            (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(b) - u128::from(a)).saturating_add(1),
            _ => 0,
        };
        i64::try_from(size).unwrap_or(i64::MAX)
    }

    /// All of them, in order.
    pub fn addresses(&self) -> Box<dyn Iterator<Item = IpAddr>> {
        match (self.first, self.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Box::new((u32::from(a)..=u32::from(b)).map(|n| IpAddr::V4(n.into()))),
            (IpAddr::V6(a), IpAddr::V6(b)) => Box::new((u128::from(a)..=u128::from(b)).map(|n| IpAddr::V6(n.into()))),
            _ => Box::new(std::iter::empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_networks_or_have_two_ends() {
        assert_eq!(range("10.0.0.0/29").addresses().count(), 6);
        assert_eq!(range("10.0.0.3-10.0.0.5").addresses().count(), 3);
        assert_eq!(range("10.0.0.0/29").to_string(), "10.0.0.1-10.0.0.6");
        assert_eq!((range("fd00::/64").size(), range("10.0.0.7/32").size()), (i64::MAX, 1));
        for wrong in ["10.0.0.9-10.0.0.5", "10.0.0.1-fd00::1", "nonsense", "10.0.0.1"] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_meet_where_they_share_an_address() {
        let own = range("10.0.0.4-10.0.0.9");
        assert!(own.contains("10.0.0.9".parse().unwrap()) && !own.contains("::ffff:10.0.0.9".parse().unwrap()));
        for (other, meets) in [("10.0.0.9-10.0.0.12", true), ("10.0.0.0/24", true), ("10.0.0.10-10.0.0.12", false)] {
            assert_eq!((own.meets(&range(other)), range(other).meets(&own)), (meets, meets), "{other}");
        }
    }
}
