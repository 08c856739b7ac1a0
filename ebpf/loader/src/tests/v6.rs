//! IPv6 through the same programs: every path that IPv4 has, with the checksums that ICMPv6 and UDP must have, extension
//! headers and neighbour discovery.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use proptest::prelude::*;
use xebec_ebpf_layout::{
    Addr, Backend, Chunk, ChunkKey, Config, Connection, DENY_ALL, Direction, DropReason, FlowKey, LocalPod, Peer, Port,
    SCOPE_EXTERNAL, SOURCE_RANGE_BITS, Service, ServiceCounters, ServiceKey, SourceRange, lb_address_flags,
    node_address_flags, peer_flags, proto, service_flags,
};

use super::packet::{self, L4, MAC_A, MAC_B, sum_with};
use super::packet6::{Frame6, fragment, hop_by_hop};
use super::{FAR_PEER, NAT_PORTS, OK, REDIRECT, SHOT, TEST_IFINDEX, UPLINK_MAC, World};

pub const fn host(net: u16, subnet: u16, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, net, subnet, 0, 0, 0, last)
}

pub const NODE: Ipv6Addr = host(0x172, 0, 0x11);
pub const PEER: Ipv6Addr = host(0x172, 0, 0x12);
pub const CLIENT: Ipv6Addr = host(0x172, 0, 1);
pub const LB: Ipv6Addr = host(0x172, 0, 0x130);
pub const POD: Ipv6Addr = host(0x244, 1, 5);
pub const OTHER_POD: Ipv6Addr = host(0x244, 1, 6);
pub const REMOTE_POD: Ipv6Addr = host(0x244, 2, 7);
pub const FAR_POD: Ipv6Addr = host(0x244, 3, 8);
pub const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const PROGRAMS: [&str; 6] =
    ["uplink_ingress", "uplink_egress", "pod_egress", "pod_ingress", "overlay_ingress", "overlay_egress"];

pub fn addr(ip: Ipv6Addr) -> Addr {
    std::net::IpAddr::V6(ip).into()
}

fn mask(length: u32) -> Addr {
    addr(Ipv6Addr::from(u128::MAX << (128 - length)))
}

pub fn config() -> Config {
    Config {
        dual_stack: 1,
        node6: addr(NODE),
        cluster6_net: addr(host(0x244, 0, 0)),
        cluster6_mask: mask(56),
        pod6_net: addr(host(0x244, 1, 0)),
        pod6_mask: mask(64),
        service6_net: addr(host(0x96, 0, 0)),
        service6_mask: mask(112),
        ..super::config()
    }
}

/// The node of the other tests, with second addresses.
pub fn world() -> World {
    world_with(&config())
}

pub fn world_with(config: &Config) -> World {
    let mut world = World::with(config);
    let pod = LocalPod { ifindex: TEST_IFINDEX, mac: MAC_A, host_mac: MAC_B, ..LocalPod::NOWHERE };
    let maps = &mut world.maps;
    maps.local_pods.insert(&addr(POD), &pod).unwrap();
    maps.local_pods.insert(&addr(OTHER_POD), &LocalPod { ifindex: 99, ..pod }).unwrap();
    maps.node_addresses.insert(&addr(NODE), &node_address_flags::LOCAL).unwrap();
    maps.node_addresses.insert(&addr(PEER), &node_address_flags::PEER).unwrap();
    let peer = |node: Addr, flags| Peer { node, flags, vtep_mac: [9; 6], mtu: 0 };
    maps.peers.insert(addr(host(0x244, 2, 0)), 64, &peer(addr(PEER), 0)).unwrap();
    // Behind the tunnel, which is one of IPv4.
    maps.peers.insert(addr(host(0x244, 3, 0)), 64, &peer(FAR_PEER.into(), peer_flags::TUNNEL)).unwrap();
    world
}

pub fn service(world: &mut World, at: Addr, port: u16, protocol: u8, scope: u8, backends: &[(Ipv6Addr, u16)]) -> u32 {
    let id = world.next_id;
    let mut slots = Chunk::default();
    for (slot, &(ip, port)) in backends.iter().enumerate() {
        let backend = Backend { addr: addr(ip), port: Port::new(port), padding: 0 };
        let backend_id = world.next_id;
        world.next_id += 1;
        world.maps.backends.insert(&backend_id, &backend).unwrap();
        slots.0[slot] = backend_id;
    }
    world.next_id += 1;
    world.maps.slots.insert(&ChunkKey { set: id, chunk: 0 }, &slots).unwrap();
    let key = ServiceKey { addr: at, port: Port::new(port), proto: protocol, scope };
    let service = Service { id, set: id, count: backends.len() as u32, ..Service::default() };
    world.maps.services.insert(&key, &service).unwrap();
    world.maps.service_counters.insert(&id, &ServiceCounters::default()).unwrap();
    id
}

