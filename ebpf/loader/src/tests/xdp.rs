//! The uplink's program in the driver beside the one behind it: what the first carries, it carries as the second would, and
//! what it does not carry, it does not touch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use aya::programs::{TestRun as _, TestRunOptions};
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use xebec_ebpf_layout::{
    Addr, Config, Flow, FlowKey, Port, SCOPE_EXTERNAL, Service, ServiceKey, flow_counters, flow_flags, proto,
    service_flags,
};

use super::packet::{self, Frame, L4};
use super::packet6::{Frame6, fragment, hop_by_hop};
use super::upgrade::Bpffs;
use super::{CLIENT, FAR_POD, LB, NODE, OUTSIDE, POD, REDIRECT, REMOTE_POD, UPLINK_MAC, World, v6};
use crate::{Datapath, Packet, Tracer};

const PASS: u32 = 2;
const TX: u32 = 3;
/// FIN and ACK.
const LAST: u8 = 1 | packet::ACK;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// A server on the link that is no pod.
const SERVER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 77);
const SERVER6: Ipv6Addr = v6::host(0x172, 0, 0x77);
/// On the link, but nobody has seen it.
const STRANGER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 78);
const NODE_PORT: u16 = 30_080;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace with the node's uplink; all neighbours are known.
fn make_link() -> u32 {
    ip("link add up0 address 02:00:00:00:00:11 type veth peer name other");
    for (device, address) in [("up0", "172.30.0.11/24"), ("up0", "fd00:10:172::11/64")] {
        ip(&format!("address add {address} dev {device} {}", if address.contains(':') { "nodad" } else { "" }));
    }
    ip("link set other up");
    ip("link set up0 up");
    let neighbours: [(IpAddr, [u8; 6]); 6] = [
        (CLIENT.into(), CLIENT_MAC),
        (v6::CLIENT.into(), CLIENT_MAC),
        (super::PEER.into(), PEER_MAC),
        (v6::PEER.into(), PEER_MAC),
        (SERVER.into(), SERVER_MAC),
        (SERVER6.into(), SERVER_MAC),
    ];
    for (address, mac) in neighbours {
        ip(&format!("neighbour add {address} lladdr 02:00:00:00:00:{:02x} dev up0 nud permanent", mac[5]));
    }
    ip("route add default via 172.30.0.1");
    ip("route add default via fd00:10:172::1");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    nix::net::if_::if_nametoindex("up0").unwrap()
}

/// Runs a test in a network namespace of its own, with a node's configuration.
fn apart(test: impl FnOnce(Config) + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test(Config { uplink_ifindex: make_link(), ..v6::config() });
    };
    if let Err(panic) = std::thread::scope(|scope| scope.spawn(run).join()) {
        std::panic::resume_unwind(panic);
    }
}

fn on_a_link(test: impl FnOnce(World) + Send) {
    apart(|config| test(v6::world_with(&config)));
}

fn run(world: &World, input: &[u8]) -> (u32, Vec<u8>) {
    let mut output = vec![0; 4_096];
    let mut options = TestRunOptions::new();
    options.data_in = Some(input);
    options.data_out = Some(&mut output);
    let result = world.datapath.xdp().unwrap().test_run(options).unwrap();
    output.truncate(result.data_size_out as usize);
    (result.return_value, output)
}

/// Repeats what must happen within one second of the clock that flows are stamped by.
fn within_a_second<T>(mut attempt: impl FnMut() -> T) -> T {
    let second = || clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap().tv_sec();
    loop {
        let begin = second();
        let result = attempt();
        if second() == begin {
            return result;
        }
    }
}

fn frame(src: IpAddr, dst: IpAddr, l4: L4) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Frame::new(src, dst, l4).with_dst_mac(UPLINK_MAC).bytes(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Frame6 { dst_mac: UPLINK_MAC, ..Frame6::new(src, dst, l4) }.bytes(),
        mixed => panic!("{mixed:?}"),
    }
}

