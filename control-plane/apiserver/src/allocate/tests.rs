//! Services as they come and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use xebec_schema::registry::Registry;

use super::*;
use crate::authn::UserInfo;
use crate::test_reader::FakeReader;

struct World {
    reader: Arc<FakeReader>,
    allocator: ServiceAllocator,
}

fn world(cidrs: &[&str], ports: (u16, u16)) -> World {
    let reader = FakeReader::new();
    let cidrs: Vec<IpNet> = cidrs.iter().map(|c| c.parse().unwrap()).collect();
    let allocator = ServiceAllocator::new(reader.clone(), (Clock::system(), Random::seeded(1)), &cidrs, ports);
    World { reader, allocator }
}

fn usual() -> World {
    world(&["10.96.0.0/16"], (30000, 32767))
}

impl World {
    /// What becomes of a service on its way to the store.
    async fn admit(&self, name: &str, spec: Value, old: Option<&Value>, dry_run: bool) -> Result<Value, Status> {
        let registry = Registry::builtin();
        let user = UserInfo::system("x");
        let mut review = Review {
            user: &user,
            resource: registry.get("", "v1", "services").unwrap(),
            requested: registry.get("", "v1", "services").unwrap(),
            registry: Arc::default(),
            subresource: "",
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            namespace: "ns",
            name,
            object: Some(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})),
            old,
            call: None,
            dry_run,
            reinvocation: Default::default(),
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        self.allocator.mutate(&mut review).await?;
        Ok(review.object.unwrap())
    }

    /// Admits and stores.
    async fn put(&self, name: &str, spec: Value) -> Result<Value, String> {
        let service = self.admit(name, spec, None, false).await.map_err(|e| e.message)?;
        self.reader.put("", "services", service.clone());
        Ok(service["spec"].clone())
    }

    async fn change(&self, name: &str, spec: Value) -> Result<Value, String> {
        let old = self.reader.get("", "services", "ns", name).unwrap();
        let old = decode(&old.bytes);
        let service = self.admit(name, spec, Some(&old), false).await.map_err(|e| e.message)?;
        self.reader.put("", "services", service.clone());
        Ok(service["spec"].clone())
    }

    fn delete(&self, name: &str) {
        self.reader.remove("", "services", "ns", name);
    }
}

fn port(number: u16, protocol: &str) -> Value {
    json!({"port": number, "protocol": protocol})
}

