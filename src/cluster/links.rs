//! The network between the nodes, the API server and the host, made by netlink.
//!
//! The bridge is in a namespace of its own, with the API server, and the host has one link into it. So the host's
//! packet filters (Docker's `FORWARD` policy with br_netfilter, say) never see what the nodes say to each other.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::AbortHandle;

use super::Cluster;
use super::addresses::Addresses;
use super::machine::keeper::TUN;
use super::namespaces;

/// A netlink socket in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: AbortHandle,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The far end of a veth pair.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Where it is to be.
    pub namespace: BorrowedFd<'a>,
}

impl Netlink {
    /// In the calling thread's namespace.
    pub fn here() -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        Ok(Self { handle, connection: tokio::spawn(connection).abort_handle() })
    }

    /// In another namespace.
    pub fn inside(namespace: BorrowedFd<'_>) -> anyhow::Result<Self> {
        namespaces::inside(namespace, Self::here)?
    }

    /// The index of a link; `None` if there is none of that name.
    pub async fn index(&self, name: &str) -> anyhow::Result<Option<u32>> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|l| l.header.index)),
            Err(e) if code(&e) == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e).context(format!("cannot look up link {name}")),
        }
    }

    async fn existing(&self, name: &str) -> anyhow::Result<u32> {
        self.index(name).await?.with_context(|| format!("link {name} is gone"))
    }

    /// Makes a bridge, unless there is one.
    pub async fn bridge(&self, name: &str, mac: [u8; 6]) -> anyhow::Result<()> {
        let bridge = LinkBridge::new(name).address(mac.to_vec()).up().build();
        allow(self.handle.link().add(bridge).execute().await, libc::EEXIST)
            .context(format!("cannot make bridge {name}"))
    }

    /// Makes a veth pair with `name` here.
    pub async fn veth(&self, name: &str, peer: Peer<'_>) -> anyhow::Result<()> {
        let far = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.name)
            .address(peer.mac.to_vec())
            .setns_by_fd(peer.namespace.as_raw_fd())
            .build();
        let pair = LinkVeth::new(name, peer.name).set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
        self.handle.link().add(pair).execute().await.context(format!("cannot make the link {name}"))
    }

    /// Puts a link into a bridge.
    pub async fn enslave(&self, name: &str, bridge: &str) -> anyhow::Result<()> {
        let (port, bridge) = (self.existing(name).await?, self.existing(bridge).await?);
        let message = LinkUnspec::new_with_index(port).controller(bridge).up().build();
        self.handle.link().set(message).execute().await.context(format!("cannot put {name} into its bridge"))
    }

    /// Sets a link's hardware address.
    pub async fn set_mac(&self, name: &str, mac: [u8; 6]) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(self.existing(name).await?).address(mac.to_vec()).build();
        self.handle.link().set(message).execute().await.context(format!("cannot set the address of {name}"))
    }

    /// Brings a link up.
    pub async fn up(&self, name: &str) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(self.existing(name).await?).up().build();
        self.handle.link().set(message).execute().await.context(format!("cannot bring {name} up"))
    }

    /// Gives a link an address.
    pub async fn address(&self, name: &str, own: IpNet) -> anyhow::Result<()> {
        let (index, address) = (self.existing(name).await?, own.addr());
        let mut request = self.handle.address().add(index, address, own.prefix_len());
        // Ours to give: a search for duplicates would only keep it from being used for a second.
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let added = request.execute().await;
        allow(added, libc::EEXIST).context(format!("cannot give {name} the address {address}"))
    }

    /// Sends all that has no better route to `gateway`.
    pub async fn default_route(&self, gateway: IpAddr) -> anyhow::Result<()> {
        let route = match gateway {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).build(),
        };
        let added = self.handle.route().add(route).execute().await;
        allow(added, libc::EEXIST).context(format!("cannot route by way of {gateway}"))
    }

    /// Removes a link; false if there was none.
    pub async fn remove(&self, name: &str) -> anyhow::Result<bool> {
        let Some(index) = self.index(name).await? else { return Ok(false) };
        allow(self.handle.link().del(index).execute().await, libc::ENODEV).context(format!("cannot remove {name}"))?;
        Ok(true)
    }
}

/// The name of the bridge, in the fabric's namespace.
pub const BRIDGE: &str = "nodes";
/// The fabric's end of the link to the host.
const TO_HOST: &str = "host";

