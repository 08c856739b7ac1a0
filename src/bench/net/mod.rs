//! The network, side by side in one run: the bare path as the limit, Xebec, and the rules that kube-proxy writes for
//! iptables and for nftables.
//!
//! The server is on a machine of its own ([`stage`]). Clients are on a node, on the machine of another way, in a container,
//! or on the host, which is outside. A round measures every way, one right after the other, and what counts is the median
//! of the rounds, and of their ratios: this machine is busy with other things, too.

pub mod load;
mod picture;
mod pods;
mod rows;
mod rules;
mod stage;
mod xdp;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use http::Request;
use serde::Serialize;
use serde_json::{Value, json};

use self::load::{Kind, Measured};
use self::pods::Pod;
use self::rows::{Measures, PICTURED};
pub use self::rows::{Row, figures, table};
use self::stage::{BARE, BARE_PODS, ROUTED, SERVER, Stage};
pub use self::xdp::figure as driver_figure;
use super::OwnCluster;
use crate::api;
use crate::cluster::Cluster;

const NAMESPACE: &str = "xebec-bench";
const SERVER_PORT: u16 = 7_000;
/// The node port of every way's first service.
const NODE_PORT: u16 = 30_999;
/// The services' addresses in the rules: no network of the cluster's.
const RULES_BASE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The load balancer's addresses in the rules.
const RULES_BALANCERS: [(Way, Ipv4Addr); 2] =
    [(Way::Iptables, Ipv4Addr::new(10, 203, 0, 1)), (Way::Nftables, Ipv4Addr::new(10, 203, 0, 2))];
/// Clients at a time where many connect.
const CLIENTS: usize = 32;
/// The node that Xebec's way leads through.
const NODE: u16 = 1;

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many services there are while it is measured; may be given again, in rising order
    #[arg(long = "services", default_values_t = [1, 1_000, 10_000, 30_000])]
    services: Vec<usize>,
    /// How long each load runs, in ms
    #[arg(long, default_value_t = 250)]
    time_ms: u64,
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Draw the comparisons into this folder (SVG)
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// An archive of an image that has `sleep`, for pods; without it, paths between pods are not measured
    #[arg(long)]
    archive: Option<PathBuf>,
    /// Its name
    #[arg(long, default_value = "xebec.local/busybox:1")]
    image: String,
}

/// A way that packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To the server's own address, without Xebec: the limit.
    Bare,
    /// Of this cluster.
    Xebec,
    /// To a service of iptables' rules.
    Iptables,
    /// To a service of nftables' rules.
    Nftables,
}

