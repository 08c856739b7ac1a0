//! The compiler against what the API says, read plainly: policies, namespaces and pods as they come, and a verdict worked
//! out from them one by one; beside it, the maps after any history, and the kernel's way of looking into them.

mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use xebec_ebpf_loader::layout::{Addr, Port, RuleKey, proto, verdict};

use super::admin::{AdminPolicy, NodeView, Tier};
use super::domains::Found;
use super::rules::Id;
use super::views::{Namespace, NetworkPolicy, Pod};
use super::world::{Sets, Tables, World, Write};
use oracle::{Objects, text};

const NODE: &str = "n1";

/// The maps, and the kernel's way of looking into them (`policy.rs` among the programs).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kernel {
    tables: Tables,
    revision: u32,
}

impl Kernel {
    fn write(&mut self, write: &Write) {
        let tables = &mut self.tables;
        match write {
            Write::PutRule(key, length, verdict) => drop(tables.rules.insert((*key, *length), *verdict)),
            Write::PutIdentity(addr, id) => drop(tables.identities.insert(*addr, *id)),
            Write::PutBlock(addr, length, id) => drop(tables.blocks.insert((*addr, *length), *id)),
            Write::PutSubject(uid, sets) => drop(tables.subjects.insert(uid.clone(), *sets)),
            Write::RemoveIdentity(addr) => assert!(tables.identities.remove(addr).is_some()),
            Write::RemoveBlock(addr, length) => assert!(tables.blocks.remove(&(*addr, *length)).is_some()),
            Write::RemoveRule(key, length) => assert!(tables.rules.remove(&(*key, *length)).is_some()),
            Write::RaiseRevision => self.revision += 1,
        }
    }

    fn longest<'a, K: Copy + Ord, V>(
        map: &'a BTreeMap<(K, u32), V>,
        bytes: impl Fn(&K) -> Vec<u8>,
        key: &K,
    ) -> Option<&'a V> {
        let wanted = bytes(key);
        let matches = |(prefix, length): &(K, u32)| {
            let prefix = bytes(prefix);
            let (whole, rest) = (*length as usize / 8, *length % 8);
            prefix[..whole] == wanted[..whole] && (rest == 0 || (prefix[whole] ^ wanted[whole]) >> (8 - rest) == 0)
        };
        map.iter().filter(|(key, _)| matches(key)).max_by_key(|((_, length), _)| *length).map(|(_, value)| value)
    }

    fn allows(&self, set: Id, peer: Ipv4Addr, proto: u8, port: u16) -> bool {
        if set == Id::NONE {
            return true;
        }
        let peer = Addr::from(peer);
        let identity = match self.tables.identities.get(&peer) {
            Some(id) => *id,
            None => {
                Self::longest(&self.tables.blocks, |addr| addr.octets().to_vec(), &peer).copied().unwrap_or_default()
            }
        };
        let bytes = |key: &RuleKey| {
            let words = [key.set[0], key.set[1], key.identity[0], key.identity[1]];
            let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            out.extend([key.proto, 0]);
            out.extend(key.port.0.to_ne_bytes());
            out
        };
        let find = |identity: Id| {
            let key = RuleKey { set: set.0, identity: identity.0, proto, padding: 0, port: Port::new(port) };
            Self::longest(&self.tables.rules, bytes, &key).copied()
        };
        let found = if identity == Id::NONE { None } else { find(identity) };
        found.or_else(|| find(Id::NONE)) == Some(verdict::ALLOW)
    }
}

/// Addresses that the tests ask about: pods', and others inside and outside of blocks.
const PEERS: [&str; 9] = [
    "10.244.1.1",
    "10.244.1.2",
    "10.244.1.3",
    "10.244.2.1",
    "10.244.2.2",
    "10.244.2.3",
    "192.0.2.7",
    "192.0.2.130",
    "198.51.100.1",
];
/// Names that lead to some of them.
const NAMES: [&str; 5] = ["example.com", "www.example.com", "a.www.example.com", "myexample.com", "example.org"];
const PORTS: [u16; 8] = [0, 79, 80, 81, 8_080, 8_090, 8_100, 65_535];

