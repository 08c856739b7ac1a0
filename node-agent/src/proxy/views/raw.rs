//! The objects as they are written, with the fields that are read; their strings are borrowed from the input.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Conditions, Hints, Kind, ObjectName, Protocol};
use crate::api::status::is_final;

/// Upstream's default for session affinity, 3 hours.
const AFFINITY_S: u32 = 10_800;

/// A string, borrowed where nothing in it is escaped. (Within options and lists, serde would always copy a `Cow`.)
#[derive(Default)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }
        input.deserialize_str(Reader)
    }
}

impl Text<'_> {
    fn parse<T: std::str::FromStr>(&self) -> Option<T> {
        self.0.trim().parse().ok()
    }

    fn boxed(&self) -> Box<str> {
        self.0.as_ref().into()
    }
}

/// Go's encoder writes an empty list as null.
fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}

fn parse_all<T: std::str::FromStr>(texts: &[Text<'_>]) -> Box<[T]> {
    texts.iter().filter_map(Text::parse).collect()
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Meta<'a> {
    name: Text<'a>,
    namespace: Text<'a>,
    resource_version: Text<'a>,
    labels: Option<Labels<'a>>,
    annotations: Option<Annotations<'a>>,
}

impl Meta<'_> {
    fn object_name(&self) -> ObjectName {
        ObjectName::new(&self.namespace.0, &self.name.0)
    }
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Labels<'a> {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<Text<'a>>,
    #[serde(rename = "topology.kubernetes.io/zone")]
    zone: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Annotations<'a> {
    #[serde(rename = "xebec.io/load-balancer-mode")]
    mode: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct Service<'a> {
    metadata: Meta<'a>,
    spec: ServiceSpec<'a>,
    status: ServiceStatus<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ServiceSpec<'a> {
    r#type: Text<'a>,
    external_name: Text<'a>,
    #[serde(rename = "clusterIPs", deserialize_with = "null_default")]
    cluster_ips: Vec<Text<'a>>,
    /// The old form of `clusterIPs`.
    #[serde(rename = "clusterIP")]
    cluster_ip: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<ServicePort<'a>>,
    #[serde(rename = "externalIPs", deserialize_with = "null_default")]
    external_ips: Vec<Text<'a>>,
    #[serde(deserialize_with = "null_default")]
    load_balancer_source_ranges: Vec<Text<'a>>,
    external_traffic_policy: Text<'a>,
    internal_traffic_policy: Text<'a>,
    session_affinity: Text<'a>,
    session_affinity_config: Option<AffinityConfig>,
    health_check_node_port: u16,
}

#[derive(Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ServicePort<'a> {
    name: Text<'a>,
    protocol: Text<'a>,
    port: u16,
    node_port: u16,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ServiceStatus<'a> {
    load_balancer: LoadBalancer<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct LoadBalancer<'a> {
    #[serde(deserialize_with = "null_default")]
    ingress: Vec<Ingress<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Ingress<'a> {
    ip: Text<'a>,
    ip_mode: Text<'a>,
}

