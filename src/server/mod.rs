//! `xebec server`: the API server, the controllers and the scheduler in one process.

mod admin;
mod audit_log;
pub mod config;
mod datapath;
mod encryption;
mod nodes;
mod pod_routes;
pub mod ranges;
mod several;
mod tls;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xebec_apiserver::aggregation::Identity;
use xebec_apiserver::audit::{Policy, Sink};
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::authn::front_proxy::FrontProxyConfig;
use xebec_apiserver::bootstrap;
use xebec_apiserver::extension::Check;
use xebec_apiserver::members::{Member, Members};
use xebec_apiserver::resource_metrics::{self, ResourceMetrics};
use xebec_apiserver::standard::{Options, Standard};
use xebec_apiserver::{ApiServer, Config};
use xebec_clock::{Clock, Random};
use xebec_controllers::runtime::work_queues::WorkQueues;
use xebec_pki::{ClusterCa, ServiceAccountKeys};
use xebec_schema::registry::Registry;
use xebec_store::etcd::{EtcdConfig, EtcdStore};
use xebec_store::sqlite::SqliteStore;
use xebec_store::{Store, StoreError};

use crate::token::JOIN_GROUP;
use config::ServerConfig;
use datapath::Datapath;
use encryption::Encryption;
use several::{DataDir, Office};

/// How long what has to be given back at the end may take: leases, mostly.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long etcd may take to be there, and how often it is tried.
const ETCD_PATIENCE: Duration = Duration::from_secs(30);
const ETCD_PAUSE: Duration = Duration::from_millis(200);