fn run(world: &World, program: &'static str, frame: &Frame6) -> (u32, Frame6) {
    let (verdict, output) = world.run_bytes(program, &frame.bytes());
    (verdict, Frame6::parse(&output))
}

fn icmp(kind: u8, code: u8, rest: (u16, u16), body: Vec<u8>) -> L4 {
    L4::Icmp { kind, code, id: rest.0, sequence: rest.1, body }
}

fn both() -> [L4; 2] {
    [L4::syn(40_000, 80), L4::udp(40_000, 80)]
}

#[test]
fn a_local_backend_keeps_the_clients_address_and_its_answer_gets_the_services() {
    for l4 in both() {
        for extensions in [vec![], vec![hop_by_hop()]] {
            let mut world = world();
            let id = service(&mut world, addr(LB), 80, l4.proto(), SCOPE_EXTERNAL, &[(POD, 8_080)]);
            let frame = Frame6 { extensions: extensions.clone(), ..Frame6::new(CLIENT, LB, l4.clone()) };
            let (verdict, out) = run(&world, "uplink_ingress", &frame);
            assert_eq!((verdict, out.src, out.dst, out.l4.ports()), (REDIRECT, CLIENT, POD, (40_000, 8_080)));
            assert_eq!((out.dst_mac, out.src_mac, out.hop_limit, &out.extensions), (MAC_A, MAC_B, 64, &extensions));
            let (verdict, back) = run(&world, "uplink_egress", &Frame6::new(POD, CLIENT, l4.answer(8_080, 40_000)));
            assert_eq!((verdict, back.src, back.dst, back.l4.ports()), (OK, LB, CLIENT, (80, 40_000)));
            assert_eq!(world.maps.service_counters.get(&id).unwrap().unwrap().uplink_flows, 1);
        }
    }
}

