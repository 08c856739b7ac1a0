//! Scheduling, and what happens when parts die.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_for, wait_until};
use crate::workloads::web;

fn nodes_of(ns: &Namespace, app: &str) -> Result<Vec<String>> {
    let path = "jsonpath={.items[*].spec.nodeName}";
    let list = ns.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", path])?;
    Ok(list.split_whitespace().map(Into::into).collect())
}

pub fn pods_are_placed(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("placing")?;
    ns.apply(&web("web", 3, ""))?;
    ns.rolled_out("web")?;
    let mut nodes = nodes_of(&ns, "web")?;
    nodes.sort();
    nodes.dedup();
    same(nodes.len(), 3, "nodes that three replicas are spread over")?;
    let pod = |name: &str, spec: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {spec}
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: {TOOLS}, command: [sleep, '1000'], resources: {{requests: {{cpu: REQUEST}}}}}}]
"
        )
    };
    let node = cluster.node(2);
    let selected = format!("nodeSelector: {{kubernetes.io/hostname: {node}}}");
    ns.apply(&pod("chosen", &selected).replace("REQUEST", "1m"))?;
    ns.ready("chosen")?;
    same(ns.field("pod/chosen", "{.spec.nodeName}")?, node, "the node that was asked for")?;
    ns.apply(&pod("huge", "").replace("REQUEST", "'10000'"))?;
    wait_until("it is said why", SOON, || {
        let described = ns.kubectl(&["describe", "pod", "huge"])?;
        Ok(described.contains("0/3 nodes are available") && described.contains("Insufficient cpu"))
    })?;
    contains(&ns.kubectl(&["get", "pod", "huge"])?, "Pending")
}

pub fn cordon_taint_and_drain(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("drain")?;
    let node = cluster.node(3);
    ns.apply(&web("web", 3, ""))?;
    ns.rolled_out("web")?;
    let result = (|| {
        contains(&ns.kubectl(&["cordon", &node])?, "cordoned")?;
        contains(&ns.kubectl(&["get", "node", &node])?, "SchedulingDisabled")?;
        contains(
            &ns.kubectl(&[
                "drain",
                &node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--force",
                "--timeout=60s",
                "--pod-selector=app=web",
            ])?,
            "drained",
        )?;
        ns.rolled_out("web")?;
        let nodes = nodes_of(&ns, "web")?;
        if nodes.contains(&node) { Err(format!("pods on a drained node: {nodes:?}")) } else { Ok(()) }
    })();
    contains(&ns.kubectl(&["uncordon", &node])?, "uncordoned")?;
    result
}

/// The condition Ready of a node: True, False or Unknown.
fn ready(cluster: &Cluster, node: &str) -> Result<String> {
    let node = cluster.get(&["node", node])?;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").map(|c| c["status"].clone());
    Ok(ready.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Kills processes on a node whose command line matches.
/// Kills what runs on a node by a command like this.
pub fn kill_on(cluster: &Cluster, node: &str, pattern: &str) -> Result {
    cluster.on_node(node, &["pkill", "-KILL", "-f", pattern])?.ok("pkill").map(drop)
}

pub fn the_agent_comes_back(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("agent")?;
    let node = cluster.node(1);
    ns.client("server", Some(&node))?;
    ns.client("client", Some(&cluster.node(2)))?;
    let server = "import socket
s = socket.create_server(('0.0.0.0', 7000)); c, _ = s.accept()
while True:
    d = c.recv(100)
    if not d: break
    c.sendall(d)";
    let _server = ns.spawn(&["exec", "server", "--", "python3", "-c", server])?;
    let ip = ns.field("pod/server", "{.status.podIP}")?;
    // A connection that lives through the agent's death: it echoes a line each time the file appears.
    let client = format!(
        "import socket, time, os
for _ in range(200):
    try: s = socket.create_connection(('{ip}', 7000), 5); break
    except OSError: time.sleep(0.05)
open('/connected', 'w').close()
while not os.path.exists('/again'): time.sleep(0.05)
s.sendall(b'still here'); open('/answer', 'wb').write(s.recv(100))"
    );
    ns.kubectl(&[
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        &format!("cat > /client.py <<'X'\n{client}\nX\npython3 /client.py </dev/null >/dev/null 2>&1 &"),
    ])?;
    wait_until("it is connected", SOON, || Ok(ns.shell("client", "test -e /connected && echo yes").is_ok()))?;
    let before = ns.field("pod/server", "{.status.containerStatuses[0].containerID}")?;
    kill_on(cluster, &node, "xebec agent")?;
    ns.shell("client", "touch /again")?;
    wait_until("the connection answers", SOON, || {
        Ok(ns.shell("client", "cat /answer").is_ok_and(|a| a == "still here"))
    })?;
    wait_until("the agent answers again", SOON, || Ok(ns.shell("server", "echo ok").is_ok_and(|o| o == "ok\n")))?;
    let pod = ns.get(&["pod", "server"])?;
    same(
        pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default(),
        &before,
        "the same container",
    )?;
    same(pod["status"]["containerStatuses"][0]["restartCount"].as_u64(), Some(0), "restarts")
}

pub fn containerd_comes_back(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("containerd")?;
    let node = cluster.node(3);
    ns.client("before", Some(&node))?;
    kill_on(cluster, &node, "containerd --config")?;
    wait_until("the pod can be used", SOON, || Ok(ns.shell("before", "echo ok").is_ok_and(|o| o == "ok\n")))?;
    same(ns.field("pod/before", "{.status.containerStatuses[0].restartCount}")?.as_str(), "0", "restarts")?;
    ns.client("after", Some(&node))?;
    wait_until("the node is ready", SOON, || Ok(ready(cluster, &node)? == "True"))
}

pub fn the_server_comes_back(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("server")?;
    ns.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"])?;
    ns.client("client", None)?;
    let pid = cluster.pid("server")?;
    crate::harness::run(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]), None)?.ok("kill")?;
    wait_until("it answers again", SOON, || Ok(cluster.kubectl(&["get", "--raw", "/readyz"])?.status.success()))?;
    same(ns.field("configmap/kept", "{.data.a}")?.as_str(), "1", "what was written before")?;
    ns.shell("client", "true")?;
    ns.apply(&web("web", 1, ""))?;
    ns.rolled_out("web")
}

