//! What the proxy and DNS keep of Services and EndpointSlices.
//!
//! A node knows every service of the cluster, so that these are lean: addresses are parsed and strings that nobody looks at
//! are not copied out of the input.

mod raw;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use xebec_ebpf_loader::layout::proto;

use crate::api::watch::Followed;

/// Hands packets on to the backend's node, which answers the client itself (`dsr`), or translates both ways (`snat`).
pub const FORWARDING_ANNOTATION: &str = "xebec.io/load-balancer-mode";

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From both.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that services know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the protocols' names")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// By its name in the API, which defaults to TCP; none for one that there is not.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// IANA's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Sctp => proto::SCTP,
        }
    }

    /// In small letters, as in names of SRV records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the types' names")]
pub enum Kind {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// A `v1` Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`.
    pub version: Box<str>,
    /// `spec.type`.
    pub kind: Kind,
    /// The name that a service of type ExternalName stands for.
    pub external_name: Option<Box<str>>,
    /// `spec.clusterIPs`; none if headless.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// Addresses that somebody else routes here.
    pub external_ips: Box<[IpAddr]>,
    /// Its load balancer's addresses; without those that nodes are to leave alone (`ipMode: Proxy`, KEP-1860).
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Box<[IpNet]>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `sessionAffinity: ClientIP`: how long a client stays; 0 without.
    pub affinity_timeout_s: u32,
    /// `spec.healthCheckNodePort`; 0 for none.
    pub health_check_port: u16,
    /// What [`FORWARDING_ANNOTATION`] says, if it does.
    pub direct_return: Option<bool>,
}

/// `spec.ports[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if there is only one.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the service's addresses.
    pub number: u16,
    /// The port of the nodes' addresses; 0 for none.
    pub node_port: u16,
}

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`.
    pub version: Box<str>,
    /// The service it belongs to (label `kubernetes.io/service-name`); none if to none.
    pub service: Option<Arc<str>>,
    /// Endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// The ports that each of them has.
    pub ports: Box<[EndpointPort]>,
}

impl EndpointSlice {
    /// The service it belongs to.
    pub fn owner(&self) -> Option<ObjectName> {
        let service = self.service.as_ref()?;
        Some(ObjectName { namespace: Arc::clone(&self.name.namespace), name: Arc::clone(service) })
    }
}

/// `endpoints[]`; one without a usable address is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The first of its addresses.
    pub address: IpAddr,
    /// Others, which mean the same endpoint: for DNS.
    pub more_addresses: Box<[IpAddr]>,
    /// Its own name below its service's, for DNS.
    pub hostname: Option<Box<str>>,
    /// Its state.
    pub conditions: Conditions,
    /// Where it is.
    pub node: Option<Box<str>>,
    /// The uid of the pod that it is.
    pub pod: Option<Box<str>>,
    /// Whom it is meant for.
    pub hints: Option<Box<Hints>>,
}

impl Endpoint {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.more_addresses.iter().copied())
    }
}

/// `endpoints[].conditions`; absent means unknown, which counts as the good case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

impl Conditions {
    /// Serving and not terminating, or published all the same.
    pub fn is_ready(self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// It is to go.
    pub fn is_terminating(self) -> bool {
        self.terminating.unwrap_or(false)
    }

    /// It is to go, and its readiness probe still succeeds.
    pub fn serves_while_terminating(self) -> bool {
        self.serving.unwrap_or(true) && self.terminating.unwrap_or(false)
    }
}

/// `endpoints[].hints`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `forZones`.
    pub zones: Box<[Box<str>]>,
    /// `forNodes`.
    pub nodes: Box<[Box<str>]>,
}

/// `ports[]` of a slice; one without a number is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// A port of the node that leads to a pod on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `hostIP`; none for any address of the node.
    pub host_ip: Option<IpAddr>,
    /// `hostPort`.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// `containerPort`.
    pub container_port: u16,
}

/// A pod of this node, as far as its `hostPort`s go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPorts {
    /// The pod.
    pub name: ObjectName,
    /// `metadata.resourceVersion`.
    pub version: Box<str>,
    /// Its addresses.
    pub addresses: Box<[IpAddr]>,
    /// Those ports; none if it is in the node's own network, or has ended.
    pub ports: Box<[HostPort]>,
}

/// This node, as far as topology goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeZone {
    /// The node's name.
    pub name: Box<str>,
    /// `metadata.resourceVersion`.
    pub version: Box<str>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Box<str>>,
}

macro_rules! followed {
    ($($view:ty, $raw:ident;)*) => {
        $(
            impl Followed for $view {
                fn version(&self) -> &str {
                    &self.version
                }
            }

            impl<'de> Deserialize<'de> for $view {
                fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                    raw::$raw::deserialize(input).map(Into::into)
                }
            }
        )*
    };
}

followed! {
    Service, Service;
    EndpointSlice, EndpointSlice;
    HostPorts, Pod;
    NodeZone, Node;
}
