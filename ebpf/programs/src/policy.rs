//! Network policy: whether a packet of an isolated pod may pass.
//!
//! Who began a connection decides which rules judge it, so connections are remembered, by the tuple that the pod sends:
//! both directions then find the same entry. Packets in the direction of the beginning are judged again when policies
//! have changed; those of the other direction are replies, and pass for as long as the connection stands.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{
    Addr, Connection, Direction, DropReason, FlowKey, FragmentKey, LocalPod, Port, RuleKey, StepKind, flow_flags,
    node_address_flags, verdict,
};

use crate::config::config;
use crate::event::{self, now_s};
use crate::icmp;
use crate::maps::{BLOCKS, CONNECTIONS, FRAGMENTS, IDENTITIES, NODE_ADDRESSES, REVISION, RULES};
use crate::packet::{FRAGMENT_OFFSET, Kind, MORE_FRAGMENTS, Packet, icmp_type, icmp6_type, tcp};
use crate::trace;

/// The first of the ports that sockets are given when they ask for none (Linux's default).
const EPHEMERAL: u16 = 32_768;
/// For how long after a pod became isolated packets of connections from before are recognised. As long as an
/// established connection may be silent.
const ADOPTION_S: u32 = 7_440;

/// Lets the packet pass or not. `key` is memory for the connection's tuple.
#[inline(always)]
pub fn judge(
    ctx: &TcContext,
    packet: &Packet,
    key: &mut FlowKey,
    pod: &LocalPod,
    direction: Direction,
) -> Result<(), DropReason> {
    let (set, peer) = match direction {
        Direction::Ingress => (pod.ingress, &packet.key.src),
        Direction::Egress => (pod.egress, &packet.key.dst),
    };
    // What the node forwards under its own address (see `uplink`) came in by an interface, and is not the node's.
    // SAFETY: the context the kernel gave us.
    let is_forwarded = direction as u8 == Direction::Ingress as u8 && unsafe { (*ctx.skb.skb).ingress_ifindex } != 0;
    if !is_forwarded && is_own_node(peer) {
        trace::policy(StepKind::OwnNode, direction, set, [0; 2]);
        return Ok(());
    }
    let fragment = packet.fragment().1;
    if fragment & FRAGMENT_OFFSET != 0 {
        let known = is_free(set) || FRAGMENTS.get_ptr_mut(&fragment_key(packet, direction)).is_some();
        return if known { Ok(()) } else { Err(reason(direction)) };
    }
    tuple(&packet.key, direction, key);
    if packet.is(Kind::IcmpError) {
        return error(ctx, packet, key, set, direction);
    }
    connection(ctx, packet, key, pod, direction)?;
    if fragment & MORE_FRAGMENTS != 0 {
        // If this fails the rest of the datagram is dropped, as if it had been lost.
        let _ = FRAGMENTS.insert(&fragment_key(packet, direction), &1, 0);
    }
    Ok(())
}

