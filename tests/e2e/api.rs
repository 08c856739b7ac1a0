//! What kubectl says and prints.

use std::io::{BufRead, BufReader};
use std::sync::Arc;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, run, same, wait_for, wait_until};
use crate::workloads::web;

pub fn verbs(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("verbs")?;
    contains(
        &ns.kubectl(&["create", "deployment", "web", &format!("--image={TOOLS}"), "--", "sleep", "100000"])?,
        "created",
    )?;
    contains(&ns.kubectl(&["expose", "deployment", "web", "--port=80"])?, "service/web exposed")?;
    contains(&ns.kubectl(&["run", "one", &format!("--image={TOOLS}"), "--", "sleep", "100000"])?, "pod/one created")?;
    ns.ready("one")?;
    contains(&ns.kubectl(&["label", "pod", "one", "tier=front"])?, "labeled")?;
    contains(&ns.refused(&["label", "pod", "one", "tier=back"])?, "already has a value")?;
    contains(&ns.kubectl(&["get", "pods", "-l", "tier=front", "--show-labels"])?, "run=one,tier=front")?;
    contains(&ns.try_kubectl(&["get", "pods", "-l", "tier in (back)"])?.err, "No resources found")?;
    contains(&ns.kubectl(&["annotate", "pod", "one", "note=x"])?, "annotated")?;
    contains(
        &ns.kubectl(&[
            "patch",
            "pod",
            "one",
            "--type=json",
            "-p",
            r#"[{"op":"add","path":"/metadata/labels/a","value":"b"}]"#,
        ])?,
        "patched",
    )?;
    contains(
        &ns.kubectl(&["patch", "deployment", "web", "--type=merge", "-p", r#"{"spec":{"replicas":2}}"#])?,
        "patched",
    )?;
    ns.rolled_out("web")?;
    let edited = ns.kubectl_env(&["edit", "deployment", "web"], "KUBE_EDITOR", "sed -i /replicas:.2/s/2/1/")?;
    contains(&edited.ok("edit")?, "deployment.apps/web edited")?;
    wait_until("one is left", SOON, || Ok(ns.field("deployment/web", "{.status.replicas}")? == "1"))?;
    contains(&ns.kubectl(&["get", "all"])?, "replicaset.apps/web-")?;
    contains(&ns.kubectl(&["describe", "deployment", "web"])?, "ScalingReplicaSet")?;
    contains(&ns.kubectl(&["describe", "service", "web"])?, "Endpoints:")?;
    let described = ns.kubectl(&["describe", "pod", "one"])?;
    for part in ["Successfully assigned", "Container created", "Container started", "Node:", "QoS Class:"] {
        contains(&described, part)?;
    }
    contains(&ns.kubectl(&["api-resources"])?, "deployments")?;
    contains(&ns.kubectl(&["version"])?, "Server Version: v1.37")?;
    contains(&ns.kubectl(&["auth", "can-i", "create", "pods"])?, "yes")?;
    contains(&ns.kubectl(&["delete", "pod", "one", "--wait=true"])?, "deleted")?;
    contains(&ns.refused(&["get", "pod", "one"])?, "Error from server (NotFound): pods \"one\" not found")?;
    contains(&ns.refused(&["get", "nonsense"])?, "the server doesn't have a resource type \"nonsense\"")
}

pub fn tables(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("tables")?;
    ns.apply(&web("web", 1, ""))?;
    ns.kubectl(&["expose", "deployment", "web", "--port=80", "--target-port=http"])?;
    ns.rolled_out("web")?;
    let header = |what: &[&str]| -> Result<String> {
        let printed = ns.kubectl(what)?;
        Ok(printed.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "))
    };
    for (what, expected) in [
        (["get", "pods"].as_slice(), "NAME READY STATUS RESTARTS AGE"),
        (&["get", "pods", "-o", "wide"], "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"),
        (&["get", "deploy"], "NAME READY UP-TO-DATE AVAILABLE AGE"),
        (&["get", "rs"], "NAME DESIRED CURRENT READY AGE"),
        (&["get", "svc"], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"),
        (&["get", "svc", "-o", "wide"], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR"),
        (&["get", "nodes"], "NAME STATUS ROLES AGE VERSION"),
        (&["get", "ns"], "NAME STATUS AGE"),
        (&["get", "cm"], "NAME DATA AGE"),
        (&["get", "sa"], "NAME SECRETS AGE"),
        (&["get", "events"], "LAST SEEN TYPE REASON OBJECT MESSAGE"),
        (&["get", "endpointslices"], "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
    ] {
        same(header(what)?.as_str(), expected, &what.join(" "))?;
    }
    contains(&ns.kubectl(&["get", "deploy", "web"])?, "1/1")?;
    contains(&ns.kubectl(&["get", "pods", "-A"])?, "NAMESPACE")?;
    contains(&ns.kubectl(&["get", "pods", "-o", "yaml"])?, "apiVersion: v1\nitems:\n")?;
    contains(&ns.kubectl(&["get", "pods", "-o", "name"])?, "pod/web-")?;
    let nodes = ns.kubectl(&["get", "nodes"])?;
    same(nodes.matches(" Ready ").count(), 3, "nodes that are ready")
}

pub fn watching(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("watch")?;
    let mut watch = ns.spawn(&["get", "configmaps", "-w", "--output-watch-events"])?;
    let mut lines = BufReader::new(watch.0.stdout.take().ok_or("no output")?).lines();
    let mut until = |part: &str| {
        wait_for(&format!("the watch shows {part:?}"), SOON, || {
            let line = lines.next().ok_or("the watch ended")?.map_err(|e| e.to_string())?;
            let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
            Ok(words.starts_with(part).then_some(()))
        })
    };
    until("EVENT NAME DATA AGE")?;
    ns.kubectl(&["create", "configmap", "seen", "--from-literal=a=1"])?;
    until("ADDED seen 1")?;
    ns.kubectl(&["patch", "configmap", "seen", "-p", r#"{"data":{"b":"2"}}"#])?;
    until("MODIFIED seen 2")?;
    ns.kubectl(&["delete", "configmap", "seen"])?;
    until("DELETED seen 2")
}

pub fn wrong_input_is_refused(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("wrong")?;
    let deployment = web("web", 1, "");
    let cases = [
        (deployment.replace("replicas: 1", "replica: 1"), "strict decoding error: unknown field \"spec.replica\""),
        (
            deployment.replace("replicas: 1", "replicas: many"),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            deployment.replace("replicas: 1", "replicas: -1"),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            deployment.replace("matchLabels: {app: web}", "matchLabels: {app: other}"),
            "`selector` does not match template `labels`",
        ),
        (
            deployment.replace("- name: web", "- name: Web_1"),
            "spec.template.spec.containers[0].name: Invalid value: \"Web_1\"",
        ),
        (
            deployment.replace(&format!("image: {TOOLS}"), "image: ''"),
            "spec.template.spec.containers[0].image: Required value",
        ),
        (
            deployment.replace("metadata: {name: web,", "metadata: {name: Web,"),
            "metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain",
        ),
        (deployment.replace("apps/v1", "apps/v9"), "no matches for kind \"Deployment\" in version \"apps/v9\""),
        ("apiVersion: v1\nkind: Pod\n  bad: [".into(), "error parsing"),
    ];
    for (yaml, expected) in cases {
        contains(&ns.apply_refused(&yaml)?, expected)?;
    }
    let warned = ns.kubectl_with(
        &["apply", "--validate=warn", "-f", "-"],
        &deployment.replace("replicas: 1", "replicas: 0\n  colour: blue"),
    )?;
    contains(&warned.err, "Warning: unknown field \"spec.colour\"")?;
    warned.ok("apply with warnings")?;
    contains(
        &ns.refused(&["patch", "deployment", "web", "-p", r#"{"spec":{"selector":{"matchLabels":{"app":"x"}}}}"#])?,
        "field is immutable",
    )?;
    contains(
        &ns.refused(&["create", "configmap", "a", "--from-literal=a=1", "--from-literal=a=2"])?,
        "cannot add key",
    )?;
    ns.kubectl(&["create", "configmap", "twice"])?;
    contains(&ns.refused(&["create", "configmap", "twice"])?, "configmaps \"twice\" already exists")?;
    contains(
        &ns.refused(&["patch", "deployment", "web", "-p", r#"{"metadata":{"resourceVersion":"1"}}"#])?,
        "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified",
    )?;
    let said = ns.refused(&["-n", "nowhere", "create", "configmap", "x"])?;
    contains(&said, "namespaces \"nowhere\" not found")
}

pub fn namespaces_go_with_their_contents(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("leaving")?;
    ns.apply(&web("web", 1, ""))?;
    ns.kubectl(&["create", "configmap", "x"])?;
    cluster.kubectl(&["delete", "namespace", &ns.name, "--timeout=60s"])?.ok("delete namespace")?;
    contains(&cluster.kubectl(&["get", "namespace", &ns.name])?.failed("get")?, "not found")?;
    let pods = cluster.get(&["pods", "-A"])?;
    let left =
        pods["items"].as_array().into_iter().flatten().filter(|p| p["metadata"]["namespace"] == *ns.name).count();
    same(left, 0, "pods left")
}

pub fn nobody_writes_without_a_name(cluster: &Arc<Cluster>) -> Result {
    let server = cluster
        .kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?
        .ok("config")?;
    let url = format!("{}/api/v1/namespaces/default/configmaps", server.trim());
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}"#;
    let curl = |args: &[&str]| {
        run(std::process::Command::new("curl").args(["-sk", "-o", "/dev/null", "-w", "%{http_code}"]).args(args), None)?
            .ok("curl")
    };
    same(curl(&["-H", "Content-Type: application/json", "-d", body, &url])?.as_str(), "403", "anonymous create")?;
    same(curl(&["-H", "Authorization: Bearer nonsense", &url])?.as_str(), "401", "a wrong token")?;
    same(curl(&[&format!("{}/readyz", server.trim())])?.as_str(), "200", "readyz")?;
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(cluster.kubeconfig()).map_err(|e| e.to_string())?.permissions().mode();
    same(mode & 0o777, 0o600, "mode of the kubeconfig")
}

pub fn roles_decide(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("roles")?;
    ns.kubectl(&["create", "serviceaccount", "reader"])?;
    let user = format!("--as=system:serviceaccount:{}:reader", ns.name);
    contains(&ns.try_kubectl(&["auth", "can-i", "list", "pods", &user])?.out, "no")?;
    let said = ns.refused(&["get", "pods", &user])?;
    let expected = format!(
        "Error from server (Forbidden): pods is forbidden: User \"system:serviceaccount:{0}:reader\" cannot list resource \"pods\" in API group \"\" in the namespace \"{0}\"",
        ns.name
    );
    contains(&said, &expected)?;
    ns.kubectl(&["create", "role", "pods", "--verb=get,list", "--resource=pods"])?;
    ns.kubectl(&["create", "rolebinding", "pods", "--role=pods", &format!("--serviceaccount={}:reader", ns.name)])?;
    ns.kubectl(&["get", "pods", &user])?;
    ns.kubectl(&["create", "configmap", "safe"])?;
    contains(&ns.refused(&["delete", "configmap", "safe", &user])?, "cannot delete resource \"configmaps\"")?;
    let node = format!("--as=system:node:{}", cluster.node(1));
    let as_node = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend([node.as_str(), "--as-group=system:nodes"]);
        ns.refused(&all)
    };
    contains(&as_node(&["get", "secrets"])?, "forbidden")?;
    contains(&as_node(&["label", "node", &cluster.node(2), "a=b"])?, "forbidden")
}
