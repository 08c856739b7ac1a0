//! Whether clients still wait for a pod: the TCP connections to ports that it listens on, as the kernel lists them for
//! its network namespace (`sock_diag(7)`; `/proc/net/tcp` takes ten times as long).

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// States of a socket, as the kernel numbers them (`include/net/tcp_states.h`).
const ESTABLISHED: u8 = 1;
const SYN_RECEIVED: u8 = 3;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// Of a netlink header, and of the answer to a question behind it (`struct inet_diag_msg`).
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 72;

/// A socket, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    state: u8,
    port: u16,
    peer: IpAddr,
    /// Of a listening one: connections that the program has not accepted yet.
    waiting: u32,
}

/// How many connections from elsewhere there are to ports that are listened on.
fn connections(sockets: &[Socket]) -> usize {
    let ports: BTreeSet<u16> = sockets.iter().filter(|s| s.state == LISTEN).map(|s| s.port).collect();
    let is_open = |socket: &&Socket| match socket.state {
        LISTEN => socket.waiting > 0,
        _ => ports.contains(&socket.port) && !socket.peer.to_canonical().is_loopback(),
    };
    sockets.iter().filter(is_open).count()
}

/// Counts them in a network namespace. Blocks for a millisecond.
pub fn connections_in(netns: &Path) -> io::Result<usize> {
    let netns = File::open(netns)?;
    // A thread of its own: there is no certain way back for this one.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let mut sockets = list(libc::AF_INET)?;
            sockets.extend(list(libc::AF_INET6)?);
            Ok(connections(&sockets))
        })?;
        thread.join().map_err(|_| io::Error::other("the thread died"))?
    })
}

/// The TCP sockets of a family in this thread's network namespace.
fn list(family: i32) -> io::Result<Vec<Socket>> {
    let protocol = SockProtocol::NetlinkSockDiag;
    let netlink = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    send(netlink.as_raw_fd(), &question(family), MsgFlags::empty())?;
    let mut sockets = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER_BYTES {
            let (length, kind) = (word(rest, 0) as usize, u16::from_ne_bytes([rest[4], rest[5]]));
            if i32::from(kind) == libc::NLMSG_DONE {
                return Ok(sockets);
            }
            if i32::from(kind) == libc::NLMSG_ERROR || length < HEADER_BYTES || length > rest.len() {
                return Err(io::Error::other("the kernel does not list TCP sockets (CONFIG_INET_DIAG)"));
            }
            sockets.extend(parse(&rest[HEADER_BYTES..length]));
            // Messages are padded to 4 bytes.
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// A netlink header and `struct inet_diag_req_v2`: sockets in the states that matter, whatever their addresses.
fn question(family: i32) -> Vec<u8> {
    const BYTES: u32 = 16 + 56;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let states: u32 = [ESTABLISHED, SYN_RECEIVED, CLOSE_WAIT, LISTEN].iter().map(|state| 1 << state).sum();
    let mut out = Vec::with_capacity(BYTES as usize);
    out.extend(BYTES.to_ne_bytes());
    out.extend(BY_FAMILY.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    out.extend(states.to_ne_bytes());
    out.resize(BYTES as usize, 0);
    out
}

fn parse(message: &[u8]) -> Option<Socket> {
    if message.len() < MESSAGE_BYTES {
        return None;
    }
    let peer: [u8; 16] = message[24..40].try_into().ok()?;
    let peer = match i32::from(message[0]) {
        libc::AF_INET => IpAddr::from([peer[0], peer[1], peer[2], peer[3]]),
        _ => IpAddr::V6(Ipv6Addr::from(peer)),
    };
    let port = u16::from_be_bytes([message[4], message[5]]);
    Some(Socket { state: message[1], port, peer, waiting: word(message, 56) })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_clients_from_elsewhere_count() {
        let socket = |state: u8, port: u16, peer: &str| Socket { state, port, peer: peer.parse().unwrap(), waiting: 0 };
        let listening = socket(LISTEN, 8080, "0.0.0.0");
        assert_eq!(connections(&[listening]), 0);
        let one = |state: u8, port: u16, peer: &str| connections(&[listening, socket(state, port, peer)]);
        assert_eq!(one(ESTABLISHED, 8080, "10.244.1.7"), 1);
        assert_eq!(one(CLOSE_WAIT, 8080, "10.244.1.7"), 1, "the answer is still to come");
        assert_eq!(one(ESTABLISHED, 54_000, "10.244.1.7"), 0, "the pod is the client");
        assert_eq!(one(ESTABLISHED, 8080, "127.0.0.1"), 0, "its own");
        assert_eq!(one(ESTABLISHED, 8080, "::1"), 0, "its own");
        assert_eq!(one(ESTABLISHED, 8080, "::ffff:127.0.0.1"), 0, "its own");
        assert_eq!(one(ESTABLISHED, 8080, "fd00::7"), 1);
        assert_eq!(connections(&[Socket { waiting: 3, ..listening }]), 1, "not accepted yet");
    }

    #[test]
    fn a_namespace_is_looked_into() {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for line in ["link set lo up", "address add 192.0.2.1/32 dev lo"] {
                assert!(std::process::Command::new("ip").args(line.split(' ')).status().unwrap().success());
            }
            let listener = TcpListener::bind("192.0.2.1:0").unwrap();
            let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            assert_eq!(connections_in(Path::new(&own)).unwrap(), 0);
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert!(connections_in(Path::new(&own)).unwrap() >= 1, "in the queue");
            let (mut server, _) = listener.accept().unwrap();
            assert_eq!(connections_in(Path::new(&own)).unwrap(), 1);
            drop(client);
            assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
            drop(server);
            assert_eq!(connections_in(Path::new(&own)).unwrap(), 0);
        })
        .join()
        .unwrap();
    }
}