/// Lets a packet of a connection pass or not, and remembers the connection.
#[inline(always)]
fn connection(
    ctx: &TcContext,
    packet: &Packet,
    key: &FlowKey,
    pod: &LocalPod,
    direction: Direction,
) -> Result<(), DropReason> {
    let now = now_s();
    let revision = REVISION.get(0).copied().unwrap_or_default();
    let mut flags = closing(packet, direction);
    let entry = CONNECTIONS.get_ptr_mut(key);
    // Whether this is a connection that was allowed, and is judged again.
    let mut again = false;
    if let Some(entry) = entry {
        // SAFETY: a live map value. Another CPU may write the same fields at the same time: each is one word or less and
        // either value will do.
        let entry = unsafe { &mut *entry };
        let alive = now.wrapping_sub(entry.last_seen_s) <= entry.idle_limit_s(key.proto);
        let is_reply = entry.direction != direction as u8;
        let stands = if is_reply { !packet.is_syn() } else { entry.revision == revision };
        if alive && stands {
            flags |= if is_reply { entry.flags | flow_flags::REPLIED } else { entry.flags };
            touch(entry, packet, flags, now);
            trace::policy(StepKind::KnownConnection, direction, pod.ingress, [0; 2]);
            return Ok(());
        }
        if !is_reply {
            again = true;
            if alive {
                flags |= entry.flags;
            }
        }
    }
    let begun = match entry {
        None if packet.is_of_connection() && !packet.is_syn() => stood_before(key, pod, now),
        _ => Begun::By(direction),
    };
    let (direction, known) = match begun {
        Begun::By(direction) => (direction, true),
        Begun::Unknown => (direction, false),
    };
    let (set, port) = match direction {
        Direction::Ingress => (pod.ingress, key.src_port),
        Direction::Egress => (pod.egress, key.dst_port),
    };
    if is_free(set) {
        trace::policy(StepKind::NotSelected, direction, set, [0; 2]);
        // A packet from the midst of a connection that was not seen to begin: it does no harm, and opens nothing.
        if !known {
            return Ok(());
        }
    } else if !allows(set, &key.dst, key.proto, if packet.is_icmp() { Port(0) } else { port }) {
        trace::policy(StepKind::Denied, direction, set, traced_identity(&key.dst));
        if again {
            let _ = CONNECTIONS.remove(key);
        }
        return Err(reason(direction));
    } else {
        trace::policy(StepKind::Allowed, direction, set, traced_identity(&key.dst));
    }
    let new = Connection { revision, last_seen_s: now, direction: direction as u8, flags, padding: 0 };
    // If this fails the replies are dropped, and the next packet tries again.
    let _ = CONNECTIONS.insert(key, &new, 0);
    if !again {
        event::new_flow(ctx, direction as u8, &packet.key, 0, 0);
    }
    Ok(())
}

/// Who began a connection whose beginning was not seen.
enum Begun {
    By(Direction),
    Unknown,
}

/// For connections from before the pod was isolated: the side with the port that nobody chose is the client.
#[inline(always)]
fn stood_before(key: &FlowKey, pod: &LocalPod, now: u32) -> Begun {
    if pod.isolated_at_s == 0 || now.wrapping_sub(pod.isolated_at_s) > ADOPTION_S {
        return Begun::Unknown;
    }
    match (key.src_port.get() >= EPHEMERAL, key.dst_port.get() >= EPHEMERAL) {
        (true, false) => Begun::By(Direction::Egress),
        (false, true) => Begun::By(Direction::Ingress),
        _ => Begun::Unknown,
    }
}

/// An error about a connection that stands is part of it (RFC 5508 section 4); another is judged like any packet.
#[inline(always)]
fn error(
    ctx: &TcContext,
    packet: &Packet,
    key: &mut FlowKey,
    set: [u32; 2],
    direction: Direction,
) -> Result<(), DropReason> {
    if is_free(set) || allows(set, &key.dst, packet.key.proto, Port(0)) {
        return Ok(());
    }
    let denied = Err(reason(direction));
    let Some(quote) = icmp::quote(ctx, packet) else { return denied };
    let Ok(words) = ctx.load::<[u16; 4]>(quote.l4) else { return denied };
    let mut ports = (words[0], words[1]);
    if quote.proto == packet.key.proto {
        // An echo's identifier, on the asker's side.
        let request = if packet.is_v6() { icmp6_type::ECHO_REQUEST } else { icmp_type::ECHO_REQUEST };
        ports = if words[0].to_ne_bytes()[0] == request { (words[2], 0) } else { (0, words[2]) };
    }
    // What the pod is told of, it has sent; what it tells of, it has got.
    let (src, dst) = (quote.src, quote.dst);
    key.proto = quote.proto;
    match direction {
        Direction::Ingress => {
            (key.src, key.dst) = (src, dst);
            (key.src_port, key.dst_port) = (Port(ports.0), Port(ports.1));
        }
        Direction::Egress => {
            (key.src, key.dst) = (dst, src);
            (key.src_port, key.dst_port) = (Port(ports.1), Port(ports.0));
        }
    }
    // SAFETY: read at once.
    match unsafe { CONNECTIONS.get(&*key) } {
        Some(entry) if now_s().wrapping_sub(entry.last_seen_s) <= entry.idle_limit_s(key.proto) => Ok(()),
        _ => denied,
    }
}

