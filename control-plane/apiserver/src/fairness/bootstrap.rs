//! The levels and schemas that every cluster has (upstream `apis/flowcontrol/bootstrap`).
//!
//! Two of each are mandatory, and put right whatever anybody does to them. The others are suggested: they are made once,
//! and follow us for as long as their annotation `apf.kubernetes.io/autoupdate-spec` is true.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::{entry, list, text};

/// Whether the object follows what we suggest.
pub const ANNOTATION: &str = "apf.kubernetes.io/autoupdate-spec";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {ANNOTATION: "true"}},
        "spec": spec,
    })
}

fn queued(name: &str, shares: u32, lendable: u32, queues: (u32, u32)) -> Value {
    let (queues, hand) = queues;
    let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
    let response = json!({"type": "Queue", "queuing": queuing});
    let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
    object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
}

fn levels() -> Vec<Value> {
    let none = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0});
    let rest = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
    vec![
        object("PriorityLevelConfiguration", "exempt", json!({"type": "Exempt", "exempt": none})),
        object("PriorityLevelConfiguration", "catch-all", json!({"type": "Limited", "limited": rest})),
        queued("system", 30, 33, (64, 6)),
        queued("node-high", 40, 25, (64, 6)),
        queued("leader-election", 10, 0, (16, 4)),
        queued("workload-high", 40, 50, (128, 6)),
        queued("workload-low", 100, 90, (128, 6)),
        queued("global-default", 20, 50, (128, 6)),
    ]
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn system_account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}})
}

fn rule(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [rules],
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, spec)
}

/// Whatever these subjects do.
fn everything(subjects: &[Value]) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

fn schemas() -> Vec<Value> {
    const WRITE: [&str; 3] = ["get", "create", "update"];
    let (manager, scheduler) = (user("system:kube-controller-manager"), user("system:kube-scheduler"));
    let (anonymous, known) = (group("system:unauthenticated"), group("system:authenticated"));
    let accounts = || system_account("*");
    let resources = |subjects: Value, rules: Value| json!({"subjects": subjects, "resourceRules": rules});
    let leases = || rule(&WRITE, "coordination.k8s.io", &["leases"], false);
    let probes = json!({
        "subjects": [anonymous, known],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    });
    let endpoints = json!([rule(&WRITE, "", &["endpoints"], false)]);
    let endpoint_makers =
        json!([manager, system_account("endpoint-controller"), system_account("endpointslicemirroring-controller")]);
    let of_nodes = json!([
        rule(&["*"], "", &["nodes", "nodes/status"], true),
        rule(&["*"], "coordination.k8s.io", &["leases"], false),
    ]);
    let nodes = group("system:nodes");
    vec![
        schema("exempt", "exempt", 1, "", everything(&[group("system:masters")])),
        schema("probes", "exempt", 2, "", probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            resources(json!([manager, scheduler, accounts()]), json!([leases()])),
        ),
        schema("endpoint-controller", "workload-high", 150, "ByUser", resources(endpoint_makers, endpoints)),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            resources(json!([accounts()]), json!([leases()])),
        ),
        schema("system-node-high", "node-high", 400, "ByUser", resources(json!([nodes]), of_nodes)),
        schema("system-nodes", "system", 500, "ByUser", everything(&[nodes])),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", everything(&[manager])),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(&[scheduler])),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", everything(&[accounts()])),
        schema("service-accounts", "workload-low", 9000, "ByUser", everything(&[group("system:serviceaccounts")])),
        schema("global-default", "global-default", 9900, "ByUser", everything(&[anonymous.clone(), known.clone()])),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(&[anonymous, known])),
    ]
}

/// All of them, levels first.
pub fn objects() -> Vec<Value> {
    let mut out = levels();
    out.extend(schemas());
    out
}

/// Says in the statuses of schemas whether their levels exist: the names of the schemas of which it is not said (right)
/// yet, and what to merge into them.
pub fn dangling(schemas: &[Value], levels: &[Value], now: Timestamp) -> Vec<(String, Value)> {
    let names: Vec<&str> = levels.iter().map(|level| text(level, "/metadata/name")).collect();
    let told = |schema: &Value| {
        let level = text(schema, "/spec/priorityLevelConfiguration/name");
        let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
        let (status, reason, message) = if names.contains(&level) {
            ("False", "Found", format!("{about} and it exists"))
        } else {
            ("True", "NotFound", format!("{about} but there is no such object"))
        };
        let conditions = list(schema, "/status/conditions");
        let said = conditions.iter().find(|c| text(c, "/type") == "Dangling");
        if said.is_some_and(|c| text(c, "/status") == status && text(c, "/message") == message) {
            return None;
        }
        let mut all: Vec<Value> = conditions.iter().filter(|c| text(c, "/type") != "Dangling").cloned().collect();
        all.push(json!({
            "type": "Dangling", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now.to_string(),
        }));
        Some((text(schema, "/metadata/name").to_owned(), json!({"status": {"conditions": all}})))
    };
    schemas.iter().filter_map(told).collect()
}

/// Whether the stored object is to be what we say it is.
pub fn is_maintained(stored: &Value) -> bool {
    let mandatory = matches!(text(stored, "/metadata/name"), "exempt" | "catch-all");
    mandatory || entry(stored, "/metadata/annotations", ANNOTATION) == Some("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_say_whether_their_level_exists() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut schema = schema("s", "system", 5, "", json!({}));
        let said = dangling(std::slice::from_ref(&schema), &levels(), now);
        let condition = &said[0].1["status"]["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Found")));
        schema["status"] = said[0].1["status"].clone();
        assert!(dangling(std::slice::from_ref(&schema), &levels(), now).is_empty());
        let gone = dangling(std::slice::from_ref(&schema), &[], now);
        assert_eq!(
            gone[0].1["status"]["conditions"][0]["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"system\" but there is no such object"
        );
    }
}
