//! Who lives, and who has an address.

use std::net::Ipv4Addr;

use xebec_ebpf_layout::{ALIVE_PORT, ALIVE_QUESTION, Addr, SCOPE_EXTERNAL, lb_address_flags, proto};

use super::packet::{Arp, Frame, L4, MAC_A, MAC_B};
use super::{CLIENT, FAR_POD, LB, NODE, OK, PEER, POD, REDIRECT, REMOTE_POD, UPLINK_MAC, World};

fn question(src: u16, payload: &[u8]) -> Frame {
    Frame::new(PEER, NODE, L4::Udp { src, dst: ALIVE_PORT, payload: payload.to_vec() })
}

#[test]
fn the_datapath_answers_that_it_lives() {
    let world = World::new();
    let (verdict, answer) = world.run("uplink_ingress", &question(40_000, &ALIVE_QUESTION));
    assert_eq!(verdict, REDIRECT);
    assert_eq!((answer.src, answer.dst, answer.l4.ports()), (NODE, PEER, (ALIVE_PORT, 40_000)));
    assert_eq!((answer.src_mac, answer.dst_mac), (MAC_B, MAC_A));
    answer.assert_checksums();
    let L4::Udp { payload, .. } = &answer.l4 else { panic!("not UDP: {answer:?}") };
    assert_eq!(payload[..], ALIVE_QUESTION);
}

#[test]
fn what_is_no_question_is_the_kernels() {
    let world = World::new();
    // An answer, which two nodes would else send each other for ever; other words; cut short; to somebody else.
    let mut to_other = question(40_000, &ALIVE_QUESTION);
    (to_other.src, to_other.dst) = (NODE, PEER);
    let others =
        [question(ALIVE_PORT, &ALIVE_QUESTION), question(40_000, b"something"), question(40_000, b"x"), to_other];
    for frame in others {
        assert_eq!(world.run("uplink_ingress", &frame), (OK, frame));
    }
}

#[test]
fn an_address_that_another_node_announces_is_given_up() {
    let mut world = World::new();
    let owned = |world: &World| world.maps.lb_addresses.get(&LB.into()).unwrap().is_some();
    world.maps.lb_addresses.insert(&LB.into(), &lb_address_flags::OWNED).unwrap();
    let own = Arp { operation: 1, sender_mac: UPLINK_MAC, sender: LB, target_mac: [0; 6], target: LB };
    assert_eq!(world.run("uplink_ingress", &Frame::arp(&own)).0, OK);
    assert!(owned(&world), "its own announcement, come back");
    let others = Arp { sender_mac: MAC_A, ..own };
    assert_eq!(world.run("uplink_ingress", &Frame::arp(&others)).0, OK);
    assert!(!owned(&world));
}

/// What a pod sends to a service of its own node's address is a client's, though it came by the uplink once.
#[test]
fn a_pod_does_not_follow_a_flow_from_outside() {
    let mut world = World::new();
    world.service(Addr::UNSPECIFIED_V4, 30_080, proto::TCP, SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
    let spoofed = Frame::new(POD, NODE, L4::tcp(40_000, 30_080, 16));
    assert_eq!(world.run("uplink_ingress", &spoofed).0, REDIRECT);
    assert_eq!(world.run("pod_egress", &spoofed), (OK, spoofed));
}

#[test]
fn what_belongs_to_no_connection_here_goes_to_the_former_owner() {
    let mut world = World::new();
    world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
    let there = Ipv4Addr::new(10, 244, 2, 0);
    world.maps.former_owners.insert(&LB.into(), &there.into()).unwrap();

    let stray = Frame::new(CLIENT, LB, L4::ack(40_000, 80));
    let (verdict, handed) = world.run("uplink_ingress", &stray);
    assert_eq!((verdict, handed.src, handed.dst, handed.ttl), (REDIRECT, CLIENT, LB, 63));
    assert_eq!(handed.src_mac, [10, 244, 2, 0, 0, 0], "where to, and no port");
    handed.assert_checksums();
    assert!(world.flow_kinds().is_empty());
    let (verdict, addressed) = world.run("overlay_egress", &handed);
    assert_eq!((verdict, addressed.dst_mac), (OK, [9; 6]));

    // Connections that begin here stay here.
    let (_, out) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_001, 80)));
    assert_eq!(out.dst, REMOTE_POD);
    let (_, out) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::ack(40_001, 80)));
    assert_eq!(out.dst, REMOTE_POD);
}

#[test]
fn the_former_owner_goes_on_with_what_it_knows() {
    for backend in [POD, REMOTE_POD, FAR_POD] {
        let mut world = World::new();
        world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(backend, 8_080)]);
        let (_, first) = world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
        let handed = |port| Frame::new(CLIENT, LB, L4::ack(port, 80)).with_src_mac([10, 244, 1, 0, 0, 0]);
        let (verdict, out) = world.run("overlay_ingress", &handed(40_000));
        assert_eq!((verdict, out.src, out.dst), (REDIRECT, first.src, backend));
        assert_eq!(out.l4.ports(), first.l4.ports());
        out.assert_checksums();
        // What it does not know it treats as if it had come here in the first place; it does not hand it on.
        let (verdict, out) = world.run("overlay_ingress", &handed(40_002));
        assert_eq!((verdict, out.dst), (REDIRECT, backend));
        out.assert_checksums();
    }
}
