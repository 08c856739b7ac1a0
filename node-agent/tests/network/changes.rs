//! Services that change while they have clients, and what changes while nobody looks.

use serde_json::{Value, json};

use crate::fixture::{Cluster, Place, eventually};
use crate::{ask_until, service, slice};

const WEB: &str = "10.96.0.20:80";

/// The slice of one of a service's ports.
fn slice_of(service: &str, port: &str, endpoints: &[(&str, &str)]) -> Value {
    let mut slice = slice(service, endpoints);
    slice["metadata"]["name"] = json!(format!("{service}-{port}"));
    slice["ports"].as_array_mut().unwrap().retain(|found| found["name"] == port);
    slice
}

/// Within the cluster alone.
fn cluster_ip() -> Value {
    let mut service = service("web", "ClusterIP", "10.96.0.20", 80, 30_080);
    for port in service["spec"]["ports"].as_array_mut().unwrap() {
        port.as_object_mut().unwrap().remove("nodePort");
    }
    service
}

fn answered(place: &Place, protocol: &str, to: &str, by: &str) {
    eventually(&format!("{protocol} to {to} from {}", place.name), || {
        let answer = place.ask(protocol, to)?;
        if answer.server == by { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

fn refused(place: &Place, to: &str) {
    for protocol in ["tcp", "udp"] {
        eventually(&format!("{protocol} to {to} from {} is refused", place.name), || match place.ask(protocol, to) {
            Err(error) if error.contains("refused") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn a_service_changes_while_it_has_clients() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let a2 = cluster.pod("n2", "a2");
    let client = cluster.client();
    let host = cluster.host("n1");
    let (on1, on2) = ((a1.address.as_str(), "n1"), (a2.address.as_str(), "n2"));

    // One number, two protocols, and endpoints of each protocol's own.
    cluster.put("services", &cluster_ip());
    cluster.put("endpointslices", &slice_of("web", "tcp", &[on1]));
    cluster.put("endpointslices", &slice_of("web", "udp", &[on2]));
    for place in [&a1, &a2, &host] {
        answered(place, "tcp", WEB, "a1");
        answered(place, "udp", WEB, "a2");
    }
    let mut streams = vec![a2.open(WEB), host.open(WEB)];
    refused(&client, "172.30.0.11:30080");

    // It gets node ports, an address of the pool and one of somebody else's.
    let mut web = service("web", "LoadBalancer", "10.96.0.20", 80, 30_080);
    web["spec"]["externalIPs"] = json!(["198.51.100.9"]);
    web["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "172.30.0.130" }] } });
    cluster.put("services", &web);
    cluster.route_from_outside("198.51.100.9/32", "172.30.0.11");
    let outside = ["172.30.0.11:30080", "172.30.0.12:30080", "172.31.0.13:30080", "172.30.0.130:80", "198.51.100.9:80"];
    for to in outside {
        for place in [&client, &a2, &host] {
            answered(place, "tcp", to, "a1");
            answered(place, "udp", to, "a2");
        }
        streams.push(client.open(to));
    }

    // Only local endpoints for those outside; who is inside reaches all of them.
    web["spec"]["externalTrafficPolicy"] = json!("Local");
    web["spec"]["healthCheckNodePort"] = json!(31_999);
    cluster.put("services", &web);
    eventually("no endpoint here", || match client.ask("tcp", "172.30.0.12:30080") {
        Err(error) if error.contains("timed out") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for to in outside {
        answered(&a2, "tcp", to, "a1");
        answered(&host, "udp", to, "a2");
    }
    web["spec"]["externalTrafficPolicy"] = json!("Cluster");

    // Other numbers, and other endpoints: the old numbers are nobody's.
    web["spec"]["ports"][0]["port"] = json!(8_000);
    web["spec"]["ports"][0]["nodePort"] = json!(30_090);
    web["spec"]["ports"][1]["port"] = json!(8_000);
    web["spec"]["ports"][1]["nodePort"] = json!(30_090);
    cluster.put("services", &web);
    cluster.put("endpointslices", &slice_of("web", "tcp", &[on2]));
    cluster.put("endpointslices", &slice_of("web", "udp", &[on1]));
    for to in ["10.96.0.20:8000", "172.30.0.130:8000", "172.30.0.12:30090"] {
        answered(&a1, "tcp", to, "a2");
        answered(&a1, "udp", to, "a1");
    }
    answered(&client, "tcp", "172.30.0.11:30090", "a2");
    answered(&client, "udp", "172.30.0.11:30090", "a1");
    refused(&a1, WEB);
    refused(&client, "172.30.0.11:30080");

    // Back to where it began.
    cluster.put("services", &cluster_ip());
    answered(&a1, "tcp", WEB, "a2");
    answered(&host, "udp", WEB, "a1");
    refused(&client, "172.30.0.11:30090");
    refused(&a1, "172.30.0.12:30090");
    for to in ["172.30.0.130:8000", "198.51.100.9:8000"] {
        assert!(client.ask("tcp", to).is_err(), "{to} is nobody's any more");
    }
    // Who was connected before all that still is.
    for stream in &mut streams {
        stream.exchange("after all changes");
    }
}

#[test]
fn what_changed_while_the_agent_was_away_is_put_right() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let b1 = cluster.pod("n1", "b1");
    let a2 = cluster.pod("n2", "a2");
    let client = cluster.client();
    let balanced = |name: &str, ip: &str, node_port: u16, pool: &str| {
        let mut service = service(name, "LoadBalancer", ip, 80, node_port);
        service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": pool }] } });
        service
    };
    cluster.put("services", &balanced("web", "10.96.0.20", 30_080, "172.30.0.130"));
    cluster.put("endpointslices", &slice("web", &[(&a1.address, "n1"), (&a2.address, "n2")]));
    cluster.put("services", &balanced("old", "10.96.0.21", 30_180, "172.30.0.131"));
    cluster.put("endpointslices", &slice("old", &[(&b1.address, "n1")]));
    ask_until(&b1, WEB, &["a1", "a2"]);
    ask_until(&client, "172.30.0.11:30180", &["b1"]);

    cluster.kill_agent("n1");
    cluster.delete("services", "old");
    cluster.delete("endpointslices", "old-1");
    cluster.put("services", &balanced("new", "10.96.0.22", 30_280, "172.30.0.132"));
    cluster.put("endpointslices", &slice("new", &[(&b1.address, "n1")]));
    cluster.put("endpointslices", &slice("web", &[(&a2.address, "n2")]));
    // Nobody has told the node's kernel.
    assert_eq!(client.ask("tcp", "172.30.0.11:30180").unwrap().server, "b1");

    cluster.start_agent("n1");
    for place in [&a1, &b1, &cluster.host("n1")] {
        ask_until(place, "10.96.0.22:80", &["b1"]);
    }
    refused(&a1, "10.96.0.21:80");
    assert!(cluster.host("n1").ask("tcp", "10.96.0.21:80").is_err(), "nobody answers for the old service");
    ask_until(&client, "172.30.0.11:30280", &["b1"]);
    ask_until(&client, "172.30.0.132:80", &["b1"]);
    refused(&client, "172.30.0.11:30180");
    assert!(client.ask("tcp", "172.30.0.131:80").is_err(), "nobody answers for the old service's address");
    for _ in 0..10 {
        assert_eq!(a1.ask("tcp", WEB).unwrap().server, "a2");
        assert_eq!(client.ask("udp", "172.30.0.11:30080").unwrap().server, "a2");
    }
}