impl Way {
    /// What it is called in tables and pictures, and its machine is.
    fn name(self) -> &'static str {
        match self {
            Self::Bare => BARE,
            Self::Xebec => "xebec",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

const WAYS: [Way; 4] = [Way::Bare, Way::Xebec, Way::Iptables, Way::Nftables];
const LOADS: [(Kind, usize); 4] =
    [(Kind::Connect, CLIENTS), (Kind::Request, 1), (Kind::Stream, 1), (Kind::Datagrams, 1)];

/// Where a client or a server is.
#[derive(Clone, Debug)]
enum Place {
    Host,
    Node(u16),
    Machine(&'static str),
    Pod(Pod),
}

/// Who asks whom on one way.
type Ends = (Place, SocketAddr);

/// Measures.
pub async fn run(args: &Args) -> anyhow::Result<Vec<Row>> {
    ensure!(!args.services.is_empty() && args.rounds > 0, "nothing to measure");
    ensure!(args.services.is_sorted(), "the numbers of services must rise");
    let own = OwnCluster::up()?;
    let mut bench = Bench::new(&own).await?;
    let mut rows = Vec::new();
    if let Some(archive) = &args.archive {
        rows.extend(bench.between_pods(args, &own, archive).await?);
    }
    for services in &args.services {
        bench.make_services(*services, args).await?;
        bench.put_rules(*services)?;
        for path in ["ClusterIP", "NodePort", "LoadBalancer"] {
            let mut ends = Vec::new();
            for way in WAYS {
                ends.push((way, bench.ends(way, path, *services).await?));
            }
            rows.extend(bench.compare(args, *services, path, &ends)?);
        }
        bench.drop_rules()?;
    }
    if let Some(folder) = &args.pictures {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for measure in &PICTURED {
            let file = folder.join(format!("{}.svg", measure.name));
            std::fs::write(&file, picture::draw(&rows, measure))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(rows)
}

struct Bench {
    cluster: Cluster,
    client: kube::Client,
    stage: Stage,
    server: Ipv4Addr,
    serving: Vec<Serving>,
}

/// A server's process; killed when dropped.
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
        let load = || Cluster::load(&paths)?.context("the cluster is gone");
        let (cluster, client) = (load()?, api::client(&paths.kubeconfig()).await?);
        let stage = Stage::new(load()?, &paths)?;
        let server = stage.address(SERVER)?;
        for (way, address) in RULES_BALANCERS {
            stage.route_from_host(address, stage.address(way.name())?)?;
        }
        let mut bench = Self { cluster, client, stage, server, serving: Vec::new() };
        bench.serve(&Place::Machine(SERVER), &[server, ROUTED])?;
        super::make_namespace(&bench.client, NAMESPACE).await?;
        Ok(bench)
    }

    /// Starts a server.
    fn serve(&mut self, at: &Place, addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
        let mut command = self.at(at)?;
        command.args(["bench-load", "serve"]);
        command.args(addresses.iter().map(|address| format!("{address}:{SERVER_PORT}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.serving.push(Serving(command.spawn().context("cannot start the server")?));
        Ok(())
    }

    /// Paths without services: between containers of one machine, of two on a link, and of two with a tunnel between them.
    async fn between_pods(
        &mut self,
        args: &Args,
        own: &OwnCluster,
        archive: &std::path::Path,
    ) -> anyhow::Result<Vec<Row>> {
        let archive = archive.to_str().context("the archive's path is not UTF-8")?;
        super::xebec(&["image", "load", archive, "--name", own.0.as_str()])?;
        let pods = pods::make(&self.client, &self.cluster, NAMESPACE, &args.image).await?;
        for pod in &pods[1..] {
            self.serve(&Place::Pod(pod.clone()), &[pod.address])?;
        }
        for pod in &BARE_PODS[1..] {
            let address = self.stage.address(pod)?;
            self.serve(&Place::Machine(pod), &[address])?;
        }
        let ends = |bench: &Self, server: usize| -> anyhow::Result<Vec<(Way, Ends)>> {
            let bare = (Place::Machine(BARE_PODS[0]), (bench.stage.address(BARE_PODS[server])?, SERVER_PORT).into());
            let xebec = (Place::Pod(pods[0].clone()), (pods[server].address, SERVER_PORT).into());
            Ok(vec![(Way::Bare, bare), (Way::Xebec, xebec)])
        };
        let mut rows = self.compare(args, 0, "pods of one node", &ends(self, 1)?)?;
        rows.extend(self.compare(args, 0, "pods, routed", &ends(self, 2)?)?);
        self.tunnel(own, true).await?;
        rows.extend(self.compare(args, 0, "pods, by VXLAN", &ends(self, 2)?)?);
        self.tunnel(own, false).await?;
        Ok(rows)
    }

    /// Has all that goes between machines, nodes and others, go through tunnels; or none of it.
    async fn tunnel(&self, own: &OwnCluster, through: bool) -> anyhow::Result<()> {
        self.stage.tunnel(through)?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), if through { "tunnel: always\n" } else { "tunnel: auto\n" })?;
        let path = file.path().to_str().context("the file's path is not UTF-8")?;
        super::xebec(&["up", "--name", own.0.as_str(), "--no-context", "--agent-config", path])?;
        let is_so = async || {
            let command = ["ip", "-4", "route", "show", "dev", "xb-vxlan"];
            let output = on(&self.cluster, NODE, command[0]).args(&command[1..]).output()?;
            Ok(through != output.stdout.trim_ascii().is_empty())
        };
        super::until("the nodes do not take the other way to each other's pods", is_so).await
    }

    /// Sees to it that there are `count` services. The first has a node port, the last is reached by its address, and both
    /// from outside by the load balancer's.
    async fn make_services(&self, count: usize, args: &Args) -> anyhow::Result<()> {
        let url = format!("/api/v1/namespaces/{NAMESPACE}/services");
        let have = self.get(&url).await?;
        let have = have["items"].as_array().map_or(0, Vec::len);
        ensure!(have <= count, "the numbers of services must rise");
        futures::stream::iter(have..count)
            .map(|n| self.make_service(n, n == 0 || args.services.contains(&(n + 1))))
            .buffer_unordered(32)
            .try_collect::<()>()
            .await?;
        // The kernel has the newest when it answers.
        for path in ["ClusterIP", "NodePort", "LoadBalancer"] {
            super::until("the newest service does not answer", async || {
                let Ok((from, address)) = self.ends(Way::Xebec, path, count).await else { return Ok(false) };
                Ok(self.ask(&from, Kind::Connect, address, 1, 1).is_ok_and(|m| m.per_second > 0.0))
            })
            .await?;
        }
        Ok(())
    }

    async fn make_service(&self, number: usize, is_measured: bool) -> anyhow::Result<()> {
        let name = format!("service-{number}");
        let protocols: &[&str] = if is_measured { &["TCP", "UDP"] } else { &["TCP"] };
        let mut ports: Vec<Value> = protocols
            .iter()
            .map(|p| json!({"name": p.to_lowercase(), "protocol": p, "port": rules::PORT, "targetPort": SERVER_PORT}))
            .collect();
        if number == 0 {
            ports.iter_mut().for_each(|port| port["nodePort"] = NODE_PORT.into());
        }
        let spec = json!({"type": if is_measured { "LoadBalancer" } else { "ClusterIP" }, "ports": ports});
        api::post(
            &self.client,
            &format!("/api/v1/namespaces/{NAMESPACE}/services"),
            &json!({"metadata": {"name": name}, "spec": spec}),
        )
        .await?;
        let ports: Vec<Value> =
            protocols.iter().map(|p| json!({"name": p.to_lowercase(), "protocol": p, "port": SERVER_PORT})).collect();
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.server]}],
            "ports": ports,
        });
        api::post(&self.client, &format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"), &slice)
            .await
    }

