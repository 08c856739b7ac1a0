//! `xebec up`: a cluster on this machine, made or put right.

mod config;

use std::env;
use std::fs::{self, FileTimes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::api::{Api, DeleteParams};
use nix::sys::signal::Signal;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::api::{self, NodeView};
use crate::cluster::addresses::{free_index, parse_routes};
use crate::cluster::machine::commands::client::Target;
use crate::cluster::process::Process;
use crate::cluster::state::State;
use crate::cluster::{
    self, Cluster, IpFamily, Lock, MAX_NODES, Name, NodeKind, Paths, STATE_ROOT, cgroups, machine, node, preflight,
};
use crate::kubeconfig;
use crate::progress::Progress;
use crate::supervise::SERVER;

/// Starts a cluster on this machine, or what of it does not run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many nodes; a running cluster keeps what it has unless this is given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: Option<u16>,
    /// The cluster's name
    #[arg(long, default_value = "xebec")]
    name: Name,
    /// Which addresses a new cluster has: of one family, or of both with IPv4 (dual) or IPv6 (dual-ipv6) first [default: ipv4]
    #[arg(long, value_enum)]
    ip_family: Option<IpFamily>,
    /// How long to wait for the cluster, in seconds [default: 120; 600 for virtual machines]
    #[arg(long)]
    timeout_seconds: Option<u64>,
    /// Leave ~/.kube/config (or $KUBECONFIG) alone
    #[arg(long)]
    no_context: bool,
    #[command(flatten)]
    machines: machine::MachineArgs,
    #[command(flatten)]
    config: config::Given,
}

/// Nodes of a new cluster.
const DEFAULT_NODES: u16 = 3;
/// Between looks at what is waited for.
const POLL: Duration = Duration::from_millis(15);
/// The server died this often while we waited and is dead again: it will not start.
const GIVE_UP_RESTARTS: u32 = 4;

/// `xebec up`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    preflight::check_root()?;
    let kind = match Cluster::load(&Paths::of(&args.name))? {
        Some(cluster) => cluster.node_kind,
        None => args.machines.new_kind()?,
    };
    preflight::check(&kind)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(up(args, kind))
}

/// How long a cluster may take to be ready, unless it is said. Machines that are emulated boot in half a minute, and
/// several of them share the processors.
fn time_limit(args: &Args, kind: &NodeKind) -> Duration {
    let default = match kind {
        NodeKind::Namespaces => 120,
        NodeKind::Machines(_) => 600,
    };
    Duration::from_secs(args.timeout_seconds.unwrap_or(default))
}

/// `kind` is what the nodes of a new cluster are.
async fn up(args: &Args, kind: NodeKind) -> anyhow::Result<()> {
    let progress = Progress::new();
    let paths = Paths::of(&args.name);
    let _lock = Lock::take(&paths.state)?;
    let mut cluster = match Cluster::load(&paths)? {
        Some(cluster) => cluster,
        None => create(args, kind, &paths)?,
    };
    args.machines.check_against(&cluster)?;
    if args.ip_family.is_some_and(|family| family != cluster.ip_family) {
        bail!(
            "the cluster {} has other addresses, which it keeps for life: take it down first, or give another --name",
            cluster.name
        );
    }
    let wanted = args.nodes.unwrap_or(cluster.nodes);
    let dropped: Vec<String> = (wanted + 1..=cluster.nodes).map(|n| cluster.name.node(n)).collect();
    let resized = wanted != cluster.nodes;
    if resized {
        cluster.nodes = wanted;
        cluster.save(&paths)?;
    }
    let upgraded = install_binary(&paths)?;
    let reconfigured = args.config.write(&cluster, &paths)?;
    let before = State::load(&paths);
    let running = before.live_supervisor();
    match running {
        Some(supervisor) if upgraded || reconfigured => restart(&cluster, &paths, supervisor).await?,
        Some(supervisor) if resized => signal(supervisor, Signal::SIGHUP)?,
        Some(_) => {}
        None => start_supervisor(&cluster, &paths)?,
    }
    let limit = time_limit(args, &cluster.node_kind);
    let waited = timeout(limit, wait(&cluster, &paths, &progress, &dropped)).await;
    progress.finish();
    match waited {
        Ok(result) => result?,
        Err(_) => bail!("{}", explain_delay(&cluster, &paths, limit.as_secs())),
    }
    if !args.no_context {
        merge_context(&mut cluster, &paths);
    }
    let state = State::load(&paths);
    for (what, why) in &state.warnings {
        eprintln!("note: {what}: {why}");
    }
    let news = match running {
        None => "is up",
        Some(_) if upgraded => "runs the new binary",
        Some(_) if reconfigured => "runs with the new configuration",
        Some(_) if resized => "has the nodes asked for",
        Some(_) => "is up already",
    };
    print_next(&cluster, &paths, news);
    Ok(())
}

