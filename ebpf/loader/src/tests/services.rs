//! What services ask of the uplink: clients that stay, clients that are not served, direct return, fragments, errors; and
//! packets that nobody would send.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use xebec_ebpf_layout::{
    Addr, DropReason, MemberKey, Port, SCOPE_CLUSTER, SCOPE_EXTERNAL, SOURCE_RANGE_BITS, Service, ServiceKey,
    SourceRange, flow_counters, proto, service_flags,
};

use super::packet::{Frame, L4, MAC_A, MAC_B, sum};
use super::{CLIENT, FAR_POD, LB, NODE, OK, OTHER_POD, OUTSIDE, POD, REDIRECT, REMOTE_POD, SHOT, World};

const PROGRAMS: [&str; 6] =
    ["uplink_ingress", "uplink_egress", "pod_egress", "pod_ingress", "overlay_ingress", "overlay_egress"];

fn key(addr: Addr, port: u16, proto: u8) -> ServiceKey {
    ServiceKey { addr, port: Port::new(port), proto, scope: SCOPE_EXTERNAL }
}

impl World {
    /// The service on the load balancer's address, with these flags and affinity; its members are written.
    fn balanced(&mut self, backends: &[(Ipv4Addr, u16)], proto: u8, flags: u32, affinity_timeout_s: u32) -> Service {
        let id = self.service(LB.into(), 80, proto, SCOPE_EXTERNAL, backends);
        for backend in id..id + backends.len() as u32 {
            self.maps.members.insert(&MemberKey { set: id, backend }, &1).unwrap();
        }
        let known = self.maps.services.get(&key(LB.into(), 80, proto)).unwrap().unwrap();
        let service = Service { flags, affinity_timeout_s, ..known };
        self.maps.services.insert(&key(LB.into(), 80, proto), &service).unwrap();
        service
    }

    fn met(&self, client: Ipv4Addr, port: u16) -> Ipv4Addr {
        self.run("uplink_ingress", &Frame::new(client, LB, L4::syn(port, 80))).1.dst
    }
}

#[test]
fn a_client_stays_with_its_backend_while_the_set_grows_and_leaves_it_when_it_goes() {
    let mut world = World::new();
    let one = [(POD, 8_080)];
    world.balanced(&one, proto::TCP, service_flags::STICKY, 10_800);
    assert_eq!(world.met(CLIENT, 40_000), POD);
    // More backends under another set, with the first one's number among them.
    let first = world.maps.backends.entries().unwrap()[0].0;
    let service = world.balanced(
        &[(OTHER_POD, 8_080), (REMOTE_POD, 8_080), (FAR_POD, 8_080)],
        proto::TCP,
        service_flags::STICKY,
        10_800,
    );
    let id = world.maps.affinity.entries().unwrap()[0].0.service;
    let service = Service { id, ..service };
    world.maps.services.insert(&key(LB.into(), 80, proto::TCP), &service).unwrap();
    world.maps.members.insert(&MemberKey { set: service.set, backend: first }, &1).unwrap();
    for port in 40_001..40_020 {
        assert_eq!(world.met(CLIENT, port), POD);
    }
    // It goes.
    world.maps.members.remove(&MemberKey { set: service.set, backend: first }).unwrap();
    let now = world.met(CLIENT, 40_020);
    assert_ne!(now, POD);
    for port in 40_021..40_040 {
        assert_eq!(world.met(CLIENT, port), now);
    }
    // What was remembered too long ago is forgotten.
    let (client, mut affinity) = world.maps.affinity.entries().unwrap()[0];
    affinity.backend = first;
    affinity.last_seen_s = affinity.last_seen_s.wrapping_sub(10_801);
    world.maps.members.insert(&MemberKey { set: service.set, backend: first }, &1).unwrap();
    world.maps.affinity.insert(&client, &affinity).unwrap();
    assert_eq!(world.met(CLIENT, 40_050), now);
}

