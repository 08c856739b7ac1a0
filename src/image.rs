//! `xebec image load`: images from archives, into every node's containerd.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use futures::future::join_all;
use xebec_clock::{Clock, Random};
use xebec_node_agent::images::ImageStore;
use xebec_node_agent::runtime::containerd::client::Client;

use crate::cluster::machine::commands::client::Target;
use crate::cluster::state::State;
use crate::cluster::{Cluster, Name, NodeKind, Paths};
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
    /// Loads archives into the containerd of the node that this runs on (started by `load`)
    #[command(hide = true)]
    Import {
        /// The archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
}

/// `xebec image`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let (name, archives) = match &args.command {
        Command::Load { name, archives } => (name, archives),
        Command::Import { archives } => return import_here(archives),
    };
    let Some(cluster) = Cluster::load(&Paths::of(name))? else {
        bail!("there is no cluster {name} (xebec up --name {name} makes one)");
    };
    for archive in archives {
        std::fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let progress = Progress::new();
        progress.doing(format!("loading {} archives into {} nodes", archives.len(), cluster.nodes));
        let loaded = match cluster.node_kind {
            NodeKind::Namespaces => load_into_namespaces(&cluster, archives).await,
            NodeKind::Machines(_) => load_into_machines(&cluster, archives).await,
        };
        progress.finish();
        loaded?.iter().for_each(|image| println!("loaded {image}"));
        Ok(())
    })
}

fn import_here(archives: &[PathBuf]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let loaded = runtime.block_on(import(Path::new(CONTAINERD_SOCKET), archives))?;
    loaded.iter().for_each(|image| println!("{image}"));
    Ok(())
}

/// Through each node's own containerd, whose socket can be reached by way of its process 1.
async fn load_into_namespaces(cluster: &Cluster, archives: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let state = State::load(&Paths::of(&cluster.name));
    let nodes = cluster.node_list().into_iter().map(|(node, _)| {
        let process = state.live(&node);
        async move {
            let process = process.with_context(|| format!("node {node} is not running (xebec up starts it)"))?;
            let root = Path::new("/proc").join(process.pid.to_string()).join("root");
            let socket = root.join(CONTAINERD_SOCKET.trim_start_matches('/'));
            import(&socket, archives).await.with_context(|| format!("node {node}"))
        }
    });
    all_alike(join_all(nodes).await)
}

/// A machine reads the archives where it shares the host's files, and loads them itself.
async fn load_into_machines(cluster: &Cluster, archives: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let paths = Paths::of(&cluster.name);
    let shared = tempfile::Builder::new().prefix("images-").tempdir_in(&paths.state);
    let shared = shared.with_context(|| format!("cannot make a directory in {}", paths.state.display()))?;
    let mut command = vec![paths.binary().display().to_string(), "image".into(), "import".into()];
    for (number, archive) in archives.iter().enumerate() {
        // Its name may be the image's.
        let dir = shared.path().join(number.to_string());
        let copy = dir.join(archive.file_name().with_context(|| format!("{} is no file", archive.display()))?);
        let copied = std::fs::create_dir(&dir).and_then(|()| std::fs::copy(archive, &copy));
        copied.with_context(|| format!("cannot copy {} to {}", archive.display(), copy.display()))?;
        command.push(copy.to_str().context("a name that is not UTF-8")?.to_owned());
    }
    let nodes = cluster.node_list().into_iter().map(|(node, _)| {
        let command = &command;
        async move {
            let loaded = async { Target::of(cluster, &node)?.output(command).await }.await;
            Ok(loaded.with_context(|| format!("node {node}"))?.lines().map(str::to_owned).collect())
        }
    });
    all_alike(join_all(nodes).await)
}

/// What every node says, unless one fails.
fn all_alike(results: Vec<anyhow::Result<Vec<String>>>) -> anyhow::Result<Vec<String>> {
    let said = results.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    Ok(said.into_iter().next_back().unwrap_or_default())
}

/// Loads archives into the containerd that listens at `socket`. Returns the images' names.
async fn import(socket: &Path, archives: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let store = ImageStore::new(Client::new(socket), Vec::new(), Clock::system(), Random::system());
    let mut names = Vec::new();
    for archive in archives {
        // An archive that names nothing is called as its file is.
        let fallback = archive.file_stem().map(|s| s.to_string_lossy().into_owned());
        let imported = store.import(archive, fallback.as_deref()).await;
        names.extend(imported.with_context(|| format!("cannot load {}", archive.display()))?);
    }
    Ok(names)
}
