//! Services and what they lead to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runtime::cache::BY_SERVICE;
use crate::runtime::kind;
use crate::runtime::meta::{Meta, ObjectReference, null_default};

/// `core/v1 Service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What is.
    pub status: ServiceStatus,
}

super::view!(Service, kind::SERVICE);

/// `core/v1 ServiceSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its address; `None` (the word) if headless.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Its addresses.
    #[serde(rename = "clusterIPs", deserialize_with = "null_default")]
    pub cluster_ips: Vec<String>,
    /// `IPv4`, `IPv6`.
    #[serde(deserialize_with = "null_default")]
    pub ip_families: Vec<String>,
    /// Labels of its pods; empty: endpoints are someone else's business.
    #[serde(deserialize_with = "null_default")]
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    /// Whether pods count that are not ready.
    pub publish_not_ready_addresses: bool,
    /// The address that a load balancer is asked for.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: String,
    /// Who is to provide the load balancer; we do if `None`.
    pub load_balancer_class: Option<String>,
    /// `PreferSameZone` (or `PreferClose`, its older name), `PreferSameNode`.
    pub traffic_distribution: Option<String>,
}

/// `core/v1 ServicePort`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// `http`, `kubernetes.io/h2c`...
    pub app_protocol: Option<String>,
    /// Its number.
    pub port: u16,
    /// The pods' port, by number or name.
    pub target_port: Option<TargetPort>,
}

/// `util/intstr`: a port's number or name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

/// `core/v1 ServiceStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Where it is reached from outside.
    pub load_balancer: LoadBalancer,
}

/// `core/v1 LoadBalancerStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Its addresses.
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<Ingress>,
}

/// `core/v1 LoadBalancerIngress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ingress {
    /// The address.
    pub ip: String,
}

/// `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Meta,
    /// `IPv4`, `IPv6`, `FQDN`.
    pub address_type: String,
    /// The endpoints, 1000 at most.
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
    /// The ports that all of them have.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
}

/// The label of an endpoint slice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

super::view!(EndpointSlice, kind::ENDPOINT_SLICE, |slice| {
    let service = slice.metadata.labels.get(SERVICE_NAME_LABEL);
    service.map(|name| (BY_SERVICE, format!("{}/{name}", slice.metadata.namespace))).into_iter().collect()
});

/// `discovery.k8s.io/v1 Endpoint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its address.
    pub addresses: Vec<String>,
    /// How it is.
    pub conditions: EndpointConditions,
    /// Its host name below the service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<ObjectReference>,
    /// Its node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whom it is meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
}

/// `discovery.k8s.io/v1 EndpointHints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// The zones.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<HintName>,
    /// The nodes.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<HintName>,
}

/// `discovery.k8s.io/v1 ForZone` and `ForNode`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct HintName {
    /// Of the zone or the node.
    pub name: String,
}

/// `discovery.k8s.io/v1 EndpointConditions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// It serves and is not on its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// It serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// It is on its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// `discovery.k8s.io/v1 EndpointPort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The service port's name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Its protocol.
    pub protocol: String,
    /// Its number.
    pub port: Option<u16>,
    /// What is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// `core/v1 Endpoints`, the older form; kept as it is read, for comparison.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// Metadata.
    pub metadata: Meta,
    /// Addresses with the ports that they have in common.
    #[serde(deserialize_with = "null_default")]
    pub subsets: Vec<Subset>,
}

super::view!(Endpoints, kind::ENDPOINTS);

/// `core/v1 EndpointSubset`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Those that are ready.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Those that are not.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<Address>,
    /// Their ports.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<SubsetPort>,
}

/// `core/v1 EndpointAddress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// The address.
    pub ip: String,
    /// Its host name below the service's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<ObjectReference>,
}

/// `core/v1 EndpointPort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubsetPort {
    /// The service port's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// What is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}