#[tokio::test]
async fn services_get_addresses() {
    let world = usual();
    let a = world.put("a", json!({"ports": [port(80, "TCP")]})).await.unwrap();
    let address: std::net::Ipv4Addr = text(&a, "/clusterIP").parse().unwrap();
    assert_eq!(a["clusterIPs"], json!([address.to_string()]));
    assert_eq!((&a["ipFamilies"], &a["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    assert_eq!(address.octets()[..2], [10, 96]);
    assert!(u32::from(address) > u32::from(std::net::Ipv4Addr::new(10, 96, 1, 0)), "the lower part is left free");
    assert!(a["ports"][0].get("nodePort").is_none());

    let headless = world.put("h", json!({"clusterIP": "None", "selector": {"a": "b"}})).await.unwrap();
    assert_eq!((&headless["clusterIPs"], &headless["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let external = world.put("e", json!({"type": "ExternalName", "externalName": "x.org"})).await.unwrap();
    assert_eq!(external, json!({"type": "ExternalName", "externalName": "x.org"}));
}

#[tokio::test]
async fn an_address_is_given_once() {
    let world = usual();
    let asked = || json!({"clusterIP": "10.96.0.10"});
    world.put("a", asked()).await.unwrap();
    assert_eq!(
        world.put("b", asked()).await.unwrap_err(),
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: \
         provided IP is already allocated"
    );
    assert!(world.change("a", asked()).await.is_ok(), "its owner keeps it");
    assert!(
        world
            .put("c", json!({"clusterIP": "10.97.0.1"}))
            .await
            .unwrap_err()
            .ends_with("the provided network does not match the current range")
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_is_free_again() {
    let world = usual();
    let asked = || json!({"clusterIP": "10.96.0.10", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    // Admitted, but its write fails.
    world.admit("failed", asked(), None, false).await.unwrap();
    assert!(world.put("a", asked()).await.is_err(), "it may still be on its way");
    tokio::time::sleep(Duration::from_secs(16)).await;
    world.put("a", asked()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(world.put("b", asked()).await.is_err(), "a stored service keeps it for ever");
    world.delete("a");
    world.put("b", asked()).await.unwrap();
    // A dry run holds nothing.
    let dry = json!({"clusterIP": "10.96.0.11"});
    world.admit("dry", dry.clone(), None, true).await.unwrap();
    world.put("c", dry).await.unwrap();
}

#[tokio::test]
async fn a_refused_service_holds_nothing() {
    let world = usual();
    world.put("a", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]})).await.unwrap();
    let clash = json!({"clusterIP": "10.96.0.20", "type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]});
    assert_eq!(
        world.put("b", clash).await.unwrap_err(),
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
    );
    world.put("c", json!({"clusterIP": "10.96.0.20"})).await.unwrap();
}

#[tokio::test]
async fn what_was_stored_before_the_start_is_taken() {
    let world = usual();
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.30", "clusterIPs": ["10.96.0.30"],
        "ports": [{"port": 80, "nodePort": 30030}]});
    world.reader.put("", "services", json!({"metadata": {"name": "old", "namespace": "ns"}, "spec": spec}));
    assert!(world.put("b", json!({"clusterIP": "10.96.0.30"})).await.is_err());
    let asks = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30030}]});
    assert!(world.put("b", asks).await.is_err());
}

#[tokio::test]
async fn node_ports_by_type() {
    let world = usual();
    let both = json!([port(53, "UDP"), port(53, "TCP"), port(80, "TCP")]);
    let a = world.put("a", json!({"type": "NodePort", "ports": both})).await.unwrap();
    let node_port = |spec: &Value, i: usize| spec["ports"][i]["nodePort"].as_u64().unwrap();
    assert_eq!(node_port(&a, 0), node_port(&a, 1), "one port for both protocols");
    assert_ne!(node_port(&a, 0), node_port(&a, 2));
    assert!((30000..=32767).contains(&node_port(&a, 2)));

    // An update that leaves out what was given keeps it; one to ClusterIP gives the ports back.
    let same = world.change("a", json!({"type": "NodePort", "ports": both})).await.unwrap();
    assert_eq!((&same["ports"], &same["clusterIP"]), (&a["ports"], &a["clusterIP"]));
    let mut plain = a.clone();
    plain["type"] = "ClusterIP".into();
    let plain = world.change("a", plain).await.unwrap();
    assert!(plain["ports"][0].get("nodePort").is_none());
    let mut external = plain;
    external["type"] = "ExternalName".into();
    let external = world.change("a", external).await.unwrap();
    assert!(external.get("clusterIP").is_none() && external.get("ipFamilies").is_none());

    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [port(80, "TCP")]});
    let local = world.put("l", local).await.unwrap();
    assert!(local["healthCheckNodePort"].as_u64().unwrap() >= 30000);
    let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [port(80, "TCP")]});
    assert!(world.put("n", none).await.unwrap()["ports"][0].get("nodePort").is_none());
    let outside = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let refused = world.put("o", outside).await.unwrap_err();
    let words = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    assert!(refused.ends_with(words), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_full_range_says_so_until_something_is_free() {
    let world = world(&["10.0.0.0/30"], (30000, 30000));
    world.put("a", json!({})).await.unwrap();
    world.put("b", json!({"type": "NodePort", "ports": [port(80, "TCP")]})).await.unwrap();
    assert!(world.put("c", json!({})).await.unwrap_err().contains("range is full"));
    world.delete("a");
    tokio::time::sleep(Duration::from_secs(16)).await;
    world.put("c", json!({})).await.unwrap();
}

#[tokio::test]
async fn two_families() {
    let world = world(&["10.96.0.0/16", "fd00:96::/108"], (30000, 32767));
    let both = world.put("a", json!({"ipFamilyPolicy": "RequireDualStack"})).await.unwrap();
    assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(text(&both, "/clusterIPs/1").starts_with("fd00:96::"), "{both}");
    let six = world.put("b", json!({"ipFamilies": ["IPv6"]})).await.unwrap();
    assert_eq!((&six["ipFamilyPolicy"], six["clusterIPs"].as_array().unwrap().len()), (&json!("SingleStack"), 1));
    let refused = usual().put("c", json!({"ipFamilyPolicy": "RequireDualStack"})).await.unwrap_err();
    assert!(refused.ends_with("this cluster is not configured for dual-stack services"), "{refused}");
    let refused = usual().put("c", json!({"ipFamilies": ["IPv6"]})).await.unwrap_err();
    let words = "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster";
    assert!(refused.ends_with(words), "{refused}");
    let preferred = usual().put("c", json!({"ipFamilyPolicy": "PreferDualStack"})).await.unwrap();
    assert_eq!(preferred["ipFamilies"], json!(["IPv4"]));
}

const DUAL: [&str; 2] = ["10.96.0.0/16", "fd00:96::/108"];

fn families(spec: &Value) -> (Vec<String>, &str, usize) {
    (
        crate::json::strings(spec, "/ipFamilies"),
        text(spec, "/ipFamilyPolicy"),
        spec["clusterIPs"].as_array().map_or(0, Vec::len),
    )
}

#[tokio::test]
async fn what_is_asked_for_says_the_families() {
    let world = world(&DUAL, (30000, 32767));
    let single = |family: &str| (vec![family.to_owned()], "SingleStack", 1);
    let both = |first: &str, second: &str, policy| (vec![first.to_owned(), second.to_owned()], policy, 2);
    for (index, (spec, expected)) in [
        (json!({}), single("IPv4")),
        (json!({"clusterIP": "fd00:96::7"}), single("IPv6")),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), both("IPv4", "IPv6", "PreferDualStack")),
        (json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}), both("IPv6", "IPv4", "PreferDualStack")),
        (
            json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["fd00:96::8"], "clusterIP": "fd00:96::8"}),
            both("IPv6", "IPv4", "RequireDualStack"),
        ),
        (
            json!({"clusterIP": "None", "selector": {"a": "b"}, "ipFamilyPolicy": "PreferDualStack"}),
            (vec!["IPv4".to_owned(), "IPv6".to_owned()], "PreferDualStack", 1),
        ),
        (json!({"clusterIP": "None"}), (vec!["IPv4".to_owned(), "IPv6".to_owned()], "RequireDualStack", 1)),
    ]
    .into_iter()
    .enumerate()
    {
        let given = world.put(&format!("s{index}"), spec.clone()).await.unwrap();
        assert_eq!(families(&given), expected, "{spec}");
        if let [first, second] = &crate::json::strings(&given, "/clusterIPs")[..] {
            assert_ne!(first.contains(':'), second.contains(':'), "{spec}");
            assert_eq!(first.contains(':'), expected.0[0] == "IPv6", "{spec}");
        }
    }
}

