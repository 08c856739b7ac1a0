//! `xebec image load`: images from archives, into every node's containerd.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use futures::future::join_all;
use xebec_clock::{Clock, Random};
use xebec_node_agent::images::ImageStore;
use xebec_node_agent::runtime::containerd::client::Client;

use crate::cluster::process::Process;
use crate::cluster::state::State;
use crate::cluster::{Cluster, Name, Paths};
use crate::node_init::CONTAINERD_SOCKET;
use crate::progress::Progress;

/// Images of a cluster on this machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Loads OCI or docker archives into every node
    Load {
        /// The cluster's name
        #[arg(long, default_value = "xebec")]
        name: Name,
        /// The archives (`docker save`, `skopeo copy ... oci-archive:FILE`)
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
}

/// `xebec image`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let Command::Load { name, archives } = &args.command;
    let Some(cluster) = Cluster::load(&Paths::of(name))? else {
        bail!("there is no cluster {name} (xebec up --name {name} makes one)");
    };
    for archive in archives {
        std::fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(load(&cluster, archives))
}

async fn load(cluster: &Cluster, archives: &[PathBuf]) -> anyhow::Result<()> {
    let progress = Progress::new();
    progress.doing(format!("loading {} archives into {} nodes", archives.len(), cluster.nodes));
    let state = State::load(&Paths::of(&cluster.name));
    let nodes = cluster.node_list().into_iter().map(|(node, _)| {
        let process = state.live(&node);
        async move {
            let process = process.with_context(|| format!("node {node} is not running (xebec up starts it)"))?;
            load_into(process, archives).await.with_context(|| format!("node {node}"))
        }
    });
    let results = join_all(nodes).await;
    progress.finish();
    let mut loaded = Vec::new();
    for result in results {
        loaded = result?;
    }
    for image in &loaded {
        println!("loaded {image}");
    }
    Ok(())
}

/// Through the node's own containerd, whose socket can be reached by way of its process 1. Returns the images' names.
async fn load_into(node: Process, archives: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let socket =
        Path::new("/proc").join(node.pid.to_string()).join("root").join(CONTAINERD_SOCKET.trim_start_matches('/'));
    let store = ImageStore::new(Client::new(&socket), Vec::new(), Clock::system(), Random::system());
    let mut names = Vec::new();
    for archive in archives {
        // An archive that names nothing is called as its file is.
        let fallback = archive.file_stem().map(|s| s.to_string_lossy().into_owned());
        let imported = store.import(archive, fallback.as_deref()).await;
        names.extend(imported.with_context(|| format!("cannot load {}", archive.display()))?);
    }
    Ok(names)
}
