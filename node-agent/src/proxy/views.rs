//! Services and EndpointSlices, with the fields that the proxy uses.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

use crate::api::{Meta, Object};

/// The label that names a slice's service (`discovery.k8s.io/v1`).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A `v1` Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name and namespace.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What a load balancer has given.
    pub status: ServiceStatus,
}

impl Object for Service {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`; empty as `ClusterIP`.
    pub r#type: String,
    /// The name that a service of type ExternalName stands for.
    pub external_name: String,
    /// `clusterIPs`; the old form in `cluster_ip` if empty. `None` for headless.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// `clusterIP`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    /// Addresses that somebody else routes here.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<IpAddr>,
    /// `Local` or `Cluster`.
    pub external_traffic_policy: String,
    /// `Local` or `Cluster`.
    pub internal_traffic_policy: String,
    /// `ClientIP` or `None`.
    pub session_affinity: String,
    /// Its settings.
    pub session_affinity_config: Option<AffinityConfig>,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AffinityConfig {
    /// For `ClientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// How long a client stays.
    pub timeout_seconds: Option<u32>,
}

/// `spec.ports[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Empty if there is only one.
    pub name: String,
    /// `TCP` if empty.
    pub protocol: String,
    /// The port of the service's addresses.
    pub port: u16,
    /// The port of the nodes' addresses; 0 for none.
    pub node_port: u16,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Of type `LoadBalancer`.
    pub load_balancer: LoadBalancer,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Its addresses.
    pub ingress: Vec<Ingress>,
}

/// `status.loadBalancer.ingress[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// An address, unless it is a host name.
    pub ip: Option<IpAddr>,
    /// `VIP` if absent; with `Proxy` the nodes leave the address alone (KEP-1860).
    pub ip_mode: Option<String>,
}

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Name and namespace; the label [`SERVICE_NAME_LABEL`].
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
    /// The ports that each of them has.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
}

impl Object for EndpointSlice {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl EndpointSlice {
    /// The name of the slice's service; none if it belongs to none.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME_LABEL).map(String::as_str)
    }
}

/// `endpoints[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// One; more are allowed and mean the same endpoint.
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<String>,
    /// Its own name below its service's, for DNS.
    pub hostname: Option<String>,
    /// Its state.
    pub conditions: Conditions,
    /// Where it is.
    pub node_name: Option<String>,
    /// The pod that it is.
    pub target_ref: Option<TargetRef>,
}

/// `endpoints[].targetRef`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Of the pod.
    pub uid: String,
}

/// `endpoints[].conditions`; absent means unknown, which counts as the good case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Serving, and not terminating.
    pub ready: Option<bool>,
    /// Its readiness probe succeeds.
    pub serving: Option<bool>,
    /// It is to go.
    pub terminating: Option<bool>,
}

/// `ports[]` of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: Option<String>,
    /// `TCP` if absent.
    pub protocol: Option<String>,
    /// Absent: all ports.
    pub port: Option<u16>,
}

/// Go's encoder writes an empty list as null.
fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}
