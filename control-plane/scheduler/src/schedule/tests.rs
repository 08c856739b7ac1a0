use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::resources::Resources;

fn node(name: &str, more: Value) -> Arc<Node> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut value, more);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(name: &str, more: Value) -> Pod {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn cluster(nodes: Vec<Arc<Node>>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.into_iter().for_each(|node| snapshot.set_node(node));
    snapshot
}

fn three() -> Snapshot {
    cluster(["a", "b", "c"].map(|n| node(n, json!({}))).into())
}

fn asking(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn message(snapshot: &Snapshot, pod: &Pod) -> String {
    match schedule(snapshot, pod, 0) {
        Decision::Unschedulable(why) => why.message(),
        Decision::Node(node) => panic!("placed on {node}"),
    }
}

#[test]
fn reasons_are_counted_in_upstreams_words() {
    assert_eq!(message(&Snapshot::default(), &pod("p", json!({}))), "no nodes available to schedule pods");
    let snapshot = cluster(vec![
        node("a", json!({})),
        node("b", json!({"spec": {"unschedulable": true}})),
        node("c", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
    ]);
    assert_eq!(
        message(&snapshot, &pod("p", asking("3"))),
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."
    );
    let picky = pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    assert!(message(&snapshot, &picky).contains("1 node(s) didn't match Pod's node affinity/selector"));
}

#[test]
fn tolerations_and_selectors_open_nodes() {
    let snapshot = cluster(vec![
        node(
            "a",
            json!({"metadata": {"labels": {"disk": "ssd"}}, "spec": {"taints": [
            {"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
        ),
        node("b", json!({})),
    ]);
    let tolerant =
        json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}], "nodeSelector": {"disk": "ssd"}}});
    assert_eq!(schedule(&snapshot, &pod("p", tolerant), 0), Decision::Node("a".into()));
    let affinity = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}]}}}}});
    assert_eq!(schedule(&snapshot, &pod("p", affinity), 0), Decision::Node("b".into()));
    let by_name = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}}});
    assert_eq!(schedule(&snapshot, &pod("p", by_name), 0), Decision::Node("b".into()));
}

#[test]
fn replicas_spread_over_nodes() {
    let mut snapshot = three();
    let replica = |n: usize| {
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u1", "controller": true}]);
        pod(&format!("web-{n}"), json!({"metadata": {"ownerReferences": owner}}))
    };
    for n in 0..9 {
        let pod = replica(n);
        let Decision::Node(node) = schedule(&snapshot, &pod, 7 * n as u64) else { panic!("no room") };
        snapshot.place(Arc::new(pod), &node);
    }
    assert!(snapshot.nodes().all(|(_, state)| state.pods.len() == 3));
}

#[test]
fn the_emptier_node_is_taken() {
    let mut snapshot = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    snapshot.place(Arc::new(pod("big", asking("1500m"))), "a");
    for turn in 0..4 {
        assert_eq!(schedule(&snapshot, &pod("p", asking("100m")), turn), Decision::Node("b".into()));
    }
}

#[test]
fn ports_of_the_node_are_taken_once() {
    let mut snapshot = cluster(vec![node("a", json!({}))]);
    let listening = |protocol: &str| json!({"spec": {"containers": [{"name": "c", "ports": [{"hostPort": 80, "containerPort": 1, "protocol": protocol}]}]}});
    snapshot.place(Arc::new(pod("first", listening("TCP"))), "a");
    assert_eq!(
        message(&snapshot, &pod("second", listening("TCP"))),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    assert_eq!(schedule(&snapshot, &pod("third", listening("UDP")), 0), Decision::Node("a".into()));
}

#[test]
fn anti_affinity_keeps_apart_both_ways() {
    let apart = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}});
    let mut snapshot = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    snapshot.place(Arc::new(pod("first", apart.clone())), "a");
    assert_eq!(schedule(&snapshot, &pod("second", apart.clone()), 0), Decision::Node("b".into()));
    assert_eq!(schedule(&snapshot, &pod("plain", json!({})), 0), Decision::Node("b".into()), "their wish counts");
    snapshot.place(Arc::new(pod("second", apart.clone())), "b");
    assert!(message(&snapshot, &pod("third", apart)).contains("2 node(s) didn't match pod anti-affinity rules"));
}

#[test]
fn affinity_follows_and_the_first_of_a_group_goes_anywhere() {
    let together = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}});
    let mut snapshot = three();
    assert!(matches!(schedule(&snapshot, &pod("first", together.clone()), 0), Decision::Node(_)));
    snapshot.place(Arc::new(pod("first", together.clone())), "b");
    for turn in 0..3 {
        assert_eq!(schedule(&snapshot, &pod("second", together.clone()), turn), Decision::Node("b".into()));
    }
}

#[test]
fn constraints_bound_the_skew() {
    let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let zoned = |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone}}}));
    let mut snapshot = cluster(vec![zoned("a", "1"), zoned("b", "2")]);
    snapshot.place(Arc::new(pod("first", spread.clone())), "a");
    for turn in 0..3 {
        assert_eq!(schedule(&snapshot, &pod("second", spread.clone()), turn), Decision::Node("b".into()));
    }
    let mut lonely = cluster(vec![zoned("a", "1"), node("c", json!({}))]);
    lonely.place(Arc::new(pod("first", spread.clone())), "a");
    assert_eq!(schedule(&lonely, &pod("second", spread), 0), Decision::Node("a".into()), "one place has no skew");
}

proptest! {
    /// Whatever is asked for, in whatever order: no node is given more than it has, and tainted nodes stay empty.
    #[test]
    fn nodes_are_never_overcommitted(requests in proptest::collection::vec((0u32..1500, 0u32..3000, any::<u64>()), 1..60)) {
        let mut snapshot = cluster(vec![
            node("a", json!({})),
            node("b", json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}})),
            node("c", json!({"status": {"allocatable": {"cpu": "500m", "memory": "1Gi", "pods": "3"}}})),
        ]);
        for (n, (cpu, memory, turn)) in requests.into_iter().enumerate() {
            let pod = pod(&format!("p{n}"), json!({"spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}}]}}));
            if let Decision::Node(node) = schedule(&snapshot, &pod, turn) {
                snapshot.place(Arc::new(pod), &node);
            }
        }
        for (node, state) in snapshot.nodes() {
            prop_assert!(node.allocatable.lacking(&state.requested, &Resources::default()).is_empty());
            prop_assert!(state.requested.cpu_milli <= node.allocatable.cpu_milli);
            prop_assert!(state.requested.memory <= node.allocatable.memory);
            prop_assert!(node.taints.is_empty() || state.pods.is_empty());
        }
    }
}
