//! The classifiers on made-up packets (`BPF_PROG_TEST_RUN`): what becomes of each, and whether its checksums are right.

mod alive;
mod mtu;
mod own;
mod packet;
mod packet6;
mod policy;
mod sctp;
mod services;
mod trace;
mod upgrade;
mod v6;
mod xdp;

use std::net::Ipv4Addr;

use aya::programs::{TestRun as _, TestRunOptions};
use xebec_ebpf_layout::{
    Addr, Backend, Chunk, ChunkKey, Config, DropReason, FlowKind, LocalPod, Peer, Port, SCOPE_CLUSTER, SCOPE_EXTERNAL,
    Service, ServiceCounters, ServiceKey, lb_address_flags, node_address_flags, own_ports, peer_flags, proto,
    service_flags,
};

use self::packet::{Arp, Frame, L4, MAC_A, MAC_B};
use crate::{Datapath, Maps};

const OK: u32 = 0;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 11);
const PEER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 12);
const FAR_PEER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 13);
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const LB: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 130);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 6);
const REMOTE_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 7);
const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 8);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// `BPF_PROG_TEST_RUN` shows the packet as coming in by the loopback interface.
const TEST_IFINDEX: u32 = 1;
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const NAT_PORTS: [u16; 2] = [10_240, 29_999];

fn word(ip: [u8; 4]) -> u32 {
    u32::from_ne_bytes(ip)
}

fn config() -> Config {
    Config {
        node: NODE.into(),
        uplink_ifindex: 2,
        vxlan_ifindex: 3,
        vni: 7,
        cluster_net: word([10, 244, 0, 0]),
        cluster_mask: word([255, 255, 0, 0]),
        pod_net: word([10, 244, 1, 0]),
        pod_mask: word([255, 255, 255, 0]),
        service_net: word([10, 96, 0, 0]),
        service_mask: word([255, 255, 0, 0]),
        node_ports: [30_000, 32_767],
        nat_ports: NAT_PORTS,
        own_ports: [32_768, 60_999],
        vxlan_mtu: 1_450,
        uplink_mac: UPLINK_MAC,
        masquerade: 1,
        ..Config::ZERO
    }
}

/// A node with two pods, a peer on its link and one behind the tunnel.
struct World {
    datapath: Datapath,
    maps: Maps,
    next_id: u32,
}

impl World {
    fn new() -> Self {
        Self::with(&config())
    }

    fn with(config: &Config) -> Self {
        let (datapath, maps) = Datapath::load_unpinned(config).unwrap();
        Self::furnish(datapath, maps)
    }

    fn furnish(datapath: Datapath, mut maps: Maps) -> Self {
        let pod = LocalPod { ifindex: TEST_IFINDEX, mac: MAC_A, host_mac: MAC_B, ..LocalPod::NOWHERE };
        maps.local_pods.insert(&POD.into(), &pod).unwrap();
        maps.local_pods.insert(&OTHER_POD.into(), &LocalPod { ifindex: 99, ..pod }).unwrap();
        maps.node_addresses.insert(&NODE.into(), &node_address_flags::LOCAL).unwrap();
        maps.node_addresses.insert(&PEER.into(), &node_address_flags::PEER).unwrap();
        let peer = |node: Ipv4Addr, flags| Peer { node: node.into(), flags, vtep_mac: [9; 6], mtu: 0 };
        maps.peers.insert(Ipv4Addr::new(10, 244, 2, 0).into(), 96 + 24, &peer(PEER, 0)).unwrap();
        let far = peer(FAR_PEER, peer_flags::TUNNEL);
        maps.peers.insert(Ipv4Addr::new(10, 244, 3, 0).into(), 96 + 24, &far).unwrap();
        maps.own_ports.set(own_ports::UNSHARED).unwrap();
        Self { datapath, maps, next_id: 1 }
    }