#[test]
fn only_clients_in_the_source_ranges_are_served() {
    let mut world = World::new();
    let service = world.balanced(&[(POD, 8_080)], proto::TCP, service_flags::SOURCE_RANGES, 0);
    let range = SourceRange { service: service.id, addr: Ipv4Addr::new(192, 0, 2, 0).into() };
    world.maps.source_ranges.insert(range, SOURCE_RANGE_BITS + 96 + 24, &1).unwrap();
    let elsewhere = SourceRange { service: service.id + 1, addr: CLIENT.into() };
    world.maps.source_ranges.insert(elsewhere, SOURCE_RANGE_BITS + 128, &1).unwrap();
    assert_eq!(world.met(Ipv4Addr::new(192, 0, 2, 77), 40_000), POD);
    let (verdict, _) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    assert_eq!((verdict, world.drops(DropReason::SourceNotAllowed)), (SHOT, 1));
}

#[test]
fn a_packet_that_is_handed_on_reaches_the_backend_as_it_came_and_is_answered_directly() {
    for l4 in [L4::syn(40_000, 80), L4::udp(40_000, 80)] {
        // The node that the client addresses.
        let mut first = World::new();
        first.balanced(&[(FAR_POD, 8_080)], l4.proto(), service_flags::DIRECT_RETURN, 0);
        for l4 in [l4.clone(), l4.clone().established()] {
            let (verdict, out) = first.run("uplink_ingress", &Frame::new(CLIENT, LB, l4.clone()));
            assert_eq!((verdict, out.src, out.dst, &out.l4, out.ttl), (REDIRECT, CLIENT, LB, &l4, 63));
            out.assert_checksums();
            let (verdict, tunnelled) = first.run("overlay_egress", &out);
            assert_eq!((verdict, tunnelled.dst_mac), (OK, [9; 6]));
            assert_eq!(tunnelled.src_mac, [10, 244, 3, 8, 0x1f, 0x90], "the backend and its port");
            // The backend's node: the same packet, were it for a pod there.
            let mut second = World::new();
            second.service(LB.into(), 80, l4.proto(), SCOPE_EXTERNAL, &[(OTHER_POD, 8_080)]);
            let mut arrived = Frame::new(CLIENT, LB, l4.clone());
            (arrived.dst_mac, arrived.src_mac) = ([9; 6], [10, 244, 1, 5, 0x1f, 0x90]);
            let (verdict, delivered) = second.run("overlay_ingress", &arrived);
            assert_eq!((verdict, delivered.src, delivered.dst), (REDIRECT, CLIENT, POD));
            assert_eq!(delivered.l4.ports(), (40_000, 8_080));
            assert_eq!((delivered.dst_mac, delivered.src_mac), (MAC_A, MAC_B));
            delivered.assert_checksums();
            let answer = match &l4 {
                L4::Tcp { .. } => L4::syn_ack(8_080, 40_000).with_options(&[2, 4, 5, 180]),
                _ => l4.answer(8_080, 40_000),
            };
            let (verdict, back) = second.run("uplink_egress", &Frame::new(POD, CLIENT, answer));
            assert_eq!((verdict, back.src, back.dst, back.l4.ports()), (OK, LB, CLIENT, (80, 40_000)));
            back.assert_checksums();
            if let L4::Tcp { options, .. } = &back.l4 {
                assert_eq!(options, &[2, 4, 5, 130], "segments that fit the tunnel");
            }
        }
    }
}

#[test]
fn without_a_tunnel_nothing_is_handed_on() {
    let mut world = World::with(&xebec_ebpf_layout::Config { vxlan_ifindex: 0, ..super::config() });
    world.balanced(&[(REMOTE_POD, 8_080)], proto::TCP, service_flags::DIRECT_RETURN, 0);
    let (_, out) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    assert_eq!((out.src, out.dst), (NODE, REMOTE_POD));
}