    fn put_rules(&self, services: usize) -> anyhow::Result<()> {
        let backend = (self.server, SERVER_PORT);
        for (way, load_balancer) in RULES_BALANCERS {
            let entries = rules::Entries { base: RULES_BASE, node_port: NODE_PORT, load_balancer };
            match way {
                Way::Iptables => {
                    let rules = rules::iptables(services, entries, backend);
                    self.stage.feed(way.name(), "iptables-restore", &[], &rules)?;
                }
                _ => {
                    let rules = rules::nftables(services, entries, backend);
                    self.stage.feed(way.name(), "nft", &["-f", "-"], &rules)?;
                }
            }
        }
        Ok(())
    }

    fn drop_rules(&self) -> anyhow::Result<()> {
        self.stage.feed(Way::Iptables.name(), "iptables-restore", &[], rules::NO_IPTABLES)?;
        self.stage.feed(Way::Nftables.name(), "nft", &["-f", "-"], rules::NO_NFTABLES)
    }

    /// All ways, round by round; each round begins with another.
    fn compare(
        &self,
        args: &Args,
        services: usize,
        path: &'static str,
        ends: &[(Way, Ends)],
    ) -> anyhow::Result<Vec<Row>> {
        let mut rounds = vec![vec![Measures::default(); args.rounds]; ends.len()];
        for round in 0..args.rounds {
            for (kind, clients) in LOADS {
                for turn in 0..ends.len() {
                    let which = (turn + round) % ends.len();
                    let (way, (from, address)) = &ends[which];
                    let measured = self
                        .ask(from, kind, *address, args.time_ms, clients)
                        .with_context(|| format!("{path}, {}", way.name()))?;
                    ensure!(
                        measured.failed == 0 || *way != Way::Xebec,
                        "{} of the connections to {address} failed",
                        measured.failed
                    );
                    rounds[which][round].add(kind, &measured);
                }
            }
        }
        let rows = ends.iter().zip(rounds).map(|((way, _), rounds)| Row::new(services, path, *way, rounds));
        Ok(rows.collect())
    }

