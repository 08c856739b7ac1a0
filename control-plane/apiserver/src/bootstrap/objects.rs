//! Namespaces, priority classes, and the services that every cluster has.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

/// What the objects are made of.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The port of the API server.
    pub secure_port: u16,
    /// Addresses of services: of one family or both, the preferred one first, of which the first address is that of the
    /// service `kubernetes`.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses of pods, likewise.
    pub cluster_cidrs: Vec<IpNet>,
    /// The addresses of the service `kube-dns`, likewise.
    pub cluster_dns: Vec<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// First and last.
    pub node_port_range: (u16, u16),
    /// Where addresses of load balancers are taken from.
    pub load_balancer_pools: Vec<IpNet>,
    /// The CA that clients' certificates must come from, for extension API servers.
    pub client_ca_pem: String,
    /// The CA of the certificate by which extension API servers know this one; empty without aggregation.
    pub request_header_ca_pem: String,
}

/// As whom this server shows itself to extension API servers.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// The namespaces that always exist.
pub(super) const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub(super) fn namespaces() -> Vec<Value> {
    let object = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    NAMESPACES.into_iter().map(object).collect()
}

pub(super) fn priority_classes() -> Vec<Value> {
    let class = |name, value, description| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if \
             necessary.",
        ),
    ]
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The address `offset` after the network's own: with 1, that of the service `kubernetes`.
pub fn address_in(network: IpNet, offset: u8) -> IpAddr {
    match network.network() {
        IpAddr::V4(network) => IpAddr::V4(u32::from(network).saturating_add(offset.into()).into()),
        IpAddr::V6(network) => IpAddr::V6(u128::from(network).saturating_add(offset.into()).into()),
    }
}

fn service(metadata: Value, addresses: &[IpAddr], ports: Value) -> Value {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let families: Vec<&str> = addresses.iter().map(|address| family(*address)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": texts.first(),
            "clusterIPs": texts,
            "ipFamilies": families,
            "ipFamilyPolicy": if addresses.len() > 1 { "PreferDualStack" } else { "SingleStack" },
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": ports,
        },
    })
}

pub(super) fn services(facts: &Facts) -> Vec<Value> {
    let port = |name, protocol, port, target: u16| json!({"name": name, "protocol": protocol, "port": port, "targetPort": target});
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let metadata = json!({"name": "kubernetes", "namespace": "default", "labels": labels});
    let https = json!([port("https", "TCP", 443, facts.secure_port)]);
    let labels = json!({
        "k8s-app": "kube-dns",
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS",
    });
    let dns_metadata = json!({"name": "kube-dns", "namespace": "kube-system", "labels": labels});
    let dns = json!([port("dns", "UDP", 53, 53), port("dns-tcp", "TCP", 53, 53)]);
    let api = facts.service_cidrs.first().map(|range| address_in(*range, 1));
    vec![
        // Of one family, as upstream: the server is reached by one address.
        service(metadata, &api.into_iter().collect::<Vec<_>>(), https),
        service(dns_metadata, &facts.cluster_dns, dns),
    ]
}

/// The ranges that services' addresses come from, unless others are added.
pub(super) fn service_cidr(facts: &Facts) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": facts.service_cidrs.iter().map(|range| range.trunc().to_string()).collect::<Vec<_>>()},
    })
}

/// Where the service `kubernetes` leads, of servers that are all reached by one port: it has no selector, so these are the
/// servers' to write.
pub fn endpoints(addresses: &[IpAddr], port: u16) -> Vec<Value> {
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": texts.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(), "ports": ports}],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": addresses.first().map_or("IPv4", |address| family(*address)),
            "endpoints": texts.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
                .collect::<Vec<_>>(),
            "ports": ports,
        }),
    ]
}

/// What the agents must know, and what extension API servers must.
pub(super) fn config_maps(facts: &Facts) -> Vec<Value> {
    let pools: Vec<String> = facts.load_balancer_pools.iter().map(IpNet::to_string).collect();
    let (first, last) = facts.node_port_range;
    let listed = |all: &[IpNet]| all.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",");
    let config = json!({
        "clusterCidr": listed(&facts.cluster_cidrs),
        "serviceCidr": listed(&facts.service_cidrs),
        "clusterDns": facts.cluster_dns.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","),
        "clusterDomain": facts.cluster_domain,
        "nodePortRange": format!("{first}-{last}"),
        "loadBalancerPools": pools,
    });
    let object = |name, data| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "kube-system"},
            "data": data,
        })
    };
    let mut out = vec![object("xebec-cluster", json!({"config": config.to_string()}))];
    if !facts.client_ca_pem.is_empty() {
        let mut data = json!({"client-ca-file": facts.client_ca_pem});
        if !facts.request_header_ca_pem.is_empty() {
            data["requestheader-client-ca-file"] = facts.request_header_ca_pem.as_str().into();
            data["requestheader-allowed-names"] = json!([FRONT_PROXY]).to_string().into();
            data["requestheader-username-headers"] = json!(["X-Remote-User"]).to_string().into();
            data["requestheader-uid-headers"] = json!(["X-Remote-Uid"]).to_string().into();
            data["requestheader-group-headers"] = json!(["X-Remote-Group"]).to_string().into();
            data["requestheader-extra-headers-prefix"] = json!(["X-Remote-Extra-"]).to_string().into();
        }
        out.push(object("extension-apiserver-authentication", data));
    }
    out
}