/// A packet of a flow.
fn of(key: &FlowKey, l4: L4) -> Vec<u8> {
    frame(key.src.to_ip(), key.dst.to_ip(), l4.with_ports(key.src_port.get(), key.dst_port.get()))
}

fn begin(key: &FlowKey) -> Vec<u8> {
    of(key, if key.proto == proto::TCP { L4::syn(0, 0) } else { L4::udp(0, 0) })
}

/// One that goes on.
fn next(key: &FlowKey) -> Vec<u8> {
    of(key, if key.proto == proto::TCP { L4::ack(0, 0) } else { L4::udp(0, 0) })
}

fn key(src: IpAddr, src_port: u16, dst: IpAddr, dst_port: u16, proto: u8) -> FlowKey {
    let (src_port, dst_port) = (Port::new(src_port), Port::new(dst_port));
    FlowKey { src: src.into(), dst: dst.into(), src_port, dst_port, proto, padding: [0; 3] }
}

/// Flows of both families and protocols, through node ports and load balancer addresses, to pods of a peer and to a server
/// that is no pod, from a client on the link and from one behind a gateway.
fn flows(world: &mut World) -> Vec<(FlowKey, Flow)> {
    for protocol in [proto::TCP, proto::UDP] {
        world.service(Addr::UNSPECIFIED_V4, NODE_PORT, protocol, SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
        world.service(LB.into(), 80, protocol, SCOPE_EXTERNAL, &[(SERVER, 8_080)]);
        let pods = [(v6::REMOTE_POD, 8_080)];
        v6::service(world, Addr::UNSPECIFIED, NODE_PORT, protocol, SCOPE_EXTERNAL, &pods);
        v6::service(world, v6::addr(v6::LB), 80, protocol, SCOPE_EXTERNAL, &[(SERVER6, 8_080)]);
        let clients: [[IpAddr; 3]; 4] = [
            [CLIENT.into(), NODE.into(), LB.into()],
            [OUTSIDE.into(), NODE.into(), LB.into()],
            [v6::CLIENT.into(), v6::NODE.into(), v6::LB.into()],
            [v6::OUTSIDE.into(), v6::NODE.into(), v6::LB.into()],
        ];
        for [client, node, balancer] in clients {
            for (to, port) in [(node, NODE_PORT), (balancer, 80)] {
                let first = begin(&key(client, 40_000, to, port, protocol));
                assert_eq!(world.run_bytes("uplink_ingress", &first).0, REDIRECT);
            }
        }
    }
    let flows = world.maps.flows.entries().unwrap();
    assert_eq!(flows.len(), 32);
    flows
}

/// Whose neighbour a packet to `dst` goes to.
fn neighbour(dst: IpAddr) -> [u8; 6] {
    let is = |v4: Ipv4Addr, v6: Ipv6Addr| dst == IpAddr::V4(v4) || dst == IpAddr::V6(v6);
    match () {
        () if is(REMOTE_POD, v6::REMOTE_POD) => PEER_MAC,
        () if is(SERVER, SERVER6) => SERVER_MAC,
        () => CLIENT_MAC,
    }
}

fn assert_checksums(bytes: &[u8]) {
    if bytes[12..14] == [8, 0] {
        Frame::parse(bytes).assert_checksums();
    } else {
        Frame6::parse(bytes);
    }
}

#[test]
fn the_program_runs_in_the_driver_and_goes_with_its_link() {
    on_a_link(|mut world| {
        assert_eq!(crate::driver::name("up0").unwrap(), "veth");
        assert!(crate::driver::name("nobody").is_err());
        let up0 = nix::net::if_::if_nametoindex("up0").unwrap();
        let shown = || {
            let output = Command::new("ip").args(["-d", "link", "show", "up0"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        world.datapath.attach_uplink_xdp(up0).unwrap();
        // Not "xdpgeneric".
        assert!(shown().contains(" xdp "), "{}", shown());
        // An interface whose driver cannot.
        ip("link add br0 type bridge");
        let bridge = nix::net::if_::if_nametoindex("br0").unwrap();
        let error = world.datapath.attach_uplink_xdp(bridge).unwrap_err().to_string();
        assert!(error.contains("uplink_xdp") && error.contains("not supported"), "{error}");
        drop(world);
        assert!(!shown().contains(" xdp "), "{}", shown());
    });
}

#[test]
fn a_neighbour_that_has_another_address_gets_what_is_for_it() {
    on_a_link(|mut world| {
        let (key, flow) = flows(&mut world)[0];
        let packet = next(&key);
        let carried = || {
            within_a_second(|| {
                world.run_bytes("uplink_ingress", &packet);
                run(&world, &packet)
            })
        };
        let (verdict, output) = carried();
        assert_eq!((verdict, &output[..6]), (TX, &neighbour(flow.dst.to_ip())[..]));
        for place in [
            CLIENT.to_string(),
            v6::CLIENT.to_string(),
            super::PEER.to_string(),
            v6::PEER.to_string(),
            SERVER.to_string(),
            SERVER6.to_string(),
        ] {
            ip(&format!("neighbour replace {place} lladdr 02:00:00:00:00:99 dev up0 nud permanent"));
        }
        // The kernel is asked again in the next second.
        let begin = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().tv_sec();
        while carried().1[5] != 0x99 {
            assert!(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().tv_sec() - begin < 5);
        }
    });
}

#[test]
fn both_programs_make_the_same_of_a_packet() {
    on_a_link(|mut world| {
        let mut carried = 0;
        for (key, flow) in flows(&mut world) {
            let packets = match key.proto {
                proto::TCP => vec![L4::ack(0, 0), L4::ack(0, 0).with_payload(0), L4::ack(0, 0).with_payload(1_400)],
                _ => vec![L4::udp(0, 0), L4::udp(0, 0).with_payload(0), L4::udp(0, 0).with_payload(1_400)],
            };
            let with_options = L4::ack(0, 0).with_options(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
            let packets = packets.into_iter().chain((key.proto == proto::TCP).then_some(with_options));
            for packet in packets.map(|l4| of(&key, l4)) {
                let (slow, fast) = within_a_second(|| {
                    carried += 1;
                    (world.run_bytes("uplink_ingress", &packet), run(&world, &packet))
                });
                assert_eq!((slow.0, fast.0), (REDIRECT, TX), "{key:?}");
                assert_eq!(slow.1[12..], fast.1[12..], "{key:?}");
                assert_eq!(fast.1[..12], [neighbour(flow.dst.to_ip()), UPLINK_MAC].concat(), "{key:?}");
                assert_checksums(&fast.1);
            }
        }
        // Attempts that ran into the next second may have been carried or not.
        let counted = world.maps.flow_counters.sum(flow_counters::CARRIED_BY_XDP).unwrap();
        assert!((112..=carried).contains(&counted), "{counted} of {carried}");
    });
}

#[test]
fn a_trace_tells_what_it_would_carry_and_carries_nothing() {
    apart(|config| {
        let bpffs = Bpffs(tempfile::tempdir().unwrap());
        let (datapath, maps) = Datapath::load(bpffs.0.path(), &config).unwrap();
        let mut world = World::furnish(datapath, maps);
        let mut tracer = Tracer::load(bpffs.0.path(), &config).unwrap();
        for (port, backend, is_carried) in [(NODE_PORT, REMOTE_POD, true), (NODE_PORT + 1, POD, false)] {
            world.service(Addr::UNSPECIFIED_V4, port, proto::TCP, SCOPE_EXTERNAL, &[(backend, 8_080)]);
            let key = key(CLIENT.into(), 40_000, NODE.into(), port, proto::TCP);
            assert!(!tracer.is_sent_back_by_driver(&next(&key)).unwrap(), "nothing has begun");
            let told = within_a_second(|| {
                tracer.run("uplink_ingress", &Packet { bytes: &begin(&key), ..Packet::default() }).unwrap();
                tracer.is_sent_back_by_driver(&next(&key)).unwrap()
            });
            assert_eq!(told, is_carried, "{port}");
        }
        assert_eq!(world.maps.flows.count().unwrap(), 0);
        assert_eq!(world.maps.flow_counters.sum(flow_counters::CARRIED_BY_XDP).unwrap(), 0);
    });
}

#[test]
fn a_udp_packet_without_a_checksum_keeps_none() {
    on_a_link(|mut world| {
        for (key, _) in flows(&mut world) {
            let (IpAddr::V4(src), IpAddr::V4(dst), proto::UDP) = (key.src.to_ip(), key.dst.to_ip(), key.proto) else {
                continue;
            };
            let l4 = L4::udp(key.src_port.get(), key.dst_port.get());
            let mut packet = Frame::new(src, dst, l4).with_dst_mac(UPLINK_MAC);
            packet.without_udp_checksum = true;
            let packet = packet.bytes();
            let (slow, fast) = within_a_second(|| (world.run_bytes("uplink_ingress", &packet), run(&world, &packet)));
            assert_eq!((fast.0, &fast.1[12..]), (TX, &slow.1[12..]));
            assert!(Frame::parse(&fast.1).without_udp_checksum);
        }
    });
}

#[test]
fn the_steps_of_a_connection_are_noted_as_ever() {
    on_a_link(|mut world| {
        for (key, flow) in flows(&mut world) {
            if key.proto != proto::TCP {
                continue;
            }
            let flags = |key: &FlowKey| world.maps.flows.get(key).unwrap().unwrap().flags;
            let other =
                FlowKey { src: flow.dst, dst: flow.src, src_port: flow.dst_port, dst_port: flow.src_port, ..key };
            let is_reply = key.dst_port.get() != NODE_PORT && key.dst_port.get() != 80;
            if is_reply {
                let answer = of(&key, L4::syn_ack(0, 0));
                within_a_second(|| {
                    world.run_bytes("uplink_ingress", &answer);
                    assert_eq!(run(&world, &answer).0, TX);
                });
                assert_eq!(flags(&key) & flow_flags::REPLIED, flow_flags::REPLIED);
            } else {
                // A new connection is for who decides.
                assert_eq!(run(&world, &begin(&key)), (PASS, begin(&key)));
            }
            let last = of(&key, L4::tcp(0, 0, LAST));
            within_a_second(|| {
                world.run_bytes("uplink_ingress", &next(&key));
                run(&world, &last)
            });
            for side in [&key, &other] {
                assert_eq!(flags(side) & flow_flags::CLOSING, flow_flags::CLOSING, "{side:?}");
            }
        }
    });
}

#[test]
fn each_flow_passes_the_kernels_neighbour_table_now_and_then() {
    on_a_link(|mut world| {
        flows(&mut world);
        let keys: Vec<FlowKey> =
            (0..16).map(|n| key(CLIENT.into(), 41_000 + n, NODE.into(), NODE_PORT, proto::TCP)).collect();
        for key in &keys {
            world.run_bytes("uplink_ingress", &begin(key));
        }
        let entry = |world: &World, key: &FlowKey| world.maps.flows.get(key).unwrap().unwrap();
        let passed: Vec<FlowKey> = within_a_second(|| {
            for key in &keys {
                let unused = Flow { last_seen_s: 1, ..entry(&world, key) };
                world.maps.flows.insert(key, &unused).unwrap();
            }
            keys.iter().filter(|key| run(&world, &next(key)).0 == PASS).copied().collect()
        });
        assert_eq!(passed.len(), 1, "one of sixteen in a second: {passed:?}");
        assert_eq!(entry(&world, &passed[0]).last_seen_s, 1, "who carries it notes that it was seen");
        // Behind, it is noted, and the next is carried again.
        let next = next(&passed[0]);
        let verdict = within_a_second(|| {
            world.run_bytes("uplink_ingress", &next);
            run(&world, &next).0
        });
        assert_eq!(verdict, TX);
    });
}

/// IPv4 with other bytes at a place of the IP header, its checksum right.
fn with_ip(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    packet[24..26].fill(0);
    let check = !packet::sum(&packet[14..34]);
    packet[24..26].copy_from_slice(&check.to_be_bytes());
    packet
}

/// With the sum that a packet has which leaves the rest to the network card.
fn with_partial_checksum(key: &FlowKey) -> Vec<u8> {
    let mut packet = next(key);
    let protocol = key.proto;
    let (addresses, l4) = if key.src.is_v4() { (26..34, 34) } else { (22..54, 54) };
    let mut pseudo = packet[addresses].to_vec();
    pseudo.extend([0, protocol]);
    pseudo.extend(((packet.len() - l4) as u16).to_be_bytes());
    let at = l4 + if protocol == proto::TCP { 16 } else { 6 };
    packet[at..at + 2].copy_from_slice(&packet::sum(&pseudo).to_be_bytes());
    packet
}

#[test]
fn what_is_not_plain_is_not_touched() {
    on_a_link(|mut world| {
        let known = flows(&mut world);
        let udp = key(CLIENT.into(), 40_000, NODE.into(), NODE_PORT, proto::UDP);
        let udp6 = key(v6::CLIENT.into(), 40_000, v6::NODE.into(), NODE_PORT, proto::UDP);
        let frame6 = || Frame6 { dst_mac: UPLINK_MAC, ..Frame6::new(v6::CLIENT, v6::NODE, L4::udp(40_000, NODE_PORT)) };
        let mut vlan = next(&udp);
        vlan.splice(12..12, [0x81, 0, 0, 7]);
        let mut elsewhere = next(&udp);
        elsewhere[0] ^= 4;
        let mut options = next(&udp);
        options.splice(34..34, [1, 1, 1, 0]);
        let mut longer = with_ip(next(&udp), 2, &((next(&udp).len() - 14 + 1) as u16).to_be_bytes());
        longer.truncate(next(&udp).len());
        let echo = |l4| frame(CLIENT.into(), NODE.into(), l4);
        let mut hop = next(&udp6);
        hop[21] = 1;
        let mut cases = vec![
            ("a VLAN", vlan),
            ("another's MAC address", elsewhere),
            ("options", with_ip(options, 0, &[0x46])),
            ("a first fragment", with_ip(next(&udp), 6, &[0x20, 0])),
            ("a later fragment", with_ip(next(&udp), 6, &[0, 5])),
            ("its last hop", with_ip(next(&udp), 8, &[1])),
            ("its last hop, IPv6", hop),
            ("longer than the frame", longer),
            ("shorter than its headers", with_ip(next(&udp), 2, &[0, 27])),
            ("no whole header", next(&udp)[..40].to_vec()),
            ("too large", of(&udp, L4::udp(0, 0).with_payload(1_473))),
            ("too large, IPv6", of(&udp6, L4::udp(0, 0).with_payload(1_453))),
            ("extensions", frame6().with(hop_by_hop()).bytes()),
            ("a fragment, IPv6", frame6().with(fragment(0, true, 7)).bytes()),
            ("a ping", echo(L4::echo(8, 1))),
            ("an error", echo(L4::Icmp { kind: 3, code: 1, id: 0, sequence: 0, body: next(&udp)[14..].to_vec() })),
            ("nobody's", next(&key(CLIENT.into(), 40_001, NODE.into(), NODE_PORT, proto::UDP))),
        ];
        cases.extend(known.iter().map(|(key, _)| ("a partial checksum", with_partial_checksum(key))));
        for (what, packet) in cases {
            assert_eq!(run(&world, &packet), (PASS, packet), "{what}");
        }
        assert_eq!(world.maps.flow_counters.sum(flow_counters::CARRIED_BY_XDP).unwrap(), 0);
        // Of those, no more than what they differ in kept them back.
        let verdict = within_a_second(|| {
            world.run_bytes("uplink_ingress", &next(&udp));
            run(&world, &next(&udp)).0
        });
        assert_eq!(verdict, TX);
    });
}

#[test]
fn other_ways_are_left_to_who_knows_them() {
    on_a_link(|mut world| {
        let cases = [("here", POD, 0), ("by the tunnel", FAR_POD, 0), ("to who is not there", STRANGER, 0)];
        let direct = ("direct return", REMOTE_POD, service_flags::DIRECT_RETURN);
        for (number, (what, backend, flags)) in cases.into_iter().chain([direct]).enumerate() {
            let port = 80 + number as u16;
            let id = world.service(LB.into(), port, proto::TCP, SCOPE_EXTERNAL, &[(backend, 8_080)]);
            let service =
                ServiceKey { addr: LB.into(), port: Port::new(port), proto: proto::TCP, scope: SCOPE_EXTERNAL };
            let marked = Service { id, set: id, count: 1, flags, ..Service::default() };
            world.maps.services.insert(&service, &marked).unwrap();
            let key = key(CLIENT.into(), 40_000, LB.into(), port, proto::TCP);
            world.run_bytes("uplink_ingress", &begin(&key));
            let packet = next(&key);
            let (slow, fast) = within_a_second(|| (world.run_bytes("uplink_ingress", &packet), run(&world, &packet)));
            assert_eq!((slow.0, fast), (REDIRECT, (PASS, packet)), "{what}");
        }
        // An endpoint of datagrams that is gone.
        let id = world.service(LB.into(), 53, proto::UDP, SCOPE_EXTERNAL, &[(REMOTE_POD, 5_353)]);
        let key = key(CLIENT.into(), 40_000, LB.into(), 53, proto::UDP);
        let verdict = |world: &World| {
            within_a_second(|| {
                world.run_bytes("uplink_ingress", &next(&key));
                run(world, &next(&key)).0
            })
        };
        assert_eq!(verdict(&world), TX);
        world.maps.backends.remove(&id).unwrap();
        assert_eq!(verdict(&world), PASS);
    });
}

#[test]
fn no_packet_is_carried_that_the_other_program_would_not_send_so() {
    on_a_link(|mut world| {
        let flows = flows(&mut world);
        let changes = proptest::collection::vec((0_usize..80, any::<u8>()), 0..3);
        let made =
            (0..flows.len(), any::<[u8; 3]>(), 0_usize..200, changes, proptest::option::weighted(0.1, 14_usize..90));
        let carried = std::cell::Cell::new(0_u32);
        let law =
            |(which, [flags, ttl, tos], payload, changes, end): (usize, [u8; 3], usize, Vec<_>, Option<usize>)| {
                let key = &flows[which].0;
                let l4 = if key.proto == proto::TCP { L4::tcp(0, 0, flags) } else { L4::udp(0, 0) };
                let mut packet = of(key, l4.with_payload(payload));
                if key.src.is_v4() {
                    packet = with_ip(with_ip(packet, 8, &[ttl]), 1, &[tos]);
                } else {
                    packet[21] = ttl;
                }
                for (at, byte) in changes {
                    if let Some(place) = packet.get_mut(at) {
                        *place = byte;
                    }
                }
                packet.truncate(end.unwrap_or(packet.len()));
                let (verdict, output) = run(&world, &packet);
                if verdict == PASS {
                    prop_assert_eq!(output, packet);
                    return Ok(());
                }
                carried.set(carried.get() + 1);
                let slow = world.run_bytes("uplink_ingress", &packet);
                prop_assert_eq!((verdict, slow.0), (TX, REDIRECT));
                prop_assert_eq!(&slow.1[12..], &output[12..]);
                Ok(())
            };
        let mut runner = TestRunner::new(ProptestConfig::with_cases(3_000));
        runner.run(&made, law).unwrap();
        assert!(carried.get() > 300, "only {} were carried", carried.get());
    });
}
