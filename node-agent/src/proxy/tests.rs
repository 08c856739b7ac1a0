use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use xebec_ebpf_loader::layout::{
    Addr, Backend, Port, SCOPE_CLUSTER, SCOPE_EXTERNAL, Service as Entry, ServiceKey, SlotKey, proto, service_flags,
};

use super::desired::{BackendAddress, Facts, ServiceName, compile};
use super::model::{Contents, Model, Write};
use super::views::{EndpointSlice, Service};
use super::world::World;

fn facts() -> Facts {
    Facts {
        node: "n1".to_owned(),
        dns_service: ServiceName { namespace: "kube-system".to_owned(), name: "kube-dns".to_owned() },
        dns_server: ("172.30.0.11".parse().unwrap(), 10_053),
    }
}

fn service(value: Value) -> Service {
    serde_json::from_value(value).unwrap()
}

/// `web`: port 80 of these addresses by type.
fn web(kind: &str, extra: &Value) -> Service {
    let mut value = json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": {
            "type": kind, "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"],
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "nodePort": 30_080 }],
        },
        "status": { "loadBalancer": { "ingress": [{ "ip": "172.30.0.130" }] } },
    });
    for (key, field) in extra.as_object().unwrap() {
        value["spec"][key] = field.clone();
    }
    if kind == "ClusterIP" {
        value["spec"]["ports"][0]["nodePort"] = Value::Null;
        value["spec"]["ports"][0].as_object_mut().unwrap().remove("nodePort");
    }
    service(value)
}

fn slice(endpoints: &Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": "web-1", "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8_080 }],
    }))
    .unwrap()
}

fn endpoint(ip: &str, node: &str, conditions: &Value) -> Value {
    json!({ "addresses": [ip], "nodeName": node, "conditions": conditions })
}

fn key(addr: &str, port: u16, proto: u8, scope: u8) -> ServiceKey {
    let addr = addr.parse().map_or(Addr::UNSPECIFIED, |ip: std::net::IpAddr| ip.into());
    ServiceKey { addr, port: Port::new(port), proto, scope }
}

/// Frontends with their backends, as text.
fn show(service: &Service, slices: &[EndpointSlice]) -> BTreeMap<(String, u16, u8), Vec<String>> {
    compile(service, slices.iter(), &facts())
        .frontends
        .iter()
        .map(|(key, target)| {
            let backends = target.backends.iter().map(|b| format!("{:?}:{:?}", b.addr, b.port)).collect();
            ((format!("{:?}", key.addr), key.port.get(), key.scope), backends)
        })
        .collect()
}

#[test]
fn a_cluster_ip_leads_to_the_ready_endpoints() {
    let slices = [slice(&json!([
        endpoint("10.244.1.5", "n1", &json!({ "ready": true })),
        endpoint("10.244.2.6", "n2", &json!({})),
        endpoint("10.244.2.7", "n2", &json!({ "ready": false, "serving": false })),
        endpoint("10.244.2.8", "n2", &json!({ "ready": false, "serving": true, "terminating": true })),
    ]))];
    let shown = show(&web("ClusterIP", &json!({})), &slices);
    let expected = ["10.244.1.5:8080".to_owned(), "10.244.2.6:8080".to_owned()];
    assert_eq!(shown, BTreeMap::from([(("10.96.0.20".to_owned(), 80, SCOPE_CLUSTER), expected.to_vec())]));
}

#[test]
fn terminating_endpoints_are_the_last_resort() {
    let slices = [slice(&json!([
        endpoint("10.244.2.7", "n2", &json!({ "ready": false, "serving": false, "terminating": true })),
        endpoint("10.244.2.8", "n2", &json!({ "ready": false, "serving": true, "terminating": true })),
    ]))];
    let shown = show(&web("ClusterIP", &json!({})), &slices);
    assert_eq!(shown.values().next().unwrap(), &["10.244.2.8:8080"]);
}

#[test]
fn a_load_balancer_has_all_its_frontends() {
    let slices = [slice(&json!([endpoint("10.244.1.5", "n1", &json!({ "ready": true }))]))];
    let shown = show(&web("LoadBalancer", &json!({ "externalIPs": ["198.51.100.1"] })), &slices);
    let keys: BTreeSet<_> = shown.keys().map(|(addr, port, scope)| (addr.as_str(), *port, *scope)).collect();
    assert_eq!(
        keys,
        BTreeSet::from([
            ("10.96.0.20", 80, SCOPE_CLUSTER),
            ("172.30.0.130", 80, SCOPE_CLUSTER),
            ("172.30.0.130", 80, SCOPE_EXTERNAL),
            ("198.51.100.1", 80, SCOPE_CLUSTER),
            ("198.51.100.1", 80, SCOPE_EXTERNAL),
            ("::", 30_080, SCOPE_CLUSTER),
            ("::", 30_080, SCOPE_EXTERNAL),
        ])
    );
    assert!(shown.values().all(|backends| backends == &["10.244.1.5:8080"]));
}

