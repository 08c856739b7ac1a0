//! IPv6 without IPv4, with real packets: nothing has an address of the other family.

use serde_json::{Value, json};

use crate::dual_stack::{ask_until, slice};
use crate::fixture::{Cluster, eventually};

fn service(annotations: &Value) -> Value {
    let ports = json!([
        { "name": "tcp", "protocol": "TCP", "port": 80, "nodePort": 30_080 },
        { "name": "udp", "protocol": "UDP", "port": 80, "nodePort": 30_080 },
        { "name": "bulk", "protocol": "TCP", "port": 81, "nodePort": 30_081 },
    ]);
    json!({
        "metadata": { "namespace": "default", "name": "web", "annotations": annotations },
        "spec": {
            "type": "LoadBalancer", "clusterIP": "fd00:10:96::20", "clusterIPs": ["fd00:10:96::20"],
            "ipFamilies": ["IPv6"], "ports": ports,
        },
        "status": { "loadBalancer": { "ingress": [{ "ip": "fd00:172:30::130" }] } },
    })
}

#[test]
fn pods_and_services_of_ipv6_alone() {
    let mut cluster = Cluster::ipv6();
    let a1 = cluster.pod("n1", "a1");
    let b1 = cluster.pod("n1", "b1");
    let a2 = cluster.pod("n2", "a2");
    let a3 = cluster.pod("n3", "a3");
    assert!(a1.address.starts_with("fd00:10:244:1::"), "{}", a1.address);
    assert_eq!(a1.address, a1.address6);

    // Pod to pod: same node, by the link, by a tunnel between IPv6 addresses.
    for (from, to) in [(&a1, &b1), (&a1, &a2), (&a2, &a1), (&a1, &a3), (&a3, &a1), (&a3, &a2)] {
        let seen = ask_until(from, &format!("{}:8080", to.address6), &[&to.name]);
        assert!(seen.iter().all(|seen| *seen == from.address6), "{} to {}: {seen:?}", from.name, to.name);
    }
    for to in [&b1, &a2, &a3] {
        a1.transfer(&to.address6, 8_081, 3_000_000);
    }
    // Between pods and nodes; to the outside under the node's address.
    for node in ["n1", "n2", "n3"] {
        let server = cluster.host(node);
        let seen = ask_until(&a1, &format!("{}:8080", server.address6), &[&server.name]);
        assert!(seen.iter().all(|seen| *seen == a1.address6), "a1 to {node}: {seen:?}");
        ask_until(&server, &format!("{}:8080", a1.address6), &["a1"]);
    }
    let client = cluster.client();
    for (pod, node) in [(&a1, "fd00:172:30::11"), (&a3, "fd00:172:31::13")] {
        assert_eq!(ask_until(pod, &format!("{}:8080", client.address6), &["client"]), [node; 2]);
    }

    // Services of every kind.
    cluster.put("services", &service(&json!({})));
    let all = [(a1.address6.as_str(), "n1"), (a2.address6.as_str(), "n2"), (a3.address6.as_str(), "n3")];
    cluster.put("endpointslices", &slice("IPv6", &all));
    for place in [&a1, &b1, &a2, &a3, &cluster.host("n1"), &cluster.host("n3")] {
        ask_until(place, "fd00:10:96::20:80", &["a1", "a2", "a3"]);
    }
    for (number, pod) in [&a1, &a2, &a3].into_iter().enumerate() {
        cluster.put("endpointslices", &slice("IPv6", &all[number..=number]));
        ask_until(&client, "fd00:172:30::11:30080", &[&pod.name]);
        client.transfer("fd00:172:30::11", 30_081, 3_000_000);
        ask_until(&client, "fd00:172:30::130:80", &[&pod.name]);
        b1.transfer("fd00:10:96::20", 81, 3_000_000);
    }

    // The owner of the balancer's address dies: another takes it, for they ask each other by IPv6, too.
    cluster.put("endpointslices", &slice("IPv6", &all[1..2]));
    ask_until(&client, "fd00:172:30::130:80", &["a2"]);
    let owner = cluster.owner_of("fd00:172:30::130");
    assert!(!owner.is_empty());
    if owner != "n2" {
        cluster.plug(&owner, false);
        eventually("another node answers", || {
            client.ask("tcp", "fd00:172:30::130:80")?;
            let now = cluster.owner_of("fd00:172:30::130");
            if now == owner || now.is_empty() { Err(format!("the neighbour is {now:?}")) } else { Ok(()) }
        });
    }
}

#[test]
fn direct_return_keeps_the_clients_address() {
    let mut cluster = Cluster::ipv6();
    let a1 = cluster.pod("n1", "a1");
    let a2 = cluster.pod("n2", "a2");
    let a3 = cluster.pod("n3", "a3");
    let client = cluster.client();
    cluster.put("services", &service(&json!({ "xebec.io/load-balancer-mode": "dsr" })));
    // A backend at the node that is addressed, one on its link, one behind a router.
    for (pod, node) in [(&a1, "n1"), (&a2, "n2"), (&a3, "n3")] {
        cluster.put("endpointslices", &slice("IPv6", &[(&pod.address6, node)]));
        let seen = ask_until(&client, "fd00:172:30::11:30080", &[&pod.name]);
        assert_eq!(seen, [client.address6.clone(), client.address6.clone()], "{}", pod.name);
        client.transfer("fd00:172:30::11", 30_081, 3_000_000);
    }
}