/// The tuple by which a connection is remembered: as the pod sends.
#[inline(always)]
fn tuple(packet: &FlowKey, direction: Direction, key: &mut FlowKey) {
    match direction {
        Direction::Ingress => {
            (key.src, key.dst) = (packet.dst, packet.src);
            (key.src_port, key.dst_port) = (packet.dst_port, packet.src_port);
        }
        Direction::Egress => {
            (key.src, key.dst) = (packet.src, packet.dst);
            (key.src_port, key.dst_port) = (packet.src_port, packet.dst_port);
        }
    }
    key.proto = packet.proto;
    key.padding = [0; 3];
}

#[inline(always)]
fn touch(entry: &mut Connection, packet: &Packet, mut flags: u8, now: u32) {
    if packet.is_syn() {
        flags &= !(flow_flags::CLOSING | flow_flags::POD_FINISHED | flow_flags::PEER_FINISHED | flow_flags::REPLIED);
    } else if flags & flow_flags::POD_FINISHED != 0 && flags & flow_flags::PEER_FINISHED != 0 {
        flags |= flow_flags::CLOSING;
    }
    if entry.last_seen_s != now || entry.flags != flags {
        entry.last_seen_s = now;
        entry.flags = flags;
    }
}

/// What the packet says of its connection's end. One side may have finished long before the other.
#[inline(always)]
fn closing(packet: &Packet, direction: Direction) -> u8 {
    let finished = match direction {
        Direction::Ingress => flow_flags::PEER_FINISHED,
        Direction::Egress => flow_flags::POD_FINISHED,
    };
    let reset = if packet.tcp_flags & tcp::RST != 0 { flow_flags::CLOSING } else { 0 };
    reset | if packet.tcp_flags & tcp::FIN != 0 { finished } else { 0 }
}

/// Whether the rule set allows this.
#[inline(always)]
fn allows(set: [u32; 2], peer: &Addr, proto: u8, port: Port) -> bool {
    let identity = identity(peer);
    let mut key = Key::new(RuleKey::EXACT, RuleKey { set, identity, proto, padding: 0, port });
    if identity != [0; 2]
        && let Some(found) = RULES.get(&key)
    {
        return *found == verdict::ALLOW;
    }
    key = Key::new(RuleKey::EXACT, RuleKey { set, identity: [0; 2], proto, padding: 0, port });
    RULES.get(&key).is_some_and(|found| *found == verdict::ALLOW)
}

#[inline(always)]
fn identity(peer: &Addr) -> [u32; 2] {
    // SAFETY: copied at once.
    if let Some(identity) = unsafe { IDENTITIES.get(peer) } {
        return *identity;
    }
    BLOCKS.get(&Key::new(128, *peer)).copied().unwrap_or_default()
}

/// The same for a trace; nobody else pays for it.
#[inline(always)]
fn traced_identity(peer: &Addr) -> [u32; 2] {
    if config!(trace) == 0 { [0; 2] } else { identity(peer) }
}

/// Whether this is the node that the pod is on: that always reaches it, and is reached.
#[inline(always)]
fn is_own_node(peer: &Addr) -> bool {
    // SAFETY: read at once.
    unsafe { NODE_ADDRESSES.get(peer) }.is_some_and(|flags| *flags & node_address_flags::LOCAL != 0)
}

#[inline(always)]
fn is_free(set: [u32; 2]) -> bool {
    set[0] | set[1] == 0
}

#[inline(always)]
fn fragment_key(packet: &Packet, direction: Direction) -> FragmentKey {
    FragmentKey {
        src: packet.key.src,
        dst: packet.key.dst,
        id: packet.fragment().0,
        proto: packet.key.proto,
        direction: direction as u8,
        padding: 0,
    }
}

#[inline(always)]
fn reason(direction: Direction) -> DropReason {
    match direction {
        Direction::Ingress => DropReason::PolicyIngress,
        Direction::Egress => DropReason::PolicyEgress,
    }
}