#[test]
fn policy_local_counts_only_this_nodes_endpoints_for_those_outside() {
    let slices = [slice(&json!([
        endpoint("10.244.1.5", "n1", &json!({ "ready": true })),
        endpoint("10.244.2.6", "n2", &json!({ "ready": true })),
    ]))];
    let service = web("LoadBalancer", &json!({ "externalTrafficPolicy": "Local" }));
    let compiled = compile(&service, slices.iter(), &facts());
    let outside = &compiled.frontends[&key("172.30.0.130", 80, proto::TCP, SCOPE_EXTERNAL)];
    assert_eq!((outside.backends.len(), outside.flags), (1, service_flags::DROP_IF_EMPTY));
    let inside = &compiled.frontends[&key("172.30.0.130", 80, proto::TCP, SCOPE_CLUSTER)];
    assert_eq!((inside.backends.len(), inside.flags), (2, 0));
    let nodes = BTreeSet::from(["n1".to_owned(), "n2".to_owned()]);
    assert_eq!(compiled.load_balancer[&"172.30.0.130".parse().unwrap()], Some(nodes));

    let service = web("ClusterIP", &json!({ "internalTrafficPolicy": "Local" }));
    assert_eq!(show(&service, &slices).values().next().unwrap(), &["10.244.1.5:8080"]);
}

#[test]
fn headless_external_name_and_proxied_addresses_have_no_frontend() {
    let slices = [slice(&json!([endpoint("10.244.1.5", "n1", &json!({ "ready": true }))]))];
    assert!(show(&web("ClusterIP", &json!({ "clusterIP": "None", "clusterIPs": ["None"] })), &slices).is_empty());
    assert!(show(&web("ExternalName", &json!({})), &slices).is_empty());
    let mut service = web("LoadBalancer", &json!({}));
    service.status.load_balancer.ingress[0].ip_mode = Some("Proxy".to_owned());
    assert!(!show(&service, &slices).contains_key(&("172.30.0.130".to_owned(), 80, SCOPE_EXTERNAL)));
}

#[test]
fn a_service_without_endpoints_keeps_its_frontends_to_refuse() {
    let shown = show(&web("ClusterIP", &json!({})), &[slice(&Value::Null)]);
    assert_eq!(shown.values().next().unwrap(), &Vec::<String>::new());
}

#[test]
fn the_dns_service_is_the_node_itself() {
    let dns = service(json!({
        "metadata": { "namespace": "kube-system", "name": "kube-dns" },
        "spec": { "clusterIPs": ["10.96.0.10"], "ports": [
            { "name": "dns", "protocol": "UDP", "port": 53 },
            { "name": "dns-tcp", "protocol": "TCP", "port": 53 },
        ] },
    }));
    let compiled = compile(&dns, std::iter::empty(), &facts());
    assert_eq!(compiled.frontends.len(), 2);
    for target in compiled.frontends.values() {
        let expected =
            BackendAddress { addr: "172.30.0.11".parse::<std::net::IpAddr>().unwrap().into(), port: Port::new(10_053) };
        assert_eq!(*target.backends, [expected]);
    }
}

#[test]
fn ports_of_one_number_differ_by_protocol_and_slices_by_number() {
    let service = service(json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": { "clusterIPs": ["10.96.0.20"], "sessionAffinity": "ClientIP", "ports": [
            { "name": "t", "protocol": "TCP", "port": 53 },
            { "name": "u", "protocol": "UDP", "port": 53 },
            { "name": "s", "protocol": "SCTP", "port": 53 },
        ] },
    }));
    let slice = |name: &str, ip: &str, tcp: u16, udp: u16| -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": name },
            "endpoints": [{ "addresses": [ip] }],
            "ports": [{ "name": "t", "port": tcp }, { "name": "u", "protocol": "UDP", "port": udp }],
        }))
        .unwrap()
    };
    let slices = [slice("a", "10.244.1.5", 1, 2), slice("b", "10.244.1.6", 3, 4)];
    let compiled = compile(&service, slices.iter(), &facts());
    assert_eq!(compiled.frontends.len(), 2);
    let ports = |proto| -> Vec<u16> {
        let target = &compiled.frontends[&key("10.96.0.20", 53, proto, SCOPE_CLUSTER)];
        assert_eq!(target.affinity_timeout_s, 10_800);
        target.backends.iter().map(|b| b.port.get()).collect()
    };
    assert_eq!((ports(proto::TCP), ports(proto::UDP)), (vec![1, 3], vec![2, 4]));
}