#[tokio::test]
async fn contradictions_are_refused() {
    let dual = world(&DUAL, (30000, 32767));
    let single = usual();
    for (world, spec, says) in [
        (
            &dual,
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
             multiple IP families are specified",
        ),
        (&dual, json!({"ipFamilies": ["IPv4", "IPv6"]}), "when multiple IP families are specified"),
        (
            &dual,
            json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
             multiple cluster IPs are specified",
        ),
        (
            &dual,
            json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "10.96.0.8"]}),
            "may specify no more than one IP for each IP family",
        ),
        (
            &dual,
            json!({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv6"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            &single,
            json!({"clusterIP": "fd00:96::9"}),
            "spec.clusterIPs[0]: Invalid value: [\"fd00:96::9\"]: IPv6 is not configured on this cluster",
        ),
    ] {
        let refused = world.put("x", spec.clone()).await.unwrap_err();
        assert!(refused.ends_with(says), "{spec}: {refused}");
    }
}

#[tokio::test]
async fn a_second_family_comes_and_goes() {
    let world = world(&DUAL, (30000, 32767));
    let single = world.put("a", json!({})).await.unwrap();
    let mut wanted = single.clone();
    wanted["ipFamilyPolicy"] = "PreferDualStack".into();
    let dual = world.change("a", wanted).await.unwrap();
    assert_eq!(families(&dual), (vec!["IPv4".into(), "IPv6".into()], "PreferDualStack", 2));
    assert_eq!(dual["clusterIPs"][0], single["clusterIP"], "the first one stays");
    // An update that says nothing of all this changes nothing.
    assert_eq!(world.change("a", json!({})).await.unwrap(), dual);
    // Giving one up takes the policy.
    let mut less = dual.clone();
    less["ipFamilies"] = json!(["IPv4"]);
    let refused = world.change("a", less).await.unwrap_err();
    assert!(refused.ends_with("must be 'SingleStack' to release the secondary IP family"), "{refused}");
    let mut back = dual.clone();
    back["ipFamilyPolicy"] = "SingleStack".into();
    assert_eq!(world.change("a", back).await.unwrap(), single);
    // Its address is free again.
    world.put("b", json!({"clusterIP": dual["clusterIPs"][1]})).await.unwrap();
}

