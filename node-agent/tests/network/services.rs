//! What services promise: who is served, by whom, and what happens when an endpoint or a node goes.

use serde_json::{Value, json};

use crate::fixture::{Cluster, Place, eventually};
use crate::{ask_until, service, slice};

const WEB: &str = "10.96.0.20:80";

/// `service` with these fields of its spec.
fn with(mut service: Value, fields: &Value) -> Value {
    for (key, field) in fields.as_object().unwrap() {
        service["spec"][key] = field.clone();
    }
    service
}

pub fn balanced(fields: &Value) -> Value {
    let mut service = with(service("web", "LoadBalancer", "10.96.0.20", 80, 30_080), fields);
    service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "172.30.0.130" }] } });
    service
}

/// Who answers `place` in so many asks, one after the other.
fn met(place: &Place, to: &str, times: usize) -> std::collections::BTreeSet<String> {
    (0..times).map(|_| place.ask("tcp", to).unwrap().server).collect()
}

#[test]
fn clients_are_served_as_the_service_says() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let b1 = cluster.pod("n1", "b1");
    let a2 = cluster.pod("n2", "a2");
    let client = cluster.client();
    let all = [(a1.address.as_str(), "n1"), (b1.address.as_str(), "n1"), (a2.address.as_str(), "n2")];
    let servers = ["a1", "b1", "a2"];

    // Session affinity: one endpoint for each client, until it goes.
    cluster.put("services", &balanced(&json!({ "sessionAffinity": "ClientIP" })));
    cluster.put("endpointslices", &slice("web", &all));
    for (place, to) in [(&a1, WEB), (&client, "172.30.0.11:30080"), (&client, "172.30.0.130:80")] {
        ask_until(place, to, &servers);
        let first = met(place, to, 8);
        assert_eq!(first.len(), 1, "{} stays with one: {first:?}", place.name);
        let first = first.into_iter().next().unwrap();
        let rest: Vec<_> = all.iter().zip(servers).filter(|(_, name)| *name != first).map(|(e, _)| *e).collect();
        cluster.put("endpointslices", &slice("web", &rest));
        let others: Vec<&str> = servers.into_iter().filter(|name| *name != first).collect();
        eventually("another endpoint", || {
            let now = place.ask("tcp", to)?.server;
            if others.contains(&now.as_str()) { Ok(()) } else { Err(now) }
        });
        assert_eq!(met(place, to, 8).len(), 1, "and stays with that");
        cluster.put("endpointslices", &slice("web", &all));
    }

    // Policies on a live service: only this node's endpoints.
    cluster.put(
        "services",
        &balanced(&json!({ "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 31_999 })),
    );
    eventually("internal policy Local", || {
        let met = met(&a2, WEB, 8);
        if met == ["a2".to_owned()].into() { Ok(()) } else { Err(format!("{met:?}")) }
    });
    let seen = ask_until(&client, "172.30.0.12:30080", &["a2"]);
    assert_eq!(seen, ["172.30.0.50"; 4], "the client's address is kept");
    for (node, expected) in [("172.30.0.11", "200 2"), ("172.30.0.12", "200 1"), ("172.31.0.13", "503 0")] {
        eventually("the health check", || {
            let answer = client.http(&format!("http://{node}:31999/"));
            let body = answer.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
            let named = body.contains(r#""namespace": "default""#) && body.contains(r#""name": "web""#);
            if answer.starts_with(expected) && named { Ok(()) } else { Err(answer) }
        });
    }

    // Source ranges: of load balancer addresses only.
    cluster.put("services", &balanced(&json!({ "loadBalancerSourceRanges": ["192.0.2.0/24", "172.30.0.64/26"] })));
    eventually("a client that is not served", || match client.ask("tcp", "172.30.0.130:80") {
        Err(error) if error.contains("timed out") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    ask_until(&client, "172.30.0.11:30080", &servers);
    cluster.put("services", &balanced(&json!({ "loadBalancerSourceRanges": ["172.30.0.50/32"] })));
    ask_until(&client, "172.30.0.130:80", &servers);

    // Datagrams in fragments, there and back, to an endpoint here and to one elsewhere.
    for (endpoint, name) in all.iter().zip(servers) {
        cluster.put("services", &balanced(&json!({})));
        cluster.put("endpointslices", &slice("web", &[*endpoint]));
        eventually("a large datagram", || {
            let answer = client.ask_large("172.30.0.11:30080", 4_000);
            if answer.starts_with(name) { Ok(()) } else { Err(answer) }
        });
    }

    // Endpoints that do not listen: what their kernels say reaches clients as the service's word.
    for endpoint in &all {
        let mut deaf = slice("web", &[*endpoint]);
        deaf["ports"][1]["port"] = json!(9_999);
        cluster.put("endpointslices", &deaf);
        for (place, to) in [(&client, "172.30.0.11:30080"), (&client, "172.30.0.130:80"), (&b1, WEB)] {
            eventually(&format!("a refusal by {endpoint:?} to {}", place.name), || match place.ask("udp", to) {
                Err(error) if error.contains("refused") => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }
    cluster.put("endpointslices", &slice("web", &all));

    // A port of the node for one pod.
    let pod = |phase: &str| {
        json!({
            "metadata": { "namespace": "default", "name": "a1" },
            "spec": { "nodeName": "n1", "containers": [{ "ports": [
                { "containerPort": 8_080, "hostPort": 8_090 },
                { "containerPort": 8_080, "hostPort": 8_090, "protocol": "UDP" },
            ] }] },
            "status": { "phase": phase, "podIP": a1.address },
        })
    };
    cluster.put("pods", &pod("Running"));
    assert_eq!(ask_until(&client, "172.30.0.11:8090", &["a1"]), ["172.30.0.50"; 4]);
    ask_until(&b1, "172.30.0.11:8090", &["a1"]);
    ask_until(&cluster.host("n1"), "172.30.0.11:8090", &["a1"]);
    // At the node's own loopback address, but not at everybody's.
    ask_until(&cluster.host("n1"), "127.0.0.1:8090", &["a1"]);
    assert!(b1.ask("tcp", "127.0.0.1:8090").is_err_and(|error| error.contains("refused")));
    cluster.put("pods", &pod("Succeeded"));
    eventually("the port is free again", || match client.ask("tcp", "172.30.0.11:8090") {
        Err(error) if error.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn datagram_clients_move_when_their_endpoint_goes() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let a2 = cluster.pod("n2", "a2");
    let b1 = cluster.pod("n1", "b1");
    cluster.put("services", &service("web", "ClusterIP", "10.96.0.20", 80, 30_080));
    let all = [(a1.address.as_str(), "n1"), (a2.address.as_str(), "n2")];
    cluster.put("endpointslices", &slice("web", &all));
    ask_until(&b1, WEB, &["a1", "a2"]);
    let host = cluster.host("n1");
    let client = cluster.client();
    let places = [(&b1, WEB), (&host, WEB), (&client, "172.30.0.11:30080"), (&client, "172.31.0.13:30080")];
    let mut sockets: Vec<_> =
        places.iter().flat_map(|(place, to)| [true, false].map(|connected| place.datagrams(to, connected))).collect();
    let first: Vec<String> = sockets.iter_mut().map(|socket| socket.ask()).collect();
    for (socket, first) in sockets.iter_mut().zip(&first) {
        assert!((0..5).all(|_| socket.ask() == *first), "a socket stays with its endpoint");
    }
    // Another endpoint joins: nobody moves.
    cluster.put("endpointslices", &slice("web", &[all[0], all[1], (b1.address.as_str(), "n1")]));
    ask_until(&host, WEB, &["b1"]);
    for (socket, first) in sockets.iter_mut().zip(&first) {
        assert_eq!(socket.ask(), *first, "and stays when others join");
    }
    // They go, though they would still answer.
    cluster.put("endpointslices", &slice("web", &[(b1.address.as_str(), "n1")]));
    for socket in &mut sockets {
        eventually("the socket moves", || match socket.ask().as_str() {
            "b1" => Ok(()),
            other => Err(other.to_owned()),
        });
    }
}

#[test]
fn with_direct_return_clients_keep_their_address_and_a_node_can_die() {
    let mut cluster = Cluster::new();
    let a2 = cluster.pod("n2", "a2");
    let a3 = cluster.pod("n3", "a3");
    let client = cluster.client();
    let mut web = balanced(&json!({}));
    web["metadata"]["annotations"] = json!({ "xebec.io/load-balancer-mode": "dsr" });
    cluster.put("services", &web);
    // On the first node's link, and behind the tunnel.
    for (pod, node) in [(&a2, "n2"), (&a3, "n3")] {
        cluster.put("endpointslices", &slice("web", &[(&pod.address, node)]));
        assert_eq!(ask_until(&client, "172.30.0.11:30080", &[&pod.name]), ["172.30.0.50"; 4]);
        client.transfer("172.30.0.11", 30_081, 3_000_000);
        let answer = client.ask_large("172.30.0.11:30080", 4_000);
        assert!(answer.starts_with(&pod.name), "{answer}");
    }
    ask_until(&client, "172.30.0.130:80", &["a3"]);
    let owner = cluster.owner_of("172.30.0.130");
    assert!(["n1", "n2"].contains(&owner.as_str()), "an owner on the client's link: {owner}");
    let mut stream = client.open("172.30.0.130:80");
    stream.exchange("before");
    cluster.plug(&owner, false);
    let begin = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    eventually("another owner", || {
        let now = client.ask("tcp", "172.30.0.130:80")?;
        if now.server == "a3" { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let end = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let seconds = (end.tv_sec() - begin.tv_sec()) as f64 + (end.tv_nsec() - begin.tv_nsec()) as f64 / 1e9;
    println!("the address moved within {seconds:.2} s");
    assert!(seconds < 4.0, "{seconds} s, one attempt of at most 2 s included");
    stream.exchange("through the other node");
    cluster.plug(&owner, true);
}
