use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use xebec_ebpf_loader::layout::{
    Addr, Backend, Chunk, ChunkKey, MemberKey, Port, SCOPE_CLUSTER, SCOPE_EXTERNAL, SLOTS_PER_CHUNK, Service as Entry,
    ServiceKey, proto, service_flags,
};

use super::desired::{BackendAddress, Facts, compile};
use super::model::{Contents, Model, Plan, RangePrefix};
use super::views::{EndpointSlice, HostPorts, ObjectName, Service};
use super::world::World;

fn facts() -> Facts {
    Facts {
        node: "n1".to_owned(),
        zone: Some("a".into()),
        addresses: vec!["172.30.0.11".parse().unwrap()],
        namespace: 4242,
        dns_service: ObjectName::new("kube-system", "kube-dns"),
        dns_servers: vec!["172.30.0.11".parse().unwrap(), "fd00:172::11".parse().unwrap()],
        dns_port: 10_053,
        direct_return: false,
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
    let addr = addr.parse().map_or(Addr::UNSPECIFIED_V4, |ip: std::net::IpAddr| ip.into());
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
            ("0.0.0.0", 30_080, SCOPE_CLUSTER),
            ("0.0.0.0", 30_080, SCOPE_EXTERNAL),
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
    let service = service(json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": { "type": "LoadBalancer", "clusterIPs": ["10.96.0.20"], "ports": [{ "name": "http", "port": 80 }] },
        "status": { "loadBalancer": { "ingress": [{ "ip": "172.30.0.130", "ipMode": "Proxy" }] } },
    }));
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
            "ports": [
                { "name": "t", "port": tcp },
                { "name": "u", "protocol": "UDP", "port": udp },
                { "name": "s", "protocol": "SCTP", "port": tcp + 10 },
            ],
        }))
        .unwrap()
    };
    let slices = [slice("a", "10.244.1.5", 1, 2), slice("b", "10.244.1.6", 3, 4)];
    let compiled = compile(&service, slices.iter(), &facts());
    assert_eq!(compiled.frontends.len(), 3);
    let ports = |proto| -> Vec<u16> {
        let target = &compiled.frontends[&key("10.96.0.20", 53, proto, SCOPE_CLUSTER)];
        assert_eq!(target.affinity_timeout_s, 10_800);
        target.backends.iter().map(|b| b.port.get()).collect()
    };
    assert_eq!((ports(proto::TCP), ports(proto::UDP), ports(proto::SCTP)), (vec![1, 3], vec![2, 4], vec![11, 13]));
}

/// The maps as the kernel would have them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    services: BTreeMap<ServiceKey, Entry>,
    chunks: BTreeMap<ChunkKey, Chunk>,
    members: BTreeSet<MemberKey>,
    ranges: BTreeSet<RangePrefix>,
    backends: BTreeMap<u32, Backend>,
    counters: BTreeSet<u32>,
}

/// One of a plan's writes.
type Write = Box<dyn FnOnce(&mut Kernel)>;

/// A plan's writes, one by one in their order.
fn writes(plan: Plan) -> Vec<Write> {
    let mut out: Vec<Write> = Vec::new();
    macro_rules! each {
        ($list:expr, $kernel:ident, $item:pat => $act:expr) => {
            for $item in $list {
                out.push(Box::new(move |$kernel: &mut Kernel| {
                    $act;
                }));
            }
        };
    }
    each!(plan.put_backends, k, (id, backend) => k.backends.insert(id, backend));
    each!(plan.put_members, k, key => k.members.insert(key));
    each!(plan.put_chunks, k, (key, chunk) => k.chunks.insert(key, chunk));
    each!(plan.put_ranges, k, range => k.ranges.insert(range));
    each!(plan.put_counters, k, id => assert!(k.counters.insert(id), "counts are not reset"));
    each!(plan.put_services, k, (key, service) => k.services.insert(key, service));
    each!(plan.remove_services, k, key => k.services.remove(&key));
    each!(plan.remove_counters, k, id => k.counters.remove(&id));
    each!(plan.remove_ranges, k, range => k.ranges.remove(&range));
    each!(plan.remove_chunks, k, key => k.chunks.remove(&key));
    each!(plan.remove_members, k, key => k.members.remove(&key));
    each!(plan.remove_backends, k, id => k.backends.remove(&id));
    out
}

/// What a reader finds at a frontend.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    backends: Vec<BackendAddress>,
    flags: u32,
    affinity_timeout_s: u32,
    ranges: BTreeSet<String>,
}

impl Kernel {
    /// Carries a plan out; a reader looks after each write.
    fn carry_out(&mut self, plan: Plan) {
        for write in writes(plan) {
            write(self);
            self.read();
        }
    }

    fn contents(&self) -> Contents {
        Contents {
            services: self.services.clone().into_iter().collect(),
            chunks: self.chunks.clone().into_iter().collect(),
            members: self.members.iter().copied().collect(),
            ranges: self.ranges.iter().copied().collect(),
            backends: self.backends.clone().into_iter().collect(),
            counters: self.counters.iter().copied().collect(),
        }
    }

