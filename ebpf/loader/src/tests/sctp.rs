//! SCTP: services from outside and from pods, its checksum, refusals, policies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xebec_ebpf_layout::{
    Addr, DENY_ALL, DropReason, FlowKind, LocalPod, Port, RuleKey, SCOPE_CLUSTER, SCOPE_EXTERNAL, Service, ServiceKey,
    flow_flags, proto, service_flags, verdict,
};

use super::packet::sum;
use super::v6;
use super::{CLIENT, LB, NAT_PORTS, NODE, OK, OTHER_POD, OUTSIDE, POD, REDIRECT, REMOTE_POD, SHOT, World};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 77);
const TAG: u32 = 0x0bad_cafe;
const INITIATE_TAG: u32 = 0x1234_5678;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const DATA: u8 = 0;

/// CRC32c (RFC 9260 appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// A packet, from its addresses on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sctp {
    src: IpAddr,
    dst: IpAddr,
    ports: (u16, u16),
    tag: u32,
    chunks: Vec<u8>,
    /// The sender leaves the checksum to somebody else.
    unsummed: bool,
}

fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0][..], &(4 + body.len() as u16).to_be_bytes(), body].concat()
}

impl Sctp {
    fn new(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, ports: (u16, u16), kind: u8) -> Self {
        let (tag, chunks) = match kind {
            INIT => {
                (0, chunk(INIT, &[&INITIATE_TAG.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat()))
            }
            _ => (TAG, chunk(kind, &(0..=200).collect::<Vec<u8>>()[..])),
        };
        Self { src: src.into(), dst: dst.into(), ports, tag, chunks, unsummed: false }
    }

    fn payload(&self) -> Vec<u8> {
        let header = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        let mut out = [&header[..], &self.tag.to_be_bytes(), &[0; 4], &self.chunks].concat();
        if !self.unsummed {
            let crc = crc32c(&out);
            out[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        out
    }

    fn bytes(&self) -> Vec<u8> {
        let payload = self.payload();
        let macs = [super::MAC_B, super::MAC_A].concat();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = (20 + payload.len() as u16).to_be_bytes();
                let mut ip = [&[0x45, 0][..], &length, &[0x12, 0x34, 0x40, 0, 64, proto::SCTP, 0, 0]].concat();
                ip.extend([src.octets(), dst.octets()].concat());
                let check = !sum(&ip);
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                [&macs[..], &[8, 0], &ip, &payload].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let length = (payload.len() as u16).to_be_bytes();
                let ip = [&[0x60, 0, 0, 0][..], &length, &[proto::SCTP, 64], &src.octets(), &dst.octets()].concat();
                [&macs[..], &[0x86, 0xdd], &ip, &payload].concat()
            }
            _ => panic!("two families"),
        }
    }

    /// What came out, its checksums looked at.
    #[track_caller]
    fn parse(raw: &[u8]) -> Self {
        let (src, dst, length, l4): (IpAddr, IpAddr, u16, usize) = if raw[12..14] == [8, 0] {
            assert_eq!(sum(&raw[14..34]), 0xffff, "IP checksum");
            let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&raw[at..at + 4]).unwrap()).into();
            (ip(26), ip(30), u16::from_be_bytes([raw[16], raw[17]]) - 20, 34)
        } else {
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&raw[at..at + 16]).unwrap()).into();
            (ip(22), ip(38), u16::from_be_bytes([raw[18], raw[19]]), 54)
        };
        let payload = &raw[l4..];
        assert_eq!(usize::from(length), payload.len(), "IP length");
        let u16_at = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        let unsummed = payload[8..12] == [0; 4];
        let packet = Self {
            src,
            dst,
            ports: (u16_at(0), u16_at(2)),
            tag: u32::from_be_bytes(payload[4..8].try_into().unwrap()),
            chunks: payload[12..].to_vec(),
            unsummed,
        };
        assert_eq!(packet.payload(), payload, "checksum");
        packet
    }
}

fn run(world: &World, program: &'static str, packet: &Sctp) -> (u32, Sctp) {
    let (verdict, out) = world.run_bytes(program, &packet.bytes());
    (verdict, Sctp::parse(&out))
}