/// Finds room for a new cluster and records it.
fn create(args: &Args, node_kind: NodeKind, paths: &Paths) -> anyhow::Result<Cluster> {
    let _lock = Lock::take(Path::new(STATE_ROOT))?;
    let taken: Vec<u8> = cluster::all()?.iter().map(|c| c.index).collect();
    let routes = parse_routes(&fs::read_to_string("/proc/net/route").context("cannot read the routing table")?);
    let index = free_index(&taken, &routes)
        .context("every block of 172.30.0.0/16 is in use on this machine; take down a cluster (xebec status --all)")?;
    let cluster = Cluster {
        name: args.name.clone(),
        index,
        nodes: args.nodes.unwrap_or(DEFAULT_NODES),
        ip_family: args.ip_family.unwrap_or_default(),
        node_kind,
        previous_context: None,
        forwarding_set: Vec::new(),
    };
    cluster.save(paths)?;
    Ok(cluster)
}

/// Puts a copy of this binary where the cluster runs it from; true if another one was there. Told apart by size and
/// time of change, which the copy keeps.
fn install_binary(paths: &Paths) -> anyhow::Result<bool> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    let target = paths.binary();
    let source = fs::metadata("/proc/self/exe").context("cannot read this program's own file")?;
    let before = fs::metadata(&target).ok();
    let same = |m: &fs::Metadata| m.len() == source.len() && m.modified().ok() == source.modified().ok();
    if own == target || before.as_ref().is_some_and(same) {
        return Ok(false);
    }
    let what = || format!("cannot put the binary at {}", target.display());
    let dir = target.parent().with_context(what)?;
    fs::create_dir_all(dir).with_context(what)?;
    let part = dir.join("xebec.part");
    fs::copy("/proc/self/exe", &part).with_context(what)?;
    let times = FileTimes::new().set_modified(source.modified()?);
    fs::File::options().write(true).open(&part).and_then(|f| f.set_times(times)).with_context(what)?;
    fs::rename(&part, &target).with_context(what)?;
    let plugin = dir.join("xebec-cni");
    if fs::read_link(&plugin).is_err() {
        std::os::unix::fs::symlink("xebec", &plugin).with_context(what)?;
    }
    Ok(before.is_some())
}

