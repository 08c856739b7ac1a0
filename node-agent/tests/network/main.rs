//! The network with real packets: nodes, pods and a client outside as network namespaces.
//!
//! ```text
//!   client 172.30.0.50 ─┐                        ┌─ n1 172.30.0.11, pods 10.244.1.0/24
//!                       ├─ bridge 172.30.0.1 ────┤
//!                       │    router              └─ n2 172.30.0.12, pods 10.244.2.0/24
//!                       └─ 172.31.0.1 ──────────── n3 172.31.0.13, pods 10.244.3.0/24 (not on the link: VXLAN)
//! ```
//!
//! Each node's agent is a process of its own (this test's binary again, [`agent`]), which runs the network and the
//! proxy against a made-up API, so that it can be killed.

mod agent;
mod changes;
mod dual_stack;
mod fixture;
mod ipv6;
mod mtu;
mod outage;
mod policy;
mod pressure;
mod scripts;
mod sctp;
mod services;
mod xdp;

use serde_json::{Value, json};

use fixture::{Cluster, Place, eventually};

fn service(name: &str, kind: &str, ip: &str, port: u16, node_port: u16) -> Value {
    let ports = json!([
        { "name": "tcp", "protocol": "TCP", "port": port, "nodePort": node_port },
        { "name": "udp", "protocol": "UDP", "port": port, "nodePort": node_port },
        { "name": "bulk", "protocol": "TCP", "port": port + 1, "nodePort": node_port + 1 },
    ]);
    json!({
        "metadata": { "namespace": "default", "name": name },
        "spec": { "type": kind, "clusterIP": ip, "clusterIPs": [ip], "ports": ports },
    })
}

fn slice(service: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({ "addresses": [ip], "nodeName": node, "conditions": { "ready": true } }))
        .collect();
    json!({
        "metadata": {
            "namespace": "default", "name": format!("{service}-1"),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [
            { "name": "tcp", "protocol": "TCP", "port": 8_080 },
            { "name": "udp", "protocol": "UDP", "port": 8_080 },
            { "name": "bulk", "protocol": "TCP", "port": 8_081 },
        ],
    })
}

/// Asks `to` over both protocols, from IPv4 sockets and from dual-stack ones, until both answers come from one of `from`; gives the addresses the servers saw.
fn ask_until(place: &Place, to: &str, from: &[&str]) -> Vec<String> {
    ["tcp", "udp", "tcp6", "udp6"]
        .into_iter()
        .map(|protocol| {
            eventually(&format!("{protocol} to {to} from {}", place.name), || {
                let answer = place.ask(protocol, to)?;
                if from.contains(&answer.server.as_str()) { Ok(answer.seen) } else { Err(format!("{answer:?}")) }
            })
        })
        .collect()
}

