//! The network, side by side in one run: the bare path as the limit, Xebec, and the rules that kube-proxy writes for
//! iptables and for nftables.
//!
//! Clients are on node 1 (for cluster addresses) or on the host (for node ports), the server is on node 2. The other
//! ways' rules are in node 1's network namespace while they are measured, and nowhere else.

pub mod load;
mod picture;
mod rules;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use http::Request;
use serde::Serialize;
use serde_json::{Value, json};

use self::load::{Kind, Measured};
use super::OwnCluster;
use super::figure::{Figure, percentile};
use crate::api;
use crate::cluster::Cluster;

const NAMESPACE: &str = "xebec-bench";
const SERVER_PORT: u16 = 7_000;
/// The node port of Xebec's service, and that of the rules.
const NODE_PORT: u16 = 30_999;
const RULES_PORT: u16 = 31_999;
/// The services' addresses in the rules: no networks of the cluster's, and two, so that both sets can be there.
const IPTABLES_BASE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
const NFTABLES_BASE: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 1);
/// An address of the server that is reached through node 1, as node ports are.
const ROUTED: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 2);
/// Clients at a time where many connect.
const CLIENTS: usize = 32;
/// Where the client is.
const HOST: u16 = 0;

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many services there are while it is measured; may be given again
    #[arg(long = "services", default_values_t = [1, 1_000, 10_000])]
    services: Vec<usize>,
    /// How long each load runs, in ms
    #[arg(long, default_value_t = 1_000)]
    time_ms: u64,
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Draw the comparison into this file (SVG)
    #[arg(long)]
    picture: Option<PathBuf>,
}

/// A way that packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To the server's own address: the limit.
    Bare,
    /// To a service of this cluster.
    Xebec,
    /// To a service of iptables' rules.
    Iptables,
    /// To a service of nftables' rules.
    Nftables,
}

impl Way {
    /// What it is called in tables and pictures.
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Xebec => "xebec",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

const WAYS: [Way; 4] = [Way::Bare, Way::Xebec, Way::Iptables, Way::Nftables];

/// What was measured on one way.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How many services there were.
    pub services: usize,
    /// `ClusterIP` or `NodePort`.
    pub entry: &'static str,
    /// The way.
    pub way: Way,
    /// New connections a second.
    pub connections_per_second: f64,
    /// A connection and its first answer, in microseconds.
    pub connect_p50_us: f64,
    /// The same, of the slowest hundredth.
    pub connect_p99_us: f64,
    /// An answer on a kept connection.
    pub request_p50_us: f64,
    /// The same, of the slowest hundredth.
    pub request_p99_us: f64,
    /// Throughput of one connection, in Gbit/s.
    pub gbit_per_second: f64,
}

