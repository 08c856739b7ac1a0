//! Whether the node can run a pod that was bound to it: the last word, since the scheduler may not have known.

use super::context::Allocatable;
use super::resize::{Room, shortage};
use super::resources::qos_class;
use super::state::Rejection;
use super::sysctls::forbidden;
use crate::api::Pod;
use crate::api::pod::Toleration;
use crate::eviction::Pressure;
use crate::eviction::plan::is_critical;

/// Why `pod` cannot run beside `others` (those that have not ended), if so. Reasons and messages as upstream's
/// lifecycle/predicate.go.
///
/// `used` is what the others have been granted.
pub fn admit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod>,
    used: Room,
    allocatable: &Allocatable,
    pressure: Pressure,
) -> Option<Rejection> {
    let reject = |reason: &str, message: String| Some(Rejection { reason: reason.to_owned(), message });
    if pressed(pod, pressure) {
        let conditions = pressure.conditions().join(" ");
        return reject("Evicted", format!("The node had condition: [{conditions}]. "));
    }
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

/// Whether a node that is short of something takes no such pod (eviction_manager.go `Admit` upstream): one that is new would
/// only have to go again.
fn pressed(pod: &Pod, pressure: Pressure) -> bool {
    if pressure == Pressure::default() || is_critical(pod) {
        return false;
    }
    if pressure.disk || pressure.pid {
        return true;
    }
    qos_class(&pod.spec) == "BestEffort" && !pod.spec.tolerations.iter().any(tolerates_memory_pressure)
}

fn tolerates_memory_pressure(toleration: &Toleration) -> bool {
    let same_key = match toleration.key.as_str() {
        "" => toleration.operator == "Exists",
        key => key == "node.kubernetes.io/memory-pressure",
    };
    let same_value = toleration.operator == "Exists" || toleration.value.is_empty();
    same_key && same_value && matches!(toleration.effect.as_str(), "" | "NoSchedule")
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
        let none = Pressure::default();
        let of = |p: &Pod, n: usize| admit(p, there.iter().cycle().take(n), used, &allocatable, none).map(|r| r.reason);
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
        let fits = |ip: &str, taken: &str| {
            admit(&at(ip), [&at(taken)].into_iter(), Room::default(), &allocatable, Pressure::default()).is_none()
        };
        assert!(fits("172.30.0.11", "127.0.0.1"));
        assert!(!fits("127.0.0.1", "127.0.0.1"));
        assert!(!fits("", "127.0.0.1") && !fits("127.0.0.1", "0.0.0.0"));
    }

    #[test]
    fn a_node_that_is_short_takes_no_pod_that_would_have_to_go() {
        let allocatable = Allocatable::default();
        let admitted = |pod: &Pod, pressure: Pressure| {
            admit(pod, std::iter::empty(), Room::default(), &allocatable, pressure).map(|r| (r.reason, r.message))
        };
        let memory = Pressure { memory: true, ..Pressure::default() };
        let burstable = pod("1m", 0);
        let mut best_effort = pod("1m", 0);
        best_effort.spec.containers[0].resources = crate::api::pod::Resources::default();
        assert_eq!(admitted(&burstable, memory), None);
        let refused = admitted(&best_effort, memory);
        let expected = ("Evicted".to_owned(), "The node had condition: [MemoryPressure]. ".to_owned());
        assert_eq!(refused, Some(expected));
        let mut tolerant = best_effort.clone();
        tolerant.spec.tolerations = serde_json::from_value(json!([
            { "key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule" },
        ]))
        .unwrap();
        assert_eq!(admitted(&tolerant, memory), None);
        let both = Pressure { disk: true, ..memory };
        let (_, message) = admitted(&burstable, both).unwrap();
        assert_eq!(message, "The node had condition: [MemoryPressure DiskPressure]. ");
        assert!(admitted(&tolerant, both).is_some());
        let mut critical = best_effort;
        critical.spec.priority = Some(2_000_001_000);
        assert_eq!(admitted(&critical, both), None);
    }
}