#[test]
fn pods_and_services_across_nodes() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let b1 = cluster.pod("n1", "b1");
    let a2 = cluster.pod("n2", "a2");
    let a3 = cluster.pod("n3", "a3");

    // Pod to pod: same node, by the link, by the tunnel; addresses kept.
    for (from, to) in [(&a1, &b1), (&b1, &a1), (&a1, &a2), (&a2, &a1), (&a1, &a3), (&a3, &a1), (&a3, &a2)] {
        let seen = ask_until(from, &format!("{}:8080", to.address), &[&to.name]);
        assert!(seen.iter().all(|seen| *seen == from.address), "{} to {}: {seen:?}", from.name, to.name);
    }
    // Large transfers: segmentation offload and its checksums.
    for to in [&b1, &a2, &a3] {
        a1.transfer(&to.address, 8_081, 3_000_000);
    }
    // Between a pod and nodes, its own and others.
    for node in ["n1", "n2", "n3"] {
        let server = cluster.host(node);
        let seen = ask_until(&a1, &format!("{}:8080", server.address), &[&server.name]);
        assert!(seen.iter().all(|seen| *seen == a1.address), "a1 to {node}: {seen:?}");
        ask_until(&server, &format!("{}:8080", a1.address), &["a1"]);
    }

    // To the outside under the node's address; but who knows a way to a pod is answered from its own.
    let client = cluster.client();
    for (pod, node) in [(&a1, "172.30.0.11"), (&a2, "172.30.0.12"), (&a3, "172.31.0.13")] {
        assert_eq!(ask_until(pod, "172.30.0.50:8080", &["client"]), [node; 4]);
    }

    cluster.route_from_outside("10.244.1.0/24", "172.30.0.11");
    assert_eq!(ask_until(&client, &format!("{}:8080", a1.address), &["a1"]), ["172.30.0.50"; 4]);

    // ClusterIP, for pods and node processes; a pod that meets itself; UDP answers come from the service's address.
    cluster.put("services", &service("web", "LoadBalancer", "10.96.0.20", 80, 30_080));
    let all = [(a1.address.as_str(), "n1"), (a2.address.as_str(), "n2"), (a3.address.as_str(), "n3")];
    cluster.put("endpointslices", &slice("web", &all));
    for place in [&a1, &b1, &a2, &a3, &cluster.host("n1"), &cluster.host("n3")] {
        ask_until(place, "10.96.0.20:80", &["a1", "a2", "a3"]);
        for protocol in ["tcp", "udp", "tcp6", "udp6"] {
            let peer = place.ask(protocol, "10.96.0.20:80").unwrap().peer;
            assert_eq!(peer, "10.96.0.20:80", "the server's address to {protocol} in {}", place.name);
        }
    }
    cluster.put("endpointslices", &slice("web", &all[..1]));
    ask_until(&a1, "10.96.0.20:80", &["a1"]);

    // NodePort from outside: a local endpoint sees the client, one elsewhere the node; so do clients inside.
    for node in ["172.30.0.11", "172.30.0.12", "172.31.0.13"] {
        let seen = ask_until(&client, &format!("{node}:30080"), &["a1"]);
        let expected = if node == "172.30.0.11" { "172.30.0.50" } else { node };
        assert_eq!(seen, [expected; 4], "through {node}");
        ask_until(&b1, &format!("{node}:30080"), &["a1"]);
    }
    // The tunnel in the way of a service.
    cluster.put("endpointslices", &slice("web", &all[2..]));
    assert_eq!(ask_until(&client, "172.30.0.11:30080", &["a3"]), ["172.30.0.11"; 4]);
    // Much data, by every way.
    for (number, pod) in [&a1, &a2, &a3].into_iter().enumerate() {
        cluster.put("endpointslices", &slice("web", &all[number..=number]));
        ask_until(&client, "172.30.0.11:30080", &[&pod.name]);
        client.transfer("172.30.0.11", 30_081, 3_000_000);
        b1.transfer("10.96.0.20", 81, 3_000_000);
    }
    // Endpoints in the host's network: this node's own, and another's.
    cluster.put("endpointslices", &slice("web", &[("172.30.0.11", "n1")]));
    assert_eq!(ask_until(&client, "172.30.0.11:30080", &["n1-host"]), ["172.30.0.50"; 4]);
    assert_eq!(ask_until(&client, "172.30.0.12:30080", &["n1-host"]), ["172.30.0.12"; 4]);
    ask_until(&a1, "10.96.0.20:80", &["n1-host"]);
    ask_until(&a3, "10.96.0.20:80", &["n1-host"]);

    // LoadBalancer: one node answers ARP; all endpoints are met.
    let mut balanced = service("web", "LoadBalancer", "10.96.0.20", 80, 30_080);
    balanced["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "172.30.0.130" }] } });
    cluster.put("services", &balanced);
    cluster.put("endpointslices", &slice("web", &all));
    ask_until(&client, "172.30.0.130:80", &["a1", "a2", "a3"]);
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..40 {
        met.insert(client.ask("tcp", "172.30.0.130:80").unwrap().server);
    }
    assert_eq!(met.len(), 3, "{met:?}");
    ask_until(&a2, "172.30.0.130:80", &["a1", "a2", "a3"]);
    // Its owner dies: another node answers.
    let owner = cluster.owner_of("172.30.0.130");
    cluster.set_ready(&owner, false);
    eventually("another owner", || {
        let now = cluster.owner_of("172.30.0.130");
        if now == owner { Err(format!("still {owner}")) } else { Ok(()) }
    });
    ask_until(&client, "172.30.0.130:80", &["a1", "a2", "a3"]);
    cluster.set_ready(&owner, true);

    // No endpoint: refused at once, inside and outside.
    cluster.put("endpointslices", &slice("web", &[]));
    for (place, to) in [
        (&b1, "10.96.0.20:80"),
        (&cluster.host("n2"), "10.96.0.20:80"),
        (&client, "172.30.0.12:30080"),
        (&client, "172.30.0.130:80"),
    ] {
        for protocol in ["tcp", "udp", "tcp6", "udp6"] {
            eventually(&format!("{protocol} refusal of {to} to {}", place.name), || match place.ask(protocol, to) {
                Err(error) if error.contains("refused") => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }
    // The service gone, its address is nobody's: refused all the same.
    cluster.delete("services", "web");
    eventually("refusal of an address without service", || match b1.ask("tcp", "10.96.0.20:80") {
        Err(error) if error.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // A pod that goes leaves nothing behind.
    cluster.remove_pod("n1", "b1");
    for place in [&a1, &a2, &a3, &client] {
        let error = place.ask("tcp", &format!("{}:8080", b1.address)).unwrap_err();
        assert!(error.contains("No route to host"), "{} is told at once: {error}", place.name);
    }
    cluster.assert_no_trace("n1", &b1.address);
}

#[test]
fn connections_outlive_the_agent() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let a2 = cluster.pod("n2", "a2");
    let client = cluster.client();
    let mut web = service("web", "LoadBalancer", "10.96.0.20", 80, 30_080);
    web["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "172.30.0.130" }] } });
    cluster.put("services", &web);
    cluster.put("endpointslices", &slice("web", &[(&a2.address, "n2")]));
    for (place, to) in [(&a1, "10.96.0.20:80"), (&client, "172.30.0.11:30080"), (&a1, "172.30.0.50:8080")] {
        ask_until(place, to, &["a2", "client"]);
    }

    // Long connections: by ClusterIP, by NodePort through n1 to n2, and masqueraded.
    let mut streams = [a1.open("10.96.0.20:80"), client.open("172.30.0.11:30080"), a1.open("172.30.0.50:8080")];
    let exchange = |streams: &mut [fixture::Stream], when: &str| {
        for stream in streams {
            stream.exchange(when);
        }
    };
    exchange(&mut streams, "before");
    for round in 0..3 {
        cluster.kill_agent("n1");
        exchange(&mut streams, "without agent");
        // New connections too: the maps and the programs are the kernel's.
        assert_eq!(a1.ask("tcp", "10.96.0.20:80").unwrap().server, "a2");
        assert_eq!(client.ask("udp", "172.30.0.11:30080").unwrap().server, "a2");
        cluster.start_agent("n1");
        exchange(&mut streams, &format!("after restart {round}"));
    }
    // A pod keeps its address over a restart, and the agent goes on from where the world is now.
    assert_eq!(cluster.pod("n1", "a1-again").address.split('.').next(), Some("10"));
    cluster.put("endpointslices", &slice("web", &[(&a1.address, "n1")]));
    ask_until(&client, "172.30.0.11:30080", &["a1"]);
    exchange(&mut streams, "on the endpoint that is no longer one");

    // `xebec down`: nothing stays attached.
    cluster.unload("n1");
    assert!(a1.ask("tcp", "10.96.0.20:80").is_err());
}
