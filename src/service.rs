//! `xebec service list` and `xebec service show`: what the nodes' kernels hold for services, and what they should.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;
use xebec_ebpf_loader::layout::{SCOPE_CLUSTER, ServiceKey};
use xebec_node_agent::agent::DNS_PORT;
use xebec_node_agent::proxy::desired::{Facts, ServiceName, Target, compile};
use xebec_node_agent::proxy::views::{EndpointSlice, Service};
use xebec_node_agent::sight::{Frontend, NodeNetwork, protocol};

use crate::kubelets::{Kubelets, Which, text};
use crate::names::Name;

/// What the nodes' kernels hold for services.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Every frontend of every node, with how many backends it leads to and how often it was used
    List {
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// One service on every node, and how that differs from what it should be; exits with 1 if it does
    Show {
        /// NAME or NAMESPACE/NAME
        service: String,
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// A frontend of a service on a node.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    node: String,
    /// Its address and port.
    pub(crate) address: SocketAddr,
    /// `TCP`, ...
    pub(crate) protocol: String,
    /// `cluster` or `external`.
    pub(crate) scope: String,
    /// What the kernel holds; none: nothing.
    pub(crate) kernel: Option<BTreeSet<SocketAddr>>,
    /// What it should; none: nothing.
    pub(crate) desired: Option<BTreeSet<SocketAddr>>,
    connections: u64,
    refused: u64,
}

/// `xebec service`.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.command {
            Command::List { which, json } => list(which, *json).await.map(|()| ExitCode::SUCCESS),
            Command::Show { service, which, json } => show(service, which, *json).await,
        }
    })
}

/// Every node's answer.
async fn ask<T: serde::de::DeserializeOwned>(
    which: &Which,
    cluster: &Kubelets,
    path: &str,
) -> anyhow::Result<BTreeMap<String, T>> {
    let mut out = BTreeMap::new();
    for (node, client) in cluster.clients(which.node.as_deref()).await? {
        let request = http::Request::get(path).body(Vec::new())?;
        let answer = client.request(request).await.with_context(|| format!("node {node}"))?;
        out.insert(node, answer);
    }
    Ok(out)
}

async fn frontends(which: &Which, cluster: &Kubelets) -> anyhow::Result<BTreeMap<String, Vec<Frontend>>> {
    ask(which, cluster, "/xebec/services").await
}

/// What forwards to other nodes what comes from outside.
fn forwarding(network: &NodeNetwork) -> String {
    let NodeNetwork { node, xdp, carried_by_xdp, .. } = network;
    if xdp.in_use {
        format!("{node}  from outside to other nodes: by XDP in the driver {} ({carried_by_xdp} packets)", xdp.driver)
    } else {
        format!("{node}  from outside to other nodes: by tcx ({})", xdp.reason)
    }
}

async fn list(which: &Which, json: bool) -> anyhow::Result<()> {
    let cluster = which.open().await?;
    let all = frontends(which, &cluster).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!(
        "{:<16} {:<26} {:<6} {:<9} {:>8} {:>12} {:>8}",
        "NODE", "FRONTEND", "PROTO", "SCOPE", "BACKENDS", "CONNECTIONS", "REFUSED"
    );
    for (node, frontends) in &all {
        for f in frontends {
            println!(
                "{node:<16} {:<26} {:<6} {:<9} {:>8} {:>12} {:>8}",
                f.address.to_string(),
                f.protocol,
                f.scope,
                f.backends.len(),
                f.socket_connections + f.uplink_flows,
                f.refused
            );
        }
    }
    Ok(())
}

async fn show(service: &str, which: &Which, json: bool) -> anyhow::Result<ExitCode> {
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    let of = (namespace.to_owned(), name.to_owned());
    let cluster = which.open().await?;
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
    let object: Value = cluster.api.request(http::Request::get(path).body(Vec::new())?).await?;
    let object: Service = serde_json::from_value(object).context("the service cannot be read")?;
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io/service-name={name}"
    );
    let slices: Result<Vec<EndpointSlice>, _> =
        cluster.list(&path).await?.into_iter().map(serde_json::from_value).collect();
    let slices = slices.context("the service's endpoint slices cannot be read")?;
    let nodes = cluster.list("/api/v1/nodes").await?;
    let kernel = frontends(which, &cluster).await?;
    let mut lines = Vec::new();
    for (node, held) in &kernel {
        let Some(facts) = nodes.iter().find(|object| text(object, "/metadata/name") == node).map(facts) else {
            bail!("node {node} has just gone");
        };
        let desired = compile(&object, slices.iter(), &facts).frontends;
        lines.extend(compare(node, &of, held, &desired));
    }
    let differs = lines.iter().any(Line::differs);
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        let networks: BTreeMap<String, NodeNetwork> = ask(which, &cluster, "/xebec/network").await?;
        networks.values().for_each(|network| println!("{}", forwarding(network)));
        lines.iter().for_each(Line::print);
    }
    Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a node's proxy knows of its node.
