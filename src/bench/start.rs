//! Start-up and idle memory.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use super::figure::{Figure, percentile};
use super::server::OwnServer;
use super::{OwnCluster, resident_mb};
use crate::cluster::state::State;
use crate::cluster::{Cluster, Paths, cgroups, node};
use crate::supervise::SERVER;

const SERVER_STARTS: usize = 5;
/// How long the cluster is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(15);

/// Measures all of it.
pub async fn run() -> anyhow::Result<Vec<Figure>> {
    let mut cold = Vec::new();
    for _ in 0..SERVER_STARTS {
        cold.push(OwnServer::start().await?.started_in.as_secs_f64() * 1e3);
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
