//! The controllers: pure planners, and the executor that carries plans out.
//!
//! [`run_all`] is the whole: informers fill the caches of [`context::Caches`], every change puts keys into the queues of
//! the controllers that it concerns, and each controller looks at the caches, calls its module's `plan`, and has the
//! executor carry the plan out. The answers to writes go into the caches at once, so a plan is never made on a view that
//! lacks the controller's own doings.

pub mod account_tokens;
pub mod admission_policy_status;
mod claim;
pub mod cluster_role;
pub mod context;
pub mod cron_job;
pub mod csr;
pub mod daemon_set;
pub mod deployment;
pub mod device_taint_eviction;
pub mod disruption;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod expiry;
pub mod gc;
mod history;
pub mod horizontal_pod_autoscaler;
pub mod job;
pub mod load_balancer;
pub mod namespace;
pub mod namespace_contents;
pub mod node_lifecycle;
pub mod nodeipam;
pub mod persistent_volume;
pub mod podgc;
pub mod replicaset;
pub mod resource_claim;
pub mod resource_quota;
pub mod runtime;
pub mod service_cidr;
pub mod stateful_set;
pub mod storage_version_migration;
pub mod taint_eviction;
pub mod views;
pub mod volume_protection;

use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::SignedDuration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};
use xebec_pki::{ClusterCa, ServiceAccountKeys};

use context::{Caches, Context};
use runtime::api::{Api, Scope};
use runtime::executor::Executor;
use runtime::work_queues::WorkQueues;
use runtime::{Controller as _, recorder, start};

/// How long certificates are good for that are asked for by requests, unless configured: upstream's year.
pub const CLUSTER_SIGNING_DURATION: SignedDuration = SignedDuration::from_hours(365 * 24);

/// What the controllers are to go by.
#[derive(Clone)]
pub struct Config {
    /// Where pods' addresses come from: of one family or both, the preferred one first.
    pub pod_ranges: Vec<nodeipam::Range>,
    /// How long a node may be silent until it counts as unreachable.
    pub node_monitor_grace_period: Duration,
    /// Where addresses of load balancers come from; none if empty.
    pub load_balancer_pools: Vec<load_balancer::Pool>,
    /// Signs certificates, and is published to all namespaces; without it, neither is done.
    pub ca: Option<Arc<ClusterCa>>,
    /// Signs the service accounts' tokens that are kept in Secrets; without it, none are made.
    pub service_account_keys: Option<Arc<ServiceAccountKeys>>,
    /// How long certificates are good for that are asked for by requests, at most and if nothing else is asked.
    pub cluster_signing_duration: SignedDuration,
    /// How long events are kept after they last happened.
    pub event_ttl: Duration,
    /// Where the controllers' queues are to be seen.
    pub queues: Arc<WorkQueues>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("pod_ranges", &self.pod_ranges)
            .field("node_monitor_grace_period", &self.node_monitor_grace_period)
            .field("load_balancer_pools", &self.load_balancer_pools)
            .field("cluster_signing_duration", &self.cluster_signing_duration)
            .field("event_ttl", &self.event_ttl)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pod_ranges: vec![nodeipam::Range {
                cluster: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 244, 0, 0), 16).into(),
                node_prefix: 24,
            }],
            node_monitor_grace_period: Duration::from_secs(40),
            load_balancer_pools: Vec::new(),
            ca: None,
            service_account_keys: None,
            cluster_signing_duration: CLUSTER_SIGNING_DURATION,
            event_ttl: Duration::from_secs(3600),
            queues: Arc::default(),
        }
    }
}

/// Starts a controller's workers.
type Start = Box<dyn FnOnce(&mut JoinSet<()>, &CancellationToken) + Send>;