/// Whether the maps say the same as the API, about everything that is asked.
fn assert_same(kernel: &Kernel, objects: &Objects) {
    for pod in objects.pods.values() {
        if pod["spec"]["nodeName"] != NODE || pod["spec"]["hostNetwork"] == true {
            continue;
        }
        let uid = text(&pod["metadata"]["uid"]);
        let sets = kernel.tables.subjects.get(uid).copied().unwrap_or_default();
        for peer in PEERS {
            for proto in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP] {
                for port in if proto == proto::ICMP { &PORTS[..1] } else { &PORTS } {
                    for (direction, set) in [("Ingress", sets.ingress), ("Egress", sets.egress)] {
                        let found = kernel.allows(set, peer.parse().unwrap(), proto, *port);
                        let expected = objects.allows(pod, direction, peer, proto, *port);
                        assert_eq!(found, expected, "{direction} of {uid}, {peer}, {proto}, {port}: {objects:#?}");
                    }
                }
            }
        }
    }
}

fn world_of(objects: &Objects) -> World {
    let mut world = World::new(NODE);
    world.replace_policies(&all(&objects.policies));
    world.replace_namespaces(&all(&objects.namespaces));
    world.replace_pods(&all(&objects.pods));
    replace_admins(&mut world, objects);
    for (name, addresses) in &objects.names {
        addresses.iter().for_each(|address| drop(world.learn(&found(name, address), 0)));
    }
    world.changes();
    world
}

fn found(name: &str, address: &str) -> Found {
    Found { name: name.to_owned(), addresses: vec![(address.parse().unwrap(), 5)] }
}

fn replace_admins(world: &mut World, objects: &Objects) {
    for tier in [Tier::Admin, Tier::Baseline] {
        let all = objects.admins.iter().filter(|((of, _), _)| *of == tier);
        let all: Vec<Arc<AdminPolicy>> = all.map(|(_, policy)| Arc::new(read(policy))).collect();
        world.replace_admins(tier, &all);
    }
    world.replace_nodes(&all(&objects.nodes));
}

fn all<T: serde::de::DeserializeOwned>(objects: &BTreeMap<String, Value>) -> Vec<Arc<T>> {
    objects.values().map(|object| Arc::new(serde_json::from_value(object.clone()).unwrap())).collect()
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap()
}

fn pod(namespace: &str, number: u8, node: &str, app: &str) -> Value {
    let network = if node == NODE { 1 } else { 2 };
    json!({
        "metadata": {
            "namespace": namespace, "name": format!("p{number}"), "uid": format!("{namespace}-p{number}"),
            "labels": { "app": app }, "creationTimestamp": format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60),
        },
        "spec": {
            "nodeName": node,
            "containers": [{ "ports": [
                { "name": "web", "containerPort": 80, "protocol": "TCP" },
                { "name": "dns", "containerPort": if app == "a" { 8_080 } else { 8_090 }, "protocol": "UDP" },
            ] }],
        },
        "status": { "phase": "Running", "podIPs": [{ "ip": format!("10.244.{network}.{number}") }] },
    })
}

fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec })
}

fn namespace(name: &str, team: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { "team": team, "kubernetes.io/metadata.name": name } } })
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        prop::sample::select(vec!["a", "b", "c"]).prop_map(|app| json!({ "matchLabels": { "app": app } })),
        Just(json!({ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["a"] }] })),
        Just(json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["a", "b"] }] })),
        Just(json!({ "matchExpressions": [{ "key": "nothing", "operator": "Exists" }] })),
    ]
}

