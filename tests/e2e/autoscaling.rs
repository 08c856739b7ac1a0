//! Pods' consumption, and deployments that follow it.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, wait_until};

pub fn busy_pods_become_more(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("autoscaling")?;
    // As busy as its limit allows, many times what is aimed at: it is more even where others take the processors.
    ns.apply(&format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: busy}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: busy}}}}
  template:
    metadata: {{labels: {{app: busy}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: {TOOLS}
        command: [sh, -c, 'while :; do :; done']
        resources: {{requests: {{cpu: 100m}}, limits: {{cpu: 100m}}}}
"
    ))?;
    contains(&ns.kubectl(&["autoscale", "deployment/busy", "--cpu=2%", "--max=2"])?, "autoscaled")?;
    wait_until("kubectl top knows the pod", SOON, || {
        let printed = ns.try_kubectl(&["top", "pods", "--no-headers"])?;
        Ok(printed.ok("kubectl top").is_ok_and(|text| text.starts_with("busy-")))
    })?;
    contains(&ns.kubectl(&["top", "nodes"])?, &cluster.node(1))?;
    wait_until("a second pod", Duration::from_secs(120), || {
        Ok(ns.field("deployment/busy", "{.status.readyReplicas}")? == "2")
    })
    .map_err(|late| format!("{late}\n{}", seen(&ns)))?;
    let described = ns.kubectl(&["describe", "hpa", "busy"])?;
    contains(&described, "New size: 2; reason: cpu resource utilization (percentage of request) above target")?;
    contains(&described, "ScalingActive   True    ValidMetricFound")
}

/// What autoscaling went by, for whoever reads that it failed.
fn seen(ns: &Namespace) -> String {
    let metrics = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", ns.name);
    let asked: [&[&str]; 4] = [
        &["describe", "hpa", "busy"],
        &["get", "--raw", &metrics],
        &["get", "deployments,replicasets,pods", "-o", "yaml"],
        &["get", "events", "--sort-by=.metadata.creationTimestamp"],
    ];
    let answers = asked.map(|arguments| ns.kubectl(arguments).unwrap_or_else(|error| error.to_string()));
    answers.join("\n")
}
