//! `xebec bench dns`: our server and Debian's unbound, with the same names on the same core, asked by dnsperf from another.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;
use xebec_node_agent::dns::Names;
use xebec_node_agent::dns::answer::Answerer;
use xebec_node_agent::dns::autopath::Clients;
use xebec_node_agent::dns::forward::Forwarder;
use xebec_node_agent::dns::server::DnsServer;
use xebec_node_agent::dns::zone::{Service, Zone};
use xebec_node_agent::policy::Ear;

use super::figure::{Figure, percentile};

/// Names that are asked for.
const NAMES: u16 = 1_000;
/// How often each server is measured, in turns: the machine's mood changes.
const ROUNDS: usize = 5;
const ROUND_SECONDS: u32 = 3;
const OURS: u16 = 5_354;
const UNBOUND: u16 = 5_353;
/// Servers on one core, dnsperf on another.
const SERVER_CORE: usize = 0;
const CLIENT_CORE: &str = "1";
/// How long a server may take to start.
const START_TRIES: u32 = 100;

/// Another server; stopped when dropped.
struct Unbound(Child);

impl Drop for Unbound {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures both.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    // In a thread of its own, which goes to a network namespace and a core that nothing else here should be on.
    let measured = std::thread::spawn(measure).join();
    let (mut ours, mut unbound) = measured.map_err(|_| anyhow::anyhow!("the measuring thread died"))??;
    let mut ratios: Vec<f64> = ours.iter().zip(&unbound).map(|(ours, unbound)| ours / unbound.max(1.0)).collect();
    let rates = (percentile(&mut ours, 50), percentile(&mut unbound, 50));
    Ok(vec![
        Figure::at_least("DNS: queries a second by UDP", "/s", rates.0, rates.1, ours.len()),
        Figure::at_least(
            "DNS: against unbound with the same names and core",
            "",
            percentile(&mut ratios, 50),
            1.0,
            ratios.len(),
        ),
    ])
}

fn measure() -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (try sudo)")?;
    output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let mut cores = CpuSet::new();
    cores.set(SERVER_CORE)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("cannot choose a core; this bench needs two")?;
    let dir = tempfile::tempdir()?;
    let questions = dir.path().join("questions");
    std::fs::write(&questions, (0..NAMES).map(|i| format!("{} A\n", name(i))).collect::<String>())?;
    let _unbound = start_unbound(dir.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let _stopped = cancel.clone().drop_guard();
        let server = start_ours().await?;
        tokio::spawn(server.run(cancel));
        let (mut ours, mut unbound) = (Vec::new(), Vec::new());
        for port in [OURS, UNBOUND] {
            wait_for(port, &questions).await?;
        }
        for _ in 0..ROUNDS {
            ours.push(ask(OURS, &questions).await?);
            unbound.push(ask(UNBOUND, &questions).await?);
        }
        Ok((ours, unbound))
    })
}

fn name(number: u16) -> String {
    format!("svc-{number}.shop.svc.cluster.local")
}

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

async fn start_ours() -> anyhow::Result<DnsServer> {
    let mut zone = Zone::new("cluster.local", vec!["10.96.0.0/16".parse()?])?;
    for number in 0..NAMES {
        zone.set_service(Service {
            namespace: "shop".to_owned(),
            name: format!("svc-{number}"),
            addresses: vec![address(number).into()],
            ..Service::default()
        });
    }
    let clients = Clients::new(zone.origin(), Vec::new());
    let answerer = Answerer {
        names: Names::new(zone),
        forwarder: Forwarder::new(None),
        clients,
        random: Random::system(),
        ear: Ear::deaf(),
    };
    Ok(DnsServer::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), OURS), answerer).await?)
}

/// One thread, and as quick as its manual knows: static data, reused ports, nothing logged.
fn start_unbound(dir: &Path) -> anyhow::Result<Unbound> {
    let mut config = format!(
        "server:\n  interface: 127.0.0.1\n  port: {UNBOUND}\n  do-daemonize: no\n  num-threads: 1\n  username: \"\"\n  \
         chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  verbosity: 0\n  so-reuseport: yes\n  \
         access-control: 127.0.0.0/8 allow\n  local-zone: \"cluster.local.\" static\n"
    );
    for number in 0..NAMES {
        writeln!(config, "  local-data: \"{}. 5 IN A {}\"", name(number), address(number))?;
    }
    config += "remote-control:\n  control-enable: no\n";
    let path = dir.join("unbound.conf");
    std::fs::write(&path, config)?;
    let child = Command::new("unbound").arg("-c").arg(&path).stderr(Stdio::null()).spawn();
    Ok(Unbound(child.context("cannot run unbound (scripts/setup.sh test installs it)")?))
}

async fn wait_for(port: u16, questions: &Path) -> anyhow::Result<()> {
    for _ in 0..START_TRIES {
        let mut once = dnsperf(port, questions);
        if output_async(once.args(["-n", "1", "-t", "1"])).await.is_ok_and(|text| rate(&text).is_some_and(|r| r > 0.0))
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the DNS server at port {port} does not answer")
}

async fn ask(port: u16, questions: &Path) -> anyhow::Result<f64> {
    let mut command = dnsperf(port, questions);
    let text = output_async(command.args(["-l", &ROUND_SECONDS.to_string(), "-c", "8", "-q", "200"])).await?;
    rate(&text).with_context(|| format!("dnsperf did not say how many queries it made:\n{text}"))
}

fn dnsperf(port: u16, questions: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("taskset");
    command.args(["-c", CLIENT_CORE, "dnsperf", "-s", "127.0.0.1", "-p", &port.to_string(), "-d"]).arg(questions);
    command
}

fn rate(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.trim().strip_prefix("Queries per second:")?.trim().parse().ok())
}

async fn output_async(command: &mut tokio::process::Command) -> anyhow::Result<String> {
    let output = command.output().await.context("cannot run dnsperf (scripts/setup.sh test installs it)")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
