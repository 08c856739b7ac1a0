//! NodePort in the uplink's driver, beside a program that sends everything back unseen: the most that the link and the driver
//! can do.
//!
//! The link is a veth pair in a network namespace of the bench's own. The kernel itself makes the packets, faster than any
//! process could, and both ends handle them in their drivers.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, unshare};
use xebec_ebpf_loader::Datapath;
use xebec_ebpf_loader::layout::{
    Addr, Config, Flow, FlowKey, FlowKind, Peer, Port, YARDSTICK_BYTES, node_address_flags, proto,
};
use xebec_ebpf_loader::yardstick::Yardstick;

use super::Args;
use crate::bench::figure::{Figure, percentile};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 5);
const PORTS: [u16; 4] = [40_000, 30_080, 10_240, 8_080];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Packets at a time, between looks at the clock.
const ROUND: u32 = 20_000;

/// Measures.
pub fn figure(args: &Args) -> anyhow::Result<Figure> {
    let rounds = args.rounds;
    let mut ratios = in_own_namespace(rounds, Duration::from_millis(args.time_ms))?;
    let name = "NodePort by XDP: packets against a bare XDP_TX";
    Ok(Figure::at_least(name, "", percentile(&mut ratios, 50), 0.7, rounds))
}

/// The link goes with its namespace, and that with the thread.
fn in_own_namespace(rounds: usize, time: Duration) -> anyhow::Result<Vec<f64>> {
    let measured = std::thread::spawn(move || ratios(rounds, time)).join();
    measured.map_err(|_| anyhow::anyhow!("the measuring thread died"))?
}

/// One ratio for each round, of two measurements right after each other.
fn ratios(rounds: usize, time: Duration) -> anyhow::Result<Vec<f64>> {
    let (node, wire) = make_link()?;
    let mut datapath = node_with_a_flow(node)?;
    // Now and then a packet takes the longer way, by these, so that the kernel looks whether the neighbour is still there.
    datapath.attach_uplink(node)?;
    let yardstick = Yardstick::load(&packet())?;
    let _sink = yardstick.sink(wire)?;
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let bare = {
            let _program = yardstick.back(node)?;
            per_second(&yardstick, wire, time)?
        };
        let _program = yardstick.uplink(&datapath, node)?;
        ratios.push(per_second(&yardstick, wire, time)? / bare);
    }
    Ok(ratios)
}

/// Packets that come back in a second.
#[expect(clippy::disallowed_methods, reason = "what is measured is this machine's own time")]
fn per_second(yardstick: &Yardstick, wire: u32, time: Duration) -> anyhow::Result<f64> {
    // What an earlier program left in queues and caches.
    yardstick.send(wire, ROUND)?;
    let (before, begin) = (yardstick.arrived()?, Instant::now());
    let mut sent = 0_u64;
    while begin.elapsed() < time {
        yardstick.send(wire, ROUND)?;
        sent += u64::from(ROUND);
    }
    let (arrived, elapsed) = (yardstick.arrived()? - before, begin.elapsed());
    ensure!(arrived * 10 > sent * 9, "of {sent} packets only {arrived} came back");
    #[expect(clippy::cast_precision_loss, reason = "some millions")]
    Ok(arrived as f64 / elapsed.as_secs_f64())
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().context("cannot run ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A node's uplink and the other end.
fn make_link() -> anyhow::Result<(u32, u32)> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (try sudo)")?;
    ip("link add node address 02:00:00:00:00:01 type veth peer name wire")?;
    ip(&format!("address add {NODE}/24 dev node"))?;
    ip("link set node up")?;
    ip("link set wire up")?;
    ip(&format!("neighbour add {PEER} lladdr 02:00:00:00:00:02 dev node nud permanent"))?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch on forwarding")?;
    let index = |name| nix::net::if_::if_nametoindex(name).with_context(|| format!("no interface {name}"));
    Ok((index("node")?, index("wire")?))
}

/// The datapath of a node that knows a connection from a client to a pod of its peer.
fn node_with_a_flow(uplink: u32) -> anyhow::Result<Datapath> {
    let word = |ip: Ipv4Addr| Addr::from(ip).v4_word();
    let [client_port, node_port, nat_port, pod_port] = PORTS.map(Port::new);
    let config = Config {
        node: NODE.into(),
        uplink_ifindex: uplink,
        uplink_mac: NODE_MAC,
        cluster_net: word(Ipv4Addr::new(10, 244, 0, 0)),
        cluster_mask: word(Ipv4Addr::new(255, 255, 0, 0)),
        pod_net: word(Ipv4Addr::new(10, 244, 1, 0)),
        pod_mask: word(Ipv4Addr::new(255, 255, 255, 0)),
        ..Config::ZERO
    };
    let (datapath, mut maps) = Datapath::load_unpinned(&config)?;
    maps.node_addresses.insert(&NODE.into(), &node_address_flags::LOCAL)?;
    let peer = Peer { node: PEER.into(), flags: 0, vtep_mac: [0; 6], mtu: 0 };
    maps.peers.insert(Ipv4Addr::new(10, 244, 2, 0).into(), 96 + 24, &peer)?;
    let key = FlowKey {
        src: CLIENT.into(),
        dst: NODE.into(),
        src_port: client_port,
        dst_port: node_port,
        proto: proto::TCP,
        padding: [0; 3],
    };
    let flow = Flow {
        src: NODE.into(),
        dst: POD.into(),
        src_port: nat_port,
        dst_port: pod_port,
        kind: FlowKind::ServiceForward as u8,
        flags: 0,
        padding: 0,
        service: 1,
        backend: 1,
        last_seen_s: 0,
        begun_us: 0,
    };
    maps.flows.insert(&key, &flow)?;
    Ok(datapath)
}

/// A segment of that connection, without data.
fn packet() -> [u8; YARDSTICK_BYTES] {
    let ethernet = [&NODE_MAC[..], &[2, 0, 0, 0, 0, 3, 8, 0]].concat();
    let ip = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, proto::TCP, 0, 0];
    let addresses = [CLIENT.octets(), NODE.octets()].concat();
    let ports = PORTS[..2].iter().flat_map(|port| port.to_be_bytes());
    // Sequence numbers, ACK, a window, and a checksum that nobody will look at.
    let tcp = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, 16, 0x20, 0, 0x12, 0x34, 0, 0];
    let mut packet = [0; YARDSTICK_BYTES];
    let bytes = ethernet.into_iter().chain(ip).chain(addresses).chain(ports).chain(tcp);
    packet.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_comes_back_from_both_programs() {
        // Less than nine tenths of the packets would be an error.
        let ratios = in_own_namespace(1, Duration::from_millis(20)).unwrap();
        assert!(ratios.len() == 1 && ratios[0] > 0.0, "{ratios:?}");
    }
}
