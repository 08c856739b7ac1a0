//! Packets that are too large for the way to a peer.

use std::net::Ipv4Addr;

use xebec_ebpf_layout::{Peer, SCOPE_EXTERNAL, peer_flags, proto};

use super::packet::{Frame, L4};
use super::{CLIENT, FAR_PEER, FAR_POD, LB, OK, PEER, POD, REDIRECT, REMOTE_POD, World};

/// Both peers behind paths of 1,400 bytes.
fn world() -> World {
    let mut world = World::new();
    for (net, node, flags, mtu) in [(2, PEER, 0, 1_400), (3, FAR_PEER, peer_flags::TUNNEL, 1_350)] {
        let peer = Peer { node: node.into(), flags, vtep_mac: [9; 6], mtu };
        world.maps.peers.insert(Ipv4Addr::new(10, 244, net, 0).into(), 96 + 24, &peer).unwrap();
    }
    world
}

/// The segment size that a SYN announces.
fn announced(frame: &Frame) -> u16 {
    let L4::Tcp { options, .. } = &frame.l4 else { panic!("not TCP: {frame:?}") };
    u16::from_be_bytes([options[2], options[3]])
}

#[test]
fn who_sends_too_much_is_told_how_much_fits() {
    for (to, mtu) in [(REMOTE_POD, 1_400_usize), (FAR_POD, 1_350)] {
        let world = world();
        // A UDP header is 8 bytes long.
        let frame = |size: usize| Frame::new(POD, to, L4::udp(40_000, 80).with_payload(size - 28));
        assert_eq!(world.run("pod_egress", &frame(mtu)).1.dst, to);
        let (verdict, told) = world.run("pod_egress", &frame(mtu + 1));
        assert_eq!((verdict, told.src, told.dst), (REDIRECT, to, POD));
        told.assert_checksums();
        let L4::Icmp { kind: 3, code: 4, id: 0, sequence, body } = &told.l4 else { panic!("{told:?}") };
        assert_eq!(usize::from(*sequence), mtu);
        assert_eq!(body[..], frame(mtu + 1).bytes()[14..14 + 40]);
        // What may be fragmented is.
        let mut bytes = frame(mtu + 1).bytes();
        bytes[20] = 0;
        let check = !super::packet::sum(&[&bytes[14..24], &[0, 0], &bytes[26..34]].concat());
        bytes[24..26].copy_from_slice(&check.to_be_bytes());
        assert_eq!(world.run_bytes("pod_egress", &bytes), (OK, bytes));
    }
}

#[test]
fn segments_are_made_to_fit() {
    for (to, size) in [(REMOTE_POD, 1_360), (FAR_POD, 1_310)] {
        let mut world = world();
        world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(to, 8_080)]);
        let syn = |announced: [u8; 2]| L4::syn(40_000, 80).with_options(&[2, 4, announced[0], announced[1]]);
        for (program, src, dst) in [("pod_egress", POD, to), ("uplink_ingress", CLIENT, LB)] {
            let (_, out) = world.run(program, &Frame::new(src, dst, syn([0x05, 0xb4])));
            assert_eq!((out.dst, announced(&out)), (to, size), "{program}");
            out.assert_checksums();
            let (_, out) = world.run(program, &Frame::new(src, dst, syn([0x02, 0x18])));
            assert_eq!(announced(&out), 0x218, "{program}: what is small enough stays");
        }
        let (verdict, told) =
            world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::ack(40_000, 80).with_payload(1_460)));
        assert_eq!((verdict, told.src, told.dst, told.l4.proto()), (REDIRECT, LB, CLIENT, proto::ICMP));
        told.assert_checksums();
    }
}
