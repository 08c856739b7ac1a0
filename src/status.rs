//! `xebec status`: what of a cluster runs, and how it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::bail;
use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout;
use xebec_clock::Clock;
use xebec_node_agent::network::XdpState;
use xebec_node_agent::sight::NodeNetwork;

use crate::api;
use crate::cluster::process::Process;
use crate::cluster::state::State;
use crate::cluster::{self, Cluster, Name, NodeKind, Paths, cgroups, node};
use crate::supervise::SERVER;

/// Shows what of a cluster runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's name
    #[arg(long, default_value = "xebec")]
    name: Name,
    /// All clusters of this machine
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// One line of the status.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    name: String,
    /// `running`, `dead`, or a node's `Ready` and `NotReady`.
    state: String,
    address: String,
    pid: Option<i32>,
    since: Option<Timestamp>,
    restarts: u32,
    /// Of the process itself; of a node, its agent; of a machine, all of it.
    resident_bytes: Option<u64>,
    /// Of a node that says so: whether its uplink's driver forwards, and why not.
    xdp: Option<XdpState>,
    note: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    cluster: String,
    /// What its nodes are.
    nodes: String,
    kubeconfig: String,
    components: Vec<Line>,
    warnings: Vec<String>,
}

/// `xebec status`. Fails if something of the cluster does not run, so that scripts can ask.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let clusters = if args.all {
        cluster::all()?
    } else {
        match Cluster::load(&Paths::of(&args.name))? {
            Some(cluster) => vec![cluster],
            None => bail!("there is no cluster {0} (xebec up --name {0} makes one)", args.name),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ill = Vec::new();
    let mut reports = Vec::new();
    for cluster in &clusters {
        let report = runtime.block_on(report(cluster));
        ill.extend(
            report
                .components
                .iter()
                .filter(|l| !matches!(l.state.as_str(), "running" | "Ready"))
                .map(|l| l.name.clone()),
        );
        reports.push(report);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        let now = Clock::system().now();
        reports.iter().for_each(|r| print(r, now));
    }
    if !ill.is_empty() {
        bail!("not well: {} (xebec up starts what does not run)", ill.join(", "));
    }
    Ok(())
}

async fn report(cluster: &Cluster) -> Report {
    let paths = Paths::of(&cluster.name);
    let state = State::load(&paths);
    let ready = timeout(Duration::from_secs(3), nodes(&paths)).await;
    let ready = ready.unwrap_or_else(|_| Err(anyhow::anyhow!("the API server does not answer")));
    let at = |address: Ipv4Addr| cluster.preferred(address).addr().to_string();
    let mut lines = vec![Line {
        name: "supervisor".into(),
        state: running(state.live_supervisor().is_some()),
        address: at(cluster.addresses().host()),
        pid: state.live_supervisor().map(|p| p.pid),
        since: None,
        restarts: 0,
        resident_bytes: state.live_supervisor().and_then(Process::resident_bytes),
        xdp: None,
        note: String::new(),
    }];
    let mut server = line(&state, SERVER, at(cluster.addresses().server()));
    server.resident_bytes = state.live(SERVER).and_then(Process::resident_bytes);
    if let Err(e) = &ready {
        server.note = format!("{e:#}");
    }
    lines.push(server);
    for (name, address) in cluster.node_list() {
        let mut node = line(&state, &name, address.to_string());
        node.resident_bytes = resident_bytes(cluster, &name);
        if let Ok(nodes) = &ready
            && node.state == "running"
        {
            readiness(&mut node, nodes.iter().find(|(n, _)| n.metadata.name.as_ref() == Some(&name)));
        }
        lines.push(node);
    }
    Report {
        cluster: cluster.name.to_string(),
        nodes: cluster.node_kind.to_string(),
        kubeconfig: paths.kubeconfig().display().to_string(),
        components: lines,
        warnings: state.warnings.iter().map(|(what, why)| format!("{what}: {why}")).collect(),
    }
}

fn running(yes: bool) -> String {
    if yes { "running" } else { "dead" }.to_owned()
}

/// A node, and what its agent says, if it is there to ask.
type Seen = (api::NodeView, Option<XdpState>);

/// Asks the server for the nodes, and the agents of those that are ready.
async fn nodes(paths: &Paths) -> anyhow::Result<Vec<Seen>> {
    let client = api::client(&paths.kubeconfig()).await?;
    api::ready(&client).await?;
    let asked = api::nodes(&client).await?.into_iter().map(|node| async {
        let name = node.metadata.name.as_deref().filter(|_| node.ready().is_some_and(|c| c.status == "True"));
        let xdp = match name {
            Some(name) => timeout(Duration::from_secs(1), xdp(&client, name)).await.ok().and_then(Result::ok),
            None => None,
        };
        (node, xdp)
    });
    Ok(join_all(asked).await)
}

async fn xdp(client: &kube::Client, node: &str) -> anyhow::Result<XdpState> {
    let path = format!("/api/v1/nodes/{node}/proxy/xebec/network");
    let network: NodeNetwork = client.request(http::Request::get(path).body(Vec::new())?).await?;
    Ok(network.xdp)
}

/// Completes the line of a node whose processes run.
fn readiness(line: &mut Line, seen: Option<&Seen>) {
    let Some((node, xdp)) = seen else {
        (line.state, line.note) = ("NotReady".into(), "not registered yet".into());
        return;
    };
    line.xdp.clone_from(xdp);
    (line.state, line.note) = match node.ready() {
        Some(c) if c.status == "True" => ("Ready".into(), xdp.as_ref().map(forwarding).unwrap_or_default()),
        Some(c) => ("NotReady".into(), c.message.clone()),
        None => ("NotReady".into(), "the agent has not reported yet".into()),
    };
}

/// What is worth saying of it: most nodes do without.
fn forwarding(xdp: &XdpState) -> String {
    if xdp.in_use { format!("forwards by XDP in the driver {}", xdp.driver) } else { String::new() }
}

fn line(state: &State, name: &str, address: String) -> Line {
    let component = state.components.get(name).cloned().unwrap_or_default();
    let live = state.live(name);
    Line {
        name: name.to_owned(),
        state: running(live.is_some()),
        address,
        pid: live.map(|p| p.pid),
        since: component.since,
        restarts: component.restarts,
        resident_bytes: None,
        xdp: None,
        note: if live.is_some() { String::new() } else { component.last_error.unwrap_or_default() },
    }
}

/// The memory of a node's agent, by its cgroup; of a machine, that of the process that holds most of it.
fn resident_bytes(cluster: &Cluster, name: &str) -> Option<u64> {
    let hierarchies = cgroups::hierarchies().ok()?;
    let group = node::group(cluster, name);
    let group = match cluster.node_kind {
        NodeKind::Namespaces => group.join("agent"),
        NodeKind::Machines(_) => group,
    };
    let members = cgroups::members(&hierarchies, &group);
    members.into_iter().filter_map(|pid| Process::of(pid)?.resident_bytes()).max()
}

fn print(report: &Report, now: Timestamp) {
    println!("cluster {}, kubeconfig {}", report.cluster, report.kubeconfig);
    println!("  nodes are {}", report.nodes);
    let longest = |of: fn(&Line) -> &str| report.components.iter().map(|l| of(l).len()).max().unwrap_or(0);
    let (width, wide) = (longest(|l| &l.name), longest(|l| &l.address).max(15));
    println!(
        "  {:width$}  {:8}  {:wide$}  {:>8}  {:>8}  {:>8}  {:>9}",
        "", "STATE", "ADDRESS", "PID", "AGE", "RESTARTS", "MEMORY"
    );
    for line in &report.components {
        let pid = line.pid.map(|p| p.to_string()).unwrap_or_default();
        let age = line.since.map(|s| age(now.duration_since(s).as_secs())).unwrap_or_default();
        let memory = line.resident_bytes.map(|b| format!("{:.1} MB", b as f64 / 1e6)).unwrap_or_default();
        println!(
            "  {:width$}  {:8}  {:wide$}  {pid:>8}  {age:>8}  {:>8}  {memory:>9}  {}",
            line.name, line.state, line.address, line.restarts, line.note
        );
    }
    for warning in &report.warnings {
        println!("  note: {warning}");
    }
}

/// `95` seconds are `1m35s`.
fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ages_have_two_units() {
        assert_eq!([5, 95, 3720, 90_000].map(super::age), ["5s", "1m35s", "1h2m", "1d1h"]);
    }
}
