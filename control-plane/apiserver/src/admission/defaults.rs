//! The plugins that run, in upstream's order.

use std::sync::Arc;

use xebec_clock::{Clock, Random};

use super::Plugin;
use super::certificates::{
    CertificateApproval, CertificateRequester, CertificateSigning, CertificateSubjectRestriction,
    ClusterTrustBundleAttest,
};
use super::claim_resize::PersistentVolumeClaimResize;
use super::default_ingress_class::DefaultIngressClass;
use super::default_storage_class::DefaultStorageClass;
use super::default_toleration_seconds::DefaultTolerationSeconds;
use super::devices::Devices;
use super::limit_ranger::LimitRanger;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::node_taint::TaintNodesByCondition;
use super::pod_security::{PodSecurity, PodSecurityConfig};
use super::pod_topology_labels::PodTopologyLabels;
use super::priority::Priority;
use super::rbac_escalation::RbacEscalation;
use super::resource_quota::ResourceQuota;
use super::runtime_class::RuntimeClass;
use super::service_account::ServiceAccount;
use super::storage_object_in_use::StorageObjectInUseProtection;
use super::{MutatingPolicies, ValidatingPolicies, Webhooks};
use crate::allocate::ServiceAllocator;
use crate::authz::Authorizer;
use crate::authz::rbac::Rbac;
use crate::reader::Reader;
use crate::webhook::WebhookClient;

/// What the plugins work with.
#[derive(Clone)]
pub struct Parts {
    /// What is stored.
    pub reader: Arc<dyn Reader>,
    /// The time.
    pub clock: Clock,
    /// Chance, for the names of volumes.
    pub random: Random,
    /// Asked who may sign and approve certificates, and who may escalate.
    pub authorizer: Arc<dyn Authorizer>,
    /// What users hold.
    pub rbac: Arc<Rbac>,
    /// Addresses and ports of services.
    pub allocator: Arc<ServiceAllocator>,
    /// What applies to pods in namespaces that do not say.
    pub pod_security: PodSecurityConfig,
}

/// Upstream's default plugins, as far as they are there; and, last, three that upstream has in its registry: the check
/// that nobody grants what they do not hold, what is said of devices, and the allocation of services' addresses.
pub fn default_plugins(parts: &Parts) -> Vec<Arc<dyn Plugin>> {
    let reader = || parts.reader.clone();
    let authorizer = || parts.authorizer.clone();
    let client = WebhookClient::new(reader());
    let webhooks =
        |mutating: bool| Webhooks::new(mutating, client.clone(), reader(), authorizer(), parts.random.clone());
    vec![
        Arc::new(NamespaceLifecycle::new(reader())),
        Arc::new(LimitRanger::new(reader())),
        Arc::new(ServiceAccount::new(reader(), parts.random.clone())),
        Arc::new(NodeRestriction::new(reader())),
        Arc::new(TaintNodesByCondition),
        Arc::new(PodSecurity::new(reader(), &parts.pod_security)),
        Arc::new(Priority::new(reader())),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(DefaultStorageClass::new(reader())),
        Arc::new(StorageObjectInUseProtection),
        Arc::new(PersistentVolumeClaimResize::new(reader())),
        Arc::new(RuntimeClass::new(reader())),
        Arc::new(CertificateRequester),
        Arc::new(CertificateApproval::new(authorizer())),
        Arc::new(CertificateSigning::new(authorizer())),
        Arc::new(ClusterTrustBundleAttest::new(authorizer())),
        Arc::new(CertificateSubjectRestriction),
        Arc::new(DefaultIngressClass::new(reader())),
        Arc::new(PodTopologyLabels::new(reader())),
        Arc::new(MutatingPolicies::new(reader(), authorizer())),
        Arc::new(webhooks(true)),
        Arc::new(ValidatingPolicies::new(reader(), authorizer())),
        Arc::new(webhooks(false)),
        Arc::new(RbacEscalation::new(parts.rbac.clone(), authorizer())),
        Arc::new(Devices::new(reader(), &parts.clock)),
        parts.allocator.clone(),
        Arc::new(ResourceQuota::new(reader(), &parts.clock)),
    ]
}
