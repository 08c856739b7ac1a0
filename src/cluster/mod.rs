//! A cluster on one machine: what it is called, where its things are, and what it is made of.
//!
//! Everything of a cluster hangs on its name: the state directory, the runtime directory, the cgroup and the host's
//! link, so that `down` can find all of it even when a crash left no record.

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

pub mod addresses;
pub mod cgroups;
pub mod dns_relay;
pub mod egress;
pub mod links;
pub mod machine;
pub mod mounts;
pub mod namespaces;
pub mod node;
pub mod preflight;
pub mod process;
pub mod state;

use addresses::Addresses;

/// Where clusters keep what must survive a reboot.
pub const STATE_ROOT: &str = "/var/lib/xebec";
/// Where clusters keep what need not.
pub const RUN_ROOT: &str = "/run/xebec";
/// More nodes than this do not fit between the API server's address and the load balancers' pool.
pub const MAX_NODES: u16 = 100;

/// A cluster's name: a DNS label of at most 32 characters, since node names and cgroups are made from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of node `number` (from 1): `xebec-1`.
    pub fn node(&self, number: u16) -> String {
        format!("{}-{number}", self.0)
    }

    /// The kubeconfig context: `xebec`, or `xebec-NAME` for a cluster with another name.
    pub fn context(&self) -> String {
        if self.0 == "xebec" || self.0.starts_with("xebec-") { self.0.clone() } else { format!("xebec-{}", self.0) }
    }

    /// The cluster's cgroup, below the root of each hierarchy.
    pub fn cgroup(&self) -> PathBuf {
        Path::new("xebec").join(&self.0)
    }
}

/// The text is no name for a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's name is 1 to 32 lower-case letters, digits and '-', not at the ends; got {0:?}")]
pub struct NotAName(String);

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty()
            || text.len() > 32
            || !text.chars().all(inner)
            || text.starts_with('-')
            || text.ends_with('-')
        {
            return Err(NotAName(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a cluster's files are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `/var/lib/xebec/NAME`.
    pub state: PathBuf,
    /// `/run/xebec/NAME`.
    pub run: PathBuf,
}

impl Paths {
    /// Those of the cluster `name`.
    pub fn of(name: &Name) -> Self {
        Self { state: Path::new(STATE_ROOT).join(name.as_str()), run: Path::new(RUN_ROOT).join(name.as_str()) }
    }

    /// The description of the cluster: [`Cluster`].
    pub fn config(&self) -> PathBuf {
        self.state.join("cluster.json")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// The copy of the binary that the cluster runs, so that a rebuild does not pull it from under it.
    pub fn binary(&self) -> PathBuf {
        self.state.join("bin/xebec")
    }

    /// The API server's data: store, keys, certificates.
    pub fn server(&self) -> PathBuf {
        self.state.join("server")
    }

    /// The agents' configuration, as `up` was given it.
    pub fn agent_config(&self) -> PathBuf {
        self.state.join("agent.yaml")
    }

    /// The configuration file of `xebec server`.
    pub fn server_config(&self) -> PathBuf {
        self.state.join("server.yaml")
    }

    /// The token that this cluster's own agents join with.
    pub fn join_token(&self) -> PathBuf {
        self.state.join("join-token")
    }

    /// A node's data: containers, images, pods.
    pub fn node(&self, node: &str) -> PathBuf {
        self.state.join("nodes").join(node)
    }

    /// A log file.
    pub fn log(&self, of: &str) -> PathBuf {
        self.state.join("logs").join(format!("{of}.log"))
    }

    /// The authority for commands in its machines.
    pub fn machines(&self) -> PathBuf {
        self.state.join("machines")
    }

    /// What a node that is a machine needs while it runs.
    pub fn machine(&self, node: &str) -> PathBuf {
        self.run.join("machines").join(node)
    }

    /// What runs at the moment: [`state::State`].
    pub fn running(&self) -> PathBuf {
        self.run.join("state.json")
    }

    /// The network namespace with the bridge and the API server.
    pub fn fabric(&self) -> PathBuf {
        self.run.join("fabric")
    }
}

/// Which addresses a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// Both, IPv4 first.
    Dual,
    /// Both, IPv6 first: the addresses of nodes, pods and services that don't say otherwise.
    #[serde(rename = "dual-ipv6")]
    #[value(name = "dual-ipv6")]
    DualIpv6,
    /// IPv6 alone.
    Ipv6,
}

impl IpFamily {
    /// Whether it has IPv4.
    pub fn has_v4(self) -> bool {
        self != Self::Ipv6
    }

    /// Whether it has IPv6.
    pub fn has_v6(self) -> bool {
        self != Self::Ipv4
    }

    /// Whether IPv6 comes first.
    pub fn prefers_v6(self) -> bool {
        matches!(self, Self::DualIpv6 | Self::Ipv6)
    }
}

/// What a cluster's nodes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum NodeKind {
    /// Sets of namespaces, on this machine's kernel.
    #[default]
    Namespaces,
    /// Virtual machines, each with a kernel of its own.
    Machines(machine::Settings),
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespaces => f.write_str("sets of namespaces"),
            Self::Machines(settings) => settings.fmt(f),
        }
    }
}

