//! Who the two ends of a trace are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, bail};
use serde_json::Value;
use xebec_node_agent::policy::admin::Tier;
use xebec_node_agent::policy::explain::Objects;
use xebec_node_agent::policy::views::Pod;
use xebec_node_agent::sight::NodeNetwork;
use xebec_node_agent::sight::trace::Origin;
use xebec_node_agent::sight::trace::frame::Tuple;

use super::{Args, Start};
use crate::kubelets::{Kubelets, text};

/// The cluster's objects, as far as a trace names them.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) objects: Objects,
    services: Vec<Value>,
    slices: Vec<Value>,
    /// Nodes' internal addresses by name.
    nodes: BTreeMap<String, IpAddr>,
}

impl World {
    pub(super) async fn read(cluster: &Kubelets) -> anyhow::Result<Self> {
        fn views<T: serde::de::DeserializeOwned>(values: Vec<Value>) -> anyhow::Result<Vec<T>> {
            let read = |value| serde_json::from_value(value).context("the API server sends what this cannot read");
            values.into_iter().map(read).collect()
        }
        let mut admins = Vec::new();
        for tier in [Tier::Admin, Tier::Baseline] {
            // Whoever has removed these kinds has none of them.
            let all = cluster.list(tier.path()).await.unwrap_or_default();
            admins.extend(views(all)?.into_iter().map(|policy| (tier, policy)));
        }
        let all_nodes = cluster.list("/api/v1/nodes").await?;
        let objects = Objects {
            policies: views(cluster.list("/apis/networking.k8s.io/v1/networkpolicies").await?)?,
            namespaces: views(cluster.list("/api/v1/namespaces").await?)?,
            pods: views(cluster.list("/api/v1/pods").await?)?,
            admins,
            nodes: views(all_nodes.clone())?,
        };
        let mut nodes = BTreeMap::new();
        for node in all_nodes {
            let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
            let internal = addresses.into_iter().flatten().find(|a| a["type"] == "InternalIP");
            if let Some(ip) = internal.and_then(|a| a["address"].as_str()?.parse().ok()) {
                nodes.insert(text(&node, "/metadata/name").to_owned(), ip);
            }
        }
        let services = cluster.list("/api/v1/services").await?;
        let slices = cluster.list("/apis/discovery.k8s.io/v1/endpointslices").await?;
        Ok(Self { objects, services, slices, nodes })
    }

    /// The node that has an address.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<&str> {
        self.nodes.iter().find(|(_, ip)| **ip == address).map(|(name, _)| name.as_str())
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.objects.pods.iter().find(|pod| pod.metadata.namespace == namespace && pod.metadata.name == name)
    }

    /// The service whose frontend this is: `NAMESPACE/NAME`.
    pub(super) fn service_at(&self, address: SocketAddr, protocol: &str) -> Option<String> {
        let has = |service: &&Value| {
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            ports.into_iter().any(|port| {
                let own = if address.ip().is_unspecified() { &port["nodePort"] } else { &port["port"] };
                text(port, "/protocol") == protocol && *own == address.port()
            }) && (address.ip().is_unspecified() || addresses(service).any(|ip| ip == address.ip()))
        };
        self.services.iter().find(has).map(name_of)
    }

    /// An end, with the names of who is there.
    pub(super) fn describe(&self, end: SocketAddr) -> String {
        let who = self
            .objects
            .pod_at(end.ip())
            .map(|pod| format!("pod {}/{}", pod.metadata.namespace, pod.metadata.name))
            .or_else(|| self.node_at(end.ip()).map(|name| format!("node {name}")))
            .or_else(|| {
                let at = self.services.iter().find(|service| addresses(service).any(|ip| ip == end.ip()));
                at.map(|service| format!("service {}", name_of(service)))
            });
        match who {
            Some(who) => format!("{who} ({end})"),
            None => end.to_string(),
        }
    }
}

fn name_of(service: &Value) -> String {
    format!("{}/{}", text(service, "/metadata/namespace"), text(service, "/metadata/name"))
}

/// All addresses of a service.
fn addresses(service: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    let own = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let external = service["spec"]["externalIPs"].as_array().into_iter().flatten();
    own.chain(external).filter_map(|ip| ip.as_str()?.parse().ok()).chain(load_balanced(service))
}

fn load_balanced(service: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    ingress.into_iter().flatten().filter_map(|ingress| text(ingress, "/ip").parse().ok())
}

