//! A pod's address of IPv6, its second one or its only one, on the pair that was made before: the same way of an address alone, a gateway
//! that exists nowhere, and neighbours that are set for good. No router is asked for, and no duplicate looked for.

use std::net::Ipv6Addr;
use std::os::fd::AsFd as _;

use ipnet::Ipv6Net;

use super::{Connection, Error};
use crate::netlink::{Netlink, Route};
use crate::sysctl;

/// The gateway that pods see.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Adds `address` to a connection that stands. `node` is the source of the node's own packets to the pod.
pub fn connect(connection: &Connection<'_>, address: Ipv6Addr, node: Option<Ipv6Addr>) -> Result<(), Error> {
    sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
    let netns = connection.open_netns()?;
    let mut pod = Netlink::open_in(netns.as_fd())?;
    let [host_mac, pod_mac] = connection.macs();
    let inner = connection.find(&mut pod, connection.pod_interface)?;
    pod.add_address6(inner.index, address)?;
    pod.set_neighbour6(inner.index, GATEWAY, host_mac)?;
    let default = Route {
        destination: Ipv6Net::default().into(),
        gateway: Some(GATEWAY.into()),
        interface: inner.index,
        source: None,
    };
    pod.set_route(&default)?;
    let mut host = Netlink::open()?;
    let outer = connection.find(&mut host, connection.host_interface)?;
    host.set_neighbour6(outer.index, address, pod_mac)?;
    let to_pod = Route {
        destination: Ipv6Net::from(address).into(),
        gateway: None,
        interface: outer.index,
        source: node.map(Into::into),
    };
    Ok(host.set_route(&to_pod)?)
}

/// Compares what is there with what should be (CNI CHECK).
pub fn check(connection: &Connection<'_>, address: Ipv6Addr) -> Result<(), Error> {
    let netns = connection.open_netns()?;
    let mut pod = Netlink::open_in(netns.as_fd())?;
    let inner = connection.find(&mut pod, connection.pod_interface)?;
    if pod.addresses6()?.contains(&(inner.index, Ipv6Net::from(address))) {
        return Ok(());
    }
    Err(Error::Damaged(format!("address {address} in the pod is missing: delete the pod and let it be made again")))
}