    /// A service with these backends; its id.
    fn service(&mut self, addr: Addr, port: u16, protocol: u8, scope: u8, backends: &[(Ipv4Addr, u16)]) -> u32 {
        let id = self.next_id;
        let mut slots = Chunk::default();
        for (slot, &(addr, port)) in backends.iter().enumerate() {
            let backend = Backend { addr: addr.into(), port: Port::new(port), padding: 0 };
            let backend_id = self.next_id;
            self.next_id += 1;
            self.maps.backends.insert(&backend_id, &backend).unwrap();
            slots.0[slot] = backend_id;
        }
        self.next_id += 1;
        self.maps.slots.insert(&ChunkKey { set: id, chunk: 0 }, &slots).unwrap();
        let key = ServiceKey { addr, port: Port::new(port), proto: protocol, scope };
        let service = Service { id, set: id, count: backends.len() as u32, ..Service::default() };
        self.maps.services.insert(&key, &service).unwrap();
        self.maps.service_counters.insert(&id, &ServiceCounters::default()).unwrap();
        id
    }

    fn run(&self, program: &'static str, frame: &Frame) -> (u32, Frame) {
        let (verdict, output) = self.run_bytes(program, &frame.bytes());
        (verdict, Frame::parse(&output))
    }

    fn run_bytes(&self, program: &'static str, input: &[u8]) -> (u32, Vec<u8>) {
        let mut output = vec![0; 2_048];
        let mut options = TestRunOptions::new();
        options.data_in = Some(input);
        options.data_out = Some(&mut output);
        let result = self.datapath.classifier(program).unwrap().test_run(options).unwrap();
        output.truncate(result.data_size_out as usize);
        (result.return_value, output)
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.maps.drops().unwrap().iter().find(|(r, _)| *r == reason).unwrap().1
    }

    fn flow_kinds(&self) -> Vec<u8> {
        let mut kinds: Vec<u8> = self.maps.flows.entries().unwrap().iter().map(|(_, flow)| flow.kind).collect();
        kinds.sort_unstable();
        kinds
    }
}

fn both() -> [L4; 2] {
    [L4::syn(40_000, 80), L4::udp(40_000, 80)]
}

#[test]
fn a_frame_that_was_flooded_here_is_left_to_whom_it_is_for() {
    let mut world = World::new();
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    let frame = Frame::new(CLIENT, LB, L4::syn(40_000, 80));
    let (verdict, out) = world.run("uplink_ingress", &frame.clone().with_dst_mac([2, 0, 0, 0, 0, 0x77]));
    assert_eq!((verdict, out.dst, world.maps.flows.count().unwrap()), (OK, LB, 0));
    assert_eq!(world.run("uplink_ingress", &frame).0, REDIRECT);
}

#[test]
fn a_local_backend_keeps_the_clients_address_and_its_answer_gets_the_services() {
    for l4 in both() {
        let mut world = World::new();
        let id = world.service(LB.into(), 80, l4.proto(), SCOPE_EXTERNAL, &[(POD, 8_080)]);

        let (verdict, out) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, l4.clone()));
        assert_eq!(verdict, REDIRECT);
        assert_eq!((out.src, out.dst, out.l4.ports()), (CLIENT, POD, (40_000, 8_080)));
        assert_eq!((out.dst_mac, out.src_mac), (MAC_A, MAC_B));
        out.assert_checksums();

        let (verdict, back) = world.run("uplink_egress", &Frame::new(POD, CLIENT, l4.answer(8_080, 40_000)));
        assert_eq!(verdict, OK);
        assert_eq!((back.src, back.dst, back.l4.ports()), (LB, CLIENT, (80, 40_000)));
        back.assert_checksums();
        assert_eq!(world.flow_kinds(), [FlowKind::ServiceForward as u8, FlowKind::ServiceReply as u8]);
        assert_eq!(world.maps.service_counters.get(&id).unwrap().unwrap().uplink_flows, 1);
    }
}

#[test]
fn a_remote_backend_sees_the_node_and_answers_it() {
    for l4 in both() {
        let mut world = World::new();
        world.service(Addr::UNSPECIFIED_V4, 30_080, l4.proto(), SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);

        let l4 = l4.with_ports(40_000, 30_080);
        let (verdict, out) = world.run("uplink_ingress", &Frame::new(CLIENT, NODE, l4.clone()));
        assert_eq!(verdict, REDIRECT);
        assert_eq!((out.src, out.dst, out.ttl), (NODE, REMOTE_POD, 63));
        let (port, 8_080) = out.l4.ports() else { panic!("wrong port: {:?}", out.l4) };
        assert!((NAT_PORTS[0]..=NAT_PORTS[1]).contains(&port));
        out.assert_checksums();

        // The next packet of the flow goes the same way.
        let (_, again) = world.run("uplink_ingress", &Frame::new(CLIENT, NODE, l4.clone().established()));
        assert_eq!((again.dst, again.l4.ports()), (REMOTE_POD, (port, 8_080)));
        again.assert_checksums();

        let (verdict, back) = world.run("uplink_ingress", &Frame::new(REMOTE_POD, NODE, l4.answer(8_080, port)));
        assert_eq!(verdict, REDIRECT);
        assert_eq!((back.src, back.dst, back.l4.ports()), (NODE, CLIENT, (30_080, 40_000)));
        back.assert_checksums();
    }
}

