//! From a frontend to a backend.

use aya_ebpf::btf_maps::lpm_trie::Key;
use xebec_ebpf_layout::{
    Addr, Affinity, AffinityKey, Backend, ChunkKey, FlowKey, MemberKey, Port, SLOTS_PER_CHUNK, SOURCE_RANGE_BITS,
    Service, ServiceCounters, ServiceKey, SourceRange, StepKind, connect_bucket,
};

use crate::config::{dual_stack, is_node_port};
use crate::event::now_s;
use crate::maps::{AFFINITY, BACKENDS, MEMBERS, NODE_ADDRESSES, SERVICE_COUNTERS, SERVICES, SLOTS, SOURCE_RANGES};
use crate::trace;

/// The service at `addr:port`, if there is one. `node_flags` says which nodes' addresses count for NodePorts.
#[inline(always)]
pub fn lookup(addr: &Addr, port: Port, proto: u8, scope: u8, node_flags: u32) -> Option<(ServiceKey, Service)> {
    let mut key = ServiceKey { addr: *addr, port, proto, scope };
    // SAFETY: the value is copied at once; a concurrent replacement leaves the old copy whole.
    if let Some(service) = unsafe { SERVICES.get(key) } {
        trace::step(StepKind::Service, service.id, addr, port);
        return Some((key, *service));
    }
    if !is_node_port(port.get()) {
        return None;
    }
    // SAFETY: as above.
    let flags = unsafe { NODE_ADDRESSES.get(addr) }?;
    if *flags & node_flags == 0 {
        return None;
    }
    key.addr = addr.any_of_family();
    // SAFETY: as above.
    let service = unsafe { SERVICES.get(key) }?;
    trace::step(StepKind::Service, service.id, &key.addr, port);
    Some((key, *service))
}

/// The backend that `hash` falls on; `None` if the service has none.
///
/// Between reading the service and reading the slot, the agent may have replaced the set and removed the old one; then
/// the second try, with the service read again, finds the new.
#[inline(always)]
pub fn choose(key: &ServiceKey, service: &mut Service, hash: u32) -> Option<(u32, Backend)> {
    for _ in 0..2 {
        if service.count == 0 {
            return None;
        }
        let slot = hash % service.count;
        let chunk = ChunkKey { set: service.set, chunk: slot / SLOTS_PER_CHUNK };
        // SAFETY: copied at once.
        if let Some(chunk) = unsafe { SLOTS.get(chunk) } {
            let id = chunk.0[(slot % SLOTS_PER_CHUNK) as usize];
            // SAFETY: copied at once.
            if let Some(backend) = unsafe { BACKENDS.get(id) } {
                trace::step(StepKind::Backend, id, &backend.addr, backend.port);
                return Some((id, *backend));
            }
        }
        // SAFETY: copied at once.
        *service = *unsafe { SERVICES.get(key) }?;
    }
    None
}

/// The backend that this client met before, if that was not too long ago and the set still holds it; else the one that
/// `hash` falls on, which is remembered.
#[inline(always)]
pub fn choose_again(
    key: &ServiceKey,
    service: &mut Service,
    client: &AffinityKey,
    hash: u32,
) -> Option<(u32, Backend)> {
    let now = now_s();
    if let Some(known) = AFFINITY.get_ptr_mut(client) {
        // SAFETY: a live map value of two words; another CPU may write the same at the same time, and either will do.
        let known = unsafe { &mut *known };
        let id = known.backend;
        let timeout = service.affinity_timeout_s;
        let recent = timeout == 0 || now.wrapping_sub(known.last_seen_s) <= timeout;
        // SAFETY: only its presence is read.
        if recent && unsafe { MEMBERS.get(MemberKey { set: service.set, backend: id }) }.is_some() {
            // SAFETY: copied at once.
            if let Some(backend) = unsafe { BACKENDS.get(id) } {
                if known.last_seen_s != now {
                    known.last_seen_s = now;
                }
                trace::step(StepKind::Affinity, id, &client.client, Port(0));
                trace::step(StepKind::Backend, id, &backend.addr, backend.port);
                return Some((id, *backend));
            }
        }
    }
    let (id, backend) = choose(key, service, hash)?;
    // If this fails the client is served all the same, only not remembered.
    let _ = AFFINITY.insert(client, Affinity { backend: id, last_seen_s: now }, 0);
    Some((id, backend))
}

/// Whether the service port `id`, which has source ranges, has one for this client.
#[inline(always)]
pub fn allows(id: u32, client: &Addr) -> bool {
    SOURCE_RANGES.get(&Key::new(SOURCE_RANGE_BITS + 128, SourceRange { service: id, addr: *client })).is_some()
}

/// Which counter.
#[derive(Clone, Copy)]
pub enum Count {
    SocketConnection,
    UplinkFlow,
    Refused,
}

/// Counts for the service port `id`.
#[inline(always)]
pub fn count(id: u32, what: Count) {
    let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(id) else { return };
    let counters: *mut ServiceCounters = counters;
    // SAFETY: the pointer is to a live map value of which these are fields, aligned to 8; other CPUs add atomically
    // too. (The target's core library has no atomic addition; the instruction set does.)
    unsafe {
        let counter = match what {
            Count::SocketConnection => &raw mut (*counters).socket_connections,
            Count::UplinkFlow => &raw mut (*counters).uplink_flows,
            Count::Refused => &raw mut (*counters).refused,
        };
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) 1_u64, options(nostack));
    }
}

/// Which times.
#[derive(Clone, Copy)]
pub enum Times {
    Socket,
    Uplink,
}

/// Counts a connection to the service port `id` that took so long to be established.
#[inline(always)]
pub fn count_time(id: u32, which: Times, us: u32) {
    let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(id) else { return };
    let counters: *mut ServiceCounters = counters;
    // SAFETY: as for counting.
    unsafe {
        let times = match which {
            Times::Socket => &raw mut (*counters).socket_times,
            Times::Uplink => &raw mut (*counters).uplink_times,
        };
        let sum = &raw mut (*times).sum_us;
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) sum, in(reg) u64::from(us), options(nostack));
        let bucket = (&raw mut (*times).buckets).cast::<u32>().add(connect_bucket(us));
        core::arch::asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) bucket, in(reg) 1_u64, options(nostack));
    }
}

/// Mixes one word into a hash (MurmurHash3's finaliser).
#[inline(always)]
pub fn mix(hash: u32, word: u32) -> u32 {
    let mut h = (hash ^ word).wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// An address as one word: IPv4 as it is, IPv6 mixed.
#[inline(always)]
fn word(addr: &Addr) -> u32 {
    if !dual_stack() || addr.is_v4() {
        return addr.v4_word();
    }
    mix(mix(mix(addr.0[0], addr.0[1]), addr.0[2]), addr.0[3])
}

/// A hash of the five-tuple that every node computes alike.
#[inline(always)]
pub fn hash(key: &FlowKey) -> u32 {
    let ports = (key.src_port.0 as u32) << 16 | key.dst_port.0 as u32;
    let mut h = mix(0x9747_b28c, word(&key.src));
    h = mix(h, word(&key.dst));
    h = mix(h, ports);
    mix(h, key.proto as u32)
}

/// A hash of the client alone, for session affinity: every node chooses the same backend for it.
#[inline(always)]
pub fn client_hash(key: &FlowKey) -> u32 {
    mix(0x85eb_ca77, word(&key.src))
}
