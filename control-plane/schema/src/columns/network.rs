//! Services and what is behind them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, NAME, at_most_three, column, format_labels, format_selector, or_none, wide};
use crate::kinds::json::{at, int, list, text};
use crate::resource::Column;

pub(super) const SERVICE: &[Column] = &[
    NAME,
    column("Type", "string", "How it is exposed", |o, _| text(o, "spec.type").into()),
    column("Cluster-IP", "string", "Its address inside the cluster", |o, _| or_none(text(o, "spec.clusterIP")).into()),
    column("External-IP", "string", "Its addresses outside the cluster", |o, _| external_ip(o).into()),
    column("Port(s)", "string", "Its ports, with the node's port after a colon", |o, _| ports(o).into()),
    AGE,
    wide("Selector", "string", "Which pods are behind it", |o, _| format_labels(o, "spec.selector").into()),
];

pub(super) const ENDPOINTS: &[Column] =
    &[NAME, column("Endpoints", "string", "Addresses and ports behind the service", |o, _| endpoints(o).into()), AGE];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "string", "Of what kind its addresses are", |o, _| text(o, "addressType").into()),
    column("Ports", "string", "Its ports", |o, _| slice_ports(o).into()),
    column("Endpoints", "string", "Its addresses", |o, _| {
        let addresses = list(o, "endpoints").iter().flat_map(|e| list(e, "addresses"));
        let addresses: Vec<_> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
        at_most_three(&addresses).into()
    }),
    AGE,
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    column("Class", "string", "Which controller serves it", |o, _| or_none(text(o, "spec.ingressClassName")).into()),
    column("Hosts", "string", "For which hosts", |o, _| hosts(o).into()),
    column("Address", "string", "Where it is reached", |o, _| {
        let points: BTreeSet<_> = list(o, "status.loadBalancer.ingress")
            .iter()
            .map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") })
            .filter(|address| !address.is_empty())
            .collect();
        points.into_iter().collect::<Vec<_>>().join(",").into()
    }),
    column("Ports", "string", "On which ports", |o, _| {
        if list(o, "spec.tls").is_empty() { "80" } else { "80, 443" }.into()
    }),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    column("Controller", "string", "Who serves ingresses of this class", |o, _| text(o, "spec.controller").into()),
    column("Parameters", "string", "What the controller is to know", |o, _| match at(o, "spec.parameters") {
        Value::Null => "<none>".into(),
        parameters => {
            let (kind, name) = (text(parameters, "kind"), text(parameters, "name"));
            match text(parameters, "apiGroup") {
                "" => format!("{kind}/{name}").into(),
                group => format!("{kind}.{group}/{name}").into(),
            }
        }
    }),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Column] = &[
    NAME,
    column("Pod-Selector", "string", "Which pods it is for", |o, _| format_selector(o, "spec.podSelector").into()),
    AGE,
];

pub(super) const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", "string", "From which services get their addresses", |o, _| {
        list(o, "spec.cidrs").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",").into()
    }),
    AGE,
];

pub(super) const IP_ADDRESS: &[Column] = &[
    NAME,
    column("ParentRef", "string", "Whose it is", |o, _| {
        let parent = at(o, "spec.parentRef");
        let [group, resource, namespace, name] =
            ["group", "resource", "namespace", "name"].map(|key| text(parent, key));
        let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        format!("{}/{place}{name}", resource.to_lowercase()).into()
    }),
    AGE,
];

/// How many hosts are shown.
const HOSTS_SHOWN: usize = 3;

fn hosts(ingress: &Value) -> String {
    let rules = list(ingress, "spec.rules");
    let named: Vec<_> = rules.iter().map(|r| text(r, "host")).filter(|h| !h.is_empty()).collect();
    if named.is_empty() {
        return "*".to_owned();
    }
    let shown = named[..named.len().min(HOSTS_SHOWN)].join(",");
    if named.len() > HOSTS_SHOWN { format!("{shown} + {} more...", rules.len() - HOSTS_SHOWN) } else { shown }
}

fn external_ip(service: &Value) -> String {
    let external: Vec<_> = list(service, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match text(service, "spec.type") {
        "ClusterIP" | "NodePort" => or_none(&external.join(",")),
        "LoadBalancer" => {
            // A set, for upstream sorts them and drops repetitions.
            let ingress: BTreeSet<_> = list(service, "status.loadBalancer.ingress")
                .iter()
                .map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") })
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<_> = ingress.into_iter().chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(service: &Value) -> String {
    let pieces = list(service, "spec.ports").iter().map(|port| {
        let (number, protocol) = (int(port, "port").unwrap_or_default(), text(port, "protocol"));
        match int(port, "nodePort") {
            Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    or_none(&pieces.collect::<Vec<_>>().join(","))
}

fn endpoints(object: &Value) -> String {
    let subsets = list(object, "subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = list(subset, "addresses").iter().map(|a| text(a, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            // Headless without ports: the addresses alone.
            all.extend(addresses.map(str::to_owned));
            continue;
        }
        for port in ports {
            let number = int(port, "port").unwrap_or_default();
            all.extend(addresses.clone().map(|ip| join_host_port(ip, number)));
        }
    }
    if all.is_empty() { String::new() } else { at_most_three(&all) }
}

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn slice_ports(slice: &Value) -> String {
    let ports: Vec<_> = list(slice, "ports")
        .iter()
        .map(|port| match (int(port, "port"), text(port, "name")) {
            (Some(number), _) => number.to_string(),
            (None, "") => "*".to_owned(),
            (None, name) => name.to_owned(),
        })
        .collect();
    at_most_three(&ports)
}
