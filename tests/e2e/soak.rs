//! Pods, services, policies and nodes come and go, and afterwards nothing is left of them on the nodes. With
//! `XEBEC_SOAK_ROUNDS=40` that goes on for about ten minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, Result, SOON, wait_until};
use crate::workloads::web;

/// How many rounds of coming and going there are, if not [`ROUNDS`].
const ROUNDS_VARIABLE: &str = "XEBEC_SOAK_ROUNDS";
const ROUNDS: u32 = 3;
/// In how many rounds a node comes and goes once.
const NODE_ROUNDS: u32 = 4;
/// What an agent may grow by, in KiB of resident memory, for good: allocators keep some.
const GROWTH_KIB: u64 = 16_384;

/// Policies with identities, blocks and rules of their own.
const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some}
spec:
  podSelector: {}
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}, {ipBlock: {cidr: 0.0.0.0/0, except: [198.51.100.0/24]}}]
    ports: [{port: http}, {port: 9000, endPort: 9100}]
";

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holdings {
    /// Pods' interfaces.
    links: usize,
    /// Routes to pods.
    routes: usize,
    /// Network namespaces that pods are pinned by.
    namespaces: usize,
    /// Links of BPF programs, pinned.
    programs: usize,
    /// Pods' addresses.
    leases: usize,
    /// What services are reached by from outside, in the kernel.
    frontends: usize,
}

/// What an agent has.
#[derive(Clone, Debug)]
struct Agent {
    sockets: usize,
    memory_kib: u64,
}

fn lines(cluster: &Cluster, node: &str, command: &str) -> Result<Vec<String>> {
    let out = cluster.on_node(node, &["sh", "-c", command])?.ok(command)?;
    Ok(out.lines().map(str::to_owned).collect())
}

fn holdings(cluster: &Cluster, node: &str) -> Result<Holdings> {
    let count = |command: &str| lines(cluster, node, command).map(|lines| lines.len());
    let leases = cluster.state().join("nodes").join(node).join("agent/leases");
    let leases = match std::fs::read_dir(&leases) {
        Ok(files) => files.flatten().map(|file| file.file_name().to_string_lossy().into_owned()).collect(),
        // The node has not had a pod yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("{}: {error}", leases.display())),
    };
    let listed = cluster.xebec_named(&["service", "list", "--json", "--node", node])?.ok("service list")?;
    let listed: Value = serde_json::from_str(&listed).map_err(|e| format!("service list: {e}"))?;
    let frontends = listed[node].as_array().ok_or_else(|| format!("no services of {node}: {listed}"))?;
    Ok(Holdings {
        links: count("ip -o link | grep ': xb[0-9a-f]\\{13\\}' || true")?,
        routes: count("ip route | grep 'dev xb[0-9a-f]\\{13\\}' || true")?,
        namespaces: count("find /run/xebec-agent -name '*-*-*-*-*' -maxdepth 3 | sort || true")?,
        programs: count("find /sys/fs/bpf -name '*xb[0-9a-f]*' | sort || true")?,
        // Beside the folder's lock.
        leases: leases.iter().filter(|name| name.contains('@')).count(),
        frontends: frontends.iter().filter(|frontend| frontend["scope"] == "external").count(),
    })
}