fn namespace_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({ "matchLabels": { "team": "x" } })),
        Just(json!({ "matchLabels": { "kubernetes.io/metadata.name": "two" } })),
        Just(json!({ "matchExpressions": [{ "key": "team", "operator": "DoesNotExist" }] })),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let block = |cidr: &str, except: &[&str]| json!({ "ipBlock": { "cidr": cidr, "except": except } });
    prop_oneof![
        3 => selector().prop_map(|pods| json!({ "podSelector": pods })),
        2 => namespace_selector().prop_map(|ns| json!({ "namespaceSelector": ns })),
        2 => (namespace_selector(), selector())
            .prop_map(|(ns, pods)| json!({ "namespaceSelector": ns, "podSelector": pods })),
        1 => Just(block("0.0.0.0/0", &[])),
        1 => Just(block("10.244.0.0/16", &["10.244.1.0/24"])),
        1 => Just(block("10.244.1.0/30", &["10.244.1.2/32"])),
        1 => Just(block("192.0.2.0/24", &["192.0.2.128/25"])),
        1 => Just(block("192.0.2.130/32", &[])),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = prop::sample::select(vec!["TCP", "UDP", "SCTP"]);
    let which = prop::sample::select(vec![
        json!({}),
        json!({ "port": 80 }),
        json!({ "port": 79, "endPort": 8_080 }),
        json!({ "port": 8_081, "endPort": 8_095 }),
        json!({ "port": 1, "endPort": 65_535 }),
        json!({ "port": "web" }),
        json!({ "port": "dns" }),
        json!({ "port": "none" }),
    ]);
    (protocol, which).prop_map(|(protocol, mut port)| {
        port["protocol"] = json!(protocol);
        port
    })
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3))
        .prop_map(move |(from, ports)| json!({ peers: from, "ports": ports }))
}

