//! The cluster and the verbs that tests have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use jiff::SignedDuration;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::bootstrap::{self, Facts};
use xebec_apiserver::standard::{Options, Standard};
use xebec_apiserver::{ApiServer, Config};
use xebec_clock::{Clock, Random};
use xebec_controllers::runtime::api::{Api, ApiError, DeleteOptions, PatchKind, Scope};
use xebec_controllers::runtime::discovery::served;
use xebec_controllers::runtime::informer::read_list;
use xebec_controllers::runtime::kind::Kind;
use xebec_pki::ServiceAccountKeys;
use xebec_schema::registry::Registry;
use xebec_store::Store;

use crate::invariants::{self, Mirror};
use crate::node::Node;
use crate::trace::{RecordingStore, Trace};

/// Where simulated time begins.
const EPOCH: &str = "2026-01-01T00:00:00Z";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Runs a simulation to its end, on virtual time, in this thread.
///
/// # Panics
///
/// If the runtime cannot be built: the machine is out of file descriptors or the like.
pub fn simulate<T>(simulation: impl Future<Output = T>) -> T {
    #[expect(clippy::expect_used, reason = "nothing can be simulated without a runtime, and only tests do")]
    let runtime = {
        // `RUST_LOG=debug` shows what goes on; a second simulation of the process finds it set up.
        drop(tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init());
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime for the simulation")
    };
    runtime.block_on(simulation)
}