/// Makes the network of a cluster, or what of it is missing: the bridge with the API server's address in the
/// namespace `fabric`, and the link `host_link` with the host's.
pub async fn fabric(fabric: BorrowedFd<'_>, cluster: &Cluster) -> anyhow::Result<()> {
    let (host_link, addresses) = (&cluster.host_link(), cluster.addresses());
    let (host, inner) = (Netlink::here()?, Netlink::inside(fabric)?);
    inner.up("lo").await?;
    inner.bridge(BRIDGE, Addresses::mac(addresses.server())).await?;
    inner.up(BRIDGE).await?;
    if host.index(host_link).await?.is_some() && inner.index(TO_HOST).await?.is_none() {
        // Left by an earlier cluster of this name whose other end went with its namespace.
        host.remove(host_link).await?;
    }
    if host.index(host_link).await?.is_none() {
        let peer = Peer { name: TO_HOST, mac: Addresses::mac(addresses.subnet().addr()), namespace: fabric };
        host.veth(host_link, peer).await?;
    }
    host.set_mac(host_link, Addresses::mac(addresses.host())).await?;
    host.up(host_link).await?;
    inner.enslave(TO_HOST, BRIDGE).await?;
    for own in cluster.in_families(addresses.server()) {
        inner.address(BRIDGE, own).await?;
    }
    for own in cluster.in_families(addresses.host()) {
        host.address(host_link, own).await?;
        inner.default_route(own.addr()).await?;
    }
    Ok(())
}

/// Connects a node: `eth0` in its namespace, a port of the bridge in the fabric's. The port's name is `nNUMBER`.
pub async fn connect_node(fabric: BorrowedFd<'_>, number: u16, address: Ipv4Addr, node_pid: i32) -> anyhow::Result<()> {
    let path = format!("/proc/{node_pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}; did the node die?"))?;
    let inner = Netlink::inside(fabric)?;
    let port = port(number);
    // The kernel takes a dead node's link away in its own time.
    inner.remove(&port).await?;
    let peer = Peer { name: "eth0", mac: Addresses::mac(address), namespace: namespace.as_fd() };
    inner.veth(&port, peer).await?;
    inner.enslave(&port, BRIDGE).await
}

/// Connects a node that is a machine: a port of the bridge that is there as long as somebody holds it open.
pub async fn connect_machine(fabric: BorrowedFd<'_>, number: u16) -> anyhow::Result<File> {
    let inner = Netlink::inside(fabric)?;
    let port = port(number);
    // One that waits for the kernel to take it away, or is of another kind.
    inner.remove(&port).await?;
    let tap = namespaces::inside(fabric, || tap(&port))??;
    inner.enslave(&port, BRIDGE).await?;
    Ok(tap)
}

nix::ioctl_write_ptr_bad!(
    /// TUNSETIFF, of Documentation/networking/tuntap.rst.
    tun_set_iff,
    libc::TUNSETIFF,
    libc::ifreq
);

/// Makes a link whose other end is a file. It takes packets with their offloads, as a machine's card does.
fn tap(name: &str) -> anyhow::Result<File> {
    let what = || format!("cannot make the link {name}");
    let file = File::options().read(true).write(true).open(TUN).with_context(|| format!("cannot open {TUN}"))?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    // SAFETY: all zero is a valid value of this structure of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).with_context(what)?;
    // The last byte stays zero: it ends the name.
    let (_, room) = request.ifr_name.split_last_mut().with_context(what)?;
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from).with_context(what)?;
    }
    // SAFETY: an open descriptor, and a request that the kernel reads and answers in place.
    unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.with_context(what)?;
    Ok(file)
}

/// The name of a node's port of the bridge.
fn port(number: u16) -> String {
    format!("n{number}")
}

/// Removes what [`connect_node`] or [`connect_machine`] made.
pub async fn disconnect_node(fabric: BorrowedFd<'_>, number: u16) -> anyhow::Result<()> {
    Netlink::inside(fabric)?.remove(&port(number)).await.map(drop)
}

fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().saturating_neg()),
        _ => None,
    }
}

/// Success also for the one error that says it is so already.
fn allow(result: Result<(), rtnetlink::Error>, errno: i32) -> Result<(), rtnetlink::Error> {
    match result {
        Err(e) if code(&e) == Some(errno) => Ok(()),
        other => other,
    }
}