    /// Every frontend with its backends. Panics at a half state.
    fn read(&self) -> BTreeMap<ServiceKey, Read> {
        let mut out = BTreeMap::new();
        for (key, service) in &self.services {
            let mut backends = BTreeSet::new();
            for slot in 0..service.count {
                let chunk = ChunkKey { set: service.set, chunk: slot / SLOTS_PER_CHUNK };
                let id = self.chunks.get(&chunk).expect("the chunk is there").0[(slot % SLOTS_PER_CHUNK) as usize];
                let backend = self.backends.get(&id).expect("the backend is there");
                let member = MemberKey { set: service.set, backend: id };
                let sticky = service.flags & service_flags::STICKY != 0;
                assert!(!sticky || self.members.contains(&member), "the member is there");
                backends.insert(BackendAddress { addr: backend.addr, port: backend.port });
            }
            assert!(self.counters.contains(&service.id), "the counters are there");
            let of_port = self.ranges.iter().filter(|(range, _)| range.service == service.id);
            let ranges = of_port.map(|(range, length)| format!("{:?}/{}", range.addr, length - 32)).collect();
            let backends = backends.into_iter().collect();
            let (flags, affinity_timeout_s) = (service.flags, service.affinity_timeout_s);
            out.insert(*key, Read { backends, flags, affinity_timeout_s, ranges });
        }
        out
    }

    /// Nothing is left that nobody names.
    fn assert_tight(&self) {
        let sets: BTreeSet<u32> = self.services.values().map(|s| s.set).collect();
        assert!(self.chunks.keys().all(|key| sets.contains(&key.set)), "slots without service");
        assert!(self.members.iter().all(|key| sets.contains(&key.set)), "members without service");
        let used: BTreeSet<u32> = self.chunks.values().flat_map(|chunk| chunk.0).filter(|id| *id != 0).collect();
        assert_eq!(used, self.backends.keys().copied().collect(), "backends without slot");
        let ids: BTreeSet<u32> = self.services.values().map(|s| s.id).collect();
        assert_eq!(ids, self.counters, "counters without service");
        assert!(self.ranges.iter().all(|(range, _)| ids.contains(&range.service)), "ranges without service");
    }
}

fn wanted(world: &World) -> BTreeMap<ServiceKey, Read> {
    let read = |target: &super::desired::Target| Read {
        backends: target.backends.to_vec(),
        flags: target.flags,
        affinity_timeout_s: target.affinity_timeout_s,
        ranges: target.source_ranges.iter().map(|net| format!("{}/{}", net.addr(), 96 + net.prefix_len())).collect(),
    };
    world.frontends().map(|(key, target)| (*key, read(target))).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Service(Service),
    RemoveService(u8),
    Slice(EndpointSlice),
    RemoveSlice(u8),
    Pod(HostPorts),
    RemovePod(u8),
    Zone(bool),
    ListAgain,
    Restart,
}

fn arbitrary_pod() -> impl Strategy<Value = HostPorts> {
    (0_u8..2, 0_u16..2, any::<bool>()).prop_map(|(number, port, ended)| {
        serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": format!("p{number}") },
            "spec": { "containers": [{ "ports": [{ "containerPort": 80, "hostPort": 8_080 + port }] }] },
            "status": { "podIP": format!("10.244.1.{number}"), "phase": if ended { "Failed" } else { "Running" } },
        }))
        .unwrap()
    })
}