/// `xebec server`: runs until SIGTERM or SIGINT.
pub fn main(args: config::Args) -> anyhow::Result<()> {
    let config = args.load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.spawn(crate::memory::forget_start());
    let result = runtime.block_on(run(config));
    // What hangs now would hang for ever.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// What the parts of the server share.
struct Server {
    config: ServerConfig,
    advertise: IpAddr,
    clock: Clock,
    random: Random,
    ca: Arc<ClusterCa>,
    /// Signs what extension API servers know the server by.
    front_proxy_ca: Arc<ClusterCa>,
    keys: Arc<ServiceAccountKeys>,
    /// What nodes and pods use; there from the API server's start.
    metrics: Arc<OnceLock<Arc<ResourceMetrics>>>,
    /// What the nodes' datapath does and holds; there from the API server's start.
    datapath: Arc<OnceLock<Arc<Datapath>>>,
    /// The controllers' queues.
    queues: Arc<WorkQueues>,
    stop: CancellationToken,
    /// What has something to give back when the server stops.
    farewells: TaskTracker,
    data_dir: DataDir,
}

async fn run(config: ServerConfig) -> anyhow::Result<()> {
    let server = Server::prepare(config)?;
    let listener = server.listen().await?;
    let (store, health) = server.store().await?;
    several::check_cluster(&*store, server.ca.certificate_pem(), &server.config.data_dir).await?;
    let bootstrapped = Arc::new(AtomicBool::new(false));
    let api = server.start_api((store, health), &bootstrapped).await?;
    let proxies_ca = server.front_proxy()?.map(|proxies| proxies.client_ca_pem).unwrap_or_default();
    let tls = tls::config(&server.ca, &server.certificate_names(), &proxies_ca, &server.clock, &server.stop)?;
    admin::write_kubeconfig(&server.config, &server.url(), &server.ca, &server.clock)?;
    let serving = {
        let (api, stop) = (api.clone(), server.stop.clone());
        tokio::spawn(async move { api.serve(listener, Arc::new(tls), stop).await })
    };
    tracing::info!("serving at {}", server.url());
    let stop = server.stop.clone();
    let ended = async {
        let members = server.bootstrap(&api).await?;
        bootstrapped.store(true, Ordering::Release);
        server.run_components(&api, members).await
    };
    tokio::select! {
        biased;
        result = asked_to_stop() => result?,
        result = ended => result?,
    }
    stop.cancel();
    server.farewells.close();
    if tokio::time::timeout(FAREWELL, server.farewells.wait()).await.is_err() {
        tracing::warn!("leases could not be given back in time; other servers take over when they end");
    }
    serving.await.context("serving ended badly")?.context("cannot serve any more")
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

impl Server {
    fn prepare(config: ServerConfig) -> anyhow::Result<Self> {
        let dir = &config.data_dir;
        let what = || format!("cannot use the data directory {} (--data-dir)", dir.display());
        fs::create_dir_all(dir).with_context(what)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).with_context(what)?;
        let data_dir = DataDir::take(dir, &Random::system())?;
        let (clock, random) = (Clock::system(), Random::system());
        let ca = Arc::new(ClusterCa::load_or_create(dir, &clock, &random).with_context(what)?);
        let front_proxy = dir.join("front-proxy");
        fs::create_dir_all(&front_proxy).with_context(what)?;
        let front_proxy_ca = Arc::new(ClusterCa::load_or_create(&front_proxy, &clock, &random).with_context(what)?);
        let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
        let keys = Arc::new(ServiceAccountKeys::load_or_create(dir, &issuer).with_context(what)?);
        let advertise = match config.advertise_address {
            Some(address) => address,
            None if !config.bind_address.is_unspecified() => config.bind_address,
            None => default_address()?,
        };
        let (metrics, datapath, queues) = (Arc::default(), Arc::default(), Arc::default());
        let stop = CancellationToken::new();
        let farewells = TaskTracker::new();
        Ok(Self {
            advertise,
            clock,
            random,
            ca,
            front_proxy_ca,
            keys,
            metrics,
            datapath,
            queues,
            stop,
            farewells,
            data_dir,
            config,
        })
    }

    fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.advertise, self.config.port))
    }

    async fn listen(&self) -> anyhow::Result<TcpListener> {
        let at = SocketAddr::new(self.config.bind_address, self.config.port);
        TcpListener::bind(at).await.map_err(|e| match e.kind() {
            ErrorKind::AddrInUse => anyhow::anyhow!(
                "{at} is in use by another program (ss -ltnp shows which); stop it or choose another --port"
            ),
            ErrorKind::AddrNotAvailable => {
                anyhow::anyhow!("this machine has no address {} (--bind-address)", at.ip())
            }
            _ => anyhow::anyhow!("cannot listen on {at}: {e}"),
        })
    }

    /// The names and addresses that clients reach the server by.
    fn certificate_names(&self) -> Vec<String> {
        let domain = &self.config.cluster_domain;
        let mut names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "::1"]
            .map(str::to_owned)
            .to_vec();
        names.push(format!("kubernetes.default.svc.{domain}"));
        names.push(self.config.kubernetes_service().to_string());
        names.push(self.advertise.to_string());
        if !self.config.bind_address.is_unspecified() {
            names.push(self.config.bind_address.to_string());
        }
        names.push(several::hostname());
        names.extend(self.config.tls_names.iter().cloned());
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|n| !n.is_empty() && seen.insert(n.clone()));
        names
    }

    /// The store, with what is to be encrypted encrypted, and what tells how the plugins are that have its keys.
    async fn store(&self) -> anyhow::Result<(Arc<dyn Store>, BTreeMap<String, Check>)> {
        let store = open_store(&self.config).await?;
        let Some(path) = &self.config.encryption_provider_config else { return Ok((store, BTreeMap::new())) };
        let reloads = self.config.encryption_provider_config_automatic_reload;
        let sources = (self.clock.clone(), self.random.clone());
        let encryption = Encryption::open(store, path, reloads, sources).await?;
        let (store, health) = (Arc::clone(&encryption.store) as Arc<dyn Store>, encryption.health());
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(encryption.follow()));
        Ok((store, health))
    }

    /// The proxies that may say who their users are.
    fn front_proxy(&self) -> anyhow::Result<Option<FrontProxyConfig>> {
        let Some(path) = &self.config.requestheader_client_ca_file else { return Ok(None) };
        let pem = fs::read_to_string(path)
            .with_context(|| format!("cannot read {} (--requestheader-client-ca-file)", path.display()))?;
        let config = &self.config;
        Ok(Some(FrontProxyConfig {
            client_ca_pem: pem,
            allowed_names: config.requestheader_allowed_names.clone(),
            username_headers: config.requestheader_username_headers.clone(),
            uid_headers: config.requestheader_uid_headers.clone(),
            group_headers: config.requestheader_group_headers.clone(),
            extra_header_prefixes: config.requestheader_extra_headers_prefix.clone(),
        }))
    }

    /// What is noted of requests, and where.
    fn audit(&self) -> anyhow::Result<Option<(Policy, Arc<dyn Sink>)>> {
        let config = &self.config;
        let (Some(policy), Some(path)) = (&config.audit_policy_file, &config.audit_log_path) else { return Ok(None) };
        let what = || format!("cannot use {} (--audit-policy-file)", policy.display());
        let policy = Policy::parse(&fs::read_to_string(policy).with_context(what)?).with_context(what)?;
        let settings = audit_log::Settings {
            path: path.clone(),
            max_age_days: config.audit_log_maxage,
            max_backups: config.audit_log_maxbackup,
            max_size_megabytes: config.audit_log_maxsize,
            compress: config.audit_log_compress,
        };
        let log: Arc<dyn Sink> = Arc::new(audit_log::AuditLog::open(settings, self.clock.clone())?);
        Ok(Some((policy, log)))
    }

    async fn start_api(
        &self,
        (store, health): (Arc<dyn Store>, BTreeMap<String, Check>),
        bootstrapped: &Arc<AtomicBool>,
    ) -> anyhow::Result<ApiServer> {
        let nodes = nodes::Agents::new(Arc::clone(&self.ca), self.clock.clone());
        let standard = Standard {
            clock: self.clock.clone(),
            random: self.random.clone(),
            keys: Arc::clone(&self.keys),
            jwks_uri: format!("{}/openid/v1/jwks", self.url()),
            service_cidrs: self.config.service_cidr.all(),
            node_ports: self.config.node_ports()?,
            anonymous: true,
            nodes: Some(Arc::new(nodes)),
            options: Options {
                pod_security: self.config.pod_security.clone(),
                audit: self.audit()?,
                front_proxy: self.front_proxy()?,
                authentication: self.config.authentication()?,
                token_webhook: self.config.token_webhook()?,
                authorization: self.config.authorization()?,
            },
        };
        let bootstrapped = Arc::clone(bootstrapped);
        let front_proxy_ca = Arc::clone(&self.front_proxy_ca);
        let (metrics, datapath) = (Arc::clone(&self.metrics), Arc::clone(&self.datapath));
        let queues = Arc::clone(&self.queues);
        let config = Config {
            store,
            registry: Registry::builtin(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            stop: self.stop.clone(),
            extend: Box::new(move |reader| {
                let metrics = metrics.get_or_init(|| ResourceMetrics::new(reader.clone())).clone();
                let datapath = datapath.get_or_init(|| Datapath::new(reader.clone())).clone();
                let mut extensions = standard.extensions(reader);
                extensions.apis.push(metrics);
                extensions.apis.push(datapath);
                extensions.metrics.push(Arc::new(move |out| queues.render(out)));
                extensions.identity = Some(Arc::new(FrontProxy(front_proxy_ca)));
                let ready = move || match bootstrapped.load(Ordering::Acquire) {
                    true => Ok(()),
                    false => Err("the objects of a new cluster are being made".to_owned()),
                };
                let ready: Check = Arc::new(ready);
                extensions.started = Some(Arc::clone(&ready));
                extensions.health = health;
                // They run in this process from then on: when one of them ends, it does.
                for component in ["controller-manager", "scheduler"] {
                    extensions.components.insert(component.into(), Arc::clone(&ready));
                }
                extensions
            }),
        };
        ApiServer::start(config).await.context("cannot read the store")
    }

    /// Makes what every cluster has, where it is missing, and takes this server's place among the others.
    async fn bootstrap(&self, api: &ApiServer) -> anyhow::Result<Members> {
        let facts = bootstrap::Facts {
            secure_port: self.config.port,
            service_cidrs: self.config.service_cidr.all(),
            cluster_cidrs: self.config.cluster_cidr.all(),
            cluster_dns: self.config.dns_addresses(),
            cluster_domain: self.config.cluster_domain.clone(),
            node_port_range: self.config.node_ports()?,
            load_balancer_pools: self.config.load_balancer_pools.clone(),
            client_ca_pem: self.ca.certificate_pem().to_owned(),
            request_header_ca_pem: self.front_proxy_ca.certificate_pem().to_owned(),
        };
        let client = api.client(UserInfo::system("system:apiserver"));
        let mut desired = bootstrap::desired(&facts);
        desired.push(xebec_controllers::persistent_volume::provision::class());
        desired.extend(resource_metrics::roles());
        desired.extend(datapath::roles());
        if self.advertise.is_loopback() {
            tracing::warn!("{} is this machine only: pods and other machines can't reach this server", self.advertise);
        }
        bootstrap::reconcile(&client, desired).await.context("cannot make a new cluster's objects")?;
        for token in &self.config.bootstrap_tokens {
            add_token(&client, token).await?;
        }
        let own = Member { address: self.advertise, port: self.config.port, hostname: several::hostname() };
        let mut members = Members::new(api.clone(), own);
        members.join().await.context("cannot write down this server as the service kubernetes")?;
        Ok(members)
    }

    /// What it takes to be the one server that runs the controllers, if there are others.
    fn office(&self, api: &ApiServer) -> Option<Office> {
        api.shared().store.is_shared().then(|| Office {
            identity: self.data_dir.identity.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
        })
    }

    /// Runs something that has a lease to give back if there are other servers, which wait for it.
    fn spawn(&self, api: &ApiServer, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        if api.shared().store.is_shared() { self.farewells.spawn(task) } else { tokio::spawn(task) }
    }

    /// Runs the controllers and the scheduler; they end when the server is to stop, and not before.
    async fn run_components(&self, api: &ApiServer, members: Members) -> anyhow::Result<()> {
        let pool = |net: &ipnet::IpNet| net.to_string().parse().map_err(|e| anyhow::anyhow!("{e}"));
        let config = xebec_controllers::Config {
            pod_ranges: self.config.pod_ranges(),
            load_balancer_pools: self.config.load_balancer_pools.iter().map(pool).collect::<anyhow::Result<_>>()?,
            ca: Some(Arc::clone(&self.ca)),
            service_account_keys: Some(Arc::clone(&self.keys)),
            cluster_signing_duration: self.config.cluster_signing_duration,
            queues: Arc::clone(&self.queues),
            ..xebec_controllers::Config::default()
        };
        let client = |name| api.client(UserInfo::system(name));
        let (controlling, scheduling) = (client("system:kube-controller-manager"), client("system:kube-scheduler"));
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let controllers = {
            let (client, clock, random) = (controlling.clone(), clock.clone(), random.clone());
            move |stop| xebec_controllers::run_all(client.clone(), clock.clone(), random.clone(), config.clone(), stop)
        };
        let scheduler = {
            let client = scheduling.clone();
            move |stop| xebec_scheduler::run(client.clone(), clock.clone(), random.clone(), stop)
        };
        let stop = || self.stop.clone();
        let (first, second) = (self.office(api), self.office(api));
        let controllers = several::act(first, "kube-controller-manager", controlling, stop(), controllers);
        let scheduler = several::act(second, "kube-scheduler", scheduling, stop(), scheduler);
        self.farewells.spawn(members.follow(stop()));
        let maintenance = bootstrap::maintain(client("system:apiserver"), self.clock.clone());
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(maintenance));
        if let Some(metrics) = self.metrics.get() {
            let asking = metrics.clone().follow(client("system:metrics-server"));
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(asking));
        }
        if let Some(datapath) = self.datapath.get() {
            datapath.connect(client("system:apiserver"));
        }
        tokio::spawn(pod_routes::run(api.clone(), self.stop.clone()));
        let (controllers, scheduler) = tokio::join!(self.spawn(api, controllers), self.spawn(api, scheduler));
        controllers.context("the controllers ended badly")?;
        scheduler.context("the scheduler ended badly")
    }
}

