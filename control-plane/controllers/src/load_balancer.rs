//! Addresses for services of type LoadBalancer, out of the cluster's pools.

mod nodes;
mod pools;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use xebec_schema::address_range::AddressRange;

use crate::context::Context;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Action, Note, Plan, Write};
use crate::runtime::{
    Controller, Keys, SyncError,
    cache::{Cache, Change},
    kind,
};
use crate::views::{Ingress, LoadBalancerPool, Node, Service};
use nodes::Answering;
use pools::{Holder, Namespaces, Offers};

/// The class of load balancers that is ours, beside no class at all.
pub const CLASS: &str = "xebec.io/load-balancer";
/// The annotation that asks for an address, beside the field `spec.loadBalancerIP`.
pub const ADDRESS_ANNOTATION: &str = "xebec.io/load-balancer-ip";
/// Addresses of a pool that are looked at, so that an IPv6 pool does not take forever to be found full.
const SEARCH_LIMIT: usize = 1 << 16;

/// The addresses that the service asks for: one, or one of each family.
fn asked_for(service: &Service) -> Option<&str> {
    let field = Some(service.spec.load_balancer_ip.as_str()).filter(|ip| !ip.is_empty());
    let annotation = service.metadata.annotations.get(ADDRESS_ANNOTATION).map(String::as_str);
    field.or_else(|| annotation.filter(|ip| !ip.is_empty()))
}

/// The families that the service wants addresses of: for each, whether it is IPv6.
fn families(service: &Service) -> Vec<bool> {
    let mut families: Vec<bool> = service.spec.ip_families.iter().map(|family| family == "IPv6").collect();
    if families.is_empty() {
        families.push(false);
    }
    families
}

/// One of the ranges that make up a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    range: AddressRange,
    /// Services get addresses of it that do not ask for them.
    auto: bool,
}

impl std::str::FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(|range| Self { range, auto: true })
    }
}

/// A service whose addresses are ours to give.
struct Served<'a> {
    service: &'a Service,
    /// What it may have addresses of.
    pools: Vec<Pool>,
    /// The addresses that it keeps, by family.
    kept: Vec<Option<IpAddr>>,
}

/// What there is besides services and pools.
#[derive(Debug, Default)]
pub struct World {
    /// Labels of namespaces, by name.
    pub namespaces: Namespaces,
    /// The nodes that answer for addresses.
    pub answering: Answering,
}

/// Gives addresses to services that want one, and takes back those of services that do not any more.
pub fn plan(services: &[Arc<Service>], offers: &Offers, world: &World, now: Timestamp) -> Plan {
    if offers.is_empty() {
        return Plan::nothing();
    }
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let mut actions = Vec::new();
    // Who has what it wants keeps it, before others are served.
    let mut served: Vec<Served<'_>> = Vec::new();
    for service in services {
        let held = held(service);
        if !offers.is_ours(service) {
            // What someone else's load balancer gave is theirs to take.
            if service.spec.kind != "LoadBalancer" && held.iter().any(|ip| offers.contain(*ip)) {
                actions.push(set(service, &[]));
            }
            continue;
        }
        let pools = offers.of(service, &world.namespaces);
        let keep =
            |is_v6: bool| held.iter().copied().find(|ip| ip.is_ipv6() == is_v6 && is_right(service, &pools, *ip));
        let kept = families(service).into_iter().map(|is_v6| keep(is_v6).filter(|ip| taken.insert(*ip))).collect();
        served.push(Served { service, pools, kept });
    }
    let mut holders = Vec::new();
    for Served { service, pools, kept } in served {
        let regarding = service.metadata.reference(&kind::SERVICE);
        match complete(service, &kept, &pools, &taken) {
            Ok(addresses) => {
                let new: Vec<String> =
                    addresses.iter().filter(|ip| !kept.contains(&Some(**ip))).map(IpAddr::to_string).collect();
                taken.extend(&addresses);
                if addresses != held(service) {
                    actions.push(set(service, &addresses));
                }
                if !new.is_empty() {
                    let message = format!("Assigned the address {}", new.join(" and "));
                    actions.push(Note::normal(regarding, "EnsuredLoadBalancer", message).into());
                }
                let addresses = addresses.into_iter().map(|ip| (ip, !kept.contains(&Some(ip)))).collect();
                holders.push(Holder { service, addresses });
            }
            Err(message) => {
                if !service.status.load_balancer.ingress.is_empty() {
                    actions.push(set(service, &[]));
                }
                actions.push(Note::warning(regarding, "SyncLoadBalancerFailed", message).into());
            }
        }
    }
    actions.extend(offers.statuses(&holders, &world.answering, now));
    let mut plan = Plan::nothing();
    plan.step(actions);
    plan
}