/// Measures.
pub async fn run(args: &Args) -> anyhow::Result<Vec<Row>> {
    ensure!(!args.services.is_empty() && args.rounds > 0, "nothing to measure");
    let own = OwnCluster::up()?;
    let bench = Bench::new(&own).await?;
    let mut rows = Vec::new();
    for services in &args.services {
        bench.make_services(*services).await?;
        bench.put_rules(*services)?;
        for (entry, from) in [("ClusterIP", 1), ("NodePort", HOST)] {
            rows.extend(bench.compare(args, *services, entry, from).await?);
        }
        bench.drop_rules()?;
    }
    if let Some(path) = &args.picture {
        std::fs::write(path, picture::draw(&rows)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(rows)
}

struct Bench {
    cluster: Cluster,
    client: kube::Client,
    server: Ipv4Addr,
    _serving: Serving,
}

/// The server's process; killed when dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    async fn new(own: &OwnCluster) -> anyhow::Result<Self> {
        let paths = own.paths();
        let cluster = Cluster::load(&paths)?.context("the cluster is gone")?;
        let client = api::client(&paths.kubeconfig()).await?;
        let server = cluster.addresses().node(2);
        let address = format!("0.0.0.0:{SERVER_PORT}");
        let serving = on(&cluster, 2, &["/proc/self/exe", "bench-load", "serve", &address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the server")?;
        route_through_node_1(&cluster)?;
        let bench = Self { cluster, client, server, _serving: Serving(serving) };
        super::make_namespace(&bench.client, NAMESPACE).await?;
        Ok(bench)
    }

    /// Sees to it that there are `count` services; the last one made has a node port.
    async fn make_services(&self, count: usize) -> anyhow::Result<()> {
        let url = format!("/api/v1/namespaces/{NAMESPACE}/services");
        let have: Value = self.get(&url).await?;
        let have = have["items"].as_array().map_or(0, Vec::len);
        ensure!(have <= count, "the numbers of services must rise");
        futures::stream::iter(have..count)
            .map(|n| self.make_service(n))
            .buffer_unordered(32)
            .try_collect::<()>()
            .await?;
        // The kernel has the newest when it answers.
        let newest = self.service_address(count - 1).await?;
        super::until("the newest service does not answer", async || Ok(self.try_once(1, newest).is_ok())).await?;
        let node_port = SocketAddr::from((self.cluster.addresses().node(1), NODE_PORT));
        super::until("the node port does not answer", async || Ok(self.try_once(HOST, node_port).is_ok())).await
    }

    async fn make_service(&self, number: usize) -> anyhow::Result<()> {
        let name = format!("service-{number}");
        let mut port = json!({"name": "main", "port": rules::PORT, "targetPort": SERVER_PORT});
        let mut spec = json!({"ports": [port]});
        if number == 0 {
            port["nodePort"] = NODE_PORT.into();
            spec = json!({"type": "NodePort", "ports": [port]});
        }
        api::post(
            &self.client,
            &format!("/api/v1/namespaces/{NAMESPACE}/services"),
            &json!({"metadata": {"name": name}, "spec": spec}),
        )
        .await?;
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.server]}],
            "ports": [{"name": "main", "port": SERVER_PORT, "protocol": "TCP"}],
        });
        api::post(&self.client, &format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"), &slice)
            .await
    }

    async fn service_address(&self, number: usize) -> anyhow::Result<SocketAddr> {
        let service = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/services/service-{number}")).await?;
        let ip = service["spec"]["clusterIP"].as_str().context("the service has no address")?;
        Ok(SocketAddr::from((ip.parse::<Ipv4Addr>()?, rules::PORT)))
    }

    fn put_rules(&self, services: usize) -> anyhow::Result<()> {
        let backend = (self.server, SERVER_PORT);
        let iptables = rules::iptables(services, IPTABLES_BASE, backend, RULES_PORT);
        self.feed(&["iptables-restore"], &iptables)?;
        let nftables = rules::nftables(services, NFTABLES_BASE, backend, RULES_PORT + 1);
        self.feed(&["nft", "-f", "-"], &nftables)
    }

    fn drop_rules(&self) -> anyhow::Result<()> {
        self.feed(&["iptables-restore"], rules::NO_IPTABLES)?;
        self.feed(&["nft", "-f", "-"], rules::NO_NFTABLES)
    }

    fn feed(&self, command: &[&str], input: &str) -> anyhow::Result<()> {
        let mut child = on(&self.cluster, 1, command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command[0]))?;
        let written = child.stdin.take().context("no input")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} (Debian's iptables and nftables are needed): {}", command[0], said.trim());
        written.context("the rules were not read")
    }

    /// All ways, round by round, so that what disturbs disturbs all of them.
    async fn compare(&self, args: &Args, services: usize, entry: &'static str, from: u16) -> anyhow::Result<Vec<Row>> {
        let mut samples: BTreeMap<(Way, Kind), Vec<Measured>> = BTreeMap::new();
        for _ in 0..args.rounds {
            for way in WAYS {
                let address = self.target(way, entry, services).await?;
                for (kind, clients) in [(Kind::Connect, CLIENTS), (Kind::Request, 1), (Kind::Stream, 1)] {
                    // The rules are asked about new connections only: a flow that is known passes them by.
                    let measured = self.ask(from, kind, address, args.time_ms, clients)?;
                    ensure!(
                        measured.failed == 0 || way != Way::Xebec,
                        "{} of the connections to {address} failed",
                        measured.failed
                    );
                    samples.entry((way, kind)).or_default().push(measured);
                }
            }
        }
        let median = |way, kind, field: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = samples[&(way, kind)].iter().map(field).collect();
            percentile(&mut values, 50)
        };
        let row = |way| Row {
            services,
            entry,
            way,
            connections_per_second: median(way, Kind::Connect, |m| m.per_second),
            connect_p50_us: median(way, Kind::Connect, |m| m.p50_us),
            connect_p99_us: median(way, Kind::Connect, |m| m.p99_us),
            request_p50_us: median(way, Kind::Request, |m| m.p50_us),
            request_p99_us: median(way, Kind::Request, |m| m.p99_us),
            gbit_per_second: median(way, Kind::Stream, |m| m.per_second * 8e-9),
        };
        Ok(WAYS.into_iter().map(row).collect())
    }

    async fn target(&self, way: Way, entry: &str, services: usize) -> anyhow::Result<SocketAddr> {
        let node = self.cluster.addresses().node(1);
        Ok(match (way, entry) {
            (Way::Bare, "NodePort") => (ROUTED, SERVER_PORT).into(),
            (Way::Bare, _) => (self.server, SERVER_PORT).into(),
            (Way::Xebec, "NodePort") => (node, NODE_PORT).into(),
            (Way::Iptables, "NodePort") => (node, RULES_PORT).into(),
            (Way::Nftables, "NodePort") => (node, RULES_PORT + 1).into(),
            (Way::Xebec, _) => self.service_address(services - 1).await?,
            (Way::Iptables, _) => (rules::address(IPTABLES_BASE, services - 1), rules::PORT).into(),
            (Way::Nftables, _) => (rules::address(NFTABLES_BASE, services - 1), rules::PORT).into(),
        })
    }

    fn try_once(&self, from: u16, address: SocketAddr) -> anyhow::Result<()> {
        let measured = self.ask(from, Kind::Connect, address, 1, 1)?;
        ensure!(measured.per_second > 0.0, "no connection to {address}");
        Ok(())
    }

    /// Loads `address` from a node, or from the host.
    fn ask(
        &self,
        from: u16,
        kind: Kind,
        address: SocketAddr,
        time_ms: u64,
        clients: usize,
    ) -> anyhow::Result<Measured> {
        let kind = clap::ValueEnum::to_possible_value(&kind).context("no load has this name")?;
        let (address, time, clients) = (address.to_string(), time_ms.to_string(), clients.to_string());
        let load = ["bench-load", "ask", kind.get_name(), &address, "--time-ms", &time, "--connections", &clients];
        let mut command = match from {
            HOST => Command::new("/proc/self/exe"),
            node => on(&self.cluster, node, &["/proc/self/exe"]),
        };
        let output = command.args(load).stdin(Stdio::null()).output().context("cannot start the load")?;
        if !output.status.success() {
            bail!("{}: {}", load.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the load printed no measurement")
    }

    async fn get(&self, url: &str) -> anyhow::Result<Value> {
        Ok(self.client.request(Request::get(url).body(Vec::new())?).await?)
    }
}

/// Gives the server an address that the host reaches through node 1, and it the host: node ports take that way too.
fn route_through_node_1(cluster: &Cluster) -> anyhow::Result<()> {
    let (first, second) = (cluster.addresses().node(1).to_string(), cluster.addresses().node(2).to_string());
    let routed = ROUTED.to_string();
    let commands: [(u16, Vec<&str>); 5] = [
        (2, vec!["ip", "address", "add", &routed, "dev", "lo"]),
        (2, vec!["ip", "rule", "add", "from", &routed, "lookup", "202"]),
        (2, vec!["ip", "route", "add", "default", "via", &first, "table", "202"]),
        (1, vec!["ip", "route", "add", &routed, "via", &second]),
        (HOST, vec!["ip", "route", "replace", &routed, "via", &first]),
    ];
    for (node, command) in commands {
        let mut process = match node {
            HOST => Command::new(command[0]),
            node => on(cluster, node, &command[..1]),
        };
        let output = process.args(&command[1..]).stdin(Stdio::null()).output().context("cannot run ip")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", command.join(" "), said.trim());
    }
    Ok(())
}

/// A command on a node.
fn on(cluster: &Cluster, node: u16, command: &[&str]) -> Command {
    let mut exec = Command::new("/proc/self/exe");
    exec.args(["exec", "--name", cluster.name.as_str(), &node.to_string(), "--"]).args(command);
    exec
}

/// A table for people.
pub fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("services  entry      way         conn/s  conn p50  conn p99   req p50   req p99   Gbit/s\n");
    for row in rows {
        text += &format!(
            "{:>8}  {:9}  {:9}  {:>7.0}  {:>5.0} us  {:>5.0} us  {:>4.0} us  {:>5.0} us  {:>7.2}\n",
            row.services,
            row.entry,
            row.way.name(),
            row.connections_per_second,
            row.connect_p50_us,
            row.connect_p99_us,
            row.request_p50_us,
            row.request_p99_us,
            row.gbit_per_second,
        );
    }
    text + "\n"
}

