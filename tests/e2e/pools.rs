//! Pools of load balancer addresses as objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, SOON, contains, json, same, wait_until};
use crate::workloads::web;

const CLASS: &str = "example.com/e2e";

fn pool(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: net.xebec.io/v1alpha1\nkind: LoadBalancerPool\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
    )
}

fn balanced(name: &str, asks: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{xebec.io/load-balancer-ip: '{asks}'}}}}
spec:
  type: LoadBalancer
  loadBalancerClass: {CLASS}
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: http}}]
---
"
    )
}

fn has(ns: &Namespace, service: &str, address: &str) -> Result {
    wait_until(&format!("{service} has {address}"), SOON, || {
        Ok(ns.field(&format!("service/{service}"), "{.status.loadBalancer.ingress[*].ip}")? == address)
    })
}

pub fn pools_are_objects(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("pools")?;
    let mine = format!("namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}", ns.name);
    ns.apply(&pool("e2e-a", &format!("{{addresses: [192.0.2.10-192.0.2.11], loadBalancerClass: {CLASS}, {mine}}}")))?;
    ns.apply(&pool(
        "e2e-b",
        &format!("{{addresses: [192.0.2.64/30], autoAssign: false, loadBalancerClass: {CLASS}}}"),
    ))?;
    contains(&ns.apply_refused(&pool("e2e-bad", "{addresses: [somewhere]}"))?, "must be a network")?;
    ns.apply(&web("web", 2, ""))?;
    ns.rolled_out("web")?;

    ns.apply(&balanced("one", ""))?;
    has(&ns, "one", "192.0.2.10")?;
    ns.apply(&balanced("two", ""))?;
    has(&ns, "two", "192.0.2.11")?;
    // The pool is used up; the other gives to those who ask.
    ns.apply(&balanced("three", ""))?;
    let failed = |service: &str, message: &str| {
        wait_until(&format!("an event tells of {service}"), SOON, || {
            let field = format!("involvedObject.name={service},reason=SyncLoadBalancerFailed");
            Ok(ns.kubectl(&["get", "events", "--field-selector", &field])?.contains(message))
        })
    };
    failed("three", "No address is left")?;
    ns.apply(&balanced("three", "192.0.2.66"))?;
    has(&ns, "three", "192.0.2.66")?;
    ns.apply(&balanced("four", "192.0.2.66"))?;
    failed("four", "another service has it")?;

    // Pools tell how full they are, and which are not used.
    ns.apply(&pool("e2e-c", "{addresses: [192.0.2.66-192.0.2.70]}"))?;
    let shown = |name: &str, path: &str| ns.kubectl(&["get", "lbpool", name, "-o", &format!("jsonpath={path}")]);
    wait_until("the pools count", SOON, || {
        Ok(shown("e2e-a", "{.status.total} {.status.assigned}")? == "2 2"
            && shown("e2e-b", "{.status.total} {.status.assigned}")? == "2 1")
    })?;
    wait_until("a pool that overlaps another says so", SOON, || {
        Ok(shown("e2e-c", "{.status.conditions[0].reason}")? == "Overlap")
    })?;
    contains(&shown("e2e-c", "{.status.conditions[0].message}")?, "of pool e2e-b")?;
    contains(&ns.kubectl(&["get", "lbpool"])?, "ASSIGNED")?;

    // A node answers for the address, and what comes there arrives.
    wait_until("the address is served", SOON, || {
        let traced = cluster.xebec_named(&[
            "trace",
            "--from",
            "outside",
            "--to",
            "192.0.2.10:80",
            "--source",
            "198.51.100.7",
        ])?;
        Ok(traced.status.success() && traced.out.contains("delivered to pod"))
    })?;
    ns.kubectl(&["delete", "service", "one"])?;
    wait_until("what is given back is free", SOON, || Ok(shown("e2e-a", "{.status.assigned}")? == "1"))?;
    ns.kubectl(&["delete", "service", "two", "three", "four"])?;
    let deleted = ns.kubectl(&["delete", "lbpool", "e2e-a", "e2e-b", "e2e-c"])?;
    same(deleted.lines().count(), 3, "pools are deleted")
}

