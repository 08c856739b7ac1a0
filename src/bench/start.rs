//! Start-up and idle memory.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use super::figure::{Figure, percentile};
use super::{OwnCluster, resident_mb};
use crate::api;
use crate::cluster::state::State;
use crate::cluster::{Cluster, Paths, cgroups, node};
use crate::supervise::SERVER;

const SERVER_STARTS: usize = 5;
/// A server that is not ready by then will not be.
const SERVER_BOUND: Duration = Duration::from_secs(30);
/// How long the cluster is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(15);

/// Measures all of it.
pub async fn run() -> anyhow::Result<Vec<Figure>> {
    let mut cold = Vec::new();
    for _ in 0..SERVER_STARTS {
        cold.push(server_start_ms().await?);
    }
    let cold_ms = percentile(&mut cold, 50);
    // Once to have the binary in place and the page cache warm: "images at hand".
    drop(OwnCluster::up()?);
    let started = Instant::now();
    let cluster = OwnCluster::up()?;
    let up_s = started.elapsed().as_secs_f64();
    sleep(IDLE).await;
    let (server_mb, agent_mb) = memory(&cluster.paths())?;
    Ok(vec![
        Figure::at_most("server: cold start to ready, empty store", "ms", cold_ms, 300.0, SERVER_STARTS),
        Figure::at_most("up: three nodes ready, DNS answering", "s", up_s, 3.0, 1),
        Figure::at_most("server: resident memory, idle", "MB", server_mb, 60.0, 1),
        Figure::at_most("agent: resident memory, idle, the largest of three", "MB", agent_mb, 40.0, 3),
    ])
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From the start of the process to the first `ok` from `/readyz`.
async fn server_start_ms() -> anyhow::Result<f64> {
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let data = dir.path().join("data");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr())?.port();
    let started = Instant::now();
    let child = Command::new("/proc/self/exe")
        .args(["server", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
        .args(["--port", &port.to_string(), "--data-dir"])
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start a server")?;
    let mut child = Killed(child);
    wait_until_ready(&data.join("admin.kubeconfig"), &mut child.0, started).await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

async fn wait_until_ready(kubeconfig: &Path, server: &mut Child, started: Instant) -> anyhow::Result<()> {
    let mut client = None;
    while started.elapsed() < SERVER_BOUND {
        if let Some(status) = server.try_wait()? {
            bail!("the server ended: {status}");
        }
        if client.is_none() && kubeconfig.exists() {
            client = api::client(kubeconfig).await.ok();
        }
        if let Some(client) = &client
            && api::ready(client).await.is_ok()
        {
            return Ok(());
        }
        sleep(Duration::from_millis(2)).await;
    }
    bail!("the server is not ready after {SERVER_BOUND:?}")
}

/// Resident memory of the server, and of the largest agent.
fn memory(paths: &Paths) -> anyhow::Result<(f64, f64)> {
    let cluster = Cluster::load(paths)?.context("the cluster is gone")?;
    let server = State::load(paths).live(SERVER).context("the server does not run")?;
    let server_mb = resident_mb(server.pid)?;
    let hierarchies = cgroups::hierarchies()?;
    let mut agent_mb = 0.0_f64;
    for (name, _) in cluster.node_list() {
        let agents = cgroups::members(&hierarchies, &node::group(&cluster, &name).join("agent"));
        for pid in agents {
            agent_mb = agent_mb.max(resident_mb(pid)?);
        }
    }
    if agent_mb == 0.0 {
        bail!("no agent runs");
    }
    Ok((server_mb, agent_mb))
}
