//! The configuration of `xebec agent`: a YAML file, and flags that go before it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use xebec_node_agent::eviction::{EvictionConfig, threshold};
use xebec_node_agent::images::unused::ImagePolicy;
use xebec_node_agent::network::{LoadBalancerMode, Tunnel, Xdp};
use xebec_pki::BootstrapToken;

use super::discovery::parse_pin;

/// Runs a node: its pods, its service proxy, its DNS. Flags go before what the configuration file says.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Args {
    /// A configuration file (YAML; its fields are called as the flags are, in camelCase)
    #[arg(long)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The API server, https://HOST:PORT
    #[arg(long)]
    pub server: Option<String>,
    /// The token to join with, as `xebec token create` prints it
    #[arg(long, env = "XEBEC_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds it
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// The cluster's CA certificate, PEM
    #[arg(long)]
    pub ca_file: Option<PathBuf>,
    /// Its hash, as `xebec token create` prints it: the certificate itself is then asked of the server
    #[arg(long)]
    pub ca_hash: Option<String>,
    /// The node's name [default: the host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// The node's address; for dual stack of both families, in the order of the cluster's [default: that of the way to the
    /// server]
    #[arg(long)]
    pub node_ip: Option<String>,
    /// Where pods, certificates and leases are kept [default: /var/lib/xebec-agent]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// containerd's socket [default: /run/containerd/containerd.sock]
    #[arg(long)]
    pub containerd_socket: Option<PathBuf>,
    /// The resolver configuration for names outside the cluster [default: /etc/resolv.conf]
    #[arg(long)]
    pub resolv_conf: Option<PathBuf>,
    /// Where pods' logs are kept [default: /var/log/pods]
    #[arg(long)]
    pub log_dir: Option<PathBuf>,
    /// A label to register the node with, KEY=VALUE; may be given again
    #[arg(long = "node-label")]
    pub node_labels: Vec<String>,
    /// A registry (HOST:PORT) to speak to in plain HTTP; may be given again
    #[arg(long = "insecure-registry")]
    pub insecure_registries: Vec<String>,
    /// The interface that has the node's address [default: look for it]
    #[arg(long)]
    pub uplink: Option<String>,
    /// When other nodes' pods are reached through VXLAN: auto (nodes not on the same link), always, never
    #[arg(long, value_parser = parse_when::<Tunnel>)]
    pub tunnel: Option<Tunnel>,
    /// When the uplink's driver forwards NodePorts and load balancers to other nodes, by XDP: auto (where it can, but for veth
    /// and virtio_net, whose other traffic it slows down), always (where it can), never [default: auto]
    #[arg(long, value_parser = parse_when::<Xdp>)]
    pub xdp: Option<Xdp>,
    /// How NodePorts and load balancers reach pods of other nodes: snat, or dsr (direct server return, which keeps the
    /// client's address); a service's annotation xebec.io/load-balancer-mode comes first [default: snat]
    #[arg(long, value_parser = parse_mode)]
    pub load_balancer_mode: Option<LoadBalancerMode>,
    /// When pods have to go: SIGNAL<AMOUNT or SIGNAL<PERCENT%, with commas between, as the kubelet takes them; instead of all of
    /// the defaults [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,
    /// imagefs.inodesFree<5%]
    #[arg(long, value_parser = parse_thresholds)]
    pub eviction_hard: Option<Thresholds>,
    /// How long a node counts as short of something after it was [default: 5m]
    #[arg(long)]
    pub eviction_pressure_transition_period: Option<String>,
    /// When this much of the images' disk is used, images go that nobody uses; 100: never [default: 85]
    #[arg(long)]
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<u8>,
    /// Until this much is [default: 80]
    #[arg(long)]
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Option<u8>,
    /// But none that is here for less than this [default: 2m]
    #[arg(long)]
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Option<String>,
    /// The machine's disk is not the node's own: that others fill it is no reason for pods and images to go while some is
    /// left. What is said of it above comes first
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub shared_machine: bool,
}

/// Thresholds as they are written: by signal.
pub type Thresholds = BTreeMap<String, String>;

fn parse_when<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|_| "one of auto, always, never".to_owned())
}

fn parse_mode(text: &str) -> Result<LoadBalancerMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "one of snat, dsr".to_owned())
}

