//! One service, compiled: its frontends, and the backends behind each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use xebec_ebpf_loader::layout::{Addr, Port, SCOPE_CLUSTER, SCOPE_EXTERNAL, ServiceKey, service_flags};

use super::topology;
use super::views::{Conditions, EndpointSlice, Hints, HostPorts, Kind, ObjectName, Protocol, Service, ServicePort};

/// `namespace/name` of a service.
pub type ServiceName = ObjectName;

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The service.
    pub service: ServiceName,
    /// The port's name, empty if it has none.
    pub port: Arc<str>,
    /// Its protocol: the same name and number may stand for TCP and UDP.
    pub protocol: Protocol,
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
    /// Whether every node is to choose alike.
    pub consistent: bool,
    /// Clients that the service port's load balancer addresses serve; empty: all.
    pub source_ranges: Arc<[IpNet]>,
}

/// What `spec.healthCheckNodePort` answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service.
    pub service: ServiceName,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// A compiled service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Its frontends.
    pub frontends: BTreeMap<ServiceKey, Target>,
    /// Its load balancer addresses; with the nodes that may answer for it, if not any node may.
    pub load_balancer: BTreeMap<IpAddr, Option<BTreeSet<String>>>,
    /// By port.
    pub health_check: Option<(u16, HealthCheck)>,
}

/// What the proxy knows of its own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The node's name.
    pub node: String,
    /// The node's zone, if it is in one.
    pub zone: Option<Box<str>>,
    /// The addresses at which pods' `hostPort`s are served.
    pub addresses: Vec<IpAddr>,
    /// The cookie of the node's network namespace, in which they are served at the loopback addresses, too.
    pub namespace: u64,
    /// The service that the node's own DNS server answers for.
    pub dns_service: ServiceName,
    /// The node's addresses at which that server answers: one of each family that there is.
    pub dns_servers: Vec<IpAddr>,
    /// Where it listens.
    pub dns_port: u16,
    /// Whether load balancer services return directly that do not say.
    pub direct_return: bool,
}

/// An endpoint of one port.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Where it listens.
    pub address: BackendAddress,
    /// Its state.
    pub conditions: Conditions,
    /// Its node.
    pub node: Option<&'a str>,
    /// Whom it is meant for.
    pub hints: Option<&'a Hints>,
}

/// Compiles one service with its slices.
pub fn compile<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    facts: &'a Facts,
) -> Compiled {
    let mut out = Compiled::default();
    if service.kind == Kind::ExternalName {
        return out;
    }
    for port in &service.ports {
        for is_v4 in [true, false] {
            compile_port(&mut out, service, port, is_v4, slices.clone(), facts);
        }
    }
    if service.health_check_port != 0 && service.kind == Kind::LoadBalancer && service.external_local {
        let local = |e: &&super::views::Endpoint| e.node.as_deref() == Some(&*facts.node) && e.conditions.is_ready();
        let ready: BTreeSet<IpAddr> = slices.flat_map(|s| &s.endpoints).filter(local).map(|e| e.address).collect();
        let check = HealthCheck { service: service.name.clone(), local_endpoints: ready.len() };
        out.health_check = Some((service.health_check_port, check));
    }
    out
}

/// The frontends of one port in one address family.
fn compile_port<'a>(
    out: &mut Compiled,
    service: &Service,
    port: &ServicePort,
    is_v4: bool,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    facts: &'a Facts,
) {
    let of_family =
        |ips: &[IpAddr]| -> Vec<IpAddr> { ips.iter().copied().filter(|ip| ip.is_ipv4() == is_v4).collect() };
    let cluster_ips = of_family(&service.cluster_ips);
    let ingress = of_family(&service.load_balancer_ips);
    let external_ips = of_family(&service.external_ips);
    // Of the families that the service has.
    let node_port = port.node_port != 0 && !cluster_ips.is_empty();
    if cluster_ips.is_empty() && ingress.is_empty() && external_ips.is_empty() && !node_port {
        return;
    }
    let candidates = candidates(&service.name, port, is_v4, slices, facts);
    let reachable = topology::reachable(&candidates, facts);
    let local = topology::local(&candidates, facts);
    let sets = Sets { service, port, facts };
    let internal = if service.internal_local { &local } else { &reachable };
    let mut add = |addr: Addr, number: u16, scope: u8, target: Target| {
        let key = ServiceKey { addr, port: Port::new(number), proto: port.protocol.number(), scope };
        out.frontends.insert(key, target);
    };
    for ip in &cluster_ips {
        add((*ip).into(), port.number, SCOPE_CLUSTER, sets.inside(internal));
    }
    let any = if is_v4 { Addr::UNSPECIFIED_V4 } else { Addr::UNSPECIFIED };
    let node_ports = node_port.then_some((any, port.node_port));
    let others = external_ips.iter().map(|ip| (Addr::from(*ip), port.number)).chain(node_ports);
    for (addr, number) in others {
        // Clients inside the cluster are not subject to the external policy (KEP-2086, "traffic from inside to
        // external addresses").
        add(addr, number, SCOPE_CLUSTER, sets.inside(&reachable));
        add(addr, number, SCOPE_EXTERNAL, sets.outside(&reachable, &local));
    }
    for ip in &ingress {
        add((*ip).into(), port.number, SCOPE_CLUSTER, sets.inside(&reachable));
        let mut target = sets.outside(&reachable, &local);
        if target.source_ranges.iter().any(|range| range.addr().is_ipv4() == is_v4) {
            target.flags |= service_flags::SOURCE_RANGES;
        }
        add((*ip).into(), port.number, SCOPE_EXTERNAL, target);
        let nodes = service.external_local.then(|| topology::nodes(&candidates));
        restrict(&mut out.load_balancer, *ip, nodes);
    }
}