#[test]
fn the_answer_to_a_flow_from_outside_is_timed() {
    let mut world = world();
    let id = service(&mut world, addr(LB), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    run(&world, "uplink_ingress", &Frame6::new(CLIENT, LB, L4::syn(40_000, 80)));
    for _ in 0..2 {
        run(&world, "uplink_egress", &Frame6::new(POD, CLIENT, L4::syn_ack(8_080, 40_000)));
    }
    let times = world.maps.service_counters.get(&id).unwrap().unwrap().uplink_times;
    assert_eq!(times.buckets.iter().sum::<u32>(), 1, "only the first answer counts");
    assert!(times.sum_us > 0);
}

#[test]
fn a_node_port_is_its_familys_and_a_remote_backend_answers_the_node() {
    for l4 in both() {
        let mut world = world();
        service(&mut world, Addr::UNSPECIFIED, 30_080, l4.proto(), SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
        // Not IPv4's.
        let v4 = packet::Frame::new(super::CLIENT, super::NODE, l4.clone().with_ports(40_000, 30_080));
        assert_eq!(world.run("uplink_ingress", &v4), (OK, v4.clone()));
        let l4 = l4.with_ports(40_000, 30_080);
        let (verdict, out) = run(&world, "uplink_ingress", &Frame6::new(CLIENT, NODE, l4.clone()));
        assert_eq!((verdict, out.src, out.dst, out.hop_limit), (REDIRECT, NODE, REMOTE_POD, 63));
        let (port, 8_080) = out.l4.ports() else { panic!("wrong port: {:?}", out.l4) };
        assert!((NAT_PORTS[0]..=NAT_PORTS[1]).contains(&port));
        let (_, again) = run(&world, "uplink_ingress", &Frame6::new(CLIENT, NODE, l4.clone().established()));
        assert_eq!((again.dst, again.l4.ports()), (REMOTE_POD, (port, 8_080)));
        let (verdict, back) = run(&world, "uplink_ingress", &Frame6::new(REMOTE_POD, NODE, l4.answer(8_080, port)));
        assert_eq!((verdict, back.src, back.dst, back.l4.ports()), (REDIRECT, NODE, CLIENT, (30_080, 40_000)));
    }
}

#[test]
fn clients_spread_by_all_of_their_address_and_stay_with_affinity() {
    let mut world = world();
    let backends = [(POD, 8_080), (OTHER_POD, 8_080), (REMOTE_POD, 8_080), (FAR_POD, 8_080)];
    let id = service(&mut world, addr(LB), 80, proto::TCP, SCOPE_EXTERNAL, &backends);
    let key = ServiceKey { addr: addr(LB), port: Port::new(80), proto: proto::TCP, scope: SCOPE_EXTERNAL };
    let sticky = Service { id, set: id, count: 4, affinity_timeout_s: 60, ..Service::default() };
    world.maps.services.insert(&key, &sticky).unwrap();
    let mut all = BTreeSet::new();
    // Networks that differ in the middle only.
    for subnet in 0..40 {
        let client = Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, 1);
        let met: BTreeSet<Ipv6Addr> = (40_000..40_010)
            .map(|port| run(&world, "uplink_ingress", &Frame6::new(client, LB, L4::syn(port, 80))).1.dst)
            .collect();
        assert_eq!(met.len(), 1);
        all.extend(met);
    }
    assert_eq!(all.len(), 4);
}

#[test]
fn only_clients_in_the_source_ranges_are_served() {
    let mut world = world();
    let id = service(&mut world, addr(LB), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    let key = ServiceKey { addr: addr(LB), port: Port::new(80), proto: proto::TCP, scope: SCOPE_EXTERNAL };
    let limited = Service { id, set: id, count: 1, flags: service_flags::SOURCE_RANGES, ..Service::default() };
    world.maps.services.insert(&key, &limited).unwrap();
    let range = SourceRange { service: id, addr: addr(host(0x172, 0, 0)) };
    world.maps.source_ranges.insert(range, SOURCE_RANGE_BITS + 64, &1).unwrap();
    assert_eq!(run(&world, "uplink_ingress", &Frame6::new(CLIENT, LB, L4::syn(1, 80))).1.dst, POD);
    assert_eq!(run(&world, "uplink_ingress", &Frame6::new(OUTSIDE, LB, L4::syn(1, 80))).0, SHOT);
    assert_eq!(world.drops(DropReason::SourceNotAllowed), 1);
}

#[test]
fn no_endpoint_means_a_reset_or_port_unreachable() {
    let mut world = world();
    service(&mut world, addr(LB), 80, proto::TCP, SCOPE_EXTERNAL, &[]);
    service(&mut world, addr(LB), 80, proto::UDP, SCOPE_EXTERNAL, &[]);
    for extensions in [vec![], vec![hop_by_hop()]] {
        let syn = Frame6 { extensions, ..Frame6::new(CLIENT, LB, L4::syn(40_000, 80)) };
        let (verdict, reset) = run(&world, "uplink_ingress", &syn);
        assert_eq!((verdict, reset.src, reset.dst, reset.l4.ports()), (REDIRECT, LB, CLIENT, (80, 40_000)));
        let L4::Tcp { flags, ack, .. } = reset.l4 else { panic!("not TCP") };
        assert_eq!((flags, ack), (packet::RST | packet::ACK, packet::SEQ + 1));
    }
    let (verdict, error) = run(&world, "uplink_ingress", &Frame6::new(CLIENT, LB, L4::udp(40_000, 80)));
    assert_eq!((verdict, error.src, error.dst), (REDIRECT, LB, CLIENT));
    assert_eq!((error.src_mac, error.dst_mac), (MAC_B, MAC_A));
    let L4::Icmp { kind, code, ref body, .. } = error.l4 else { panic!("not ICMP") };
    assert_eq!((kind, code, body.len()), (1, 4, 48));
    assert_quote(&error, CLIENT, LB, (40_000, 80));
}

#[test]
fn pods_are_masqueraded_to_the_outside_and_the_answers_find_them() {
    for l4 in [L4::syn(50_000, 443), L4::udp(50_000, 443), icmp(128, 0, (4_321, 1), b"ping".to_vec())] {
        let world = world();
        let (verdict, out) = run(&world, "uplink_egress", &Frame6::new(POD, OUTSIDE, l4.clone()));
        assert_eq!((verdict, out.src, out.dst), (OK, NODE, OUTSIDE));
        let answer = match &out.l4 {
            L4::Icmp { id, .. } => icmp(129, 0, (*id, 1), b"ping".to_vec()),
            _ => l4.answer(443, out.l4.ports().0),
        };
        let (verdict, back) = run(&world, "uplink_ingress", &Frame6::new(OUTSIDE, NODE, answer));
        assert_eq!((verdict, back.src, back.dst), (REDIRECT, OUTSIDE, POD));
        match back.l4 {
            L4::Icmp { id, .. } => assert_eq!(id, 4_321),
            _ => assert_eq!(back.l4.ports(), (443, 50_000)),
        }
    }
    // A node without an address of the family lends none.
    let world = World::with(&Config { node6: Addr::UNSPECIFIED, ..config() });
    let frame = Frame6::new(POD, OUTSIDE, L4::syn(50_000, 443));
    assert_eq!(run(&world, "uplink_egress", &frame), (OK, frame.clone()));
}

#[test]
fn pods_keep_their_address_towards_pods_and_nodes() {
    let world = world();
    for dst in [REMOTE_POD, FAR_POD, PEER] {
        let frame = Frame6::new(POD, dst, L4::syn(50_000, 443));
        assert_eq!(run(&world, "uplink_egress", &frame), (OK, frame.clone()));
    }
}

#[track_caller]
fn assert_quote(frame: &Frame6, src: Ipv6Addr, dst: Ipv6Addr, ports: (u16, u16)) {
    let L4::Icmp { ref body, .. } = frame.l4 else { panic!("not ICMP: {frame:?}") };
    assert_eq!(body[8..40], [src.octets(), dst.octets()].concat());
    assert_eq!(body[40..44], [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
}

#[test]
fn errors_about_translated_packets_reach_their_senders() {
    let router = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
    // "Packet too big", about a masqueraded one.
    let mut world = world();
    let (_, out) = run(&world, "uplink_egress", &Frame6::new(POD, OUTSIDE, L4::udp(50_000, 443).with_payload(400)));
    let error = icmp(2, 0, (0, 1_400), out.bytes()[14..].to_vec());
    let (verdict, back) = run(&world, "uplink_ingress", &Frame6::new(router, NODE, error));
    assert_eq!((verdict, back.src, back.dst), (REDIRECT, router, POD));
    let L4::Icmp { sequence, .. } = back.l4 else { panic!("not ICMP") };
    assert_eq!(sequence, 1_400);
    assert_quote(&back, POD, OUTSIDE, (50_000, 443));
    // A backend's refusal, of one here and of one elsewhere.
    service(&mut world, addr(LB), 80, proto::UDP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    let (_, forwarded) = run(&world, "uplink_ingress", &Frame6::new(CLIENT, LB, L4::udp(40_000, 80)));
    let refusal = icmp(1, 4, (0, 0), forwarded.bytes()[14..].to_vec());
    let (verdict, error) = run(&world, "uplink_egress", &Frame6::new(POD, CLIENT, refusal));
    assert_eq!((verdict, error.src, error.dst), (OK, LB, CLIENT));
    assert_quote(&error, CLIENT, LB, (40_000, 80));
    service(&mut world, addr(LB), 81, proto::UDP, SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
    let (_, forwarded) = run(&world, "uplink_ingress", &Frame6::new(CLIENT, LB, L4::udp(40_000, 81)));
    let refusal = icmp(1, 4, (0, 0), forwarded.bytes()[14..].to_vec());
    let (verdict, error) = run(&world, "uplink_ingress", &Frame6::new(REMOTE_POD, NODE, refusal));
    assert_eq!((verdict, error.src, error.dst), (REDIRECT, LB, CLIENT));
    assert_quote(&error, CLIENT, LB, (40_000, 81));
}

#[test]
fn a_pod_reaches_its_neighbour_other_nodes_and_nothing_under_a_false_name() {
    let world = world();
    let (verdict, out) = run(&world, "pod_egress", &Frame6::new(POD, OTHER_POD, L4::syn(50_000, 80)));
    assert_eq!((verdict, out.dst_mac, out.src_mac, out.hop_limit), (REDIRECT, MAC_A, MAC_B, 64));
    for dst in [REMOTE_POD, FAR_POD] {
        let (verdict, out) = run(&world, "pod_egress", &Frame6::new(POD, dst, L4::syn(50_000, 80)));
        assert_eq!((verdict, out.hop_limit), (REDIRECT, 63));
    }
    // Too large for the tunnel: whole, or as the first of several fragments.
    let large = Frame6::new(POD, FAR_POD, L4::udp(50_000, 80).with_payload(1_440));
    for large in [large.clone(), large.with(fragment(0, true, 7))] {
        let (verdict, told) = run(&world, "pod_egress", &large);
        assert_eq!((verdict, told.src, told.dst), (REDIRECT, FAR_POD, POD));
        let L4::Icmp { kind: 2, code: 0, id: 0, sequence: 1_450, body } = &told.l4 else { panic!("{told:?}") };
        assert_eq!(body[..], large.bytes()[14..14 + 60]);
    }
    for dst in [OUTSIDE, NODE, host(0x244, 9, 9)] {
        let frame = Frame6::new(POD, dst, L4::syn(50_000, 80));
        assert_eq!(run(&world, "pod_egress", &frame), (OK, frame.clone()));
    }
    for src in [OTHER_POD, OUTSIDE] {
        assert_eq!(run(&world, "pod_egress", &Frame6::new(src, POD, L4::syn(50_000, 80))).0, SHOT);
    }
    assert_eq!(world.drops(DropReason::SpoofedSource), 2);
    // What its stack says to the link by itself is no attempt at anything.
    for src in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9)] {
        let solicitation = icmp(133, 0, (0, 0), Vec::new());
        assert_eq!(run(&world, "pod_egress", &Frame6::new(src, OUTSIDE, solicitation)).0, SHOT);
    }
    assert_eq!(world.drops(DropReason::SpoofedSource), 2);
    let service = host(0x96, 0, 9);
    let (verdict, out) = run(&world, "pod_egress", &Frame6::new(POD, service, L4::syn(50_000, 80)));
    assert_eq!((verdict, out.src, out.dst, world.drops(DropReason::NoSuchService)), (REDIRECT, service, POD, 1));
}

#[test]
fn the_tunnel_carries_it_and_its_segments_fit() {
    let mut world = world();
    let (verdict, out) = run(&world, "overlay_egress", &Frame6::new(POD, FAR_POD, L4::syn(50_000, 80)));
    assert_eq!((verdict, out.dst_mac), (OK, [9; 6]));
    for (program, src, dst) in [("overlay_egress", POD, FAR_POD), ("overlay_ingress", FAR_POD, POD)] {
        let syn = L4::syn(50_000, 80).with_options(&[2, 4, 5, 180]);
        let (_, out) = run(&world, program, &Frame6::new(src, dst, syn));
        let L4::Tcp { options, .. } = &out.l4 else { panic!("not TCP") };
        // 1450 less 60.
        assert_eq!(options, &[2, 4, 5, 110], "{program}");
    }
    let (verdict, out) = run(&world, "overlay_ingress", &Frame6::new(FAR_POD, POD, L4::syn(50_000, 80)));
    assert_eq!((verdict, out.dst_mac), (REDIRECT, MAC_A));
    // A backend behind it.
    service(&mut world, addr(LB), 80, proto::TCP, SCOPE_EXTERNAL, &[(FAR_POD, 8_080)]);
    let (verdict, out) = run(&world, "uplink_ingress", &Frame6::new(CLIENT, LB, L4::syn(40_000, 80)));
    assert_eq!((verdict, out.src, out.dst), (REDIRECT, NODE, FAR_POD));
    let answer = L4::syn_ack(8_080, out.l4.ports().0);
    let (verdict, back) = run(&world, "overlay_ingress", &Frame6::new(FAR_POD, NODE, answer));
    assert_eq!((verdict, back.src, back.dst, back.l4.ports()), (REDIRECT, LB, CLIENT, (80, 40_000)));
}

/// The backend's node answers this service's clients.
fn returned_directly(world: &mut World, protocol: u8, backend: Ipv6Addr) {
    let id = service(world, addr(LB), 80, protocol, SCOPE_EXTERNAL, &[(backend, 8_080)]);
    let key = ServiceKey { addr: addr(LB), port: Port::new(80), proto: protocol, scope: SCOPE_EXTERNAL };
    let direct = Service { id, set: id, count: 1, flags: service_flags::DIRECT_RETURN, ..Service::default() };
    world.maps.services.insert(&key, &direct).unwrap();
}

#[test]
fn a_packet_that_is_handed_on_reaches_the_backend_as_it_came_and_is_answered_directly() {
    let second = world();
    for (l4, backend) in both().into_iter().flat_map(|l4| [(l4.clone(), FAR_POD), (l4, REMOTE_POD)]) {
        // The node that the client addresses. The backend's is behind the tunnel, or on the link.
        let mut first = world();
        returned_directly(&mut first, l4.proto(), backend);
        for l4 in [l4.clone(), l4.clone().established()] {
            let (verdict, out) = run(&first, "uplink_ingress", &Frame6::new(CLIENT, LB, l4.clone()));
            assert_eq!((verdict, out.src, out.dst, &out.l4, out.hop_limit), (REDIRECT, CLIENT, LB, &l4, 63));
            let last = backend.octets()[15];
            assert_eq!((out.dst_mac, out.src_mac), ([9; 6], [0, 0, 0, last, 0x1f, 0x90]), "the backend and its port");
            assert_eq!(run(&first, "overlay_egress", &out), (OK, out.clone()), "it is addressed already");
            // The backend's node.
            let arrived =
                Frame6 { dst_mac: [9; 6], src_mac: [0, 0, 0, 5, 0x1f, 0x90], ..Frame6::new(CLIENT, LB, l4.clone()) };
            let (verdict, delivered) = run(&second, "overlay_ingress", &arrived);
            assert_eq!((verdict, delivered.src, delivered.dst), (REDIRECT, CLIENT, POD));
            assert_eq!((delivered.l4.ports(), delivered.dst_mac), ((40_000, 8_080), MAC_A));
            let answer = match &l4 {
                L4::Tcp { .. } => L4::syn_ack(8_080, 40_000).with_options(&[2, 4, 5, 180]),
                _ => l4.answer(8_080, 40_000),
            };
            let (verdict, back) = run(&second, "uplink_egress", &Frame6::new(POD, CLIENT, answer));
            assert_eq!((verdict, back.src, back.dst, back.l4.ports()), (OK, LB, CLIENT, (80, 40_000)));
            if let L4::Tcp { options, .. } = &back.l4 {
                // 1430, which is what the tunnel between IPv6 addresses carries, less 60.
                assert_eq!(options, &[2, 4, 5, 90], "segments that fit the tunnel");
            }
        }
    }
}

#[test]
fn what_comes_by_the_tunnel_for_nobody_here_is_left_alone() {
    let world = world();
    let asked = Frame6::new(CLIENT, NODE, L4::syn(40_000, 80));
    let own = Frame6 { src_mac: [0, 0, 0, 5, 0x1f, 0x90], ..asked.clone() };
    assert_eq!(run(&world, "overlay_ingress", &own), (OK, own.clone()));
    let stray = Frame6 { dst_mac: [0; 6], ..Frame6::new(POD, OUTSIDE, L4::syn(40_000, 80)) };
    assert_eq!(run(&world, "overlay_egress", &stray).0, SHOT);
    assert_eq!(world.drops(DropReason::NoPeer), 1);
}

#[test]
fn a_routers_word_about_a_direct_answer_is_handed_on_too() {
    let mut world = world();
    returned_directly(&mut world, proto::TCP, FAR_POD);
    run(&world, "uplink_ingress", &Frame6::new(CLIENT, LB, L4::syn(40_000, 80)));
    let direct = Frame6::new(LB, CLIENT, L4::ack(80, 40_000));
    let router = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let error = Frame6::new(router, LB, icmp(2, 0, (0, 1_400), direct.bytes()[14..].to_vec()));
    let (verdict, out) = run(&world, "uplink_ingress", &error);
    assert_eq!((verdict, out.src, out.dst, out.src_mac), (REDIRECT, router, LB, [0, 0, 0, 8, 0x1f, 0x90]));
}

#[test]
fn later_fragments_go_where_the_first_went() {
    for backend in [POD, REMOTE_POD] {
        let mut world = world();
        service(&mut world, addr(LB), 80, proto::UDP, SCOPE_EXTERNAL, &[(backend, 8_080)]);
        let whole = Frame6::new(CLIENT, LB, L4::udp(40_000, 80).with_payload(1_000));
        let payload = whole.payload();
        // The identification has 32 bits.
        let part = |id: u32, offset: u16, more: bool, bytes: &[u8]| {
            whole.clone().with(fragment(offset, more, id)).bytes_around(bytes)
        };
        let first = part(0x7_0001, 0, true, &payload[..512]);
        let second = part(0x7_0001, 64, false, &payload[512..]);
        let stranger = part(0x8_0001, 64, false, &payload[512..]);
        assert_eq!(
            world.run_bytes("uplink_ingress", &second),
            (OK, second.clone()),
            "before the first nothing is known"
        );
        let (verdict, out) = world.run_bytes("uplink_ingress", &first);
        assert_eq!((verdict, &out[38..54]), (REDIRECT, &backend.octets()[..]));
        let (verdict, rest) = world.run_bytes("uplink_ingress", &second);
        assert_eq!((verdict, &rest[22..54]), (REDIRECT, &out[22..54]));
        assert_eq!(world.run_bytes("uplink_ingress", &stranger).0, OK);
        // Put together again, the datagram is whole.
        let joined = [&out[62..], &rest[62..]].concat();
        let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&out[at..at + 16]).unwrap());
        let frame = Frame6::new(ip(22), ip(38), L4::udp(1, 1));
        assert_eq!(sum_with(&joined, frame.pseudo(joined.len())), 0xffff, "checksum");
    }
}

#[test]
fn extension_headers_are_looked_through_so_far() {
    let mut world = world();
    service(&mut world, addr(LB), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    let with = |count: usize| {
        let options = (0..count).map(|_| (60, vec![0, 1, 4, 0, 0, 0, 0]));
        Frame6 { extensions: options.collect(), ..Frame6::new(CLIENT, LB, L4::syn(40_000, 80)) }
    };
    assert_eq!(run(&world, "uplink_ingress", &with(5)).1.dst, POD);
    assert_eq!(run(&world, "uplink_ingress", &with(9)), (OK, with(9)), "left to the kernel");
}

#[test]
fn the_owner_of_a_load_balancer_address_answers_for_it() {
    let mut world = world();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x130);
    let solicitation = |src: Ipv6Addr, options: &[u8]| {
        let body = [&LB.octets()[..], options].concat();
        Frame6 { hop_limit: 255, ..Frame6::new(src, group, icmp(135, 0, (0, 0), body)) }
    };
    let own_mac: Vec<u8> = [&[1, 1][..], &MAC_A].concat();
    let nonce: Vec<u8> = [&own_mac[..], &[14, 1, 1, 2, 3, 4, 5, 6]].concat();
    assert_eq!(run(&world, "uplink_ingress", &solicitation(CLIENT, &own_mac)).0, OK);
    world.maps.lb_addresses.insert(&addr(LB), &lb_address_flags::OWNED).unwrap();
    for options in [&own_mac[..], &nonce, &[]] {
        let (verdict, reply) = run(&world, "uplink_ingress", &solicitation(CLIENT, options));
        assert_eq!((verdict, reply.src, reply.dst, reply.hop_limit), (REDIRECT, LB, CLIENT, 255));
        assert_eq!((reply.src_mac, reply.dst_mac), (UPLINK_MAC, MAC_A));
        let L4::Icmp { kind, code, id, sequence, body } = &reply.l4 else { panic!("not ICMP") };
        assert_eq!((kind, code, id, sequence), (&136, &0, &0x6000, &0), "solicited, override");
        assert_eq!(body[..], [&LB.octets()[..], &[2, 1], &UPLINK_MAC].concat());
    }
    // A probe for a duplicate is answered to all.
    let (_, reply) = run(&world, "uplink_ingress", &solicitation(Ipv6Addr::UNSPECIFIED, &[]));
    assert_eq!((reply.dst, reply.dst_mac), (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), [0x33, 0x33, 0, 0, 0, 1]));
    let L4::Icmp { id: 0x2000, .. } = &reply.l4 else { panic!("{reply:?}") };
    // One that came from elsewhere than the link is a forgery.
    let far = Frame6 { hop_limit: 254, ..solicitation(CLIENT, &own_mac) };
    assert_eq!(run(&world, "uplink_ingress", &far), (OK, far.clone()));
    // Another node takes the address over.
    let body = [&LB.octets()[..], &[2, 1], &MAC_A].concat();
    let advertisement = icmp(136, 0, (0x2000, 0), body);
    let taken = Frame6 { hop_limit: 255, ..Frame6::new(LB, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), advertisement) };
    assert_eq!(run(&world, "uplink_ingress", &taken).0, OK);
    assert_eq!(world.maps.lb_addresses.get(&addr(LB)).unwrap(), None);
}

