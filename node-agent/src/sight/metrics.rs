//! The agent's metrics, in Prometheus' text format.

use std::fmt::Write as _;

use xebec_ebpf_loader::{Error, Maps};

use super::services::{self, Frontend};

/// All of them.
pub fn text(maps: &Maps) -> Result<String, Error> {
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
    let all = services::read(maps)?;
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
            line(&mut out, name, &labels(port).each_ref().map(|(k, v)| (*k, v.as_str())), value(port));
        }
    }
    let backends = "xebec_service_backends";
    head(&mut out, backends, "gauge", "Endpoints that the kernel holds for a service.");
    for port in &ports {
        let count = port.backends.len() as u64;
        line(&mut out, backends, &labels(port).each_ref().map(|(k, v)| (*k, v.as_str())), count);
    }
    head(&mut out, "xebec_policy_revision", "gauge", "How often the network policies in the kernel changed.");
    line(&mut out, "xebec_policy_revision", &[], u64::from(maps.revision.get()?));
    let isolated = maps.local_pods.entries()?.iter().filter(|(_, pod)| pod.is_isolated()).count();
    head(&mut out, "xebec_policy_isolated_pods", "gauge", "Pods of this node that network policies select.");
    line(&mut out, "xebec_policy_isolated_pods", &[], isolated as u64);
    Ok(out)
}

fn labels(port: &Frontend) -> [(&'static str, String); 3] {
    [
        ("address", port.address.ip().to_string()),
        ("port", port.address.port().to_string()),
        ("protocol", port.protocol.clone()),
    ]
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "{name}{labels} {value}");
}
