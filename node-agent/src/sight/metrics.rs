//! The agent's metrics, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use xebec_ebpf_loader::layout::flow_counters;
use xebec_ebpf_loader::{Error, Maps};

use crate::network::flow_table::Fill;
use crate::policy::ear::Known;

use super::services::{self, Frontend, Names, Times, Which, limit_us};

/// All of them.
pub(super) fn text(maps: &Maps, names: &Names, known: &Known) -> Result<String, Error> {
    let mut out = String::new();
    head(
        &mut out,
        "xebec_dropped_packets_total",
        "counter",
        "Packets that the datapath dropped or refused, by reason.",
    );
    for (reason, count) in maps.drops()? {
        line(&mut out, "xebec_dropped_packets_total", &[("reason", reason.name())], count);
    }
    let carried = "xebec_xdp_forwarded_packets_total";
    head(&mut out, carried, "counter", "Packets to services that passed through the node in its uplink's driver.");
    line(&mut out, carried, &[], maps.flow_counters.sum(flow_counters::CARRIED_BY_XDP)?);
    let (ports, left_out) = ports(services::read(maps, names, &Which::default())?);
    type Value = fn(&Port) -> u64;
    let counters: [(&str, &str, Value); 3] = [
        (
            "xebec_service_socket_connections_total",
            "Connections to a service (for UDP, sends) from sockets of the node and its pods.",
            |port| port.socket_connections,
        ),
        ("xebec_service_uplink_flows_total", "Flows to a service from outside.", |port| port.uplink_flows),
        ("xebec_service_refused_total", "Clients of a service that were refused for want of an endpoint.", |port| {
            port.refused
        }),
    ];
    for (name, help, value) in counters {
        head(&mut out, name, "counter", help);
        for port in &ports {
            line(&mut out, name, &port.labels(), value(port));
        }
    }
    let backends = "xebec_service_backends";
    head(&mut out, backends, "gauge", "Endpoints that the kernel holds for a service, by their family.");
    for port in &ports {
        for (family, count) in &port.backends {
            let labels: Vec<_> = port.labels().into_iter().chain([("family", *family)]).collect();
            line(&mut out, backends, &labels, count);
        }
    }
    let others = "xebec_service_ports_left_out";
    head(&mut out, others, "gauge", "Service ports that are counted together, without names: there are too many.");
    line(&mut out, others, &[], left_out);
    times(&mut out, &ports);
    head(&mut out, "xebec_policy_revision", "gauge", "How often the network policies in the kernel changed.");
    line(&mut out, "xebec_policy_revision", &[], u64::from(maps.revision.get()?));
    let isolated = maps.local_pods.entries()?.iter().filter(|(_, pod)| pod.is_isolated()).count();
    head(&mut out, "xebec_policy_isolated_pods", "gauge", "Pods of this node that network policies select.");
    line(&mut out, "xebec_policy_isolated_pods", &[], isolated as u64);
    let domains = "xebec_policy_domain_addresses";
    head(&mut out, domains, "gauge", "Addresses that policies allow by domain names, by each name that led there.");
    line(&mut out, domains, &[], known.pairs);
    let refused = "xebec_policy_domain_addresses_refused_total";
    head(&mut out, refused, "counter", "Such addresses that are not allowed because there are too many.");
    line(&mut out, refused, &[], known.refused);
    flow_table(&mut out, maps)?;
    Ok(out)
}

/// How full the uplink's flow table is.
fn flow_table(out: &mut String, maps: &Maps) -> Result<(), Error> {
    let fill = Fill::read(&maps.flows, &maps.flow_counters)?;
    for (name, kind, help, value) in [
        ("xebec_flow_table_entries", "gauge", "Flows from outside that the node keeps.", fill.present),
        ("xebec_flow_table_room", "gauge", "How many it can keep; then idle ones are evicted for new ones.", fill.room),
        ("xebec_flow_table_added_total", "counter", "Flows that were added.", fill.added),
        ("xebec_flow_table_evicted_total", "counter", "Flows that were evicted.", fill.evicted()),
    ] {
        head(out, name, kind, help);
        line(out, name, &[], value);
    }
    Ok(())
}

/// Service ports that have series of their own: as many as a scrape can bear, the longest known first, so that series
/// stay. The others count together.
const PORTS_MAX: usize = 1_000;

/// A service port: it has several frontends, of both families, and counts once.
#[derive(Debug, Default)]
struct Port {
    namespace: String,
    service: String,
    /// What names it best: its first address, the ClusterIP mostly.
    address: String,
    number: String,
    protocol: String,
    socket_connections: u64,
    uplink_flows: u64,
    refused: u64,
    /// By the frontends' family.
    backends: BTreeMap<&'static str, u64>,
    inside: Times,
    outside: Times,
}

impl Port {
    fn new(first: &Frontend) -> Self {
        let of = first.of.as_ref();
        Self {
            namespace: of.map(|of| of.namespace.clone()).unwrap_or_default(),
            service: of.map(|of| of.service.clone()).unwrap_or_default(),
            address: first.address.ip().to_string(),
            number: first.address.port().to_string(),
            protocol: first.protocol.clone(),
            ..Self::default()
        }
    }

