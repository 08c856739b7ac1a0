//! Pools of load balancer addresses as objects.

use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, SOON, contains, same, wait_until};
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
