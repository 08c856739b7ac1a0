use serde_json::{Value, json};

use super::*;
use crate::runtime::plan::{Action, Verb};

fn service(patch: Value) -> Service {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "svc", "labels": {"team": "x"}},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web"}]},
    });
    if let Some(fields) = patch.as_object() {
        for (key, field) in fields {
            value["spec"][key] = field.clone();
        }
    }
    serde_json::from_value(value).unwrap()
}

fn pod(number: u8, ready: bool, port: u16) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("p{number}"), "namespace": "n", "uid": format!("u{number:03}"),
                "labels": {"app": "web"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": port, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": format!("10.244.0.{number}"), "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap(),
    )
}

fn run(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>], endpoints: Option<&Endpoints>) -> Plan {
    let zones = BTreeMap::from([("node-1".to_owned(), "z1".to_owned())]);
    plan(&View { service, pods, zones: &zones, slices, endpoints })
}

fn created<'a>(plan: &'a Plan, kind: &str) -> Vec<&'a Value> {
    plan.actions()
        .filter_map(|a| match a {
            Action::Write(w) if w.kind.kind == kind => match &w.verb {
                Verb::Create(body) => Some(body),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// What the API server would hold after the plan.
fn stored(body: &Value, name: &str) -> Value {
    let mut body = body.clone();
    body["metadata"]["name"] = name.into();
    body["metadata"]["uid"] = name.into();
    body
}

#[test]
fn a_slice_and_endpoints_by_readiness() {
    let service = service(json!({}));
    let plan = run(&service, &[pod(1, true, 8080), pod(2, false, 8080)], &[], None);
    let slice = created(&plan, "EndpointSlice")[0];
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    assert_eq!(slice["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
    assert_eq!(slice["endpoints"][0]["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
    assert_eq!(slice["endpoints"][1]["conditions"]["ready"], false);
    assert_eq!(slice["endpoints"][0]["zone"], "z1");
    let endpoints = created(&plan, "Endpoints")[0];
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "10.244.0.1");
    assert_eq!(endpoints["subsets"][0]["notReadyAddresses"][0]["ip"], "10.244.0.2");
}

#[test]
fn what_is_right_is_left_alone_and_a_change_touches_its_slice_only() {
    let service = service(json!({}));
    let pods: Vec<_> = (1..=150).map(|n| pod(n, true, 8080)).collect();
    let first = run(&service, &pods, &[], None);
    let slices: Vec<Arc<EndpointSlice>> = created(&first, "EndpointSlice")
        .iter()
        .enumerate()
        .map(|(i, body)| Arc::new(serde_json::from_value(stored(body, &format!("s{i}"))).unwrap()))
        .collect();
    assert_eq!(slices.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [100, 50]);
    let endpoints: Endpoints = serde_json::from_value(stored(created(&first, "Endpoints")[0], "web")).unwrap();
    assert!(run(&service, &pods, &slices, Some(&endpoints)).is_empty());

    let mut changed = pods.clone();
    changed[120] = pod(121, false, 8080);
    let second = run(&service, &changed, &slices, Some(&endpoints));
    let touched: Vec<&str> = second
        .actions()
        .filter_map(|a| match a {
            Action::Write(w) => Some(w.name.as_str()),
            Action::Event(_) => None,
        })
        .collect();
    assert_eq!(touched, ["s1", "web"]);
}

#[test]
fn traffic_distribution_hints_at_the_endpoints_own_zone_and_node() {
    let hints = |distribution: Option<&str>| {
        let service = service(json!({"trafficDistribution": distribution}));
        let plan = run(&service, &[pod(1, true, 8080), pod(2, false, 8080)], &[], None);
        let slice = created(&plan, "EndpointSlice")[0].clone();
        assert!(slice["endpoints"][1].get("hints").is_none(), "only ready endpoints have hints");
        slice["endpoints"][0].get("hints").cloned()
    };
    let zone = json!({"forZones": [{"name": "z1"}]});
    assert_eq!(hints(Some("PreferClose")), Some(zone.clone()));
    assert_eq!(hints(Some("PreferSameZone")), Some(zone));
    assert_eq!(
        hints(Some("PreferSameNode")),
        Some(json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "node-1"}]}))
    );
    assert_eq!(hints(None), None);
    // Taken back, the hints go.
    let plan = run(&service(json!({"trafficDistribution": "PreferClose"})), &[pod(1, true, 8080)], &[], None);
    let stored: EndpointSlice = serde_json::from_value(stored(created(&plan, "EndpointSlice")[0], "s0")).unwrap();
    let plan = run(&service(json!({})), &[pod(1, true, 8080)], &[Arc::new(stored)], None);
    let patched = plan.actions().find_map(|a| match a {
        Action::Write(w) => match &w.verb {
            Verb::Patch(_, _, patch) => Some(patch["endpoints"][0].clone()),
            _ => None,
        },
        Action::Event(_) => None,
    });
    assert!(patched.expect("the slice is patched").get("hints").is_none());
}

#[test]
fn pods_with_other_port_numbers_get_their_own_slice() {
    let plan = run(&service(json!({})), &[pod(1, true, 8080), pod(2, true, 9090)], &[], None);
    assert_eq!(created(&plan, "EndpointSlice").len(), 2);
    assert_eq!(created(&plan, "Endpoints")[0]["subsets"].as_array().unwrap().len(), 2);
}

#[test]
fn terminating_pods_serve_but_are_not_ready() {
    let mut going = Pod::clone(&pod(1, true, 80));
    going.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".parse().unwrap());
    let plan = run(&service(json!({})), &[Arc::new(going)], &[], None);
    let conditions = &created(&plan, "EndpointSlice")[0]["endpoints"][0]["conditions"];
    assert_eq!(*conditions, json!({"ready": false, "serving": true, "terminating": true}));
    assert_eq!(created(&plan, "Endpoints")[0]["subsets"], json!([]));
}

#[test]
fn publish_not_ready_addresses() {
    let plan = run(&service(json!({"publishNotReadyAddresses": true})), &[pod(1, false, 80)], &[], None);
    assert_eq!(created(&plan, "EndpointSlice")[0]["endpoints"][0]["conditions"]["ready"], true);
    assert_eq!(created(&plan, "Endpoints")[0]["subsets"][0]["addresses"].as_array().unwrap().len(), 1);
}

#[test]
fn no_pods_give_an_empty_slice() {
    let plan = run(&service(json!({})), &[], &[], None);
    assert_eq!(created(&plan, "EndpointSlice")[0]["endpoints"], json!([]));
}

#[test]
fn services_without_a_selector_are_left_alone() {
    assert!(run(&service(json!({"selector": {}})), &[pod(1, true, 80)], &[], None).is_empty());
    assert!(run(&service(json!({"type": "ExternalName"})), &[pod(1, true, 80)], &[], None).is_empty());
}