pub fn a_node_crashes_and_comes_back(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("crash-node")?;
    let node = cluster.node(2);
    ns.apply(&web("web", 3, ""))?;
    ns.rolled_out("web")?;
    // PID 1 of the node's namespace, from outside of it.
    let pid = cluster.pid(&node)?;
    crate::harness::run(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]), None)?.ok("kill")?;
    wait_until("all replicas are ready again", Duration::from_secs(120), || {
        let pods = ns.get(&["pods", "-l", "app=web"])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        // The containers on that node were all killed: they were started again.
        let restarted = pods.iter().any(|p| {
            p["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0) || p["spec"]["nodeName"] != *node
        });
        Ok(restarted && pods.len() == 3 && ns.field("deployment/web", "{.status.readyReplicas}")? == "3")
    })?;
    wait_until("the node is ready", SOON, || Ok(ready(cluster, &node)? == "True"))
}

/// A node whose agent gives no sign of life is dead to the cluster.
pub fn pods_leave_a_dead_node(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("dead-node")?;
    let node = cluster.node(3);
    let soon = |key: &str| format!("{{key: {key}, operator: Exists, effect: NoExecute, tolerationSeconds: 2}}");
    let tolerations = format!(
        "terminationGracePeriodSeconds: 1\n      tolerations: [{}, {}]",
        soon("node.kubernetes.io/unreachable"),
        soon("node.kubernetes.io/not-ready")
    );
    ns.apply(&web("web", 3, "").replace("terminationGracePeriodSeconds: 1", &tolerations))?;
    ns.rolled_out("web")?;
    let stop = |signal: &str| cluster.on_node(&node, &["pkill", signal, "-f", "xebec agent"])?.ok("pkill").map(drop);
    stop("-STOP")?;
    let result = (|| {
        wait_until("the node is not ready", Duration::from_secs(90), || Ok(ready(cluster, &node)? == "Unknown"))?;
        contains(&cluster.kubectl(&["get", "nodes"])?.ok("get nodes")?, "NotReady")?;
        wait_until("three replicas run elsewhere", Duration::from_secs(60), || {
            let pods = ns.get(&["pods", "-l", "app=web"])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let ready = |p: &&Value| {
                let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
                p["spec"]["nodeName"] != *node
                    && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            Ok(pods.iter().filter(ready).count() == 3)
        })
    })();
    stop("-CONT")?;
    result?;
    wait_until("the node is ready again", SOON, || Ok(ready(cluster, &node)? == "True"))?;
    wait_until("what was left there is gone", SOON, || Ok(nodes_of(&ns, "web")?.iter().all(|n| *n != node)))
}

/// Nodes that are told to go through the tunnel do, under pods that run; told otherwise, they do not.
pub fn pods_reach_pods_through_a_tunnel(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("tunnel")?;
    for number in 1..=2 {
        ns.client(&format!("pod{number}"), Some(&cluster.node(number)))?;
    }
    let server = "import socket
s = socket.create_server(('0.0.0.0', 7000))
while True:
    c, peer = s.accept(); c.sendall(peer[0].encode() + b' ' * 100_000); c.close()";
    let _server = ns.spawn(&["exec", "pod2", "--", "python3", "-c", server])?;
    let client = format!(
        "import socket; s = socket.create_connection(('{}', 7000), 5)
data = b''
while (more := s.recv(65536)): data += more
print(len(data), data.split()[0].decode())",
        ns.field("pod/pod2", "{.status.podIP}")?
    );
    let seen_as = ns.field("pod/pod1", "{.status.podIP}")?;
    let talk = |way: &str| -> Result<u64> {
        let before = tunnelled(cluster)?;
        let seen = wait_for(&format!("pod1 reaches pod2, {way}"), SOON, || ns.python("pod1", &client).map(Some))?;
        same(seen, format!("{} {seen_as}", 100_000 + seen_as.len()), "what pod1 received")?;
        Ok(tunnelled(cluster)? - before)
    };
    same(talk("routed")?, 0, "packets through the tunnel while nodes are on one link")?;
    configure_agents(cluster, "tunnel: always\n")?;
    let result = wait_until("packets go through the tunnel", SOON, || Ok(talk("tunnelled")? > 0));
    configure_agents(cluster, "tunnel: auto\n")?;
    result?;
    wait_until("packets go by the link again", SOON, || Ok(talk("routed again")? == 0))
}

/// How many packets node 1 has sent into its tunnel.
fn tunnelled(cluster: &Cluster) -> Result<u64> {
    let links =
        cluster.on_node(&cluster.node(1), &["ip", "-j", "-s", "link", "show", "type", "vxlan"])?.ok("ip link")?;
    let links: Value = serde_json::from_str(&links).map_err(|e| format!("{links}: {e}"))?;
    Ok(links[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or(0))
}

fn configure_agents(cluster: &Cluster, yaml: &str) -> Result {
    let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    std::fs::write(file.path(), yaml).map_err(|e| e.to_string())?;
    cluster.up(&["--agent-config", &file.path().to_string_lossy()])
}
