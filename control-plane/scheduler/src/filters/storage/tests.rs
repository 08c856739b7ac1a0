use serde_json::{Value, json};

use super::*;
use crate::schedule::{Decision, schedule};
use crate::views::PodRef;

fn cluster(hosts: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for host in hosts {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": host, "labels": {"kubernetes.io/hostname": host, "zone": format!("z-{host}")}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}}))
        .unwrap();
        snapshot.put_node(&Arc::new(node));
    }
    for (name, provisioner) in [("local", NO_PROVISIONER), ("made", "xebec.io/local-path")] {
        let class = json!({"metadata": {"name": name}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer"});
        snapshot.shelf.classes.insert(name.into(), Arc::new(serde_json::from_value(class).unwrap()));
    }
    snapshot
}

fn volume(name: &str, host: &str, size: &str) -> Arc<PersistentVolume> {
    let on_host = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}});
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "nodeAffinity": on_host}}))
        .unwrap(),
    )
}

fn claim(name: &str, class: &str, bound_to: Option<&str>) -> Value {
    let annotations = if bound_to.is_some() { json!({BIND_COMPLETED: "yes"}) } else { json!({}) };
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": bound_to,
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}})
}

fn put(snapshot: &mut Snapshot, claim: &Value) {
    snapshot.shelf.put_claim(&Arc::new(serde_json::from_value(claim.clone()).unwrap()));
}

fn pod(name: &str, claims: &[&str]) -> PodRef {
    let volumes: Vec<Value> =
        claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"containers": [{"name": "c"}], "volumes": volumes}}))
        .unwrap(),
    )
}

fn refusal(snapshot: &Snapshot, pod: &Pod) -> String {
    match schedule(snapshot, pod, &[], 0) {
        Decision::Refuse { message, .. } | Decision::Fail { message } => message,
        Decision::Place { node, .. } => panic!("placed on {node}"),
    }
}

fn place(snapshot: &Snapshot, pod: &Pod) -> (String, Vec<Binding>) {
    match schedule(snapshot, pod, &[], 0) {
        Decision::Place { node, bindings, .. } => (node, bindings),
        Decision::Refuse { message, .. } | Decision::Fail { message } => panic!("{message}"),
    }
}

#[test]
fn why_a_pods_claims_keep_it_from_everywhere() {
    let mut snapshot = cluster(&["a", "b"]);
    let tail =
        "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let expect = |snapshot: &Snapshot, why: &str| {
        assert_eq!(refusal(snapshot, &pod("p", &["c"])), format!("0/2 nodes are available: {why}. {tail}"));
    };
    expect(&snapshot, "persistentvolumeclaim \"c\" not found");
    put(&mut snapshot, &claim("c", "", None));
    expect(&snapshot, "pod has unbound immediate PersistentVolumeClaims");
    let mut going = claim("c", "", None);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    put(&mut snapshot, &going);
    expect(&snapshot, "persistentvolumeclaim \"c\" is being deleted");
    let mut lost = claim("c", "", Some("v"));
    lost["status"]["phase"] = "Lost".into();
    put(&mut snapshot, &lost);
    expect(&snapshot, "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"");
    let ephemeral: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"},
        "spec": {"volumes": [{"name": "e", "ephemeral": {}}]}}))
    .unwrap();
    let waits = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-e\"";
    assert!(refusal(&snapshot, &ephemeral).contains(waits));
    put(&mut snapshot, &claim("p-e", "made", None));
    assert!(refusal(&snapshot, &ephemeral).contains("PVC n/p-e was not created for pod n/p (pod is not owner)"));
}

#[test]
fn a_pod_goes_where_its_volume_is() {
    let mut snapshot = cluster(&["a", "b", "c"]);
    snapshot.shelf.put_volume(&volume("v", "b", "1Gi"));
    put(&mut snapshot, &claim("c", "local", Some("v")));
    let (node, bindings) = place(&snapshot, &pod("p", &["c"]));
    assert_eq!((node.as_str(), bindings.len()), ("b", 0));
    snapshot.shelf.put_volume(&volume("v", "elsewhere", "1Gi"));
    assert!(refusal(&snapshot, &pod("p", &["c"])).contains("3 node(s) didn't match PersistentVolume's node affinity"));
    snapshot.shelf.remove_volume("v");
    assert!(refusal(&snapshot, &pod("p", &["c"])).contains(NO_SUCH_VOLUME));
}

