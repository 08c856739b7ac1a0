//! Nodes whose agents are away, and addresses that move under open connections.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::fixture::{Cluster, Stream, eventually};
use super::services::balanced;
use super::{ask_until, slice};

const LB: &str = "172.30.0.130";
/// Longer than a node may be silent.
const LONG: Duration = Duration::from_millis(2_500);

fn exchange(streams: &mut [Stream], when: &str) {
    for stream in streams {
        stream.exchange(when);
    }
}

/// Over and over, for longer than a node may be silent.
fn exchange_for_long(streams: &mut [Stream], when: &str) {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    let begin = now();
    while now() - begin < LONG {
        exchange(streams, when);
    }
}

#[test]
fn connections_outlive_agents_and_follow_their_address() {
    let mut cluster = Cluster::new();
    let pods = ["n1", "n2", "n3"].map(|node| (cluster.pod(node, &node.replace('n', "a")), node));
    let client = cluster.client();
    cluster.put("services", &balanced(&json!({})));
    let endpoints: Vec<(&str, &str)> = pods.iter().map(|(pod, node)| (pod.address.as_str(), *node)).collect();
    cluster.put("endpointslices", &slice("web", &endpoints));
    ask_until(&client, &format!("{LB}:80"), &["a1", "a2", "a3"]);
    let owner = cluster.owner_of(LB);
    let is_owner = |cluster: &Cluster, expected: &str, when: &str| {
        cluster.forget_neighbours();
        eventually(when, || client.ask("tcp", &format!("{LB}:80")));
        assert_eq!(cluster.owner_of(LB), expected, "{when}");
    };
    let (pod, _) = &pods[2];
    let mut streams: Vec<Stream> = (0..6).map(|_| client.open(&format!("{LB}:80"))).collect();
    streams.extend([pod.open("10.96.0.20:80"), client.open("172.30.0.11:30080")]);
    exchange(&mut streams, "before");

    // Its agent is dead, its datapath is not: the address stays.
    cluster.kill_agent(&owner);
    exchange_for_long(&mut streams, "without the owner's agent");
    is_owner(&cluster, &owner, "without the owner's agent");
    // The next agent has another layout.
    cluster.start_newer_agent(&owner);
    exchange(&mut streams, "with an agent of another layout");
    is_owner(&cluster, &owner, "with an agent of another layout");

    for node in ["n1", "n2", "n3"] {
        cluster.kill_agent(node);
    }
    exchange_for_long(&mut streams, "without agents");
    for node in ["n1", "n2", "n3"] {
        cluster.start_newer_agent(node);
    }
    exchange(&mut streams, "with all agents back");
    is_owner(&cluster, &owner, "with all agents back");

    // It moves to another node and back. Connections go on, old ones and those begun between.
    cluster.set_ready(&owner, false);
    let moved_from = |cluster: &Cluster, from: &str| {
        let now = cluster.owner_of(LB);
        if now == from { Err(format!("still {from}")) } else { Ok(()) }
    };
    eventually("another owner", || moved_from(&cluster, &owner));
    exchange(&mut streams, "through another owner");
    let other = cluster.owner_of(LB);
    streams.extend((0..6).map(|_| client.open(&format!("{LB}:80"))));
    exchange(&mut streams, "through another owner, with new ones");
    cluster.kill_agent(&other);
    cluster.start_agent(&other);
    exchange(&mut streams, "through another owner whose agent was killed");
    cluster.set_ready(&owner, true);
    eventually("the first owner again", || moved_from(&cluster, &other));
    exchange(&mut streams, "back");
}