fn arbitrary_service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer"), Just("ExternalName")];
    (0_u8..4, kind, any::<[bool; 5]>(), 0_u8..3).prop_map(
        |(number, kind, [external_local, internal_local, two_ports, affinity, direct], shared)| {
            let mut ports = vec![json!({
                "name": "a", "port": 80, "nodePort": if kind == "ClusterIP" { 0 } else { 30_000 + u16::from(number) },
            })];
            if two_ports {
                ports.push(json!({ "name": "b", "protocol": "UDP", "port": 81 }));
            }
            service(json!({
                "metadata": {
                    "namespace": "default", "name": format!("s{number}"),
                    "annotations": { "xebec.io/load-balancer-mode": if direct { "dsr" } else { "snat" } },
                },
                "spec": {
                    "sessionAffinity": if affinity { "ClientIP" } else { "None" },
                    "loadBalancerSourceRanges": (0..shared).map(|n| format!("192.0.{n}.0/24")).collect::<Vec<_>>(),
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
            "hints": { "forZones": [{ "name": if here { "a" } else { "b" } }] },
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
        1 => arbitrary_pod().prop_map(Step::Pod),
        1 => (0_u8..2).prop_map(Step::RemovePod),
        1 => any::<bool>().prop_map(Step::Zone),
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
        let mut seen = Seen::default();
        let mut world = World::new(facts());
        let (mut model, _) = Model::adopt(Contents::default());
        let mut kernel = Kernel::default();
        for step in steps {
            seen.take(&step);
            match step {
                Step::Restart => {
                    world = seen.world();
                    let (adopted, rest) = Model::adopt(kernel.contents());
                    model = adopted;
                    prop_assert_eq!(&rest, &Plan::default(), "nothing was half done");
                    let before = kernel.clone();
                    kernel.carry_out(model.apply(whole(&model, &mut world)));
                    prop_assert_eq!(&kernel, &before, "a restart changes nothing");
                }
                Step::ListAgain => {
                    world.replace_slices(seen.slices.values().cloned().collect());
                    world.replace_services(seen.services.values().cloned().collect());
                    world.replace_pods(seen.pods.values().cloned().collect());
                }
                step => put(&mut world, &step),
            }
            kernel.carry_out(model.apply(world.changes()));
            prop_assert_eq!(kernel.read(), wanted(&world));
            kernel.assert_tight();
        }
        let mut fresh = seen.world();
        fresh.changes();
        prop_assert_eq!(wanted(&world), wanted(&fresh));
        // Only what changed is told, and all of it.
        world.set_zone(None);
        world.replace_services(Vec::new());
        world.replace_services(seen.services.values().cloned().collect());
        world.set_zone(seen.zone.clone());
        world.changes();
        prop_assert_eq!(world.load_balancer_addresses().unwrap_or_default(), fresh.load_balancer_addresses().unwrap());
    }

    /// A crash between any two writes leaves what the next agent can put right.
    #[test]
    fn a_crash_between_two_writes_is_put_right(
        first in prop::collection::vec(step(), 1..12),
        second in prop::collection::vec(step(), 1..6),
        at in 0_usize..60,
    ) {
        let mut world = World::new(facts());
        let mut kernel = Kernel::default();
        let (mut model, _) = Model::adopt(Contents::default());
        first.iter().for_each(|step| put(&mut world, step));
        kernel.carry_out(model.apply(world.changes()));
        second.iter().for_each(|step| put(&mut world, step));
        for write in writes(model.apply(world.changes())).into_iter().take(at) {
            write(&mut kernel);
        }
        let (mut model, rest) = Model::adopt(kernel.contents());
        kernel.carry_out(rest);
        kernel.carry_out(model.apply(whole(&model, &mut world)));
        prop_assert_eq!(kernel.read(), wanted(&world));
        kernel.assert_tight();
    }
}

/// Everything that was heard of.
#[derive(Default)]
struct Seen {
    services: BTreeMap<String, Arc<Service>>,
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    pods: BTreeMap<String, Arc<HostPorts>>,
    zone: Option<Box<str>>,
}

impl Seen {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Service(service) => {
                drop(self.services.insert(service.name.name.to_string(), Arc::new(service.clone())));
            }
            Step::RemoveService(number) => drop(self.services.remove(&format!("s{number}"))),
            Step::Slice(slice) => drop(self.slices.insert(slice.name.name.to_string(), Arc::new(slice.clone()))),
            Step::RemoveSlice(number) => drop(self.slices.remove(&format!("e{number}"))),
            Step::Pod(pod) => drop(self.pods.insert(pod.name.name.to_string(), Arc::new(pod.clone()))),
            Step::RemovePod(number) => drop(self.pods.remove(&format!("p{number}"))),
            Step::Zone(here) => self.zone = Some(if *here { "a" } else { "c" }.into()),
            Step::ListAgain | Step::Restart => {}
        }
    }

    /// A new agent's world.
    fn world(&self) -> World {
        let zone = self.zone.clone().or(facts().zone);
        let mut world = World::new(Facts { zone, ..facts() });
        world.replace_services(self.services.values().cloned().collect());
        world.replace_slices(self.slices.values().cloned().collect());
        world.replace_pods(self.pods.values().cloned().collect());
        world
    }
}

fn put(world: &mut World, step: &Step) {
    match step {
        Step::Service(service) => world.put_service(Arc::new(service.clone())),
        Step::RemoveService(number) => world.remove_service(&ObjectName::new("default", &format!("s{number}"))),
        Step::Slice(slice) => world.put_slice(Arc::new(slice.clone())),
        Step::RemoveSlice(number) => world.remove_slice(&ObjectName::new("default", &format!("e{number}"))),
        Step::Pod(pod) => world.put_pod(Arc::new(pod.clone())),
        Step::RemovePod(number) => world.remove_pod(&ObjectName::new("default", &format!("p{number}"))),
        Step::Zone(here) => world.set_zone(Some(if *here { "a" } else { "c" }.into())),
        Step::ListAgain | Step::Restart => {}
    }
}

/// All frontends there should be, and the removal of all others.
fn whole(model: &Model, world: &mut World) -> super::world::Changes {
    world.changes();
    let mut changes: super::world::Changes = model.frontends().map(|key| (*key, None)).collect();
    changes.extend(world.frontends().map(|(key, target)| (*key, Some(target.clone()))));
    changes
}
