//! Nodes, namespaces and what belongs to the cluster as a whole.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::pod::Taint;
use crate::runtime::kind;
use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::{Condition, Meta, null_default};

/// `core/v1 Node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: NodeSpec,
    /// What is.
    pub status: NodeStatus,
}

super::view!(Node, kind::NODE);

/// `core/v1 NodeSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Its pods' addresses.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Its pods' addresses, of each family.
    #[serde(rename = "podCIDRs", deserialize_with = "null_default")]
    pub pod_cidrs: Vec<String>,
    /// What pods must put up with.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
}

/// `core/v1 NodeStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// `Ready` and others.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// `core/v1 Namespace`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: NamespaceSpec,
    /// What is.
    pub status: NamespaceStatus,
}

super::view!(Namespace, kind::NAMESPACE);

/// `core/v1 NamespaceSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    /// `kubernetes` until the contents are gone.
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
}

/// `core/v1 NamespaceStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// `Active`, `Terminating`.
    pub phase: String,
    /// What keeps it.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// `core/v1 ServiceAccount`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceAccount {
    /// Metadata.
    pub metadata: Meta,
}

super::view!(ServiceAccount, kind::SERVICE_ACCOUNT);

/// `core/v1 ConfigMap`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    /// Metadata.
    pub metadata: Meta,
    /// Its files.
    #[serde(deserialize_with = "null_default")]
    pub data: BTreeMap<String, String>,
}

super::view!(ConfigMap, kind::CONFIG_MAP);

/// `core/v1 ResourceQuota`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceQuota {
    /// Metadata.
    pub metadata: Meta,
    /// What is limited.
    pub spec: ResourceQuotaSpec,
}

super::view!(ResourceQuota, kind::RESOURCE_QUOTA);

/// `core/v1 ResourceQuotaSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceQuotaSpec {
    /// How much there may be, by resource.
    #[serde(deserialize_with = "null_default")]
    pub hard: BTreeMap<String, Value>,
    /// Which objects it is about.
    #[serde(deserialize_with = "null_default")]
    pub scopes: Vec<String>,
    /// The same, with operators.
    pub scope_selector: Option<Value>,
}

/// `core/v1 Secret`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// Metadata.
    pub metadata: Meta,
    /// Its values, in base64.
    #[serde(deserialize_with = "null_default")]
    pub data: BTreeMap<String, String>,
}

super::view!(Secret, kind::SECRET);

/// `coordination.k8s.io/v1 Lease`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// Metadata.
    pub metadata: Meta,
    /// Who holds it.
    pub spec: LeaseSpec,
}

super::view!(Lease, kind::LEASE);

/// `coordination.k8s.io/v1 LeaseSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// When its holder last gave a sign of life.
    pub renew_time: Option<Timestamp>,
}

/// `certificates.k8s.io/v1 CertificateSigningRequest`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CertificateSigningRequest {
    /// Metadata.
    pub metadata: Meta,
    /// What is asked for.
    pub spec: CertificateSigningRequestSpec,
    /// What came of it.
    pub status: CertificateSigningRequestStatus,
}

super::view!(CertificateSigningRequest, kind::CERTIFICATE_SIGNING_REQUEST);

/// `certificates.k8s.io/v1 CertificateSigningRequestSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateSigningRequestSpec {
    /// PKCS#10 in PEM, in base64.
    pub request: String,
    /// Which kind of certificate.
    pub signer_name: String,
    /// For how long, in seconds.
    pub expiration_seconds: Option<i64>,
    /// For what.
    #[serde(deserialize_with = "null_default")]
    pub usages: Vec<String>,
    /// Who asks.
    pub username: String,
    /// What groups they are in.
    #[serde(deserialize_with = "null_default")]
    pub groups: Vec<String>,
}

/// `certificates.k8s.io/v1 CertificateSigningRequestStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CertificateSigningRequestStatus {
    /// `Approved`, `Denied`, `Failed`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// The certificate, PEM in base64.
    #[serde(deserialize_with = "null_default")]
    pub certificate: String,
}

/// `rbac.authorization.k8s.io/v1 ClusterRole`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterRole {
    /// Metadata.
    pub metadata: Meta,
    /// What it allows; not looked into.
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<Value>,
    /// Whose rules it takes over.
    pub aggregation_rule: Option<AggregationRule>,
}

super::view!(ClusterRole, kind::CLUSTER_ROLE);

/// `rbac.authorization.k8s.io/v1 AggregationRule`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationRule {
    /// Roles that any of these selects.
    #[serde(deserialize_with = "null_default")]
    pub cluster_role_selectors: Vec<LabelSelector>,
}
