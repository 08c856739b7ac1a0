//! The agent as a whole: node, network, proxy, DNS, pods and the kubelet API, read top-down in [`run`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};

use crate::api::{ApiError, ConfigMap, Rest};
use crate::devices::cdi;
use crate::devices::manager::DeviceManager;
use crate::devices::plugins::Plugins;
use crate::devices::prepared::StateError;
use crate::dns::Names;
use crate::dns::answer::Answerer;
use crate::dns::autopath::Clients;
use crate::dns::forward::Forwarder;
use crate::dns::server::{DnsServer, upstream};
use crate::dns::zone::Zone;
use crate::drain::ledger::Ledger;
use crate::drain::peers::{HttpsAsk, Peers};
use crate::drain::{ClusterServices, quiet};
use crate::eviction::measure::Places;
use crate::eviction::run::{Eviction, Evictor};
use crate::eviction::threshold::Signal;
use crate::eviction::{EvictionConfig, Pressure, plan};
use crate::images::ImageStore;
use crate::images::unused::{ImagePolicy, Unused};
use crate::network::{
    LoadBalancerMode, Network, NetworkConfig, NetworkConfig4, NetworkConfig6, PodIdentity, SetupError, Tunnel, Xdp,
    run as follow_nodes,
};
use crate::node::{self, Machine, NodeConfig};
use crate::pods::env::Facts;
use crate::pods::manager::Pods;
use crate::pods::{Allocatable, Context, Parts, PodManager, PodManagerConfig};
use crate::policy::{self, Ear};
use crate::probes::check::Checker;
use crate::proxy;
use crate::runtime::containerd::{Client, Containerd, ContainerdConfig};
use crate::runtime::{Runtime as _, RuntimeError};
use crate::server::backend::RuntimeBackend;
use crate::server::{self, configz};
use crate::stats::Stats;
use crate::volumes::local::{LocalVolumes, LocalVolumesConfig};
use crate::volumes::{self, files::ClusterDns};

/// Where the node's DNS server listens, in the node's own network namespace.
pub const DNS_PORT: u16 = 10053;
/// The kubelet API's port.
pub const KUBELET_PORT: u16 = 10250;
/// Where drivers of devices make themselves known.
pub const PLUGIN_REGISTRY: &str = "/var/lib/kubelet/plugins_registry";
/// Which devices are prepared, in the data directory.
const DEVICE_STATE: &str = "devices.json";
/// The level of the API that this agent speaks.
pub const KUBELET_VERSION: &str = "v1.37.1";

/// How a node runs.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub node_ip: IpAddr,
    /// Its address of the other family, for clusters of both.
    pub second_ip: Option<IpAddr>,
    /// Labels to register with, besides the usual ones.
    pub labels: BTreeMap<String, String>,
    /// What lasts: pods' files, address leases. `/var/lib/xebec-agent`.
    pub data_dir: PathBuf,
    /// What goes with the machine's start: pins, pipes. `/run/xebec`.
    pub run_dir: PathBuf,
    /// Pods' logs. `/var/log/pods`.
    pub log_root: PathBuf,
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// Registries (`host:port`) that are spoken to in plain HTTP, besides those on this machine.
    pub insecure_registries: Vec<String>,
    /// Pods' cgroups, from the root of the hierarchy: `/kubepods`.
    pub cgroup_root: String,
    /// The cgroup (v2) whose processes see services: the node's.
    pub cgroup: PathBuf,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// The node's resolver.
    pub resolv_conf: PathBuf,
    /// The program that writes logs: `xebec` itself.
    pub logger: PathBuf,
    /// The interface that has the node's address; none: look for it.
    pub uplink: Option<String>,
    /// When to tunnel.
    pub tunnel: Tunnel,
    /// When the uplink's driver forwards NodePorts.
    pub xdp: Xdp,
    /// How services are forwarded to other nodes that do not say themselves.
    pub load_balancer_mode: LoadBalancerMode,
    /// What the node offers, if not all that the machine has.
    pub allocatable: Option<Allocatable>,
    /// How many pods the node takes.
    pub pods_max: i64,
    /// How many processes a pod may have.
    pub pod_pids_max: Option<i64>,
    /// When pods have to go.
    pub eviction: EvictionConfig,
    /// When images that nobody uses go.
    pub images: ImagePolicy,
}