    /// Takes in what was counted for a port; each of its frontends says the same.
    fn count(&mut self, port: &Frontend) {
        self.socket_connections += port.socket_connections;
        self.uplink_flows += port.uplink_flows;
        self.refused += port.refused;
        self.inside.add(&port.inside);
        self.outside.add(&port.outside);
    }

    fn labels(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("namespace", &self.namespace),
            ("service", &self.service),
            ("address", &self.address),
            ("port", &self.number),
            ("protocol", &self.protocol),
        ]
    }
}

/// The ports with series of their own, by number, and after them the others in one; with how many those are.
fn ports(frontends: Vec<Frontend>) -> (Vec<Port>, usize) {
    let mut by_number: BTreeMap<u32, Vec<Frontend>> = BTreeMap::new();
    for frontend in frontends {
        if frontend.scope == "cluster" && !frontend.address.ip().is_unspecified() {
            by_number.entry(frontend.id).or_default().push(frontend);
        }
    }
    let left_out = by_number.len().saturating_sub(PORTS_MAX);
    let mut out: Vec<Port> = Vec::new();
    for (index, frontends) in by_number.values().enumerate() {
        if index < PORTS_MAX {
            out.extend(frontends.first().map(Port::new));
        } else if index == PORTS_MAX {
            out.push(Port::default());
        }
        let Some(port) = out.last_mut() else { continue };
        frontends.first().into_iter().for_each(|first| port.count(first));
        for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
            if let Some(of_family) = frontends.iter().find(|frontend| frontend.address.is_ipv6() == is_v6) {
                *port.backends.entry(family).or_default() += of_family.backends.len() as u64;
            }
        }
    }
    (out, left_out)
}

/// The histograms of service ports that have any connection.
fn times(out: &mut String, ports: &[Port]) {
    const NAME: &str = "xebec_service_connect_duration_seconds";
    head(
        out,
        NAME,
        "histogram",
        "From a client's first packet to the answer of a service's endpoint: for clients inside, of this node, from \
         connect() to established; for clients outside, as the uplink sees it.",
    );
    for port in ports {
        for (from, times) in [("inside", &port.inside), ("outside", &port.outside)] {
            if !times.buckets.is_empty() {
                histogram(out, NAME, from, port, times);
            }
        }
    }
}

fn histogram(out: &mut String, name: &str, from: &str, port: &Port, times: &Times) {
    let labels: Vec<(&str, &str)> = port.labels().into_iter().chain([("from", from)]).collect();
    let mut sum = 0;
    for (bucket, count) in times.buckets.iter().enumerate() {
        sum += u64::from(*count);
        let is_last = bucket + 1 == times.buckets.len();
        let limit = if is_last { "+Inf".to_owned() } else { (limit_us(bucket) as f64 / 1e6).to_string() };
        let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", limit.as_str())]).collect();
        line(out, &format!("{name}_bucket"), &labels, sum);
    }
    line(out, &format!("{name}_sum"), &labels, times.sum_us as f64 / 1e6);
    line(out, &format!("{name}_count"), &labels, sum);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frontend(id: u32, address: &str, scope: &str, backends: &[&str]) -> Frontend {
        let of = json!({"namespace": "shop", "service": format!("s{id}"), "port": ""});
        let value = json!({"address": address, "protocol": "TCP", "scope": scope, "id": id, "of": of,
            "backends": backends, "affinityTimeoutS": 0, "socketConnections": 5, "uplinkFlows": 2, "refused": 1,
            "inside": {"sumUs": 9, "buckets": [1]}});
        serde_json::from_value(value).unwrap()
    }

    /// A port counts once, however many frontends it has; its endpoints count in each family.
    #[test]
    fn a_port_has_both_families() {
        let all = vec![
            frontend(7, "0.0.0.0:30080", "cluster", &["10.244.1.5:80"]),
            frontend(7, "10.96.0.9:80", "cluster", &["10.244.1.5:80", "10.244.2.5:80"]),
            frontend(7, "172.30.0.130:80", "external", &["10.244.1.5:80"]),
            frontend(7, "[fd00::9]:80", "cluster", &["[fd00::5]:80"]),
        ];
        let (ports, left_out) = ports(all);
        assert_eq!((ports.len(), left_out), (1, 0));
        assert_eq!((ports[0].socket_connections, ports[0].inside.count()), (5, 1));
        assert_eq!(ports[0].backends, BTreeMap::from([("IPv4", 2), ("IPv6", 1)]));
        assert_eq!(ports[0].labels()[2], ("address", "10.96.0.9"));
    }

    /// Beyond a number of ports there is one series for all others, and no count is lost.
    #[test]
    fn there_are_so_many_series_and_no_more() {
        let count = PORTS_MAX as u32 + 3;
        let all = (1..=count).rev().map(|id| frontend(id, &format!("10.96.0.9:{id}"), "cluster", &[])).collect();
        let (ports, left_out) = ports(all);
        assert_eq!((ports.len(), left_out), (PORTS_MAX + 1, 3));
        assert_eq!(ports.iter().map(|port| port.socket_connections).sum::<u64>(), 5 * u64::from(count));
        assert_eq!((ports[0].service.as_str(), ports[PORTS_MAX].service.as_str()), ("s1", ""));
        assert_eq!(ports[PORTS_MAX].inside.count(), 3);
    }
}
