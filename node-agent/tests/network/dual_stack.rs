//! IPv6 beside IPv4, with real packets.

use serde_json::{Value, json};

use crate::fixture::{Cluster, Place, eventually};

/// Asks over both protocols until both answers come from one of `from`; gives the addresses the servers saw.
pub fn ask_until(place: &Place, to: &str, from: &[&str]) -> Vec<String> {
    ["tcp", "udp"]
        .into_iter()
        .map(|protocol| {
            eventually(&format!("{protocol} to {to} from {}", place.name), || {
                let answer = place.ask(protocol, to)?;
                if from.contains(&answer.server.as_str()) { Ok(answer.seen) } else { Err(format!("{answer:?}")) }
            })
        })
        .collect()
}

fn service(extra: &Value) -> Value {
    let ports = json!([
        { "name": "tcp", "protocol": "TCP", "port": 80, "nodePort": 30_080 },
        { "name": "udp", "protocol": "UDP", "port": 80, "nodePort": 30_080 },
        { "name": "bulk", "protocol": "TCP", "port": 81, "nodePort": 30_081 },
    ]);
    let mut service = json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00:10:96::20"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", "ports": ports,
        },
        "status": { "loadBalancer": { "ingress": [{ "ip": "172.30.0.130" }, { "ip": "fd00:172:30::130" }] } },
    });
    for (key, field) in extra.as_object().unwrap() {
        service["spec"][key] = field.clone();
    }
    service
}

pub fn slice(family: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoint =
        |(ip, node): &(&str, &str)| json!({ "addresses": [ip], "nodeName": node, "conditions": { "ready": true } });
    json!({
        "metadata": {
            "namespace": "default", "name": format!("web-{}", family.to_lowercase()),
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": family,
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<Value>>(),
        "ports": [
            { "name": "tcp", "protocol": "TCP", "port": 8_080 },
            { "name": "udp", "protocol": "UDP", "port": 8_080 },
            { "name": "bulk", "protocol": "TCP", "port": 8_081 },
        ],
    })
}

#[test]
fn pods_and_services_of_both_families() {
    let mut cluster = Cluster::dual_stack();
    let a1 = cluster.pod("n1", "a1");
    let b1 = cluster.pod("n1", "b1");
    let a2 = cluster.pod("n2", "a2");
    let a3 = cluster.pod("n3", "a3");
    assert!(a1.address6.starts_with("fd00:10:244:1::"), "{}", a1.address6);

    // Pod to pod: same node, by the link, by the tunnel; addresses kept. The other family is as it was.
    for (from, to) in [(&a1, &b1), (&a1, &a2), (&a2, &a1), (&a1, &a3), (&a3, &a1), (&a3, &a2)] {
        let seen = ask_until(from, &format!("{}:8080", to.address6), &[&to.name]);
        assert!(seen.iter().all(|seen| *seen == from.address6), "{} to {}: {seen:?}", from.name, to.name);
        let seen = ask_until(from, &format!("{}:8080", to.address), &[&to.name]);
        assert!(seen.iter().all(|seen| *seen == from.address), "{} to {}: {seen:?}", from.name, to.name);
    }
    // Large transfers: segmentation offload and its checksums; and datagrams in fragments.
    for to in [&b1, &a2, &a3] {
        a1.transfer(&to.address6, 8_081, 3_000_000);
        // Nobody on the way fragments IPv6: the first one that is too large for the tunnel is lost, and its sender is told.
        eventually(&format!("a large datagram to {}", to.name), || {
            let answer = a1.ask_large(&format!("{}:8080", to.address6), 5_000);
            if answer.starts_with(&to.name) { Ok(()) } else { Err(answer) }
        });
    }
    // Between a pod and nodes, its own and others.
    for node in ["n1", "n2", "n3"] {
        let server = cluster.host(node);
        let seen = ask_until(&a1, &format!("{}:8080", server.address6), &[&server.name]);
        assert!(seen.iter().all(|seen| *seen == a1.address6), "a1 to {node}: {seen:?}");
        ask_until(&server, &format!("{}:8080", a1.address6), &["a1"]);
    }
    // To the outside under the node's address.
    let client = cluster.client();
    for (pod, node) in [(&a1, "fd00:172:30::11"), (&a2, "fd00:172:30::12"), (&a3, "fd00:172:31::13")] {
        assert_eq!(ask_until(pod, &format!("{}:8080", client.address6), &["client"]), [node; 2]);
    }

    // ClusterIP, for pods and node processes; a pod that meets itself; UDP answers come from the service's address.
    cluster.put("services", &service(&json!({})));
    let all6 = [(a1.address6.as_str(), "n1"), (a2.address6.as_str(), "n2"), (a3.address6.as_str(), "n3")];
    cluster.put("endpointslices", &slice("IPv4", &[(&a1.address, "n1")]));
    cluster.put("endpointslices", &slice("IPv6", &all6));
    for place in [&a1, &b1, &a2, &a3, &cluster.host("n1"), &cluster.host("n3")] {
        ask_until(place, "fd00:10:96::20:80", &["a1", "a2", "a3"]);
        for protocol in ["tcp", "udp"] {
            let peer = place.ask(protocol, "fd00:10:96::20:80").unwrap().peer;
            assert_eq!(peer, "fd00:10:96::20:80", "the server's address to {protocol} in {}", place.name);
        }
    }
    // Each family has its own endpoints, at the same NodePort.
    cluster.put("endpointslices", &slice("IPv6", &all6[1..2]));
    for node in ["n1", "n2", "n3"] {
        let address = cluster.host(node).address6.clone();
        let seen = ask_until(&client, &format!("{address}:30080"), &["a2"]);
        let expected = if node == "n2" { client.address6.clone() } else { address };
        assert_eq!(seen, [expected.clone(), expected], "through {node}");
        ask_until(&b1, &format!("{}:30080", cluster.host(node).address6), &["a2"]);
        ask_until(&client, &format!("{}:30080", cluster.host(node).address), &["a1"]);
    }
    // Much data, by every way.
    for (number, pod) in [&a1, &a2, &a3].into_iter().enumerate() {
        cluster.put("endpointslices", &slice("IPv6", &all6[number..=number]));
        ask_until(&client, "fd00:172:30::11:30080", &[&pod.name]);
        client.transfer("fd00:172:30::11", 30_081, 3_000_000);
        b1.transfer("fd00:10:96::20", 81, 3_000_000);
    }

    // LoadBalancer: one node answers neighbours; all endpoints are met.
    cluster.put("endpointslices", &slice("IPv6", &all6));
    ask_until(&client, "fd00:172:30::130:80", &["a1", "a2", "a3"]);
    // Without endpoints, clients are refused.
    cluster.put("endpointslices", &slice("IPv6", &[]));
    for (place, to) in
        [(&client, "fd00:172:30::11:30080"), (&client, "fd00:172:30::130:80"), (&a1, "fd00:10:96::20:80")]
    {
        eventually(&format!("a refusal at {to}"), || match place.ask("tcp", to) {
            Err(error) if error.contains("refused") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    ask_until(&client, "172.30.0.130:80", &["a1"]);
}