fn held(service: &Service) -> Vec<IpAddr> {
    service.status.load_balancer.ingress.iter().filter_map(|i| i.ip.parse().ok()).collect()
}

fn in_pools(pools: &[Pool], ip: IpAddr) -> bool {
    pools.iter().any(|pool| pool.range.contains(ip))
}

/// The address that the service asks for in this family.
fn asked_of(service: &Service, is_v6: bool) -> Option<&str> {
    asked_for(service)?.split(',').map(str::trim).find(|asked| asked.contains(':') == is_v6)
}

/// Whether the service may keep this address.
fn is_right(service: &Service, pools: &[Pool], ip: IpAddr) -> bool {
    let asked = asked_of(service, ip.is_ipv6());
    in_pools(pools, ip) && asked.is_none_or(|asked| asked.parse().is_ok_and(|asked: IpAddr| asked == ip))
}

/// The addresses that a service is to have: those that it keeps, and one for each family without. A second family that
/// no pool has is left out.
fn complete(
    service: &Service,
    kept: &[Option<IpAddr>],
    pools: &[Pool],
    taken: &BTreeSet<IpAddr>,
) -> Result<Vec<IpAddr>, String> {
    let mut out = Vec::new();
    for (index, (is_v6, kept)) in families(service).into_iter().zip(kept).enumerate() {
        let has_pool = pools.iter().any(|pool| pool.range.is_ipv6() == is_v6);
        // An address of the other family alone is asked for: that is the one which is wanted.
        let elsewhere = asked_for(service).is_some() && asked_of(service, is_v6).is_none();
        let is_needed = if index == 0 { !(elsewhere && families(service).len() > 1) } else { has_pool };
        match kept {
            Some(ip) => out.push(*ip),
            None if is_needed => out.push(find(service, is_v6, pools, taken)?),
            None => {}
        }
    }
    Ok(out)
}

/// A free address for the service in this family.
fn find(service: &Service, is_v6: bool, pools: &[Pool], taken: &BTreeSet<IpAddr>) -> Result<IpAddr, String> {
    // One family: whatever is asked for is asked for in it, and may be wrong.
    let asked = asked_of(service, is_v6).or_else(|| asked_for(service).filter(|_| families(service).len() == 1));
    match asked {
        Some(asked) => asked
            .parse()
            .ok()
            .filter(|ip: &IpAddr| ip.is_ipv6() == is_v6 && in_pools(pools, *ip) && !taken.contains(ip))
            .ok_or_else(|| format!("The address {asked} is in no pool for the service, or another service has it")),
        None => pools
            .iter()
            .filter(|pool| pool.auto)
            .flat_map(|p| p.range.addresses().take(SEARCH_LIMIT))
            .find(|ip| ip.is_ipv6() == is_v6 && !taken.contains(ip))
            .ok_or_else(|| "No address is left in the load balancer pools for the service".to_owned()),
    }
}

fn set(service: &Service, addresses: &[IpAddr]) -> Action {
    let ingress: Value = if addresses.is_empty() {
        Value::Null
    } else {
        addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect()
    };
    let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    Write::merge_exact(&kind::SERVICE, &service.metadata, "status", patch).into()
}

/// The controller.
#[derive(Debug)]
pub struct LoadBalancers {
    cx: Context,
    queue: Arc<Keys>,
    configured: Vec<Pool>,
    pools: Arc<Cache<LoadBalancerPool>>,
}

impl LoadBalancers {
    /// Connects the controller to the caches.
    /// `pools` is not among the caches that all controllers wait for: its kind is a custom one, and may be missing.
    pub fn new(cx: &Context, configured: Vec<Pool>, pools: Arc<Cache<LoadBalancerPool>>) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        pools.on_change(move |_| keys.add(Key::default()));
        let keys = queue.clone();
        cx.caches.namespaces.on_change(move |change| {
            if change.previous().is_some_and(|before| before.metadata.labels != change.latest().metadata.labels) {
                keys.add(Key::default());
            }
        });
        let keys = queue.clone();
        cx.caches.nodes.on_change(move |change| {
            let answers = |node: &Arc<Node>| (nodes::answers(node), node.metadata.labels.clone());
            let is_same = matches!(change, Change::Updated(before, now) if answers(before) == answers(now));
            if !is_same {
                keys.add(Key::default());
            }
        });
        let keys = queue.clone();
        cx.caches.services.on_change(move |change| {
            let matters = |s: &Arc<Service>| {
                s.spec.kind == "LoadBalancer" || s.status.load_balancer.ingress.iter().any(|i| *i != Ingress::default())
            };
            if change.previous().into_iter().chain([change.latest()]).any(matters) {
                keys.add(Key::default());
            }
        });
        Arc::new(Self { cx: cx.of("service-controller"), queue, configured, pools })
    }
}

