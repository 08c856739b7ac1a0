use serde_json::{Value, json};

use super::*;

const PODS: Kind<'_> = Kind { group: "", plural: "pods" };

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn quota(hard: Value, used: Value, spec: Value) -> Value {
    let mut spec = spec;
    spec["hard"] = hard.clone();
    json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}})
}

fn pod(resources: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
}

fn create(kind: Kind<'_>, quota: &Value, new: &Value) -> Result<Vec<(usize, Amounts)>, String> {
    charge(std::slice::from_ref(quota), &Request { kind, subresource: "", new, old: None, now: now() })
}

#[test]
fn words_are_upstreams() {
    let full = quota(json!({"pods": "2", "cpu": "1"}), json!({"pods": "2", "cpu": "500m"}), json!({}));
    assert_eq!(
        create(PODS, &full, &pod(json!({"requests": {"cpu": "100m"}}))).unwrap_err(),
        "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    );
    assert_eq!(
        create(PODS, &full, &pod(json!({"requests": {"cpu": "1"}}))).unwrap_err(),
        "exceeded quota: q, requested: cpu=1,pods=1, used: cpu=500m,pods=2, limited: cpu=1,pods=2"
    );
    let limits = quota(json!({"limits.cpu": "2", "limits.memory": "1Gi"}), json!({}), json!({}));
    assert_eq!(
        create(PODS, &limits, &pod(json!({}))).unwrap_err(),
        "failed quota: q: must specify limits.cpu for: c; limits.memory for: c"
    );
    assert_eq!(
        create(PODS, &limits, &pod(json!({"limits": {"cpu": "1", "memory": "1"}}))).unwrap_err(),
        "status unknown for quota: q, resources: limits.cpu,limits.memory"
    );
}

#[test]
fn pods_use_what_they_ask_for() {
    let pod = json!({"spec": {
        "overhead": {"cpu": "10m", "memory": "1Mi"},
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}}],
        "initContainers": [
            {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
            {"name": "init", "resources": {"requests": {"cpu": "200m"}}}],
    }});
    let used = PODS.usage(&pod, now());
    let is = |name: &str| used.get(name).map(ToString::to_string).unwrap_or_default();
    assert_eq!((is("cpu"), is("requests.cpu"), is("limits.cpu")), ("260m".into(), "260m".into(), String::new()));
    assert_eq!((is("limits.memory"), is("requests.memory")), ("1025Mi".into(), "1Mi".into()));
    assert_eq!((is("requests.example.com/gpu"), is("pods"), is("count/pods")), ("2".into(), "1".into(), "1".into()));
    let mut over = pod;
    over["status"] = json!({"phase": "Succeeded"});
    assert_eq!(PODS.usage(&over, now()).keys().collect::<Vec<_>>(), ["count/pods"]);
    over["status"] = json!({});
    over["metadata"] = json!({"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30});
    assert_eq!(PODS.usage(&over, now()).len(), 1);
}

#[test]
fn services_and_claims() {
    let services = Kind { group: "", plural: "services" };
    let service = |spec: Value| services.usage(&json!({ "spec": spec }), now());
    let used = service(json!({"type": "LoadBalancer", "ports": [{}, {}]}));
    assert_eq!((used["services.nodeports"].value(), used["services.loadbalancers"].value()), (2, 1));
    let used = service(
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{}, {"nodePort": 1}]}),
    );
    assert_eq!(used["services.nodeports"].value(), 1);
    assert_eq!(service(json!({"type": "ClusterIP", "ports": [{}]}))["services.nodeports"].value(), 0);

    let claims = Kind { group: "", plural: "persistentvolumeclaims" };
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    let used = claims.usage(&claim, now());
    assert_eq!(used["gold.storageclass.storage.k8s.io/requests.storage"].to_string(), "1Gi");
    assert_eq!(used["gold.storageclass.storage.k8s.io/persistentvolumeclaims"].value(), 1);
    assert!(claims.uses("silver.storageclass.storage.k8s.io/requests.storage") && !claims.uses("requests.cpu"));
}

#[test]
fn updates_are_charged_for_what_is_more() {
    let services = Kind { group: "", plural: "services" };
    let quota = quota(
        json!({"services": "1", "services.nodeports": "1"}),
        json!({"services": "1", "services.nodeports": "0"}),
        json!({}),
    );
    let of = |kind: &str, ports: usize| json!({"spec": {"type": kind, "ports": vec![json!({}); ports]}});
    let update = |old: &Value, new: &Value| {
        let request = Request { kind: services, subresource: "", new, old: Some(old), now: now() };
        charge(std::slice::from_ref(&quota), &request)
    };
    let charged = update(&of("ClusterIP", 1), &of("NodePort", 1)).unwrap();
    assert_eq!(charged[0].1["services.nodeports"].value(), 1);
    assert_eq!(charged[0].1["services"].value(), 1);
    assert!(update(&of("NodePort", 1), &of("ClusterIP", 1)).unwrap().is_empty());
    assert!(
        update(&of("ClusterIP", 1), &of("NodePort", 2))
            .unwrap_err()
            .starts_with("exceeded quota: q, requested: services.nodeports=2")
    );
}