/// The maps as the kernel would have them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    services: BTreeMap<ServiceKey, Entry>,
    slots: BTreeMap<SlotKey, u32>,
    backends: BTreeMap<u32, Backend>,
    counters: BTreeSet<u32>,
}

impl Kernel {
    fn write(&mut self, write: &Write) {
        match write {
            Write::PutBackend(id, backend) => drop(self.backends.insert(*id, *backend)),
            Write::PutSlot(key, backend) => drop(self.slots.insert(*key, *backend)),
            Write::PutCounters(id) => drop(self.counters.insert(*id)),
            Write::PutService(key, service) => drop(self.services.insert(*key, *service)),
            Write::RemoveService(key) => drop(self.services.remove(key)),
            Write::RemoveCounters(id) => drop(self.counters.remove(id)),
            Write::RemoveSlot(key) => drop(self.slots.remove(key)),
            Write::RemoveBackend(id) => drop(self.backends.remove(id)),
        }
    }

    fn contents(&self) -> Contents {
        Contents {
            services: self.services.clone().into_iter().collect(),
            slots: self.slots.clone().into_iter().collect(),
            backends: self.backends.clone().into_iter().collect(),
            counters: self.counters.iter().copied().collect(),
        }
    }

    /// What a reader finds: every frontend with its backends. Panics at a half state.
    fn read(&self) -> BTreeMap<ServiceKey, (Vec<BackendAddress>, u32, u32)> {
        let mut out = BTreeMap::new();
        for (key, service) in &self.services {
            let backends = (0..service.count)
                .map(|slot| {
                    let id = self.slots.get(&SlotKey { set: service.set, slot }).expect("the slot is there");
                    let backend = self.backends.get(id).expect("the backend is there");
                    BackendAddress { addr: backend.addr, port: backend.port }
                })
                .collect();
            assert!(self.counters.contains(&service.id), "the counters are there");
            out.insert(*key, (backends, service.flags, service.affinity_timeout_s));
        }
        out
    }

    /// Nothing is left that nobody names.
    fn assert_tight(&self) {
        let sets: BTreeSet<u32> = self.services.values().map(|s| s.set).collect();
        assert!(self.slots.keys().all(|key| sets.contains(&key.set)), "slots without service");
        let used: BTreeSet<u32> = self.slots.values().copied().collect();
        assert_eq!(used, self.backends.keys().copied().collect(), "backends without slot");
        let ids: BTreeSet<u32> = self.services.values().map(|s| s.id).collect();
        assert_eq!(ids, self.counters, "counters without service");
    }
}

fn wanted(world: &World) -> BTreeMap<ServiceKey, (Vec<BackendAddress>, u32, u32)> {
    world
        .frontends()
        .map(|(key, target)| (*key, (target.backends.to_vec(), target.flags, target.affinity_timeout_s)))
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Service(Service),
    RemoveService(u8),
    Slice(EndpointSlice),
    RemoveSlice(u8),
    ListAgain,
    Restart,
}

fn arbitrary_service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer"), Just("ExternalName")];
    (0_u8..4, kind, any::<bool>(), any::<bool>(), 0_u8..3, any::<bool>()).prop_map(
        |(number, kind, external_local, internal_local, shared, two_ports)| {
            let mut ports = vec![json!({
                "name": "a", "port": 80, "nodePort": if kind == "ClusterIP" { 0 } else { 30_000 + u16::from(number) },
            })];
            if two_ports {
                ports.push(json!({ "name": "b", "protocol": "UDP", "port": 81 }));
            }
            service(json!({
                "metadata": { "namespace": "default", "name": format!("s{number}") },
                "spec": {
                    "type": kind, "clusterIPs": [format!("10.96.0.{number}")], "ports": ports,
                    // Some services name the same address.
                    "externalIPs": [format!("198.51.100.{shared}")],
                    "externalTrafficPolicy": if external_local { "Local" } else { "Cluster" },
                    "internalTrafficPolicy": if internal_local { "Local" } else { "Cluster" },
                },
                "status": { "loadBalancer": { "ingress": [{ "ip": format!("172.30.0.{number}") }] } },
            }))
        },
    )
}

