//! The pods' programs on packets of isolated pods.

use xebec_ebpf_layout::{DENY_ALL, Direction, EVENT_DROP, EVENT_NEW_FLOW, RuleKey, verdict};

use super::*;

const WEB: [u32; 2] = [7, 7];
const FRIEND: [u32; 2] = [9, 1];
const STRANGER: [u32; 2] = [9, 2];
const OFFICE: [u32; 2] = [9, 3];

/// Which way a packet goes, seen from [`POD`].
const IN: &str = "pod_ingress";
const OUT: &str = "pod_egress";

impl World {
    /// Puts [`POD`] under these sets.
    fn isolate(&mut self, ingress: [u32; 2], egress: [u32; 2]) {
        let pod = self.maps.local_pods.get(&POD.into()).unwrap().unwrap();
        self.maps.local_pods.insert(&POD.into(), &LocalPod { ingress, egress, ..pod }).unwrap();
        self.maps.identities.insert(&OTHER_POD.into(), &FRIEND).unwrap();
        self.maps.identities.insert(&REMOTE_POD.into(), &STRANGER).unwrap();
        self.maps.blocks.insert(Ipv4Addr::new(198, 51, 100, 0).into(), 96 + 24, &OFFICE).unwrap();
        self.new_revision();
    }

    fn new_revision(&mut self) {
        let revision = self.maps.revision.get().unwrap();
        self.maps.revision.set(revision + 1).unwrap();
    }

    fn rule(&mut self, identity: [u32; 2], proto: u8, port: u16, length: u32, verdict: u32) {
        let key = RuleKey { set: WEB, identity, proto, padding: 0, port: Port::new(port) };
        self.maps.rules.insert(key, length, &verdict).unwrap();
    }

    fn allow(&mut self, identity: [u32; 2], port: u16) {
        self.rule(identity, proto::TCP, port, RuleKey::EXACT, verdict::ALLOW);
        self.rule(identity, proto::UDP, port, RuleKey::EXACT, verdict::ALLOW);
    }

    fn passes(&self, program: &'static str, peer: Ipv4Addr, l4: L4) -> bool {
        let frame = if program == IN { Frame::new(peer, POD, l4) } else { Frame::new(POD, peer, l4) };
        let (verdict, out) = self.run(program, &frame);
        match verdict {
            SHOT => false,
            OK => {
                assert_eq!(out, frame);
                true
            }
            REDIRECT => true,
            other => panic!("verdict {other}"),
        }
    }
}

#[test]
fn without_policies_all_passes_and_nothing_is_remembered() {
    let world = World::new();
    for peer in [OTHER_POD, REMOTE_POD, OUTSIDE, NODE] {
        for program in [IN, OUT] {
            assert!(world.passes(program, peer, L4::syn(40_000, 80)));
        }
    }
    assert!(world.maps.connections.entries().unwrap().is_empty());
}

#[test]
fn an_isolated_pod_hears_whom_its_rules_name_and_answers() {
    for l4 in both() {
        let mut world = World::new();
        world.isolate(WEB, DENY_ALL);
        world.allow(FRIEND, 80);
        world.allow(OFFICE, 80);
        assert!(!world.passes(OUT, OTHER_POD, l4.answer(80, 40_000)), "an answer to nothing");
        for peer in [OTHER_POD, OUTSIDE] {
            assert!(world.passes(IN, peer, l4.clone()));
            assert!(world.passes(OUT, peer, l4.answer(80, 40_000)));
            assert!(world.passes(IN, peer, l4.clone().established()));
            assert!(!world.passes(IN, peer, l4.clone().with_ports(40_000, 81)), "another port");
        }
        for peer in [REMOTE_POD, FAR_POD, CLIENT, PEER] {
            assert!(!world.passes(IN, peer, l4.clone()), "{peer}");
            assert!(!world.passes(OUT, peer, l4.clone()), "{peer}");
        }
        assert_eq!(world.drops(DropReason::PolicyIngress), 6);
        assert_eq!(world.drops(DropReason::PolicyEgress), 5);
    }
}

