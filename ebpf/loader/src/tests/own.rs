//! Packets of connections that the node's own processes have made, which the uplink's programs let be.

use std::net::Ipv4Addr;

use xebec_ebpf_layout::{Flow, FlowKey, FlowKind, Port, SCOPE_EXTERNAL, own_ports, proto};

use super::packet::{Frame, L4};
use super::{CLIENT, NODE, OK, OUTSIDE, REDIRECT, REMOTE_POD, World};

/// A port that the node's sockets are given, and one that they are not.
const OWN: u16 = 40_000;
const OTHER: u16 = 8_080;

/// A world in which a service has this port at the node's address, and a flow to it is known.
fn with_flow(port: u16, protocol: u8) -> World {
    let mut world = World::new();
    world.service(NODE.into(), port, protocol, SCOPE_EXTERNAL, &[(REMOTE_POD, 80)]);
    let ports = (Port::new(5_000), Port::new(port));
    let key = FlowKey {
        src: CLIENT.into(),
        dst: NODE.into(),
        src_port: ports.0,
        dst_port: ports.1,
        proto: protocol,
        padding: [0; 3],
    };
    let flow = Flow {
        src: NODE.into(),
        dst: REMOTE_POD.into(),
        src_port: Port::new(20_000),
        dst_port: Port::new(80),
        kind: FlowKind::MasqueradeForward as u8,
        flags: 0,
        padding: 0,
        service: 0,
        backend: 0,
        last_seen_s: 0,
        begun_us: 0,
    };
    world.maps.flows.insert(&key, &flow).unwrap();
    world
}

fn comes_in(world: &World, l4: L4) -> u32 {
    world.run("uplink_ingress", &Frame::new(CLIENT, NODE, l4)).0
}

#[test]
fn a_port_that_no_service_has_is_passed_unseen() {
    let world = with_flow(OWN, proto::TCP);
    // What the agent must never let be so, shows that nothing was looked up.
    assert_eq!(comes_in(&world, L4::ack(5_000, OWN)), OK);
    assert_eq!(comes_in(&world, L4::syn(5_001, OWN)), OK);
    let frame = Frame::new(NODE, OUTSIDE, L4::syn(OWN, 443));
    assert_eq!(world.run("uplink_egress", &frame), (OK, frame.clone()));
}

#[test]
fn where_a_service_may_have_such_a_port_all_are_looked_up() {
    for state in [own_ports::UNKNOWN, own_ports::SHARED] {
        let mut world = with_flow(OWN, proto::TCP);
        world.maps.own_ports.set(state).unwrap();
        assert_eq!(comes_in(&world, L4::ack(5_000, OWN)), REDIRECT);
        assert_eq!(comes_in(&world, L4::syn(5_001, OWN)), REDIRECT);
    }
}

#[test]
fn other_ports_addresses_and_packets_are_looked_up() {
    let world = with_flow(OTHER, proto::TCP);
    assert_eq!(comes_in(&world, L4::ack(5_000, OTHER)), REDIRECT);
    assert_eq!(comes_in(&world, L4::syn(5_001, OTHER)), REDIRECT);
    // Somebody else's packet, that the node forwards.
    let mut world = World::new();
    let elsewhere = Ipv4Addr::new(172, 30, 0, 130);
    world.service(elsewhere.into(), OWN, proto::TCP, SCOPE_EXTERNAL, &[(REMOTE_POD, 80)]);
    assert_eq!(world.run("uplink_ingress", &Frame::new(CLIENT, elsewhere, L4::syn(5_001, OWN))).0, REDIRECT);
}