/// A service for this world's pods, or for those of IPv6.
fn service(world: &mut World, at: impl Into<IpAddr>, scope: u8, backend: impl Into<IpAddr>) -> u32 {
    let at = Addr::from(at.into());
    match backend.into() {
        IpAddr::V4(pod) => world.service(at, 80, proto::SCTP, scope, &[(pod, 8_080)]),
        IpAddr::V6(pod) => v6::service(world, at, 80, proto::SCTP, scope, &[(pod, 8_080)]),
    }
}

#[test]
fn the_checksum_is_right_whatever_the_length() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the usual check value");
    let mut world = World::new();
    service(&mut world, LB, SCOPE_EXTERNAL, POD);
    for length in [0, 1, 2, 3, 4, 5, 63, 64, 243, 244, 255, 256, 257, 511, 512, 1_000, 1_440] {
        let mut packet = Sctp::new(CLIENT, LB, (40_000, 80), DATA);
        packet.chunks = chunk(DATA, &(0..length).map(|i| (i * 7) as u8).collect::<Vec<u8>>());
        let (verdict, out) = run(&world, "uplink_ingress", &packet);
        assert_eq!((verdict, out.ports, out.unsummed), (REDIRECT, (40_000, 8_080), false), "{length} bytes");
        assert_eq!(out.chunks, packet.chunks);
        let unsummed = Sctp { unsummed: true, ..packet };
        assert!(run(&world, "uplink_ingress", &unsummed).1.unsummed, "left to the network card");
    }
}

#[test]
fn services_from_outside_here_and_elsewhere() {
    for (client, lb, node, pod, remote) in [
        (IpAddr::from(CLIENT), IpAddr::from(LB), IpAddr::from(NODE), IpAddr::from(POD), IpAddr::from(REMOTE_POD)),
        (v6::CLIENT.into(), v6::LB.into(), v6::NODE.into(), v6::POD.into(), v6::REMOTE_POD.into()),
    ] {
        let mut world = v6::world();
        service(&mut world, lb, SCOPE_EXTERNAL, pod);
        let (verdict, out) = run(&world, "uplink_ingress", &Sctp::new(client, lb, (40_000, 80), INIT));
        assert_eq!((verdict, out.src, out.dst, out.ports), (REDIRECT, client, pod, (40_000, 8_080)));
        let (verdict, back) = run(&world, "uplink_egress", &Sctp::new(pod, client, (8_080, 40_000), INIT_ACK));
        assert_eq!((verdict, back.src, back.dst, back.ports), (OK, lb, client, (80, 40_000)));

        let mut world = v6::world();
        service(&mut world, lb, SCOPE_EXTERNAL, remote);
        let (verdict, out) = run(&world, "uplink_ingress", &Sctp::new(client, lb, (40_000, 80), INIT));
        assert_eq!((verdict, out.src, out.dst, out.ports.1), (REDIRECT, node, remote, 8_080));
        assert!((NAT_PORTS[0]..=NAT_PORTS[1]).contains(&out.ports.0));
        let answer = Sctp::new(remote, node, (8_080, out.ports.0), INIT_ACK);
        let (verdict, back) = run(&world, "uplink_ingress", &answer);
        assert_eq!((verdict, back.src, back.dst, back.ports), (REDIRECT, lb, client, (80, 40_000)));
    }
}

#[test]
fn an_association_stays_and_a_new_one_chooses_again() {
    let mut world = World::new();
    service(&mut world, LB, SCOPE_EXTERNAL, POD);
    run(&world, "uplink_ingress", &Sctp::new(CLIENT, LB, (40_000, 80), INIT));
    service(&mut world, LB, SCOPE_EXTERNAL, OTHER_POD);
    let met = |kind| run(&world, "uplink_ingress", &Sctp::new(CLIENT, LB, (40_000, 80), kind)).1.dst;
    assert_eq!(met(DATA), IpAddr::from(POD));
    assert_eq!(met(INIT), IpAddr::from(OTHER_POD));
    // An end is noted.
    run(&world, "uplink_ingress", &Sctp::new(CLIENT, LB, (40_000, 80), ABORT));
    let flows = world.maps.flows.entries().unwrap();
    let (_, flow) = flows.iter().find(|(key, _)| key.dst == LB.into()).unwrap();
    assert_eq!((flow.flags & flow_flags::CLOSING, flow.idle_limit_s(proto::SCTP)), (flow_flags::CLOSING, 10));
}

