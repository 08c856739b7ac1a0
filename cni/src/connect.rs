//! A pod's connection: a veth pair with one half in its namespace.
//!
//! In the pod: its address as a /32, and a default route by a gateway that exists nowhere (169.254.1.1), whose
//! hardware address is set for good to the host half's. On the host: a route to the pod's address, likewise with its
//! neighbour set. So no ARP is ever asked, and hundreds of pods make no storm.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use crate::netlink::{self, Link, Mac, Netlink, Route};
use crate::sysctl;

pub mod v6;

/// The gateway that pods see.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Why a pod could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's network namespace could not be opened.
    #[error("cannot open the network namespace {}: {source}", path.display())]
    Netns {
        /// Where it should be.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// An interface that was just made is gone.
    #[error("interface {0} went away while it was set up: something else manages this node's interfaces")]
    Vanished(String),
    /// Part of the connection is missing or different (CNI CHECK).
    #[error("{0}")]
    Damaged(String),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

/// What to connect.
#[derive(Clone, Debug)]
pub struct Connection<'a> {
    /// Name of the host's half; see [`host_interface`].
    pub host_interface: &'a str,
    /// Name of the pod's half, `eth0`.
    pub pod_interface: &'a str,
    /// The pod's network namespace.
    pub netns: &'a Path,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Whether it gets it. If not it has one of IPv6 alone (see [`v6`]), and this is a number by which the node tells its
    /// pods apart.
    pub has_v4: bool,
    /// Largest packet, in bytes of IP.
    pub mtu: u32,
    /// The source address of the node's own packets to the pod.
    pub node: Option<Ipv4Addr>,
}

/// A connection that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The host's half: its number on the host.
    pub host_index: u32,
    /// Its hardware address.
    pub host_mac: Mac,
    /// The pod's half: its hardware address.
    pub pod_mac: Mac,
}

/// The host half's name for an owner: `xb` and 52 bits of a hash, in an interface name's 15 bytes.
pub fn host_interface(owner: &str) -> String {
    // FNV-1a, 64 bits: short and the same everywhere, which is all that is asked.
    let hash = owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("xb{:013x}", hash >> 12)
}