/// The ratios that must hold, worst case over the numbers of services.
pub fn figures(rows: &[Row]) -> Vec<Figure> {
    let find = |services: usize, entry: &str, way: Way| {
        rows.iter().find(|r| r.services == services && r.entry == entry && r.way == way)
    };
    let mut counts: Vec<usize> = rows.iter().map(|r| r.services).collect();
    counts.dedup();
    let ratios = |entry: &str, against: Way, field: fn(&Row) -> f64| -> Vec<f64> {
        let pair = |n: &usize| Some((find(*n, entry, Way::Xebec)?, find(*n, entry, against)?));
        counts.iter().filter_map(pair).map(|(ours, theirs)| field(ours) / field(theirs)).collect()
    };
    let least = |values: Vec<f64>| values.into_iter().fold(f64::INFINITY, f64::min);
    let most = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
    let cluster = |field| ratios("ClusterIP", Way::Bare, field);
    let node_port = |against| ratios("NodePort", against, |r| r.connections_per_second);
    let n = counts.len();
    let mut figures = vec![
        Figure::at_least(
            "ClusterIP: throughput against the bare path",
            "",
            least(cluster(|r| r.gbit_per_second)),
            0.99,
            n,
        ),
        Figure::at_least(
            "ClusterIP: connections against the bare path",
            "",
            least(cluster(|r| r.connections_per_second)),
            0.97,
            n,
        ),
        Figure::at_most(
            "ClusterIP: request p99 against the bare path",
            "",
            most(cluster(|r| r.request_p99_us)),
            1.03,
            n,
        ),
        Figure::at_least("NodePort: connections against the bare path", "", least(node_port(Way::Bare)), 0.85, n),
        Figure::at_least(
            "NodePort: connections against iptables, fewest services",
            "",
            node_port(Way::Iptables)[0],
            1.5,
            1,
        ),
    ];
    let (first, last) = (counts[0], counts[n - 1]);
    if let (Some(few), Some(many)) = (find(first, "ClusterIP", Way::Xebec), find(last, "ClusterIP", Way::Xebec)) {
        let ratio = many.connections_per_second / few.connections_per_second;
        figures.push(Figure::at_least("ClusterIP: connections, most services against fewest", "", ratio, 0.98, 1));
    }
    if let (Some(few), Some(many)) = (find(first, "NodePort", Way::Xebec), find(last, "NodePort", Way::Xebec)) {
        let ratio = many.connections_per_second / few.connections_per_second;
        figures.push(Figure::at_least("NodePort: connections, most services against fewest", "", ratio, 0.98, 1));
    }
    figures
}