fn parse_thresholds(text: &str) -> Result<Thresholds, String> {
    let pair = |part: &str| {
        let (signal, least) = part.split_once('<').ok_or_else(|| format!("{part:?} is not SIGNAL<AMOUNT"))?;
        Ok((signal.trim().to_owned(), least.trim().to_owned()))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

fn parse_duration(what: &str, text: &str) -> anyhow::Result<Duration> {
    let parsed: jiff::SignedDuration =
        text.parse().with_context(|| format!("{what} {text:?} is no duration, as 5m is"))?;
    Duration::try_from(parsed).with_context(|| format!("{what} {text:?} is negative"))
}

/// A configuration that is complete.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `https://HOST:PORT`.
    pub server: http::Uri,
    /// The token to join with; not needed once the node has its certificate.
    pub token: Option<BootstrapToken>,
    /// Which CA to trust.
    pub trust: Trust,
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub node_ip: IpAddr,
    /// Dual stack: its address of the other family.
    pub second_ip: Option<IpAddr>,
    /// Where pods, certificates and leases are kept.
    pub data_dir: PathBuf,
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// The resolver configuration for names outside the cluster.
    pub resolv_conf: PathBuf,
    /// Where pods' logs are kept.
    pub log_dir: PathBuf,
    /// Labels to register the node with.
    pub node_labels: BTreeMap<String, String>,
    /// Registries spoken to in plain HTTP.
    pub insecure_registries: Vec<String>,
    /// The interface that has the node's address.
    pub uplink: Option<String>,
    /// When other nodes' pods are reached through VXLAN.
    pub tunnel: Tunnel,
    /// When the uplink's driver forwards NodePorts.
    pub xdp: Xdp,
    /// How services are forwarded to other nodes that do not say themselves.
    pub load_balancer_mode: LoadBalancerMode,
    /// When pods have to go.
    pub eviction: EvictionConfig,
    /// When images that nobody uses go.
    pub images: ImagePolicy,
}

/// Which CA to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The one in this file.
    File(PathBuf),
    /// The one with this hash.
    Hash(String),
    /// The one kept from before.
    Kept,
}

impl Args {
    /// The file and the flags together, checked.
    pub fn load(self) -> anyhow::Result<AgentConfig> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None => Self::default(),
        };
        let Some(server) = self.server.or(file.server) else {
            bail!("which API server? Give --server https://HOST:6443 (`xebec token create` there prints the command)")
        };
        let server: http::Uri = server.parse().with_context(|| format!("--server {server:?} is not an address"))?;
        ensure!(
            server.scheme_str() == Some("https") && server.host().is_some() && server.path() == "/",
            "--server must be https://HOST:PORT, and is {server}"
        );
        let token = self.token.or(file.token);
        let token_file = self.token_file.or(file.token_file);
        let trust = match (self.ca_file.or(file.ca_file), self.ca_hash.or(file.ca_hash)) {
            (Some(path), _) => Trust::File(path),
            (None, Some(hash)) => Trust::Hash(parse_pin(&hash).map_err(anyhow::Error::msg)?),
            (None, None) => Trust::Kept,
        };
        let node_name = match self.node_name.or(file.node_name) {
            Some(name) => name,
            None => host_name()?,
        };
        check_node_name(&node_name)?;
        let shared = self.shared_machine;
        let eviction = eviction(
            self.eviction_hard.or(file.eviction_hard),
            self.eviction_pressure_transition_period.or(file.eviction_pressure_transition_period),
            shared,
        )?;
        let images = images(
            self.image_gc_high_threshold_percent.or(file.image_gc_high_threshold_percent),
            self.image_gc_low_threshold_percent.or(file.image_gc_low_threshold_percent),
            self.image_minimum_gc_age.or(file.image_minimum_gc_age),
            shared,
        )?;
        let (node_ip, second_ip) = match self.node_ip.or(file.node_ip) {
            Some(addresses) => node_ips(&addresses)?,
            None => (way_to(&server)?, None),
        };
        Ok(AgentConfig {
            token: read_token(token, token_file.as_deref())?,
            trust,
            node_name,
            node_ip,
            second_ip,
            data_dir: self.data_dir.or(file.data_dir).unwrap_or_else(|| "/var/lib/xebec-agent".into()),
            containerd_socket: self
                .containerd_socket
                .or(file.containerd_socket)
                .unwrap_or_else(|| "/run/containerd/containerd.sock".into()),
            resolv_conf: self.resolv_conf.or(file.resolv_conf).unwrap_or_else(|| "/etc/resolv.conf".into()),
            log_dir: self.log_dir.or(file.log_dir).unwrap_or_else(|| "/var/log/pods".into()),
            node_labels: parse_labels(file.node_labels.iter().chain(&self.node_labels))?,
            insecure_registries: [file.insecure_registries, self.insecure_registries].concat(),
            uplink: self.uplink.or(file.uplink),
            tunnel: self.tunnel.or(file.tunnel).unwrap_or_default(),
            xdp: self.xdp.or(file.xdp).unwrap_or_default(),
            load_balancer_mode: self.load_balancer_mode.or(file.load_balancer_mode).unwrap_or_default(),
            eviction,
            images,
            server,
        })
    }
}