#[tokio::test]
async fn who_prefers_two_families_stays_as_they_are_when_the_cluster_changes() {
    let before = usual();
    let preferred = before.put("a", json!({"ipFamilyPolicy": "PreferDualStack"})).await.unwrap();
    let after = world(&DUAL, (30000, 32767));
    after.reader.put("", "services", json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": preferred}));
    assert_eq!(after.change("a", preferred.clone()).await.unwrap(), preferred);
    let mut required = preferred.clone();
    required["ipFamilyPolicy"] = "RequireDualStack".into();
    assert_eq!(families(&after.change("a", required).await.unwrap()).2, 2);
    // And back to a cluster of one family.
    let both = after.change("a", json!({"ipFamilyPolicy": "PreferDualStack"})).await.unwrap();
    let single = usual();
    single.reader.put("", "services", json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": both}));
    assert_eq!(single.change("a", both.clone()).await.unwrap(), both);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever comes and goes, no two stored services have the same address or node port.
    #[test]
    fn nothing_is_given_twice(steps in proptest::collection::vec((0_u8..12, any::<bool>()), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = world(&["10.0.0.0/28"], (30000, 30009));
            for (name, remove) in steps {
                let name = format!("s{name}");
                if remove {
                    world.delete(&name);
                } else if world.reader.get("", "services", "ns", &name).is_none() {
                    let _ = world.put(&name, json!({"type": "NodePort", "ports": [port(80, "TCP")]})).await;
                }
                tokio::time::sleep(Duration::from_secs(20)).await;
                let stored: Vec<Value> =
                    world.reader.list("", "services", "").iter().map(|e| decode(&e.bytes)).collect();
                let addresses: BTreeSet<_> = stored.iter().flat_map(service::addresses).collect();
                let ports: BTreeSet<_> = stored.iter().flat_map(service::node_ports).collect();
                assert_eq!((addresses.len(), ports.len()), (stored.len(), stored.len()));
            }
        });
    }
}

impl World {
    /// What is written with a service.
    async fn ride(
        &self,
        operation: Operation,
        name: &str,
        new: Option<Value>,
        old: Option<&Value>,
    ) -> Result<Rider, Status> {
        let registry = Registry::builtin();
        let user = UserInfo::system("x");
        let mut review = Review {
            user: &user,
            resource: registry.get("", "v1", "services").unwrap(),
            requested: registry.get("", "v1", "services").unwrap(),
            registry: Arc::default(),
            subresource: "",
            operation,
            namespace: "ns",
            name,
            object: new,
            old,
            call: None,
            dry_run: false,
            reinvocation: Default::default(),
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        self.allocator.ride(&mut review).await
    }

    fn put_address(&self, address: &str, parent: Value) {
        let object = json!({"metadata": {"name": address}, "spec": {"parentRef": parent}});
        self.reader.put("networking.k8s.io", "ipaddresses", object);
    }
}

fn with_address(address: &str) -> Value {
    json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"clusterIP": address, "clusterIPs": [address]}})
}

