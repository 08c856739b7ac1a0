//! Requests and limits: the QoS class, and what cgroups hold a pod and its containers to (KEP-2837 aside).

use std::collections::BTreeMap;

use serde_json::Value;
use xebec_schema::quantity::Quantity;

use crate::api::pod::{Container, PodSpec, Resources};
use crate::runtime::{CPU_PERIOD_US, Limits};

/// Thousandths of a CPU in a list of resources; none if it names no CPU.
pub fn cpu_milli(list: &BTreeMap<String, Value>) -> Option<i64> {
    Some(Quantity::of_json(list.get("cpu")?)?.milli_value())
}

/// The whole amount of another resource.
pub fn amount(list: &BTreeMap<String, Value>, resource: &str) -> Option<i64> {
    Some(Quantity::of_json(list.get(resource)?)?.value())
}

/// The request, which without one of its own is the limit.
fn request<'a>(resources: &'a Resources, resource: &str) -> Option<&'a Value> {
    resources.requests.get(resource).or_else(|| resources.limits.get(resource))
}

/// `Guaranteed`, `Burstable` or `BestEffort` (qos.go upstream).
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = spec.resources.iter();
    let of_containers = spec.all_containers().map(|c| &c.resources);
    let sets: Vec<&Resources> = if spec.resources.is_some() { pod_level.collect() } else { of_containers.collect() };
    for resources in sets {
        for resource in ["cpu", "memory"] {
            let wanted = request(resources, resource).and_then(Quantity::of_json).filter(|q| !q.is_zero());
            let limit = resources.limits.get(resource).and_then(Quantity::of_json).filter(|q| !q.is_zero());
            any |= wanted.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && wanted == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What a pod asks for of a resource: its containers together, or the largest init container if that is more; sidecars
/// count on both sides (resource helpers upstream). CPU in thousandths, others whole.
pub fn pod_request(spec: &PodSpec, resource: &str) -> i64 {
    let of = |resources: &Resources| -> i64 {
        let quantity = request(resources, resource).and_then(Quantity::of_json);
        quantity.map_or(0, |q| if resource == "cpu" { q.milli_value() } else { q.value() })
    };
    if let Some(own) = spec.resources.as_ref().filter(|r| request(r, resource).is_some()) {
        return of(own);
    }
    let (mut sidecars, mut init_peak) = (0_i64, 0_i64);
    for container in &spec.init_containers {
        if container.is_sidecar() {
            sidecars += of(&container.resources);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + of(&container.resources));
        }
    }
    let together: i64 = sidecars + spec.containers.iter().map(|c| of(&c.resources)).sum::<i64>();
    let overhead = spec.overhead.get(resource).and_then(|q| Quantity::parse(q).ok());
    let overhead = overhead.map_or(0, |q| if resource == "cpu" { q.milli_value() } else { q.value() });
    together.max(init_peak) + overhead
}

/// The cgroup v1 weight of a CPU request.
pub fn cpu_shares(milli: i64) -> u64 {
    u64::try_from(milli.max(0) * 1024 / 1000).unwrap_or(0).clamp(2, 262_144)
}

/// The share of a period that a CPU limit allows, in microseconds.
pub fn cpu_quota_us(milli: i64) -> i64 {
    let period = i64::try_from(CPU_PERIOD_US).unwrap_or(100_000);
    // The kernel takes no less than a millisecond.
    (milli * period / 1000).max(1000)
}

/// A container's limits.
pub fn container_limits(container: &Container) -> Limits {
    let resources = &container.resources;
    let wanted = request(resources, "cpu").and_then(Quantity::of_json).map_or(0, |q| q.milli_value());
    Limits {
        cpu_shares: cpu_shares(wanted),
        cpu_quota_us: cpu_milli(&resources.limits).filter(|m| *m > 0).map(cpu_quota_us),
        memory_bytes: amount(&resources.limits, "memory").filter(|b| *b > 0),
        pids: None,
    }
}

/// The limits of a pod's cgroup: a limit only if every container has one.
pub fn pod_limits(spec: &PodSpec, pids: Option<i64>) -> Limits {
    let limit = |of: &dyn Fn(&Resources) -> Option<i64>| -> Option<i64> {
        if let Some(own) = spec.resources.as_ref().and_then(of) {
            return Some(own);
        }
        let mut sum = 0;
        for container in &spec.containers {
            sum += of(&container.resources)?;
        }
        let mut sidecars = 0;
        let mut peak = 0;
        for container in &spec.init_containers {
            let own = of(&container.resources)?;
            if container.is_sidecar() {
                sidecars += own;
                peak = peak.max(sidecars);
            } else {
                peak = peak.max(sidecars + own);
            }
        }
        Some((sum + sidecars).max(peak)).filter(|l| *l > 0)
    };
    Limits {
        cpu_shares: cpu_shares(pod_request(spec, "cpu")),
        cpu_quota_us: limit(&|r| cpu_milli(&r.limits)).map(cpu_quota_us),
        memory_bytes: limit(&|r| amount(&r.limits, "memory")),
        pids,
    }
}

/// Limits that both fit into.
pub fn widest(a: &Limits, b: &Limits) -> Limits {
    let wider = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
    Limits {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota_us: wider(a.cpu_quota_us, b.cpu_quota_us),
        memory_bytes: wider(a.memory_bytes, b.memory_bytes),
        pids: wider(a.pids, b.pids),
    }
}

/// Where a pod's cgroup is below the root of all pods: guaranteed pods at the top, the others by class.
pub fn cgroup(spec: &PodSpec, uid: &str) -> String {
    match qos_class(spec) {
        "Guaranteed" => format!("pod{uid}"),
        class => format!("{}/pod{uid}", class.to_lowercase()),
    }
}

/// How soon the kernel kills a container when memory runs out (qos/policy.go upstream).
pub fn oom_score_adj(spec: &PodSpec, container: &Container, capacity_bytes: i64) -> i32 {
    match qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = request(&container.resources, "memory").and_then(Quantity::of_json).map_or(0, |q| q.value());
            let share = if capacity_bytes > 0 { 1000 * i128::from(request) / i128::from(capacity_bytes) } else { 0 };
            let adjust = 1000 - i32::try_from(share.clamp(0, 1000)).unwrap_or(0);
            adjust.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(containers: Value) -> PodSpec {
        serde_json::from_value(json!({ "containers": containers })).unwrap()
    }

    #[test]
    fn classes_are_as_upstream_tells_them() {
        let none = spec(json!([{ "name": "a" }]));
        assert_eq!(qos_class(&none), "BestEffort");
        let full = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1000m" } });
        let guaranteed = spec(json!([{ "name": "a", "resources": full }]));
        assert_eq!(qos_class(&guaranteed), "Guaranteed");
        let half = spec(json!([{ "name": "a", "resources": full }, { "name": "b" }]));
        assert_eq!(qos_class(&half), "Burstable");
        assert_eq!(cgroup(&half, "u"), "burstable/podu");
        assert_eq!(cgroup(&guaranteed, "u"), "podu");
    }

    #[test]
    fn sidecars_count_beside_init_and_other_containers() {
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [
                { "name": "s", "restartPolicy": "Always", "resources": { "requests": { "cpu": "100m" } } },
                { "name": "i", "resources": { "requests": { "cpu": "500m" } } },
            ],
            "containers": [{ "name": "a", "resources": { "requests": { "cpu": "200m" } } }],
        }))
        .unwrap();
        assert_eq!(pod_request(&spec, "cpu"), 600);
    }

    #[test]
    fn limits_become_cgroup_values() {
        let spec = spec(json!([{ "name": "a", "resources": { "limits": { "cpu": "250m", "memory": "64Mi" } } }]));
        let limits = container_limits(&spec.containers[0]);
        assert_eq!(limits.cpu_shares, 256);
        assert_eq!(limits.cpu_quota_us, Some(25_000));
        assert_eq!(limits.memory_bytes, Some(64 << 20));
        assert_eq!(pod_limits(&spec, None).memory_bytes, Some(64 << 20));
        assert_eq!(oom_score_adj(&spec, &spec.containers[0], 1 << 30), -997);
    }
}