#[test]
fn a_pod_reaches_a_service_and_hears_its_address() {
    for (vip, pod, other, remote) in [
        (IpAddr::from(VIP), IpAddr::from(POD), IpAddr::from(OTHER_POD), IpAddr::from(REMOTE_POD)),
        (v6::host(0x96, 0, 0x77).into(), v6::POD.into(), v6::OTHER_POD.into(), v6::REMOTE_POD.into()),
    ] {
        for backend in [other, remote] {
            let mut world = v6::world();
            let id = service(&mut world, vip, SCOPE_CLUSTER, backend);
            for kind in [INIT, INIT, DATA] {
                let (verdict, out) = run(&world, "pod_egress", &Sctp::new(pod, vip, (40_000, 80), kind));
                assert_eq!((verdict, out.src, out.dst, out.ports), (REDIRECT, pod, backend, (40_000, 8_080)));
            }
            let (verdict, back) = run(&world, "pod_ingress", &Sctp::new(backend, pod, (8_080, 40_000), INIT_ACK));
            assert_eq!((verdict, back.src, back.dst, back.ports), (OK, vip, pod, (80, 40_000)));
            // What the pod does without the service stays as it is.
            let plain = Sctp::new(backend, pod, (8_080, 40_001), INIT_ACK);
            assert_eq!(run(&world, "pod_ingress", &plain), (OK, plain.clone()));
            let counters = world.maps.service_counters.get(&id).unwrap().unwrap();
            assert_eq!((counters.socket_connections, counters.refused), (2, 0), "each INIT");
        }
    }
}

#[test]
fn a_node_port_leads_from_a_pod_too() {
    let mut world = World::new();
    world.service(Addr::UNSPECIFIED_V4, 30_080, proto::SCTP, SCOPE_CLUSTER, &[(REMOTE_POD, 8_080)]);
    for node in [NODE, super::PEER] {
        let (verdict, out) = run(&world, "pod_egress", &Sctp::new(POD, node, (40_000, 30_080), INIT));
        assert_eq!((verdict, out.dst), (REDIRECT, IpAddr::from(REMOTE_POD)));
    }
}

#[test]
fn a_pod_reaches_itself_by_the_nodes_address() {
    let mut world = World::new();
    service(&mut world, VIP, SCOPE_CLUSTER, POD);
    let (verdict, out) = run(&world, "pod_egress", &Sctp::new(POD, VIP, (40_000, 80), INIT));
    assert_eq!((verdict, out.src, out.dst, out.ports.1), (REDIRECT, NODE.into(), POD.into(), 8_080));
    assert!((NAT_PORTS[0]..=NAT_PORTS[1]).contains(&out.ports.0));
    let answer = Sctp::new(POD, NODE, (8_080, out.ports.0), INIT_ACK);
    let (verdict, back) = run(&world, "pod_egress", &answer);
    assert_eq!((verdict, back.src, back.dst, back.ports), (REDIRECT, VIP.into(), POD.into(), (80, 40_000)));
    assert_eq!(run(&world, "pod_ingress", &back), (OK, back.clone()));
}

