//! UDP, many datagrams at a time: `recvmmsg(2)`, `sendmmsg(2)`, and a socket for each thread, between which the kernel
//! shares the clients out (`SO_REUSEPORT`).

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Datagrams taken at a time.
const BATCH: usize = 32;
/// The largest question that is read.
const QUESTION_BYTES_MAX: usize = 1_500;
/// How often a thread that has nothing to do looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_secs(1);
/// Questions that wait for a thread, in bytes: some thousands.
const RECEIVE_BUFFER_BYTES: libc::c_int = 1 << 20;

/// A socket that shares its address with others of this process.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain numbers; the descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    set(&socket, libc::SO_REUSEPORT, 1)?;
    // The kernel may give less.
    set(&socket, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES)?;
    let mut raw = Address::default();
    raw.set(address);
    // SAFETY: the address is live and as long as said.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw.storage).cast(), raw.length) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(STOP_POLL))?;
    Ok(socket)
}

fn set(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is live and as long as said.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket address as the kernel has it.
#[derive(Clone, Copy)]
struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Default for Address {
    fn default() -> Self {
        // SAFETY: all zeros is a valid value of this plain struct.
        Self { storage: unsafe { MaybeUninit::zeroed().assume_init() }, length: 0 }
    }
}

impl Address {
    fn set(&mut self, address: SocketAddr) {
        let to: *mut libc::sockaddr_storage = &raw mut self.storage;
        self.length = match address {
            SocketAddr::V4(v4) => {
                // SAFETY: a sockaddr_storage is as large and as aligned as any address.
                let raw = unsafe { &mut *to.cast::<libc::sockaddr_in>() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                // SAFETY: as above.
                let raw = unsafe { &mut *to.cast::<libc::sockaddr_in6>() };
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        } as libc::socklen_t;
    }

    fn get(&self) -> Option<SocketAddr> {
        let from: *const libc::sockaddr_storage = &raw const self.storage;
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what it is.
                let raw = unsafe { &*from.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { &*from.cast::<libc::sockaddr_in6>() };
                let (ip, port) = (Ipv6Addr::from(raw.sin6_addr.s6_addr), u16::from_be(raw.sin6_port));
                // On a socket for both families an IPv4 address shows in its mapped form.
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddrV4::new(v4, port).into(),
                    None => SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }
}

/// Answers what comes until `stop`. `answer` writes into the buffer and says whether that is to be sent.
pub fn serve(socket: &UdpSocket, stop: &AtomicBool, mut answer: impl FnMut(&[u8], SocketAddr, &mut Vec<u8>) -> bool) {
    let mut questions = vec![[0_u8; QUESTION_BYTES_MAX]; BATCH];
    let mut answers: Vec<Vec<u8>> = vec![Vec::new(); BATCH];
    let mut addresses = [Address::default(); BATCH];
    while !stop.load(Ordering::Relaxed) {
        let lengths = match receive(socket, &mut questions, &mut addresses) {
            Ok(lengths) => lengths,
            // Nothing came; or an ICMP error about an earlier answer.
            Err(_) => continue,
        };
        let mut outgoing = [None; BATCH];
        let mut count = 0;
        for (index, length) in lengths.into_iter().enumerate() {
            let (Some(length), Some(from)) = (length, addresses[index].get()) else { continue };
            if answer(&questions[index][..length], from, &mut answers[count]) {
                outgoing[count] = Some(index);
                count += 1;
            }
        }
        send(socket, &mut answers[..count], &mut addresses, &outgoing);
    }
}

/// Waits for at least one datagram; gives their lengths. One that was too long for its buffer has none.
fn receive(
    socket: &UdpSocket,
    buffers: &mut [[u8; QUESTION_BYTES_MAX]],
    addresses: &mut [Address; BATCH],
) -> io::Result<Vec<Option<usize>>> {
    let mut parts =
        buffers.iter_mut().map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
    // SAFETY: all zeros is a valid value of these plain structs.
    let mut vectors: [libc::iovec; BATCH] = unsafe { MaybeUninit::zeroed().assume_init() };
    vectors.fill_with(|| parts.next().unwrap_or(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }));
    // SAFETY: as above.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { MaybeUninit::zeroed().assume_init() };
    for ((message, vector), address) in messages.iter_mut().zip(&mut vectors).zip(addresses.iter_mut()) {
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_name = (&raw mut address.storage).cast();
        message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    }
    // SAFETY: every pointer in `messages` is to a live buffer of the length beside it.
    let count = unsafe {
        let flags = libc::MSG_WAITFORONE;
        libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut())
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for (address, message) in addresses.iter_mut().zip(&messages) {
        address.length = message.msg_hdr.msg_namelen;
    }
    let length = |m: &libc::mmsghdr| (m.msg_hdr.msg_flags & libc::MSG_TRUNC == 0).then_some(m.msg_len as usize);
    Ok(messages[..count].iter().map(length).collect())
}

/// Sends what it can: an answer that cannot be sent is asked for again.
fn send(socket: &UdpSocket, answers: &mut [Vec<u8>], addresses: &mut [Address; BATCH], to: &[Option<usize>; BATCH]) {
    // SAFETY: all zeros is a valid value of these plain structs.
    let mut vectors: [libc::iovec; BATCH] = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: as above.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { MaybeUninit::zeroed().assume_init() };
    for (index, answer) in answers.iter_mut().enumerate() {
        let Some(address) = to[index].map(|at| &mut addresses[at]) else { continue };
        vectors[index] = libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: answer.len() };
        let message = &mut messages[index].msg_hdr;
        message.msg_iov = &raw mut vectors[index];
        message.msg_iovlen = 1;
        message.msg_name = (&raw mut address.storage).cast();
        message.msg_namelen = address.length;
    }
    let mut done = 0;
    while done < answers.len() {
        // SAFETY: every pointer in `messages` is to a live buffer of the length beside it.
        let sent = unsafe {
            let rest = (answers.len() - done) as u32;
            libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr().add(done), rest, 0)
        };
        // The first of the rest failed: go on after it.
        done += usize::try_from(sent).unwrap_or(0).max(1);
    }
}
