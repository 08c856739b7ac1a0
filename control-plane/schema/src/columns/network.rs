//! Services and what is behind them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, NAME, at_most_three, column, format_labels, or_none, wide};
use crate::kinds::json::{int, list, text};
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