#[test]
fn two_clients_with_the_same_port_are_told_apart() {
    let mut world = World::new();
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
    let mut ports = std::collections::BTreeSet::new();
    for last in 1..=50 {
        let client = Ipv4Addr::new(192, 0, 2, last);
        let (_, out) = world.run("uplink_ingress", &Frame::new(client, LB, L4::syn(40_000, 80)));
        let (port, _) = out.l4.ports();
        assert!(ports.insert(port), "port {port} was given twice");
        let (_, back) = world.run("uplink_ingress", &Frame::new(REMOTE_POD, NODE, L4::syn_ack(8_080, port)));
        assert_eq!((back.src, back.dst, back.l4.ports()), (LB, client, (80, 40_000)));
    }
}

#[test]
fn one_clients_port_towards_two_frontends_of_a_pod_does_not_collide() {
    let mut world = World::new();
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    world.service(Addr::UNSPECIFIED_V4, 30_080, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    let (_, first) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    let (_, second) = world.run("uplink_ingress", &Frame::new(CLIENT, NODE, L4::syn(40_000, 30_080)));
    assert_eq!((first.src, first.l4.ports().0), (CLIENT, 40_000));
    assert_eq!(second.src, NODE);
    let (port, 8_080) = second.l4.ports() else { panic!("wrong port") };
    let (_, back) = world.run("uplink_egress", &Frame::new(POD, CLIENT, L4::syn_ack(8_080, 40_000)));
    assert_eq!((back.src, back.l4.ports()), (LB, (80, 40_000)));
    // The second comes back through the node's own address.
    let (verdict, back) = world.run("pod_egress", &Frame::new(POD, NODE, L4::syn_ack(8_080, port)));
    assert_eq!((verdict, back.src, back.dst, back.l4.ports()), (REDIRECT, NODE, CLIENT, (30_080, 40_000)));
    back.assert_checksums();
    let flows = world.maps.flows.entries().unwrap();
    assert!(flows.iter().any(|(key, flow)| key.dst == NODE.into()
        && key.dst_port.get() == port
        && flow.src == NODE.into()
        && flow.src_port.get() == 30_080
        && flow.dst == CLIENT.into()));
}

#[test]
fn a_flow_stays_with_its_backend_while_the_set_changes_and_a_new_one_does_not() {
    let mut world = World::new();
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(OTHER_POD, 8_080)]);
    let (_, old) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::ack(40_000, 80)));
    assert_eq!(old.dst, POD);
    let (_, new) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_001, 80)));
    assert_eq!(new.dst, OTHER_POD);
    // The client uses its port for a new connection.
    let (_, reused) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    assert_eq!(reused.dst, OTHER_POD);
}

#[test]
fn a_udp_flow_moves_when_its_endpoint_is_gone() {
    let mut world = World::new();
    let id = world.service(LB.into(), 53, proto::UDP, SCOPE_EXTERNAL, &[(POD, 5_353)]);
    let (_, first) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::udp(40_000, 53)));
    assert_eq!(first.dst, POD);
    world.service(LB.into(), 53, proto::UDP, SCOPE_EXTERNAL, &[(OTHER_POD, 5_353)]);
    let (_, held) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::udp(40_000, 53)));
    assert_eq!(held.dst, POD, "the endpoint may still be serving");
    world.maps.backends.remove(&id).unwrap();
    let (_, moved) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::udp(40_000, 53)));
    assert_eq!(moved.dst, OTHER_POD);
}

#[test]
fn flows_spread_over_the_backends() {
    let mut world = World::new();
    let backends = [(POD, 8_080), (OTHER_POD, 8_080), (REMOTE_POD, 8_080), (FAR_POD, 8_080)];
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &backends);
    let mut counts = std::collections::BTreeMap::<Ipv4Addr, u32>::new();
    for port in 40_000..40_400 {
        let (_, out) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(port, 80)));
        *counts.entry(out.dst).or_default() += 1;
    }
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|n| (60..=140).contains(n)), "{counts:?}");
}