impl Connection<'_> {
    /// Makes the connection, or completes one that was made half.
    pub fn connect(&self) -> Result<Connected, Error> {
        let connected = self.create()?;
        self.bring_up()?;
        Ok(connected)
    }

    /// Makes the pair, and leaves it down: what guards the pod is put on it before [`Self::bring_up`].
    pub fn create(&self) -> Result<Connected, Error> {
        let netns = self.open_netns()?;
        let mut host = Netlink::open()?;
        let mut pod = Netlink::open_in(netns.as_fd())?;
        let macs = self.macs();
        // Half a pair that an earlier attempt left (the pod's half in another namespace, say) is of no use.
        let stands = host.link(self.host_interface)?.is_some_and(|link| link.mac == macs[0])
            && pod.link(self.pod_interface)?.is_some_and(|link| link.mac == macs[1]);
        if !stands {
            host.delete_link(self.host_interface)?;
            host.create_veth(self.host_interface, self.pod_interface, &netns, macs, self.mtu)?;
        }
        let outer = self.find(&mut host, self.host_interface)?;
        Ok(Connected { host_index: outer.index, host_mac: macs[0], pod_mac: macs[1] })
    }

    /// Sets addresses and routes, and both halves up.
    pub fn bring_up(&self) -> Result<(), Error> {
        let netns = self.open_netns()?;
        let mut pod = Netlink::open_in(netns.as_fd())?;
        let inner = self.find(&mut pod, self.pod_interface)?;
        self.set_up_pod(&mut pod, &inner)?;
        let mut host = Netlink::open()?;
        let outer = self.find(&mut host, self.host_interface)?;
        self.set_up_host(&mut host, &outer)
    }

    /// Compares what is there with what should be (CNI CHECK).
    pub fn check(&self) -> Result<Connected, Error> {
        let netns = self.open_netns()?;
        let mut host = Netlink::open()?;
        let mut pod = Netlink::open_in(netns.as_fd())?;
        let missing =
            |what: &str| Error::Damaged(format!("{what} is missing: delete the pod and let it be made again"));
        let outer = host.link(self.host_interface)?.ok_or_else(|| missing(self.host_interface))?;
        let inner = pod.link(self.pod_interface)?.ok_or_else(|| missing(self.pod_interface))?;
        if !outer.is_up || !inner.is_up {
            return Err(Error::Damaged(format!("{} or {} is down", self.host_interface, self.pod_interface)));
        }
        if !self.has_v4 {
            return Ok(Connected { host_index: outer.index, host_mac: outer.mac, pod_mac: inner.mac });
        }
        if !pod.addresses()?.contains(&(inner.index, self.net())) {
            return Err(missing(&format!("address {} in the pod", self.address)));
        }
        if pod.default_route()?.is_none_or(|route| route.gateway != Some(GATEWAY.into())) {
            return Err(missing("the pod's default route"));
        }
        if !host.own_routes()?.iter().any(|r| r.destination == self.net().into() && r.interface == outer.index) {
            return Err(missing(&format!("the route to {}", self.address)));
        }
        Ok(Connected { host_index: outer.index, host_mac: outer.mac, pod_mac: inner.mac })
    }

    fn open_netns(&self) -> Result<File, Error> {
        File::open(self.netns).map_err(|source| Error::Netns { path: self.netns.to_owned(), source })
    }

    fn net(&self) -> Ipv4Net {
        Ipv4Net::from(self.address)
    }

    /// The host's and the pod's hardware addresses: locally administered, and unique as the pod's address is.
    fn macs(&self) -> [Mac; 2] {
        let [a, b, c, d] = self.address.octets();
        [[0x0a, 0x59, a, b, c, d], [0x0a, 0x58, a, b, c, d]]
    }

    fn find(&self, netlink: &mut Netlink, name: &str) -> Result<Link, Error> {
        netlink.link(name)?.ok_or_else(|| Error::Vanished(name.to_owned()))
    }

    fn set_up_pod(&self, pod: &mut Netlink, link: &Link) -> Result<(), Error> {
        let loopback = self.find(pod, "lo")?;
        pod.set_up(loopback.index, true)?;
        if !self.has_v4 {
            return Ok(pod.set_up(link.index, true)?);
        }
        pod.add_address(link.index, self.net())?;
        pod.set_up(link.index, true)?;
        pod.set_neighbour(link.index, GATEWAY, self.macs()[0])?;
        let to_gateway =
            Route { destination: Ipv4Net::from(GATEWAY).into(), gateway: None, interface: link.index, source: None };
        pod.set_route(&to_gateway)?;
        let default = Route { destination: Ipv4Net::default().into(), gateway: Some(GATEWAY.into()), ..to_gateway };
        Ok(pod.set_route(&default)?)
    }

    fn set_up_host(&self, host: &mut Netlink, link: &Link) -> Result<(), Error> {
        sysctl::set(&format!("net/ipv4/conf/{}/rp_filter", self.host_interface), "0")?;
        host.set_up(link.index, true)?;
        if !self.has_v4 {
            return Ok(());
        }
        host.set_neighbour(link.index, self.address, self.macs()[1])?;
        let (destination, source) = (self.net().into(), self.node.map(Into::into));
        let route = Route { destination, gateway: None, interface: link.index, source };
        Ok(host.set_route(&route)?)
    }
}

/// Takes a connection away; none is no error. The routes and the pod's half go with the interface.
pub fn disconnect(host_interface: &str) -> Result<(), Error> {
    Ok(Netlink::open()?.delete_link(host_interface)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let names: std::collections::BTreeSet<_> = (0..1_000).map(|i| host_interface(&format!("uid-{i}"))).collect();
        assert_eq!(names.len(), 1_000);
        assert!(names.iter().all(|name| name.len() == 15));
        assert_eq!(host_interface("uid-1"), host_interface("uid-1"));
    }
}