#[tokio::test]
async fn an_address_object_comes_and_goes_with_its_service() {
    let world = usual();
    let key = |address: &str| format!("/registry/networking.k8s.io/ipaddresses/{address}");
    let rider = world.ride(Operation::Create, "a", Some(with_address("10.96.0.7")), None).await.unwrap();
    assert_eq!(rider.conditions, [xebec_store::Condition::Absent(key("10.96.0.7"))]);
    let [xebec_store::Operation::Put(put, bytes)] = rider.operations.as_slice() else { panic!("one address") };
    let object = decode(bytes);
    assert_eq!(*put, key("10.96.0.7"));
    assert_eq!(object["spec"]["parentRef"], json!({"resource": "services", "namespace": "ns", "name": "a"}));
    assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    world.put_address("10.96.0.7", object["spec"]["parentRef"].clone());
    let old = with_address("10.96.0.7");
    let same = world.ride(Operation::Update, "a", Some(old.clone()), Some(&old)).await.unwrap();
    assert!(same.operations.is_empty(), "what is there is not written again");
    let gone = world.ride(Operation::Delete, "a", None, Some(&old)).await.unwrap();
    assert_eq!(gone.operations, [xebec_store::Operation::Delete(key("10.96.0.7"))]);
    let external = json!({"spec": {"type": "ExternalName"}});
    let left = world.ride(Operation::Update, "a", Some(external), Some(&old)).await.unwrap();
    assert_eq!(left.operations, gone.operations);
}

#[tokio::test]
async fn an_address_that_stands_for_something_else_is_not_given() {
    let world = world(&["10.0.0.0/30"], (30000, 32767));
    world.put_address("10.0.0.1", json!({"group": "gateway.networking.k8s.io", "resource": "gateways", "name": "g"}));
    let given = world.put("a", json!({})).await.unwrap();
    assert_eq!(given["clusterIP"], "10.0.0.2");
    let refused = world.put("b", json!({"clusterIP": "10.0.0.1"})).await.unwrap_err();
    assert!(refused.ends_with("failed to allocate IP 10.0.0.1: provided IP is already allocated"), "{refused}");
    let late = world.ride(Operation::Create, "c", Some(with_address("10.0.0.1")), None).await;
    assert!(late.err().unwrap().message.ends_with("provided IP is already allocated"));
    // One whose service is gone is free.
    world.put_address("10.0.0.1", json!({"resource": "services", "namespace": "ns", "name": "gone"}));
    let rider = world.ride(Operation::Create, "c", Some(with_address("10.0.0.1")), None).await.unwrap();
    assert!(matches!(rider.conditions.as_slice(), [xebec_store::Condition::Unchanged(..)]));
    assert_eq!(world.put("b", json!({"clusterIP": "10.0.0.1"})).await.unwrap()["clusterIP"], "10.0.0.1");
}