#[test]
fn with_session_affinity_a_client_stays_with_its_backend() {
    let mut world = World::new();
    let backends = [(POD, 8_080), (OTHER_POD, 8_080), (REMOTE_POD, 8_080), (FAR_POD, 8_080)];
    let id = world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &backends);
    let key = ServiceKey { addr: LB.into(), port: Port::new(80), proto: proto::TCP, scope: SCOPE_EXTERNAL };
    let service = Service { id, set: id, count: 4, affinity_timeout_s: 10_800, ..Service::default() };
    world.maps.services.insert(&key, &service).unwrap();
    let met = |client: Ipv4Addr| -> std::collections::BTreeSet<Ipv4Addr> {
        let ask = |port| world.run("uplink_ingress", &Frame::new(client, LB, L4::syn(port, 80))).1.dst;
        (40_000..40_020).map(ask).collect()
    };
    let mut all = std::collections::BTreeSet::new();
    for last in 1..=40 {
        let one = met(Ipv4Addr::new(192, 0, 2, last));
        assert_eq!(one.len(), 1);
        all.extend(one);
    }
    assert_eq!(all.len(), 4);
}

#[test]
fn no_endpoint_means_a_reset_or_port_unreachable() {
    let mut world = World::new();
    let id = world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[]);
    world.service(LB.into(), 80, proto::UDP, SCOPE_EXTERNAL, &[]);

    let (verdict, reset) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    assert_eq!(verdict, REDIRECT);
    assert_eq!((reset.src, reset.dst, reset.l4.ports()), (LB, CLIENT, (80, 40_000)));
    assert_eq!((reset.src_mac, reset.dst_mac), (MAC_B, MAC_A), "back to where it came from");
    let L4::Tcp { flags, ack, .. } = reset.l4 else { panic!("not TCP") };
    assert_eq!((flags, ack), (packet::RST | packet::ACK, packet::SEQ + 1));
    reset.assert_checksums();

    let (verdict, unreachable) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::udp(40_000, 80)));
    assert_eq!(verdict, REDIRECT);
    assert_eq!((unreachable.src, unreachable.dst), (LB, CLIENT));
    let L4::Icmp { kind, code, ref body, .. } = unreachable.l4 else { panic!("not ICMP") };
    assert_eq!((kind, code), (3, 3));
    assert_eq!(body[12..20], [CLIENT.octets(), LB.octets()].concat(), "the quote is of the refused packet");
    assert_eq!(body[20..24], [40_000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat());
    unreachable.assert_checksums();

    assert_eq!(world.drops(DropReason::NoBackend), 2);
    assert_eq!(world.maps.service_counters.get(&id).unwrap().unwrap().refused, 1);
    let event = world.maps.events.next().unwrap();
    assert_eq!((event.reason, event.service, event.dst_port.get()), (DropReason::NoBackend as u8, id, 80));
    assert!(world.flow_kinds().is_empty());
}

#[test]
fn with_policy_local_and_no_endpoint_here_the_packet_is_dropped_silently() {
    let mut world = World::new();
    let id = world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[]);
    let key = ServiceKey { addr: LB.into(), port: Port::new(80), proto: proto::TCP, scope: SCOPE_EXTERNAL };
    let service = Service { id, flags: service_flags::DROP_IF_EMPTY, ..Service::default() };
    world.maps.services.insert(&key, &service).unwrap();
    let (verdict, _) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    assert_eq!(verdict, SHOT);
    assert_eq!(world.drops(DropReason::NoLocalBackend), 1);
}

