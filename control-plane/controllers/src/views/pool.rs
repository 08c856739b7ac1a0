//! Pools of load balancer addresses.

use serde::Deserialize;

use crate::runtime::kind;
use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::{Condition, Meta, null_default};

/// `net.xebec.io/v1alpha1 LoadBalancerPool`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerPool {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: LoadBalancerPoolSpec,
    /// What is.
    pub status: LoadBalancerPoolStatus,
}

super::view!(LoadBalancerPool, kind::LOAD_BALANCER_POOL);

/// `net.xebec.io/v1alpha1 LoadBalancerPoolSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerPoolSpec {
    /// Networks, or ranges `FIRST-LAST`.
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<String>,
    /// Whether services get addresses of it that do not ask for them; true if absent.
    pub auto_assign: Option<bool>,
    /// Only these services; all if absent.
    pub service_selector: Option<LabelSelector>,
    /// Only services of these namespaces; of all if absent.
    pub namespace_selector: Option<LabelSelector>,
    /// Only services of this class, instead of those of none.
    pub load_balancer_class: Option<String>,
    /// Only these nodes answer for its addresses; any node if absent.
    pub node_selector: Option<LabelSelector>,
}

/// `net.xebec.io/v1alpha1 LoadBalancerPoolStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerPoolStatus {
    /// How many addresses it has.
    pub total: Option<i64>,
    /// How many of them services have.
    pub assigned: Option<i64>,
    /// `Ready`, `Answered`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}