/// What a cluster is made of. Kept as `cluster.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its name.
    pub name: Name,
    /// Which of the machine's address blocks it has.
    pub index: u8,
    /// How many nodes.
    pub nodes: u16,
    /// Which addresses it has.
    #[serde(default)]
    pub ip_family: IpFamily,
    /// What its nodes are.
    #[serde(default)]
    pub node_kind: NodeKind,
    /// The kubeconfig's current context before `up` set ours, to put back on `down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_context: Option<String>,
    /// `up` turned on IPv4 forwarding on these links of the host, to turn off on `down`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwarding_set: Vec<String>,
}

impl Cluster {
    /// The cluster as it was recorded; `None` if there is none.
    pub fn load(paths: &Paths) -> anyhow::Result<Option<Self>> {
        read_json(&paths.config())
    }

    /// Records it.
    pub fn save(&self, paths: &Paths) -> anyhow::Result<()> {
        write_atomically(&paths.config(), &serde_json::to_vec_pretty(self)?, 0o644)
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        Addresses::of(self.index)
    }

    /// What stands for one of the block's addresses in the family that the cluster prefers, with the prefix of its network.
    pub fn preferred(&self, address: Ipv4Addr) -> IpNet {
        self.of_family(address, self.ip_family.prefers_v6())
    }

    fn of_family(&self, address: Ipv4Addr, is_v6: bool) -> IpNet {
        let addresses = self.addresses();
        if is_v6 { addresses.on_link6(address).into() } else { addresses.on_link(address).into() }
    }

    /// What stands for it in each family that the cluster has; the preferred one first.
    pub fn in_families(&self, address: Ipv4Addr) -> Vec<IpNet> {
        let has_both = self.ip_family.has_v4() && self.ip_family.has_v6();
        let second = has_both.then(|| self.of_family(address, !self.ip_family.prefers_v6()));
        [self.preferred(address)].into_iter().chain(second).collect()
    }

    /// The names and addresses of its nodes.
    pub fn node_list(&self) -> Vec<(String, IpAddr)> {
        (1..=self.nodes).map(|n| (self.name.node(n), self.preferred(self.addresses().node(n)).addr())).collect()
    }

    /// The host's link into the cluster's network. Interface names have at most 15 characters.
    pub fn host_link(&self) -> String {
        host_link(&self.name)
    }
}

/// See [`Cluster::host_link`]. Names too long for an interface are cut and told apart by a hash.
pub fn host_link(name: &Name) -> String {
    let name = name.as_str();
    if name.len() <= 12 {
        return format!("xb-{name}");
    }
    // FNV-1a; what matters is that it is the same every time.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("xb-{}{:06x}", &name[..6], hash & 0xff_ffff)
}

/// The clusters that have a state directory on this machine.
pub fn all() -> anyhow::Result<Vec<Cluster>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(STATE_ROOT) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(e).context(format!("cannot read {STATE_ROOT}")),
    };
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().and_then(|n| n.parse::<Name>().ok()) else { continue };
        if let Some(cluster) = Cluster::load(&Paths::of(&name))? {
            found.push(cluster);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A lock on a directory, held while `up` or `down` works on what is in it.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Waits for the lock on `dir`, which is made if it is not there. The directory may be removed while the lock is
    /// held (by `down`); whoever waited then starts over with the new one.
    pub fn take(dir: &Path) -> anyhow::Result<Self> {
        loop {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let file = match File::open(dir) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).context(format!("cannot open {}", dir.display())),
            };
            let file = match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(file) => file,
                Err((_, nix::errno::Errno::EINTR)) => continue,
                Err((_, e)) => bail!("cannot lock {}: {e}", dir.display()),
            };
            let held = file.metadata()?.ino();
            if fs::metadata(dir).is_ok_and(|now| now.ino() == held) {
                return Ok(Self { _file: file });
            }
        }
    }
}

/// Reads a JSON file; `None` if it is not there.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} is damaged; `xebec down` removes it", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(format!("cannot read {}", path.display())),
    }
}

/// Replaces a file as a whole: a reader or a crash sees the old content or the new.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let part = path.with_extension(format!("part-{}", std::process::id()));
        let _ = fs::remove_file(&part);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        let written = file.write_all(content).and_then(|()| fs::rename(&part, path));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["xebec", "a", "x-1", "0", &"a".repeat(32)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", &"a".repeat(33)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn link_names_fit_an_interface() {
        assert_eq!(host_link(&"xebec".parse().unwrap()), "xb-xebec");
        let long = host_link(&"integration-tests-one".parse().unwrap());
        let other = host_link(&"integration-tests-two".parse().unwrap());
        assert!(long.len() <= 15 && other.len() <= 15);
        assert_ne!(long, other);
    }

    #[test]
    fn the_context_says_xebec() {
        assert_eq!("xebec".parse::<Name>().unwrap().context(), "xebec");
        assert_eq!("dev".parse::<Name>().unwrap().context(), "xebec-dev");
    }

    #[test]
    fn a_lock_waits_for_the_holder_and_survives_removal() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("locked");
        let first = Lock::take(&dir).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiting = dir.clone();
        let thread = std::thread::spawn(move || {
            let second = Lock::take(&waiting).unwrap();
            sender.send(()).unwrap();
            second
        });
        assert!(receiver.recv_timeout(std::time::Duration::from_millis(50)).is_err());
        fs::remove_dir(&dir).unwrap();
        drop(first);
        receiver.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
        drop(thread.join().unwrap());
        assert!(dir.exists());
    }

    #[test]
    fn files_are_replaced_with_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_atomically(&path, b"one", 0o600).unwrap();
        write_atomically(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
