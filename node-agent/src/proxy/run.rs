//! Follows the API, and keeps the maps as the world wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;
use xebec_ebpf_loader::layout::{Frontend, SocketKey, proto};
use xebec_ebpf_loader::{Error, Table};

use super::desired::{Facts, PortName, Target};
use super::health;
use super::model::Model;
use super::namespace;
use super::sockets::{Gone, Sockets};
use super::sync::ServiceMaps;
use super::views::{EndpointSlice, HostPorts, NodeZone, ObjectName, Service};
use super::world::{Changes, World};
use crate::api::Rest;
use crate::api::watch::{Change, Followed, follow};
use crate::dns::Names;
use crate::drain::ledger::Ledger;
use crate::news::tell;

/// Changes taken in before the maps are written: a bound on how long one round holds up the next.
const BATCH_LIMIT: usize = 1_024;
/// How long to wait before writing again what could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node_name: String,
    /// This node's addresses, one of each family that there is.
    pub node_addresses: Vec<IpAddr>,
    /// All its addresses, at which pods' `hostPort`s are served.
    pub host_addresses: Vec<IpAddr>,
    /// Where the node's DNS server listens.
    pub dns_port: u16,
    /// The service that it answers for: `kube-system`, `kube-dns`.
    pub dns_service: (String, String),
    /// The folder with the pods' network namespaces.
    pub pod_namespaces: PathBuf,
    /// Whether load balancer services return directly that do not say
    /// ([`FORWARDING_ANNOTATION`](super::views::FORWARDING_ANNOTATION)).
    pub direct_return: bool,
}

/// Load balancer addresses, with the nodes that may answer for each if not any node may.
pub type LoadBalancerAddresses = BTreeMap<IpAddr, Option<BTreeSet<String>>>;

/// Somebody asks how the service ports are called that the maps have by number.
pub type NameQuestion = oneshot::Sender<Vec<(u32, PortName)>>;

/// Whom the proxy tells what.
#[derive(Debug)]
pub struct Outputs {
    /// Who asks for names.
    pub questions: mpsc::Receiver<NameQuestion>,
    /// What the DNS server answers from.
    pub names: Names,
    /// Load balancer addresses; none until all of them are known.
    pub addresses: watch::Sender<Option<LoadBalancerAddresses>>,
    /// Turns true when the maps first hold what the API says.
    pub synced: watch::Sender<bool>,
    /// What the maps hold.
    pub ledger: Ledger,
    /// Why the maps are not what the API says, while they are not.
    pub problem: watch::Sender<Option<String>>,
}

