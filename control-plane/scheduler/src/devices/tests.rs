use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use xebec_controllers::views::AllocatedDevice;

use super::*;
use crate::schedule::{Decision, schedule};
use crate::snapshot::Snapshot;
use crate::views::{Node, PodRef};

const DRIVER: &str = "gpu.example.com";

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn cluster(hosts: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for host in hosts {
        let node: Arc<Node> = read(json!({"metadata": {"name": host, "labels": {"zone": format!("z-{host}")}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "100"}}}));
        snapshot.put_node(&node);
    }
    let selector = json!([{"cel": {"expression": format!("device.driver == '{DRIVER}'")}}]);
    let config = json!([{"opaque": {"driver": DRIVER, "parameters": {"a": 1}}}]);
    snapshot.devices.put_class(&read(json!({"metadata": {"name": "gpu"},
        "spec": {"selectors": selector, "config": config}})));
    snapshot
}

/// A pool of one slice, as large and as new as it says.
fn slice(name: &str, node: Value, pool: Value, devices: Value) -> Arc<ResourceSlice> {
    let mut spec = json!({"driver": DRIVER, "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
        "devices": devices});
    for patch in [node, json!({"pool": pool})] {
        merge(&mut spec, &patch);
    }
    read(json!({"metadata": {"name": format!("slice-{name}")}, "spec": spec}))
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| merge(&mut target[key], value)),
        other => *target = other.clone(),
    }
}

fn on(node: &str) -> Value {
    json!({"nodeName": node})
}

fn devices(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name})).collect()
}

fn claim(name: &str, spec: &Value) -> Arc<ResourceClaim> {
    read(json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"devices": spec}}))
}

fn wants(count: i64) -> Value {
    exactly(json!({"allocationMode": "ExactCount", "count": count}))
}

fn exactly(mut wanted: Value) -> Value {
    wanted["deviceClassName"] = "gpu".into();
    if wanted["allocationMode"].is_null() {
        merge(&mut wanted, &json!({"allocationMode": "ExactCount", "count": 1}));
    }
    json!({"requests": [{"name": "r", "exactly": wanted}]})
}