#[test]
fn the_node_itself_reaches_pods_through_services() {
    let mut world = World::new();
    for (backend, port) in [(POD, 80), (REMOTE_POD, 81)] {
        world.service(VIP.into(), port, proto::SCTP, SCOPE_CLUSTER, &[(backend, 8_080)]);
        let (verdict, out) = run(&world, "uplink_egress", &Sctp::new(NODE, VIP, (40_000, port), INIT));
        assert_eq!((verdict, out.src, out.dst, out.ports), (REDIRECT, NODE.into(), backend.into(), (40_000, 8_080)));
        // The pod here answers from its interface, the other one by the uplink.
        let program = if backend == POD { "pod_egress" } else { "uplink_ingress" };
        let (verdict, back) = run(&world, program, &Sctp::new(backend, NODE, (8_080, 40_000), INIT_ACK));
        assert_eq!((verdict, back.src, back.dst, back.ports), (OK, VIP.into(), NODE.into(), (port, 40_000)));
    }
    // To itself it cannot, and is told so.
    world.service(VIP.into(), 82, proto::SCTP, SCOPE_CLUSTER, &[(NODE, 8_080)]);
    let (verdict, out) = run(&world, "uplink_egress", &Sctp::new(NODE, VIP, (40_000, 82), INIT));
    assert_eq!((verdict, out.src, out.dst, out.chunks[0]), (REDIRECT, VIP.into(), NODE.into(), ABORT));
    // What is for no service goes its way.
    let other = Sctp::new(NODE, OUTSIDE, (40_000, 80), INIT);
    assert_eq!(run(&world, "uplink_egress", &other), (OK, other.clone()));
}

#[test]
fn nobody_there_is_an_abort() {
    for (client, lb, vip, pod) in [
        (IpAddr::from(CLIENT), IpAddr::from(LB), IpAddr::from(VIP), IpAddr::from(POD)),
        (v6::CLIENT.into(), v6::LB.into(), v6::host(0x96, 0, 0x77).into(), v6::POD.into()),
    ] {
        let mut world = v6::world();
        world.service(lb.into(), 80, proto::SCTP, SCOPE_EXTERNAL, &[]);
        world.service(vip.into(), 80, proto::SCTP, SCOPE_CLUSTER, &[]);
        // One without endpoints from outside, one from a pod, and none at all.
        for (program, src, dst, port) in
            [("uplink_ingress", client, lb, 80), ("pod_egress", pod, vip, 80), ("pod_egress", pod, vip, 81)]
        {
            let asked = Sctp::new(src, dst, (40_000, port), INIT);
            for unsummed in [false, true] {
                let (verdict, out) = run(&world, program, &Sctp { unsummed, ..asked.clone() });
                assert_eq!((verdict, out.src, out.dst, out.ports), (REDIRECT, dst, src, (port, 40_000)));
                assert_eq!((out.tag, &out.chunks[..]), (INITIATE_TAG, &[ABORT, 0, 0, 4][..]));
                assert_eq!(out.unsummed, unsummed);
            }
            let (verdict, out) = run(&world, program, &Sctp::new(src, dst, (40_000, port), DATA));
            assert_eq!(
                (verdict, out.tag, &out.chunks[..]),
                (REDIRECT, TAG, &[ABORT, 1, 0, 4][..]),
                "its tag, reflected"
            );
            // Two of them could abort each other for ever.
            assert_eq!(run(&world, program, &Sctp::new(src, dst, (40_000, port), ABORT)).0, SHOT);
        }
        assert!(world.drops(DropReason::NoBackend) >= 8 && world.drops(DropReason::NoSuchService) >= 4);
    }
}

#[test]
fn a_fragment_whose_ports_would_change_is_dropped_and_one_that_keeps_them_is_not() {
    let mut world = World::new();
    service(&mut world, LB, SCOPE_EXTERNAL, POD);
    world.service(LB.into(), 8_080, proto::SCTP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    let fragment = |ports| {
        let mut bytes = Sctp::new(CLIENT, LB, ports, DATA).bytes();
        bytes[20] |= 0x20;
        bytes[24..26].fill(0);
        let check = !sum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&check.to_be_bytes());
        bytes
    };
    assert_eq!(world.run_bytes("uplink_ingress", &fragment((40_000, 80))).0, SHOT);
    assert_eq!(world.drops(DropReason::RewriteFailed), 1);
    let (verdict, out) = world.run_bytes("uplink_ingress", &fragment((40_001, 8_080)));
    assert_eq!((verdict, &out[30..34]), (REDIRECT, &POD.octets()[..]));
}

