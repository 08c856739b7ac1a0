//! Looking into the network: traces of made-up packets, connect times, and what of it the API shows.

use std::sync::Arc;

use serde_json::Value;

use crate::harness::{Cluster, Namespace, Printed, Result, SOON, contains, same, wait_until};
use crate::workloads::web;

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}, {name: other, protocol: SCTP, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: web}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: http}]}
";

fn trace_of(cluster: &Cluster, from: &str, to: &str) -> Result<(bool, Value)> {
    trace_by("tcp", cluster, from, to)
}

fn trace_by(protocol: &str, cluster: &Cluster, from: &str, to: &str) -> Result<(bool, Value)> {
    let printed = cluster.xebec_named(&["trace", "--protocol", protocol, "--from", from, "--to", to, "--json"])?;
    let value = serde_json::from_str(&printed.out).map_err(|e| format!("{e}: {}{}", printed.out, printed.err))?;
    Ok((printed.status.success(), value))
}

/// Every decision on the way: `PROGRAM:WHAT`.
fn decisions(trace: &Value) -> Vec<String> {
    let hops = trace["nodes"].as_array().into_iter().flatten().flat_map(|node| node["hops"].as_array()).flatten();
    hops.flat_map(|hop| {
        let what = hop["decisions"].as_array().into_iter().flatten();
        what.map(|d| format!("{}:{}", hop["program"].as_str().unwrap_or(""), d["what"].as_str().unwrap_or("")))
    })
    .collect()
}

fn expect(found: &[String], wanted: &[&str], trace: &Value) -> Result {
    match wanted.iter().find(|wanted| !found.iter().any(|f| f == *wanted)) {
        Some(missing) => Err(format!("no {missing} among {found:?}: {trace:#}")),
        None => Ok(()),
    }
}

/// What the kernels have counted for a service, on all nodes.
fn connections(cluster: &Cluster, service: &str) -> Result<u64> {
    let shown = cluster.xebec_named(&["service", "show", service, "--json"])?.ok("service show")?;
    let lines: Value = serde_json::from_str(&shown).map_err(|e| format!("{e}: {shown}"))?;
    Ok(lines.as_array().into_iter().flatten().filter_map(|line| line["connections"].as_u64()).sum())
}

pub fn set_up(cluster: &Arc<Cluster>, test: &str) -> Result<Namespace> {
    let ns = cluster.namespace(test)?;
    ns.apply(SERVICES)?;
    ns.apply(&web("web", 3, ""))?;
    ns.client("client", Some(&cluster.node(1)))?;
    ns.rolled_out("web")?;
    Ok(ns)
}

pub fn packets_are_traced(cluster: &Arc<Cluster>) -> Result {
    let ns = set_up(cluster, "trace")?;
    let (client, web) = (format!("{}/client", ns.name), format!("{}/web:http", ns.name));
    let service = format!("{}/web", ns.name);
    wait_until("every node has the service", SOON, || {
        Ok(cluster.xebec_named(&["service", "show", &service])?.status.success())
    })?;
    let before = connections(cluster, &service)?;

    // From a pod, as often as it takes to meet an endpoint on another node and one on its own.
    let (mut here, mut there) = (false, false);
    wait_until("endpoints on the pod's node and on others are met", SOON, || {
        let (arrives, trace) = trace_of(cluster, &client, &web)?;
        let found = decisions(&trace);
        expect(&found, &["connect:service", "connect:backend", "pod_egress:not-selected"], &trace)?;
        same(arrives, true, "the packet arrives")?;
        let nodes = trace["nodes"].as_array().map_or(0, Vec::len);
        for hop in trace["nodes"].as_array().into_iter().flatten().flat_map(|n| n["hops"].as_array()).flatten() {
            same(hop["attached"] == Value::Bool(false), false, "the attached program is the one that ran")?;
        }
        if nodes == 1 {
            expect(&found, &["pod_egress:to-pod"], &trace)?;
            here = true;
        } else {
            expect(&found, &["pod_egress:to-neighbour", "uplink_ingress:to-pod"], &trace)?;
            there = true;
        }
        Ok(here && there)
    })?;

    // From outside, to the node port; from a node; to an address.
    let (arrives, outside) = trace_of(cluster, "outside", &web)?;
    same(arrives, true, "the packet from outside arrives")?;
    expect(&decisions(&outside), &["uplink_ingress:service", "uplink_ingress:backend"], &outside)?;
    driver_is_told_of(cluster, &outside)?;
    let (arrives, node) = trace_of(cluster, &cluster.node(2), &web)?;
    same(arrives, true, "the node's packet arrives")?;
    expect(&decisions(&node), &["connect:backend"], &node)?;
    let (arrives, world) = trace_of(cluster, &client, "203.0.113.1:443")?;
    same(arrives, true, "the packet leaves")?;
    expect(&decisions(&world), &["uplink_egress:source"], &world)?;
    let text = cluster.xebec_named(&["trace", "--from", &client, "--to", &web])?.ok("trace")?;
    contains(&text, &format!("the destination is service {}/web", ns.name))?;
    contains(&text, "no policy selects the pod for egress")?;

    // With session affinity it meets the endpoint that the pod has met.
    let met = ns.python(
        "client",
        "import urllib.request as u; print(u.urlopen('http://sticky', timeout=5).read().decode().strip())",
    )?;
    let ip = ns.field(&format!("pod/{met}"), "{.status.podIP}")?;
    let (_, sticky) = trace_of(cluster, &client, &format!("{}/sticky:80", ns.name))?;
    expect(&decisions(&sticky), &["connect:affinity"], &sticky)?;
    contains(&sticky["nodes"][0]["hops"][0]["result"]["destination"].to_string(), &format!("{ip}:8080"))?;

    associations_are_traced(cluster, &ns, &client)?;
    same(connections(cluster, &service)?, before, "traces are not counted")?;
    refusals(cluster, &ns, &client, &web)
}