fn pod(name: &str, claims: &[&str]) -> PodRef {
    let claims: Vec<Value> = claims.iter().map(|c| json!({"name": c, "resourceClaimName": c})).collect();
    read(json!({"metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"containers": [{"name": "c"}], "resourceClaims": claims}}))
}

/// Places a pod, and takes down what its claims get: where it is, and their devices.
fn place(snapshot: &mut Snapshot, pod: &PodRef) -> Result<(String, Vec<AllocatedDevice>), String> {
    match schedule(snapshot, pod, &[], 0) {
        Decision::Place { node, grants, .. } => {
            let mut all = Vec::new();
            for grant in grants {
                let Some(allocation) = grant.allocation else { continue };
                snapshot.devices.promise(&grant.claim, &allocation);
                let mut claim = ResourceClaim::clone(&grant.claim);
                claim.status.allocation = Some(allocation.clone());
                snapshot.devices.put_claim(&Arc::new(claim));
                all.extend(allocation.devices.results.clone());
            }
            Ok((node, all))
        }
        Decision::Refuse { message, .. } | Decision::Fail { message } => Err(message),
    }
}

fn names(found: &[AllocatedDevice]) -> Vec<&str> {
    found.iter().map(|device| device.device.as_str()).collect()
}

fn ask(snapshot: &mut Snapshot, name: &str, spec: &Value) -> Result<(String, Vec<String>), String> {
    snapshot.devices.put_claim(&claim(name, spec));
    let (node, found) = place(snapshot, &pod(&format!("pod-{name}"), &[name]))?;
    Ok((node, names(&found).into_iter().map(str::to_owned).collect()))
}

fn got(node: &str, devices: &[&str]) -> Result<(String, Vec<String>), String> {
    Ok((node.to_owned(), devices.iter().map(|d| (*d).to_owned()).collect()))
}

const CANNOT: &str = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes \
                      are available: 2 Preemption is not helpful for scheduling.";

#[test]
fn a_pod_goes_where_its_devices_are_and_nobody_gets_them_twice() {
    let mut snapshot = cluster(&["a", "b"]);
    snapshot.devices.put_slice(&slice("b", on("b"), json!({}), devices(&["x", "y", "z"])));
    assert_eq!(ask(&mut snapshot, "one", &wants(2)), got("b", &["x", "y"]));
    assert_eq!(ask(&mut snapshot, "two", &wants(2)).unwrap_err(), CANNOT);
    assert_eq!(ask(&mut snapshot, "three", &wants(1)), got("b", &["z"]));
    let first = snapshot.devices.claim(&Key::new("n", "one")).cloned().unwrap();
    snapshot.devices.remove_claim(&first);
    assert_eq!(ask(&mut snapshot, "two", &wants(2)), got("b", &["x", "y"]));
    // Those who look only disturb nobody.
    let admin = exactly(json!({"adminAccess": true}));
    assert_eq!(ask(&mut snapshot, "admin", &admin), got("b", &["x"]));
    assert_eq!(ask(&mut snapshot, "second", &admin), got("b", &["x"]));
}

#[test]
fn what_is_allocated_says_where_and_for_what() {
    let mut snapshot = cluster(&["a"]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), devices(&["x"])));
    let mut spec = wants(1);
    spec["config"] = json!([{"requests": ["r"], "opaque": {"driver": DRIVER, "parameters": {"b": 2}}}]);
    snapshot.devices.put_claim(&claim("c", &spec));
    place(&mut snapshot, &pod("p", &["c"])).unwrap();
    let claim = snapshot.devices.claim(&Key::new("n", "c")).unwrap();
    let opaque = |parameters: Value| json!({"driver": DRIVER, "parameters": parameters});
    assert_eq!(
        serde_json::to_value(claim.status.allocation.as_deref()).unwrap(),
        json!({
            "devices": {
                "results": [{"request": "r", "driver": DRIVER, "pool": "a", "device": "x"}],
                "config": [{"source": "FromClass", "opaque": opaque(json!({"a": 1}))},
                    {"source": "FromClaim", "opaque": opaque(json!({"b": 2}))}]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}})
    );
}

#[test]
fn a_claim_that_has_its_devices_draws_its_pods_there() {
    let mut snapshot = cluster(&["a", "b"]);
    snapshot.devices.put_slice(&slice("b", on("b"), json!({}), devices(&["x"])));
    assert_eq!(ask(&mut snapshot, "c", &wants(1)), got("b", &["x"]));
    let (node, _) = place(&mut snapshot, &pod("second", &["c"])).unwrap();
    assert_eq!(node, "b");
    snapshot.remove_node("b");
    let Decision::Refuse { message, idle, .. } = schedule(&snapshot, &pod("third", &["c"]), &[], 0) else {
        panic!("it has no place");
    };
    assert!(message.contains("1 resourceclaim not available on the node. deallocation of ResourceClaim completed"));
    assert_eq!(idle.unwrap().metadata.name, "c");
}

#[test]
fn why_a_pod_waits_for_its_claims() {
    let mut snapshot = cluster(&["a"]);
    let told = |snapshot: &mut Snapshot, why: &str| {
        let message = place(snapshot, &pod("p", &["c"])).unwrap_err();
        assert!(message.starts_with(&format!("0/1 nodes are available: {why}. ")), "{message}");
    };
    assert!(snapshot.devices.holds_back(&pod("p", &["c"])));
    told(&mut snapshot, "resourceclaim \"c\" not found");
    let mut other = wants(1);
    other["requests"][0]["exactly"]["deviceClassName"] = "tpu".into();
    snapshot.devices.put_claim(&claim("c", &other));
    assert!(!snapshot.devices.holds_back(&pod("p", &["c"])));
    told(&mut snapshot, "request r: device class tpu does not exist");
    let wanted = claim("c", &wants(1));
    snapshot.devices.put_claim(&wanted);
    snapshot.devices.promise(&wanted, &Arc::default());
    told(&mut snapshot, "resource claim n/c is in the process of being allocated");
    snapshot.devices.take_back(&wanted);
    told(&mut snapshot, "1 cannot allocate all claims");
    let template: PodRef = read(json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"},
        "spec": {"resourceClaims": [{"name": "own", "resourceClaimTemplateName": "t"}]}}));
    assert!(snapshot.devices.holds_back(&template));
    let mut made: Pod = Pod::clone(&template);
    made.device_claims = xebec_controllers::views::pod_claims(
        &[serde_json::from_value(json!({"name": "own", "resourceClaimTemplateName": "t"})).unwrap()],
        &[serde_json::from_value(json!({"name": "own", "resourceClaimName": "c"})).unwrap()],
    );
    assert!(snapshot.devices.holds_back(&made), "the claim is not the pod's own");
}