#[test]
fn a_waiting_claim_gets_a_volume_of_the_node() {
    let mut snapshot = cluster(&["a", "b"]);
    snapshot.shelf.put_volume(&volume("big", "b", "9Gi"));
    snapshot.shelf.put_volume(&volume("fits", "b", "1Gi"));
    snapshot.shelf.put_volume(&volume("small", "a", "1Mi"));
    put(&mut snapshot, &claim("c", "local", None));
    put(&mut snapshot, &claim("d", "local", None));
    put(&mut snapshot, &claim("e", "local", None));
    let (node, bindings) = place(&snapshot, &pod("p", &["c"]));
    let [Binding::Volume { volume, .. }] = bindings.as_slice() else { panic!("{bindings:?}") };
    assert_eq!((node.as_str(), volume.metadata.name.as_str()), ("b", "fits"));
    // What is promised to one claim is not given to another.
    snapshot.shelf.promise(&bindings, &node);
    let (_, others) = place(&snapshot, &pod("q", &["d"]));
    let [Binding::Volume { volume, .. }] = others.as_slice() else { panic!("{others:?}") };
    assert_eq!(volume.metadata.name, "big");
    assert!(refusal(&snapshot, &pod("r", &["d", "e"])).contains(NONE_TO_BIND));
    snapshot.shelf.take_back(&bindings);
    assert_eq!(place(&snapshot, &pod("r", &["d", "e"])).1.len(), 2);
}

#[test]
fn a_volume_is_made_where_the_pod_goes() {
    let mut snapshot = cluster(&["a", "b"]);
    put(&mut snapshot, &claim("c", "made", None));
    let (node, bindings) = place(&snapshot, &pod("p", &["c"]));
    assert!(matches!(bindings.as_slice(), [Binding::Provision { .. }]));
    // Another pod with the same claim goes to the same node, before the claim says so and after.
    snapshot.shelf.promise(&bindings, &node);
    assert_eq!(place(&snapshot, &pod("q", &["c"])).0, node);
    let mut selected = claim("c", "made", None);
    selected["metadata"]["annotations"][SELECTED_NODE] = "b".into();
    put(&mut snapshot, &selected);
    assert!(snapshot.shelf.selected.is_empty());
    assert_eq!(place(&snapshot, &pod("q", &["c"])).0, "b");
    let class = json!({"metadata": {"name": "made"}, "provisioner": "x", "volumeBindingMode": "WaitForFirstConsumer",
        "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["z-a"]}]}]});
    snapshot.shelf.classes.insert("made".into(), Arc::new(serde_json::from_value(class).unwrap()));
    put(&mut snapshot, &claim("c", "made", None));
    assert_eq!(place(&snapshot, &pod("p", &["c"])).0, "a");
}

#[test]
fn what_only_one_pod_may_have_is_not_shared() {
    let mut snapshot = cluster(&["a"]);
    snapshot.shelf.put_volume(&volume("v", "a", "1Gi"));
    let mut once = claim("c", "local", Some("v"));
    once["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    put(&mut snapshot, &once);
    place(&snapshot, &pod("p", &["c"]));
    let mut there = Pod::clone(&pod("p", &["c"]));
    there.node_name = "a".into();
    snapshot.put_pod(&Arc::new(there));
    assert!(refusal(&snapshot, &pod("q", &["c"])).contains(IN_USE));
    let mut important = Pod::clone(&pod("q", &["c"]));
    important.priority = 10;
    let Decision::Refuse { preemption: Some(preemption), .. } = schedule(&snapshot, &important, &[], 0) else {
        panic!("the other is not pushed out")
    };
    assert_eq!(preemption.victims[0].metadata.name, "p");
}
