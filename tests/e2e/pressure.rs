//! Pods that have to go: for what they use, or for what the node lacks.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_until};

/// A pod is found out within ten seconds, and then has to end.
const EVICTED: Duration = Duration::from_secs(40);

fn pod(name: &str, command: &str, more: &str, container: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  {more}
  containers:
  - {{name: main, image: {TOOLS}, command: [sh, -c, '{command}; exec sleep 100000'], {container}}}
"
    )
}

fn evicted(ns: &Namespace, name: &str) -> Result<String> {
    let pod = format!("pod/{name}");
    wait_until(&format!("{name} is sent away"), EVICTED, || {
        Ok(ns.field(&pod, "{.status.phase} {.status.reason}")? == "Failed Evicted")
    })?;
    ns.field(&pod, "{.status.message}")
}

/// Limits of what is on disk: of a volume, and of a container.
pub fn what_fills_the_disk_has_to_go(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("disk")?;
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let volume = "volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]";
    let write = |to: &str| format!("dd if=/dev/zero of={to} bs=1M count=3 2>/dev/null");
    ns.apply(&pod("fills", &write("/v/x"), volume, mount))?;
    ns.apply(&pod("fits", "dd if=/dev/zero of=/v/x bs=1k count=10 2>/dev/null", volume, mount))?;
    let limited = "resources: {limits: {ephemeral-storage: 1Mi}}";
    ns.apply(&pod("writes", &write("/tmp/x"), "", limited))?;
    same(evicted(&ns, "fills")?.as_str(), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ", "why")?;
    let expected = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
    same(evicted(&ns, "writes")?.as_str(), expected, "why")?;
    same(ns.field("pod/fits", "{.status.phase}")?.as_str(), "Running", "who keeps within its limit")?;
    let events = ns.kubectl(&["get", "events", "--field-selector", "involvedObject.name=fills,reason=Evicted"])?;
    contains(&events, "Usage of EmptyDir volume")
}

/// A cluster whose node is told that it has hardly any memory, and then that it has.
pub fn a_node_that_is_short_sends_pods_away(_shared: &Arc<Cluster>) -> Result {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("agent.yaml");
    let configure = |least: &str| {
        let yaml = format!("evictionHard: {{memory.available: {least}}}\nevictionPressureTransitionPeriod: 1s\n");
        std::fs::write(&path, yaml).map_err(|e| e.to_string())
    };
    let file = path.display().to_string();
    configure("1Mi")?;
    let cluster = Arc::new(Cluster::beside("pressure", &["--nodes", "1", "--no-context", "--agent-config", &file])?);
    let ns = cluster.namespace("pressure")?;
    let node = cluster.node(1);
    let asks = "resources: {requests: {memory: 1Mi}}";
    ns.apply(&pod("goes", "true", "", asks))?;
    ns.ready("goes")?;
    ns.apply(&pod("stays", "true", "priorityClassName: system-node-critical", ""))?;
    ns.ready("stays")?;

    configure("99.9%")?;
    cluster.up(&["--agent-config", &file])?;
    let message = evicted(&ns, "goes")?;
    contains(&message, "The node was low on resource: memory. Threshold quantity: ")?;
    let condition = "{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";
    same(ns.field("pod/goes", condition)?.as_str(), "TerminationByKubelet", "the disruption's reason")?;
    let pressed = format!("{{.status.conditions[?(@.type==\"{}\")].status}}", "MemoryPressure");
    wait_until("the node says so", SOON, || Ok(ns.field(&format!("node/{node}"), &pressed)? == "True"))?;
    wait_until("the node is tainted", SOON, || {
        Ok(ns.field(&format!("node/{node}"), "{.spec.taints[*].key}")?.contains("node.kubernetes.io/memory-pressure"))
    })?;
    ns.apply(&pod("refused", "true", &format!("nodeName: {node}"), ""))?;
    let why = evicted(&ns, "refused")?;
    same(why.as_str(), "Pod was rejected: The node had condition: [MemoryPressure]. ", "why it is not taken")?;
    same(ns.field("pod/stays", "{.status.phase}")?.as_str(), "Running", "who is critical")?;
    let events = ns.kubectl(&["get", "events", "-A", "--field-selector", "reason=EvictionThresholdMet"])?;
    contains(&events, "Attempting to reclaim memory")?;

    configure("1Mi")?;
    cluster.up(&["--agent-config", &file])?;
    wait_until("the node has enough again", SOON, || Ok(ns.field(&format!("node/{node}"), &pressed)? == "False"))?;
    ns.apply(&pod("taken", "true", "", ""))?;
    ns.ready("taken")
}