#[test]
fn selectors_choose_and_their_errors_are_told() {
    let mut snapshot = cluster(&["a", "b"]);
    let sizes = json!([{"name": "small", "attributes": {"size": {"int": 1}}},
        {"name": "large", "attributes": {"size": {"int": 8}}}]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), sizes));
    let select = |expression: &str| exactly(json!({"selectors": [{"cel": {"expression": expression}}]}));
    let large = select("device.attributes['gpu.example.com'].size > 4");
    assert_eq!(ask(&mut snapshot, "c", &large), got("a", &["large"]));
    let wrong = select("device.attributes['gpu.example.com'].speed > 4");
    let message = ask(&mut snapshot, "d", &wrong).unwrap_err();
    let begin = "running \"DynamicResources\" filter plugin: claim n/d: selector #0 on device gpu.example.com/a/small: CEL \
                 runtime error: no such key: speed";
    assert!(message.starts_with(begin), "{message}");
}

#[test]
fn all_devices_or_none() {
    let mut snapshot = cluster(&["a", "b"]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), devices(&["x", "y"])));
    let all = exactly(json!({"allocationMode": "All"}));
    assert_eq!(ask(&mut snapshot, "c", &all), got("a", &["x", "y"]));
    assert_eq!(ask(&mut snapshot, "d", &all).unwrap_err(), CANNOT);
    snapshot.devices.put_slice(&slice("b", on("b"), json!({"resourceSliceCount": 2}), devices(&["z"])));
    let message = ask(&mut snapshot, "e", &all).unwrap_err();
    assert!(message.contains("asks for all devices, but resource pool gpu.example.com/b is currently being updated"));
}

#[test]
fn pools_are_used_when_they_are_whole_and_new() {
    let mut snapshot = cluster(&["a", "b"]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({"resourceSliceCount": 2}), devices(&["x"])));
    assert_eq!(ask(&mut snapshot, "c", &wants(1)).unwrap_err(), CANNOT);
    // A newer generation that has nothing for the node, of the same pool.
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), devices(&["x"])));
    let newer = json!({"metadata": {"name": "newer"}, "spec": {"driver": DRIVER, "nodeName": "b",
        "pool": {"name": "a", "generation": 2, "resourceSliceCount": 1}, "devices": [{"name": "new"}]}});
    snapshot.devices.put_slice(&read(newer));
    assert_eq!(ask(&mut snapshot, "d", &wants(1)), got("b", &["new"]));
    snapshot.devices.remove_slice("newer");
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), devices(&["x", "x"])));
    assert!(ask(&mut snapshot, "e", &wants(1)).unwrap_err().contains("1 invalid resource pools were encountered"));
}

#[test]
fn where_devices_can_be_used() {
    let zone = |zone: &str| {
        json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "zone", "operator": "In", "values": [zone]}]}]})
    };
    let mut snapshot = cluster(&["a", "b"]);
    snapshot.devices.put_slice(&slice("zonal", json!({"nodeSelector": zone("z-b")}), json!({}), devices(&["x"])));
    assert_eq!(ask(&mut snapshot, "c", &wants(1)), got("b", &["x"]));
    let claim = snapshot.devices.claim(&Key::new("n", "c")).unwrap();
    let selector = serde_json::to_value(&claim.status.allocation.as_deref().unwrap().node_selector).unwrap();
    assert_eq!(selector, zone("z-b"));
    let each = json!([{"name": "p", "nodeName": "a"}, {"name": "q", "allNodes": true}]);
    snapshot.devices.put_slice(&slice("each", json!({"perDeviceNodeSelection": true}), json!({}), each));
    assert_eq!(ask(&mut snapshot, "d", &wants(2)), got("a", &["p", "q"]));
}

