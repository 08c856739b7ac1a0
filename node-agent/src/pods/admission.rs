//! Whether the node can run a pod that was bound to it: the last word, since the scheduler may not have known.

use super::context::Allocatable;
use super::resize::{Room, shortage};
use super::state::Rejection;
use super::sysctls::forbidden;
use crate::api::Pod;

/// Why `pod` cannot run beside `others` (those that have not ended), if so. Reasons and messages as upstream's
/// lifecycle/predicate.go.
///
/// `used` is what the others have been granted.
pub fn admit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod>,
    used: Room,
    allocatable: &Allocatable,
) -> Option<Rejection> {
    let reject = |reason: &str, message: String| Some(Rejection { reason: reason.to_owned(), message });
    if !matches!(pod.spec.os.name.as_str(), "" | "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return reject("PodOSNotSupported", message.to_owned());
    }
    if pod.spec.node_selector.get("kubernetes.io/os").is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return reject("PodOSSelectorNodeLabelDoesNotMatch", message.to_owned());
    }
    if let Some(message) = forbidden(&pod.spec) {
        return reject("SysctlForbidden", message);
    }
    let mut pods = 0_i64;
    let mut ports = Vec::new();
    for other in others {
        pods += 1;
        ports.extend(host_ports(other));
    }
    if pods >= allocatable.pods {
        let capacity = allocatable.pods;
        let message =
            format!("Node didn't have enough resource: pods, requested: 1, used: {pods}, capacity: {capacity}");
        return reject("OutOfpods", message);
    }
    if let Some((resource, message)) = shortage(Room::of(&pod.spec), used, allocatable) {
        return reject(&format!("OutOf{resource}"), message);
    }
    if host_ports(pod).any(|port| ports.iter().any(|taken| port.meets(taken))) {
        return reject(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
        );
    }
    None
}

/// A port of the node that a pod takes.
struct HostPort<'a> {
    protocol: &'a str,
    /// Empty for all addresses of the node.
    ip: &'a str,
    port: u16,
}

impl HostPort<'_> {
    /// Whether the two cannot both be had (scheduler `HostPortInfo.CheckConflict`).
    fn meets(&self, other: &HostPort<'_>) -> bool {
        let same_ip = self.ip == other.ip || self.ip.is_empty() || other.ip.is_empty();
        same_ip && (self.protocol, self.port) == (other.protocol, other.port)
    }
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort<'_>> {
    pod.spec.all_containers().flat_map(|c| &c.ports).filter(|p| p.host_port != 0).map(|p| HostPort {
        protocol: if p.protocol.is_empty() { "TCP" } else { &p.protocol },
        ip: if matches!(p.host_ip.as_str(), "0.0.0.0" | "::") { "" } else { &p.host_ip },
        port: p.host_port,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, port: u16) -> Pod {
        serde_json::from_value(json!({ "spec": { "containers": [{
            "name": "c", "resources": { "requests": { "cpu": cpu } }, "ports": [{ "containerPort": 80, "hostPort": port }],
        }]}}))
        .unwrap()
    }

    #[test]
    fn what_does_not_fit_is_rejected_with_upstreams_reason() {
        let allocatable = Allocatable { cpu_milli: 1000, memory_bytes: 1 << 30, pods: 2 };
        let there = [pod("600m", 80)];
        let used = Room::of(&there[0].spec);
        let of = |p: &Pod, n: usize| admit(p, there.iter().cycle().take(n), used, &allocatable).map(|r| r.reason);
        assert_eq!(of(&pod("400m", 0), 1), None);
        assert_eq!(of(&pod("401m", 0), 1).as_deref(), Some("OutOfcpu"));
        assert_eq!(of(&pod("1m", 80), 1).as_deref(), Some("NodePorts"));
        assert_eq!(of(&pod("1m", 0), 2).as_deref(), Some("OutOfpods"));
        let mut datagrams = pod("1m", 80);
        datagrams.spec.containers[0].ports[0].protocol = "UDP".to_owned();
        assert_eq!(of(&datagrams, 1), None);
        let mut windows = pod("1m", 0);
        windows.spec.os.name = "windows".to_owned();
        assert_eq!(of(&windows, 0).as_deref(), Some("PodOSNotSupported"));
        let mut sysctl = pod("1m", 0);
        sysctl.spec.security_context.sysctls =
            serde_json::from_value(json!([{ "name": "kernel.msgmax", "value": "1" }])).unwrap();
        assert_eq!(of(&sysctl, 0).as_deref(), Some("SysctlForbidden"));
    }

    #[test]
    fn a_port_may_be_taken_at_each_address() {
        let at = |ip: &str| {
            let mut pod = pod("1m", 80);
            pod.spec.containers[0].ports[0].host_ip = ip.to_owned();
            pod
        };
        let allocatable = Allocatable { cpu_milli: 1000, memory_bytes: 1 << 30, pods: 9 };
        let fits =
            |ip: &str, taken: &str| admit(&at(ip), [&at(taken)].into_iter(), Room::default(), &allocatable).is_none();
        assert!(fits("172.30.0.11", "127.0.0.1"));
        assert!(!fits("127.0.0.1", "127.0.0.1"));
        assert!(!fits("", "127.0.0.1") && !fits("127.0.0.1", "0.0.0.0"));
    }
}