pub(crate) fn facts(node: &Value) -> Facts {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let internal = addresses.into_iter().flatten().filter(|address| address["type"] == "InternalIP");
    let ips: Vec<IpAddr> = internal.filter_map(|address| address["address"].as_str()?.parse().ok()).collect();
    let zone = text(node, "/metadata/labels/topology.kubernetes.io~1zone");
    Facts {
        node: text(node, "/metadata/name").to_owned(),
        zone: (!zone.is_empty()).then(|| zone.into()),
        addresses: ips.clone(),
        // Which of its namespaces is the node's own is no matter, either: keys show loopback addresses as they are.
        namespace: 0,
        dns_service: ServiceName { namespace: "kube-system".into(), name: "kube-dns".into() },
        dns_servers: ips,
        dns_port: DNS_PORT,
        // How answers go back is no matter of which endpoints there are.
        direct_return: false,
    }
}

/// The service's frontends on a node: what is held beside what is desired.
pub(crate) fn compare(
    node: &str,
    service: &Name,
    held: &[Frontend],
    desired: &BTreeMap<ServiceKey, Target>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut ids = BTreeSet::new();
    for (key, target) in desired {
        let address = SocketAddr::new(key.addr.to_ip(), key.port.get());
        let scope = if key.scope == SCOPE_CLUSTER { "cluster" } else { "external" };
        let (name, scope) = (protocol(key.proto), scope.to_owned());
        let found = held.iter().find(|f| f.address == address && f.protocol == name && f.scope == scope);
        ids.extend(found.map(|f| f.id));
        lines.push(Line {
            node: node.to_owned(),
            address,
            protocol: name,
            scope,
            kernel: found.map(backends),
            desired: Some(target.backends.iter().map(|b| SocketAddr::new(b.addr.to_ip(), b.port.get())).collect()),
            connections: found.map_or(0, |f| f.socket_connections + f.uplink_flows),
            refused: found.map_or(0, |f| f.refused),
        });
    }
    // What is held for the service beyond that; its port may be known by the number alone.
    let is_its = |f: &Frontend| match &f.of {
        Some(of) => (of.namespace.as_str(), of.service.as_str()) == (service.0.as_str(), service.1.as_str()),
        None => ids.contains(&f.id),
    };
    let known: BTreeSet<(SocketAddr, String, String)> =
        lines.iter().map(|l| (l.address, l.protocol.clone(), l.scope.clone())).collect();
    for f in held.iter().filter(|f| is_its(f)) {
        if !known.contains(&(f.address, f.protocol.clone(), f.scope.clone())) {
            lines.push(Line {
                node: node.to_owned(),
                address: f.address,
                protocol: f.protocol.clone(),
                scope: f.scope.clone(),
                kernel: Some(backends(f)),
                desired: None,
                connections: f.socket_connections + f.uplink_flows,
                refused: f.refused,
            });
        }
    }
    lines
}

/// Slots that are not written count as a backend that nobody has, so that they show.
fn backends(frontend: &Frontend) -> BTreeSet<SocketAddr> {
    let nobody = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
    frontend.backends.iter().map(|backend| backend.unwrap_or(nobody)).collect()
}

impl Line {
    /// Whether the kernel holds something else than it should.
    pub(crate) fn differs(&self) -> bool {
        self.kernel != self.desired
    }

    fn print(&self) {
        let Self { node, address, protocol, scope, kernel, desired, connections, refused } = self;
        println!("{node}  {address} {protocol} ({scope}): {connections} connections, {refused} refused");
        let nothing = BTreeSet::new();
        let (held, wanted) = (kernel.as_ref().unwrap_or(&nothing), desired.as_ref().unwrap_or(&nothing));
        for backend in held.union(wanted) {
            match (held.contains(backend), wanted.contains(backend)) {
                (true, true) => println!("    {backend}"),
                (true, false) => println!("  + {backend}  in the kernel, and should not be"),
                _ => println!("  - {backend}  missing in the kernel"),
            }
        }
        match (kernel, desired) {
            (None, _) => println!("  the kernel does not hold this frontend"),
            (_, None) => println!("  the kernel should not hold this frontend"),
            _ => {}
        }
    }
}
