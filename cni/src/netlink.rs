//! Interfaces, addresses, routes and neighbours, by rtnetlink.
//!
//! Blocking: each call is one request that the kernel answers at once, in tens of microseconds; an event loop around
//! it would cost more than it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The mark on routes that are ours (`rtm_protocol`; below are the kernel's and well-known daemons').
pub const ROUTE_PROTOCOL: u8 = 235;

/// A request the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub struct Error {
    /// What was to be done.
    pub action: String,
    /// The kernel's reason.
    pub source: io::Error,
}

impl Error {
    /// Whether the thing is there already.
    pub fn already_exists(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EEXIST)
    }

    /// Whether the thing is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH))
    }
}

/// A hardware address.
pub type Mac = [u8; 6];

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; zeros if it has none.
    pub mac: Mac,
    /// Its largest packet, in bytes of IP.
    pub mtu: u32,
    /// Whether it is set up.
    pub is_up: bool,
    /// `veth`, `vxlan`, ...; empty for hardware.
    pub kind: String,
}

/// A route in the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// By which neighbour; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// By which interface.
    pub interface: u32,
    /// The source that the node's own packets take.
    pub source: Option<IpAddr>,
}

/// A route netlink socket.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// For the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let failed = |source| Error { action: "open a netlink socket".to_owned(), source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// For another network namespace.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        let failed = |source: io::Error| Error { action: "enter the pod's network namespace".to_owned(), source };
        // A socket belongs to the namespace of the thread that made it; a thread of its own, since there is no
        // certain way back for this one.
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .spawn_scoped(scope, || {
                    nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|e| failed(e.into()))?;
                    Self::open()
                })
                .map_err(failed)?
                .join()
                .map_err(|_| failed(io::Error::other("the thread died")))?
        })
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let replies = self.dump("list interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(replies
            .into_iter()
            .filter_map(|reply| match reply {
                RouteNetlinkMessage::NewLink(message) => Some(link(message)),
                _ => None,
            })
            .collect())
    }

    /// The interface called `name`, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.call(&format!("find interface {name}"), RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(replies) => Ok(replies.into_iter().find_map(|reply| match reply {
                RouteNetlinkMessage::NewLink(message) => Some(link(message)),
                _ => None,
            })),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a veth pair: `host` here, up, and `peer` in the namespace `netns`. `macs` are theirs, in that order.
    pub fn create_veth(
        &mut self,
        host: &str,
        peer: &str,
        netns: impl AsFd,
        macs: [Mac; 2],
        mtu: u32,
    ) -> Result<(), Error> {
        let mut inner = LinkMessage::default();
        inner.attributes = vec![
            LinkAttribute::IfName(peer.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(macs[1].to_vec()),
            LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()),
        ];
        let attributes = vec![
            LinkAttribute::IfName(host.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(macs[0].to_vec()),
        ];
        let data = InfoData::Veth(InfoVeth::Peer(inner));
        self.create(host, InfoKind::Veth, data, attributes)
    }

    /// Makes the collect-metadata VXLAN device `name`: one for all peers and networks, addressed packet by packet.
    pub fn create_vxlan(&mut self, name: &str, port: u16, mac: Mac, mtu: u32) -> Result<(), Error> {
        let data = InfoData::Vxlan(vec![
            InfoVxlan::CollectMetadata(true),
            InfoVxlan::Learning(false),
            InfoVxlan::Port(port),
            InfoVxlan::UDPZeroCsumRX(true),
        ]);
        let attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu), LinkAttribute::Address(mac.to_vec())];
        self.create(name, InfoKind::Vxlan, data, attributes)
    }

    fn create(
        &mut self,
        name: &str,
        kind: InfoKind,
        data: InfoData,
        mut attributes: Vec<LinkAttribute>,
    ) -> Result<(), Error> {
        attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
        let mut message = LinkMessage::default();
        message.attributes = attributes;
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.call(&format!("create interface {name}"), RouteNetlinkMessage::NewLink(message), flags).map(drop)
    }

    /// Sets an interface up. `arp`: whether it resolves its neighbours.
    pub fn set_up(&mut self, index: u32, arp: bool) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if arp { LinkFlags::Up } else { LinkFlags::Up | LinkFlags::Noarp };
        message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
        self.call(&format!("set interface {index} up"), RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Sets an interface's MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.call(&format!("set the MTU of interface {index}"), RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(drop)
    }

    /// Deletes an interface (and its peer); one that is not there is no error.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.call(&format!("delete interface {name}"), RouteNetlinkMessage::DelLink(message), NLM_F_ACK) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// IPv4 addresses with their interfaces.
    pub fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Net)>, Error> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let replies = self.dump("list addresses", RouteNetlinkMessage::GetAddress(request))?;
        let mut out = Vec::new();
        for reply in replies {
            let RouteNetlinkMessage::NewAddress(message) = reply else { continue };
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            if let Some(net) = address.and_then(|a| Ipv4Net::new(a, message.header.prefix_len).ok()) {
                out.push((message.header.index, net));
            }
        }
        Ok(out)
    }

    /// The addresses of both families with their interfaces.
    pub fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, Error> {
        let v4 = self.addresses()?.into_iter().map(|(index, net)| (index, IpNet::V4(net)));
        let v6 = self.addresses6()?.into_iter().map(|(index, net)| (index, IpNet::V6(net)));
        Ok(v4.chain(v6).collect())
    }

    /// Gives an interface an address; one that it has is no error.
    pub fn add_address(&mut self, index: u32, address: Ipv4Net) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes =
            vec![AddressAttribute::Local(address.addr().into()), AddressAttribute::Address(address.addr().into())];
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.call(&format!("add address {address}"), RouteNetlinkMessage::NewAddress(message), flags).map(drop)
    }

    /// Adds a route or replaces the one to the same destination.
    pub fn set_route(&mut self, route: &Route) -> Result<(), Error> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        self.call(&format!("set the route to {}", route.destination), message, flags).map(drop)
    }

    /// Answers "unreachable" for what no more specific route has: else a packet to a pod that is gone would go back
    /// out by the default route.
    pub fn set_unreachable(&mut self, destination: IpNet) -> Result<(), Error> {
        let route = Route { destination, gateway: None, interface: 0, source: None };
        let mut message = route_message(&route);
        message.header.kind = RouteType::Unreachable;
        message.header.scope = RouteScope::Universe;
        message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let action = format!("make {destination} unreachable");
        self.call(&action, RouteNetlinkMessage::NewRoute(message), flags).map(drop)
    }

    /// Removes a route; one that is not there is no error.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelRoute(route_message(route));
        match self.call(&format!("delete the route to {}", route.destination), message, NLM_F_ACK) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Our routes: those marked [`ROUTE_PROTOCOL`].
    pub fn own_routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut routes = self.routes(AddressFamily::Inet)?;
        routes.extend(self.routes(AddressFamily::Inet6)?);
        Ok(routes.into_iter().filter(|(protocol, _)| *protocol == ROUTE_PROTOCOL).map(|(_, route)| route).collect())
    }

    /// The interface and gateway of the IPv4 default route.
    pub fn default_route(&mut self) -> Result<Option<Route>, Error> {
        let routes = self.routes(AddressFamily::Inet)?;
        Ok(routes.into_iter().map(|(_, route)| route).find(|r| r.destination.prefix_len() == 0))
    }

    /// Routes of the main table, each with its protocol.
    fn routes(&mut self, family: AddressFamily) -> Result<Vec<(u8, Route)>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let replies = self.dump("list routes", RouteNetlinkMessage::GetRoute(request))?;
        let mut out = Vec::new();
        for reply in replies {
            let RouteNetlinkMessage::NewRoute(message) = reply else { continue };
            if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
                continue;
            }
            out.extend(route(&message).map(|route| (u8::from(message.header.protocol), route)));
        }
        Ok(out)
    }

    /// Says for good which hardware address a neighbour has, so that it is never asked.
    pub fn set_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.call(&format!("set neighbour {address}"), RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
    }

    /// IPv6 addresses with their interfaces.
    pub fn addresses6(&mut self) -> Result<Vec<(u32, Ipv6Net)>, Error> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet6;
        let replies = self.dump("list addresses", RouteNetlinkMessage::GetAddress(request))?;
        let mut out = Vec::new();
        for reply in replies {
            let RouteNetlinkMessage::NewAddress(message) = reply else { continue };
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(std::net::IpAddr::V6(address)) => Some(*address),
                _ => None,
            });
            if let Some(net) = address.and_then(|a| Ipv6Net::new(a, message.header.prefix_len).ok()) {
                out.push((message.header.index, net));
            }
        }
        Ok(out)
    }

    /// Gives an interface an address of IPv6 alone; one that it has is no error. It can be used at once.
    pub fn add_address6(&mut self, index: u32, address: Ipv6Addr) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = 128;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![AddressAttribute::Address(address.into())];
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.call(&format!("add address {address}"), RouteNetlinkMessage::NewAddress(message), flags).map(drop)
    }

    /// Says for good which hardware address an IPv6 neighbour has.
    pub fn set_neighbour6(&mut self, index: u32, address: Ipv6Addr, mac: Mac) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.call(&format!("set neighbour {address}"), RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
    }

    fn dump(&mut self, action: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.call(action, message, NLM_F_DUMP)
    }

    /// Sends one request and gathers the answers up to the end mark or the acknowledgement.
    fn call(
        &mut self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let failed = |source: io::Error| Error { action: action.to_owned(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(failed)?;
        let mut replies = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full().map_err(failed)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidData, e.to_string())))?;
                // Messages are padded to 4 bytes.
                let length = (reply.header.length as usize).next_multiple_of(4).clamp(16, rest.len());
                rest = &rest[length..];
                if reply.header.sequence_number != self.sequence {
                    continue;
                }
                match reply.payload {
                    NetlinkPayload::InnerMessage(message) => replies.push(message),
                    NetlinkPayload::Done(_) => return Ok(replies),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(replies),
                        Some(code) => return Err(failed(io::Error::from_raw_os_error(-code.get()))),
                    },
                    _ => {}
                }
            }
        }
    }
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        kind: String::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn route_message(route: &Route) -> RouteMessage {
    let is_v4 = matches!(route.destination, IpNet::V4(_));
    let mut message = RouteMessage::default();
    message.header.address_family = if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.header.kind = RouteType::Unicast;
    // IPv6 knows no narrower one.
    message.header.scope = if is_v4 { RouteScope::Link } else { RouteScope::Universe };
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route_address(route.destination.network())));
    }
    if let Some(gateway) = route.gateway {
        message.header.scope = RouteScope::Universe;
        // The gateway need not be within an address's prefix: a pod's address has none.
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(route_address(gateway)));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(route_address(source)));
    }
    message.attributes.push(RouteAttribute::Oif(route.interface));
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut gateway, mut interface, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = address(to)?,
            RouteAttribute::Gateway(by) => gateway = address(by),
            RouteAttribute::PrefSource(from) => source = address(from),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, gateway, interface: interface?, source })
}