/// Who the server is to the API servers behind APIServices. The CA is none of the cluster's clients': whoever has one of
/// its certificates may say for whom they ask.
struct FrontProxy(Arc<ClusterCa>);

impl Identity for FrontProxy {
    fn certified(&self) -> Result<(String, String), String> {
        let validity = jiff::SignedDuration::from_hours(365 * 24);
        let certified = self.0.client_cert(bootstrap::FRONT_PROXY, &[], validity).map_err(|e| e.to_string())?;
        Ok((certified.certificate_pem, certified.key_pem))
    }
}

/// Makes the Secret of a token that the configuration has, unless it is there.
async fn add_token(client: &kube::Client, token: &config::BootstrapTokenConfig) -> anyhow::Result<()> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": token.id,
            "token-secret-hash": token.secret_hash,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": JOIN_GROUP,
            "description": token.description,
        },
    });
    let request = http::Request::post("/api/v1/namespaces/kube-system/secrets")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&secret)?)?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(e) => Err(e).context("cannot make a join token"),
    }
}

/// etcd where there is one; else a file of our own.
async fn open_store(config: &ServerConfig) -> anyhow::Result<Arc<dyn Store>> {
    if config.etcd_servers.is_empty() {
        let path = config.data_dir.join("store.db");
        let what = || format!("cannot open the store {} (another server running? no space left?)", path.display());
        return Ok(Arc::new(SqliteStore::open(&path).with_context(what)?));
    }
    let read = |path: &Option<PathBuf>, flag: &str| -> anyhow::Result<Option<String>> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).with_context(|| format!("cannot read {} ({flag})", path.display()))
        };
        path.as_ref().map(read).transpose()
    };
    let certificate = read(&config.etcd_certfile, "--etcd-certfile")?;
    let key = read(&config.etcd_keyfile, "--etcd-keyfile")?;
    let etcd = EtcdConfig {
        servers: config.etcd_servers.clone(),
        ca_pem: read(&config.etcd_cafile, "--etcd-cafile")?,
        certificate_pem: certificate.zip(key),
    };
    let what = || format!("cannot use etcd at {} (--etcd-servers)", config.etcd_servers.join(","));
    Ok(Arc::new(connect_etcd(&etcd).await.with_context(what)?))
}

/// Machines start in any order: etcd may be there in a while.
async fn connect_etcd(etcd: &EtcdConfig) -> Result<EtcdStore, StoreError> {
    let until = Instant::now() + ETCD_PATIENCE;
    let mut told = false;
    loop {
        match EtcdStore::connect(etcd).await {
            Err(error) if Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "cannot use etcd yet; trying for {} s", ETCD_PATIENCE.as_secs());
                }
            }
            result => return result,
        }
        tokio::time::sleep(ETCD_PAUSE).await;
    }
}

/// The address of the way to everywhere else.
fn default_address() -> anyhow::Result<IpAddr> {
    let find = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Sends nothing; the kernel chooses the route. TEST-NET-1 (RFC 5737) is nobody's.
        socket.connect(("192.0.2.1", 9))?;
        Ok(socket.local_addr()?.ip())
    };
    match find() {
        Ok(address) if !address.is_unspecified() => Ok(address),
        _ => bail!("this machine has no default route: say by --advertise-address how the nodes reach it"),
    }
}
