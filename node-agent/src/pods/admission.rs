//! Whether the node can run a pod that was bound to it: the last word, since the scheduler may not have known.

use std::collections::BTreeSet;

use super::context::Allocatable;
use super::resources::pod_request;
use super::state::Rejection;
use crate::api::Pod;

/// Why `pod` cannot run beside `others` (those that have not ended), if so. Reasons and messages as upstream's
/// lifecycle/predicate.go.
pub fn admit<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>, allocatable: &Allocatable) -> Option<Rejection> {
    let (mut cpu, mut memory, mut pods) = (0_i64, 0_i64, 0_i64);
    let mut ports = BTreeSet::new();
    for other in others {
        cpu += pod_request(&other.spec, "cpu");
        memory += pod_request(&other.spec, "memory");
        pods += 1;
        ports.extend(host_ports(other));
    }
    let reject = |reason: &str, message: String| Some(Rejection { reason: reason.to_owned(), message });
    let short = |resource: &str, requested: i64, used: i64, capacity: i64| {
        format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    };
    if pods >= allocatable.pods {
        return reject("OutOfpods", short("pods", 1, pods, allocatable.pods));
    }
    let wanted = pod_request(&pod.spec, "cpu");
    if wanted > 0 && cpu.saturating_add(wanted) > allocatable.cpu_milli {
        return reject("OutOfcpu", short("cpu", wanted, cpu, allocatable.cpu_milli));
    }
    let wanted = pod_request(&pod.spec, "memory");
    if wanted > 0 && memory.saturating_add(wanted) > allocatable.memory_bytes {
        return reject("OutOfmemory", short("memory", wanted, memory, allocatable.memory_bytes));
    }
    if host_ports(pod).any(|port| ports.contains(&port)) {
        return reject(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
        );
    }
    None
}

/// The ports of the node that a pod takes: (protocol, port).
fn host_ports(pod: &Pod) -> impl Iterator<Item = (String, u16)> {
    pod.spec.all_containers().flat_map(|c| &c.ports).filter(|p| p.host_port != 0).map(|p| {
        let protocol = if p.protocol.is_empty() { "TCP" } else { &p.protocol };
        (protocol.to_owned(), p.host_port)
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
        let of = |p: &Pod, n: usize| admit(p, there.iter().cycle().take(n), &allocatable).map(|r| r.reason);
        assert_eq!(of(&pod("400m", 0), 1), None);
        assert_eq!(of(&pod("401m", 0), 1).as_deref(), Some("OutOfcpu"));
        assert_eq!(of(&pod("1m", 80), 1).as_deref(), Some("NodePorts"));
        assert_eq!(of(&pod("1m", 0), 2).as_deref(), Some("OutOfpods"));
    }
}
