use serde_json::{Value, json};

use super::*;
use crate::runtime::plan::Verb;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "rs", "generation": 3, "resourceVersion": "9"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    }))
    .unwrap()
}

/// A running, ready pod of the set on node `a`, changed by a merge patch.
fn pod(name: &str, patch: Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs",
                "controller": true}]},
        "spec": {"nodeName": "a", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    merge(&mut value, &patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            for (key, value) in fields {
                merge(&mut target[key], value);
            }
        }
        other => *target = other.clone(),
    }
}

fn run(set: &ReplicaSet, pods: &[Arc<Pod>]) -> Plan {
    plan(&View { kind: &kind::REPLICA_SET, set, pods, related: &BTreeMap::new(), failure: None }, now())
}

fn creates(plan: &Plan) -> usize {
    plan.actions().filter(|a| matches!(a, Action::Write(w) if matches!(w.verb, Verb::Create(_)))).count()
}

fn deletes(plan: &Plan) -> Vec<&str> {
    plan.actions()
        .filter_map(|a| match a {
            Action::Write(w) if matches!(w.verb, Verb::Delete(_)) => Some(w.name.as_str()),
            _ => None,
        })
        .collect()
}

fn status_patch(plan: &Plan) -> Option<&Value> {
    plan.actions().find_map(|a| match a {
        Action::Write(w) => match &w.verb {
            Verb::Patch("status", _, patch) => Some(&patch["status"]),
            _ => None,
        },
        Action::Event(_) => None,
    })
}

#[test]
fn makes_what_is_missing_from_the_template() {
    let set = set(3);
    let plan = run(&set, &[pod("p1", json!({}))]);
    assert_eq!(creates(&plan), 2);
    let body = plan
        .actions()
        .find_map(|a| match a {
            Action::Write(w) => match &w.verb {
                Verb::Create(body) => Some(body),
                _ => None,
            },
            Action::Event(_) => None,
        })
        .unwrap();
    assert_eq!(body["metadata"]["generateName"], "web-");
    assert_eq!(body["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
    assert_eq!(body["spec"]["containers"][0]["image"], "i");
}

#[test]
fn ended_and_ending_pods_do_not_count() {
    let pods = [
        pod("done", json!({"status": {"phase": "Failed"}})),
        pod("going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:09:00Z"}})),
    ];
    let set = set(1);
    let plan = run(&set, &pods);
    assert_eq!(creates(&plan), 1);
    assert_eq!(status_patch(&plan).unwrap()["terminatingReplicas"], 1);
}

#[test]
fn deletes_the_least_useful_first() {
    let pods = [
        pod("ready", json!({})),
        pod("unready", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})),
        pod("unplaced", json!({"spec": {"nodeName": ""}, "status": {"phase": "Pending", "conditions": []}})),
        pod("cheap", json!({"metadata": {"annotations": {DELETION_COST: "-5"}}})),
        pod(
            "young",
            json!({"metadata": {"creationTimestamp": "2026-01-01T00:09:59Z"}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:09:59Z"}]}}),
        ),
    ];
    let order = |keep: i32| run(&set(keep), &pods);
    assert_eq!(deletes(&order(4)), ["unplaced"]);
    assert_eq!(deletes(&order(1)), ["unplaced", "unready", "cheap", "young"]);
}

#[test]
fn doubled_up_pods_go_first() {
    let pods = [
        pod("alone", json!({"spec": {"nodeName": "b"}, "metadata": {"creationTimestamp": "2026-01-01T00:09:59Z"}})),
        pod("crowded", json!({})),
    ];
    let related = BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 1)]);
    let set = set(1);
    let plan =
        plan(&View { kind: &kind::REPLICA_SET, set: &set, pods: &pods, related: &related, failure: None }, now());
    assert_eq!(deletes(&plan), ["crowded"]);
}

#[test]
fn status_counts_and_waits_for_min_ready_seconds() {
    let mut set = set(2);
    set.spec.min_ready_seconds = 30;
    let recent = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:09:50Z"}]}});
    let plan = run(&set, &[pod("p1", json!({})), pod("p2", recent)]);
    let status = status_patch(&plan).unwrap();
    assert_eq!((&status["readyReplicas"], &status["availableReplicas"]), (&json!(2), &json!(1)));
    assert_eq!(status["observedGeneration"], 3);
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(20)));
}

#[test]
fn nothing_to_do_is_nothing_done() {
    let mut set = set(1);
    let pods = [pod("p1", json!({}))];
    set.status = serde_json::from_value(status_patch(&run(&set, &pods)).unwrap().clone()).unwrap();
    assert!(run(&set, &pods).is_empty());
}

#[test]
fn a_failure_is_told_in_the_status() {
    let set = set(1);
    let failure = ("FailedCreate".to_owned(), "exceeded quota".to_owned());
    let plan = plan(
        &View { kind: &kind::REPLICA_SET, set: &set, pods: &[], related: &BTreeMap::new(), failure: Some(&failure) },
        now(),
    );
    assert_eq!(status_patch(&plan).unwrap()["conditions"][0]["reason"], "FailedCreate");
}

#[test]
fn a_set_that_goes_away_makes_nothing() {
    let mut set = set(3);
    set.metadata.deletion_timestamp = Some(now());
    assert_eq!(creates(&run(&set, &[])), 0);
}
