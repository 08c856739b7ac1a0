//! One service, compiled: its frontends, and the backends behind each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use xebec_ebpf_loader::layout::{Addr, Port, SCOPE_CLUSTER, SCOPE_EXTERNAL, ServiceKey, proto, service_flags};

use super::views::{Conditions, EndpointSlice, Service, ServicePort};

/// `namespace/name` of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The service.
    pub service: ServiceName,
    /// The port's name, empty if it has none.
    pub port: String,
    /// Its IP protocol: the same name and number may stand for TCP and UDP.
    pub proto: u8,
}

/// An endpoint's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddress {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
}

/// The backends of a frontend: sorted, without repetition.
pub type BackendSet = Arc<[BackendAddress]>;

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose frontend it is.
    pub port: PortName,
    /// Where it leads.
    pub backends: BackendSet,
    /// [`service_flags`].
    pub flags: u32,
    /// 0 without session affinity.
    pub affinity_timeout_s: u32,
}

/// A compiled service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Its frontends.
    pub frontends: BTreeMap<ServiceKey, Target>,
    /// Its load balancer addresses; with the nodes that may answer for it, if not any node may.
    pub load_balancer: BTreeMap<Ipv4Addr, Option<BTreeSet<String>>>,
}

/// What the proxy knows of its own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The node's name.
    pub node: String,
    /// The service that the node's own DNS server answers for.
    pub dns_service: ServiceName,
    /// Where that server listens.
    pub dns_server: (IpAddr, u16),
}

/// An endpoint of one port.
struct Candidate<'a> {
    address: BackendAddress,
    conditions: Conditions,
    node: Option<&'a str>,
}

/// Compiles one service with its slices.
pub fn compile<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    facts: &'a Facts,
) -> Compiled {
    let mut out = Compiled::default();
    if service.spec.r#type == "ExternalName" {
        return out;
    }
    let name = ServiceName { namespace: service.metadata.namespace.clone(), name: service.metadata.name.clone() };
    let external_local = service.spec.external_traffic_policy == "Local";
    let cluster_ips = cluster_ips(service);
    let ingress = load_balancer_ips(service);
    for port in &service.spec.ports {
        // SCTP has no hook yet: its frontends are absent, so that clients see an error at once.
        let Some(proto) = protocol(&port.protocol) else { continue };
        let candidates = candidates(&name, port, proto, slices.clone(), facts);
        let all = choose(&candidates, |_| true);
        let local = choose(&candidates, |c| c.node == Some(facts.node.as_str()));
        let target = |backends: &BackendSet, flags| Target {
            port: PortName { service: name.clone(), port: port.name.clone(), proto },
            backends: backends.clone(),
            flags,
            affinity_timeout_s: affinity_timeout_s(service),
        };
        let internal = if service.spec.internal_traffic_policy == "Local" { &local } else { &all };
        let mut add = |addr: Addr, port: u16, scope: u8, target: Target| {
            out.frontends.insert(ServiceKey { addr, port: Port::new(port), proto, scope }, target);
        };
        for ip in &cluster_ips {
            add((*ip).into(), port.port, SCOPE_CLUSTER, target(internal, 0));
        }
        // From outside, with policy Local, only this node's endpoints count, and another node may have some. Clients
        // inside the cluster are not subject to it (KEP-2086, "traffic from inside to external addresses").
        let (outside, flags) = if external_local { (&local, service_flags::DROP_IF_EMPTY) } else { (&all, 0) };
        let mut external: Vec<(Addr, u16)> =
            service.spec.external_ips.iter().chain(&ingress).map(|ip| ((*ip).into(), port.port)).collect();
        if port.node_port != 0 {
            external.push((Addr::UNSPECIFIED, port.node_port));
        }
        for (addr, number) in external {
            add(addr, number, SCOPE_CLUSTER, target(&all, 0));
            add(addr, number, SCOPE_EXTERNAL, target(outside, flags));
        }
        for ip in &ingress {
            if let IpAddr::V4(v4) = ip {
                let nodes = external_local.then(|| nodes(&candidates));
                out.load_balancer
                    .entry(*v4)
                    .and_modify(|known| {
                        // Several ports: a node must have an endpoint for each.
                        if let (Some(known), Some(nodes)) = (known.as_mut(), &nodes) {
                            known.retain(|node| nodes.contains(node));
                        }
                    })
                    .or_insert(nodes);
            }
        }
    }
    out
}

/// The IP protocol by its name in the API; none for one that has no hook.
fn protocol(name: &str) -> Option<u8> {
    match name {
        "" | "TCP" => Some(proto::TCP),
        "UDP" => Some(proto::UDP),
        _ => None,
    }
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = &service.spec;
    let texts = if spec.cluster_ips.is_empty() { std::slice::from_ref(&spec.cluster_ip) } else { &spec.cluster_ips };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    if service.spec.r#type != "LoadBalancer" {
        return Vec::new();
    }
    let ingress = &service.status.load_balancer.ingress;
    ingress.iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip).collect()
}

fn affinity_timeout_s(service: &Service) -> u32 {
    /// Upstream's default, 3 hours.
    const DEFAULT_S: u32 = 10_800;
    if service.spec.session_affinity != "ClientIP" {
        return 0;
    }
    let config = service.spec.session_affinity_config.as_ref();
    config.and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_S)
}

/// The endpoints of one port.
fn candidates<'a>(
    name: &ServiceName,
    port: &ServicePort,
    proto: u8,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    facts: &'a Facts,
) -> Vec<Candidate<'a>> {
    if *name == facts.dns_service {
        let (ip, port) = facts.dns_server;
        let address = BackendAddress { addr: ip.into(), port: Port::new(port) };
        return vec![Candidate { address, conditions: Conditions::default(), node: Some(&facts.node) }];
    }
    let mut out = Vec::new();
    for slice in slices {
        // Slices name their ports as the service does; the numbers may differ from slice to slice.
        let number = slice.ports.iter().find_map(|p| {
            let same = p.name.as_deref().unwrap_or_default() == port.name
                && protocol(p.protocol.as_deref().unwrap_or_default()) == Some(proto);
            if same { p.port } else { None }
        });
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
            out.push(Candidate {
                address: BackendAddress { addr: ip.into(), port: Port::new(number) },
                conditions: endpoint.conditions,
                node: endpoint.node_name.as_deref(),
            });
        }
    }
    out
}

/// The ready endpoints; if none is, those that still serve while they terminate (KEP-1669).
fn choose(candidates: &[Candidate<'_>], which: impl Fn(&Candidate<'_>) -> bool) -> BackendSet {
    let collect = |good: &dyn Fn(&Conditions) -> bool| -> BTreeSet<BackendAddress> {
        candidates.iter().filter(|c| which(c) && good(&c.conditions)).map(|c| c.address).collect()
    };
    let mut set = collect(&is_ready);
    if set.is_empty() {
        set = collect(&serves_while_terminating);
    }
    set.into_iter().collect()
}

fn is_ready(conditions: &Conditions) -> bool {
    conditions.ready.unwrap_or(true)
}

fn serves_while_terminating(conditions: &Conditions) -> bool {
    conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false)
}

/// The nodes that have an endpoint to serve with.
fn nodes(candidates: &[Candidate<'_>]) -> BTreeSet<String> {
    let of = |good: &dyn Fn(&Conditions) -> bool| -> BTreeSet<String> {
        candidates.iter().filter(|c| good(&c.conditions)).filter_map(|c| c.node).map(str::to_owned).collect()
    };
    let ready = of(&is_ready);
    if ready.is_empty() { of(&serves_while_terminating) } else { ready }
}
