//! kubectl's server-side apply: managers, conflicts, coming over from client-side apply, diff, explain.

use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, TOOLS, contains, same};

fn deployment(replicas: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, labels: {{app: web}}}}
spec:
  {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {{name: main, image: '{image}', command: [sleep, '100000']}}
"
    )
}

/// The managers of the deployment, as `name/operation/subresource`, sorted.
fn managers(ns: &Namespace) -> Result<Vec<String>> {
    let object = ns.get(&["deployment", "web", "--show-managed-fields"])?;
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let names = list.iter().map(|e| [text(e, "manager"), text(e, "operation"), text(e, "subresource")].join("/"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

pub fn server_side_apply(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("apply")?;
    let apply = ["apply", "--server-side", "-f", "-"];
    let two = deployment("replicas: 2", TOOLS);
    contains(&ns.kubectl_with(&apply, &two)?.ok("apply")?, "deployment.apps/web serverside-applied")?;
    ns.rolled_out("web")?;
    let all = "kube-controller-manager/Update/ kube-controller-manager/Update/status kubectl/Apply/";
    same(managers(&ns)?.join(" ").as_str(), all, "managers")?;
    same(ns.get(&["deployment", "web"])?["metadata"]["managedFields"].is_null(), true, "kubectl hides them")?;

    ns.kubectl(&["scale", "deployment", "web", "--replicas=1"])?;
    let refused = ns.kubectl_with(&apply, &two)?.failed("apply")?;
    for part in [
        "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas",
        "Please review the fields above",
    ] {
        contains(&refused, part)?;
    }
    let forced = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    contains(&ns.kubectl_with(&forced, &two)?.ok("force")?, "serverside-applied")?;
    same(ns.field("deployment/web", "{.spec.replicas}")?, "2".to_owned(), "replicas")?;

    // Giving a field up to another manager: it keeps its value.
    let other = ["apply", "--server-side", "--field-manager=scaler", "-f", "-"];
    let only = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2}}";
    ns.kubectl_with(&other, only)?.ok("share")?;
    ns.kubectl_with(&apply, &deployment("", TOOLS))?.ok("give up")?;
    same(ns.field("deployment/web", "{.spec.replicas}")?, "2".to_owned(), "shared replicas")?;

    let diff = ["diff", "--server-side", "--field-manager=kubectl", "-f", "-"];
    let changed = ns.kubectl_with(&diff, &deployment("", "xebec.local/other:1"))?;
    same(changed.status.code(), Some(1), "the exit code of a difference")?;
    contains(&changed.out, "xebec.local/other:1")?;
    let same_again = ns.kubectl_with(&diff, &deployment("", TOOLS))?;
    same(same_again.status.code(), Some(0), "the exit code of no difference")?;
    contains(&ns.kubectl(&["explain", "deployment.spec.strategy.rollingUpdate"])?, "maxSurge")
}

pub fn from_client_side_to_server_side(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("migrate")?;
    let labelled = |labels: &str| {
        deployment("replicas: 0", TOOLS).replace("labels: {app: web}}\nspec", &format!("labels: {{{labels}}}}}\nspec"))
    };
    ns.apply(&labelled("app: web"))?;
    contains(&managers(&ns)?.join(" "), "kubectl-client-side-apply/Update/")?;
    // kubectl gives up taking over, and says nothing, where others wrote in between five times: the controller
    // has to be done.
    ns.rolled_out("web")?;
    let apply = ["apply", "--server-side", "-f", "-"];
    let printed = ns.kubectl_with(&apply, &labelled("app: web, tier: front"))?;
    let warned = printed.err.clone();
    contains(&printed.ok("come over")?, "serverside-applied")?;
    let labels = || ns.field("deployment/web", "{.metadata.labels}");
    same(labels()?.as_str(), r#"{"app":"web","tier":"front"}"#, "labels")?;
    let after = managers(&ns)?.join(" ");
    contains(&after, "kubectl/Apply/")?;
    if after.contains("kubectl-client-side-apply/Update/") {
        return Err(format!("kubectl did not take over what it had applied before: {after}; it warned: {warned}"));
    }
    // What it no longer applies goes, though it was applied on the client's side.
    ns.kubectl_with(&apply, &labelled("other: x"))?.ok("relabel")?;
    same(labels()?.as_str(), r#"{"other":"x"}"#, "labels")?;
    // And back.
    contains(&ns.apply(&labelled("app: web"))?, "configured")
}