/// Where the packet begins.
pub(super) async fn start(args: &Args, world: &World, cluster: &Kubelets) -> anyhow::Result<Start> {
    if args.from == "outside" {
        return outside(args, world, cluster).await;
    }
    let (namespace, name) = args.from.split_once('/').unwrap_or((&args.namespace, &args.from));
    let (node, address, origin) = match (world.pod(namespace, name), world.nodes.get(&args.from)) {
        (Some(pod), _) => from_pod(pod, world)?,
        (None, Some(address)) => (args.from.clone(), *address, Origin::Node),
        (None, None) => bail!(
            "no pod {name} in namespace {namespace}, and no node of that name: give POD, NAMESPACE/POD, NODE or outside"
        ),
    };
    let destination = destination(args, world, Side::Inside { family: address })?;
    Ok(Start { node, origin, tuple: tuple(args, address, destination) })
}

fn from_pod(pod: &Pod, world: &World) -> anyhow::Result<(String, IpAddr, Origin)> {
    let (name, node) = (format!("{}/{}", pod.metadata.namespace, pod.metadata.name), pod.spec.node_name.clone());
    if node.is_empty() {
        bail!("pod {name} is on no node yet");
    }
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        bail!("pod {name} has ended");
    }
    if pod.spec.host_network {
        let address = world.nodes.get(&node).with_context(|| format!("node {node} of pod {name} has no address"))?;
        return Ok((node, *address, Origin::Node));
    }
    let ip = pod.status.pod_ips.first().with_context(|| format!("pod {name} has no address yet"))?.ip;
    Ok((node, ip, Origin::Pod { uid: pod.metadata.uid.clone() }))
}

/// A client beyond the uplink: of the node it addresses, or of the one that answers for the address.
async fn outside(args: &Args, world: &World, cluster: &Kubelets) -> anyhow::Result<Start> {
    let destination = destination(args, world, Side::Outside)?;
    // Addresses that are nobody's (RFC 5737, RFC 3849).
    let nobody = || match destination {
        SocketAddr::V4(_) => Ipv4Addr::new(198, 51, 100, 1).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let tuple = tuple(args, args.source.unwrap_or_else(nobody), destination);
    let start = |node: &str| Start { node: node.to_owned(), origin: Origin::Uplink, tuple: tuple.clone() };
    if let Some(node) = args.which.node.as_deref().or_else(|| world.node_at(destination.ip())) {
        return Ok(start(node));
    }
    let pod_of = world.objects.pod_at(destination.ip()).map(|pod| pod.spec.node_name.clone());
    if let Some(node) = pod_of {
        return Ok(start(&node));
    }
    for (node, client) in cluster.clients(None).await? {
        let request = http::Request::get("/xebec/network").body(Vec::new())?;
        let network: NodeNetwork = client.request(request).await.with_context(|| format!("node {node}"))?;
        if network.announced.contains(&destination.ip()) {
            return Ok(start(&node));
        }
    }
    bail!(
        "no node answers for {} to clients outside: say with --node whose uplink the packet comes in by",
        destination.ip()
    )
}

fn tuple(args: &Args, source: IpAddr, destination: SocketAddr) -> Tuple {
    let source = SocketAddr::new(source, args.source_port);
    Tuple { source, destination, protocol: args.protocol.to_uppercase() }
}

/// On which side of the uplink the client is.
#[derive(Clone, Copy)]
enum Side {
    /// It has this address, so it speaks of that family.
    Inside {
        family: IpAddr,
    },
    Outside,
}

fn destination(args: &Args, world: &World, side: Side) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = args.to.parse() {
        return Ok(address);
    }
    let (whom, port) = args
        .to
        .rsplit_once(':')
        .with_context(|| format!("{:?} has no port: give IP:PORT, NAME:PORT or NAMESPACE/NAME:PORT", args.to))?;
    let (namespace, name) = whom.split_once('/').unwrap_or((&args.namespace, whom));
    let wanted = format!("{namespace}/{name}");
    let Some(service) = world.services.iter().find(|service| name_of(service) == wanted) else {
        bail!("no service {name} in namespace {namespace}: give IP:PORT, NAME:PORT or NAMESPACE/NAME:PORT");
    };
    if text(service, "/spec/type") == "ExternalName" {
        let other = text(service, "/spec/externalName");
        bail!("service {wanted} is another name for {other}, which only DNS knows: trace to an address of it");
    }
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let protocol = args.protocol.to_uppercase();
    let is_it = |p: &&Value| {
        text(p, "/protocol") == protocol
            && (text(p, "/name") == port || p["port"].as_u64().is_some_and(|number| port.parse() == Ok(number)))
    };
    let Some(found) = ports.iter().find(is_it) else {
        let known: Vec<String> = ports
            .iter()
            .map(|p| {
                format!(
                    "{}{}/{}",
                    p["port"],
                    match text(p, "/name") {
                        "" => String::new(),
                        name => format!(" ({name})"),
                    },
                    text(p, "/protocol")
                )
            })
            .collect();
        bail!(
            "service {wanted} has no port {port}/{protocol}; it has {}",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        );
    };
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    match side {
        Side::Inside { family } => {
            let own = addresses(service).find(|ip| ip.is_ipv4() == family.is_ipv4());
            match own.zip(number(&found["port"])) {
                Some((ip, port)) => Ok(SocketAddr::new(ip, port)),
                None => headless(world, service, found, family),
            }
        }
        Side::Outside => {
            let is_of_family = |ip: &IpAddr| args.source.is_none_or(|source| ip.is_ipv4() == source.is_ipv4());
            let balanced = load_balanced(service).find(is_of_family);
            if let Some((ip, port)) = balanced.zip(number(&found["port"])) {
                return Ok(SocketAddr::new(ip, port));
            }
            let node = match &args.which.node {
                Some(name) => world.nodes.get(name),
                None => world.nodes.values().next(),
            };
            match (node, number(&found["nodePort"])) {
                (Some(ip), Some(port)) => Ok(SocketAddr::new(*ip, port)),
                _ => bail!(
                    "service {wanted} cannot be reached from outside: it has neither a load balancer's address nor a node port"
                ),
            }
        }
    }
}