/// Of SCTP no hook sees the socket: the service is found where the packet leaves the pod.
fn associations_are_traced(cluster: &Cluster, ns: &Namespace, client: &str) -> Result {
    ns.apply(
        "apiVersion: v1
kind: Service
metadata: {name: associations}
spec: {selector: {app: web}, ports: [{protocol: SCTP, port: 90, targetPort: 9000}]}
",
    )?;
    wait_until("the client's node has the service", SOON, || {
        let (arrives, sctp) = trace_by("sctp", cluster, client, &format!("{}/associations:90", ns.name))?;
        same(arrives, true, "the association's first packet arrives")?;
        expect(&decisions(&sctp), &["pod_egress:service", "pod_egress:backend"], &sctp)?;
        same(&sctp["nodes"][0]["hops"][0]["decisions"][0]["slots"], &3.into(), "endpoints to choose from")?;
        Ok(true)
    })?;
    let (arrives, sctp) = trace_by("sctp", cluster, client, &format!("{}/empty:80", ns.name))?;
    same(arrives, false, "an association without endpoints")?;
    contains(&sctp["outcome"].to_string(), "no-backend; the client gets SCTP abort")
}

/// What the uplink's driver would do with the packets that follow, and that a veth pair's is left out; the status says so too.
fn driver_is_told_of(cluster: &Cluster, outside: &Value) -> Result {
    let driver = &outside["nodes"][0]["driver"];
    same(driver["forwards"].is_boolean(), true, "the driver's program has been asked")?;
    let status = cluster.xebec_named(&["status", "--json"])?.ok("status")?;
    let status: Value = serde_json::from_str(&status).map_err(|e| format!("{e}: {status}"))?;
    let node = cluster.node(1);
    let all = status[0]["components"].as_array().cloned().unwrap_or_default();
    let line = all.iter().find(|line| line["name"] == node.as_str()).ok_or_else(|| format!("no {node}: {status}"))?;
    for xdp in [&driver["xdp"], &line["xdp"]] {
        same((&xdp["inUse"], &xdp["driver"]), (&Value::Bool(false), &"veth".into()), "XDP")?;
        contains(xdp["reason"].as_str().unwrap_or_default(), "the driver veth receives no large segments")?;
    }
    Ok(())
}

/// Packets that do not arrive, and questions that make no sense.
fn refusals(cluster: &Arc<Cluster>, ns: &Namespace, client: &str, web: &str) -> Result {
    let (arrives, empty) = trace_of(cluster, client, &format!("{}/empty:80", ns.name))?;
    same(arrives, false, "a service without endpoints")?;
    contains(&empty["outcome"].to_string(), "no-backend; the client gets ECONNREFUSED")?;
    let (arrives, none) = trace_of(cluster, client, "10.96.255.254:80")?;
    same(arrives, false, "an address without service")?;
    contains(&none["outcome"].to_string(), "no-such-service; the client gets TCP reset")?;

    ns.apply(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
",
    )?;
    wait_until("the policy judges made-up packets too", SOON, || {
        let (arrives, denied) = trace_of(cluster, client, web)?;
        if arrives {
            return Ok(false);
        }
        contains(&denied["outcome"].to_string(), "policy-ingress")?;
        expect(&decisions(&denied), &["pod_ingress:denied"], &denied)?;
        contains(&denied["policies"].to_string(), &format!("NetworkPolicy {}/deny-all", ns.name))?;
        Ok(true)
    })?;
    let error = |from: &str, to: &str| {
        cluster.xebec_named(&["trace", "--from", from, "--to", to]).and_then(|printed: Printed| printed.failed("trace"))
    };
    contains(&error("nobody", web)?, "no pod nobody in namespace default, and no node of that name")?;
    contains(&error(client, "nothing:80")?, "no service nothing in namespace default")?;
    contains(&error(client, &format!("{}/web:81", ns.name))?, "has no port 81/TCP; it has 80 (http)/TCP")?;
    contains(&error(client, "[fd00::1]:80")?, "use addresses of one family")
}

/// Connect times, in the agents' metrics.
pub fn connections_are_timed(cluster: &Arc<Cluster>) -> Result {
    let ns = set_up(cluster, "times")?;
    let requests = "import urllib.request as u
for _ in range(20): u.urlopen('http://web', timeout=5).read()";
    ns.python("client", requests)?;
    let port = ns.field("service/web", "{.spec.ports[0].nodePort}")?;
    let node = ns.kubectl(&["get", "node", &cluster.node(2), "-o", "jsonpath={.status.addresses[0].address}"])?;
    for _ in 0..5 {
        crate::workloads::http_get(&format!("{}:{port}", node.trim()))?;
    }
    let metrics =
        |node: &str| cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")])?.ok("metrics");
    let count = |text: &str, from: &str| {
        let mine = |line: &&str| {
            line.starts_with("xebec_service_connect_duration_seconds_count{")
                && line.contains(&format!("namespace=\"{}\",service=\"web\"", ns.name))
                && line.contains(&format!("from=\"{from}\""))
        };
        text.lines().find(mine).and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    let inside = metrics(&cluster.node(1))?;
    same(count(&inside, "inside"), 20, "the pod's connections are timed, each once")?;
    contains(&inside, "xebec_service_connect_duration_seconds_bucket{")?;
    contains(&inside, "le=\"+Inf\"")?;
    contains(&inside, "xebec_dropped_packets_total{reason=\"policy-ingress\"}")?;
    let outside = metrics(&cluster.node(2))?;
    same(count(&outside, "outside"), 5, "the connections from outside are timed, each once")
}
