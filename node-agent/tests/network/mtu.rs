//! Paths that are smaller than the link.

use serde_json::json;

use super::fixture::{Cluster, eventually};
use super::services::balanced;
use super::{ask_until, slice};

#[test]
fn small_paths_are_found_and_heeded() {
    let mut cluster = Cluster::new();
    // Bridges drop what is too large for a port, without a word. Agents measure when they start.
    for (node, mtu) in [("n2", 1_400), ("n3", 1_300)] {
        cluster.narrow(node, mtu);
    }
    for node in ["n1", "n2", "n3"] {
        cluster.kill_agent(node);
        cluster.start_agent(node);
    }
    let [a1, a2, a3] = ["n1", "n2", "n3"].map(|node| cluster.pod(node, &node.replace('n', "a")));
    let expected =
        "the link carries 1500 bytes, but only 1400 bytes to 172.30.0.12, 1300 bytes to 172.31.0.13 get through";
    eventually("the paths are measured", || match cluster.path_problem("n1") {
        Some(problem) if problem == expected => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for node in ["n2", "n3"] {
        eventually("the paths are measured there", || cluster.path_problem(node).map(drop).ok_or_else(String::new));
    }

    // Segments are made to fit from the first; datagrams are after one that did not, or are fragmented.
    for (from, to) in [(&a1, &a2), (&a2, &a1), (&a1, &a3), (&a3, &a2)] {
        from.transfer(&to.address, 8_081, 1_000_000);
        eventually("a datagram of a full link's size", || {
            match from.ask_large(&format!("{}:8080", to.address), 1_472) {
                answer if answer.starts_with(&to.name) => Ok(()),
                answer => Err(answer),
            }
        });
    }
    // From outside, through a node that has the small path ahead.
    let client = cluster.client();
    cluster.put("services", &balanced(&json!({})));
    for (pod, node) in [(&a2, "n2"), (&a3, "n3")] {
        cluster.put("endpointslices", &slice("web", &[(&pod.address, node)]));
        ask_until(&client, "172.30.0.11:30080", &[&pod.name]);
        client.transfer("172.30.0.11", 30_081, 1_000_000);
        eventually("a datagram from outside", || match client.ask_large("172.30.0.11:30080", 1_472) {
            answer if answer.starts_with(&pod.name) => Ok(()),
            answer => Err(answer),
        });
    }
}
