//! Network policy with real packets.

use serde_json::{Value, json};

use crate::fixture::{Cluster, Place, eventually};
use crate::{service, slice};

fn policy(name: &str, spec: &Value) -> Value {
    json!({ "metadata": { "namespace": "default", "name": name }, "spec": spec })
}

fn app(name: &str) -> Value {
    json!({ "matchLabels": { "app": name } })
}

/// The server that answers, or nothing if the packets are dropped.
fn reached(place: &Place, protocol: &str, to: &str) -> Result<Option<String>, String> {
    match place.ask(protocol, to) {
        Ok(answer) => Ok(Some(answer.server)),
        Err(error) if error.contains("timed out") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until `place` reaches `to` by these protocols.
fn allowed(place: &Place, to: &str) {
    for protocol in ["tcp", "udp"] {
        eventually(&format!("{} reaches {to} by {protocol}", place.name), || match reached(place, protocol, to)? {
            Some(_) => Ok(()),
            None => Err("dropped".to_owned()),
        });
    }
}

/// Waits until it does not, silently.
fn denied(place: &Place, to: &str) {
    for protocol in ["tcp", "udp"] {
        eventually(&format!("{} is kept from {to} by {protocol}", place.name), || {
            match reached(place, protocol, to)? {
                None => Ok(()),
                Some(server) => Err(format!("{server} answers")),
            }
        });
    }
}

#[test]
fn policies_hold() {
    let mut cluster = Cluster::new();
    cluster.put("namespaces", &json!({ "metadata": { "name": "default", "labels": { "team": "x" } } }));
    let web = cluster.labelled_pod("n1", "web", "web");
    let near = cluster.labelled_pod("n1", "near", "friend");
    let far = cluster.labelled_pod("n2", "far", "friend");
    let tunnelled = cluster.labelled_pod("n3", "tunnelled", "friend");
    let stranger = cluster.labelled_pod("n2", "stranger", "stranger");
    let (host, client) = (cluster.host("n1"), cluster.client());
    let at = |place: &Place| format!("{}:8080", place.address);
    for place in [&near, &far, &tunnelled, &stranger, &host] {
        allowed(place, &at(&web));
    }
    // What stands before there is any policy stays, as far as it is the pod's own.
    let mut own = web.open(&at(&far));
    own.exchange("before");

    // Nobody but the node, which must be able to probe; the pod itself reaches everybody, and gets the answers.
    let nobody = json!({ "podSelector": app("web"), "policyTypes": ["Ingress"] });
    cluster.put("networkpolicies", &policy("nobody", &nobody));
    for place in [&near, &far, &tunnelled] {
        denied(place, &at(&web));
    }
    allowed(&host, &at(&web));
    for place in [&near, &far, &tunnelled, &host] {
        allowed(&web, &at(place));
    }
    own.exchange("after");

    // Friends, by the pod's address and by its service's; large transfers by the long way.
    let friends = json!({
        "podSelector": app("web"), "policyTypes": ["Ingress"],
        "ingress": [{ "from": [{ "podSelector": app("friend") }], "ports": [
            { "port": 8_080 }, { "port": 8_080, "protocol": "UDP" }, { "port": 8_081, "endPort": 8_089 },
        ] }],
    });
    cluster.put("networkpolicies", &policy("friends", &friends));
    cluster.put("services", &service("web", "NodePort", "10.96.0.20", 80, 30_080));
    cluster.put("endpointslices", &slice("web", &[(&web.address, "n1")]));
    for place in [&near, &far, &tunnelled] {
        allowed(place, &at(&web));
        allowed(place, "10.96.0.20:80");
        place.transfer(&web.address, 8_081, 3_000_000);
    }
    denied(&stranger, &at(&web));
    denied(&client, "172.30.0.11:30080");
    let mut stream = far.open("10.96.0.20:80");
    stream.exchange("allowed");

    // The agent dies and comes back: all of that holds on.
    cluster.kill_agent("n1");
    stream.exchange("without agent");
    denied(&stranger, &at(&web));
    allowed(&near, &at(&web));
    cluster.start_agent("n1");
    stream.exchange("with another agent");
    denied(&stranger, &at(&web));
    allowed(&far, &at(&web));

    // A stranger becomes a friend.
    cluster.put_pod("n2", "stranger", "friend", &stranger.address);
    allowed(&stranger, &at(&web));
    cluster.put_pod("n2", "stranger", "stranger", &stranger.address);
    denied(&stranger, &at(&web));

    // Outside, by address.
    let office = json!({
        "podSelector": app("web"), "policyTypes": ["Ingress"],
        "ingress": [{ "from": [{ "ipBlock": { "cidr": "172.30.0.0/24", "except": ["172.30.0.12/32"] } }] }],
    });
    cluster.put("networkpolicies", &policy("office", &office));
    allowed(&client, "172.30.0.11:30080");
    cluster.delete("networkpolicies", "office");
    denied(&client, "172.30.0.11:30080");

    // A pod that is born under a policy hears nothing from the beginning.
    cluster.put(
        "networkpolicies",
        &policy("late", &json!({ "podSelector": app("late"), "policyTypes": ["Ingress", "Egress"] })),
    );
    let late = cluster.labelled_pod("n1", "late", "late");
    for (from, to) in [(&near, &late), (&far, &late), (&late, &near), (&late, &far)] {
        for protocol in ["tcp", "udp"] {
            assert_eq!(reached(from, protocol, &at(to)), Ok(None), "{} to {}", from.name, to.name);
        }
    }
    // To its own node it may talk: that is where DNS is.
    allowed(&late, &at(&host));
    let egress = json!({
        "podSelector": app("late"), "policyTypes": ["Egress"],
        "egress": [{ "to": [{ "podSelector": app("friend") }], "ports": [{ "port": "web" }, { "port": 8_080, "protocol": "UDP" }] }],
    });
    cluster.put("networkpolicies", &policy("late-may", &egress));
    allowed(&late, &at(&far));
    allowed(&late, &at(&near));
    denied(&late, &at(&stranger));

    // The last policies go: nothing is left.
    for name in ["nobody", "friends", "late", "late-may"] {
        cluster.delete("networkpolicies", name);
    }
    allowed(&stranger, &at(&web));
    allowed(&stranger, &at(&late));
    allowed(&late, &at(&stranger));
}