fn arbitrary_policy() -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec![vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]);
    let namespace = prop::sample::select(vec!["one", "two"]);
    let ingress = prop::collection::vec(rule("from"), 0..3);
    let egress = prop::collection::vec(rule("to"), 0..3);
    (namespace, 0_u8..3, selector(), types, ingress, egress).prop_map(|(namespace, n, pods, types, ingress, egress)| {
        let spec = json!({ "podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress });
        policy(namespace, &format!("q{n}"), &spec)
    })
}

fn admin_peer(nodes: bool) -> impl Strategy<Value = Value> {
    let zone = |zone: &str| json!({ "nodes": { "matchLabels": { "zone": zone } } });
    let beyond = prop::sample::select(vec![
        json!({ "networks": ["10.244.1.0/30", "192.0.2.0/24"] }),
        json!({ "networks": ["0.0.0.0/0"] }),
        zone("a"),
        zone("b"),
        json!({ "nodes": {} }),
    ]);
    prop_oneof![
        2 => namespace_selector().prop_map(|ns| json!({ "namespaces": ns })),
        2 => (namespace_selector(), selector())
            .prop_map(|(ns, pods)| json!({ "pods": { "namespaceSelector": ns, "podSelector": pods } })),
        if nodes { 2 } else { 0 } => beyond,
    ]
}

fn admin_rule(peers: &'static str, tier: Tier) -> impl Strategy<Value = Value> {
    let actions = if tier == Tier::Admin { vec!["Allow", "Deny", "Pass"] } else { vec!["Allow", "Deny"] };
    let ports = prop::sample::select(vec![
        json!(null),
        json!([{ "portNumber": { "protocol": "TCP", "port": 80 } }]),
        json!([{ "portRange": { "protocol": "UDP", "start": 79, "end": 8_080 } }]),
        json!([{ "namedPort": "web" }, { "portNumber": { "protocol": "SCTP", "port": 81 } }]),
        json!([{ "namedPort": "dns" }]),
    ]);
    let all = prop::collection::vec(admin_peer(peers == "to"), 1..3);
    let domains = prop::sample::subsequence(vec!["example.com", "*.example.com", "*.com", "www.example.com"], 1..3);
    let domains = prop::option::of(domains.prop_map(|names| json!({ "domainNames": names })));
    (prop::sample::select(actions), all, domains, ports).prop_map(move |(action, mut all, domains, ports)| {
        // By names, things can only be allowed, and only what goes out.
        if action == "Allow" && peers == "to" {
            all.extend(domains);
        }
        let mut rule = json!({ "action": action, peers: all });
        if !ports.is_null() {
            rule["ports"] = ports;
        }
        rule
    })
}

fn arbitrary_admin(tier: Tier) -> impl Strategy<Value = Step> {
    let rules = |peers| prop::collection::vec(admin_rule(peers, tier), 0..3);
    (0_u8..3, 0..3_i32, admin_peer(false), rules("from"), rules("to")).prop_map(
        move |(number, priority, subject, ingress, egress)| {
            let name = if tier == Tier::Admin { format!("a{number}") } else { "default".to_owned() };
            let spec = json!({ "priority": priority, "subject": subject, "ingress": ingress, "egress": egress });
            Step::Admin(tier, json!({ "metadata": { "name": name }, "spec": spec }))
        },
    )
}

fn arbitrary_pod() -> impl Strategy<Value = Value> {
    let app = prop::sample::select(vec!["a", "b", "c"]);
    let namespace = prop::sample::select(vec!["one", "two"]);
    let extra = prop::sample::select(vec!["", "", "", "host", "ended", "reborn", "homeless"]);
    (namespace, 1_u8..4, prop::sample::select(vec![NODE, "n2"]), app, extra).prop_map(
        |(ns, number, node, app, extra)| {
            let mut pod = pod(ns, number, node, app);
            match extra {
                "host" => pod["spec"]["hostNetwork"] = json!(true),
                "ended" => pod["status"] = json!({ "phase": "Succeeded", "podIPs": [] }),
                "reborn" => pod["metadata"]["uid"] = json!(format!("{ns}-p{number}-again")),
                "homeless" => pod["status"] = json!({ "phase": "Pending" }),
                _ => {}
            }
            pod
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Policy(Value),
    RemovePolicy(&'static str, u8),
    Pod(Value),
    RemovePod(&'static str, u8),
    Namespace(&'static str, &'static str),
    RemoveNamespace(&'static str),
    Admin(Tier, Value),
    RemoveAdmin(Tier, u8),
    Node(&'static str, &'static str),
    RemoveNode(&'static str),
    Lookup(&'static str, &'static str),
    ForgetNames,
    ListAgain,
}

fn step() -> impl Strategy<Value = Step> {
    let ns = || prop::sample::select(vec!["one", "two"]);
    prop_oneof![
        5 => arbitrary_policy().prop_map(Step::Policy),
        2 => (ns(), 0_u8..3).prop_map(|(ns, n)| Step::RemovePolicy(ns, n)),
        6 => arbitrary_pod().prop_map(Step::Pod),
        1 => (ns(), 1_u8..4).prop_map(|(ns, n)| Step::RemovePod(ns, n)),
        2 => (ns(), prop::sample::select(vec!["x", "y"])).prop_map(|(ns, team)| Step::Namespace(ns, team)),
        1 => ns().prop_map(Step::RemoveNamespace),
        3 => arbitrary_admin(Tier::Admin),
        1 => arbitrary_admin(Tier::Baseline),
        1 => (prop::sample::select(vec![Tier::Admin, Tier::Baseline]), 0_u8..3)
            .prop_map(|(tier, number)| Step::RemoveAdmin(tier, number)),
        1 => (prop::sample::select(vec!["n2", "n3"]), prop::sample::select(vec!["a", "b"]))
            .prop_map(|(name, zone)| Step::Node(name, zone)),
        1 => prop::sample::select(vec!["n2", "n3"]).prop_map(Step::RemoveNode),
        4 => (prop::sample::select(NAMES.to_vec()), prop::sample::select(PEERS.to_vec()))
            .prop_map(|(name, address)| Step::Lookup(name, address)),
        1 => Just(Step::ForgetNames),
        1 => Just(Step::ListAgain),
    ]
}

fn take(world: &mut World, objects: &mut Objects, step: &Step) {
    let key =
        |object: &Value| format!("{}/{}", text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    match step {
        Step::Policy(policy) => {
            world.put_policy(&read::<NetworkPolicy>(policy));
            objects.policies.insert(key(policy), policy.clone());
        }
        Step::RemovePolicy(ns, n) => {
            world.remove_policy(ns, &format!("q{n}"));
            objects.policies.remove(&format!("{ns}/q{n}"));
        }
        Step::Pod(pod) => {
            world.put_pod(&read::<Pod>(pod));
            objects.pods.insert(key(pod), pod.clone());
        }
        Step::RemovePod(ns, n) => {
            world.remove_pod(ns, &format!("p{n}"));
            objects.pods.remove(&format!("{ns}/p{n}"));
        }
        Step::Namespace(name, team) => {
            world.put_namespace(&read::<Namespace>(&namespace(name, team)));
            objects.namespaces.insert((*name).to_owned(), namespace(name, team));
        }
        Step::RemoveNamespace(name) => {
            world.remove_namespace(name);
            objects.namespaces.remove(*name);
        }
        Step::Admin(tier, policy) => {
            world.put_admin(*tier, &read(policy));
            objects.admins.insert((*tier, text(&policy["metadata"]["name"]).to_owned()), policy.clone());
        }
        Step::RemoveAdmin(tier, number) => {
            let name = if *tier == Tier::Admin { format!("a{number}") } else { "default".to_owned() };
            world.remove_admin(*tier, &name);
            objects.admins.remove(&(*tier, name));
        }
        Step::Node(name, zone) => {
            let address = if *name == "n2" { "192.0.2.130" } else { "198.51.100.1" };
            let node = json!({
                "metadata": { "name": name, "labels": { "zone": zone } },
                "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
            });
            world.put_node(&read::<NodeView>(&node));
            objects.nodes.insert((*name).to_owned(), node);
        }
        Step::RemoveNode(name) => {
            world.remove_node(name);
            objects.nodes.remove(*name);
        }
        Step::Lookup(name, address) => {
            world.learn(&found(name, address), 0);
            objects.names.entry((*name).to_owned()).or_default().insert((*address).to_owned());
        }
        Step::ForgetNames => {
            world.forget(u32::MAX, &BTreeSet::new());
            objects.names.clear();
        }
        Step::ListAgain => {
            replace_admins(world, objects);
            world.replace_policies(&all(&objects.policies));
            world.replace_namespaces(&all(&objects.namespaces));
            world.replace_pods(&all(&objects.pods));
        }
    }
}

/// What the kernel's maps hold of pods that are still there.
fn without_gone_subjects(kernel: &Kernel, world: &World) -> Tables {
    let mut tables = kernel.tables.clone();
    tables.subjects.retain(|uid, _| world.sets_of(uid).is_some());
    tables
}

/// A verdict that is the same before and after a change is so at every moment of it.
fn verdicts(kernel: &Kernel) -> BTreeMap<(String, &'static str, u8, u16, bool), bool> {
    let mut out = BTreeMap::new();
    for (uid, sets) in &kernel.tables.subjects {
        // What a pod says to itself meets no hook.
        let own = format!("10.244.1.{}", uid.chars().find(char::is_ascii_digit).unwrap());
        for peer in PEERS.into_iter().filter(|peer| *peer != own) {
            for (proto, port) in [(proto::TCP, 80), (proto::UDP, 8_090), (proto::ICMP, 0)] {
                for (ingress, set) in [(true, sets.ingress), (false, sets.egress)] {
                    let allowed = kernel.allows(set, peer.parse().unwrap(), proto, port);
                    out.insert((uid.clone(), peer, proto, port, ingress), allowed);
                }
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// After any history the maps say what the API says, hold what a fresh compile holds, and nothing more.
    #[test]
    fn any_history_says_what_the_api_says(steps in prop::collection::vec(step(), 1..25)) {
        let mut objects = Objects::default();
        let mut world = World::new(NODE);
        let mut kernel = Kernel::default();
        for (number, step) in steps.iter().enumerate() {
            take(&mut world, &mut objects, step);
            // Several changes in one round, now and then.
            if number % 3 == 1 {
                continue;
            }
            for write in world.changes() {
                kernel.write(&write);
            }
            prop_assert!(world.changes().is_empty(), "nothing is left to do");
            prop_assert_eq!(&without_gone_subjects(&kernel, &world), world.tables());
            assert_same(&kernel, &objects);
        }
        for write in world.changes() {
            kernel.write(&write);
        }
        let fresh = world_of(&objects);
        prop_assert_eq!(world.tables(), fresh.tables());
    }

    /// Nobody whom a change does not concern is judged otherwise on the way.
    #[test]
    fn no_reader_sees_half_a_change(before in prop::collection::vec(step(), 5..25), step in step()) {
        let mut objects = Objects::default();
        let mut world = World::new(NODE);
        let mut kernel = Kernel::default();
        for step in &before {
            take(&mut world, &mut objects, step);
        }
        for write in world.changes() {
            kernel.write(&write);
        }
        let first = verdicts(&kernel);
        take(&mut world, &mut objects, &step);
        let writes = world.changes();
        let mut after = kernel.clone();
        for write in &writes {
            after.write(write);
        }
        let last = verdicts(&after);
        for write in &writes {
            kernel.write(write);
            // A pod that is gone is nobody's concern.
            for (asked, now) in verdicts(&kernel).into_iter().filter(|(asked, _)| world.sets_of(&asked.0).is_some()) {
                let (was, will) = (first.get(&asked), last.get(&asked));
                prop_assert!(was == Some(&now) || will == Some(&now), "{:?} after {:?}", asked, write);
            }
        }
    }
}

#[test]
fn no_policy_means_no_entries_and_the_last_takes_all_with_it() {
    let mut world = World::new(NODE);
    world.put_namespace(&read(&namespace("one", "x")));
    for number in 1..4 {
        world.put_pod(&read(&pod("one", number, NODE, "a")));
    }
    world.changes();
    let empty = |world: &World| {
        let Tables { identities, blocks, rules, subjects } = world.tables();
        identities.is_empty()
            && blocks.is_empty()
            && rules.is_empty()
            && subjects.values().all(|sets| *sets == Sets::default())
    };
    assert!(empty(&world));
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": [{ "podSelector": {} }, { "ipBlock": { "cidr": "192.0.2.0/24" } }] }],
        "egress": [{ "ports": [{ "port": "web", "protocol": "TCP" }] }],
    });
    world.put_policy(&read(&policy("one", "p", &spec)));
    let writes = world.changes();
    assert_eq!(writes.last(), Some(&Write::RaiseRevision));
    assert!(!empty(&world));
    world.remove_policy("one", "p");
    world.changes();
    assert!(empty(&world), "{:?}", world.tables());
}

#[test]
fn a_change_writes_what_it_concerns() {
    let mut world = World::new(NODE);
    world.put_namespace(&read(&namespace("one", "x")));
    for number in 1..=100 {
        let mut pod = pod("one", number, if number < 50 { NODE } else { "n2" }, "a");
        if number % 2 == 0 {
            pod["metadata"]["labels"] = json!({ "app": "b" });
        }
        world.put_pod(&read(&pod));
    }
    for number in 0..200 {
        let spec = json!({
            "podSelector": { "matchLabels": { "app": "a" } }, "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "b" } } }], "ports": [{ "port": number + 1 }] }],
        });
        world.put_policy(&read(&policy("one", &format!("p{number}"), &spec)));
    }
    world.changes();
    // 200 policies, one identity: what is looked up does not grow with them.
    let identities: BTreeSet<Id> = world.tables().identities.values().copied().collect();
    assert_eq!(identities.len(), 1);
    // One more pod of a known kind: its address, and its own sets.
    world.put_pod(&read(&pod("one", 101, "n2", "b")));
    let writes = world.changes();
    assert!(matches!(writes.as_slice(), [Write::PutIdentity(..), Write::RaiseRevision]), "{writes:?}");
    // One that no policy names: nothing.
    world.put_pod(&read(&pod("one", 102, "n2", "c")));
    assert_eq!(world.changes(), []);
    // Its status changes: nothing.
    world.put_pod(&read(&pod("one", 101, "n2", "b")));
    assert_eq!(world.changes(), []);
}

/// The order of the tiers, and of policies within one: by priority.
#[test]
fn administrators_speak_first_and_last() {
    let mut objects = Objects::default();
    let mut world = World::new(NODE);
    let all = json!({ "namespaces": {} });
    let admin = |name: &str, priority: i32, action: &str, port: u16| {
        let rule = json!({
            "action": action, "from": [all], "ports": [{ "portNumber": { "protocol": "TCP", "port": port } }],
        });
        let spec = json!({ "priority": priority, "subject": all, "ingress": [rule] });
        Step::Admin(Tier::Admin, json!({ "metadata": { "name": name }, "spec": spec }))
    };
    let baseline = json!({ "subject": all, "ingress": [{ "action": "Deny", "from": [all] }] });
    let deny = json!({ "podSelector": {}, "policyTypes": ["Ingress"] });
    for step in [
        Step::Namespace("one", "x"),
        Step::Pod(pod("one", 1, NODE, "a")),
        Step::Pod(pod("one", 2, NODE, "a")),
        admin("late", 10, "Deny", 80),
        admin("early", 5, "Allow", 80),
        admin("first", 1, "Pass", 81),
        admin("never", 2, "Allow", 81),
        Step::Admin(Tier::Baseline, json!({ "metadata": { "name": "default" }, "spec": baseline })),
    ] {
        take(&mut world, &mut objects, &step);
    }
    let mut kernel = Kernel::default();
    let mut verdicts = |world: &mut World| {
        world.changes().iter().for_each(|write| kernel.write(write));
        let set = kernel.tables.subjects["one-p1"].ingress;
        [80, 81, 82].map(|port| kernel.allows(set, "10.244.1.2".parse().unwrap(), proto::TCP, port))
    };
    // The earlier of two for port 80; what is passed and what nobody names is the baseline's.
    assert_eq!(verdicts(&mut world), [true, false, false]);
    take(&mut world, &mut objects, &Step::RemoveAdmin(Tier::Baseline, 0));
    assert_eq!(verdicts(&mut world), [true, true, true]);
    take(&mut world, &mut objects, &Step::Policy(policy("one", "q0", &deny)));
    assert_eq!(verdicts(&mut world), [true, false, false]);
}

/// Peers and ports of a sort that this does not know, of a definition newer than ours: nothing is let through for them.
#[test]
fn unknown_sorts_fail_closed() {
    let mut objects = Objects::default();
    let mut world = World::new(NODE);
    let all = json!({ "namespaces": {} });
    let unknown = json!({ "services": ["example"] });
    let name = json!({ "domainNames": ["example.com"] });
    let port = |port: u16| json!([{ "portNumber": { "protocol": "TCP", "port": port } }]);
    let rules = json!([
        { "action": "Allow", "to": [unknown], "ports": port(80) },
        { "action": "Allow", "to": [unknown, all], "ports": port(81) },
        { "action": "Allow", "to": [all], "ports": [{ "portSet": "web" }] },
        { "action": "Deny", "to": [unknown], "ports": port(82) },
        { "action": "Deny", "to": [name], "ports": port(83) },
        { "action": "Deny", "to": [all], "ports": [{ "portSet": "web" }] },
    ]);
    let spec = json!({ "priority": 1, "subject": all, "egress": rules });
    for step in [
        Step::Namespace("one", "x"),
        Step::Pod(pod("one", 1, NODE, "a")),
        Step::Pod(pod("one", 2, NODE, "a")),
        Step::Admin(Tier::Admin, json!({ "metadata": { "name": "a0" }, "spec": spec })),
    ] {
        take(&mut world, &mut objects, &step);
    }
    let mut kernel = Kernel::default();
    world.changes().iter().for_each(|write| kernel.write(write));
    let set = kernel.tables.subjects["one-p1"].egress;
    let allows = |address: &str, port| kernel.allows(set, address.parse().unwrap(), proto::TCP, port);
    // A pod: what is allowed of it by name alone. Strangers: only what may be meant is denied.
    assert_eq!([80, 81, 82, 83].map(|port| allows("10.244.1.2", port)), [false, true, false, false]);
    assert_eq!([80, 81, 82, 83].map(|port| allows("203.0.113.9", port)), [true, true, false, false]);
}

/// What a name led to is allowed from the lookup until it is forgotten, to those whom the rule is for and no others.
#[test]
fn names_allow_what_they_led_to() {
    let mut objects = Objects::default();
    let mut world = World::new(NODE);
    let subject = json!({ "namespaces": { "matchLabels": { "team": "x" } } });
    let port = json!([{ "portNumber": { "protocol": "TCP", "port": 443 } }]);
    let rules = json!([
        { "action": "Allow", "to": [{ "domainNames": ["*.example.com"] }], "ports": port },
        { "action": "Deny", "to": [{ "networks": ["0.0.0.0/0"] }] },
    ]);
    let spec = json!({ "priority": 1, "subject": subject, "egress": rules });
    for step in [
        Step::Namespace("one", "x"),
        Step::Pod(pod("one", 1, NODE, "a")),
        Step::Admin(Tier::Admin, json!({ "metadata": { "name": "a0" }, "spec": spec })),
    ] {
        take(&mut world, &mut objects, &step);
    }
    assert!(world.patterns().matches("www.example.com") && !world.patterns().matches("example.com"));
    let mut kernel = Kernel::default();
    let mut reached = |world: &mut World| {
        world.changes().iter().for_each(|write| kernel.write(write));
        let set = kernel.tables.subjects["one-p1"].egress;
        [("192.0.2.7", 443), ("192.0.2.7", 80), ("192.0.2.130", 443)]
            .map(|(address, port)| kernel.allows(set, address.parse().unwrap(), proto::TCP, port))
    };
    assert_eq!(reached(&mut world), [false; 3]);
    assert_eq!(world.learn(&found("example.com", "192.0.2.7"), 0).len(), 1);
    assert_eq!(reached(&mut world), [false; 3], "the name itself is not below it");
    assert_eq!(world.learn(&found("www.example.com", "192.0.2.7"), 0).len(), 1);
    assert_eq!(reached(&mut world), [true, false, false]);
    world.learn(&found("www.example.com", "192.0.2.7"), 100);
    assert_eq!(world.changes(), [], "nothing new");
    world.forget(100, &BTreeSet::new());
    assert_eq!(reached(&mut world), [true, false, false], "it was looked up again");
    let (in_use, later) = (BTreeSet::from([Addr::from(Ipv4Addr::new(192, 0, 2, 7))]), u32::MAX);
    world.forget(later, &in_use);
    assert_eq!(reached(&mut world), [true, false, false], "a connection stands");
    world.forget(later, &BTreeSet::new());
    assert_eq!(reached(&mut world), [false; 3]);
    assert!(world.tables().identities.is_empty());
}