/// With several ports, a node must have an endpoint for each to answer for the address.
fn restrict(addresses: &mut BTreeMap<IpAddr, Option<BTreeSet<String>>>, ip: IpAddr, nodes: Option<BTreeSet<String>>) {
    addresses
        .entry(ip)
        .and_modify(|known| {
            if let (Some(known), Some(nodes)) = (known.as_mut(), &nodes) {
                known.retain(|node| nodes.contains(node));
            }
        })
        .or_insert(nodes);
}

/// Makes targets of a service port.
struct Sets<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    facts: &'a Facts,
}

impl Sets<'_> {
    /// For clients on the cluster's nodes.
    fn inside(&self, backends: &BackendSet) -> Target {
        let service = self.service;
        // A datagram socket that is not connected asks again with each send.
        let stays = service.affinity_timeout_s != 0 || self.port.protocol == Protocol::Udp;
        let flags = if stays && backends.len() > 1 { service_flags::STICKY } else { 0 };
        Target {
            port: PortName {
                service: service.name.clone(),
                port: Arc::clone(&self.port.name),
                protocol: self.port.protocol,
            },
            backends: Arc::clone(backends),
            flags,
            affinity_timeout_s: service.affinity_timeout_s,
            consistent: false,
            source_ranges: service.source_ranges.iter().map(IpNet::trunc).collect(),
        }
    }

    /// For clients outside. With policy `Local` only this node's endpoints count, and another node may have some.
    fn outside(&self, reachable: &BackendSet, local: &BackendSet) -> Target {
        let service = self.service;
        let backends = if service.external_local { local } else { reachable };
        let mut target = self.inside(backends);
        // Packets from outside have flows, which keep datagrams with their backend.
        let stays = service.affinity_timeout_s != 0 && backends.len() > 1;
        target.flags = if stays { service_flags::STICKY } else { 0 };
        if service.external_local {
            target.flags |= service_flags::DROP_IF_EMPTY;
        } else {
            target.consistent = backends.len() > 1;
            if service.direct_return.unwrap_or(self.facts.direct_return) {
                target.flags |= service_flags::DIRECT_RETURN;
            }
        }
        target
    }
}

/// Compiles the `hostPort`s of a pod of this node.
pub fn compile_host_ports(pod: &HostPorts, facts: &Facts) -> Compiled {
    let mut out = Compiled::default();
    // No service has such a name.
    let name = ObjectName { namespace: Arc::clone(&pod.name.namespace), name: format!("pod:{}", pod.name.name).into() };
    for port in &pod.ports {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let listens: Vec<IpAddr> = match port.host_ip {
            Some(ip) => vec![ip],
            None => facts.addresses.iter().copied().chain(loopback).collect(),
        };
        // No hook sees SCTP's packets to loopback addresses.
        let served = |ip: &IpAddr| port.protocol != Protocol::Sctp || !ip.is_loopback();
        for ip in listens.into_iter().filter(served) {
            let Some(pod_ip) = pod.addresses.iter().find(|a| a.is_ipv4() == ip.is_ipv4()) else { continue };
            let target = Target {
                port: PortName {
                    service: name.clone(),
                    port: format!("{ip}:{}", port.number).into(),
                    protocol: port.protocol,
                },
                backends: [BackendAddress { addr: (*pod_ip).into(), port: Port::new(port.container_port) }].into(),
                flags: 0,
                affinity_timeout_s: 0,
                consistent: false,
                source_ranges: [].into(),
            };
            let (port, proto) = (Port::new(port.number), port.protocol.number());
            // Packets from outside do not go to loopback addresses.
            let scopes: &[u8] = if ip.is_loopback() { &[SCOPE_CLUSTER] } else { &[SCOPE_CLUSTER, SCOPE_EXTERNAL] };
            let addr = Addr::from(ip);
            let addr = if ip.is_loopback() { addr.of_namespace(facts.namespace) } else { addr };
            for scope in scopes.iter().copied() {
                out.frontends.insert(ServiceKey { addr, port, proto, scope }, target.clone());
            }
        }
    }
    out
}

/// The endpoints of one port.
fn candidates<'a>(
    name: &ServiceName,
    port: &ServicePort,
    is_v4: bool,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    facts: &'a Facts,
) -> Vec<Candidate<'a>> {
    if *name == facts.dns_service {
        let servers = facts.dns_servers.iter().filter(|ip| ip.is_ipv4() == is_v4);
        let candidate = |ip: &IpAddr| Candidate {
            address: BackendAddress { addr: (*ip).into(), port: Port::new(facts.dns_port) },
            conditions: Conditions::default(),
            node: Some(&facts.node),
            hints: None,
        };
        return servers.map(candidate).collect();
    }
    let mut out = Vec::new();
    for slice in slices {
        // Slices name their ports as the service does; the numbers may differ from slice to slice.
        let same = |p: &&super::views::EndpointPort| p.name == port.name && p.protocol == port.protocol;
        let Some(number) = slice.ports.iter().find(same).map(|p| p.number) else { continue };
        for endpoint in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == is_v4) {
            out.push(Candidate {
                address: BackendAddress { addr: endpoint.address.into(), port: Port::new(number) },
                conditions: endpoint.conditions,
                node: endpoint.node.as_deref(),
                hints: endpoint.hints.as_deref(),
            });
        }
    }
    out
}