/// Runs all controllers until `cancel`. `client` is a user who may do everything.
pub async fn run_all(client: kube::Client, clock: Clock, random: Random, config: Config, cancel: CancellationToken) {
    let api = Api::new(client);
    let mut set = JoinSet::new();
    let caches = Arc::new(Caches::default());
    let (recorder, write_events) = recorder::recorder("controller-manager", api.clone(), clock.clone(), cancel.clone());
    set.spawn(write_events);
    let executor = Executor::new(api.clone(), recorder, caches.sinks());
    let cx = Context::new(clock, random.clone(), caches.clone(), executor);

    let event_ttl = SignedDuration::try_from(config.event_ttl).unwrap_or(SignedDuration::from_hours(1));
    let certificate = config.ca.as_ref().map(|ca| ca.certificate_pem().to_owned());
    // All are connected to the caches before the informers start, and start to work when the caches are filled.
    let mut workers: Vec<Start> = Vec::new();
    config.queues.clear();
    macro_rules! run {
        ($controller:expr) => {{
            let controller = $controller;
            config.queues.add(controller.name(), controller.queue());
            workers.push(Box::new(move |set, cancel| start(set, &controller, cancel)));
        }};
    }
    if let (Some(keys), Some(certificate)) = (&config.service_account_keys, &certificate) {
        run!(account_tokens::AccountTokens::new(&cx, keys.clone(), certificate.clone()));
    }
    run!(namespace_contents::NamespaceContents::new(&cx, certificate));
    run!(nodeipam::NodeIpam::new(&cx, config.pod_ranges.clone()));
    run!(node_lifecycle::NodeLifecycle::new(&cx, config.node_monitor_grace_period));
    run!(taint_eviction::TaintEviction::new(&cx));
    run!(deployment::Deployments::new(&cx));
    run!(replicaset::ReplicaSets::<views::ReplicaSet>::new(&cx));
    run!(replicaset::ReplicaSets::<views::ReplicationController>::new(&cx));
    run!(stateful_set::StatefulSets::new(&cx));
    run!(daemon_set::DaemonSets::new(&cx));
    run!(job::Jobs::new(&cx));
    run!(cron_job::CronJobs::new(&cx));
    run!(endpoints::EndpointsController::new(&cx));
    run!(endpoint_slice_mirroring::Mirroring::new(&cx));
    run!(service_cidr::Ranges::new(&cx));
    run!(service_cidr::Addresses::new(&cx));
    run!(service_cidr::Allocations::new(&cx));
    run!(disruption::Disruption::new(&cx));
    run!(namespace::Namespaces::new(&cx));
    run!(podgc::PodGc::new(&cx));
    run!(cluster_role::ClusterRoles::new(&cx));
    run!(horizontal_pod_autoscaler::Autoscalers::new(&cx));
    run!(persistent_volume::Binder::new(&cx));
    run!(persistent_volume::ephemeral::EphemeralVolumes::new(&cx));
    run!(resource_claim::PodClaims::new(&cx));
    run!(resource_claim::Claims::new(&cx));
    run!(device_taint_eviction::DeviceTaintEviction::new(&cx));
    run!(volume_protection::Claims::new(&cx));
    run!(storage_version_migration::Migrations::new(&cx));
    run!(admission_policy_status::PolicyStatuses::new(&cx));
    run!(volume_protection::Volumes::new(&cx));
    run!(volume_protection::AttributesClasses::new(&cx));
    run!(expiry::FinishedJobs::new(&cx));
    run!(expiry::Tokens::new(&cx));
    run!(expiry::Events::new(&cx, event_ttl));
    let pools = Arc::<runtime::cache::Cache<views::LoadBalancerPool>>::default();
    run!(load_balancer::LoadBalancers::new(&cx, config.load_balancer_pools.clone(), pools.clone()));
    set.spawn(runtime::informer::run(
        api.clone(),
        runtime::kind::LOAD_BALANCER_POOL.clone(),
        pools,
        Scope::default(),
        random.clone(),
        cancel.clone(),
    ));
    if let Some(ca) = &config.ca {
        run!(csr::SigningRequests::new(&cx, ca.clone(), config.cluster_signing_duration));
    }
    let quotas = resource_quota::ResourceQuotas::new(&cx);
    run!(quotas.clone());
    let collector = gc::GarbageCollector::new(
        &cx,
        Arc::new(move |kind: &runtime::kind::Kind, namespace: &str| {
            quotas.something_went(&kind.group, &kind.plural, namespace);
        }),
    );
    set.spawn(collector.clone().follow(cancel.clone()));
    run!(collector);
    caches.start(&mut set, &api, &random, &cancel);
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = caches.synced() => workers.into_iter().for_each(|start| start(&mut set, &cancel)),
    }
    while let Some(ended) = set.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a controller's task panicked");
        }
    }
}
