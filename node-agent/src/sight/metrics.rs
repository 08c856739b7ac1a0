//! The agent's metrics, in Prometheus' text format.

use std::fmt::Write as _;

use xebec_ebpf_loader::layout::flow_counters;
use xebec_ebpf_loader::{Error, Maps};

use super::services::{self, Frontend, Names, Times, limit_us};

/// All of them.
pub(super) fn text(maps: &Maps, names: &Names) -> Result<String, Error> {
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
    let all = services::read(maps, names)?;
    // A service port has several frontends, and counts once: what names it best is its first, by the ClusterIP mostly.
    let mut ports: Vec<&Frontend> = Vec::new();
    for frontend in &all {
        if frontend.scope == "cluster"
            && !frontend.address.ip().is_unspecified()
            && !ports.iter().any(|p| p.id == frontend.id)
        {
            ports.push(frontend);
        }
    }
    type Value = fn(&Frontend) -> u64;
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
            line(&mut out, name, &as_text(&labels(port)), value(port));
        }
    }
    let backends = "xebec_service_backends";
    head(&mut out, backends, "gauge", "Endpoints that the kernel holds for a service.");
    for port in &ports {
        let count = port.backends.len() as u64;
        line(&mut out, backends, &as_text(&labels(port)), count);
    }
    times(&mut out, &ports);
    head(&mut out, "xebec_policy_revision", "gauge", "How often the network policies in the kernel changed.");
    line(&mut out, "xebec_policy_revision", &[], u64::from(maps.revision.get()?));
    let isolated = maps.local_pods.entries()?.iter().filter(|(_, pod)| pod.is_isolated()).count();
    head(&mut out, "xebec_policy_isolated_pods", "gauge", "Pods of this node that network policies select.");
    line(&mut out, "xebec_policy_isolated_pods", &[], isolated as u64);
    Ok(out)
}

/// The histograms of service ports that have any connection.
fn times(out: &mut String, ports: &[&Frontend]) {
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

fn histogram(out: &mut String, name: &str, from: &str, port: &Frontend, times: &Times) {
    let labels = labels(port);
    let labels: Vec<(&str, &str)> = as_text(&labels).into_iter().chain([("from", from)]).collect();
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

fn as_text<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    labels.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

fn labels(port: &Frontend) -> [(&'static str, String); 5] {
    let of = port.of.as_ref();
    [
        ("namespace", of.map(|of| of.namespace.clone()).unwrap_or_default()),
        ("service", of.map(|of| of.service.clone()).unwrap_or_default()),
        ("address", port.address.ip().to_string()),
        ("port", port.address.port().to_string()),
        ("protocol", port.protocol.clone()),
    ]
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