/// A service without an address: what DNS answers first.
fn headless(world: &World, service: &Value, port: &Value, family: IpAddr) -> anyhow::Result<SocketAddr> {
    let (namespace, name) = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
    let of = |slice: &&Value| {
        text(slice, "/metadata/namespace") == namespace
            && text(slice, "/metadata/labels/kubernetes.io~1service-name") == name
    };
    for slice in world.slices.iter().filter(of) {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let Some(number) = ports
            .filter(|p| text(p, "/name") == text(port, "/name"))
            .find_map(|p| p["port"].as_u64().and_then(|n| u16::try_from(n).ok()))
        else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let ip = text(endpoint, "/addresses/0").parse::<IpAddr>().ok();
            if let Some(ip) =
                ip.filter(|ip| ip.is_ipv4() == family.is_ipv4() && endpoint["conditions"]["ready"] != false)
            {
                return Ok(SocketAddr::new(ip, number));
            }
        }
    }
    bail!("service {namespace}/{name} is headless and has no ready endpoint: DNS has no address for it")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    fn args(extra: &[&str]) -> Args {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        Line::parse_from(["trace"].iter().chain(extra)).args
    }

    fn world() -> World {
        let port = json!({"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30_080});
        let service =
            |name: &str, spec: Value| json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        World {
            services: vec![
                service("web", json!({"clusterIPs": ["10.96.0.7"], "ports": [port]})),
                service("none", json!({"clusterIPs": ["None"], "ports": [port]})),
                service("other", json!({"type": "ExternalName", "externalName": "example.com"})),
            ],
            nodes: BTreeMap::from([("n1".to_owned(), "172.30.0.11".parse().unwrap())]),
            ..World::default()
        }
    }

    fn to(text: &str, side: Side) -> Result<String, String> {
        let args = args(&["--from", "x", "--to", text]);
        destination(&args, &world(), side).map(|to| to.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_become_addresses_and_errors_say_what_is_there() {
        let inside = Side::Inside { family: "10.244.0.1".parse().unwrap() };
        for name in ["web:80", "web:http", "default/web:80"] {
            assert_eq!(to(name, inside).unwrap(), "10.96.0.7:80");
        }
        assert_eq!(to("10.0.0.1:5", inside).unwrap(), "10.0.0.1:5");
        assert_eq!(to("web:80", Side::Outside).unwrap(), "172.30.0.11:30080");
        let error = |name| to(name, inside).unwrap_err();
        assert!(error("web").contains("has no port"));
        assert!(error("nobody:80").starts_with("no service nobody in namespace default"));
        assert_eq!(error("web:81"), "service default/web has no port 81/TCP; it has 80 (http)/TCP");
        assert!(error("other:80").contains("another name for example.com"));
        assert!(error("none:80").contains("headless and has no ready endpoint"));
    }

    #[test]
    fn frontends_are_known_by_address_or_node_port() {
        let world = world();
        let at = |text: &str| world.service_at(text.parse().unwrap(), "TCP");
        assert_eq!(at("10.96.0.7:80"), Some("default/web".to_owned()));
        assert_eq!(at("[::]:30080"), Some("default/web".to_owned()));
        assert_eq!(at("10.96.0.8:80"), None);
    }
}