/// Runs until `cancel`. What is in the maps stays there.
pub async fn run(
    config: Config,
    rest: Rest,
    random: Random,
    maps: ServiceMaps,
    sockets: Table<SocketKey, Frontend>,
    out: Outputs,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let Outputs { questions, names, addresses, synced, ledger, problem } = out;
    let (mut news, watchers) = watchers(&config, &rest, &random, questions);
    let sockets = Sockets::start(sockets, config.pod_namespaces.clone());
    let checks = health::Server::default();
    let mut proxy = Proxy::new(config, maps)?;
    let work = async {
        loop {
            let Some(first) = news.next(proxy.is_behind()).await else { return };
            let mut take = |news: News| {
                match &news {
                    News::Service(change) => names.services_changed(change),
                    News::Slice(change) => {
                        names.slices_changed(change);
                        ledger.heard(change);
                    }
                    _ => {}
                }
                proxy.take(news);
            };
            take(first);
            for _ in 0..BATCH_LIMIT {
                match news.try_next() {
                    Some(news) => take(news),
                    None => break,
                }
            }
            let gone = proxy.update(&problem);
            if !gone.is_empty() {
                sockets.end(gone);
            }
            if proxy.is_synced() {
                ledger.all_applied();
                synced.send_if_modified(|done| !std::mem::replace(done, true));
            }
            // All or none: an address that is not known yet is not one to let go of.
            if proxy.is_synced()
                && let Some(wanted) = proxy.world.load_balancer_addresses()
            {
                addresses.send_replace(Some(wanted));
            }
            if let Some(wanted) = proxy.world.health_checks() {
                checks.set(wanted).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = work => {}
        () = watchers => {}
    }
    Ok(())
}

enum News {
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Pod(Change<HostPorts>),
    Node(Change<NodeZone>),
    Question(NameQuestion),
    Retry,
}

/// What the watchers bring.
struct Receivers {
    services: mpsc::Receiver<Change<Service>>,
    slices: mpsc::Receiver<Change<EndpointSlice>>,
    pods: mpsc::Receiver<Change<HostPorts>>,
    nodes: mpsc::Receiver<Change<NodeZone>>,
    questions: mpsc::Receiver<NameQuestion>,
}

impl Receivers {
    async fn next(&mut self, retry: bool) -> Option<News> {
        tokio::select! {
            biased;
            change = self.nodes.recv() => change.map(News::Node),
            change = self.services.recv() => change.map(News::Service),
            change = self.slices.recv() => change.map(News::Slice),
            change = self.pods.recv() => change.map(News::Pod),
            Some(question) = self.questions.recv() => Some(News::Question(question)),
            () = tokio::time::sleep(RETRY), if retry => Some(News::Retry),
        }
    }

    fn try_next(&mut self) -> Option<News> {
        let service = self.services.try_recv().map(News::Service);
        let slice = service.or_else(|_| self.slices.try_recv().map(News::Slice));
        slice.or_else(|_| self.pods.try_recv().map(News::Pod)).ok()
    }
}

fn watchers(
    config: &Config,
    rest: &Rest,
    random: &Random,
    questions: mpsc::Receiver<NameQuestion>,
) -> (Receivers, impl Future<Output = ()> + use<>) {
    fn watch<T>(
        rest: &Rest,
        random: &Random,
        path: &str,
        query: String,
    ) -> (mpsc::Receiver<Change<T>>, impl Future<Output = ()> + use<T>)
    where
        T: Followed + Clone + serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        let (sender, receiver) = mpsc::channel(BATCH_LIMIT);
        (receiver, follow::<T>(rest.clone(), path.to_owned(), query, random.clone(), sender))
    }
    let node = &config.node_name;
    let (services, follow_services) = watch(rest, random, "/api/v1/services", String::new());
    let (slices, follow_slices) = watch(rest, random, "/apis/discovery.k8s.io/v1/endpointslices", String::new());
    let (pods, follow_pods) = watch(rest, random, "/api/v1/pods", format!("fieldSelector=spec.nodeName%3D{node}"));
    let (nodes, follow_nodes) = watch(rest, random, "/api/v1/nodes", format!("fieldSelector=metadata.name%3D{node}"));
    let all = async move {
        tokio::join!(follow_services, follow_slices, follow_pods, follow_nodes);
    };
    (Receivers { services, slices, pods, nodes, questions }, all)
}

/// Which lists are known: all must be before anything is removed.
#[derive(Default)]
struct Listed {
    services: bool,
    slices: bool,
    pods: bool,
    node: bool,
}

/// The cookie of this process's network namespace, which is the node's.
fn own_namespace() -> u64 {
    namespace::cookie().unwrap_or_else(|error| {
        tracing::warn!(%error, "pods' hostPorts are not served at the node's loopback addresses");
        // Nobody's.
        0
    })
}

/// The world, the mirror of the maps, and the maps.
struct Proxy {
    node: String,
    world: World,
    model: Model,
    maps: ServiceMaps,
    listed: Listed,
    /// Whether the maps follow the world, change by change; if not they are compared in whole.
    following: bool,
}

impl Proxy {
    fn new(config: Config, maps: ServiceMaps) -> Result<Self, Error> {
        let (namespace, name) = config.dns_service;
        let facts = Facts {
            node: config.node_name.clone(),
            zone: None,
            addresses: config.host_addresses,
            namespace: own_namespace(),
            dns_service: ObjectName::new(&namespace, &name),
            dns_servers: config.node_addresses,
            dns_port: config.dns_port,
            direct_return: config.direct_return,
        };
        let (world, listed) = (World::new(facts), Listed::default());
        Ok(Self { node: config.node_name, world, model: Model::default(), maps, listed, following: false })
    }

    fn knows_all(&self) -> bool {
        self.listed.services && self.listed.slices && self.listed.pods && self.listed.node
    }

    fn is_behind(&self) -> bool {
        self.knows_all() && !self.following
    }

    fn is_synced(&self) -> bool {
        self.following
    }

    fn take(&mut self, news: News) {
        let world = &mut self.world;
        match news {
            News::Service(Change::All(all)) => {
                world.replace_services(all);
                self.listed.services = true;
            }
            News::Service(Change::Put(service)) => world.put_service(service),
            News::Service(Change::Gone(service)) => world.remove_service(&service.name),
            News::Slice(Change::All(all)) => {
                world.replace_slices(all);
                self.listed.slices = true;
            }
            News::Slice(Change::Put(slice)) => world.put_slice(slice),
            News::Slice(Change::Gone(slice)) => world.remove_slice(&slice.name),
            News::Pod(Change::All(all)) => {
                world.replace_pods(all);
                self.listed.pods = true;
            }
            News::Pod(Change::Put(pod)) => world.put_pod(pod),
            News::Pod(Change::Gone(pod)) => world.remove_pod(&pod.name),
            News::Node(Change::All(all)) => {
                if let Some(node) = all.into_iter().find(|node| *node.name == *self.node) {
                    world.set_zone(node.zone.clone());
                }
                self.listed.node = true;
            }
            News::Node(Change::Put(node)) if *node.name == *self.node => world.set_zone(node.zone.clone()),
            News::Question(question) => {
                // Who gave up is not there to hear it.
                let _ = question.send(self.model.port_names());
            }
            News::Node(_) | News::Retry => {}
        }
    }

    /// Brings the maps up to date. Gives the endpoints of datagram services that are none any more.
    fn update(&mut self, problem: &watch::Sender<Option<String>>) -> Vec<Gone> {
        if !self.knows_all() {
            return Vec::new();
        }
        let changes = self.world.changes();
        let result = if self.following { self.follow(changes) } else { self.compare() };
        let (gone, message) = match result {
            Ok(gone) => (gone, None),
            Err(error) => {
                // What was written and what not is only known by reading it again.
                tracing::warn!(%error, "cannot update the service maps; trying again");
                (Vec::new(), Some(error.to_string()))
            }
        };
        self.following = message.is_none();
        tell(problem, message);
        gone
    }

    fn follow(&mut self, changes: Changes) -> Result<Vec<Gone>, Error> {
        let gone = self.gone(&changes);
        self.maps.carry_out(&self.model.apply(changes))?;
        Ok(gone)
    }

    /// Makes the maps what the world wants, whatever they hold.
    fn compare(&mut self) -> Result<Vec<Gone>, Error> {
        let (model, rest) = Model::adopt(self.maps.contents()?);
        self.model = model;
        self.maps.carry_out(&rest)?;
        let mut changes: Changes = self.model.frontends().map(|key| (*key, None)).collect();
        changes.extend(self.world.frontends().map(|(key, target)| (*key, Some(target.clone()))));
        let gone = self.follow(changes)?;
        self.maps.are_complete()?;
        Ok(gone)
    }

    /// The endpoints that datagram services lose by these changes.
    fn gone(&self, changes: &Changes) -> Vec<Gone> {
        let mut gone = Vec::new();
        for (key, target) in changes.iter().filter(|(key, _)| key.proto == proto::UDP) {
            let Some(before) = self.model.backends(key) else { continue };
            let stays = |b| target.as_ref().is_some_and(|t: &Target| t.backends.binary_search(b).is_ok());
            gone.extend(before.iter().filter(|b| !stays(b)).map(|b| Gone { frontend: *key, backend: *b }));
        }
        gone
    }
}
