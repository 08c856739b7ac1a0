//! What every controller works with.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};

use crate::runtime::api::{Api, Scope};
use crate::runtime::cache::{Cache, View};
use crate::runtime::executor::{Executor, Failure, Sinks};
use crate::runtime::informer;
use crate::runtime::plan::Plan;
use crate::views::{
    CertificateSigningRequest, ClusterRole, ConfigMap, ControllerRevision, CronJob, DaemonSet, Deployment,
    DeviceTaintRule, EndpointSlice, Endpoints, HorizontalPodAutoscaler, IpAddress, Job, Lease, Namespace, Node,
    PersistentVolume, PersistentVolumeClaim, Pod, PodDisruptionBudget, ReplicaSet, ReplicationController,
    ResourceClaim, ResourceQuota, ResourceSlice, Secret, Service, ServiceAccount, ServiceCidr, StatefulSet,
    StorageClass, StorageVersionMigration, ValidatingAdmissionPolicy, VolumeAttributesClass,
};

/// What every controller works with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    /// The API server.
    pub api: Api,
    /// Wall time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// What is known of the world.
    pub caches: Arc<Caches>,
    executor: Executor,
}

impl Context {
    /// A context over the caches.
    pub fn new(clock: Clock, random: Random, caches: Arc<Caches>, executor: Executor) -> Self {
        Self { api: executor.api.clone(), clock, random, caches, executor }
    }

    /// The same, with events from another component.
    pub fn of(&self, component: &'static str) -> Self {
        Self { executor: self.executor.of(component), ..self.clone() }
    }

    /// Carries a plan out.
    pub async fn execute(&self, plan: Plan) -> Result<(), Failure> {
        self.executor.execute(plan).await
    }
}

macro_rules! caches {
    ($($(#[doc = $doc:literal])* $field:ident: $view:ident = $scope:expr;)*) => {
        /// What is known of each kind, shared by all controllers.
        #[derive(Debug, Default)]
        pub struct Caches {
            $($(#[doc = $doc])* pub $field: Arc<Cache<$view>>,)*
        }

        impl Caches {
            /// Where answers to own writes go.
            pub fn sinks(&self) -> Sinks {
                let mut sinks = Sinks::default();
                $(sinks.add(&self.$field);)*
                sinks
            }

            /// Starts an informer for each kind.
            pub fn start(&self, set: &mut JoinSet<()>, api: &Api, random: &Random, cancel: &CancellationToken) {
                $(set.spawn(follow(api, &self.$field, $scope, random, cancel));)*
            }

            /// Waits until every kind has been listed once.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }
        }
    };
}

fn follow<V: View>(
    api: &Api,
    cache: &Arc<Cache<V>>,
    scope: Scope,
    random: &Random,
    cancel: &CancellationToken,
) -> impl Future<Output = ()> + Send + use<V> {
    informer::run(api.clone(), V::kind().clone(), cache.clone(), scope, random.clone(), cancel.clone())
}

caches! {
    /// All pods.
    pods: Pod = Scope::default();
    /// All nodes.
    nodes: Node = Scope::default();
    /// The leases by which nodes give signs of life.
    node_leases: Lease = Scope { namespace: "kube-node-lease".into(), ..Scope::default() };
    /// All namespaces.
    namespaces: Namespace = Scope::default();
    /// All services.
    services: Service = Scope::default();
    /// All ranges of services' addresses.
    service_cidrs: ServiceCidr = Scope::default();
    /// All addresses of services.
    ip_addresses: IpAddress = Scope::default();
    /// All endpoint slices.
    endpoint_slices: EndpointSlice = Scope::default();
    /// All endpoints.
    endpoints: Endpoints = Scope::default();
    /// All ReplicaSets.
    replica_sets: ReplicaSet = Scope::default();
    /// All Deployments.
    deployments: Deployment = Scope::default();
    /// All ReplicationControllers.
    replication_controllers: ReplicationController = Scope::default();
    /// All StatefulSets.
    stateful_sets: StatefulSet = Scope::default();
    /// All DaemonSets.
    daemon_sets: DaemonSet = Scope::default();
    /// All revisions of StatefulSets and DaemonSets.
    controller_revisions: ControllerRevision = Scope::default();
    /// All jobs.
    jobs: Job = Scope::default();
    /// All cron jobs.
    cron_jobs: CronJob = Scope::default();
    /// All service accounts.
    service_accounts: ServiceAccount = Scope { metadata_only: true, ..Scope::default() };
    /// The cluster's root certificates in each namespace.
    root_certificates: ConfigMap =
        Scope { field_selector: "metadata.name=kube-root-ca.crt".into(), ..Scope::default() };
    /// Bootstrap tokens.
    bootstrap_tokens: Secret = Scope {
        namespace: "kube-system".into(),
        field_selector: "type=bootstrap.kubernetes.io/token".into(),
        ..Scope::default()
    };
    /// Secrets that have, or want, the token of a service account. Answers to writes of Secrets come here: the other
    /// controllers of Secrets only delete them.
    account_tokens: Secret =
        Scope { field_selector: "type=kubernetes.io/service-account-token".into(), ..Scope::default() };
    /// All cluster roles.
    cluster_roles: ClusterRole = Scope::default();
    /// All certificate signing requests.
    signing_requests: CertificateSigningRequest = Scope::default();
    /// All persistent volumes.
    volumes: PersistentVolume = Scope::default();
    /// All claims to them.
    claims: PersistentVolumeClaim = Scope::default();
    /// All claims to devices.
    resource_claims: ResourceClaim = Scope::default();
    /// All devices.
    resource_slices: ResourceSlice = Scope::default();
    /// All rules that taint devices.
    device_taint_rules: DeviceTaintRule = Scope::default();
    /// All horizontal pod autoscalers.
    autoscalers: HorizontalPodAutoscaler = Scope::default();
    /// All classes of storage.
    storage_classes: StorageClass = Scope::default();
    /// All resource quotas.
    resource_quotas: ResourceQuota = Scope::default();
    /// All validating admission policies.
    admission_policies: ValidatingAdmissionPolicy = Scope::default();
    /// All classes of volumes' attributes.
    attributes_classes: VolumeAttributesClass = Scope { metadata_only: true, ..Scope::default() };
    /// All migrations of what is stored.
    migrations: StorageVersionMigration = Scope::default();
    /// All pod disruption budgets.
    disruption_budgets: PodDisruptionBudget = Scope::default();
}
