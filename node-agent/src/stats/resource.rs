//! `/metrics/resource` (upstream `pkg/kubelet/metrics/collectors/resource_metrics.go`).

use std::fmt::Write as _;

use jiff::Timestamp;

use super::Reading;
use crate::runtime::Usage;

/// A reading in Prometheus' text format.
pub(super) fn text(reading: &Reading) -> String {
    let at = reading.at.as_millisecond();
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, String)>| {
        if lines.is_empty() {
            return;
        }
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value} {at}");
        }
    };
    let of_containers = |value: &dyn Fn(&super::ContainerUsage) -> Option<String>| -> Vec<(String, String)> {
        let containers = reading.pods.iter().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c)));
        let line = |(pod, container): (&super::PodUsage, &super::ContainerUsage)| {
            let labels = labels(&[("container", &container.name), ("namespace", &pod.namespace), ("pod", &pod.name)]);
            Some((labels, value(container)?))
        };
        containers.filter_map(line).collect()
    };
    let of_pods = |value: &dyn Fn(&Usage) -> String| -> Vec<(String, String)> {
        let line = |pod: &super::PodUsage| {
            let labels = labels(&[("namespace", &pod.namespace), ("pod", &pod.name)]);
            (labels, value(&sum(pod)))
        };
        reading.pods.iter().map(line).collect()
    };
    let of_node = |value: fn(&Usage) -> String| -> Vec<(String, String)> {
        reading.node.iter().map(|usage| (String::new(), value(usage))).collect()
    };
    let cpu = |usage: &Usage| seconds(usage.cpu_ns);
    let memory = |usage: &Usage| usage.memory_working_set_bytes.to_string();
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        of_containers(&|c| Some(cpu(&c.usage))),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        of_containers(&|c| Some(memory(&c.usage))),
    );
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        of_containers(&|c| c.started.map(epoch)),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        of_node(cpu),
    );
    family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes", of_node(memory));
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        of_pods(&cpu),
    );
    family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", of_pods(&memory));
    let failed = u8::from(reading.incomplete);
    let _ = writeln!(
        out,
        "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n\
         # TYPE resource_scrape_error gauge\nresource_scrape_error {failed}"
    );
    out
}

/// What a pod's containers use together.
pub(super) fn sum(pod: &super::PodUsage) -> Usage {
    pod.containers.iter().fold(Usage::default(), |sum, container| Usage {
        cpu_ns: sum.cpu_ns.saturating_add(container.usage.cpu_ns),
        memory_working_set_bytes: sum.memory_working_set_bytes.saturating_add(container.usage.memory_working_set_bytes),
        processes: sum.processes.saturating_add(container.usage.processes),
    })
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

fn epoch(at: Timestamp) -> String {
    format!("{}.{:03}", at.as_second(), at.subsec_millisecond())
}

fn labels(labels: &[(&str, &str)]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", labels.join(","))
}