#[test]
fn the_first_alternative_that_can_be_had() {
    let mut snapshot = cluster(&["a"]);
    let sized = json!([{"name": "large", "attributes": {"size": {"int": 8}}},
        {"name": "s1", "attributes": {"size": {"int": 1}}}, {"name": "s2", "attributes": {"size": {"int": 1}}}]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), sized));
    let wanted = |name: &str, size: u32, count: u32| {
        let expression = format!("device.attributes['gpu.example.com'].size == {size}");
        json!({"name": name, "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count,
            "selectors": [{"cel": {"expression": expression}}]})
    };
    let either = json!({"requests": [{"name": "r", "firstAvailable": [wanted("big", 8, 1), wanted("two", 1, 2)]}]});
    snapshot.devices.put_claim(&claim("c", &either));
    let (_, found) = place(&mut snapshot, &pod("p", &["c"])).unwrap();
    assert_eq!((found[0].request.as_str(), names(&found)), ("r/big", vec!["large"]));
    snapshot.devices.put_claim(&claim("d", &either));
    let (_, found) = place(&mut snapshot, &pod("q", &["d"])).unwrap();
    assert_eq!((found[0].request.as_str(), names(&found)), ("r/two", vec!["s1", "s2"]));
}

#[test]
fn constraints_need_the_search_to_turn_back() {
    let mut snapshot = cluster(&["a"]);
    let device = |name: &str, bus: &str| json!({"name": name, "attributes": {"bus": {"string": bus}}});
    let buses = json!([device("x", "0"), device("y", "1"), device("z", "1"), {"name": "none"}]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), buses));
    let mut together = wants(2);
    together["constraints"] = json!([{"matchAttribute": "gpu.example.com/bus"}]);
    assert_eq!(ask(&mut snapshot, "c", &together), got("a", &["y", "z"]));
    snapshot.devices.remove_claim(&claim("c", &together));
    let mut apart = wants(2);
    apart["constraints"] = json!([{"distinctAttribute": "gpu.example.com/bus", "requests": ["r"]}]);
    assert_eq!(ask(&mut snapshot, "d", &apart), got("a", &["x", "y"]));
    assert!(ask(&mut snapshot, "e", &apart).unwrap_err().contains("1 cannot allocate all claims"));
}

#[test]
fn taints_of_drivers_and_of_rules_keep_pods_away() {
    let mut snapshot = cluster(&["a"]);
    let bad = json!([{"name": "x", "taints": [{"key": "broken", "effect": "NoSchedule"}]}, {"name": "y"}]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), bad));
    let rule = json!({"metadata": {"name": "rule"}, "spec": {"deviceSelector": {"device": "y"},
        "taint": {"key": "upkeep", "effect": "NoExecute"}}});
    snapshot.devices.put_rule(&read(rule));
    assert!(ask(&mut snapshot, "c", &wants(1)).unwrap_err().contains("1 cannot allocate all claims"));
    let tolerant = exactly(json!({"tolerations": [{"key": "upkeep", "operator": "Exists"}]}));
    assert_eq!(ask(&mut snapshot, "d", &tolerant), got("a", &["y"]));
    snapshot.devices.remove_rule("rule");
    snapshot.devices.remove_claim(&claim("d", &tolerant));
    assert_eq!(ask(&mut snapshot, "e", &wants(1)), got("a", &["y"]));
}

#[test]
fn counters_limit_what_can_be_had_together() {
    let mut snapshot = cluster(&["a"]);
    let part = |name: &str, memory: &str| {
        json!({"name": name, "consumesCounters": [
        {"counterSet": "gpu", "counters": {"memory": {"value": memory}}}]})
    };
    let parts = json!([part("whole", "10Gi"), part("half-1", "5Gi"), part("half-2", "5Gi")]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({"resourceSliceCount": 2}), parts));
    let counters = json!({"metadata": {"name": "counters"}, "spec": {"driver": DRIVER, "nodeName": "a",
        "pool": {"name": "a", "generation": 1, "resourceSliceCount": 2},
        "sharedCounters": [{"name": "gpu", "counters": {"memory": {"value": "10Gi"}}}]}});
    snapshot.devices.put_slice(&read(counters));
    assert_eq!(ask(&mut snapshot, "two", &wants(2)), got("a", &["half-1", "half-2"]));
    assert!(ask(&mut snapshot, "one", &wants(1)).unwrap_err().contains("cannot allocate all claims"));
    snapshot.devices.remove_claim(&claim("two", &wants(2)));
    assert_eq!(ask(&mut snapshot, "one", &wants(1)), got("a", &["whole"]));
}

