//! `xebec trace`: a made-up packet through the programs and maps of the nodes, and every decision on its way.
//!
//! [`resolve`] finds out who and where the two ends are, each node's agent runs its own programs, and [`show`] tells it
//! with the names that people know.

mod resolve;
mod show;

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use xebec_node_agent::sight::trace::frame::Tuple;
use xebec_node_agent::sight::trace::walk::End;
use xebec_node_agent::sight::trace::{Origin, Request, Trace};

use self::resolve::World;
use crate::kubelets::{Kubelets, Which};

/// Runs a made-up first packet of a connection through the nodes' programs, changes nothing, and names each decision;
/// exits with 1 if the packet would not arrive.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Who sends: POD or NAMESPACE/POD, a node's name, or `outside`
    #[arg(long)]
    from: String,
    /// Who is meant: IP:PORT, or a service's NAME:PORT or NAMESPACE/NAME:PORT (a port's name or number)
    #[arg(long)]
    to: String,
    /// The namespace of names that have none
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// The protocol
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "udp", "sctp"])]
    protocol: String,
    /// With `--from outside`: the client's address [default: 198.51.100.1 or 2001:db8::1]
    #[arg(long)]
    source: Option<IpAddr>,
    /// The client's port; which endpoint a client from outside gets depends on it
    #[arg(long, default_value_t = 40_000)]
    source_port: u16,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Where a packet begins, and as what.
#[derive(Debug)]
struct Start {
    /// The node whose programs see it first.
    node: String,
    origin: Origin,
    tuple: Tuple,
}

/// All of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    from: String,
    to: String,
    /// Whether the packet arrives somewhere.
    arrives: bool,
    /// In one line.
    outcome: String,
    nodes: Vec<Trace>,
    policies: Vec<show::Policies>,
}

/// More nodes than any packet crosses.
const NODES_MAX: usize = 4;

/// `xebec trace`.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(trace(args))
}

async fn trace(args: &Args) -> anyhow::Result<ExitCode> {
    let cluster = args.which.open().await?;
    let world = World::read(&cluster).await?;
    let start = resolve::start(args, &world, &cluster).await?;
    let (from, to) = (world.describe(start.tuple.source), world.describe(start.tuple.destination));
    let nodes = follow(&cluster, &world, start).await?;
    let arrives = nodes
        .last()
        .is_some_and(|last| matches!(last.end, End::Pod { .. } | End::Node { .. } | End::Left { node: None, .. }));
    let outcome = nodes.last().map(|last| show::outcome(last, &world)).unwrap_or_default();
    let policies = show::policies(&nodes, &world);
    let report = Report { from, to, arrives, outcome, nodes, policies };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", show::text(&report, &world));
    }
    Ok(if arrives { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// From node to node.
async fn follow(cluster: &Kubelets, world: &World, start: Start) -> anyhow::Result<Vec<Trace>> {
    let mut out: Vec<Trace> = Vec::new();
    let mut node = start.node;
    let mut request = Request { origin: start.origin, tuple: Some(start.tuple), packet: None };
    for _ in 0..NODES_MAX {
        let trace = ask(cluster, &node, &request).await?;
        let next = match &trace.end {
            End::Left { node: Some(address), by, packet } => {
                let origin = if by == "tunnel" { Origin::Tunnel } else { Origin::Uplink };
                Some((*address, Request { origin, tuple: None, packet: Some(packet.clone()) }))
            }
            _ => None,
        };
        out.push(trace);
        let Some((address, next)) = next else { return Ok(out) };
        node = match world.node_at(address) {
            Some(name) => name.to_owned(),
            None => {
                bail!("the packet goes to {address}, which the datapath takes for a node and the API does not know")
            }
        };
        request = next;
    }
    bail!("the packet crosses more than {NODES_MAX} nodes: a loop");
}

async fn ask(cluster: &Kubelets, node: &str, request: &Request) -> anyhow::Result<Trace> {
    let clients = cluster.clients(Some(node)).await?;
    let client = clients.get(node).with_context(|| format!("the cluster has no node {node}"))?;
    let request = http::Request::post("/xebec/trace")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(request)?)?;
    client.request(request).await.with_context(|| format!("node {node} makes no trace"))
}
