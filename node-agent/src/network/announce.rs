//! Tells everybody on the link where a load balancer address is: neighbours may know another node's hardware address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use xebec_cni::netlink::{Link, Mac};

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;

/// An ARP announcement (RFC 5227 section 3).
pub fn gratuitous_arp(link: &Link, address: Ipv4Addr) -> io::Result<()> {
    const BROADCAST: Mac = [0xff; 6];
    let mut frame = ethernet(BROADCAST, link.mac, ETH_P_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(link.mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    send(link, BROADCAST, &frame)
}

/// A neighbour advertisement that nobody asked for (RFC 4861 section 7.2.6).
pub fn unsolicited_advertisement(link: &Link, address: Ipv6Addr) -> io::Result<()> {
    const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
    send(link, ALL_NODES, &advertisement(link.mac, address))
}

fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Type, code, checksum, "override"; then the target and where it is.
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(address.octets());
    body.extend([2, 1]);
    body.extend(mac);
    let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [&address.octets()[..], &to.octets(), &[0, 0], &length, &[0, 0, 0, ICMPV6], &body].concat();
    body[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, ETH_P_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length);
    // Neighbours believe only what crossed no router.
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(to.octets());
    frame.extend(body);
    frame
}

/// RFC 1071; of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default()
}

fn ethernet(to: Mac, from: Mac, protocol: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from);
    frame.extend(protocol.to_be_bytes());
    frame
}

/// Sends a frame as it is.
fn send(link: &Link, hardware: Mac, frame: &[u8]) -> io::Result<()> {
    // SAFETY: plain numbers; the descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = i32::try_from(link.index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&hardware);
    // SAFETY: the pointers and lengths are of live values.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Memberships in the groups that solicitations for IPv6 addresses go to (RFC 4291 section 2.7.1): cards and switches pass on
/// what somebody listens to. A membership lasts as long as its socket.
#[derive(Debug, Default)]
pub struct Groups(BTreeMap<Ipv6Addr, UdpSocket>);

impl Groups {
    /// Joins the group of an address.
    pub fn join(&mut self, address: Ipv6Addr, interface: u32) -> io::Result<()> {
        let [.., a, b] = address.segments();
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (a & 0x00ff), b);
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.join_multicast_v6(&group, interface)?;
        self.0.insert(address, socket);
        Ok(())
    }

    /// Leaves those of all other addresses.
    pub fn keep(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.0.retain(|address, _| addresses.contains(&IpAddr::V6(*address)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_is_as_neighbours_want_it() {
        let address: Ipv6Addr = "fd00:172::130".parse().unwrap();
        let frame = advertisement([2, 0, 0, 0, 0, 1], address);
        assert_eq!(frame.len(), 86);
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
        assert_eq!(checksum(&pseudo), 0, "a sum that includes its checksum");
        assert_eq!((frame[21], &frame[62..78]), (255, &address.octets()[..]));
    }
}
