//! The socket hooks: `connect`, `sendmsg`, `recvmsg` and `getpeername` of every process in the node's cgroup.
//!
//! A service's address becomes a backend's before the kernel sees it, so that no packet to a service exists. The
//! reverse, for programs that look at the peer's address (UDP receivers, `getpeername`), goes by the socket's cookie. What is
//! known of a TCP socket goes with it; of datagram sockets, which may talk to many, the longest unused goes.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use xebec_ebpf_layout::{
    Addr, AffinityKey, Backend, CLIENT_NAMESPACE, CLIENT_SOCKET, Frontend, Port, SCOPE_CLUSTER, Service, ServiceKey,
    SocketKey, Stream, node_address_flags, proto, service_flags,
};

use crate::event::now_us;
use crate::maps::{SOCKETS, STREAMS};
use crate::service::{self, Count};

/// The hook's return values.
const REFUSE: i32 = 0;
const PROCEED: i32 = 1;
const ECONNREFUSED: i32 = 111;

/// Nodes' addresses that count for NodePorts: inside the cluster, any node's.
const ANY_NODE: u32 = node_address_flags::LOCAL | node_address_flags::PEER;

/// What to do with an address.
enum Outcome {
    Keep,
    Replace(Addr, Port),
    Refuse,
}

/// Who wants to talk to an address.
pub trait Caller {
    /// The IP protocol.
    fn protocol(&self) -> u8;
    /// The kernel's number of the socket.
    fn cookie(&self) -> u64;
    /// The kernel's number of its network namespace.
    fn namespace(&self) -> u64;
}

impl Caller for SockAddrContext {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: the context the kernel gave us.
        unsafe { (*self.sock_addr).protocol as u8 }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is a socket's.
        unsafe { bpf_get_socket_cookie(self.sock_addr.cast()) }
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        // SAFETY: the context is a socket's.
        unsafe { bpf_get_netns_cookie(self.sock_addr.cast()) }
    }
}

/// What the hooks would return to a caller, for [`crate::trace`].
#[inline(always)]
pub fn decide(caller: &impl Caller, addr: Addr, port: Port) -> i32 {
    if let Outcome::Refuse = translate(caller, addr, port) { REFUSE } else { PROCEED }
}

/// The backend for a socket that wants to talk to `addr:port`.
#[inline(always)]
fn translate(caller: &impl Caller, addr: Addr, port: Port) -> Outcome {
    let protocol = caller.protocol();
    if protocol != proto::TCP && protocol != proto::UDP {
        return Outcome::Keep;
    }
    // Every namespace has loopback addresses; the node's own may be a hostPort's.
    let wanted = if addr.is_loopback() { addr.of_namespace(caller.namespace()) } else { addr };
    let Some((key, mut service)) = service::lookup(&wanted, port, protocol, SCOPE_CLUSTER, ANY_NODE) else {
        return Outcome::Keep;
    };
    let cookie = caller.cookie();
    let Some((_, backend)) = choose(caller, &key, &mut service, cookie) else {
        service::count(service.id, Count::Refused);
        return Outcome::Refuse;
    };
    service::count(service.id, Count::SocketConnection);
    let mut frontend = Frontend { addr, port, padding: 0, service: service.id, begun_us: 0 };
    // If these fail the connection works all the same, only its peer's address shows as the backend's.
    if protocol == proto::TCP {
        frontend.begun_us = now_us();
        let stream = Stream { frontend, addr: backend.addr, port: backend.port, padding: 0 };
        let _ = STREAMS.insert(cookie, stream, 0);
    } else {
        let socket = SocketKey { cookie, addr: backend.addr, port: backend.port, padding: [0; 3] };
        let _ = SOCKETS.insert(socket, frontend, 0);
    }
    Outcome::Replace(backend.addr, backend.port)
}

/// What the TCP socket with this number is connected to, if that is the backend at `addr:port`.
#[inline(always)]
pub fn stream(cookie: u64, addr: &Addr, port: Port) -> Option<Frontend> {
    // SAFETY: copied at once.
    let stream = unsafe { STREAMS.get(cookie) }?;
    (stream.addr == *addr && stream.port == port).then_some(stream.frontend)
}

/// The backend for this socket's client.
#[inline(always)]
fn choose(caller: &impl Caller, key: &ServiceKey, service: &mut Service, cookie: u64) -> Option<(u32, Backend)> {
    let (kind, client) = if service.affinity_timeout_s != 0 {
        // The client is the pod, whose network namespace is known where its address is not yet chosen.
        (CLIENT_NAMESPACE, caller.namespace())
    } else if key.proto == proto::UDP {
        // A datagram socket stays with its backend from one send to the next, while that is one.
        (CLIENT_SOCKET, cookie)
    } else {
        // SAFETY: no arguments, no preconditions.
        return service::choose(key, service, unsafe { bpf_get_prandom_u32() });
    };
    let hash = if kind == CLIENT_NAMESPACE {
        // Once a client's time is over it may meet any backend, as if it were new.
        // SAFETY: no arguments, no preconditions.
        unsafe { bpf_get_prandom_u32() }
    } else {
        service::mix(service::mix(service.id, client as u32), (client >> 32) as u32)
    };
    if service.flags & service_flags::STICKY == 0 {
        return service::choose(key, service, hash);
    }
    let client = AffinityKey::local(kind, client, service.id);
    service::choose_again(key, service, &client, hash)
}

