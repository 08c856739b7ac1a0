//! Which addresses a cluster on one machine has: a /24 of its own, by its index.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// How many clusters have room in 172.30.0.0/16.
pub const MAX_CLUSTERS: u8 = 250;

/// The addresses of one cluster: 172.30.INDEX.0/24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    index: u8,
}

impl Addresses {
    /// Those of the cluster with this index.
    pub fn of(index: u8) -> Self {
        Self { index }
    }

    fn at(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.index, last)
    }

    /// The whole block.
    pub fn subnet(self) -> Ipv4Net {
        Ipv4Net::new_assert(self.at(0), 24)
    }

    /// The machine itself: the nodes' gateway and their resolver.
    pub fn host(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The API server.
    pub fn server(self) -> Ipv4Addr {
        self.at(2)
    }

    /// Node `number`, from 1.
    pub fn node(self, number: u16) -> Ipv4Addr {
        let last = 10_u16.saturating_add(number).min(127);
        self.at(u8::try_from(last).unwrap_or(127))
    }

    /// The addresses for services of type LoadBalancer.
    pub fn load_balancers(self) -> Ipv4Net {
        Ipv4Net::new_assert(self.at(128), 25)
    }

    /// The IPv6 block beside it (or in its place), fd00:172:30:INDEX::/64, where everything has the last number that it has
    /// in the other.
    pub fn subnet6(self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x172, 0x30, self.index.into(), 0, 0, 0, 0), 64)
    }

    /// One of its addresses with the prefix of the network that it is on.
    pub fn on_link(self, address: Ipv4Addr) -> Ipv4Net {
        Ipv4Net::new_assert(address, self.subnet().prefix_len())
    }

    /// The IPv6 address that stands for one of its addresses, likewise.
    pub fn on_link6(self, address: Ipv4Addr) -> Ipv6Net {
        let [.., last] = address.octets();
        let subnet = self.subnet6();
        Ipv6Net::new_assert(Ipv6Addr::from(u128::from(subnet.network()) | u128::from(last)), subnet.prefix_len())
    }

    /// The IPv6 addresses for services of type LoadBalancer.
    pub fn load_balancers6(self) -> Ipv6Net {
        let first = u128::from(self.subnet6().network()) | 0x1_0000;
        Ipv6Net::new_assert(Ipv6Addr::from(first), 112)
    }

    /// A hardware address made from an IP address, so that a node that comes back is found where it was.
    pub fn mac(address: Ipv4Addr) -> [u8; 6] {
        let [a, b, c, d] = address.octets();
        [0x02, 0x78, a, b, c, d]
    }
}

/// The lowest index that no cluster has and whose block none of the host's `routes` (other than default) touches.
pub fn free_index(taken: &[u8], routes: &[Ipv4Net]) -> Option<u8> {
    (0..MAX_CLUSTERS).find(|index| {
        let block = Addresses::of(*index).subnet();
        !taken.contains(index) && !routes.iter().any(|r| r.contains(&block) || block.contains(r))
    })
}

/// The destinations in the kernel's IPv4 routing table (`/proc/net/route`), without default routes.
pub fn parse_routes(table: &str) -> Vec<Ipv4Net> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            // Both are in the machine's byte order, written as hexadecimal.
            let destination = u32::from_str_radix(fields.get(1)?, 16).ok()?;
            let mask = u32::from_str_radix(fields.get(7)?, 16).ok()?;
            let mask = Ipv4Addr::from(mask.to_ne_bytes());
            Ipv4Net::with_netmask(Ipv4Addr::from(destination.to_ne_bytes()), mask).ok().filter(|n| n.prefix_len() > 0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_block_of_its_own() {
        let a = Addresses::of(3);
        assert_eq!(a.subnet().to_string(), "172.30.3.0/24");
        assert_eq!((a.host().to_string(), a.server().to_string()), ("172.30.3.1".into(), "172.30.3.2".into()));
        assert_eq!(a.node(1).to_string(), "172.30.3.11");
        let last = a.node(crate::cluster::MAX_NODES);
        assert!(last < a.load_balancers().network());
        assert_eq!(Addresses::mac(a.node(1)), [2, 0x78, 172, 30, 3, 11]);
        assert_eq!(a.on_link6(a.node(1)).to_string(), "fd00:172:30:3::b/64");
        assert!(!a.load_balancers6().contains(&a.on_link6(a.node(crate::cluster::MAX_NODES))));
        assert!(a.subnet6().contains(&a.load_balancers6()));
    }

    #[test]
    fn blocks_in_use_are_left_alone() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t00001EAC\t00000000\t0001\t0\t0\t0\t00FEFFFF\t0\t0\t0\n";
        let routes = parse_routes(table);
        assert_eq!(routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["172.30.0.0/23"]);
        assert_eq!(free_index(&[2], &routes), Some(3));
        assert_eq!(free_index(&(0..=255).collect::<Vec<_>>(), &[]), None);
    }
}