#[test]
fn what_is_for_the_node_itself_passes_untouched() {
    let mut world = World::new();
    world.service(Addr::UNSPECIFIED_V4, 30_080, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    world.service(LB.into(), 80, proto::TCP, SCOPE_CLUSTER, &[(POD, 8_080)]);
    for frame in [
        Frame::new(CLIENT, NODE, L4::syn(40_000, 22)),
        Frame::new(CLIENT, NODE, L4::udp(40_000, 30_080)),
        // The address of another node, and a service for the inside only.
        Frame::new(CLIENT, PEER, L4::syn(40_000, 30_080)),
        Frame::new(CLIENT, LB, L4::syn(40_000, 80)),
        Frame::new(CLIENT, NODE, L4::echo(8, 77)),
    ] {
        let (verdict, out) = world.run("uplink_ingress", &frame);
        assert_eq!((verdict, &out), (OK, &frame));
    }
}

#[test]
fn pods_are_masqueraded_to_the_outside_and_the_answers_find_them() {
    for l4 in [L4::syn(50_000, 443), L4::udp(50_000, 443), L4::echo(8, 4_321)] {
        let world = World::new();
        let (verdict, out) = world.run("uplink_egress", &Frame::new(POD, OUTSIDE, l4.clone()));
        assert_eq!(verdict, OK);
        assert_eq!((out.src, out.dst), (NODE, OUTSIDE));
        out.assert_checksums();
        let answer = match (&l4, &out.l4) {
            (L4::Icmp { .. }, L4::Icmp { id, .. }) => L4::echo(0, *id),
            _ => l4.answer(443, out.l4.ports().0),
        };
        let (verdict, back) = world.run("uplink_ingress", &Frame::new(OUTSIDE, NODE, answer));
        assert_eq!(verdict, REDIRECT);
        assert_eq!((back.src, back.dst), (OUTSIDE, POD));
        match back.l4 {
            L4::Icmp { id, .. } => assert_eq!(id, 4_321),
            _ => assert_eq!(back.l4.ports(), (443, 50_000)),
        }
        back.assert_checksums();
    }
}

#[test]
fn the_answer_of_an_old_connection_still_finds_its_pod_after_the_port_was_reused() {
    let world = World::new();
    let (_, first) = world.run("uplink_egress", &Frame::new(POD, OUTSIDE, L4::syn(50_000, 443)));
    let (_, second) = world.run("uplink_egress", &Frame::new(OTHER_POD, OUTSIDE, L4::syn(50_000, 443)));
    assert_ne!(first.l4.ports().0, second.l4.ports().0);
    let (_, again) = world.run("uplink_egress", &Frame::new(POD, OUTSIDE, L4::ack(50_000, 443)));
    assert_eq!(first.l4.ports(), again.l4.ports());
}

#[test]
fn who_comes_to_a_pods_own_address_is_answered_from_it() {
    for l4 in [L4::syn(40_000, 80), L4::udp(40_000, 80), L4::echo(8, 77)] {
        let world = World::new();
        let (verdict, out) = world.run("uplink_ingress", &Frame::new(CLIENT, POD, l4.clone()));
        assert_eq!((verdict, out.src, out.dst, out.ttl), (REDIRECT, CLIENT, POD, 64));
        let answer = match l4 {
            L4::Icmp { .. } => L4::echo(0, 77),
            _ => l4.answer(80, 40_000),
        };
        let answer = Frame::new(POD, CLIENT, answer);
        assert_eq!(world.run("uplink_egress", &answer), (OK, answer.clone()));
        // Another node's pod leaves no trace in the flow table.
        let flows = world.flow_kinds().len();
        world.run("uplink_ingress", &Frame::new(REMOTE_POD, POD, l4));
        assert_eq!(world.flow_kinds().len(), flows);
    }
}

#[test]
fn pods_keep_their_address_towards_pods_and_nodes() {
    let world = World::new();
    for dst in [REMOTE_POD, FAR_POD, PEER] {
        let frame = Frame::new(POD, dst, L4::syn(50_000, 443));
        let (verdict, out) = world.run("uplink_egress", &frame);
        assert_eq!((verdict, &out), (OK, &frame));
    }
    let own = Frame::new(NODE, OUTSIDE, L4::syn(50_000, 443));
    assert_eq!(world.run("uplink_egress", &own), (OK, own.clone()));
    let unmasked = World::with(&Config { masquerade: 0, ..config() });
    let frame = Frame::new(POD, OUTSIDE, L4::syn(50_000, 443));
    assert_eq!(unmasked.run("uplink_egress", &frame), (OK, frame.clone()));
}

#[test]
fn an_icmp_error_about_a_masqueraded_packet_reaches_the_pod() {
    let world = World::new();
    let (_, out) = world.run("uplink_egress", &Frame::new(POD, OUTSIDE, L4::udp(50_000, 443)));
    let router = Ipv4Addr::new(203, 0, 113, 1);
    // Fragmentation needed, MTU 1400.
    let error = L4::Icmp { kind: 3, code: 4, id: 0, sequence: 1_400, body: out.bytes()[14..42].to_vec() };
    let (verdict, back) = world.run("uplink_ingress", &Frame::new(router, NODE, error));
    assert_eq!(verdict, REDIRECT);
    assert_eq!((back.src, back.dst), (router, POD));
    back.assert_checksums();
    let L4::Icmp { ref body, sequence, .. } = back.l4 else { panic!("not ICMP") };
    assert_eq!(sequence, 1_400);
    assert_eq!(packet::sum(&body[..20]), 0xffff, "the quote's header checksum");
    assert_eq!(body[12..20], [POD.octets(), OUTSIDE.octets()].concat());
    assert_eq!(body[20..24], [50_000_u16.to_be_bytes(), 443_u16.to_be_bytes()].concat());
}

#[test]
fn a_pod_reaches_its_neighbour_directly() {
    let world = World::new();
    for l4 in [L4::syn(50_000, 80), L4::udp(50_000, 80), L4::echo(8, 1)] {
        let (verdict, out) = world.run("pod_egress", &Frame::new(POD, OTHER_POD, l4.clone()));
        assert_eq!((verdict, out.dst_mac, out.src_mac), (REDIRECT, MAC_A, MAC_B));
        assert_eq!((out.src, out.dst, &out.l4), (POD, OTHER_POD, &l4));
    }
}

#[test]
fn a_pod_reaches_other_nodes_by_link_or_tunnel() {
    let world = World::new();
    for dst in [REMOTE_POD, FAR_POD] {
        let (verdict, out) = world.run("pod_egress", &Frame::new(POD, dst, L4::syn(50_000, 80)));
        assert_eq!((verdict, out.ttl), (REDIRECT, 63));
        out.assert_checksums();
    }
    for dst in [OUTSIDE, NODE, Ipv4Addr::new(10, 244, 9, 9)] {
        let frame = Frame::new(POD, dst, L4::syn(50_000, 80));
        assert_eq!(world.run("pod_egress", &frame), (OK, frame.clone()));
    }
}

#[test]
fn a_pod_cannot_send_from_anothers_address() {
    let world = World::new();
    for src in [OTHER_POD, REMOTE_POD, OUTSIDE] {
        let (verdict, _) = world.run("pod_egress", &Frame::new(src, POD, L4::syn(50_000, 80)));
        assert_eq!(verdict, SHOT);
    }
    assert_eq!(world.drops(DropReason::SpoofedSource), 3);
}

#[test]
fn an_address_without_service_is_refused_at_the_pod() {
    let world = World::new();
    let service = Ipv4Addr::new(10, 96, 9, 9);
    let (verdict, out) = world.run("pod_egress", &Frame::new(POD, service, L4::syn(50_000, 80)));
    assert_eq!((verdict, out.src, out.dst), (REDIRECT, service, POD));
    out.assert_checksums();
    assert_eq!(world.drops(DropReason::NoSuchService), 1);
}

#[test]
fn the_tunnel_delivers_to_pods_and_back_to_flows() {
    let mut world = World::new();
    let (verdict, out) = world.run("overlay_ingress", &Frame::new(FAR_POD, POD, L4::syn(50_000, 80)));
    assert_eq!((verdict, out.dst_mac), (REDIRECT, MAC_A));

    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(FAR_POD, 8_080)]);
    let (verdict, out) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    assert_eq!((verdict, out.src, out.dst), (REDIRECT, NODE, FAR_POD));
    let answer = L4::syn_ack(8_080, out.l4.ports().0);
    let (verdict, back) = world.run("overlay_ingress", &Frame::new(FAR_POD, NODE, answer));
    assert_eq!((verdict, back.src, back.dst, back.l4.ports()), (REDIRECT, LB, CLIENT, (80, 40_000)));
    back.assert_checksums();

    let (verdict, out) = world.run("overlay_egress", &Frame::new(POD, FAR_POD, L4::syn(50_000, 80)));
    assert_eq!((verdict, out.dst_mac), (OK, [9; 6]));
    let (verdict, _) = world.run("overlay_egress", &Frame::new(POD, OUTSIDE, L4::syn(50_000, 80)));
    assert_eq!((verdict, world.drops(DropReason::NoPeer)), (SHOT, 1));
}

