//! Which node knows the connections through a load balancer address that this node has taken over.
//!
//! What belongs to a connection that stands is handed on to it (pure; the datapath does the handing). A node that is dead
//! knows nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use xebec_ebpf_loader::layout::Addr;

/// What is known of who had an address.
#[derive(Debug, Default)]
pub struct Past {
    /// The addresses that this node answers for already, each with the way to its former owner.
    pub held: BTreeMap<Addr, Option<Addr>>,
    /// The owners when this was last worked out.
    pub last: BTreeMap<IpAddr, String>,
    /// Who would answer if this node did not: so it was, if this node has only just come.
    pub otherwise: BTreeMap<IpAddr, String>,
    /// Nodes that live, with an address that leads to each.
    pub ways: BTreeMap<String, Addr>,
}

/// The way to the former owner of each of the addresses that this node is to answer for.
pub fn former_owners(owned: &BTreeSet<IpAddr>, past: &Past) -> BTreeMap<Addr, Addr> {
    let former = |address: &IpAddr| {
        if let Some(held) = past.held.get(&Addr::from(*address)) {
            return held.filter(|way| past.ways.values().any(|known| known == way));
        }
        let owner = past.last.get(address).or_else(|| past.otherwise.get(address))?;
        past.ways.get(owner).copied()
    };
    owned.iter().filter_map(|address| Some((Addr::from(*address), former(address)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LB: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 30, 0, 130));

    fn way(node: u8) -> Addr {
        Ipv4Addr::new(10, 244, node, 0).into()
    }

    fn past() -> Past {
        let ways = (2..=3).map(|node| (format!("n{node}"), way(node))).collect();
        Past { ways, ..Past::default() }
    }

    fn found(past: &Past) -> Option<Addr> {
        former_owners(&BTreeSet::from([LB]), past).into_values().next()
    }

    #[test]
    fn who_had_it_before_is_known_or_worked_out() {
        let mut past = past();
        assert_eq!(found(&past), None);
        past.otherwise.insert(LB, "n3".to_owned());
        assert_eq!(found(&past), Some(way(3)));
        past.last.insert(LB, "n2".to_owned());
        assert_eq!(found(&past), Some(way(2)));
        past.ways.remove("n2");
        assert_eq!(found(&past), None, "a dead node has forgotten");
    }

    #[test]
    fn a_node_that_has_the_address_goes_on_as_it_was() {
        let mut past = past();
        past.otherwise.insert(LB, "n3".to_owned());
        past.held.insert(LB.into(), None);
        assert_eq!(found(&past), None);
        past.held.insert(LB.into(), Some(way(2)));
        assert_eq!(found(&past), Some(way(2)));
        past.ways.remove("n2");
        assert_eq!(found(&past), None);
    }
}
