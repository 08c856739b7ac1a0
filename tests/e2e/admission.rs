//! What is admitted, as kubectl shows it.

use std::sync::Arc;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, same, wait_until};

pub fn quotas_hold(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("quota")?;
    contains(
        &ns.kubectl(&["create", "quota", "few", "--hard=pods=2,requests.cpu=1,count/configmaps=3"])?,
        "resourcequota/few created",
    )?;
    // The cluster's root certificates are a ConfigMap of each namespace.
    wait_until("what is there is counted", SOON, || {
        Ok(ns.field("resourcequota/few", "{.status.used.count/configmaps}")? == "1")
    })?;
    let run = |name: &str, cpu: &str| {
        let overrides = format!(
            r#"{{"spec":{{"containers":[{{"name":"{name}","image":"{TOOLS}","command":["sleep","100000"],"resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}}}"#
        );
        ns.try_kubectl(&["run", name, &format!("--image={TOOLS}"), &format!("--overrides={overrides}")])
    };
    let unsaid = ns.refused(&["run", "a", &format!("--image={TOOLS}")])?;
    contains(&unsaid, "pods \"a\" is forbidden: failed quota: few: must specify requests.cpu for: a")?;
    run("a", "600m")?.ok("the first pod")?;
    let exceeding = run("b", "600m")?.failed("too much")?;
    contains(
        &exceeding,
        "pods \"b\" is forbidden: exceeded quota: few, requested: requests.cpu=600m, used: requests.cpu=600m, limited: \
         requests.cpu=1",
    )?;
    run("b", "100m")?.ok("the second pod")?;
    let third = run("c", "100m")?.failed("the third pod")?;
    contains(&third, "exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2")?;
    let table = ns.kubectl(&["get", "quota"])?;
    contains(&table, "REQUEST")?;
    contains(&table, "pods: 2/2, requests.cpu: 700m/1")?;
    contains(&ns.kubectl(&["describe", "quota", "few"])?, "pods")?;

    // What goes makes room.
    ns.kubectl(&["delete", "pod", "a", "--wait=true", "--grace-period=1"])?;
    wait_until("the pod's share is free again", SOON, || {
        Ok(ns.field("resourcequota/few", "{.status.used.pods}")? == "1")
    })?;
    run("c", "600m")?.ok("there is room again")?;
    ns.kubectl(&["create", "configmap", "one"])?;
    ns.kubectl(&["create", "configmap", "two"])?;
    contains(&ns.refused(&["create", "configmap", "three"])?, "exceeded quota: few, requested: count/configmaps=1")?;
    ns.kubectl(&["delete", "configmap", "one"])?;
    wait_until("its place is free again", SOON, || {
        Ok(ns.field("resourcequota/few", "{.status.used.count/configmaps}")? == "2")
    })
}

pub fn pods_keep_to_their_namespaces_standard(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("standard")?;
    let name = ns.name.clone();
    ns.client("host", None)?;
    let label = |level: &str| {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        ns.try_kubectl(&["label", "--overwrite", "namespace", &name, &label])
    };
    let labelled = label("restricted")?;
    contains(
        &labelled.err,
        &format!(
            "existing pods in namespace \"{name}\" violate the new PodSecurity enforce level \"restricted:latest\""
        ),
    )?;
    contains(&labelled.err, "host: allowPrivilegeEscalation != false, unrestricted capabilities")?;
    labelled.ok("label")?;
    let refused = ns.refused(&["run", "web", &format!("--image={TOOLS}")])?;
    contains(
        &refused,
        "pods \"web\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
         (container \"web\" must set securityContext.allowPrivilegeEscalation=false)",
    )?;
    let warned =
        ns.try_kubectl(&["create", "deployment", "web", &format!("--image={TOOLS}"), "--", "sleep", "1000"])?;
    contains(&warned.err, "Warning: would violate PodSecurity \"restricted:latest\"")?;
    warned.ok("create deployment")?;
    wait_until("its pods are refused", SOON, || {
        let message = ns.field("deployment/web", "{.status.conditions[?(@.type=='ReplicaFailure')].message}")?;
        Ok(message.contains("violates PodSecurity"))
    })?;
    contains(&label("strict")?.failed("a level that is none")?, "must be one of privileged, baseline, restricted")?;
    label("privileged")?.ok("label")?;
    ns.rolled_out("web")?;
    same(ns.field("deployment/web", "{.status.readyReplicas}")?.as_str(), "1", "ready replicas")
}