#[test]
fn the_node_reaches_its_pods_and_is_reached() {
    let mut world = World::new();
    world.isolate(DENY_ALL, DENY_ALL);
    assert!(world.passes(IN, NODE, L4::syn(40_000, 80)));
    assert!(world.passes(OUT, NODE, L4::udp(40_000, 10_053)));
    assert!(!world.passes(IN, PEER, L4::syn(40_000, 80)), "another node is a stranger");
}

#[test]
fn isolation_in_one_direction_leaves_the_other_and_its_answers_alone() {
    for l4 in both() {
        let mut world = World::new();
        world.isolate(DENY_ALL, [0; 2]);
        assert!(world.passes(OUT, REMOTE_POD, l4.clone()));
        assert!(world.passes(IN, REMOTE_POD, l4.answer(80, 40_000)));
        assert!(!world.passes(IN, REMOTE_POD, l4.answer(81, 40_000)));
        assert!(!world.passes(IN, REMOTE_POD, L4::syn(80, 40_000).with_ports(80, 40_001)));

        let mut world = World::new();
        world.isolate([0; 2], DENY_ALL);
        assert!(world.passes(IN, REMOTE_POD, l4.clone()));
        assert!(world.passes(OUT, REMOTE_POD, l4.answer(80, 40_000)));
        assert!(!world.passes(OUT, REMOTE_POD, l4.answer(80, 40_001)));
    }
}

#[test]
fn a_syn_the_other_way_is_no_answer() {
    let mut world = World::new();
    world.isolate(DENY_ALL, [0; 2]);
    assert!(world.passes(OUT, REMOTE_POD, L4::syn(40_000, 80)));
    assert!(!world.passes(IN, REMOTE_POD, L4::syn(80, 40_000)));
    assert!(world.passes(IN, REMOTE_POD, L4::syn_ack(80, 40_000)));
}

#[test]
fn ports_ranges_protocols_and_the_most_specific_rule() {
    let mut world = World::new();
    world.isolate(WEB, [0; 2]);
    // 8000 to 8015 from anybody; every UDP port from friends, but not 53, and none of the first kind.
    world.rule([0; 2], proto::TCP, 8_000, RuleKey::EXACT - 4, verdict::ALLOW);
    world.rule(FRIEND, 0, 0, RuleKey::ANY_PROTO, verdict::DENY);
    world.rule(FRIEND, proto::UDP, 0, RuleKey::ANY_PORT, verdict::ALLOW);
    world.rule(FRIEND, proto::UDP, 53, RuleKey::EXACT, verdict::DENY);
    for (port, expected) in [(7_999, false), (8_000, true), (8_015, true), (8_016, false)] {
        assert_eq!(world.passes(IN, REMOTE_POD, L4::syn(40_000, port)), expected, "{port}");
        assert_eq!(world.passes(IN, OUTSIDE, L4::syn(40_000, port)), expected, "{port}");
        assert!(!world.passes(IN, REMOTE_POD, L4::udp(40_000, port)));
        assert!(!world.passes(IN, OTHER_POD, L4::syn(40_000, port)));
        assert!(world.passes(IN, OTHER_POD, L4::udp(40_000, port)));
    }
    assert!(!world.passes(IN, OTHER_POD, L4::udp(40_000, 53)));
    assert!(!world.passes(IN, OTHER_POD, L4::echo(8, 7)));
    world.rule(FRIEND, 0, 0, RuleKey::ANY_PROTO, verdict::ALLOW);
    assert!(world.passes(IN, OTHER_POD, L4::echo(8, 7)));
    assert!(world.passes(IN, OTHER_POD, L4::Sctp { src: 40_000, dst: 80 }));
    assert!(!world.passes(IN, REMOTE_POD, L4::Sctp { src: 40_000, dst: 80 }));
    world.rule([0; 2], proto::SCTP, 80, RuleKey::EXACT, verdict::ALLOW);
    assert!(world.passes(IN, REMOTE_POD, L4::Sctp { src: 40_000, dst: 80 }));
    assert!(!world.passes(IN, REMOTE_POD, L4::Sctp { src: 40_000, dst: 81 }));
}