#[test]
fn a_device_is_shared_as_far_as_it_goes() {
    let mut snapshot = cluster(&["a"]);
    let shared = json!([{"name": "x", "allowMultipleAllocations": true,
        "capacity": {"memory": {"value": "10Gi"}}}]);
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), shared));
    let some = |memory: &str| exactly(json!({"capacity": {"requests": {"memory": memory}}}));
    snapshot.devices.put_claim(&claim("c", &some("6Gi")));
    let (_, found) = place(&mut snapshot, &pod("p", &["c"])).unwrap();
    assert_eq!(found[0].consumed_capacity["memory"].0.to_string(), "6Gi");
    assert!(found[0].share_id.is_some());
    assert!(ask(&mut snapshot, "d", &some("5Gi")).is_err());
    assert_eq!(ask(&mut snapshot, "e", &some("4Gi")), got("a", &["x"]));
    snapshot.devices.remove_claim(&claim("c", &some("6Gi")));
    assert_eq!(ask(&mut snapshot, "d", &some("5Gi")), got("a", &["x"]));
}

#[test]
fn a_hopeless_search_ends() {
    let mut snapshot = cluster(&["a"]);
    let many: Vec<Value> =
        (0..40).map(|n| json!({"name": format!("d{n}"), "attributes": {"bus": {"int": n}}})).collect();
    snapshot.devices.put_slice(&slice("a", on("a"), json!({}), json!(many)));
    // Twelve of forty in any combination, and then one more that is not there.
    let never = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1,
        "selectors": [{"cel": {"expression": "false"}}]});
    let mut spec = wants(12);
    spec["requests"].as_array_mut().unwrap().push(json!({"name": "never", "exactly": never}));
    assert!(ask(&mut snapshot, "c", &spec).unwrap_err().contains("1 timed out trying to allocate devices"));
}

/// A claim, and its devices by host and name, with their kinds.
type Held = (Arc<ResourceClaim>, Vec<((String, String), i64)>);

proptest! {
    /// However claims come and go, no device is given to two of them, and what is refused cannot be had.
    #[test]
    fn no_device_is_given_away_twice(
        pools in prop::collection::vec(prop::collection::vec(0_i64..3, 0..5), 1..4),
        steps in prop::collection::vec((1_i64..4, 0_i64..4, any::<bool>()), 1..30),
    ) {
        let hosts: Vec<String> = (0..pools.len()).map(|n| format!("n{n}")).collect();
        let mut snapshot = cluster(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
        for (host, kinds) in hosts.iter().zip(&pools) {
            let devices: Vec<Value> = kinds.iter().enumerate()
                .map(|(n, kind)| json!({"name": format!("d{n}"), "attributes": {"kind": {"int": kind}}})).collect();
            snapshot.devices.put_slice(&slice(host, on(host), json!({}), json!(devices)));
        }
        let mut free: BTreeMap<(String, String), i64> = BTreeMap::new();
        for (host, kinds) in hosts.iter().zip(&pools) {
            free.extend(kinds.iter().enumerate().map(|(n, kind)| ((host.clone(), format!("d{n}")), *kind)));
        }
        let mut held: Vec<Held> = Vec::new();
        for (number, (count, least, gives_back)) in steps.into_iter().enumerate() {
            if gives_back && !held.is_empty() {
                let (claim, devices) = held.remove(number % held.len());
                snapshot.devices.remove_claim(&claim);
                free.extend(devices);
            }
            let expression = format!("device.attributes['{DRIVER}'].kind >= {least}");
            let spec = exactly(json!({"allocationMode": "ExactCount", "count": count,
                "selectors": [{"cel": {"expression": expression}}]}));
            let name = format!("c{number}");
            let fits = hosts.iter().any(|host| {
                let here = free.iter().filter(|((at, _), kind)| at == host && **kind >= least).count();
                i64::try_from(here).unwrap() >= count
            });
            match ask(&mut snapshot, &name, &spec) {
                Ok((node, devices)) => {
                    prop_assert!(fits);
                    prop_assert_eq!(i64::try_from(devices.len()).unwrap(), count);
                    let mut own = Vec::new();
                    for device in devices {
                        let key = (node.clone(), device);
                        let kind = free.remove(&key);
                        prop_assert!(kind.is_some_and(|kind| kind >= least), "{key:?} was not free");
                        own.push((key, kind.unwrap_or_default()));
                    }
                    held.push((claim(&name, &spec), own));
                }
                Err(_) => prop_assert!(!fits),
            }
        }
    }
}