#[test]
fn segments_are_made_to_fit_the_tunnel() {
    let world = World::new();
    // The size first, after another option, and at an odd place; 1460 becomes 1410.
    for (options, expected) in [
        ([2, 4, 5, 180, 1, 1, 1, 0], [2, 4, 5, 130, 1, 1, 1, 0]),
        ([4, 2, 2, 4, 5, 180, 1, 0], [4, 2, 2, 4, 5, 130, 1, 0]),
        ([1, 2, 4, 5, 180, 1, 1, 0], [1, 2, 4, 5, 130, 1, 1, 0]),
        // Small enough; absent; malformed.
        ([2, 4, 2, 0, 1, 1, 1, 0], [2, 4, 2, 0, 1, 1, 1, 0]),
        ([1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 0]),
        ([9, 0, 2, 4, 5, 180, 1, 0], [9, 0, 2, 4, 5, 180, 1, 0]),
        ([9, 255, 2, 4, 5, 180, 1, 0], [9, 255, 2, 4, 5, 180, 1, 0]),
    ] {
        for (program, src, dst) in [("overlay_egress", POD, FAR_POD), ("overlay_ingress", FAR_POD, POD)] {
            for l4 in [L4::syn(50_000, 80), L4::syn_ack(80, 50_000)] {
                let (_, out) = world.run(program, &Frame::new(src, dst, l4.with_options(&options)));
                let L4::Tcp { options, .. } = &out.l4 else { panic!("not TCP") };
                assert_eq!(options, &expected, "{program}");
                out.assert_checksums();
            }
        }
    }
}