#[test]
fn an_echo_is_answered_and_errors_about_connections_come_through() {
    let mut world = World::new();
    world.isolate(DENY_ALL, [0; 2]);
    assert!(!world.passes(IN, REMOTE_POD, L4::echo(0, 77)));
    assert!(world.passes(OUT, REMOTE_POD, L4::echo(8, 77)));
    assert!(world.passes(IN, REMOTE_POD, L4::echo(0, 77)));
    assert!(!world.passes(IN, REMOTE_POD, L4::echo(8, 77)));
    // "Fragmentation needed" by some router, about what the pod sent.
    let error =
        |sent: &Frame| L4::Icmp { kind: 3, code: 4, id: 0, sequence: 1_400, body: sent.bytes()[14..62].to_vec() };
    let sent = Frame::new(POD, FAR_POD, L4::ack(40_000, 80));
    assert!(!world.passes(IN, CLIENT, error(&sent)));
    assert!(world.passes(OUT, FAR_POD, L4::syn(40_000, 80)));
    assert!(world.passes(IN, CLIENT, error(&sent)));
    // And what a pod tells of a packet that it got.
    world.isolate([0; 2], DENY_ALL);
    let got = Frame::new(FAR_POD, POD, L4::udp(50_000, 99));
    assert!(!world.passes(OUT, FAR_POD, error(&got)));
    assert!(world.passes(IN, FAR_POD, L4::udp(50_000, 99)));
    assert!(world.passes(OUT, FAR_POD, error(&got)));
}

#[test]
fn a_new_policy_judges_connections_that_stand() {
    let mut world = World::new();
    world.isolate(WEB, DENY_ALL);
    world.allow(FRIEND, 80);
    assert!(world.passes(IN, OTHER_POD, L4::syn(40_000, 80)));
    assert!(world.passes(OUT, OTHER_POD, L4::syn_ack(80, 40_000)));
    world
        .maps
        .rules
        .remove(
            RuleKey { set: WEB, identity: FRIEND, proto: proto::TCP, padding: 0, port: Port::new(80) },
            RuleKey::EXACT,
        )
        .unwrap();
    assert!(world.passes(IN, OTHER_POD, L4::ack(40_000, 80)), "not before the revision is raised");
    world.new_revision();
    assert!(!world.passes(IN, OTHER_POD, L4::ack(40_000, 80)));
    assert!(!world.passes(OUT, OTHER_POD, L4::ack(80, 40_000)));
}

#[test]
fn connections_from_before_a_pod_was_isolated_are_judged_by_their_client() {
    let mut world = World::new();
    world.isolate(DENY_ALL, [0; 2]);
    // Nothing is known to have been before: an answer to nobody.
    assert!(!world.passes(IN, REMOTE_POD, L4::ack(5_432, 40_000)));
    assert!(world.passes(OUT, REMOTE_POD, L4::ack(80, 40_000)), "harmless");
    assert!(!world.passes(IN, REMOTE_POD, L4::ack(40_000, 80)));

    let mut world = World::new();
    let pod = world.maps.local_pods.get(&POD.into()).unwrap().unwrap();
    let isolated_at_s = crate::kernel_clock_s();
    world.maps.local_pods.insert(&POD.into(), &LocalPod { isolated_at_s, ..pod }).unwrap();
    world.isolate(DENY_ALL, [0; 2]);
    assert!(world.passes(IN, REMOTE_POD, L4::ack(5_432, 40_000)), "the pod is the database's client");
    assert!(world.passes(OUT, REMOTE_POD, L4::ack(40_000, 5_432)));
    assert!(!world.passes(OUT, REMOTE_POD, L4::ack(80, 40_001)), "its own client was cut off");
    assert!(!world.passes(IN, REMOTE_POD, L4::ack(40_001, 80)));
    assert!(!world.passes(IN, REMOTE_POD, L4::syn(5_432, 40_002)));
}