#[test]
fn what_comes_by_the_tunnel_for_nobody_here_is_left_alone() {
    let world = World::new();
    let mut frame = Frame::new(CLIENT, LB, L4::syn(40_000, 80));
    for mac in [[10, 244, 3, 8, 0x1f, 0x90], [10, 90, 172, 31, 0, 13]] {
        frame.src_mac = mac;
        assert_eq!(world.run("overlay_ingress", &frame), (OK, frame.clone()));
    }
    let own = Frame::new(CLIENT, NODE, L4::syn(40_000, 80)).with_src_mac([10, 244, 1, 5, 0x1f, 0x90]);
    assert_eq!(world.run("overlay_ingress", &own), (OK, own.clone()));
}

/// An error of the kernel's about `frame`: destination unreachable with this code.
fn unreachable(from: Ipv4Addr, to: Ipv4Addr, code: u8, about: &Frame) -> Frame {
    let body = about.bytes()[14..42].to_vec();
    Frame::new(from, to, L4::Icmp { kind: 3, code, id: 0, sequence: 0, body })
}

#[track_caller]
fn assert_quote(frame: &Frame, src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16)) {
    frame.assert_checksums();
    let L4::Icmp { ref body, .. } = frame.l4 else { panic!("not ICMP: {frame:?}") };
    assert_eq!(sum(&body[..20]), 0xffff, "the quote's header checksum");
    assert_eq!(body[12..20], [src.octets(), dst.octets()].concat());
    assert_eq!(body[20..24], [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
}

#[test]
fn a_backends_refusal_reaches_the_client_as_the_services() {
    // Of a backend here.
    let mut world = World::new();
    world.balanced(&[(POD, 8_080)], proto::UDP, 0, 0);
    let (_, forwarded) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::udp(40_000, 80)));
    let (verdict, error) = world.run("uplink_egress", &unreachable(POD, CLIENT, 3, &forwarded));
    assert_eq!((verdict, error.src, error.dst), (OK, LB, CLIENT));
    assert_quote(&error, CLIENT, LB, (40_000, 80));
    // Of one elsewhere.
    let mut world = World::new();
    world.balanced(&[(REMOTE_POD, 8_080)], proto::UDP, 0, 0);
    let (_, forwarded) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::udp(40_000, 80)));
    let (verdict, error) = world.run("uplink_ingress", &unreachable(REMOTE_POD, NODE, 3, &forwarded));
    assert_eq!((verdict, error.src, error.dst), (REDIRECT, LB, CLIENT));
    assert_quote(&error, CLIENT, LB, (40_000, 80));
}

#[test]
fn a_routers_word_about_an_answer_reaches_the_backend() {
    let router = Ipv4Addr::new(203, 0, 113, 1);
    let mut world = World::new();
    world.balanced(&[(POD, 8_080)], proto::TCP, 0, 0);
    world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    let (_, answer) = world.run("uplink_egress", &Frame::new(POD, CLIENT, L4::ack(8_080, 40_000)));
    let (verdict, error) = world.run("uplink_ingress", &unreachable(router, LB, 4, &answer));
    assert_eq!((verdict, error.src, error.dst), (REDIRECT, router, POD));
    assert_quote(&error, POD, CLIENT, (8_080, 40_000));
    // About one that a backend elsewhere has sent directly: its node knows what to make of it.
    let mut world = World::new();
    world.balanced(&[(FAR_POD, 8_080)], proto::TCP, service_flags::DIRECT_RETURN, 0);
    world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    let direct = Frame::new(LB, CLIENT, L4::ack(80, 40_000));
    let error = unreachable(router, LB, 4, &direct);
    let (verdict, out) = world.run("uplink_ingress", &error);
    assert_eq!((verdict, out.src, out.dst, out.src_mac), (REDIRECT, router, LB, [10, 244, 3, 8, 0x1f, 0x90]));
    let second = World::new();
    let mut arrived = Frame::new(CLIENT, LB, L4::syn(40_000, 80));
    arrived.src_mac = [10, 244, 1, 5, 0x1f, 0x90];
    second.run("overlay_ingress", &arrived);
    let (verdict, out) = second.run("overlay_ingress", &error);
    assert_eq!((verdict, out.src, out.dst), (REDIRECT, router, POD));
    assert_quote(&out, POD, CLIENT, (8_080, 40_000));
}