#[test]
fn scopes_choose_objects() {
    let scoped = |scopes: Value| quota(json!({"pods": "1"}), json!({"pods": "0"}), scopes);
    let best = pod(json!({}));
    let mut burst = pod(json!({"requests": {"cpu": "1"}}));
    let concerns = |scopes: Value, pod: &Value| !create(PODS, &scoped(scopes), pod).unwrap().is_empty();
    assert!(concerns(json!({"scopes": ["BestEffort"]}), &best) && !concerns(json!({"scopes": ["BestEffort"]}), &burst));
    assert!(concerns(json!({"scopes": ["NotBestEffort", "NotTerminating"]}), &burst));
    burst["spec"]["activeDeadlineSeconds"] = 5.into();
    assert!(
        !concerns(json!({"scopes": ["NotTerminating"]}), &burst)
            && concerns(json!({"scopes": ["Terminating"]}), &burst)
    );
    let priority = |operator: &str, values: &[&str]| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
    burst["spec"]["priorityClassName"] = "high".into();
    assert!(concerns(priority("In", &["high"]), &burst) && !concerns(priority("In", &["low"]), &burst));
    assert!(!concerns(priority("In", &["high"]), &best) && concerns(priority("NotIn", &["high"]), &best));
    assert!(concerns(priority("Exists", &[]), &burst) && concerns(priority("DoesNotExist", &[]), &best));
    let affinity = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologyKey": "a", "namespaceSelector": {}}}]}});
    assert!(!concerns(json!({"scopes": ["CrossNamespacePodAffinity"]}), &burst));
    burst["spec"]["affinity"] = affinity;
    assert!(concerns(json!({"scopes": ["CrossNamespacePodAffinity"]}), &burst));

    let secrets = Kind { group: "", plural: "secrets" };
    let unscoped = quota(json!({"secrets": "1"}), json!({"secrets": "0"}), json!({}));
    assert_eq!(create(secrets, &unscoped, &json!({})).unwrap().len(), 1);
    let scoped = quota(json!({"secrets": "1"}), json!({"secrets": "0"}), json!({"scopes": ["BestEffort"]}));
    assert!(create(secrets, &scoped, &json!({})).unwrap().is_empty());
}

#[test]
fn every_kind_can_be_counted() {
    let widgets = Kind { group: "example.com", plural: "widgets" };
    let quota = quota(json!({"count/widgets.example.com": "1"}), json!({"count/widgets.example.com": "1"}), json!({}));
    assert!(create(widgets, &quota, &json!({})).unwrap_err().contains("count/widgets.example.com=1"));
    assert!(widgets.is_charged("", true) && !widgets.is_charged("", false) && !widgets.is_charged("status", true));
    assert!(!Kind { group: "", plural: "events" }.is_charged("", true));
    assert!(PODS.is_charged("resize", false) && !PODS.is_charged("", false) && !PODS.is_charged("binding", true));
}

#[test]
fn resources_are_counted_where_they_are() {
    let found = sources([
        "pods",
        "limits.cpu",
        "count/deployments.apps",
        "secrets",
        "gold.storageclass.storage.k8s.io/requests.storage",
        "requests.example.com/gpu",
        "count/services",
    ]);
    let count = |group: &str, plural: &str| Source::Count { group: group.into(), plural: plural.into() };
    let expected = [
        Source::Objects("persistentvolumeclaims"),
        Source::Objects("pods"),
        Source::Objects("services"),
        count("", "secrets"),
        count("apps", "deployments"),
    ];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn the_status_follows_the_spec() {
    let mut quota = json!({"spec": {"hard": {"pods": "2", "secrets": "3"}}});
    let counted = Amounts::from([("pods".to_owned(), one()), ("cpu".to_owned(), one())]);
    let status = super::status(&quota, &counted).unwrap();
    assert_eq!(status, json!({"hard": {"pods": "2", "secrets": "3"}, "used": {"pods": "1"}}));
    quota["status"] = status;
    assert_eq!(super::status(&quota, &counted), None);
    quota["spec"]["hard"] = json!({"secrets": "3"});
    assert_eq!(super::status(&quota, &Amounts::new()).unwrap()["used"], json!({}));
}