#[test]
fn policies_judge_it() {
    let mut world = world();
    let before = world.maps.local_pods.get(&addr(POD)).unwrap().unwrap();
    let isolated = LocalPod { ingress: DENY_ALL, egress: DENY_ALL, ..before };
    world.maps.local_pods.insert(&addr(POD), &isolated).unwrap();
    for l4 in [L4::syn(50_000, 80), L4::udp(50_000, 80), icmp(128, 0, (1, 1), Vec::new())] {
        assert_eq!(run(&world, "pod_egress", &Frame6::new(POD, OTHER_POD, l4.clone())).0, SHOT);
        assert_eq!(run(&world, "pod_ingress", &Frame6::new(OTHER_POD, POD, l4)).0, SHOT);
    }
    assert_eq!((world.drops(DropReason::PolicyEgress), world.drops(DropReason::PolicyIngress)), (3, 3));
    // Its own node reaches it.
    assert_eq!(run(&world, "pod_ingress", &Frame6::new(NODE, POD, L4::syn(50_000, 80))).0, OK);
    // An error about a connection that stands is part of it; another is not.
    let key = FlowKey {
        src: addr(POD),
        dst: addr(REMOTE_POD),
        src_port: Port::new(50_000),
        dst_port: Port::new(53),
        proto: proto::UDP,
        padding: [0; 3],
    };
    let stands = Connection {
        revision: 0,
        last_seen_s: crate::kernel_clock_s(),
        direction: Direction::Egress as u8,
        flags: 0,
        padding: 0,
    };
    world.maps.connections.insert(&key, &stands).unwrap();
    let refusal = |port: u16| {
        let about = Frame6::new(POD, REMOTE_POD, L4::udp(port, 53)).bytes()[14..].to_vec();
        Frame6::new(REMOTE_POD, POD, icmp(1, 4, (0, 0), about))
    };
    assert_eq!(run(&world, "pod_ingress", &refusal(50_000)).0, OK);
    assert_eq!(run(&world, "pod_ingress", &refusal(50_001)).0, SHOT);
}