#[test]
fn fragments_follow_their_first() {
    let mut world = World::new();
    world.isolate(WEB, [0; 2]);
    world.allow(FRIEND, 53);
    let fragment = |peer: Ipv4Addr, port: u16, id: u16, offset: u16| {
        let mut bytes = Frame::new(peer, POD, L4::udp(40_000, port)).bytes();
        bytes[18..20].copy_from_slice(&id.to_be_bytes());
        bytes[20..22].copy_from_slice(&(if offset == 0 { 0x2000 } else { offset }).to_be_bytes());
        let (verdict, _) = world.run_bytes(IN, &bytes);
        verdict == OK
    };
    assert!(!fragment(OTHER_POD, 53, 5, 100), "its first was not seen");
    assert!(fragment(OTHER_POD, 53, 5, 0));
    assert!(fragment(OTHER_POD, 53, 5, 100));
    assert!(!fragment(OTHER_POD, 53, 6, 100));
    assert!(!fragment(OTHER_POD, 54, 7, 0));
    assert!(!fragment(OTHER_POD, 54, 7, 100));
    assert!(!fragment(REMOTE_POD, 53, 5, 100));
}

#[test]
fn a_pod_under_policies_is_not_reached_by_the_short_way() {
    let mut world = World::new();
    world.isolate(DENY_ALL, [0; 2]);
    let (verdict, out) = world.run("uplink_ingress", &Frame::new(REMOTE_POD, POD, L4::syn(40_000, 80)));
    assert_eq!((verdict, out.dst_mac), (REDIRECT, MAC_A));
    assert!(!world.passes(IN, REMOTE_POD, out.l4));
}

#[test]
fn flows_are_reported_while_somebody_watches_and_drops_always() {
    let mut world = World::new();
    world.isolate(WEB, [0; 2]);
    world.allow(FRIEND, 80);
    assert!(world.passes(IN, OTHER_POD, L4::syn(40_000, 80)));
    assert_eq!(world.maps.events.next(), None);
    assert!(!world.passes(IN, REMOTE_POD, L4::syn(40_000, 80)));
    let dropped = world.maps.events.next().unwrap();
    assert_eq!((dropped.kind, dropped.reason), (EVENT_DROP, DropReason::PolicyIngress as u8));
    assert_eq!((dropped.direction, dropped.src), (Direction::Ingress as u8, REMOTE_POD.into()));

    world.maps.watched.set(crate::kernel_clock_s() + 60).unwrap();
    assert!(world.passes(IN, OTHER_POD, L4::syn(40_001, 80)));
    let begun = world.maps.events.next().unwrap();
    assert_eq!((begun.kind, begun.direction, begun.src_port.get()), (EVENT_NEW_FLOW, Direction::Ingress as u8, 40_001));
    assert!(world.passes(IN, OTHER_POD, L4::ack(40_001, 80)), "the rest of it is no news");
    assert_eq!(world.maps.events.next(), None);
    // Where no policy is, too.
    let plain = World::new();
    assert!(plain.passes(OUT, REMOTE_POD, L4::syn(40_000, 80)));
    let mut plain = plain;
    assert_eq!(plain.maps.events.next(), None);
    plain.maps.watched.set(crate::kernel_clock_s() + 60).unwrap();
    assert!(plain.passes(OUT, REMOTE_POD, L4::syn(40_000, 80)));
    assert_eq!(plain.maps.events.next().unwrap().direction, Direction::Egress as u8);
}