/// Writes the server's configuration and the token the nodes join with, unless they are there.
fn start_supervisor(cluster: &Cluster, paths: &Paths) -> anyhow::Result<()> {
    let log = node::open_log(&paths.log("supervisor"))?;
    let mut command = Command::new(paths.binary());
    command
        .arg0("xebec")
        .args(["supervise", "--name", cluster.name.as_str()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // Not in whatever group `up` is run in, a login session's for one.
    cgroups::start_in(&mut command, &cgroups::hierarchies()?, &cluster.name.cgroup().join("supervisor"))?;
    let child = command.spawn().context("cannot start the supervisor")?;
    let started = Process::of(i32::try_from(child.id())?);
    // It writes itself down within milliseconds; what it wrote down before says nothing about now.
    for _ in 0..500 {
        if started.is_some() && State::load(paths).supervisor == started {
            return Ok(());
        }
        if !started.is_some_and(Process::alive) {
            break;
        }
        cgroups::pause(Duration::from_millis(10));
    }
    bail!("the supervisor does not start:\n{}", tail(&paths.log("supervisor")))
}

fn signal(process: Process, signal: Signal) -> anyhow::Result<()> {
    match process.open() {
        Some(fd) => fd.signal(signal).context("cannot signal the supervisor"),
        None => bail!("the supervisor died just now; run `xebec up` again"),
    }
}

/// Has the supervisor, the server and the agents run the new binary. Pods and their connections stay.
async fn restart(cluster: &Cluster, paths: &Paths, supervisor: Process) -> anyhow::Result<()> {
    let state = State::load(paths);
    stop(supervisor, Signal::SIGTERM)?;
    if let Some(server) = state.live(SERVER) {
        stop(server, Signal::SIGTERM)?;
    }
    start_supervisor(cluster, paths)?;
    for (name, _) in cluster.node_list() {
        match cluster.node_kind {
            NodeKind::Namespaces => stop_agent(cluster, &name)?,
            NodeKind::Machines(_) => stop_agent_in_machine(cluster, &name).await?,
        }
    }
    Ok(())
}

fn stop_agent(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let hierarchies = cgroups::hierarchies()?;
    for pid in cgroups::members(&hierarchies, &node::group(cluster, node).join("agent")) {
        if let Some(agent) = Process::of(pid) {
            stop(agent, Signal::SIGTERM)?;
        }
    }
    Ok(())
}

/// The same in a machine, which believes for a second that a file that was replaced is the old one.
async fn stop_agent_in_machine(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let script = "sleep 2; for pid in $(cat /sys/fs/cgroup/agent/cgroup.procs); do kill $pid; done";
    let stopped = Target::of(cluster, node)?.output(&["sh", "-c", script].map(str::to_owned)).await;
    stopped.map(drop).with_context(|| format!("cannot have the agent of {node} run the new binary"))
}

/// Ends a process, by force if it takes longer than 5 s.
fn stop(process: Process, with: Signal) -> anyhow::Result<()> {
    let Some(fd) = process.open() else { return Ok(()) };
    fd.signal(with).context("cannot signal a process of the cluster")?;
    if !fd.wait(Duration::from_secs(5)) {
        fd.signal(Signal::SIGKILL).context("cannot kill a process of the cluster")?;
    }
    Ok(())
}

/// Waits until the API server is ready, then until every node is and answers for names.
async fn wait(cluster: &Cluster, paths: &Paths, progress: &Progress, dropped: &[String]) -> anyhow::Result<()> {
    let client = wait_for_server(cluster, paths, progress).await?;
    progress.done("API server ready");
    for gone in dropped {
        match Api::<NodeView>::all(client.clone()).delete(gone, &DeleteParams::default()).await {
            Ok(_) => progress.done(&format!("node {gone} removed")),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(e) => return Err(e).context(format!("cannot remove the node {gone}")),
        }
    }
    let mut left = cluster.node_list();
    while !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
        progress.doing(format!("waiting for {}", names.join(", ")));
        let nodes = api::nodes(&client).await?;
        let ready = |name: &str| {
            let node = nodes.iter().find(|n| n.metadata.name.as_deref() == Some(name));
            node.and_then(NodeView::ready).is_some_and(|c| c.status == "True")
        };
        let mut waiting = Vec::new();
        for (name, address) in left {
            if ready(&name) && answers_dns(address).await {
                progress.done(&format!("node {name} ready, and answering for names"));
            } else {
                waiting.push((name, address));
            }
        }
        left = waiting;
        if !left.is_empty() {
            sleep(POLL).await;
        }
    }
    Ok(())
}

async fn wait_for_server(cluster: &Cluster, paths: &Paths, progress: &Progress) -> anyhow::Result<kube::Client> {
    progress.doing("starting the API server".into());
    let admin = paths.server().join("admin.kubeconfig");
    let before = State::load(paths).components.get(SERVER).map_or(0, |c| c.restarts);
    loop {
        if admin.exists() {
            let client = api::client(&admin).await?;
            // Each try has a bound of its own: the address may not exist yet.
            if matches!(timeout(Duration::from_secs(1), api::ready(&client)).await, Ok(Ok(()))) {
                write_kubeconfig(cluster, paths, &admin)?;
                return Ok(client);
            }
        }
        let state = State::load(paths);
        if let Some(server) = state.components.get(SERVER)
            && server.restarts >= before.saturating_add(GIVE_UP_RESTARTS)
            && server.process.is_none()
        {
            bail!("the API server does not start:\n{}", tail(&paths.log(SERVER)));
        }
        sleep(POLL).await;
    }
}

fn write_kubeconfig(cluster: &Cluster, paths: &Paths, admin: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(admin).with_context(|| format!("cannot read {}", admin.display()))?;
    let config = serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", admin.display()))?;
    kubeconfig::write(&paths.kubeconfig(), &kubeconfig::rename(config, &cluster.name.context())).map(drop)
}

/// Adds the cluster to the user's own kubeconfig. Not having it there is no reason to fail.
fn merge_context(cluster: &mut Cluster, paths: &Paths) {
    let merge = || -> anyhow::Result<Option<String>> {
        let text = fs::read_to_string(paths.kubeconfig())?;
        kubeconfig::merge(&kubeconfig::users_own()?, &serde_saphyr::from_str(&text)?)
    };
    match merge() {
        Ok(None) => {}
        Ok(Some(before)) => {
            cluster.previous_context = Some(before);
            // The supervisor may have recorded something since.
            let saved = Cluster::load(paths).and_then(|now| {
                let mut now = now.context("the cluster is gone")?;
                now.previous_context.clone_from(&cluster.previous_context);
                now.save(paths)
            });
            if let Err(e) = saved {
                eprintln!("note: {e:#}");
            }
        }
        Err(e) => eprintln!("note: your own kubeconfig was left alone: {e:#}"),
    }
}

/// Asks the node's DNS for the API server's service, as a pod would by way of the cluster's DNS address.
async fn answers_dns(node: IpAddr) -> bool {
    // A question (RFC 1035, 4.1) for kubernetes.default.svc.cluster.local, number 0x7862: A, or AAAA (RFC 3596).
    let (kind, any): (u8, IpAddr) = match node {
        IpAddr::V4(_) => (1, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (28, Ipv6Addr::UNSPECIFIED.into()),
    };
    let mut question = b"\x78\x62\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        question.push(u8::try_from(label.len()).unwrap_or(0));
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, kind, 0, 1]);
    let asked = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect((node, DNS_PORT)).await?;
        socket.send(&question).await?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).await?;
        // The same number, no error, at least one answer.
        std::io::Result::Ok(
            length > question.len() && answer[..2] == question[..2] && answer[3] & 0x0f == 0 && answer[6..8] != [0, 0],
        )
    };
    matches!(timeout(Duration::from_millis(500), asked).await, Ok(Ok(true)))
}

