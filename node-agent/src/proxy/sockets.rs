//! Ends connected datagram sockets whose endpoint is gone.
//!
//! A socket that is not connected asks for an endpoint with each send. One that is connected keeps what it got, and
//! would send into the void for ever: nothing tells it. So the kernel is asked to end it, and its program sees ECONNABORTED
//! (when it sends, EDESTADDRREQ), connects again, and gets another endpoint.
//!
//! The map of translated sockets says which sockets, by their cookies; `sock_diag` (`man 7 sock_diag`) finds them in the
//! network namespaces of the node and of its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use xebec_ebpf_loader::Table;
use xebec_ebpf_loader::layout::{Addr, Frontend, ServiceKey, SocketKey};

use super::desired::BackendAddress;

/// An endpoint that a frontend of UDP no longer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The frontend.
    pub frontend: ServiceKey,
    /// The endpoint.
    pub backend: BackendAddress,
}

/// Orders that may wait; more are dropped, for a node that cannot keep up would never catch up.
const ORDERS: usize = 64;

/// Takes orders to end sockets.
#[derive(Debug)]
pub struct Sockets(mpsc::Sender<Vec<Gone>>);

impl Sockets {
    /// Starts its task. `namespaces` is the folder with the pods' network namespaces.
    pub fn start(mut translated: Table<SocketKey, Frontend>, namespaces: PathBuf) -> Self {
        let (sender, mut orders) = mpsc::channel::<Vec<Gone>>(ORDERS);
        tokio::spawn(async move {
            while let Some(gone) = orders.recv().await {
                let namespaces = namespaces.clone();
                let work = tokio::task::spawn_blocking(move || {
                    let result = end(&mut translated, &gone, &namespaces);
                    (translated, result)
                });
                let Ok((table, result)) = work.await else { return };
                translated = table;
                match result {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(count, "ended datagram sockets whose endpoint is gone"),
                    Err(error) => {
                        tracing::warn!(%error, "cannot end datagram sockets whose endpoint is gone; they may hang");
                    }
                }
            }
        });
        Self(sender)
    }

    /// Ends the sockets that are connected to these.
    pub fn end(&self, gone: Vec<Gone>) {
        if self.0.try_send(gone).is_err() {
            tracing::warn!("too many endpoints go at once: datagram sockets connected to some may hang");
        }
    }
}

/// Ends them; how many there were.
fn end(translated: &mut Table<SocketKey, Frontend>, gone: &[Gone], namespaces: &Path) -> io::Result<usize> {
    let wanted = concerned(&translated.entries().map_err(io::Error::other)?, gone);
    if wanted.is_empty() {
        return Ok(0);
    }
    let mut count = end_in(None, &wanted)?;
    let pods = match fs::read_dir(namespaces) {
        Ok(pods) => pods,
        // No pod yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(count),
        Err(error) => return Err(error),
    };
    for pod in pods {
        match end_in(Some(&pod?.path()), &wanted) {
            Ok(more) => count += more,
            // A pod that has just gone takes its sockets with it.
            Err(error) => tracing::debug!(%error, "cannot look into a pod's network namespace"),
        }
    }
    Ok(count)
}

/// The cookies of translated sockets that these changes concern, with their endpoints.
fn concerned(translated: &[(SocketKey, Frontend)], gone: &[Gone]) -> BTreeMap<u64, BTreeSet<BackendAddress>> {
    let mut lost = BTreeMap::<BackendAddress, Vec<ServiceKey>>::new();
    for gone in gone {
        lost.entry(gone.backend).or_default().push(gone.frontend);
    }
    let mut out = BTreeMap::<u64, BTreeSet<BackendAddress>>::new();
    for (socket, frontend) in translated {
        let backend = BackendAddress { addr: socket.addr, port: socket.port };
        let through = |key: &ServiceKey| {
            // Loopback addresses are a namespace's own in keys, and as they are for the socket.
            let same = key.addr.to_ip() == frontend.addr.to_ip();
            key.port == frontend.port && (same || key.addr == frontend.addr.any_of_family())
        };
        if lost.get(&backend).is_some_and(|frontends| frontends.iter().any(through)) {
            out.entry(socket.cookie).or_default().insert(backend);
        }
    }
    out
}

/// Ends those of `wanted` that are in a network namespace (`None`: our own).
fn end_in(namespace: Option<&Path>, wanted: &BTreeMap<u64, BTreeSet<BackendAddress>>) -> io::Result<usize> {
    let diag = match namespace {
        None => Diag::open()?,
        Some(path) => {
            let file = File::open(path)?;
            // A socket belongs to the namespace of the thread that made it; a thread of its own, since there is no
            // certain way back for this one.
            std::thread::scope(|scope| {
                let open = scope.spawn(|| {
                    nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)?;
                    Diag::open()
                });
                open.join().map_err(|_| io::Error::other("the thread died"))?
            })?
        }
    };
    let mut count = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for socket in diag.datagram_sockets(family as u8)? {
            let is_wanted = wanted.get(&socket.cookie()).is_some_and(|of| of.contains(&socket.peer(family as u8)));
            if is_wanted && diag.destroy(family as u8, &socket)? {
                count += 1;
            }
        }
    }
    Ok(count)
}

/// `struct inet_diag_sockid`, linux/inet_diag.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SocketId {
    source_port: u16,
    peer_port: u16,
    source: [u32; 4],
    peer: [u32; 4],
    interface: u32,
    cookie: [u32; 2],
}

impl SocketId {
    fn cookie(&self) -> u64 {
        u64::from(self.cookie[0]) | u64::from(self.cookie[1]) << 32
    }

