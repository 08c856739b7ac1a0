//! A node, seen from the supervisor: its description, its groups, its start.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::namespaces::{Contained, spawn_contained};
use super::process::Process;
use super::{Cluster, NodeKind, Paths, cgroups, links, machine};

/// What `xebec node-init` is told on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The node's name, and its host name.
    pub name: String,
    /// Its addresses on the cluster's network, the preferred one first.
    pub addresses: Vec<NodeAddress>,
    /// Where containers, images and pods are kept.
    pub data: PathBuf,
    /// Where the logs go.
    pub logs: PathBuf,
    /// The binary.
    pub program: PathBuf,
    /// The API server.
    pub server: String,
    /// The cluster's CA certificate.
    pub ca_file: PathBuf,
    /// The token to join with.
    pub token_file: PathBuf,
    /// The agent's configuration file.
    pub agent_config: PathBuf,
    /// The authority of those who may have commands run on the node, for one that is a machine: nobody can enter it.
    #[serde(default)]
    pub commands: Option<PathBuf>,
}

/// A node's address of one family.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    /// The address, with the prefix of its network.
    pub own: IpNet,
    /// The way out; the first one's is the resolver, too.
    pub gateway: IpAddr,
}

impl NodeSpec {
    /// That of node `number` (from 1).
    pub fn of(cluster: &Cluster, paths: &Paths, number: u16) -> Self {
        let addresses = cluster.addresses();
        let name = cluster.name.node(number);
        let own = cluster.in_families(addresses.node(number)).into_iter();
        let of_both = own.zip(cluster.in_families(addresses.host()));
        Self {
            addresses: of_both.map(|(own, host)| NodeAddress { own, gateway: host.addr() }).collect(),
            data: paths.node(&name),
            logs: paths.state.join("logs"),
            program: paths.binary(),
            server: format!("https://{}", SocketAddr::new(cluster.preferred(addresses.server()).addr(), 6443)),
            ca_file: paths.server().join("ca.crt"),
            token_file: paths.join_token(),
            agent_config: paths.agent_config(),
            commands: matches!(cluster.node_kind, NodeKind::Machines(_)).then(|| paths.machines()),
            name,
        }
    }

    /// The log file of one of the node's programs.
    pub fn log(&self, program: &str) -> PathBuf {
        self.logs.join(format!("{}-{program}.log", self.name))
    }
}

/// The node's cgroup, below the root of each hierarchy.
pub fn group(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.name.cgroup().join(node)
}

/// Starts a node that does not run: clears what an earlier life left, makes it anew, connects it. It lives as long as the
/// process that is returned.
pub async fn start(cluster: &Cluster, paths: &Paths, number: u16, fabric: BorrowedFd<'_>) -> anyhow::Result<Process> {
    match &cluster.node_kind {
        NodeKind::Namespaces => start_namespaces(cluster, paths, number, fabric).await,
        NodeKind::Machines(_) => machine::start(cluster, paths, number),
    }
}

async fn start_namespaces(
    cluster: &Cluster,
    paths: &Paths,
    number: u16,
    fabric: BorrowedFd<'_>,
) -> anyhow::Result<Process> {
    let spec = NodeSpec::of(cluster, paths, number);
    let hierarchies = cgroups::hierarchies()?;
    let group = group(cluster, &spec.name);
    clear(&hierarchies, &group)?;
    cgroups::create(&hierarchies, &group)?;
    fs::create_dir_all(&spec.data).with_context(|| format!("cannot make {}", spec.data.display()))?;
    let log = open_log(&paths.log(&spec.name))?;
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let pid = spawn_contained(Contained {
        program: &spec.program,
        arguments: &["xebec", "node-init", &spec.name],
        groups: &cgroups::procs_files(&hierarchies, &group),
        input: read,
        output: log.into(),
    })?;
    let process = Process::of(pid).context("the node died at once")?;
    let told = async {
        links::connect_node(fabric, number, cluster.addresses().node(number), pid).await?;
        // It waits for this before it does anything. 64 KiB fit into the pipe; this is less than one.
        File::from(write).write_all(&serde_json::to_vec(&spec)?).context("the node died before it was told its name")
    };
    if let Err(e) = told.await {
        if let Some(fd) = process.open() {
            let _ = fd.signal(nix::sys::signal::Signal::SIGKILL);
        }
        return Err(e);
    }
    Ok(process)
}

/// Empties and removes a node's groups.
pub fn clear(hierarchies: &[cgroups::Hierarchy], group: &Path) -> anyhow::Result<()> {
    cgroups::kill_all(hierarchies, group)?;
    cgroups::remove(hierarchies, group).map(drop)
}

/// Opens a log to append to.
pub fn open_log(path: &Path) -> anyhow::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    File::options().create(true).append(true).open(path).with_context(|| format!("cannot open {}", path.display()))
}