fn arbitrary_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = (0_u8..5, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(ip, ready, terminating, here)| {
        json!({
            "addresses": [format!("10.244.1.{ip}")], "nodeName": if here { "n1" } else { "n2" },
            "conditions": { "ready": ready && !terminating, "serving": ready, "terminating": terminating },
        })
    });
    (0_u8..5, 0_u8..4, prop::collection::vec(endpoint, 0..4)).prop_map(|(number, owner, endpoints)| {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": format!("e{number}"),
                "labels": { "kubernetes.io/service-name": format!("s{owner}") },
            },
            "endpoints": endpoints,
            "ports": [{ "name": "a", "port": 8_080 }, { "name": "b", "protocol": "UDP", "port": 8_081 }],
        }))
        .unwrap()
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => arbitrary_service().prop_map(Step::Service),
        1 => (0_u8..4).prop_map(Step::RemoveService),
        6 => arbitrary_slice().prop_map(Step::Slice),
        2 => (0_u8..5).prop_map(Step::RemoveSlice),
        1 => Just(Step::ListAgain),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// After any sequence of changes the maps hold what a fresh compile of the last state holds; no reader sees a half
    /// state on the way; nothing is left over; and the same holds when the agent restarts in between.
    #[test]
    fn any_history_equals_a_fresh_compile(steps in prop::collection::vec(step(), 1..30)) {
        let mut services = BTreeMap::<String, Arc<Service>>::new();
        let mut slices = BTreeMap::<String, Arc<EndpointSlice>>::new();
        let mut world = World::new(facts());
        let (mut model, _) = Model::adopt(Contents::default());
        let mut kernel = Kernel::default();
        for step in steps {
            match step {
                Step::Service(service) => {
                    let service = Arc::new(service);
                    services.insert(service.metadata.name.clone(), service.clone());
                    world.put_service(service);
                }
                Step::RemoveService(number) => {
                    services.remove(&format!("s{number}"));
                    world.remove_service("default", &format!("s{number}"));
                }
                Step::Slice(slice) => {
                    let slice = Arc::new(slice);
                    slices.insert(slice.metadata.name.clone(), slice.clone());
                    world.put_slice(slice);
                }
                Step::RemoveSlice(number) => {
                    slices.remove(&format!("e{number}"));
                    world.remove_slice("default", &format!("e{number}"));
                }
                Step::ListAgain => {
                    world.replace_slices(slices.values().cloned().collect());
                    world.replace_services(services.values().cloned().collect());
                }
                Step::Restart => {
                    world = World::new(facts());
                    world.replace_services(services.values().cloned().collect());
                    world.replace_slices(slices.values().cloned().collect());
                    let (adopted, writes) = Model::adopt(kernel.contents());
                    model = adopted;
                    prop_assert!(writes.is_empty(), "nothing was half done: {writes:?}");
                    let before = kernel.clone();
                    let mut changes = world.changes();
                    for key in model.frontends() {
                        if world.target(key).is_none() {
                            changes.entry(*key).or_insert(None);
                        }
                    }
                    for write in model.apply(changes) {
                        kernel.write(&write);
                        kernel.read();
                    }
                    prop_assert_eq!(&kernel, &before, "a restart changes nothing");
                }
            }
            for write in model.apply(world.changes()) {
                kernel.write(&write);
                kernel.read();
            }
            prop_assert_eq!(kernel.read(), wanted(&world));
            kernel.assert_tight();
        }
        let mut fresh = World::new(facts());
        fresh.replace_services(services.values().cloned().collect());
        fresh.replace_slices(slices.values().cloned().collect());
        fresh.changes();
        prop_assert_eq!(wanted(&world), wanted(&fresh));
        prop_assert_eq!(world.load_balancer_addresses(), fresh.load_balancer_addresses());
    }

    /// A crash between any two writes leaves what the next agent can put right.
    #[test]
    fn a_crash_between_two_writes_is_put_right(
        first in prop::collection::vec(step(), 1..12),
        second in prop::collection::vec(step(), 1..6),
        at in 0_usize..40,
    ) {
        let mut world = World::new(facts());
        let mut kernel = Kernel::default();
        let (mut model, _) = Model::adopt(Contents::default());
        let take = |world: &mut World, steps: &[Step]| {
            for step in steps {
                match step {
                    Step::Service(service) => world.put_service(Arc::new(service.clone())),
                    Step::RemoveService(number) => world.remove_service("default", &format!("s{number}")),
                    Step::Slice(slice) => world.put_slice(Arc::new(slice.clone())),
                    Step::RemoveSlice(number) => world.remove_slice("default", &format!("e{number}")),
                    Step::ListAgain | Step::Restart => {}
                }
            }
        };
        take(&mut world, &first);
        for write in model.apply(world.changes()) {
            kernel.write(&write);
        }
        take(&mut world, &second);
        for write in model.apply(world.changes()).iter().take(at) {
            kernel.write(write);
        }
        let (mut model, writes) = Model::adopt(kernel.contents());
        for write in writes {
            kernel.write(&write);
        }
        let mut changes = model.frontends().map(|key| (*key, None)).collect::<super::world::Changes>();
        for (key, target) in world.frontends() {
            changes.insert(*key, Some(target.clone()));
        }
        for write in model.apply(changes) {
            kernel.write(&write);
            kernel.read();
        }
        prop_assert_eq!(kernel.read(), wanted(&world));
        kernel.assert_tight();
    }
}