fn eviction(hard: Option<Thresholds>, transition: Option<String>, shared: bool) -> anyhow::Result<EvictionConfig> {
    let default = EvictionConfig::default();
    let what = "evictionPressureTransitionPeriod";
    Ok(EvictionConfig {
        hard: match hard {
            Some(hard) => threshold::parse(&hard).context("evictionHard")?,
            None if shared => threshold::of_shared_machine(),
            None => default.hard,
        },
        pressure_transition: transition.map_or(Ok(default.pressure_transition), |text| parse_duration(what, &text))?,
        every: default.every,
    })
}

fn images(high: Option<u8>, low: Option<u8>, age: Option<String>, shared: bool) -> anyhow::Result<ImagePolicy> {
    let default = ImagePolicy::default();
    let policy = ImagePolicy {
        high_percent: high.unwrap_or(if shared { 100 } else { default.high_percent }),
        low_percent: low.unwrap_or(default.low_percent),
        age_min: age.map_or(Ok(default.age_min), |text| parse_duration("imageMinimumGCAge", &text))?,
    };
    let (high, low) = (policy.high_percent, policy.low_percent);
    ensure!(high <= 100, "imageGCHighThresholdPercent {high} must be 0 to 100");
    ensure!(low < high, "imageGCLowThresholdPercent {low} must be less than imageGCHighThresholdPercent {high}");
    Ok(policy)
}

fn parse_labels<'a>(labels: impl Iterator<Item = &'a String>) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |label: &String| {
        let (key, value) = label.split_once('=').with_context(|| format!("node label {label:?} is not KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    labels.map(pair).collect()
}

/// Reads a configuration file.
///
/// # Errors
///
/// If there is none, or it is not what it should be; the field is named.
pub fn read(path: &Path) -> anyhow::Result<Args> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(Args::default());
    }
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not an agent's configuration", path.display()))
}

fn read_token(token: Option<String>, file: Option<&Path>) -> anyhow::Result<Option<BootstrapToken>> {
    let text = match (token, file) {
        (Some(token), _) => token,
        (None, Some(file)) => {
            fs::read_to_string(file).with_context(|| format!("cannot read the token in {}", file.display()))?
        }
        (None, None) => return Ok(None),
    };
    text.trim().parse().map(Some).context("the join token is wrong")
}

fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot ask for the host name")?;
    Ok(name.to_string_lossy().to_ascii_lowercase())
}

/// One address, or one of each family.
fn node_ips(text: &str) -> anyhow::Result<(IpAddr, Option<IpAddr>)> {
    let parse = |part: &str| part.trim().parse::<IpAddr>();
    let all: Result<Vec<IpAddr>, _> = text.split(',').map(parse).collect();
    match all.as_deref() {
        Ok([one]) => Ok((*one, None)),
        Ok([first, second]) if first.is_ipv4() != second.is_ipv4() => Ok((*first, Some(*second))),
        _ => bail!("--node-ip {text:?} is neither an address nor two of both families: IPV4,IPV6 or IPV6,IPV4"),
    }
}

/// Node names are DNS subdomains (RFC 1123).
fn check_node_name(name: &str) -> anyhow::Result<()> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-');
    ensure!(
        name.len() <= 253 && name.split('.').all(label),
        "{name:?} can't be a node's name: lower-case letters, digits, '-' and '.' only; give another with --node-name"
    );
    Ok(())
}

