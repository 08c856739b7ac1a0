//! Looking into running pods, and changing what they may use: `kubectl debug`, and the subresource `resize`.

use std::process::Command;
use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, run, same, wait_until};

/// A pod whose only process is known by its argument.
fn sleeper(ns: &Namespace, extra: &str) -> Result {
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {TOOLS}
    command: [sleep, '54321']
    {extra}
"
    ))?;
    ns.ready("p")
}

pub fn a_pod_is_debugged(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("debug")?;
    sleeper(&ns, "")?;
    let image = format!("--image={TOOLS}");

    // With a terminal, as people do it.
    let line = format!(
        "{} debug -it p {image} --image-pull-policy=IfNotPresent --target=main -c shell -- sh",
        ns.kubectl_line()
    );
    let said = run(
        Command::new("script").args(["-qec", &line, "/dev/null"]),
        Some("busybox ps; echo seen by $((40 + 2))\nexit\n"),
    )?;
    contains(&said.out, "sleep 54321")?;
    contains(&said.out, "seen by 42")?;
    let ended = "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}";
    wait_until("the shell has ended", SOON, || Ok(ns.field("pod/p", ended)? == "0"))?;

    ns.kubectl(&["debug", "p", &image, "--target=main", "-c", "idle", "--", "sh", "-c", "echo idling; sleep 1000"])?;
    let running = "{.status.ephemeralContainerStatuses[1].state.running.startedAt}";
    wait_until("the second one runs", SOON, || Ok(!ns.field("pod/p", running)?.is_empty()))?;
    contains(&ns.kubectl(&["logs", "p", "-c", "idle"])?, "idling")?;
    contains(&ns.kubectl(&["exec", "p", "-c", "idle", "--", "busybox", "ps"])?, "sleep 54321")?;
    let described = ns.kubectl(&["describe", "pod", "p"])?;
    contains(&described, "Ephemeral Containers:")?;
    same(ns.field("pod/p", "{.status.containerStatuses[0].restartCount}")?, "0".to_owned(), "restarts of the pod")?;
    ns.ready("p")?;
    let removed = "--patch=[{\"op\": \"remove\", \"path\": \"/spec/ephemeralContainers/0\"}]";
    let said = ns.refused(&["patch", "pod", "p", "--subresource=ephemeralcontainers", "--type=json", removed])?;
    contains(&said, "may not be removed")?;

    // A copy, whose containers see each other's processes.
    ns.kubectl(&["debug", "p", &image, "--copy-to=copy", "-c", "beside", "--", "sleep", "1000"])?;
    ns.ready("copy")?;
    contains(&ns.kubectl(&["exec", "copy", "-c", "beside", "--", "busybox", "ps"])?, "sleep 54321")?;
    ns.kubectl(&["delete", "pod", "p", "copy", "--wait=true", "--timeout=60s"]).map(drop)
}

pub fn a_node_is_debugged(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("debug-node")?;
    let node = format!("node/{}", cluster.node(1));
    let image = format!("--image={TOOLS}");
    let command = "busybox ps | grep -c containerd; ls /host/etc | grep -c hosts; echo looked";
    let said = ns.kubectl_with(&["debug", "-i", &node, &image, "--", "sh", "-c", command], "")?.ok("debug node")?;
    let pods = ns.get(&["pods"])?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    wait_until("it is done", SOON, || Ok(ns.field(&format!("pod/{pod}"), "{.status.phase}")? == "Succeeded"))?;
    let log = ns.kubectl(&["logs", &pod])?;
    contains(&log, "looked")?;
    if log.starts_with('0') { Err(format!("no process of the node is seen: {log} {said}")) } else { Ok(()) }
}

pub fn a_running_pod_is_resized(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("resize")?;
    sleeper(
        &ns,
        "resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]",
    )?;
    let resize = |resources: &str| {
        let patch = format!("{{\"spec\": {{\"containers\": [{{\"name\": \"main\", \"resources\": {resources}}}]}}}}");
        ns.try_kubectl(&["patch", "pod", "p", "--subresource=resize", "--patch", &patch])
    };
    let quota =
        || ns.shell("p", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu*/cpu.cfs_quota_us 2>/dev/null | head -1");
    contains(&quota()?, "10000")?;
    resize("{\"requests\": {\"cpu\": \"100m\"}, \"limits\": {\"cpu\": \"200m\"}}")?.ok("resize")?;
    let actual = "{.status.containerStatuses[0].resources.limits.cpu}";
    wait_until("the node grants it", SOON, || Ok(ns.field("pod/p", actual)? == "200m"))?;
    contains(&quota()?, "20000")?;
    same(ns.field("pod/p", "{.status.containerStatuses[0].restartCount}")?, "0".to_owned(), "restarts")?;
    wait_until("it is told", SOON, || {
        let events = ns.kubectl(&["get", "events"])?;
        Ok(events.contains("Pod resize started") && events.contains("Pod resize completed"))
    })?;
    let generations = "{.metadata.generation} {.status.observedGeneration}";
    wait_until("its generation is seen", SOON, || Ok(ns.field("pod/p", generations)? == "2 2"))?;

    resize("{\"limits\": {\"memory\": \"96Mi\"}}")?.ok("resize")?;
    let restarts = "{.status.containerStatuses[0].restartCount}";
    wait_until("it is restarted for that", SOON, || Ok(ns.field("pod/p", restarts)? == "1"))?;
    ns.ready("p")?;

    resize("{\"requests\": {\"cpu\": \"10000\"}, \"limits\": {\"cpu\": \"10000\"}}")?.ok("resize")?;
    let reason = "{.status.conditions[?(@.type==\"PodResizePending\")].reason}";
    wait_until("that is too much", SOON, || Ok(ns.field("pod/p", reason)? == "Infeasible"))?;
    same(ns.field("pod/p", actual)?, "200m".to_owned(), "what it has")?;
    let class = resize("{\"requests\": {\"cpu\": \"200m\", \"memory\": \"96Mi\"}, \"limits\": {\"cpu\": \"200m\"}}")?;
    contains(&class.failed("a change of class")?, "Pod QOS Class may not change as a result of resizing")
}