/// The numbers of the nodes that answer for an address.
fn answering(cluster: &Cluster, address: &str) -> Result<BTreeSet<u32>> {
    let mut out = BTreeSet::new();
    for number in 1..=3 {
        let path = format!("/api/v1/nodes/{}/proxy/xebec/network", cluster.node(number));
        let network = json(&cluster.kubectl(&["get", "--raw", &path])?.ok("network")?)?;
        let announced = network["announced"].as_array().cloned().unwrap_or_default();
        if announced.iter().any(|ip| ip == address) {
            out.insert(number);
        }
    }
    Ok(out)
}

pub fn pools_have_nodes(cluster: &Arc<Cluster>) -> Result {
    const ADDRESS: &str = "192.0.2.96";
    let ns = cluster.namespace("pool-nodes")?;
    let mine = format!("namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}", ns.name);
    let with = |nodes: &str| {
        pool(
            "e2e-n",
            &format!("{{addresses: [{ADDRESS}-{ADDRESS}], loadBalancerClass: {CLASS}, {mine}, nodeSelector: {nodes}}}"),
        )
    };
    for (odd, why) in [
        ("{matchExpressions: [{key: e2e-pool, operator: Is, values: [a]}]}", "Unsupported value"),
        ("{matchExpressions: [{key: e2e-pool, operator: In}]}", "values must be given for the operators In and NotIn"),
        ("{matchExpressions: [{key: e2e-pool, operator: Exists, values: [a]}]}", "and for no others"),
        ("{matchExpressions: [{key: 'a b', operator: Exists}]}", "should match"),
        ("{matchLabels: {'a b': c}}", "each key must be the name of a label"),
        ("{matchLabels: {e2e-pool: 'a b'}}", "should match"),
    ] {
        contains(&ns.apply_refused(&with(odd))?, why)?;
    }
    ns.apply(&with("{matchLabels: {e2e-pool: 'yes'}}"))?;
    ns.apply(&web("web", 1, ""))?;
    ns.rolled_out("web")?;
    ns.apply(&balanced("web", ""))?;
    has(&ns, "web", ADDRESS)?;

    // No node matches: the service keeps its address, and it is said that nobody answers.
    let state = || {
        ns.kubectl(&["get", "lbpool", "e2e-n", "-o", "jsonpath={.status.conditions[?(@.type==\"Answered\")].reason}"])
    };
    wait_until("the pool says that it has no node", SOON, || Ok(state()? == "NoNode"))?;
    wait_until("the service is told", SOON, || {
        let field = "involvedObject.name=web,reason=NoNode";
        Ok(ns
            .kubectl(&["get", "events", "--field-selector", field])?
            .contains("matches the nodeSelector of pool e2e-n"))
    })?;
    same(answering(cluster, ADDRESS)?, BTreeSet::new(), "nodes that answer")?;

    let label =
        |number: u32, label: &str| cluster.kubectl(&["label", "node", &cluster.node(number), label])?.ok("label");
    let answers = |numbers: &[u32]| {
        let wanted: BTreeSet<u32> = numbers.iter().copied().collect();
        wait_until(&format!("{numbers:?} answer"), SOON, || Ok(answering(cluster, ADDRESS)? == wanted))
    };
    label(2, "e2e-pool=yes")?;
    answers(&[2])?;
    wait_until("the pool says that it has a node", SOON, || Ok(state()? == "NodesMatch"))?;
    contains(&ns.kubectl(&["get", "lbpool", "e2e-n", "-o", "wide"])?, "e2e-pool")?;
    label(3, "e2e-pool=yes")?;
    label(2, "e2e-pool-")?;
    answers(&[3])?;
    label(3, "e2e-pool-")?;
    answers(&[])?;
    same(
        ns.field("service/web", "{.status.loadBalancer.ingress[*].ip}")?.as_str(),
        ADDRESS,
        "the address that it keeps",
    )?;

    // Without nodes of its own, any node does.
    ns.kubectl(&["patch", "lbpool", "e2e-n", "--type=merge", "-p", r#"{"spec":{"nodeSelector":null}}"#])?;
    wait_until("a node answers", SOON, || Ok(answering(cluster, ADDRESS)?.len() == 1))?;
    ns.kubectl(&["delete", "service", "web"])?;
    ns.kubectl(&["delete", "lbpool", "e2e-n"]).map(drop)
}