impl AgentConfig {
    /// A node with everything in its usual place.
    pub fn new(node_name: &str, node_ip: IpAddr) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ip,
            second_ip: None,
            labels: BTreeMap::new(),
            data_dir: "/var/lib/xebec-agent".into(),
            run_dir: "/run/xebec".into(),
            log_root: "/var/log/pods".into(),
            containerd_socket: "/run/containerd/containerd.sock".into(),
            insecure_registries: Vec::new(),
            cgroup_root: "/kubepods".to_owned(),
            cgroup: "/sys/fs/cgroup".into(),
            bpffs: "/sys/fs/bpf".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            logger: std::env::current_exe().unwrap_or_else(|_| "xebec".into()),
            uplink: None,
            tunnel: Tunnel::Auto,
            xdp: Xdp::Auto,
            load_balancer_mode: LoadBalancerMode::Snat,
            allocatable: None,
            pods_max: 110,
            pod_pids_max: None,
            eviction: EvictionConfig::default(),
            images: ImagePolicy::default(),
        }
    }
}

impl AgentConfig {
    /// The node's addresses, the main one first.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        [self.node_ip].into_iter().chain(self.second_ip).collect()
    }

    fn node_ip4(&self) -> Option<Ipv4Addr> {
        self.node_ips().into_iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None })
    }

    fn node_ip6(&self) -> Option<Ipv6Addr> {
        self.node_ips().into_iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(v6) } else { None })
    }
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The network.
    #[error(transparent)]
    Network(#[from] SetupError),
    /// The container runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The proxy.
    #[error("the service proxy stopped: {0}")]
    Proxy(String),
    /// Network policy.
    #[error("network policy stopped: {0}")]
    Policy(String),
    /// DNS.
    #[error(transparent)]
    Dns(#[from] crate::dns::server::ServerError),
    /// The kubelet API's address.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
    /// What is known of prepared devices.
    #[error("cannot read which devices are prepared (without the file, drivers are asked again): {0}")]
    Devices(#[from] StateError),
    /// What the cluster says of itself.
    #[error("the ConfigMap kube-system/xebec-cluster does not describe a cluster: {0}")]
    Cluster(String),
    /// The node's address.
    #[error(
        "the node's address {0} is not of the family that the cluster's pods have first: give another as --node-ip"
    )]
    NodeAddress(IpAddr),
    /// It has only one.
    #[error("the cluster has IPv4 beside IPv6, and the node has no IPv4 address beside {0}: give --node-ip {0},IPV4")]
    NoIpv4(IpAddr),
}

/// What agents must know of the cluster: the ConfigMap `kube-system/xebec-cluster`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterFacts {
    cluster_cidr: Listed<IpNet>,
    service_cidr: Listed<IpNet>,
    cluster_dns: Listed<IpAddr>,
    cluster_domain: String,
    node_port_range: String,
}

/// One or two with a comma between: the preferred family's first.
#[derive(Clone, Debug)]
struct Listed<T>(Vec<T>);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let all = text.split(',').map(|part| part.trim().parse());
        all.collect::<Result<_, _>>().map(Self).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

impl Listed<IpNet> {
    fn prefers_v6(&self) -> bool {
        matches!(self.0.first(), Some(IpNet::V6(_)))
    }

    fn v4(&self) -> Option<Ipv4Net> {
        self.0.iter().find_map(|net| if let IpNet::V4(v4) = net { Some(*v4) } else { None })
    }