/// How many entries the kernel's maps have that hold what there is, by the maps' names.
fn entries(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, u64>> {
    let path = format!("/api/v1/nodes/{node}/proxy/xebec/network");
    let network = cluster.kubectl(&["get", "--raw", &path])?.ok("the node's network")?;
    let network: Value = serde_json::from_str(&network).map_err(|e| format!("{network}: {e}"))?;
    let entries: BTreeMap<String, u64> =
        serde_json::from_value(network["entries"].clone()).map_err(|e| format!("{network}: {e}"))?;
    if entries.contains_key("BACKENDS") { Ok(entries) } else { Err(format!("no entries: {network}")) }
}

/// A fourth node.
fn a_node_comes_and_goes(cluster: &Cluster) -> Result {
    cluster.up(&["--nodes", "4"])?;
    cluster.up(&["--nodes", "3"])?;
    let node = cluster.node(4);
    wait_until("the node is gone", SOON, || Ok(!cluster.kubectl(&["get", "node", &node])?.status.success()))
}

fn agent(cluster: &Cluster, node: &str) -> Result<Agent> {
    let pid = "pid=$(pgrep -o -f 'xebec agent')";
    let sockets = lines(cluster, node, &format!("{pid}; ls -l /proc/$pid/fd | grep socket: || true"))?.len();
    let memory = lines(cluster, node, &format!("{pid}; awk '/VmRSS/ {{print $2}}' /proc/$pid/status"))?;
    let memory_kib = memory.first().and_then(|text| text.parse().ok()).ok_or("the agent's memory")?;
    Ok(Agent { sockets, memory_kib })
}

pub fn nothing_is_left(cluster: &Arc<Cluster>) -> Result {
    let rounds = match std::env::var(ROUNDS_VARIABLE) {
        Ok(text) => text.parse().map_err(|e| format!("{ROUNDS_VARIABLE}={text}: {e}"))?,
        Err(_) => ROUNDS,
    };
    let nodes: Vec<String> = (1..=3).map(|number| cluster.node(number)).collect();
    let entries = || nodes.iter().map(|node| entries(cluster, node)).collect::<Result<Vec<_>>>();
    let of_all = || nodes.iter().map(|node| holdings(cluster, node)).collect::<Result<Vec<_>>>();
    let nothing = || -> Result<bool> {
        let held = of_all()?;
        let empty = held.iter().all(|node| *node == Holdings::default());
        if empty { Ok(true) } else { Err(format!("{held:?}")) }
    };
    // Other tests' pods are on their way out, and some of them take their grace period. Without a pod in the cluster,
    // a node has nothing.
    wait_until("the pods of other tests are gone", SOON * 2, || {
        Ok(cluster.get(&["pods", "--all-namespaces"])?["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    wait_until("the nodes have nothing of them", SOON, nothing)?;
    // The cluster's own services and nodes have some; and maybe other tests' services that are on their way out.
    let entries_before = entries()?;
    churn(cluster)?;
    let agents_before = nodes.iter().map(|node| agent(cluster, node)).collect::<Result<Vec<_>>>()?;
    for round in 0..rounds {
        churn(cluster)?;
        if round % NODE_ROUNDS == 0 {
            a_node_comes_and_goes(cluster)?;
        }
    }
    wait_until("the nodes have nothing left", SOON, nothing)?;
    wait_until("their maps hold no more than they held", SOON, || {
        let now = entries()?;
        let is_more = |(old, new): (&BTreeMap<String, u64>, &BTreeMap<String, u64>)| {
            new.iter().any(|(map, count)| old.get(map).is_none_or(|before| count > before))
        };
        if !entries_before.iter().zip(&now).any(is_more) {
            return Ok(true);
        }
        Err(format!("{entries_before:?} before, {now:?} now"))
    })?;
    for (node, old) in nodes.iter().zip(agents_before) {
        wait_until("the agent has no more sockets and hardly more memory", Duration::from_secs(40), || {
            let new = agent(cluster, node)?;
            let good = new.sockets <= old.sockets + 4 && new.memory_kib <= old.memory_kib + GROWTH_KIB;
            if good { Ok(true) } else { Err(format!("{node}: {old:?} before, {new:?} now")) }
        })?;
    }
    Ok(())
}

/// Deployments with services, under policies, scaled, rolled, and deleted with their namespace.
fn churn(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("soak")?;
    let name = ns.name.clone();
    ns.apply(POLICY)?;
    for app in ["a", "b"] {
        ns.apply(&web(app, 3, ""))?;
        ns.kubectl(&[
            "expose",
            &format!("deployment/{app}"),
            "--port=80",
            "--target-port=http",
            "--type=LoadBalancer",
        ])?;
    }
    for app in ["a", "b"] {
        ns.rolled_out(app)?;
        ns.kubectl(&["scale", &format!("deployment/{app}"), "--replicas=5"])?;
        ns.kubectl(&["set", "env", &format!("deployment/{app}"), "ROUND=2"])?;
    }
    for app in ["a", "b"] {
        ns.rolled_out(app)?;
    }
    drop(ns);
    wait_until("the namespace is gone", SOON, || Ok(!cluster.kubectl(&["get", "namespace", &name])?.status.success()))
}
