//! `xebec agent`: a node of a cluster. Finds the CA, becomes the node by certificate, and runs the node's parts.

pub mod config;
pub mod discovery;
pub mod identity;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};
use xebec_node_agent::AgentTls;
use xebec_pki::{Certified, ServerTls, client_config, server_config};

use crate::cluster::{cgroups, write_atomically};
use crate::renewing::Renewing;
use config::{AgentConfig, Trust};
use identity::{Node, Purpose, SwitchingClient, private_dir};

/// A CA file may be the work of a server that starts at the same time.
const CA_PATIENCE: Duration = Duration::from_secs(60);

/// Threads that tasks run on, at most.
const MAX_THREADS: usize = 4;

/// `xebec agent`: runs until SIGTERM or SIGINT. Pods, their connections and what is in the kernel stay.
pub fn main(args: config::Args) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("must run as root: pods are made of namespaces, mounts and BPF programs (try sudo)");
    }
    let config = args.load()?;
    // An agent mostly waits; a thread for each core of a large machine would only cost memory.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.spawn(crate::memory::forget_start());
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            result = asked_to_stop() => result,
            result = run(config) => result,
        }
    });
    // What hangs now would hang for ever.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn asked_to_stop() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to stop");
    Ok(())
}

/// Who this node is, and everything it needs to prove it.
struct Joined {
    client: kube::Client,
    tls: AgentTls,
}

/// Has the node's certificates made, or takes those kept; renews them from now on.
async fn join(config: &AgentConfig, clock: &Clock, random: &Random) -> anyhow::Result<Joined> {
    let dir = config.data_dir.join("pki");
    private_dir(&dir)?;
    let node = Node {
        server: config.server.clone(),
        ca: find_ca(config, &dir).await?,
        name: config.node_name.clone(),
        serves_as: vec![config.node_name.clone(), config.node_ip.to_string()],
        dir,
        token: config.token.clone(),
        clock: clock.clone(),
        random: random.clone(),
    };
    let own = match (node.kept(Purpose::Client), &config.token) {
        (Some(kept), _) => kept,
        (None, Some(token)) => {
            tracing::info!("joining {} as {}", config.server, config.node_name);
            node.obtain(Purpose::Client, || node.joining_client(token)).await?
        }
        (None, None) => bail!(
            "this node has no certificate yet: give it a token to join with (`xebec token create` on the server's machine \
             prints the command)"
        ),
    };
    let switching = SwitchingClient::new(node.client(&own)?);
    let client = switching.client();
    let serving = match node.kept(Purpose::Serving) {
        Some(kept) => kept,
        None => node.obtain(Purpose::Serving, || Ok(client.clone())).await?,
    };
    let tls = |certified: &Certified| {
        server_config(&ServerTls { certified, client_ca_pem: &node.ca }, clock).context("cannot set up TLS")
    };
    let (renewing, config) = Renewing::new(tls(&serving)?);
    let (to_agents, newest) = watch::channel(client_tls(&node, &own)?);
    let tls = AgentTls { server: Arc::new(config), client: newest };
    renew(&node, own, Own { switching, to_agents }, serving, renewing);
    Ok(Joined { client, tls })
}

fn client_tls(node: &Node, own: &Certified) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    client_config(&node.ca, Some(own), &node.clock).context("cannot set up TLS")
}

/// What shows the node's client certificate.
struct Own {
    /// To the API server.
    switching: SwitchingClient,
    /// To other agents.
    to_agents: watch::Sender<Arc<rustls::ClientConfig>>,
}

fn renew(node: &Node, own: Certified, shown: Own, serving: Certified, renewing: Arc<Renewing>) {
    let Own { switching, to_agents } = shown;
    let client = switching.client();
    let (for_client, for_serving) = (node.clone(), node.clone());
    let with = client.clone();
    tokio::spawn(async move {
        let switch = |new: &Certified| {
            let (client, tls) = (for_client.client(new)?, client_tls(&for_client, new)?);
            switching.switch(client);
            to_agents.send_replace(tls);
            Ok(())
        };
        for_client.keep_fresh(Purpose::Client, own, with, switch).await;
    });
    tokio::spawn(async move {
        let show = |new: &Certified| {
            let tls = ServerTls { certified: new, client_ca_pem: &for_serving.ca };
            server_config(&tls, &for_serving.clock).map(|new| renewing.renew(&new)).context("cannot set up TLS")
        };
        for_serving.keep_fresh(Purpose::Serving, serving, client, show).await;
    });
}

async fn find_ca(config: &AgentConfig, dir: &Path) -> anyhow::Result<String> {
    let kept = dir.join("ca.crt");
    match &config.trust {
        Trust::File(path) => discovery::from_file(path, CA_PATIENCE).await,
        Trust::Kept if kept.exists() => discovery::from_file(&kept, Duration::ZERO).await,
        Trust::Kept => bail!("which CA? Give --ca-hash or --ca-file (`xebec token create` prints the command)"),
        Trust::Hash(hash) => {
            if let Ok(ca) = discovery::from_file(&kept, Duration::ZERO).await
                && discovery::pin(ca.as_bytes()).is_ok_and(|pin| pin == *hash)
            {
                return Ok(ca);
            }
            let ca = discovery::by_pin(&config.server, hash).await?;
            write_atomically(&kept, ca.as_bytes(), 0o644)?;
            Ok(ca)
        }
    }
}

async fn run(config: AgentConfig) -> anyhow::Result<()> {
    let (clock, random) = (Clock::system(), Random::system());
    let hierarchies = cgroups::hierarchies()?;
    let Some(cgroup) = cgroups::unified(&hierarchies) else {
        bail!(
            "no cgroup version 2 is mounted, which BPF programs attach to (mkdir -p /sys/fs/cgroup/unified && mount -t \
             cgroup2 cgroup2 /sys/fs/cgroup/unified)"
        )
    };
    let joined = join(&config, &clock, &random).await?;
    let node = xebec_node_agent::AgentConfig {
        labels: config.node_labels,
        run_dir: "/run/xebec-agent".into(),
        log_root: config.log_dir,
        containerd_socket: config.containerd_socket,
        insecure_registries: config.insecure_registries,
        cgroup: cgroup.to_owned(),
        resolv_conf: config.resolv_conf,
        uplink: config.uplink,
        tunnel: config.tunnel,
        xdp: config.xdp,
        load_balancer_mode: config.load_balancer_mode,
        eviction: config.eviction,
        images: config.images,
        data_dir: config.data_dir,
        second_ip: config.second_ip,
        ..xebec_node_agent::AgentConfig::new(&config.node_name, config.node_ip)
    };
    let stop = CancellationToken::new();
    // Stopped by dropping; what is in the kernel and in containerd stays.
    let _stopped = stop.clone().drop_guard();
    xebec_node_agent::run(node, joined.client, joined.tls, clock, random, stop).await.context("the node")
}
