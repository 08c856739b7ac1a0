//! `/stats/summary` (upstream `k8s.io/kubelet/pkg/apis/stats/v1alpha1`): processor and memory.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::resource::sum;
use super::{PodUsage, Reading, Told};
use crate::runtime::Usage;

/// A reading as a `Summary`. Rates are since `told`, which is brought up to date.
pub(super) fn summary(node: &str, reading: &Reading, told: &mut Told) -> Value {
    let at = reading.at;
    let mut now = Told::new();
    let mut rate = |id: &str, usage: &Usage| {
        now.insert(id.to_owned(), (at, usage.cpu_ns));
        told.get(id).and_then(|before| nanocores(*before, (at, usage.cpu_ns)))
    };
    let of_node = reading.node.map(|usage| (usage, rate("", &usage)));
    let pods: Vec<Value> = reading.pods.iter().map(|pod| of_pod(pod, at, &mut rate)).collect();
    let mut out = json!({"node": {"nodeName": node}, "pods": pods});
    if let Some((usage, rate)) = of_node {
        out["node"]["cpu"] = cpu(&usage, rate, at);
        out["node"]["memory"] = memory(&usage, at);
    }
    *told = now;
    out
}

fn of_pod(pod: &PodUsage, at: Timestamp, rate: &mut impl FnMut(&str, &Usage) -> Option<u64>) -> Value {
    let mut together: Option<u64> = Some(0);
    let mut containers = Vec::new();
    for container in &pod.containers {
        let rate = rate(&container.id, &container.usage);
        together = together.zip(rate).map(|(sum, rate)| sum.saturating_add(rate));
        containers.push(json!({"name": container.name, "startTime": container.started,
            "cpu": cpu(&container.usage, rate, at), "memory": memory(&container.usage, at)}));
    }
    let usage = sum(pod);
    json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started,
        "containers": containers,
        "cpu": cpu(&usage, together, at),
        "memory": memory(&usage, at),
    })
}

/// Thousandths of a millionth of a processor, in between.
fn nanocores((since, before): (Timestamp, u64), (at, now): (Timestamp, u64)) -> Option<u64> {
    let passed = u128::try_from(at.duration_since(since).as_nanos()).ok().filter(|ns| *ns > 0)?;
    let used = u128::from(now.checked_sub(before)?);
    u64::try_from(used * 1_000_000_000 / passed).ok()
}

fn cpu(usage: &Usage, rate: Option<u64>, at: Timestamp) -> Value {
    let mut cpu = json!({"time": at, "usageCoreNanoSeconds": usage.cpu_ns});
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = rate.into();
    }
    cpu
}

fn memory(usage: &Usage, at: Timestamp) -> Value {
    json!({"time": at, "workingSetBytes": usage.memory_working_set_bytes})
}