/// Cuts a packet's payload behind the IP header into two fragments, the first of `first` bytes.
fn fragments(frame: &Frame, first: usize) -> [Vec<u8>; 2] {
    let whole = frame.bytes();
    let (header, payload) = whole.split_at(34);
    let make = |payload: &[u8], field: u16| {
        let mut out = [header, payload].concat();
        out[16..18].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        out[20..22].copy_from_slice(&field.to_be_bytes());
        out[24..26].fill(0);
        let check = !sum(&out[14..34]);
        out[24..26].copy_from_slice(&check.to_be_bytes());
        out
    };
    [make(&payload[..first], 0x2000), make(&payload[first..], (first / 8) as u16)]
}

#[test]
fn later_fragments_go_where_the_first_went() {
    for backend in [POD, REMOTE_POD] {
        let mut world = World::new();
        world.balanced(&[(backend, 8_080)], proto::UDP, 0, 0);
        let frame = Frame::new(CLIENT, LB, L4::udp(40_000, 80).with_payload(1_000));
        let [first, second] = fragments(&frame, 512);
        // Before the first one nothing is known.
        assert_eq!(world.run_bytes("uplink_ingress", &second), (OK, second.clone()));
        let (verdict, out) = world.run_bytes("uplink_ingress", &first);
        assert_eq!((verdict, &out[30..34]), (REDIRECT, &backend.octets()[..]));
        let (verdict, rest) = world.run_bytes("uplink_ingress", &second);
        assert_eq!((verdict, &rest[26..34]), (REDIRECT, &out[26..34]));
        assert_eq!(sum(&rest[14..34]), 0xffff, "IP checksum");
        assert_eq!(rest[34..], second[34..], "data");
        // Put together again, the datagram is whole.
        let mut whole = [&out[..], &rest[34..]].concat();
        let length = (whole.len() - 14) as u16;
        whole[16..18].copy_from_slice(&length.to_be_bytes());
        whole[20..22].fill(0);
        whole[24..26].fill(0);
        let check = !sum(&whole[14..34]);
        whole[24..26].copy_from_slice(&check.to_be_bytes());
        Frame::parse(&whole).assert_checksums();
    }
    // A pod's own, to the world.
    let world = World::new();
    let [first, second] = fragments(&Frame::new(POD, OUTSIDE, L4::udp(50_000, 53).with_payload(1_000)), 512);
    assert_eq!(world.run_bytes("uplink_egress", &first).1[26..30], NODE.octets());
    assert_eq!(world.run_bytes("uplink_egress", &second).1[26..30], NODE.octets());
}

