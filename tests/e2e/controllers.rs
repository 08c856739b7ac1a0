//! StatefulSets, DaemonSets and CronJobs, as kubectl drives them.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, same, wait_until};

pub fn a_stateful_set_lives(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("stateful")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: db}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{port: 5432}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 2
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: {TOOLS}, command: [sleep, '100000']}}]
"
    ))?;
    contains(&ns.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"])?, "complete")?;
    contains(&ns.kubectl(&["get", "statefulset"])?, "db     2/2")?;
    same(ns.kubectl(&["exec", "db-1", "--", "hostname"])?.trim(), "db-1", "the host name of db-1")?;
    let found = ns.python("db-0", "import socket; print(socket.gethostbyname('db-1.db'))")?;
    same(found.trim().to_owned(), ns.field("pod/db-1", "{.status.podIP}")?, "the address that DNS has of db-1")?;
    let uid = ns.field("pod/db-0", "{.metadata.uid}")?;
    ns.kubectl(&["delete", "pod", "db-0"])?;
    ns.comes_back("db-0", &uid)?;
    contains(&ns.kubectl(&["set", "env", "statefulset/db", "VERSION=2"])?, "env updated")?;
    contains(&ns.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"])?, "complete")?;
    contains(&ns.kubectl(&["exec", "db-0", "--", "env"])?, "VERSION=2")?;
    contains(&ns.kubectl(&["rollout", "history", "statefulset/db"])?, "2")?;
    contains(&ns.kubectl(&["rollout", "undo", "statefulset/db"])?, "rolled back")?;
    contains(&ns.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"])?, "complete")?;
    same(ns.field("statefulset/db", "{.spec.template.spec.containers[0].env}")?, String::new(), "env after the undo")?;
    contains(&ns.kubectl(&["scale", "statefulset/db", "--replicas=1"])?, "scaled")?;
    wait_until("the last goes first", SOON, || Ok(ns.kubectl(&["get", "pods", "-o", "name"])?.trim() == "pod/db-0"))
}

pub fn a_daemon_set_lives(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("daemons")?;
    ns.apply(&format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: {TOOLS}, command: [sleep, '100000']}}]
"
    ))?;
    contains(&ns.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?, "successfully rolled out")?;
    let nodes = ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    let mut nodes: Vec<&str> = nodes.split_whitespace().collect();
    nodes.sort_unstable();
    same(nodes, [cluster.node(1), cluster.node(2), cluster.node(3)].iter().map(String::as_str).collect(), "its nodes")?;
    contains(&ns.kubectl(&["rollout", "restart", "daemonset/agent"])?, "restarted")?;
    contains(&ns.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?, "successfully rolled out")?;
    contains(&ns.kubectl(&["rollout", "undo", "daemonset/agent"])?, "rolled back")?;
    contains(&ns.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?, "successfully rolled out")?;
    contains(&ns.kubectl(&["describe", "daemonset", "agent"])?, "SuccessfulCreate")
}

pub fn a_cron_job_runs(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("cron")?;
    let create =
        ["create", "cronjob", "tick", &format!("--image={TOOLS}"), "--schedule=* * * * *", "--", "echo", "tock"];
    contains(&ns.kubectl(&create)?, "created")?;
    // It is due at the next full minute.
    wait_until("its job has run", SOON + Duration::from_secs(60), || {
        Ok(ns.kubectl(&["get", "jobs", "-o", "jsonpath={.items[*].status.succeeded}"])?.contains('1'))
    })?;
    contains(&ns.kubectl(&["get", "cronjob", "tick"])?, "* * * * *")?;
    contains(&ns.kubectl(&["create", "job", "now", "--from=cronjob/tick"])?, "created")?;
    contains(&ns.kubectl(&["wait", "--for=condition=complete", "job/now", "--timeout=60s"])?, "condition met")?;
    same(ns.kubectl(&["logs", "job/now"])?.trim(), "tock", "its output")
}