impl From<Service<'_>> for super::Service {
    fn from(raw: Service<'_>) -> Self {
        let spec = &raw.spec;
        let kind = match &*spec.r#type.0 {
            "NodePort" => Kind::NodePort,
            "LoadBalancer" => Kind::LoadBalancer,
            "ExternalName" => Kind::ExternalName,
            _ => Kind::ClusterIp,
        };
        let single = std::slice::from_ref(&spec.cluster_ip);
        let port = |port: &ServicePort<'_>| {
            Some(super::ServicePort {
                name: port.name.0.as_ref().into(),
                protocol: Protocol::parse(&port.protocol.0)?,
                number: port.port,
                node_port: port.node_port,
            })
        };
        let timeout = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        let ingress = raw.status.load_balancer.ingress.iter().filter(|i| i.ip_mode.0 != "Proxy");
        let mode = raw.metadata.annotations.as_ref().and_then(|a| a.mode.as_ref());
        let load_balancer = kind == Kind::LoadBalancer;
        Self {
            name: raw.metadata.object_name(),
            version: raw.metadata.resource_version.boxed(),
            kind,
            external_name: (kind == Kind::ExternalName).then(|| spec.external_name.boxed()),
            // "None" is no address: the service is headless.
            cluster_ips: parse_all(if spec.cluster_ips.is_empty() { single } else { &spec.cluster_ips }),
            ports: spec.ports.iter().filter_map(port).collect(),
            external_ips: parse_all(&spec.external_ips),
            load_balancer_ips: if load_balancer {
                ingress.filter_map(|i| i.ip.parse()).collect()
            } else {
                Box::default()
            },
            source_ranges: if load_balancer { parse_all(&spec.load_balancer_source_ranges) } else { Box::default() },
            external_local: spec.external_traffic_policy.0 == "Local",
            internal_local: spec.internal_traffic_policy.0 == "Local",
            affinity_timeout_s: if spec.session_affinity.0 == "ClientIP" { timeout.unwrap_or(AFFINITY_S) } else { 0 },
            health_check_port: spec.health_check_node_port,
            direct_return: mode.and_then(|mode| match &*mode.0 {
                "dsr" => Some(true),
                "snat" => Some(false),
                _ => None,
            }),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct EndpointSlice<'a> {
    metadata: Meta<'a>,
    #[serde(deserialize_with = "null_default")]
    endpoints: Vec<Endpoint<'a>>,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<EndpointPort<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Endpoint<'a> {
    #[serde(deserialize_with = "null_default")]
    addresses: Vec<Text<'a>>,
    hostname: Option<Text<'a>>,
    #[serde(deserialize_with = "null_default")]
    conditions: Conditions,
    node_name: Option<Text<'a>>,
    target_ref: Option<TargetRef<'a>>,
    hints: Option<RawHints<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct TargetRef<'a> {
    uid: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct RawHints<'a> {
    #[serde(deserialize_with = "null_default")]
    for_zones: Vec<Named<'a>>,
    #[serde(deserialize_with = "null_default")]
    for_nodes: Vec<Named<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Named<'a> {
    name: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct EndpointPort<'a> {
    name: Option<Text<'a>>,
    protocol: Option<Text<'a>>,
    port: Option<u16>,
}

impl From<EndpointSlice<'_>> for super::EndpointSlice {
    fn from(raw: EndpointSlice<'_>) -> Self {
        let names = |named: &[Named<'_>]| -> Box<[Box<str>]> { named.iter().map(|n| n.name.boxed()).collect() };
        let endpoint = |e: &Endpoint<'_>| {
            let mut addresses = e.addresses.iter().filter_map(Text::parse::<IpAddr>);
            Some(super::Endpoint {
                address: addresses.next()?,
                more_addresses: addresses.collect(),
                hostname: e.hostname.as_ref().map(Text::boxed),
                conditions: e.conditions,
                node: e.node_name.as_ref().map(Text::boxed),
                pod: e.target_ref.as_ref().map(|t| &t.uid).filter(|uid| !uid.0.is_empty()).map(Text::boxed),
                hints: e
                    .hints
                    .as_ref()
                    .map(|h| Box::new(Hints { zones: names(&h.for_zones), nodes: names(&h.for_nodes) })),
            })
        };
        let port = |p: &EndpointPort<'_>| {
            Some(super::EndpointPort {
                name: p.name.as_ref().map_or("", |name| &name.0).into(),
                protocol: Protocol::parse(p.protocol.as_ref().map_or("", |name| &name.0))?,
                number: p.port?,
            })
        };
        let labels = raw.metadata.labels.as_ref();
        Self {
            name: raw.metadata.object_name(),
            version: raw.metadata.resource_version.boxed(),
            service: labels.and_then(|l| l.service.as_ref()).map(|name| name.0.as_ref().into()),
            endpoints: raw.endpoints.iter().filter_map(endpoint).collect(),
            ports: raw.ports.iter().filter_map(port).collect(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct Pod<'a> {
    metadata: Meta<'a>,
    spec: PodSpec<'a>,
    status: PodStatus<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct PodSpec<'a> {
    host_network: bool,
    #[serde(deserialize_with = "null_default")]
    containers: Vec<Container<'a>>,
    #[serde(deserialize_with = "null_default")]
    init_containers: Vec<Container<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Container<'a> {
    #[serde(deserialize_with = "null_default")]
    ports: Vec<ContainerPort<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ContainerPort<'a> {
    container_port: u16,
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: Text<'a>,
    protocol: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct PodStatus<'a> {
    phase: Text<'a>,
    #[serde(rename = "podIP")]
    pod_ip: Text<'a>,
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pod_ips: Vec<PodIp<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct PodIp<'a> {
    ip: Text<'a>,
}

impl From<Pod<'_>> for super::HostPorts {
    fn from(raw: Pod<'_>) -> Self {
        let status = &raw.status;
        let serves = !raw.spec.host_network && !is_final(&status.phase.0);
        let ports = raw.spec.containers.iter().chain(&raw.spec.init_containers).flat_map(|c| &c.ports);
        let port = |p: &ContainerPort<'_>| {
            Some(super::HostPort {
                host_ip: p.host_ip.parse().filter(|ip: &IpAddr| !ip.is_unspecified()),
                number: p.host_port,
                protocol: Protocol::parse(&p.protocol.0)?,
                container_port: p.container_port,
            })
        };
        let mut addresses: Vec<IpAddr> = status.pod_ips.iter().filter_map(|p| p.ip.parse()).collect();
        if addresses.is_empty() {
            addresses.extend(status.pod_ip.parse::<IpAddr>());
        }
        Self {
            name: raw.metadata.object_name(),
            version: raw.metadata.resource_version.boxed(),
            addresses: addresses.into(),
            ports: ports.filter(|p| serves && p.host_port != 0).filter_map(port).collect(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct Node<'a> {
    metadata: Meta<'a>,
}

impl From<Node<'_>> for super::NodeZone {
    fn from(raw: Node<'_>) -> Self {
        let labels = raw.metadata.labels.as_ref();
        Self {
            name: raw.metadata.name.boxed(),
            version: raw.metadata.resource_version.boxed(),
            zone: labels.and_then(|l| l.zone.as_ref()).map(Text::boxed),
        }
    }
}