#[async_trait]
impl Controller for LoadBalancers {
    fn name(&self) -> &'static str {
        "load-balancer"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, _key: &Key) -> Result<Option<Duration>, SyncError> {
        self.pools.synced().await;
        let caches = &self.cx.caches;
        let offers = Offers::new(&self.configured, &self.pools.list());
        let labels = |ns: Arc<crate::views::Namespace>| (ns.metadata.name.clone(), ns.metadata.labels.clone());
        let namespaces: Namespaces = caches.namespaces.list().into_iter().map(labels).collect();
        let world = World { namespaces, answering: Answering::new(&caches.nodes.list()) };
        self.cx.execute(plan(&caches.services.list(), &offers, &world, self.cx.clock.now_seconds())).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::runtime::plan::Verb;

    fn service(name: &str, kind: &str, has: Option<&str>, asks: &str) -> Arc<Service> {
        let ingress: Vec<Value> = has.iter().map(|ip| json!({"ip": ip})).collect();
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"},
                "spec": {"type": kind, "loadBalancerIP": asks}, "status": {"loadBalancer": {"ingress": ingress}}}))
            .unwrap(),
        )
    }

    fn given(services: &[Arc<Service>], pool: &str) -> Vec<(String, Value)> {
        plan(services, &Offers::new(&[pool.parse().unwrap()], &[]), &World::default(), Timestamp::UNIX_EPOCH)
            .actions()
            .filter_map(|a| match a {
                Action::Write(w) => match &w.verb {
                    Verb::Patch(_, _, p) => Some((w.name.clone(), p["status"]["loadBalancer"]["ingress"].clone())),
                    _ => None,
                },
                Action::Event(_) => None,
            })
            .collect()
    }

    fn ip(ip: &str) -> Value {
        json!([{"ip": ip, "ipMode": "VIP"}])
    }

    #[test]
    fn the_lowest_free_address_is_given_and_kept() {
        let services = [service("a", "LoadBalancer", None, ""), service("b", "LoadBalancer", Some("10.0.0.1"), "")];
        assert_eq!(given(&services, "10.0.0.0/29"), [("a".into(), ip("10.0.0.2"))]);
    }

    #[test]
    fn an_address_that_is_asked_for() {
        let asks = |has| [service("a", "LoadBalancer", has, "10.0.0.5")];
        assert_eq!(given(&asks(None), "10.0.0.0/29"), [("a".into(), ip("10.0.0.5"))]);
        assert!(given(&asks(Some("10.0.0.5")), "10.0.0.0/29").is_empty());
        assert_eq!(given(&asks(Some("10.0.0.4")), "10.0.0.0/29"), [("a".into(), ip("10.0.0.5"))]);
        assert!(given(&[service("a", "LoadBalancer", None, "9.9.9.9")], "10.0.0.0/29").is_empty());
    }

    #[test]
    fn an_address_is_given_back() {
        assert_eq!(
            given(&[service("a", "ClusterIP", Some("10.0.0.5"), "")], "10.0.0.0/29"),
            [("a".into(), Value::Null)]
        );
    }

    #[test]
    fn a_service_of_two_families_gets_an_address_of_each() {
        let pools: Vec<Pool> = ["10.0.0.0/29", "fd00::10-fd00::20"].map(|p| p.parse().unwrap()).into();
        let dual = |has: &[&str], asks: &str| -> Arc<Service> {
            let ingress: Vec<Value> = has.iter().map(|ip| json!({"ip": ip})).collect();
            let service = json!({"metadata": {"name": "a", "namespace": "n"},
                "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv6", "IPv4"], "loadBalancerIP": asks},
                "status": {"loadBalancer": {"ingress": ingress}}});
            Arc::new(serde_json::from_value(service).unwrap())
        };
        let given = |service: Arc<Service>, pools: &[Pool]| -> Vec<Value> {
            let plan = plan(&[service], &Offers::new(pools, &[]), &World::default(), Timestamp::UNIX_EPOCH);
            let patches = plan.actions().filter_map(|a| match a {
                Action::Write(write) => match &write.verb {
                    Verb::Patch(_, _, p) => Some(p["status"]["loadBalancer"]["ingress"].clone()),
                    _ => None,
                },
                Action::Event(_) => None,
            });
            patches
                .flat_map(|ingress| ingress.as_array().cloned().unwrap_or_default())
                .map(|i| i["ip"].clone())
                .collect()
        };
        assert_eq!(given(dual(&[], ""), &pools), ["fd00::10", "10.0.0.1"]);
        assert_eq!(given(dual(&["10.0.0.3"], ""), &pools), ["fd00::10", "10.0.0.3"], "what it has it keeps");
        assert_eq!(given(dual(&["fd00::10", "10.0.0.1"], ""), &pools), Vec::<Value>::new());
        assert_eq!(given(dual(&[], "10.0.0.4,fd00::11"), &pools), ["fd00::11", "10.0.0.4"]);
        // A second family without a pool is left out; the first is not.
        assert_eq!(given(dual(&[], ""), &pools[1..]), ["fd00::10"]);
        assert_eq!(given(dual(&[], ""), &pools[..1]), Vec::<Value>::new());
    }

    #[test]
    fn two_never_share_an_address() {
        let services =
            [service("a", "LoadBalancer", Some("10.0.0.1"), ""), service("b", "LoadBalancer", Some("10.0.0.1"), "")];
        assert_eq!(given(&services, "10.0.0.0/29"), [("b".into(), ip("10.0.0.2"))]);
    }

    fn pool(name: &str, created: &str, spec: Value) -> Arc<LoadBalancerPool> {
        let metadata = json!({"name": name, "creationTimestamp": created});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    /// What services get, and what pools say of themselves.
    fn outcome(services: &[Arc<Service>], pools: &[Arc<LoadBalancerPool>]) -> BTreeMap<String, Value> {
        let team = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let namespaces = Namespaces::from([("n".to_owned(), team("a")), ("m".to_owned(), team("b"))]);
        let world = World { namespaces, answering: Answering::default() };
        let plan = plan(services, &Offers::new(&[], pools), &world, Timestamp::UNIX_EPOCH);
        let patches = plan.actions().filter_map(|action| match action {
            Action::Write(write) => match &write.verb {
                Verb::Patch(_, _, patch) if write.kind == kind::SERVICE => {
                    Some((write.name.clone(), patch["status"]["loadBalancer"]["ingress"][0]["ip"].clone()))
                }
                Verb::Patch(_, _, patch) => {
                    let status = &patch["status"];
                    let reason = &status["conditions"][0]["reason"];
                    Some((write.name.clone(), json!([status["total"], status["assigned"], reason])))
                }
                _ => None,
            },
            Action::Event(_) => None,
        });
        patches.collect()
    }

    #[test]
    fn pools_choose_whom_they_serve() {
        let with = |name: &str, namespace: &str, labels: Value, class: Value, asks: &str| -> Arc<Service> {
            let spec = json!({"type": "LoadBalancer", "loadBalancerClass": class, "loadBalancerIP": asks});
            let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
        };
        let services = [
            with("plain", "n", json!({}), Value::Null, ""),
            with("labelled", "n", json!({"tier": "gold"}), Value::Null, "10.0.2.1"),
            with("other-team", "m", json!({}), Value::Null, ""),
            with("classed", "n", json!({}), json!("example.com/internal"), ""),
            with("foreign", "n", json!({}), json!("example.com/unknown"), ""),
            with("asks-too-much", "n", json!({}), Value::Null, "10.0.2.2"),
        ];
        let time = "2026-01-01T00:00:00Z";
        let pools = [
            pool(
                "all",
                time,
                json!({"addresses": ["10.0.0.0/29", "10.0.0.100-10.0.0.101"],
                "namespaceSelector": {"matchLabels": {"team": "a"}}}),
            ),
            pool(
                "team-b",
                time,
                json!({"addresses": ["10.0.1.1-10.0.1.9"],
                "namespaceSelector": {"matchLabels": {"team": "b"}}}),
            ),
            pool(
                "gold",
                time,
                json!({"addresses": ["10.0.2.0/24"], "autoAssign": false,
                "serviceSelector": {"matchLabels": {"tier": "gold"}}}),
            ),
            pool(
                "internal",
                time,
                json!({"addresses": ["10.0.3.1-10.0.3.1"],
                "loadBalancerClass": "example.com/internal"}),
            ),
            pool("late", "2026-01-02T00:00:00Z", json!({"addresses": ["10.0.1.9-10.0.1.20"]})),
            pool("wrong", time, json!({"addresses": ["nonsense"]})),
        ];
        let expected = [
            ("plain", json!("10.0.0.1")),
            ("labelled", json!("10.0.2.1")),
            ("other-team", json!("10.0.1.1")),
            ("classed", json!("10.0.3.1")),
            ("all", json!([8, 1, "Used"])),
            ("team-b", json!([9, 1, "Used"])),
            ("gold", json!([254, 1, "Used"])),
            ("internal", json!([1, 1, "Used"])),
            ("late", json!([0, 0, "Overlap"])),
            ("wrong", json!([0, 0, "Invalid"])),
        ];
        let expected: BTreeMap<String, Value> = expected.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        assert_eq!(outcome(&services, &pools), expected);
    }

    /// What pools say of their nodes, and what services are told.
    fn answered(services: &[Arc<Service>], pool: &Arc<LoadBalancerPool>, nodes: &[Value]) -> (Value, Vec<String>) {
        let nodes: Vec<Arc<Node>> =
            nodes.iter().map(|node| Arc::new(serde_json::from_value(node.clone()).unwrap())).collect();
        let world = World { answering: Answering::new(&nodes), ..World::default() };
        let offers = Offers::new(&[], std::slice::from_ref(pool));
        let plan = plan(services, &offers, &world, Timestamp::UNIX_EPOCH);
        let (mut conditions, mut told) = (Value::Null, Vec::new());
        for action in plan.actions() {
            match action {
                Action::Write(write) if write.kind == kind::LOAD_BALANCER_POOL => {
                    let Verb::Patch(_, _, patch) = &write.verb else { panic!("{write:?}") };
                    conditions = patch["status"]["conditions"].clone();
                }
                Action::Event(note) if note.warning => told.push(format!("{}: {}", note.regarding.name, note.message)),
                Action::Write(_) | Action::Event(_) => {}
            }
        }
        (conditions, told)
    }

    /// Without a node the addresses stay, and it is said once, also to who gets one then.
    #[test]
    fn pools_have_nodes_of_their_own() {
        let node = |name: &str, edge: bool, ready: &str| {
            let labels = if edge { json!({"edge": "yes"}) } else { json!({}) };
            json!({"metadata": {"name": name, "labels": labels},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        let spec = json!({"addresses": ["10.0.0.0/29"], "nodeSelector": {"matchLabels": {"edge": "yes"}}});
        let with = |conditions: &Value| -> Arc<LoadBalancerPool> {
            let assigned = if conditions.is_null() { 0 } else { 1 };
            let status = json!({"conditions": conditions, "total": 6, "assigned": assigned});
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap(),
            )
        };
        let has = [service("a", "LoadBalancer", Some("10.0.0.1"), "")];
        let state =
            |conditions: &Value| json!([conditions[1]["type"], conditions[1]["status"], conditions[1]["reason"]]);

        let (none, told) =
            answered(&has, &with(&Value::Null), &[node("n1", false, "True"), node("n2", true, "Unknown")]);
        assert_eq!(state(&none), json!(["Answered", "False", "NoNode"]));
        let of_pool = "no node that is ready matches the nodeSelector: nobody answers for the pool's addresses";
        let address = "No node answers for the address 10.0.0.1: none that is ready matches the nodeSelector of pool p";
        assert_eq!(told, [format!("p: {of_pool}"), format!("a: {address}")]);
        assert_eq!(answered(&has, &with(&none), &[node("n1", false, "True")]), (Value::Null, Vec::new()), "said once");
        let two = [has[0].clone(), service("b", "LoadBalancer", None, "")];
        let (_, told) = answered(&two, &with(&none), &[]);
        assert_eq!(told, [format!("b: {}", address.replace("0.1", "0.2"))], "one more service has one");

        let (some, told) = answered(&has, &with(&none), &[node("n2", true, "True")]);
        assert_eq!((state(&some), told), (json!(["Answered", "True", "NodesMatch"]), Vec::new()));
        let free = pool("free", "2026-01-01T00:00:00Z", json!({"addresses": ["10.0.0.0/29"]}));
        let (conditions, _) = answered(&has, &free, &[]);
        assert_eq!(conditions.as_array().map(Vec::len), Some(1), "any node answers");
    }

    #[test]
    fn without_pools_load_balancers_are_somebody_elses() {
        assert_eq!(outcome(&[service("a", "LoadBalancer", Some("192.0.2.1"), "")], &[]), BTreeMap::new());
    }
}
