use serde_json::{Value, json};

use super::*;
use crate::runtime::plan::Verb;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn node(name: &str, ready: &str, taints: Value) -> Arc<Node> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
            "spec": {"taints": taints},
            "status": {"conditions": REPORTED.map(|c| {
                let status = if c == "Ready" { ready } else if ready == "Unknown" { "Unknown" } else { "False" };
                json!({"type": c, "status": status})
            })},
        }))
        .unwrap(),
    )
}

fn pod(name: &str) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap(),
    )
}

/// `(object, subresource, patch)` of each write; all nodes were last seen at `seen`.
fn run(nodes: &[Arc<Node>], seen: i64, now: i64) -> Vec<(String, &'static str, Value)> {
    run_with(nodes, &|_| now - seen, now, true)
}

fn run_with(
    nodes: &[Arc<Node>],
    silent_seconds: &dyn Fn(&str) -> i64,
    now: i64,
    may_evict: bool,
) -> Vec<(String, &'static str, Value)> {
    let silent = |name: &str| SignedDuration::from_secs(silent_seconds(name));
    let silent_for = nodes.iter().map(|n| (n.metadata.name.clone(), silent(&n.metadata.name))).collect();
    let pods = |name: &str| vec![pod(&format!("on-{name}"))];
    let view = View { nodes, silent_for: &silent_for, pods: &pods, grace: SignedDuration::from_secs(40), may_evict };
    let (plan, _) = plan(&view, at(now));
    plan.actions()
        .filter_map(|a| match a {
            Action::Write(w) => match &w.verb {
                Verb::Patch(sub, _, patch) => Some((w.name.clone(), *sub, patch.clone())),
                _ => None,
            },
            Action::Event(_) => None,
        })
        .collect()
}

fn keys(patch: &Value) -> Vec<String> {
    let taints = patch["spec"]["taints"].as_array().unwrap().iter();
    taints.map(|t| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap())).collect()
}

#[test]
fn silence_makes_conditions_unknown_and_pods_unready() {
    let nodes = [node("a", "True", json!([])), node("b", "True", json!([]))];
    assert!(run(&nodes, 0, 40).is_empty());
    let silent = |name: &str| if name == "a" { 41 } else { 0 };
    let writes = run_with(&nodes, &silent, 41, true);
    assert_eq!((writes[0].0.as_str(), writes[0].1), ("a", "status"));
    let conditions = writes[0].2["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|c| c["status"] == "Unknown"));
    assert_eq!(conditions[0]["message"], "Kubelet stopped posting node status.");
    assert_eq!(writes[1].0, "on-a");
    assert_eq!(writes[1].2["status"]["conditions"][0]["status"], "False");
    assert_eq!(writes.len(), 2);
}

#[test]
fn taints_follow_conditions() {
    let nodes = [node("a", "Unknown", json!([])), node("b", "True", json!([])), node("c", "True", json!([]))];
    let writes = run(&nodes, 0, 0);
    let taint = writes.iter().find(|w| w.0 == "a" && w.1.is_empty()).unwrap();
    assert_eq!(keys(&taint.2), [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")]);
}

#[test]
fn a_node_that_is_back_loses_our_taints_only() {
    let taints = json!([{"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"},
        {"key": "mine", "effect": "NoSchedule"}]);
    let writes = run(&[node("a", "True", taints)], 0, 0);
    assert_eq!(keys(&writes[0].2), ["mine:NoSchedule"]);
}

#[test]
fn pods_are_sent_off_one_node_at_a_time_and_not_when_all_seem_dead() {
    let nodes: Vec<_> =
        (0..10).map(|i| node(&format!("n{i}"), if i < 2 { "Unknown" } else { "True" }, json!([]))).collect();
    let sent_off = |writes: &[(String, &str, Value)]| {
        writes.iter().filter(|w| w.2["spec"]["taints"].as_array().is_some_and(|t| t.len() == 2)).count()
    };
    assert_eq!(sent_off(&run(&nodes, 0, 0)), 1);
    assert_eq!(sent_off(&run_with(&nodes, &|_| 5, 5, false)), 0);
    let all_dead: Vec<_> = (0..3).map(|i| node(&format!("n{i}"), "Unknown", json!([]))).collect();
    assert_eq!(sent_off(&run(&all_dead, 0, 0)), 0);
}

#[test]
fn a_cordoned_node_is_tainted() {
    let mut cordoned = Node::clone(&node("a", "True", json!([])));
    cordoned.spec.unschedulable = true;
    let writes = run(&[Arc::new(cordoned)], 0, 0);
    assert_eq!(keys(&writes[0].2), [format!("{UNSCHEDULABLE}:NoSchedule")]);
}