    fn peer(&self, family: u8) -> BackendAddress {
        let v4 = i32::from(family) == libc::AF_INET;
        let addr = if v4 { Addr::from_v4_word(self.peer[0]) } else { Addr(self.peer) };
        BackendAddress { addr, port: xebec_ebpf_loader::layout::Port(self.peer_port) }
    }
}

/// `struct inet_diag_req_v2` behind its netlink header.
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const HEADER: usize = 16;
/// In a `struct inet_diag_msg`, where its `inet_diag_sockid` begins.
const ID: usize = HEADER + 4;

/// A `sock_diag` netlink socket.
struct Diag(OwnedFd);

impl Diag {
    fn open() -> io::Result<Self> {
        const NETLINK_SOCK_DIAG: i32 = 4;
        // SAFETY: plain numbers; the descriptor is owned at once.
        unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    fn send(&self, kind: u16, flags: i32, family: u8, id: SocketId) -> io::Result<()> {
        let request = Request {
            length: size_of::<Request>() as u32,
            kind,
            flags: (libc::NLM_F_REQUEST | flags) as u16,
            sequence: 1,
            port: 0,
            family,
            protocol: libc::IPPROTO_UDP as u8,
            extensions: 0,
            padding: 0,
            states: u32::MAX,
            id,
        };
        // SAFETY: the pointer and the length are of a live value without hidden padding.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), (&raw const request).cast(), size_of::<Request>(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// One datagram of answers.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        // SAFETY: the pointer and the length are of a live buffer.
        let read = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        Ok(&buffer[..read])
    }

    /// The datagram sockets of a family that are connected.
    fn datagram_sockets(&self, family: u8) -> io::Result<Vec<SocketId>> {
        self.send(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, family, SocketId::default())?;
        let mut out = Vec::new();
        let mut buffer = vec![0; 1 << 15];
        loop {
            let mut rest = self.receive(&mut buffer)?;
            while rest.len() >= HEADER {
                let (length, kind) = header(rest);
                if kind == libc::NLMSG_DONE as u16 {
                    return Ok(out);
                }
                if kind == libc::NLMSG_ERROR as u16 {
                    return Err(error(rest).unwrap_or_else(|| io::Error::other("sock_diag ended the list early")));
                }
                if let Some(id) = rest.get(ID..ID + size_of::<SocketId>()) {
                    // SAFETY: so many bytes are there, and any are a valid value.
                    let id = unsafe { id.as_ptr().cast::<SocketId>().read_unaligned() };
                    if id.peer_port != 0 {
                        out.push(id);
                    }
                }
                rest = rest.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
            }
        }
    }

    /// Ends a socket; false if it ended by itself.
    fn destroy(&self, family: u8, id: &SocketId) -> io::Result<bool> {
        self.send(SOCK_DESTROY, libc::NLM_F_ACK, family, *id)?;
        let mut buffer = vec![0; 1 << 12];
        match error(self.receive(&mut buffer)?) {
            None => Ok(true),
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Some(error) => Err(error),
        }
    }
}

/// Length and kind of a netlink message.
fn header(message: &[u8]) -> (usize, u16) {
    let length = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
    (length as usize, u16::from_ne_bytes([message[4], message[5]]))
}

/// What an acknowledgement says went wrong.
fn error(message: &[u8]) -> Option<io::Error> {
    let code = message.get(HEADER..HEADER + 4)?;
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => None,
        code => Some(io::Error::from_raw_os_error(-code)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_connected_socket_is_found_by_its_cookie_and_ended() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let mut cookie = 0_u64;
        let mut length = 8;
        // SAFETY: SO_COOKIE writes a u64.
        let result = unsafe {
            libc::getsockopt(
                client.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0);
        let peer = BackendAddress {
            addr: server.local_addr().unwrap().ip().into(),
            port: xebec_ebpf_loader::layout::Port::new(server.local_addr().unwrap().port()),
        };
        let elsewhere = BackendAddress { port: xebec_ebpf_loader::layout::Port::new(1), ..peer };
        assert_eq!(end_in(None, &BTreeMap::from([(cookie, BTreeSet::from([elsewhere]))])).unwrap(), 0);
        client.send(b"alive").unwrap();
        assert_eq!(end_in(None, &BTreeMap::from([(cookie, BTreeSet::from([peer]))])).unwrap(), 1);
        assert_eq!(client.recv(&mut [0; 8]).unwrap_err().raw_os_error(), Some(libc::ECONNABORTED));
    }

    #[test]
    fn only_sockets_that_came_through_the_frontend_are_concerned() {
        use xebec_ebpf_loader::layout::{Port, SCOPE_CLUSTER, proto};
        let addr = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().unwrap());
        let backend = BackendAddress { addr: addr("10.244.1.5"), port: Port::new(53) };
        let socket = |cookie, frontend: &str| {
            (
                SocketKey { cookie, addr: backend.addr, port: backend.port, padding: [0; 3] },
                Frontend { addr: addr(frontend), port: Port::new(53), padding: 0, service: 0, begun_us: 0 },
            )
        };
        let key =
            |frontend| ServiceKey { addr: frontend, port: Port::new(53), proto: proto::UDP, scope: SCOPE_CLUSTER };
        let translated = [socket(1, "10.96.0.1"), socket(2, "10.96.0.2")];
        let of = |frontend| {
            let gone = [Gone { frontend: key(frontend), backend }];
            concerned(&translated, &gone).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(of(addr("10.96.0.1")), [1]);
        assert_eq!(of(Addr::UNSPECIFIED_V4), [1, 2]);
        assert!(of(Addr::UNSPECIFIED).is_empty(), "any address of the other family");
        assert_eq!(of(addr("10.96.0.3")), [0_u64; 0]);
    }
}