#[test]
fn a_pods_association_with_the_world_is_masqueraded() {
    let world = World::new();
    let (verdict, out) = run(&world, "uplink_egress", &Sctp::new(POD, OUTSIDE, (50_000, 3_868), INIT));
    assert_eq!((verdict, out.src, out.dst), (OK, NODE.into(), OUTSIDE.into()));
    let answer = Sctp::new(OUTSIDE, NODE, (3_868, out.ports.0), INIT_ACK);
    let (verdict, back) = run(&world, "uplink_ingress", &answer);
    assert_eq!((verdict, back.dst, back.ports), (REDIRECT, POD.into(), (3_868, 50_000)));
}

#[test]
fn policies_see_the_backend_and_both_sides_of_an_association() {
    let mut world = World::new();
    service(&mut world, VIP, SCOPE_CLUSTER, OTHER_POD);
    let before = world.maps.local_pods.get(&POD.into()).unwrap().unwrap();
    let isolated = LocalPod { egress: [7, 0], ..before };
    world.maps.local_pods.insert(&POD.into(), &isolated).unwrap();
    let asked = Sctp::new(POD, VIP, (40_000, 80), INIT);
    assert_eq!(run_raw(&world, &asked), SHOT);
    assert_eq!(world.drops(DropReason::PolicyEgress), 1);
    // The backend's port of SCTP, of anybody.
    let rule = RuleKey { set: [7, 0], identity: [0; 2], proto: proto::SCTP, padding: 0, port: Port::new(8_080) };
    world.maps.rules.insert(rule, RuleKey::EXACT, &verdict::ALLOW).unwrap();
    assert_eq!(run_raw(&world, &asked), REDIRECT);
    let closed = LocalPod { ingress: DENY_ALL, ..isolated };
    world.maps.local_pods.insert(&POD.into(), &closed).unwrap();
    let (verdict, back) = run(&world, "pod_ingress", &Sctp::new(OTHER_POD, POD, (8_080, 40_000), INIT_ACK));
    assert_eq!((verdict, back.src, back.ports), (OK, VIP.into(), (80, 40_000)), "an answer");
    let stranger = Sctp::new(OTHER_POD, POD, (9_000, 40_000), INIT);
    assert_eq!(world.run_bytes("pod_ingress", &stranger.bytes()).0, SHOT);
}

fn run_raw(world: &World, packet: &Sctp) -> u32 {
    world.run_bytes("pod_egress", &packet.bytes()).0
}

#[test]
fn with_direct_return_the_backends_node_rewrites_it() {
    let mut world = World::new();
    let id = world.service(LB.into(), 80, proto::SCTP, SCOPE_EXTERNAL, &[(super::FAR_POD, 8_080)]);
    let key = ServiceKey { addr: LB.into(), port: Port::new(80), proto: proto::SCTP, scope: SCOPE_EXTERNAL };
    let found = world.maps.services.get(&key).unwrap().unwrap();
    let direct = Service { flags: service_flags::DIRECT_RETURN, ..found };
    world.maps.services.insert(&key, &direct).unwrap();
    assert_eq!(found.id, id);
    let asked = Sctp::new(CLIENT, LB, (40_000, 80), INIT);
    let (_, out) = run(&world, "uplink_ingress", &asked);
    assert_eq!((out.src, out.dst, out.ports), (CLIENT.into(), LB.into(), (40_000, 80)), "as it came");
    let second = World::new();
    let mut arrived = asked.bytes();
    arrived[6..12].copy_from_slice(&[10, 244, 1, 5, 0x1f, 0x90]);
    let (verdict, delivered) = second.run_bytes("overlay_ingress", &arrived);
    let delivered = Sctp::parse(&delivered);
    assert_eq!((verdict, delivered.dst, delivered.ports), (REDIRECT, POD.into(), (40_000, 8_080)));
    let (_, back) = run(&second, "uplink_egress", &Sctp::new(POD, CLIENT, (8_080, 40_000), INIT_ACK));
    assert_eq!((back.src, back.ports), (LB.into(), (80, 40_000)));
    assert_eq!(second.flow_kinds(), [FlowKind::ServiceForward as u8, FlowKind::ServiceReply as u8]);
}