/// The frontend by which this socket knows the backend at `addr:port`.
#[inline(always)]
fn reverse(ctx: &SockAddrContext, addr: Addr, port: Port) -> Option<Frontend> {
    // SAFETY: the context is a socket's.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    if ctx.protocol() == proto::TCP {
        return stream(cookie, &addr, port);
    }
    // SAFETY: copied at once.
    unsafe { SOCKETS.get(SocketKey { cookie, addr, port, padding: [0; 3] }) }.copied()
}

#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: allowed in connect and sendmsg hooks. Without it the caller would see EPERM.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

#[inline(always)]
fn read4(ctx: *const bpf_sock_addr) -> (Addr, Port) {
    // SAFETY: the context the kernel gave us, whole words as the verifier demands.
    unsafe { (Addr::from_v4_word((*ctx).user_ip4), Port((*ctx).user_port as u16)) }
}

#[inline(always)]
fn write4(ctx: *mut bpf_sock_addr, addr: &Addr, port: Port) {
    // SAFETY: as for reading.
    unsafe {
        (*ctx).user_ip4 = addr.v4_word();
        (*ctx).user_port = u32::from(port.0);
    }
}

#[inline(always)]
fn read6(ctx: *const bpf_sock_addr) -> (Addr, Port) {
    // SAFETY: as for IPv4.
    unsafe {
        let words = [
            core::ptr::read_volatile(&raw const (*ctx).user_ip6[0]),
            core::ptr::read_volatile(&raw const (*ctx).user_ip6[1]),
            core::ptr::read_volatile(&raw const (*ctx).user_ip6[2]),
            core::ptr::read_volatile(&raw const (*ctx).user_ip6[3]),
        ];
        (Addr(words), Port((*ctx).user_port as u16))
    }
}

#[inline(always)]
fn write6(ctx: *mut bpf_sock_addr, addr: &Addr, port: Port) {
    // SAFETY: as for IPv4. Volatile, so that the compiler does not join the words: the verifier wants them one by one.
    unsafe {
        core::ptr::write_volatile(&raw mut (*ctx).user_ip6[0], addr.0[0]);
        core::ptr::write_volatile(&raw mut (*ctx).user_ip6[1], addr.0[1]);
        core::ptr::write_volatile(&raw mut (*ctx).user_ip6[2], addr.0[2]);
        core::ptr::write_volatile(&raw mut (*ctx).user_ip6[3], addr.0[3]);
        (*ctx).user_port = u32::from(port.0);
    }
}

#[inline(always)]
fn forward4(ctx: &SockAddrContext) -> i32 {
    let (addr, port) = read4(ctx.sock_addr);
    match translate(ctx, addr, port) {
        Outcome::Keep => PROCEED,
        // An IPv4 socket cannot reach an IPv6 backend.
        Outcome::Replace(addr, _) if !addr.is_v4() => refuse(),
        Outcome::Replace(addr, port) => {
            write4(ctx.sock_addr, &addr, port);
            PROCEED
        }
        Outcome::Refuse => refuse(),
    }
}

#[inline(always)]
fn forward6(ctx: &SockAddrContext) -> i32 {
    let (addr, port) = read6(ctx.sock_addr);
    match translate(ctx, addr, port) {
        Outcome::Keep => PROCEED,
        Outcome::Replace(backend, port) => {
            write6(ctx.sock_addr, &backend, port);
            PROCEED
        }
        Outcome::Refuse => refuse(),
    }
}

#[inline(always)]
fn reverse4(ctx: &SockAddrContext) -> i32 {
    let (addr, port) = read4(ctx.sock_addr);
    if let Some(frontend) = reverse(ctx, addr, port) {
        write4(ctx.sock_addr, &frontend.addr, frontend.port);
    }
    PROCEED
}

#[inline(always)]
fn reverse6(ctx: &SockAddrContext) -> i32 {
    let (addr, port) = read6(ctx.sock_addr);
    if let Some(frontend) = reverse(ctx, addr, port) {
        write6(ctx.sock_addr, &frontend.addr, frontend.port);
    }
    PROCEED
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    forward4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    forward6(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    forward4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    forward6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    reverse4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    reverse4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

/// A socket is closed for good.
#[cgroup_sock(sock_release)]
pub fn release(ctx: SockContext) -> i32 {
    // SAFETY: the context the kernel gave us.
    if unsafe { (*ctx.sock).protocol } == u32::from(proto::TCP) {
        // SAFETY: the context is a socket's.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
        // Most have nothing here, and looking takes no lock.
        if STREAMS.get_ptr(cookie).is_some() {
            let _ = STREAMS.remove(cookie);
        }
    }
    PROCEED
}
