use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn node(name: &str, cpu: &str, patch: Value) -> Arc<Node> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut value, &patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(name: &str, cpu: &str, patch: Value) -> PodRef {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
    });
    merge(&mut value, &patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| merge(&mut target[key], value)),
        other => *target = other.clone(),
    }
}

fn on(node: &str) -> Value {
    json!({"spec": {"nodeName": node}})
}

fn cluster(nodes: &[Arc<Node>], pods: &[PodRef]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.iter().for_each(|n| snapshot.put_node(n));
    pods.iter().for_each(|p| snapshot.put_pod(p));
    snapshot
}

fn place(snapshot: &Snapshot, pod: &Pod) -> Result<String, String> {
    match schedule(snapshot, pod, &[], 0) {
        Decision::Place { node, .. } => Ok(node),
        Decision::Refuse { message, .. } | Decision::Fail { message } => Err(message),
    }
}

#[test]
fn the_emptier_node_is_chosen() {
    let nodes = [node("a", "4", json!({})), node("b", "4", json!({}))];
    let snapshot = cluster(&nodes, &[pod("x", "3", on("a"))]);
    assert_eq!(place(&snapshot, &pod("p", "500m", json!({}))).unwrap(), "b");
}

#[test]
fn refusals_are_told_in_upstreams_words() {
    let nodes = [
        node("a", "1", json!({})),
        node("b", "1", json!({})),
        node("c", "4", json!({"spec": {"unschedulable": true}})),
        node("d", "4", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
    ];
    let snapshot = cluster(&nodes, &[pod("x", "900m", on("a"))]);
    assert_eq!(place(&snapshot, &pod("p", "1", on(""))).unwrap(), "b", "a pod that just fits");
    assert_eq!(
        place(&snapshot, &pod("p", "2", on(""))).unwrap_err(),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu. \
         no new claims to deallocate, preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
    );
    let full = cluster(&nodes[..2], &[pod("x", "900m", on("a")), pod("y", "900m", on("b"))]);
    assert_eq!(
        place(&full, &pod("p", "500m", on(""))).unwrap_err(),
        "0/2 nodes are available: 2 Insufficient cpu. \
         no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
    assert_eq!(place(&Snapshot::default(), &pod("p", "1", on(""))).unwrap_err(), "no nodes available to schedule pods");
}

#[test]
fn selectors_affinity_and_tolerations() {
    let nodes = [
        node("a", "4", json!({"metadata": {"labels": {"disk": "hdd", "gen": "3"}}})),
        node(
            "b",
            "4",
            json!({"metadata": {"labels": {"disk": "ssd", "gen": "5"}},
            "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
        ),
    ];
    let snapshot = cluster(&nodes, &[]);
    let wants_ssd = json!({"spec": {"nodeSelector": {"disk": "ssd"}}});
    assert!(place(&snapshot, &pod("p", "1", wants_ssd)).unwrap_err().contains("affinity/selector"));
    let tolerates = json!({"spec": {"nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "k", "operator": "Equal", "value": "v"}]}});
    assert_eq!(place(&snapshot, &pod("p", "1", tolerates)).unwrap(), "b");
    let newer = json!({"spec": {"tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["4"]}]}]}}}}});
    assert_eq!(place(&snapshot, &pod("p", "1", newer)).unwrap(), "b");
    let by_name = json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}}});
    assert_eq!(place(&snapshot, &pod("p", "1", by_name)).unwrap(), "a");
}

#[test]
fn host_ports_and_pod_numbers() {
    let nodes = [node("a", "4", json!({"status": {"allocatable": {"pods": "2"}}})), node("b", "4", json!({}))];
    let port = |place: &str| json!({"spec": {"nodeName": place, "containers": [{"ports": [{"hostPort": 80}]}]}});
    let snapshot = cluster(&nodes, &[pod("x", "1", port("b"))]);
    assert_eq!(place(&snapshot, &pod("p", "1", port(""))).unwrap(), "a");
    let snapshot = cluster(&nodes[..1], &[pod("x", "1", on("a")), pod("y", "1", on("a"))]);
    assert!(place(&snapshot, &pod("p", "0", on(""))).unwrap_err().contains("1 Too many pods"));
}

#[test]
fn pods_of_an_owner_are_spread() {
    let owned = |name: &str, node: &str| {
        pod(
            name,
            "10m",
            json!({"spec": {"nodeName": node}, "metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]}}),
        )
    };
    let nodes: Vec<_> = ["a", "b", "c"].iter().map(|n| node(n, "8", json!({}))).collect();
    let mut snapshot = cluster(&nodes, &[]);
    for i in 0..9 {
        let place = place(&snapshot, &owned(&format!("p{i}"), "")).unwrap();
        snapshot.put_pod(&owned(&format!("p{i}"), &place));
    }
    assert!(snapshot.nodes.values().all(|n| n.pods.len() == 3), "{:?}", snapshot.nodes.keys());
}

#[test]
fn hard_spread_constraints() {
    let zone = |name: &str, zone: &str| node(name, "8", json!({"metadata": {"labels": {"zone": zone}}}));
    let nodes = [zone("a", "1"), zone("b", "1"), zone("c", "2")];
    let spread = |place: &str| {
        json!({"spec": {"nodeName": place, "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}})
    };
    let snapshot = cluster(&nodes, &[pod("x", "1", spread("a"))]);
    assert_eq!(place(&snapshot, &pod("p", "1", spread(""))).unwrap(), "c");
    let full = cluster(
        &[zone("a", "1"), node("c", "1", json!({"metadata": {"labels": {"zone": "2"}}}))],
        &[
            pod("x", "1", spread("a")),
            pod("y", "1", json!({"metadata": {"labels": {"app": "other"}}, "spec": {"nodeName": "c"}})),
        ],
    );
    let message = place(&full, &pod("p", "1", spread(""))).unwrap_err();
    assert!(message.contains("1 node(s) didn't match pod topology spread constraints"), "{message}");
}

#[test]
fn pods_attract_and_repel() {
    let nodes: Vec<_> = ["a", "b"].iter().map(|n| node(n, "8", json!({}))).collect();
    let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let field = "requiredDuringSchedulingIgnoredDuringExecution";
    let near = json!({"spec": {"affinity": {"podAffinity": {field: term}}}});
    let far = |place: &str| json!({"spec": {"nodeName": place, "affinity": {"podAntiAffinity": {field: term}}}});
    let snapshot = cluster(&nodes, &[pod("x", "1", on("b"))]);
    assert_eq!(place(&snapshot, &pod("p", "1", near.clone())).unwrap(), "b");
    assert_eq!(place(&snapshot, &pod("p", "1", far(""))).unwrap(), "a");
    // The first of a group that is attracted by itself.
    assert!(place(&cluster(&nodes, &[]), &pod("p", "1", near)).is_ok());
    // One that is there repels the newcomer.
    let snapshot = cluster(&nodes, &[pod("x", "1", far("a")), pod("y", "1", far("b"))]);
    let message = place(&snapshot, &pod("p", "1", on(""))).unwrap_err();
    assert!(message.contains("2 node(s) didn't satisfy existing pods anti-affinity rules"), "{message}");
}

#[test]
fn room_is_made_where_it_costs_least() {
    let nodes = [node("a", "2", json!({})), node("b", "2", json!({}))];
    let with = |name: &str, cpu: &str, node: &str, priority: i32| {
        pod(name, cpu, json!({"spec": {"nodeName": node, "priority": priority}}))
    };
    let pods = [with("a1", "1", "a", 5), with("a2", "1", "a", 1), with("b1", "2", "b", 3)];
    let snapshot = cluster(&nodes, &pods);
    let urgent = with("p", "1", "", 10);
    let Decision::Refuse { preemption: Some(preemption), .. } = schedule(&snapshot, &urgent, &[], 0) else {
        panic!("no room is made");
    };
    assert_eq!(preemption.node, "a");
    assert_eq!(preemption.victims.iter().map(|v| v.metadata.name.as_str()).collect::<Vec<_>>(), ["a2"]);

    // A budget that grants nothing makes the other node cheaper.
    let budget = Budget {
        namespace: "n".into(),
        selector: serde_json::from_value(json!({"matchLabels": {"app": "guarded"}})).unwrap(),
        allowed: 0,
    };
    let guarded =
        pod("a2", "1", json!({"metadata": {"labels": {"app": "guarded"}}, "spec": {"nodeName": "a", "priority": 1}}));
    let snapshot = cluster(&nodes, &[with("a1", "1", "a", 10), guarded, with("b1", "2", "b", 3)]);
    let Decision::Refuse { preemption: Some(preemption), .. } = schedule(&snapshot, &urgent, &[budget], 0) else {
        panic!("no room is made");
    };
    assert_eq!(preemption.node, "b");

    let modest = pod("p", "1", json!({"spec": {"priority": 10, "preemptionPolicy": "Never"}}));
    assert!(
        place(&snapshot, &modest).unwrap_err().ends_with("preemption: not eligible due to preemptionPolicy=Never.")
    );
}

#[test]
fn room_that_was_made_is_kept_for_whom_it_was_made() {
    let nodes = [node("a", "2", json!({}))];
    let mut snapshot = cluster(&nodes, &[]);
    let urgent = pod("u", "2", json!({"spec": {"priority": 10}, "status": {"nominatedNodeName": "a"}}));
    snapshot.nominate(&urgent, "a");
    assert!(place(&snapshot, &pod("p", "1", json!({}))).is_err());
    assert_eq!(place(&snapshot, &urgent).unwrap(), "a");
    assert!(place(&snapshot, &pod("q", "1", json!({"spec": {"priority": 20}}))).is_ok());
}

proptest! {
    /// However pods come, no node is given more than it has, and no taint is overlooked.
    #[test]
    fn never_overcommits_and_honours_taints(
        capacities in prop::collection::vec((1_u32..8, any::<bool>()), 1..8),
        asks in prop::collection::vec((1_u32..3000, any::<bool>()), 1..60),
    ) {
        let nodes: Vec<_> = capacities.iter().enumerate().map(|(i, (cpu, tainted))| {
            let taints = if *tainted { json!([{"key": "t", "effect": "NoSchedule"}]) } else { json!([]) };
            node(&format!("n{i}"), &cpu.to_string(), json!({"spec": {"taints": taints}}))
        }).collect();
        let mut snapshot = cluster(&nodes, &[]);
        for (i, (cpu, tolerates)) in asks.iter().enumerate() {
            let tolerations = if *tolerates { json!([{"key": "t", "operator": "Exists"}]) } else { json!([]) };
            let make = |place: &str| pod(&format!("p{i}"), &format!("{cpu}m"),
                json!({"spec": {"nodeName": place, "tolerations": tolerations}}));
            let fits_somewhere = snapshot.live().any(|(n, info)| {
                (n.taints.is_empty() || *tolerates)
                    && info.requested.cpu_milli + i64::from(*cpu) <= n.allocatable.cpu_milli
            });
            match schedule(&snapshot, &make(""), &[], i) {
                Decision::Place { node, .. } => {
                    prop_assert!(fits_somewhere);
                    // Asked here: a pod that is placed no longer has its tolerations.
                    let tainted = snapshot.live().any(|(n, _)| n.metadata.name == node && !n.taints.is_empty());
                    prop_assert!(!tainted || *tolerates);
                    snapshot.put_pod(&make(&node));
                }
                Decision::Refuse { .. } | Decision::Fail { .. } => prop_assert!(!fits_somewhere),
            }
        }
        for (node, info) in snapshot.live() {
            prop_assert!(info.requested.cpu_milli <= node.allocatable.cpu_milli);
        }
    }
}