#[tokio::test]
async fn ranges_are_added_and_taken_away_while_running() {
    let world = world(&["10.0.0.0/30"], (30000, 32767));
    let cidr = |name: &str, net: &str, ready: &str, deleted: Value| {
        json!({"metadata": {"name": name, "deletionTimestamp": deleted}, "spec": {"cidrs": [net]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    };
    world.put("a", json!({})).await.unwrap();
    world.put("b", json!({})).await.unwrap();
    let full = "failed to allocate a serviceIP: range is full";
    assert!(world.put("c", json!({})).await.unwrap_err().ends_with(full));
    let put = |object: Value| world.reader.put("networking.k8s.io", "servicecidrs", object);
    put(cidr("more", "10.1.0.0/24", "False", Value::Null));
    assert!(world.put("c", json!({})).await.is_err(), "not while it is not ready");
    put(cidr("more", "10.1.0.0/24", "True", Value::Null));
    let third = world.put("c", json!({})).await.unwrap();
    assert!(text(&third, "/clusterIP").starts_with("10.1.0."), "{third}");
    put(cidr("more", "10.1.0.0/24", "False", json!("2026-01-01T00:00:00Z")));
    assert!(world.put("d", json!({})).await.is_err(), "not while it is being deleted");
    assert!(world.change("c", third).await.is_ok(), "what a service has it keeps");
    put(cidr("kubernetes", "10.0.0.0/30", "False", json!("2026-01-01T00:00:00Z")));
    world.delete("a");
    assert!(world.put("d", json!({})).await.unwrap_err().ends_with(full));
}

/// What another server has written.
fn port_record(port: u16, name: &str) -> Value {
    json!({"metadata": {"name": port.to_string()},
        "spec": {"parentRef": {"resource": "services", "namespace": "ns", "name": name}}})
}

fn node_port_service(port: u16) -> Value {
    json!({"metadata": {"name": "a", "namespace": "ns"},
        "spec": {"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80, "nodePort": port}]}})
}

#[tokio::test]
async fn a_node_port_is_on_record_with_its_service() {
    let world = usual();
    let key = "/registry/xebec/nodeports/30080".to_owned();
    let service = node_port_service(30080);
    let rider = world.ride(Operation::Create, "a", Some(service.clone()), None).await.unwrap();
    assert_eq!(rider.conditions, [xebec_store::Condition::Absent(key.clone())]);
    world.reader.put("xebec", "nodeports", port_record(30080, "a"));
    let same = world.ride(Operation::Update, "a", Some(service.clone()), Some(&service)).await.unwrap();
    assert!(same.operations.is_empty());
    let moved = world.ride(Operation::Update, "a", Some(node_port_service(30081)), Some(&service)).await.unwrap();
    assert_eq!(moved.operations.len(), 2, "one comes, one goes");
    let gone = world.ride(Operation::Delete, "a", None, Some(&service)).await.unwrap();
    assert_eq!(gone.operations, [xebec_store::Operation::Delete(key)]);
}

#[tokio::test]
async fn what_another_server_gave_out_meanwhile_is_chosen_anew() {
    let world = world(&["10.0.0.0/29"], (30000, 30001));
    let asked = json!({"type": "NodePort", "ports": [port(80, "TCP")]});
    let admitted = world.admit("a", asked, None, false).await.unwrap();
    let address = text(&admitted, "/spec/clusterIP").to_owned();
    let number = admitted["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    // Another server stores a service with the same.
    let mut other = admitted.clone();
    other["metadata"]["name"] = "b".into();
    world.reader.put("", "services", other);
    world.put_address(&address, json!({"resource": "services", "namespace": "ns", "name": "b"}));
    world.reader.put("xebec", "nodeports", port_record(u16::try_from(number).unwrap(), "b"));
    let rider = world.ride(Operation::Create, "a", Some(admitted.clone()), None).await.unwrap();
    let written: Vec<&str> = rider
        .conditions
        .iter()
        .map(|c| match c {
            xebec_store::Condition::Absent(key) => key.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(written.len(), 2);
    assert!(!written.iter().any(|key| key.ends_with(&format!("/{address}")) || key.ends_with(&format!("/{number}"))));
    // The other way round: who asks for what is taken is refused.
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    let refused = world.admit("c", taken, None, false).await.unwrap_err().message;
    assert!(
        refused.ends_with(
            "spec.ports[0].nodePort: Invalid value: {number}: provided port is already allocated"
                .replace("{number}", &number.to_string())
                .as_str()
        ),
        "{refused}"
    );
    let late = world.ride(Operation::Create, "a", Some(node_port_service(u16::try_from(number).unwrap())), None).await;
    assert!(late.err().unwrap().message.ends_with("provided port is already allocated"));
}