    /// Where the client is, and what it asks.
    async fn ends(&self, way: Way, path: &str, services: usize) -> anyhow::Result<Ends> {
        let machine = Place::Machine(way.name());
        let is_from_outside = path != "ClusterIP";
        Ok(match (way, is_from_outside) {
            (Way::Bare, false) => (machine, (self.server, SERVER_PORT).into()),
            (Way::Bare, true) => (Place::Host, (ROUTED, SERVER_PORT).into()),
            (Way::Xebec, false) => (Place::Node(NODE), self.service_address(services - 1, "spec").await?),
            (Way::Xebec, true) if path == "NodePort" => {
                (Place::Host, (self.cluster.addresses().node(NODE), NODE_PORT).into())
            }
            (Way::Xebec, true) => (Place::Host, self.service_address(services - 1, "status").await?),
            (Way::Iptables | Way::Nftables, false) => {
                (machine, (rules::address(RULES_BASE, services - 1), rules::PORT).into())
            }
            (Way::Iptables | Way::Nftables, true) if path == "NodePort" => {
                (Place::Host, (self.stage.address(way.name())?, NODE_PORT).into())
            }
            (Way::Iptables | Way::Nftables, true) => {
                let found = RULES_BALANCERS.iter().find(|(other, _)| *other == way);
                (Place::Host, (found.context("no balancer")?.1, rules::PORT).into())
            }
        })
    }

    /// The address of a service of this cluster: its own, or the load balancer's.
    async fn service_address(&self, number: usize, part: &str) -> anyhow::Result<SocketAddr> {
        let service = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/services/service-{number}")).await?;
        let ip = match part {
            "spec" => &service["spec"]["clusterIP"],
            _ => &service["status"]["loadBalancer"]["ingress"][0]["ip"],
        };
        let ip = ip.as_str().context("the service has no address")?;
        Ok(SocketAddr::from((ip.parse::<Ipv4Addr>()?, rules::PORT)))
    }

    /// Loads `address`.
    fn ask(
        &self,
        from: &Place,
        kind: Kind,
        address: SocketAddr,
        time_ms: u64,
        clients: usize,
    ) -> anyhow::Result<Measured> {
        let kind = clap::ValueEnum::to_possible_value(&kind).context("no load has this name")?;
        let (address, time, clients) = (address.to_string(), time_ms.to_string(), clients.to_string());
        let load = ["bench-load", "ask", kind.get_name(), &address, "--time-ms", &time, "--connections", &clients];
        let output = self.at(from)?.args(load).stdin(Stdio::null()).output().context("cannot start the load")?;
        if !output.status.success() {
            bail!("{}: {}", load.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the load printed no measurement")
    }

    /// This same program, somewhere.
    fn at(&self, place: &Place) -> anyhow::Result<Command> {
        let exe = std::env::current_exe().context("cannot find this program")?;
        let exe = exe.to_str().context("this program's path is not UTF-8")?;
        Ok(match place {
            Place::Host => Command::new(exe),
            Place::Node(node) => on(&self.cluster, *node, exe),
            Place::Machine(machine) => self.stage.on(machine, exe)?,
            Place::Pod(pod) => {
                let mut command = on(&self.cluster, pod.node, "nsenter");
                command.args([&format!("--net={}", pod.namespace), exe]);
                command
            }
        })
    }

    async fn get(&self, url: &str) -> anyhow::Result<Value> {
        Ok(self.client.request(Request::get(url).body(Vec::new())?).await?)
    }
}

/// A command on a node.
fn on(cluster: &Cluster, node: u16, program: &str) -> Command {
    let mut exec = Command::new("/proc/self/exe");
    exec.args(["exec", "--name", cluster.name.as_str(), &node.to_string(), "--", program]);
    exec
}
