//! NetworkPolicies, Namespaces and Pods, with the fields that policy uses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::{Meta, Object};

/// A `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NetworkPolicy {
    /// Name and namespace.
    pub metadata: Meta,
    /// What is allowed.
    pub spec: PolicySpec,
}

impl Object for NetworkPolicy {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySpec {
    /// A label selector of the pods it is for; null: all.
    pub pod_selector: Value,
    /// `Ingress`, `Egress`.
    #[serde(deserialize_with = "null_default")]
    pub policy_types: Vec<String>,
    /// What may come.
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<IngressRule>,
    /// What may go; null and an empty list differ where `policyTypes` is absent.
    pub egress: Option<Vec<EgressRule>>,
}

/// `spec.ingress[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressRule {
    /// From whom; none: from anybody.
    #[serde(deserialize_with = "null_default")]
    pub from: Vec<Peer>,
    /// To which ports; none: to all.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<PolicyPort>,
}

/// `spec.egress[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EgressRule {
    /// To whom; none: to anybody.
    #[serde(deserialize_with = "null_default")]
    pub to: Vec<Peer>,
    /// To which ports; none: to all.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<PolicyPort>,
}

/// `from[]` and `to[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// A label selector of pods.
    pub pod_selector: Option<Value>,
    /// A label selector of namespaces; none: the policy's own.
    pub namespace_selector: Option<Value>,
    /// Addresses.
    pub ip_block: Option<IpBlock>,
}

/// `ipBlock`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IpBlock {
    /// The block.
    pub cidr: String,
    /// Parts of it that are left out.
    #[serde(deserialize_with = "null_default")]
    pub except: Vec<String>,
}

/// `ports[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyPort {
    /// `TCP` if absent.
    pub protocol: Option<String>,
    /// A number or a name; none: every port.
    pub port: Option<Value>,
    /// The last of a range.
    pub end_port: Option<u16>,
}

/// A `v1` Namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its name and labels.
    pub metadata: Meta,
}

impl Object for Namespace {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A `v1` Pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its name, namespace and labels.
    pub metadata: Meta,
    /// Where it is, and its ports.
    pub spec: PodSpec,
    /// Its addresses.
    pub status: PodStatus,
}

impl Object for Pod {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is on; empty: none yet.
    pub node_name: String,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Containers.
    #[serde(deserialize_with = "null_default")]
    pub containers: Vec<Container>,
    /// Init containers, sidecars among them.
    #[serde(deserialize_with = "null_default")]
    pub init_containers: Vec<Container>,
}

/// `spec.containers[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ContainerPort>,
    /// `Always` for a sidecar.
    pub restart_policy: String,
}

/// `spec.containers[].ports[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub container_port: u16,
    /// `TCP` if empty.
    pub protocol: String,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Running`, `Succeeded`, ...
    pub phase: String,
    /// All its addresses.
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pub pod_ips: Vec<PodIp>,
}

/// `status.podIPs[]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: IpAddr,
}

/// Labels.
pub type Labels = BTreeMap<String, String>;

/// Go's encoder writes an empty list as null.
fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}
