//! Nodes, with the fields that the network uses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use crate::api::{Meta, Object};

/// Keeps a node from answering for load balancer addresses (KEP-1143).
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The networks on the link of a node's uplink, as its agent knows them: with commas.
pub const LINKS_ANNOTATION: &str = "net.xebec.io/links";

/// A `v1` Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name.
    pub metadata: Meta,
    /// Its pods' addresses.
    pub spec: NodeSpec,
    /// Its own addresses and condition.
    pub status: NodeStatus,
}

impl Object for Node {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// `podCIDRs`.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// `podCIDR`.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses of every type.
    pub addresses: Vec<NodeAddress>,
    /// `Ready` and others.
    pub conditions: Vec<NodeCondition>,
    /// Where its agent listens.
    #[serde(rename = "daemonEndpoints")]
    pub daemon_endpoints: DaemonEndpoints,
}

/// `status.daemonEndpoints`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DaemonEndpoints {
    /// The agent's.
    #[serde(rename = "kubeletEndpoint")]
    pub kubelet: DaemonEndpoint,
}

/// `status.daemonEndpoints.kubeletEndpoint`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DaemonEndpoint {
    /// 0 if it is not known.
    #[serde(rename = "Port")]
    pub port: u16,
}

/// `status.addresses[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    pub r#type: String,
    /// An address or a name.
    pub address: String,
}

/// `status.conditions[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeCondition {
    /// `Ready`.
    pub r#type: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
}

impl Node {
    /// Its IPv6 address in the cluster.
    pub fn internal_ip6(&self) -> Option<Ipv6Addr> {
        self.addresses("InternalIP").next()
    }

    /// All its addresses that NodePorts are served on.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses("InternalIP").chain(self.addresses("ExternalIP"))
    }

    /// Those of a type and a family.
    fn addresses<'a, T: FromStr>(&'a self, kind: &'a str) -> impl Iterator<Item = T> + 'a {
        self.status.addresses.iter().filter(move |a| a.r#type == kind).filter_map(|a| a.address.parse().ok())
    }

    /// Its address in the cluster of the same family as this one: the one it is known by where nodes are by that.
    pub fn internal_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses::<IpAddr>("InternalIP").find(|ip| ip.is_ipv4() == other.is_ipv4())
    }

    /// Its pods' IPv4 range.
    pub fn pod_cidr(&self) -> Option<Ipv4Net> {
        self.pod_range()
    }

    /// Its pods' IPv6 range.
    pub fn pod_cidr6(&self) -> Option<Ipv6Net> {
        self.pod_range()
    }

    fn pod_range<T: FromStr>(&self) -> Option<T> {
        self.spec.pod_cidrs.iter().chain([&self.spec.pod_cidr]).find_map(|text| text.parse().ok())
    }

    /// Whether its agent is alive and its network is up.
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True")
    }

    /// Where its agent can be asked.
    pub fn agent(&self) -> Option<SocketAddr> {
        let port = Some(self.status.daemon_endpoints.kubelet.port).filter(|port| *port != 0)?;
        Some(SocketAddr::new(self.addresses("InternalIP").next()?, port))
    }

    /// The networks on its link; none if its agent has not said.
    pub fn links(&self) -> Option<Vec<IpNet>> {
        let text = self.metadata.annotations.get(LINKS_ANNOTATION)?;
        Some(text.split(',').filter_map(|net| net.parse().ok()).collect())
    }

    /// Whether it is fit to answer for load balancer addresses.
    pub fn takes_load_balancers(&self) -> bool {
        self.is_ready() && !self.metadata.labels.contains_key(EXCLUDE_LABEL)
    }
}