/// The address that this machine has towards the server.
fn way_to(server: &http::Uri) -> anyhow::Result<IpAddr> {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let find = || -> std::io::Result<IpAddr> {
        let any = if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        // Sends nothing; the kernel chooses the route.
        socket.connect((host, server.port_u16().unwrap_or(443)))?;
        Ok(socket.local_addr()?.ip())
    };
    find().with_context(|| format!("there is no way to {server} from here; give --node-ip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, flags: Args) -> anyhow::Result<AgentConfig> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("agent.yaml");
        fs::write(&path, yaml)?;
        Args { config: Some(path), ..flags }.load()
    }

    #[test]
    fn flags_go_before_the_file() {
        let yaml = "server: https://127.0.0.1:6443\nnodeName: a\nnodeIp: 10.0.0.1\ntoken: abcdef.0123456789abcdef\n";
        let config = load(yaml, Args { node_name: Some("b".into()), ..Args::default() }).unwrap();
        assert_eq!((config.node_name.as_str(), config.node_ip.to_string().as_str()), ("b", "10.0.0.1"));
        assert_eq!(config.token.unwrap().id(), "abcdef");
        assert_eq!(config.trust, Trust::Kept);
    }

    #[test]
    fn a_node_has_one_address_or_one_of_each_family() {
        assert_eq!(node_ips("10.0.0.1").unwrap(), ("10.0.0.1".parse().unwrap(), None));
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert_eq!(node_ips("10.0.0.1,fd00::1").unwrap(), (v4, Some(v6)));
        assert_eq!(node_ips("fd00::1, 10.0.0.1").unwrap(), (v6, Some(v4)));
        for wrong in ["fd00::1,fd00::2", "10.0.0.1,10.0.0.2", "x", "10.0.0.1,"] {
            assert!(node_ips(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_address_is_that_of_the_way_to_the_server() {
        let flags =
            Args { server: Some("https://127.0.0.1:6443".into()), node_name: Some("a".into()), ..Args::default() };
        assert!(load("", flags).unwrap().node_ip.is_loopback());
    }

    #[test]
    fn a_node_says_itself_when_it_is_short() {
        let server = "server: https://127.0.0.1:6443\nnodeName: a\n";
        let shared = || Args { shared_machine: true, ..Args::default() };
        let config = load(server, Args::default()).unwrap();
        assert_eq!((config.eviction.hard.len(), config.images.high_percent), (5, 85));
        let config = load(server, shared()).unwrap();
        assert_eq!((config.eviction.hard, config.images.high_percent), (threshold::of_shared_machine(), 100));
        let yaml = "evictionHard: {memory.available: 5%, nodefs.available: 0%}\nevictionPressureTransitionPeriod: 1m30s\n\
                    imageGCHighThresholdPercent: 90\nimageMinimumGCAge: 0s\n";
        let config = load(&format!("{server}{yaml}"), shared()).unwrap();
        assert_eq!(config.eviction.hard.len(), 1, "what is said takes the place of all defaults");
        assert_eq!(config.eviction.pressure_transition.as_secs(), 90);
        assert_eq!((config.images.high_percent, config.images.age_min.as_secs()), (90, 0));
        let flag = parse_thresholds("memory.available<1Gi, pid.available<10%").unwrap();
        let config = load(server, Args { eviction_hard: Some(flag), ..Args::default() }).unwrap();
        assert_eq!(config.eviction.hard.len(), 2);
        assert!(parse_thresholds("memory.available").is_err());
    }

    #[test]
    fn mistakes_are_named() {
        let server = "server: https://127.0.0.1:6443\nnodeName: a\n";
        for (yaml, says) in [
            (String::new(), "--server"),
            ("server: http://x".into(), "https://HOST:PORT"),
            (format!("{server}token: nonsense"), "not a bootstrap token"),
            (format!("{server}tokenFile: /nonexistent"), "/nonexistent"),
            (format!("{server}caHash: md5:1"), "sha256:"),
            ("server: https://127.0.0.1:1\nnodeName: A_b".into(), "--node-name"),
            (format!("{server}nodeIP: 1.2.3.4"), "nodeIP"),
            (format!("{server}evictionHard: {{memory: 1Mi}}"), "unsupported eviction signal memory"),
            (format!("{server}evictionPressureTransitionPeriod: soon"), "evictionPressureTransitionPeriod \"soon\""),
            (format!("{server}imageGCHighThresholdPercent: 70"), "imageGCLowThresholdPercent 80 must be less"),
        ] {
            let error = format!("{:#}", load(&yaml, Args::default()).unwrap_err());
            assert!(error.contains(says), "{yaml}: {error}");
        }
    }
}