#[test]
fn under_pressure_idle_flows_go_before_live_ones() {
    let mut world = World::new();
    // Enough that source ports do not run out first.
    let backends: Vec<_> = (1..=16).map(|n| (Ipv4Addr::new(10, 244, 2, n), 8_080)).collect();
    world.balanced(&backends, proto::TCP, 0, 0);
    let live: Vec<Frame> = (1..=50).map(|n| Frame::new(Ipv4Addr::new(192, 0, 2, n), LB, L4::syn(40_000, 80))).collect();
    let ports: Vec<u16> = live.iter().map(|frame| world.run("uplink_ingress", frame).1.l4.ports().0).collect();
    let room = world.maps.flows.max_entries();
    let added = || world.maps.flow_counters.sum(flow_counters::ADDED).unwrap() as usize;
    assert_eq!((added(), world.maps.flows.count().unwrap()), (100, 100));
    let mut sent = 0_u32;
    while sent < room {
        for _ in 0..2_000 {
            sent += 1;
            let client = Ipv4Addr::from(0x0b00_0000 + sent);
            let (verdict, _) = world.run("uplink_ingress", &Frame::new(client, LB, L4::syn(1, 80)));
            assert_eq!(verdict, REDIRECT, "a new flow finds room");
        }
        for (frame, port) in live.iter().zip(&ports) {
            let frame = Frame::new(frame.src, LB, frame.l4.clone().established());
            let (_, out) = world.run("uplink_ingress", &frame);
            assert_eq!(out.l4.ports().0, *port, "after {sent} other flows");
        }
    }
    let present = world.maps.flows.count().unwrap();
    assert!(present <= room as usize, "{present}");
    assert!(added() - present >= room as usize / 2, "the rest was evicted: {} added, {present} there", added());
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        prop::sample::select(vec![POD, OTHER_POD, REMOTE_POD, FAR_POD, NODE, LB, CLIENT, OUTSIDE]),
        any::<u32>().prop_map(Ipv4Addr::from),
    ]
}

/// A packet that may be whole, cut short or spoilt.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let port = || prop_oneof![Just(80_u16), Just(8_080), Just(30_080), any::<u16>()];
    let l4 = (port(), port(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), 0_u8..6).prop_map(
        |(src, dst, flags, body, kind)| match kind {
            0 | 1 => L4::tcp(src, dst, flags).with_options(&body[..body.len().min(40) / 4 * 4]),
            2 => L4::udp(src, dst).with_payload(body.len()),
            3 => L4::echo(flags, src),
            4 => L4::Icmp { kind: flags % 20, code: 3, id: src, sequence: dst, body },
            _ => L4::Sctp { src, dst },
        },
    );
    let spoil = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (address(), address(), any::<[u8; 6]>(), l4, spoil, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(src, dst, mac, l4, spoil, cut, whole)| {
            let mut bytes = Frame::new(src, dst, l4).with_src_mac(mac).bytes();
            for (at, value) in spoil {
                let at = 14 + at.index(bytes.len() - 14);
                bytes[at] = value;
            }
            if !whole {
                // The kernel itself refuses to test what has no whole IP header.
                bytes.truncate(34 + cut.index(bytes.len() - 33));
            }
            bytes
        },
    )
}

#[test]
fn no_packet_leads_a_program_astray() {
    let mut world = World::new();
    let backends = [(POD, 8_080), (REMOTE_POD, 8_080), (FAR_POD, 8_080)];
    for (protocol, flags) in [(proto::TCP, service_flags::DIRECT_RETURN), (proto::UDP, service_flags::STICKY)] {
        world.balanced(&backends, protocol, flags, 60);
        world.service(Addr::UNSPECIFIED_V4, 30_080, protocol, SCOPE_EXTERNAL, &backends);
        world.service(LB.into(), 80, protocol, SCOPE_CLUSTER, &backends);
    }
    let verdicts = BTreeSet::from([OK, SHOT, REDIRECT]);
    let config = ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&packet(), |bytes| {
            for program in PROGRAMS {
                let (verdict, out) = world.run_bytes(program, &bytes);
                prop_assert!(verdicts.contains(&verdict), "{program}: verdict {verdict}");
                let is_ip = out.len() >= 34 && out[14] == 0x45;
                // Who had a right header checksum still has.
                if verdict != SHOT && is_ip && sum(&bytes[14..34.min(bytes.len())]) == 0xffff && bytes.len() >= 34 {
                    prop_assert_eq!(sum(&out[14..34]), 0xffff, "{}: IP checksum", program);
                }
                // A pod's packet leaves under its own address, or not at all.
                if program == "pod_egress" && verdict == REDIRECT && out[26..30] != bytes[26..30] {
                    prop_assert_eq!(&out[30..34], &bytes[26..30], "a refusal goes back");
                }
            }
            Ok(())
        })
        .unwrap();
}