/// A cluster.
pub struct Sim {
    /// Requests, by a user who may do everything.
    pub api: Api,
    /// The time.
    pub clock: Clock,
    server: ApiServer,
    store: Arc<RecordingStore>,
    mirror: Arc<Mutex<Mirror>>,
    random: Random,
    nodes: BTreeMap<String, Node>,
    made: usize,
    cancel: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Sim {
    /// A cluster with `nodes` nodes, `node-0` and so on, that are on their way to being ready.
    ///
    /// # Panics
    ///
    /// If the server does not start over its empty store.
    pub async fn new(seed: u64, nodes: usize) -> Self {
        let clock = Clock::simulated(EPOCH.parse().unwrap_or_default());
        let random = Random::seeded(seed);
        let cancel = CancellationToken::new();
        let mirror: Arc<Mutex<Mirror>> = Arc::default();
        let watchman = mirror.clone();
        let store = RecordingStore::new(Box::new(move |revision, operation| watchman.lock().take(revision, operation)));
        let server = start_server(&store, &clock, &random, &cancel).await;
        let client = || server.client(UserInfo::system("system:simulation"));
        let api = Api::new(client());
        let mut desired = bootstrap::desired(&facts());
        desired.push(xebec_controllers::persistent_volume::provision::class());
        if let Err(error) = bootstrap::reconcile(&client(), desired).await {
            panic!("the first objects cannot be made: {error}");
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(xebec_controllers::run_all(
            client(),
            clock.clone(),
            random.clone(),
            xebec_controllers::Config::default(),
            cancel.clone(),
        ));
        tasks.spawn(xebec_scheduler::run(client(), clock.clone(), random.clone(), cancel.clone()));
        let mut sim =
            Self { api, clock, server, store, mirror, random, nodes: BTreeMap::new(), made: 0, cancel, _tasks: tasks };
        for _ in 0..nodes {
            sim.add_node();
        }
        sim
    }

    /// Sets all clocks, as a machine's is when it learns the time.
    pub fn step_clock(&self, by: SignedDuration) {
        self.clock.step(by);
    }

    /// Adds a node; its name.
    pub fn add_node(&mut self) -> String {
        let name = format!("node-{}", self.made);
        let client = self.server.client(UserInfo::system(&format!("system:node:{name}")));
        let node = Node::start(&name, self.made, client, &self.clock, &self.random);
        self.made += 1;
        self.nodes.insert(name.clone(), node);
        name
    }

    /// Kills a node: its containers and its agent stop at once, without a word.
    pub fn kill_node(&mut self, name: &str) {
        self.mirror.lock().node_killed(name);
        self.nodes.remove(name);
    }

    /// A living node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The names of the living nodes.
    pub fn living(&self) -> BTreeSet<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Creates an object.
    ///
    /// # Errors
    ///
    /// The API server's refusal.
    pub async fn create(&self, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        self.api.create(kind, namespace, object).await.map(drop)
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    ///
    /// The API server's refusal.
    pub async fn patch(&self, kind: &Kind, namespace: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        if kind.kind == "Deployment" && !patch["spec"]["replicas"].is_null() {
            self.mirror.lock().scaled(namespace, name);
        }
        self.api.patch(kind, namespace, name, "", PatchKind::Merge, patch).await.map(drop)
    }

    /// Deletes an object, as `kubectl delete` does by default.
    ///
    /// # Errors
    ///
    /// The API server's refusal.
    pub async fn delete(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        if kind.kind == "Pod" || kind.kind == "Namespace" {
            self.mirror.lock().disturbed();
        }
        let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
        self.api.delete(kind, namespace, name, &options).await.map(drop)
    }

    /// Lets time pass.
    pub async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Lets time pass until `done`, which is asked every 100 ms; how long it took, or `None` if `limit` was not enough.
    pub async fn run_until(&self, limit: Duration, mut done: impl AsyncFnMut(&Self) -> bool) -> Option<Duration> {
        let start = tokio::time::Instant::now();
        while start.elapsed() <= limit {
            if done(self).await {
                return Some(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// All objects of a kind.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub async fn list(&self, kind: &Kind) -> Vec<Value> {
        match read_list::<Value>(&self.api, kind, &Scope::default()).await {
            Ok((mut items, _)) => {
                for item in &mut items {
                    item["kind"] = kind.kind.as_ref().into();
                }
                items
            }
            Err(error) => panic!("cannot list {}: {error}", kind.plural),
        }
    }

    /// What is wrong now that everything should have come to rest, and what was wrong at any moment before.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub async fn wrong(&self) -> Vec<String> {
        let kinds = match served(&self.api).await {
            Ok((kinds, _)) => kinds,
            Err(error) => panic!("cannot discover: {error}"),
        };
        let mut objects = Vec::new();
        // What cannot be watched is not stored: component statuses are made up when they are asked for.
        for served in kinds.iter().filter(|s| s.can(&["list", "watch"])) {
            objects.extend(self.list(&served.kind).await);
        }
        let mut wrong = self.store.wrong();
        wrong.extend(invariants::at_rest(&objects, &self.living()));
        wrong
    }

    /// Every write so far.
    pub fn trace(&self) -> Trace {
        self.store.trace()
    }
}

/// The API server over a store.
///
/// # Panics
///
/// If it does not start.
pub(crate) async fn start_server<S: Store>(
    store: &Arc<S>,
    clock: &Clock,
    random: &Random,
    cancel: &CancellationToken,
) -> ApiServer {
    let keys = match ServiceAccountKeys::ephemeral(ISSUER) {
        Ok(keys) => Arc::new(keys),
        Err(error) => panic!("no keys: {error}"),
    };
    let standard = Standard {
        clock: clock.clone(),
        random: random.clone(),
        keys,
        service_cidrs: vec![service_cidr()],
        node_ports: (30000, 32767),
        anonymous: false,
        jwks_uri: format!("{ISSUER}/openid/v1/jwks"),
        nodes: None,
        options: Options::default(),
    };
    let config = Config {
        store: store.clone(),
        registry: Registry::builtin(),
        clock: clock.clone(),
        random: random.clone(),
        stop: cancel.clone(),
        extend: Box::new(move |reader| standard.extensions(reader)),
    };
    match ApiServer::start(config).await {
        Ok(server) => server,
        Err(error) => panic!("the server does not start: {error}"),
    }
}

fn service_cidr() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16))
}

/// What its cluster is made of.
pub(crate) fn facts() -> Facts {
    Facts {
        secure_port: 6443,
        service_cidrs: vec![service_cidr()],
        cluster_cidrs: vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16))],
        cluster_dns: vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))],
        cluster_domain: "cluster.local".into(),
        node_port_range: (30000, 32767),
        load_balancer_pools: Vec::new(),
        client_ca_pem: String::new(),
        request_header_ca_pem: String::new(),
    }
}
