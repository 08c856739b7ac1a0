use serde_json::Value;

use super::*;
use crate::runtime::plan::Verb;

fn endpoints(metadata: Value, subsets: Value) -> Endpoints {
    let mut value = json!({"metadata": {"name": "db", "namespace": "n", "uid": "e1", "labels": {"team": "x"},
        "annotations": {"note": "a", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}, "subsets": subsets});
    for (key, field) in metadata.as_object().into_iter().flatten() {
        value["metadata"][key] = field.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn service(selector: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "n"}, "spec": {"selector": selector}}))
        .unwrap()
}

fn subset(addresses: &[&str], not_ready: &[&str], port: u16) -> Value {
    let list = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    json!({"addresses": list(addresses), "notReadyAddresses": list(not_ready),
        "ports": [{"name": "sql", "port": port, "protocol": "TCP"}]})
}

fn run(endpoints: Option<&Endpoints>, service: Option<&Service>, slices: &[Arc<EndpointSlice>]) -> Plan {
    plan(&View { endpoints, service, slices })
}

fn writes(plan: &Plan) -> Vec<&Write> {
    plan.actions()
        .filter_map(|a| match a {
            Action::Write(write) => Some(&**write),
            Action::Event(_) => None,
        })
        .collect()
}

fn bodies(plan: &Plan) -> Vec<&Value> {
    writes(plan)
        .into_iter()
        .filter_map(|write| match &write.verb {
            Verb::Create(body) => Some(body),
            _ => None,
        })
        .collect()
}

/// What the API server would hold after the plan's creations.
fn stored(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
    let slice = |(at, body): (usize, &Value)| {
        let mut body = body.clone();
        body["metadata"]["name"] = format!("db-{at}").into();
        Arc::new(serde_json::from_value(body).unwrap())
    };
    bodies(plan).into_iter().enumerate().map(slice).collect()
}

#[test]
fn a_slice_for_each_family_and_set_of_ports() {
    let subsets =
        json!([subset(&["192.0.2.7", "2001:db8::7"], &["192.0.2.8"], 5432), subset(&["192.0.2.9"], &[], 9187)]);
    let (endpoints, service) = (endpoints(json!({}), subsets), service(Value::Null));
    let plan = run(Some(&endpoints), Some(&service), &[]);
    let made: Vec<_> = bodies(&plan)
        .iter()
        .map(|b| (b["addressType"].clone(), b["ports"][0]["port"].clone(), b["endpoints"].as_array().unwrap().len()))
        .collect();
    assert_eq!(
        made,
        [(json!("IPv4"), json!(5432), 2), (json!("IPv4"), json!(9187), 1), (json!("IPv6"), json!(5432), 1)]
    );
    let first = bodies(&plan)[0];
    assert_eq!(first["endpoints"][0], json!({"addresses": ["192.0.2.7"], "conditions": {"ready": true}}));
    assert_eq!(first["endpoints"][1]["conditions"], json!({"ready": false}));
    let labels = json!({"team": "x", "kubernetes.io/service-name": "db",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"});
    assert_eq!(first["metadata"]["labels"], labels);
    assert_eq!(first["metadata"]["annotations"], json!({"note": "a"}));
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    assert!(run(Some(&endpoints), Some(&service), &stored(&plan)).is_empty(), "what is right is left alone");
}

#[test]
fn changes_go_to_the_slices_that_there_are() {
    let service = service(Value::Null);
    let before = endpoints(json!({}), json!([subset(&["192.0.2.7"], &[], 5432)]));
    let slices = stored(&run(Some(&before), Some(&service), &[]));
    let after = endpoints(json!({"labels": {}}), json!([subset(&["192.0.2.8"], &[], 5433)]));
    let plan = run(Some(&after), Some(&service), &slices);
    let [Write { name, verb: Verb::Patch(_, _, patch), .. }] = &writes(&plan)[..] else {
        panic!("one patch, not {plan:?}")
    };
    assert_eq!(name, "db-0");
    assert_eq!(patch["ports"][0]["port"], 5433);
    assert_eq!(patch["endpoints"][0]["addresses"], json!(["192.0.2.8"]));
    assert_eq!(patch["metadata"]["labels"]["team"], Value::Null);
    let none = endpoints(json!({}), json!([]));
    assert!(matches!(writes(&run(Some(&none), Some(&service), &slices))[..], [Write { verb: Verb::Delete(_), .. }]));
}

#[test]
fn what_is_not_to_be_mirrored_has_no_slices() {
    let subsets = json!([subset(&["192.0.2.7"], &[], 5432)]);
    let (plain, bare) = (endpoints(json!({}), subsets.clone()), service(Value::Null));
    let slices = stored(&run(Some(&plain), Some(&bare), &[]));
    let skipped = endpoints(json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}), subsets.clone());
    let lock = endpoints(json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}), subsets);
    let selecting = service(json!({"app": "db"}));
    for (endpoints, service) in [
        (None, Some(&bare)),
        (Some(&plain), None),
        (Some(&plain), Some(&selecting)),
        (Some(&skipped), Some(&bare)),
        (Some(&lock), Some(&bare)),
    ] {
        assert!(run(endpoints, service, &[]).is_empty());
        assert!(matches!(writes(&run(endpoints, service, &slices))[..], [Write { verb: Verb::Delete(_), .. }]));
    }
    // Somebody else's slices are none of our business.
    let mut foreign = EndpointSlice::clone(&slices[0]);
    foreign.metadata.labels.insert(MANAGED_BY.into(), "me".into());
    assert!(run(None, None, &[Arc::new(foreign)]).is_empty());
}

#[test]
fn a_thousand_addresses_of_a_subset_at_most() {
    let many: Vec<String> = (0..1003).map(|n| format!("192.0.{}.{}", n / 250, n % 250 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let endpoints = endpoints(json!({}), json!([subset(&many, &["nonsense"], 5432)]));
    let plan = run(Some(&endpoints), Some(&service(Value::Null)), &[]);
    assert_eq!(bodies(&plan)[0]["endpoints"].as_array().unwrap().len(), 1000);
    let told = plan.actions().find_map(|a| match a {
        Action::Event(note) => Some((note.reason.clone(), note.message.clone())),
        Action::Write(_) => None,
    });
    let message =
        "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 4 addresses were skipped";
    assert_eq!(told, Some(("TooManyAddressesToMirror".into(), message.into())));
}
