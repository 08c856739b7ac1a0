use serde_json::json;

use super::*;

fn reading(at: &str, cpu_ns: u64) -> Reading {
    let usage = Usage { cpu_ns, memory_working_set_bytes: 1 << 20, processes: 1 };
    let container = |name: &str, id: &str| ContainerUsage {
        name: name.into(),
        id: id.into(),
        started: Some("2026-01-01T00:00:00.5Z".parse().unwrap()),
        usage,
    };
    let containers = vec![container("c", "1"), container("d", "2")];
    let pod = PodUsage { namespace: "n".into(), name: "p".into(), uid: "u".into(), started: None, containers };
    Reading { at: at.parse().unwrap(), node: Some(usage), pods: vec![pod], incomplete: false }
}

#[test]
fn what_prometheus_reads() {
    let text = resource::text(&reading("2026-01-01T00:00:10Z", 1_500_000_000));
    let at = "1767225610000";
    for line in [
        format!("container_cpu_usage_seconds_total{{container=\"c\",namespace=\"n\",pod=\"p\"}} 1.500000000 {at}"),
        format!("container_start_time_seconds{{container=\"d\",namespace=\"n\",pod=\"p\"}} 1767225600.500 {at}"),
        format!("pod_memory_working_set_bytes{{namespace=\"n\",pod=\"p\"}} 2097152 {at}"),
        format!("node_cpu_usage_seconds_total 1.500000000 {at}"),
        "resource_scrape_error 0".to_owned(),
        "# TYPE node_memory_working_set_bytes gauge".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn rates_are_since_they_were_last_told() {
    let mut told = Told::new();
    let first = summary::summary("a", &reading("2026-01-01T00:00:10Z", 1_000_000_000), &mut told);
    assert!(first["node"]["cpu"].get("usageNanoCores").is_none());
    let second = summary::summary("a", &reading("2026-01-01T00:00:20Z", 6_000_000_000), &mut told);
    assert_eq!(second["node"]["cpu"]["usageNanoCores"], 500_000_000);
    assert_eq!(second["pods"][0]["cpu"]["usageNanoCores"], 1_000_000_000);
    assert_eq!(second["pods"][0]["containers"][1]["memory"]["workingSetBytes"], 1 << 20);
    assert_eq!(second["pods"][0]["podRef"], json!({"name": "p", "namespace": "n", "uid": "u"}));
}