/// Where an agent answers for names, in its node's network namespace.
const DNS_PORT: u16 = 10_053;

fn explain_delay(cluster: &Cluster, paths: &Paths, seconds: u64) -> String {
    let state = State::load(paths);
    let mut text = format!("cluster {} is not ready after {seconds} s", cluster.name);
    if state.live_supervisor().is_none() {
        text += &format!("; its supervisor died:\n{}", tail(&paths.log("supervisor")));
        return text;
    }
    for (name, component) in &state.components {
        if let Some(error) = &component.last_error {
            text += &format!("\n  {name}: {error} ({} restarts)", component.restarts);
        }
    }
    for log in [SERVER.to_owned(), cluster.name.node(1), format!("{}-agent", cluster.name.node(1))] {
        text += &format!("\n{}:\n{}", paths.log(&log).display(), tail(&paths.log(&log)));
    }
    text
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].iter().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

fn print_next(cluster: &Cluster, paths: &Paths, news: &str) {
    let name = &cluster.name;
    let option = if name.as_str() == "xebec" { String::new() } else { format!(" --name {name}") };
    println!("cluster {name} {news}: {} nodes", cluster.nodes);
    println!();
    println!("  export KUBECONFIG={}", paths.kubeconfig().display());
    println!("  kubectl get pods -A");
    println!("  xebec status{option}");
    println!("  xebec exec{option} {} -- ip address", cluster.name.node(1));
    println!("  xebec down{option}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_short() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, (0..100).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&log).lines().count(), 8);
        assert!(tail(&log).ends_with("line 99"));
        assert_eq!(tail(&dir.path().join("none")), "");
    }
}