    fn v6(&self) -> Option<Ipv6Net> {
        self.0.iter().find_map(|net| if let IpNet::V6(v6) = net { Some(*v6) } else { None })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeView {
    spec: NodeSpecView,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpecView {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

/// How the agent shows itself.
#[derive(Clone, Debug)]
pub struct AgentTls {
    /// To those that ask it.
    pub server: Arc<rustls::ServerConfig>,
    /// To the other agents: the newest.
    pub client: watch::Receiver<Arc<rustls::ClientConfig>>,
}

/// Runs the node until `cancel`. Containers, their connections and what is in the kernel stay.
pub async fn run(
    config: AgentConfig,
    client: kube::Client,
    tls: AgentTls,
    clock: Clock,
    random: Random,
    cancel: CancellationToken,
) -> Result<(), AgentError> {
    let work = start(&config, client, tls, &clock, &random, &cancel);
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        result = work => result,
    }
}

async fn start(
    config: &AgentConfig,
    client: kube::Client,
    tls: AgentTls,
    clock: &Clock,
    random: &Random,
    cancel: &CancellationToken,
) -> Result<(), AgentError> {
    let rest = Rest::new(client.clone());
    let listener = server::bind(SocketAddr::new(config.node_ip, KUBELET_PORT)).await?;
    let containerd = Client::new(&config.containerd_socket);
    let images = Arc::new(ImageStore::new(
        containerd.clone(),
        config.insecure_registries.clone(),
        clock.clone(),
        random.clone(),
    ));
    let runtime = Arc::new(Containerd::new(
        ContainerdConfig {
            socket: config.containerd_socket.clone(),
            run_root: config.run_dir.clone(),
            cgroup_root: config.cgroup_root.clone(),
            seccomp_root: config.data_dir.join("seccomp"),
            logger: config.logger.clone(),
        },
        containerd,
        Arc::clone(&images),
        clock.clone(),
        random.clone(),
    )?);

    // The node first: by it the control plane gives out the pod range that the network waits for.
    let machine = Machine::detect(&config.data_dir);
    // What is left when pods have to go is not for them.
    let left = |signal, capacity: i64| capacity - plan::reserved(&config.eviction.hard, signal, capacity);
    let allocatable = config.allocatable.unwrap_or(Allocatable {
        cpu_milli: machine.cpu_milli,
        memory_bytes: left(Signal::MemoryAvailable, machine.memory_bytes),
        pods: config.pods_max,
    });
    let node = NodeConfig {
        facts: node::status::Facts {
            name: config.node_name.clone(),
            addresses: config.node_ips(),
            allocatable_storage_bytes: left(Signal::NodeFsAvailable, machine.storage_bytes),
            machine,
            allocatable,
            port: KUBELET_PORT,
            version: KUBELET_VERSION.to_owned(),
        },
        labels: config.labels.clone(),
        taints: Vec::new(),
        data: config.data_dir.clone(),
    };
    let uid = node::register::register(&node, &rest).await;
    let events = crate::events::Recorder::start(rest.clone(), &config.node_name, clock.clone());
    let (network_problem, problem) = watch::channel(Some("the pod network is being set up".to_owned()));
    let (service_problem, services) = watch::channel(None);
    let (flow_problem, flows) = watch::channel(None);
    let (path_problem, paths) = watch::channel(None);
    let (pressure, pressed) = watch::channel(Pressure::default());
    let problems = node::Problems { network: problem, services, flows, paths, pressure: pressed.clone() };
    let node_work =
        node::run(node, rest.clone(), uid, runtime.clone(), images.clone(), events, problems, clock.clone());

    let pods_work = async {
        let cluster = cluster_facts(&rest).await?;
        let pod_cidrs = pod_cidrs(&rest, &config.node_name).await;
        let network = start_network(config, &cluster, &pod_cidrs)?;
        let given = configz::Given {
            cluster_dns: &cluster.cluster_dns.0,
            cluster_domain: &cluster.cluster_domain,
            pod_cidrs: &pod_cidrs.0,
        };
        let configured = configz::document(config, given);
        let dns = start_dns(config, &cluster, random, network.ear.clone()).await?;
        let ledger = Ledger::new(&config.node_name);
        let (ready_nodes, ready_seen) = watch::channel(BTreeMap::new());
        let others = Arc::new(Peers::new(ready_seen, HttpsAsk::new(tls.client)));
        let netns = runtime.clone();
        // Of a pod of the node's own network there is no such namespace, and nothing is known.
        let clients = Box::new(move |pod: &PodIdentity| quiet::connections_in(&netns.netns_path(pod)).ok());
        let cluster_domain = cluster.cluster_domain.clone();
        let plugins = Plugins::default();
        let (cdi, state) = (cdi::DIRECTORIES.map(PathBuf::from), config.data_dir.join(DEVICE_STATE));
        let devices = DeviceManager::new(rest.clone(), plugins.clone(), cdi.to_vec(), state)?;
        let parts = Parts {
            runtime: runtime.clone(),
            images: images.clone(),
            network: network.pods.clone(),
            volumes: Arc::new(LocalVolumes::new(
                LocalVolumesConfig {
                    pod_root: config.data_dir.join("pods"),
                    persistent_root: config.data_dir.join(volumes::persistent::DIRECTORY),
                    log_root: config.log_root.clone(),
                    resolv_conf: config.resolv_conf.clone(),
                    cluster_dns: cluster
                        .cluster_dns
                        .0
                        .first()
                        .map(|address| ClusterDns { address: *address, domain: cluster.cluster_domain }),
                    facts: Facts {
                        addresses: Vec::new(),
                        host_ip: config.node_ip,
                        allocatable_cpu_milli: allocatable.cpu_milli,
                        allocatable_memory_bytes: allocatable.memory_bytes,
                    },
                },
                rest.clone(),
                images,
                clock.clone(),
                random.clone(),
            )),
            prober: Arc::new(Checker::new(runtime)),
            services: Arc::new(ClusterServices::new(ledger.clone(), others, clients)),
            devices: Arc::new(devices),
        };
        let manager = PodManager::new(
            PodManagerConfig {
                node_name: config.node_name.clone(),
                host_ip: config.node_ip,
                cluster_domain,
                allocatable,
                log_root: config.log_root.clone(),
                pod_pids_max: config.pod_pids_max,
                events: true,
                service_links: true,
                pressure: pressed,
            },
            client,
            parts,
            clock.clone(),
            random.clone(),
        );
        let pods = manager.pods();
        dns.clients.know(move |address| pods.namespace_of(address));
        network_problem.send_replace(None);
        let backend = Arc::new(RuntimeBackend::new(manager.context(), manager.pods()));
        let (sight, events) = network.sight;
        let volumes = config.data_dir.join(volumes::persistent::DIRECTORY);
        let stats = Stats::new(manager.context(), manager.pods());
        let router =
            server::router(backend, manager.pods(), ledger.clone(), Arc::clone(&sight), stats, volumes, clock.clone())
                .merge(configz::router(&configured));
        let room_work =
            keep_room(config, manager.context(), manager.pods(), manager.evictions(), pressure, cancel.clone());
        let (addresses, addresses_seen) = watch::channel(None);
        let (synced, _) = watch::channel(false);
        let proxy_config = proxy::Config {
            node_name: config.node_name.clone(),
            node_addresses: config.node_ips(),
            dns_port: DNS_PORT,
            dns_service: ("kube-system".to_owned(), "kube-dns".to_owned()),
            host_addresses: network.local.addresses.iter().copied().collect(),
            pod_namespaces: config.run_dir.join("netns"),
            direct_return: config.load_balancer_mode == LoadBalancerMode::Dsr,
        };
        let Network { services, sockets, flow_table, peers, local, uplink, pods, policy, names_asked, .. } = network;
        let (policy_maps, questions) = policy;
        let outputs = proxy::Outputs {
            questions: names_asked,
            names: dns.names,
            addresses,
            synced,
            ledger,
            problem: service_problem,
        };
        let proxy_work =
            proxy::run(proxy_config, rest.clone(), random.clone(), services, sockets, outputs, cancel.clone());
        let peer_work = follow_nodes::run(
            local,
            uplink,
            rest.clone(),
            random.clone(),
            peers,
            addresses_seen,
            ready_nodes,
            path_problem,
            cancel.clone(),
        );
        let node = config.node_name.clone();
        let policy_work = policy::run(node, rest.clone(), random.clone(), policy_maps, pods, questions, cancel.clone());
        let seeing = async {
            if let Err(error) = sight.run(events, clock.clone(), cancel.clone()).await {
                tracing::warn!(%error, "flows cannot be shown");
            }
        };
        let (proxied, policed, ..) = tokio::join!(
            proxy_work,
            policy_work,
            seeing,
            peer_work,
            cancel.run_until_cancelled(flow_table.watch_over(flow_problem)),
            dns.server.run(cancel.clone()),
            dns.forwarder.follow(rest.clone(), random.clone()),
            cancel.run_until_cancelled(room_work),
            manager.run(cancel.clone()),
            plugins.follow(PLUGIN_REGISTRY.into(), rest.clone(), config.node_name.clone(), cancel.clone()),
            server::serve(listener, tls.server, router, cancel.clone()),
        );
        policed.map_err(|e| AgentError::Policy(e.to_string()))?;
        proxied.map_err(|e| AgentError::Proxy(e.to_string()))
    };
    tokio::select! {
        biased;
        result = pods_work => result,
        () = node_work => Ok(()),
    }
}

/// Keeps the node from running short: of room for images, and of everything.
async fn keep_room(
    config: &AgentConfig,
    context: Arc<Context>,
    pods: Pods,
    evictions: mpsc::Sender<Eviction>,
    pressure: watch::Sender<Pressure>,
    cancel: CancellationToken,
) {
    let images = Arc::clone(&context.parts.images);
    let root = loop {
        match images.root().await {
            Ok(root) => break root,
            Err(error) => tracing::debug!(%error, "where images are is not known yet"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let runtime = Arc::clone(&context.parts.runtime);
    let (events, node) = (context.events.clone(), &config.node_name);
    let unused = Arc::new(Unused::new(images, runtime, pods.clone(), config.images, root.clone(), events, node));
    let places = Places { node: config.data_dir.clone(), images: root };
    let eviction = config.eviction.clone();
    let evictor = Evictor { config: eviction, pods, places, unused: Arc::clone(&unused), evictions, pressure, context };
    tokio::join!(unused.run(cancel.clone()), evictor.run(cancel));
}

/// Reads what the cluster says of itself, waiting for it to be there.
async fn cluster_facts(rest: &Rest) -> Result<ClusterFacts, AgentError> {
    let map: ConfigMap = patiently("the cluster's configuration", || async {
        rest.get("/api/v1/namespaces/kube-system/configmaps/xebec-cluster").await.map(Some)
    })
    .await;
    let text = map.data.get("config").ok_or_else(|| AgentError::Cluster("it has no key config".to_owned()))?;
    serde_json::from_str(text).map_err(|e| AgentError::Cluster(e.to_string()))
}

/// The ranges that the node's pods get their addresses from, once they are given out.
async fn pod_cidrs(rest: &Rest, node: &str) -> Listed<IpNet> {
    let path = format!("/api/v1/nodes/{node}");
    let given = || async {
        let ranges = rest.get::<NodeView>(&path).await?.spec.pod_cidrs;
        Ok((!ranges.is_empty()).then_some(Listed(ranges)))
    };
    patiently("the node's pod range", given).await
}

/// Asks until there is an answer: soon at first.
async fn patiently<T, F>(what: &str, ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<Option<T>, ApiError>>,
{
    let mut delay = Duration::from_millis(20);
    loop {
        match ask().await {
            Ok(Some(answer)) => return answer,
            Ok(None) => tracing::debug!(%what, "not there yet"),
            Err(error) => tracing::warn!(%what, %error, "cannot be read yet"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(2));
    }
}

fn start_network(
    config: &AgentConfig,
    cluster: &ClusterFacts,
    pod_cidrs: &Listed<IpNet>,
) -> Result<Network, AgentError> {
    let needed = |net: Option<Ipv4Net>, what: &str| {
        net.ok_or_else(|| AgentError::Cluster(format!("{what} has no IPv4 range, and clusterCidr has one")))
    };
    if cluster.cluster_cidr.prefers_v6() != config.node_ip.is_ipv6() {
        return Err(AgentError::NodeAddress(config.node_ip));
    }
    let v4 = match cluster.cluster_cidr.v4() {
        Some(cluster_cidr) => Some(NetworkConfig4 {
            node_address: config.node_ip4().ok_or(AgentError::NoIpv4(config.node_ip))?,
            pod_cidr: needed(pod_cidrs.v4(), "the node's podCIDRs")?,
            cluster_cidr,
            service_cidr: needed(cluster.service_cidr.v4(), "serviceCidr")?,
        }),
        None => None,
    };
    Ok(Network::start(&NetworkConfig {
        node_name: config.node_name.clone(),
        uplink: config.uplink.clone(),
        v4,
        v6: network6(config, cluster, pod_cidrs),
        v6_first: cluster.cluster_cidr.prefers_v6(),
        node_ports: cluster.node_ports()?,
        tunnel: config.tunnel,
        xdp: config.xdp,
        masquerade: true,
        bpffs: config.bpffs.clone(),
        cgroup: config.cgroup.clone(),
        lease_dir: config.data_dir.join("leases"),
        pod_namespaces: config.run_dir.join("netns"),
        domain_names: config.run_dir.join("domain-names"),
    })?)
}

/// IPv6, if the cluster has it and had it when the node joined.
fn network6(config: &AgentConfig, cluster: &ClusterFacts, pod_cidrs: &Listed<IpNet>) -> Option<NetworkConfig6> {
    let (cluster_cidr, service_cidr) = (cluster.cluster_cidr.v6()?, cluster.service_cidr.v6()?);
    let Some(pod_cidr) = pod_cidrs.v6() else {
        tracing::warn!(
            "the node has no IPv6 range for pods: it joined before the cluster had IPv6; remove it and join again"
        );
        return None;
    };
    let node_address = config.node_ip6();
    if node_address.is_none() {
        tracing::warn!(
            "the node has no IPv6 address, so that its pods reach no more than the cluster by IPv6: give --node-ip IPV4,IPV6"
        );
    }
    Some(NetworkConfig6 { node_address, pod_cidr, cluster_cidr, service_cidr })
}

impl ClusterFacts {
    fn node_ports(&self) -> Result<(u16, u16), AgentError> {
        let parse = || {
            let (first, last) = self.node_port_range.split_once('-')?;
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        };
        parse().ok_or_else(|| AgentError::Cluster(format!("nodePortRange {:?} is no range", self.node_port_range)))
    }
}

struct Dns {
    names: Names,
    clients: Clients,
    forwarder: Forwarder,
    server: DnsServer,
}

async fn start_dns(config: &AgentConfig, cluster: &ClusterFacts, random: &Random, ear: Ear) -> Result<Dns, AgentError> {
    let networks = [&cluster.cluster_cidr.0[..], &cluster.service_cidr.0].concat();
    let zone = Zone::new(&cluster.cluster_domain, networks).map_err(|e| AgentError::Cluster(e.to_string()))?;
    let (resolver, search) = upstream(&config.resolv_conf)?;
    let (clients, forwarder) = (Clients::new(zone.origin(), search), Forwarder::new(resolver));
    let names = Names::new(zone);
    let dual_stack = cluster.service_cidr.v6().is_some();
    let any = if dual_stack { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let address = SocketAddr::new(any, DNS_PORT);
    let answerer = Answerer {
        names: names.clone(),
        forwarder: forwarder.clone(),
        clients: clients.clone(),
        random: random.clone(),
        ear,
    };
    let server = DnsServer::bind(address, answerer).await?;
    Ok(Dns { names, clients, forwarder, server })
}