#[test]
fn a_cluster_of_one_family_leaves_the_other_alone() {
    let mut world = World::new();
    service(&mut world, addr(LB), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    for program in PROGRAMS {
        let frame = Frame6::new(CLIENT, LB, L4::syn(40_000, 80));
        assert_eq!(run(&world, program, &frame), (OK, frame.clone()), "{program}");
    }
}

fn address() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        prop::sample::select(vec![POD, OTHER_POD, REMOTE_POD, FAR_POD, NODE, LB, CLIENT, OUTSIDE]),
        any::<u128>().prop_map(Ipv6Addr::from),
    ]
}

/// A packet that may be whole, cut short or spoilt.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let port = || prop_oneof![Just(80_u16), Just(8_080), Just(30_080), any::<u16>()];
    let l4 = (port(), port(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), 0_u8..5).prop_map(
        |(src, dst, flags, body, kind)| match kind {
            0 => L4::tcp(src, dst, flags).with_options(&body[..body.len().min(40) / 4 * 4]),
            1 => L4::udp(src, dst).with_payload(body.len()),
            2 => icmp(128 + flags % 12, 0, (src, dst), body),
            3 => icmp(flags % 6, 3, (src, dst), body),
            _ => L4::Sctp { src, dst },
        },
    );
    let extension = prop_oneof![
        Just(hop_by_hop()),
        (any::<u8>(), any::<u8>()).prop_map(|(length, kind)| (43, vec![length % 3, kind, 0, 0, 0, 0, 0])),
        (0_u16..3, any::<bool>(), 0_u32..4).prop_map(|(offset, more, id)| fragment(offset, more, id)),
    ];
    let spoil = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let hop_limit = prop_oneof![Just(255_u8), any::<u8>()];
    let extensions = prop::collection::vec(extension, 0..4);
    (address(), address(), hop_limit, extensions, l4, spoil, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(src, dst, hop_limit, extensions, l4, spoil, cut, whole)| {
            let frame = Frame6 { hop_limit, extensions, ..Frame6::new(src, dst, l4) };
            let mut bytes = frame.bytes();
            for (at, value) in spoil {
                let at = 14 + at.index(bytes.len() - 14);
                bytes[at] = value;
            }
            if !whole {
                bytes.truncate(54 + cut.index(bytes.len() - 53));
            }
            bytes
        },
    )
}

#[test]
fn no_packet_leads_a_program_astray() {
    let mut world = world();
    let backends = [(POD, 8_080), (REMOTE_POD, 8_080), (FAR_POD, 8_080)];
    for protocol in [proto::TCP, proto::UDP] {
        service(&mut world, addr(LB), 80, protocol, SCOPE_EXTERNAL, &backends);
        service(&mut world, Addr::UNSPECIFIED, 30_080, protocol, SCOPE_EXTERNAL, &backends);
    }
    world.maps.lb_addresses.insert(&addr(LB), &lb_address_flags::OWNED).unwrap();
    let verdicts = BTreeSet::from([OK, SHOT, REDIRECT]);
    let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&any_packet(), |bytes| {
            for program in PROGRAMS {
                let (verdict, out) = world.run_bytes(program, &bytes);
                prop_assert!(verdicts.contains(&verdict), "{program}: verdict {verdict}");
                // A pod's packet leaves under its own address, or not at all.
                if program == "pod_egress" && verdict == REDIRECT && out[22..38] != bytes[22..38] {
                    prop_assert_eq!(&out[38..54], &bytes[22..38], "a refusal goes back");
                }
            }
            Ok(())
        })
        .unwrap();
}