#[test]
fn the_owner_of_a_load_balancer_address_answers_arp() {
    let mut world = World::new();
    let request = Arp { operation: 1, sender_mac: MAC_A, sender: CLIENT, target_mac: [0; 6], target: LB };
    assert_eq!(world.run("uplink_ingress", &Frame::arp(&request)).0, OK);
    world.maps.lb_addresses.insert(&LB.into(), &lb_address_flags::OWNED).unwrap();
    let (verdict, reply) = world.run("uplink_ingress", &Frame::arp(&request));
    assert_eq!(verdict, REDIRECT);
    assert_eq!((reply.src_mac, reply.dst_mac), (UPLINK_MAC, MAC_A));
    assert_eq!(
        reply.as_arp(),
        Arp { operation: 2, sender_mac: UPLINK_MAC, sender: LB, target_mac: MAC_A, target: CLIENT }
    );
    let other = Arp { target: Ipv4Addr::new(172, 30, 0, 131), ..request };
    assert_eq!(world.run("uplink_ingress", &Frame::arp(&other)).0, OK);
}

#[test]
fn a_udp_packet_without_checksum_stays_without() {
    let mut world = World::new();
    world.service(LB.into(), 53, proto::UDP, SCOPE_EXTERNAL, &[(POD, 5_353)]);
    let mut frame = Frame::new(CLIENT, LB, L4::udp(40_000, 53));
    frame.without_udp_checksum = true;
    let (verdict, out) = world.run("uplink_ingress", &frame);
    assert_eq!((verdict, out.dst, out.without_udp_checksum), (REDIRECT, POD, true));
}

#[test]
fn malformed_packets_pass_to_the_kernel() {
    let world = World::new();
    let whole = Frame::new(CLIENT, LB, L4::syn(40_000, 80)).bytes();
    for length in [14, 20, 33, 34, 40, 49] {
        for program in ["uplink_ingress", "uplink_egress", "pod_egress", "overlay_ingress", "overlay_egress"] {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&whole[..length]);
            let mut output = vec![0; 2_048];
            options.data_out = Some(&mut output);
            // The kernel itself refuses to test what is shorter than an Ethernet header with something behind.
            if let Ok(result) = world.datapath.classifier(program).unwrap().test_run(options) {
                assert_eq!(result.return_value, OK, "{program} on {length} bytes");
                assert_eq!(output[..result.data_size_out as usize], whole[..length]);
            }
        }
    }
}

#[test]
fn the_hops_of_a_translated_packet_are_counted() {
    let mut world = World::new();
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
    let mut frame = Frame::new(CLIENT, LB, L4::syn(40_000, 80));
    frame.ttl = 1;
    assert_eq!(world.run("uplink_ingress", &frame).0, SHOT);
    assert_eq!(world.drops(DropReason::TtlExpired), 1);
}
