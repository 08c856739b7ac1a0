//! Deployments, jobs and pods through their life.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_for, wait_until};

/// A deployment of a small HTTP server that answers with its pod's name.
pub fn web(name: &str, replicas: u32, extra: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  {extra}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {TOOLS}
        command: [sh, -c, 'mkdir -p /www && hostname > /www/index.html && exec busybox httpd -f -p 8080 -h /www']
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{port: http}}, periodSeconds: 1}}
"
    )
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn pods(ns: &Namespace, app: &str) -> Result<Vec<Value>> {
    Ok(items(&ns.get(&["pods", "-l", &format!("app={app}")])?).to_vec())
}

pub fn a_deployment_lives(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("deploy")?;
    contains(&ns.apply(&web("web", 2, ""))?, "deployment.apps/web created")?;
    ns.rolled_out("web")?;
    contains(&ns.apply(&web("web", 2, ""))?, "deployment.apps/web unchanged")?;
    let deployment = ns.get(&["deployment", "web"])?;
    let set = ns.get(&["replicasets", "-l", "app=web"])?;
    same(items(&set).len(), 1, "replica sets")?;
    same(&items(&set)[0]["metadata"]["ownerReferences"][0]["uid"], &deployment["metadata"]["uid"], "owner of the set")?;
    for pod in pods(&ns, "web")? {
        let owner = &pod["metadata"]["ownerReferences"][0];
        same((&owner["kind"], &owner["uid"]), (&"ReplicaSet".into(), &items(&set)[0]["metadata"]["uid"]), "owner")?;
    }

    ns.kubectl(&["scale", "deployment/web", "--replicas=4"])?;
    ns.rolled_out("web")?;
    same(pods(&ns, "web")?.len(), 4, "pods after scaling up")?;
    ns.kubectl(&["scale", "deployment/web", "--replicas=1"])?;
    wait_until("one pod is left", SOON, || Ok(pods(&ns, "web")?.len() == 1))?;

    ns.kubectl(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    ns.rolled_out("web")?;
    let history = ns.kubectl(&["rollout", "history", "deployment/web"])?;
    contains(&history, "REVISION  CHANGE-CAUSE")?;
    contains(&history, "2")?;
    ns.kubectl(&["rollout", "undo", "deployment/web"])?;
    ns.rolled_out("web")?;
    same(ns.field("deployment/web", "{.spec.template.spec.containers[0].env}")?, String::new(), "env after undo")?;
    ns.kubectl(&["rollout", "restart", "deployment/web"])?;
    ns.rolled_out("web")?;
    contains(
        &ns.field("deployment/web", "{.spec.template.metadata.annotations}")?,
        "kubectl.kubernetes.io/restartedAt",
    )?;

    ns.kubectl(&["delete", "deployment", "web"])?;
    wait_until("its pods go with it", SOON, || Ok(pods(&ns, "web")?.is_empty()))?;
    wait_until("its replica sets, too", SOON, || Ok(items(&ns.get(&["replicasets"])?).is_empty()))
}

pub fn a_bad_rollout_harms_nobody(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("bad-rollout")?;
    ns.apply(&web("web", 3, ""))?;
    ns.rolled_out("web")?;
    // Only now: the good rollout may take its time.
    ns.kubectl(&["patch", "deployment/web", "--patch", r#"{"spec":{"progressDeadlineSeconds":5}}"#])?;
    ns.kubectl(&["set", "image", "deployment/web", "web=localhost:1/no/such:image"])?;
    let said = ns.refused(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    contains(&said, "exceeded its progress deadline")?;
    let ready: u32 = ns.field("deployment/web", "{.status.readyReplicas}")?.parse().map_err(|e| format!("{e}"))?;
    if ready < 3 - 1 {
        return Err(format!("{ready} ready: maxUnavailable of 25% of 3 is none"));
    }
    let reason = "{.items[*].status.containerStatuses[0].state.waiting.reason}";
    wait_until("the pull fails and backs off", SOON, || {
        Ok(ns.kubectl(&["get", "pods", "-o", &format!("jsonpath={reason}")])?.contains("ImagePull"))
    })?;
    contains(&ns.kubectl(&["get", "events"])?, "Failed to pull image")?;
    ns.kubectl(&["rollout", "undo", "deployment/web"])?;
    ns.rolled_out("web")
}

pub fn a_rolling_update_keeps_its_bounds(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("rolling")?;
    ns.apply(&web("web", 4, "strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}"))?;
    ns.rolled_out("web")?;
    ns.kubectl(&["set", "env", "deployment/web", "COLOUR=green"])?;
    let mut rolled_out = false;
    wait_until("it is rolled out", Duration::from_secs(90), || {
        let status = ns.get(&["deployment", "web"])?["status"].clone();
        let number = |field: &str| status[field].as_u64().unwrap_or(0);
        if number("availableReplicas") < 4 || number("replicas") > 5 {
            return Err(format!("out of bounds: {status}"));
        }
        rolled_out = number("updatedReplicas") == 4 && number("replicas") == 4;
        Ok(rolled_out)
    })
}

pub fn what_dies_comes_back(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("healing")?;
    ns.apply(&web("web", 1, ""))?;
    ns.rolled_out("web")?;
    let pod = |ns: &Namespace| -> Result<String> {
        let pods = pods(ns, "web")?;
        let alive = pods.iter().find(|p| p["metadata"]["deletionTimestamp"].is_null());
        Ok(alive.and_then(|p| p["metadata"]["name"].as_str()).unwrap_or_default().to_owned())
    };
    let first = pod(&ns)?;
    // From outside its namespace: a process 1 ignores signals from within.
    let node = ns.field(&format!("pod/{first}"), "{.spec.nodeName}")?;
    let address = ns.field(&format!("pod/{first}"), "{.status.podIP}")?;
    let by_address = format!(
        "for p in $(pgrep -f 'httpd -f -p 8080'); do nsenter -t $p -n ip -4 address | grep -qF {address}/ && kill -KILL $p; done"
    );
    cluster.on_node(&node, &["sh", "-c", &by_address])?;
    let restarts = "{.status.containerStatuses[0].restartCount}";
    wait_until("the container is restarted", SOON, || {
        Ok(ns.field(&format!("pod/{first}"), restarts)?.parse::<u32>().unwrap_or(0) > 0)
    })?;
    ns.ready(&first)?;
    ns.kubectl(&["delete", "pod", &first])?;
    wait_until("another pod takes its place", SOON, || {
        let now = pod(&ns)?;
        Ok(!now.is_empty() && now != first)
    })?;
    ns.rolled_out("web")
}

pub fn a_crashing_container_backs_off(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("crash")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: crash}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sh, -c, 'echo run $$; exit 3']}}
"
    ))?;
    wait_until("it is in back-off", SOON, || Ok(ns.kubectl(&["get", "pod", "crash"])?.contains("CrashLoopBackOff")))?;
    let status = ns.get(&["pod", "crash"])?["status"]["containerStatuses"][0].clone();
    same(status["lastState"]["terminated"]["exitCode"].as_i64(), Some(3), "exit code")?;
    contains(status["state"]["waiting"]["message"].as_str().unwrap_or_default(), "restarting failed container")?;
    contains(&ns.kubectl(&["logs", "crash", "--previous"])?, "run")?;
    contains(&ns.kubectl(&["describe", "pod", "crash"])?, "Back-off restarting failed container")
}

pub fn restart_policies(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("restart")?;
    let pod = |name: &str, policy: &str, code: u32| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {policy}
  initContainers:
  - {{name: first, image: {TOOLS}, command: [sh, -c, 'echo init > /shared/f'], volumeMounts: [{{name: s, mountPath: /shared}}]}}
  containers:
  - {{name: main, image: {TOOLS}, command: [sh, -c, 'cat /shared/f; exit {code}'], volumeMounts: [{{name: s, mountPath: /shared}}]}}
  volumes: [{{name: s, emptyDir: {{}}}}]
---
"
        )
    };
    ns.apply(&(pod("done", "Never", 0) + &pod("failed", "Never", 1) + &pod("fine", "OnFailure", 0)))?;
    for (name, phase) in [("done", "Succeeded"), ("failed", "Failed"), ("fine", "Succeeded")] {
        wait_until(&format!("{name} is {phase}"), SOON, || {
            Ok(ns.field(&format!("pod/{name}"), "{.status.phase}")? == phase)
        })?;
        same(ns.kubectl(&["logs", name])?.trim(), "init", "what the init container left")?;
    }
    contains(&ns.kubectl(&["get", "pod", "done"])?, "Completed")?;
    contains(&ns.kubectl(&["get", "pod", "failed"])?, "Error")
}

pub fn a_job_runs_to_its_end(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("job")?;
    let job = |name: &str, command: &str, more: &str| {
        format!(
            "apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  {more}
  template:
    spec:
      restartPolicy: Never
      containers: [{{name: main, image: {TOOLS}, command: [sh, -c, '{command}']}}]
---
"
        )
    };
    ns.apply(
        &(job("sum", "echo $((6*7))", "completions: 3\n  parallelism: 2") + &job("sad", "exit 1", "backoffLimit: 1")),
    )?;
    ns.kubectl(&["wait", "--for=condition=complete", "job/sum", "--timeout=60s"])?;
    contains(&ns.kubectl(&["get", "job", "sum"])?, "3/3")?;
    contains(&ns.kubectl(&["logs", "job/sum"])?, "42")?;
    ns.kubectl(&["wait", "--for=condition=failed", "job/sad", "--timeout=90s"])?;
    contains(&ns.field("job/sad", "{.status.conditions[?(@.type=='Failed')].reason}")?, "BackoffLimitExceeded")?;
    ns.kubectl(&["delete", "job", "sum"])?;
    wait_until("its pods go with it", SOON, || {
        Ok(items(&ns.get(&["pods", "-l", "batch.kubernetes.io/job-name=sum"])?).is_empty())
    })
}

pub fn logs_exec_attach_and_forward(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("streams")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: talk}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {TOOLS}
    command: [sh, -c, 'echo one; echo two; echo three; mkdir /www; echo hello > /www/index.html; exec busybox httpd -f -p 8080 -h /www']
"
    ))?;
    ns.ready("talk")?;
    wait_until("the log is there", SOON, || Ok(ns.kubectl(&["logs", "talk"])?.lines().count() == 3))?;
    same(ns.kubectl(&["logs", "talk", "--tail=1"])?.as_str(), "three\n", "the last line")?;
    contains(&ns.kubectl(&["logs", "talk", "--timestamps"])?, "Z one")?;
    let mut follow = ns.spawn(&["logs", "-f", "talk"])?;
    ns.shell("talk", "echo four > /proc/1/fd/1")?;
    let mut lines = BufReader::new(follow.0.stdout.take().ok_or("no output")?).lines();
    wait_for("the new line is followed", SOON, || {
        let line = lines.next().ok_or("the log ended")?.map_err(|e| e.to_string())?;
        Ok((line == "four").then_some(()))
    })?;

    same(ns.shell("talk", "echo out; echo err >&2; hostname")?.as_str(), "out\ntalk\n", "exec's output")?;
    let failed = ns.try_kubectl(&["exec", "talk", "--", "sh", "-c", "exit 7"])?;
    same(failed.status.code(), Some(7), "the exit code of exec")?;
    let piped = ns.kubectl_with(&["exec", "-i", "talk", "--", "sh", "-c", "cat | tr a-z A-Z"], "shout\n")?;
    same(piped.ok("exec -i")?.as_str(), "SHOUT\n", "exec with input")?;
    let big = "x".repeat(1 << 20);
    let counted = ns.kubectl_with(&["exec", "-i", "talk", "--", "wc", "-c"], &big)?.ok("exec -i")?;
    same(counted.trim(), "1048576", "a megabyte of input")?;
    // A terminal needs one on this side: script(1) makes it.
    let in_terminal = format!("{} exec -it talk -- sh -c 'tty; stty size'", ns.kubectl_line());
    let terminal =
        crate::harness::run(std::process::Command::new("script").args(["-qec", &in_terminal, "/dev/null"]), None)?;
    contains(&terminal.ok("exec -it")?, "/dev/pts/")?;
    let args = [
        "run",
        "once",
        "-i",
        "--rm",
        "--restart=Never",
        "--quiet",
        "--image",
        TOOLS,
        "--",
        "sh",
        "-c",
        "wc -c; echo done",
    ];
    let run = ns.kubectl_with(&args, "12345")?.ok("run -i --rm")?;
    contains(&run, "done")?;
    let spdy = ns.kubectl_env(&["exec", "talk", "--", "echo", "old"], "KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")?;
    same(spdy.ok("exec over SPDY")?.as_str(), "old\n", "exec over SPDY")?;

    for websockets in ["true", "false"] {
        let mut forward = ns.spawn_env(
            &["port-forward", "pod/talk", ":8080", "--address", "127.0.0.1"],
            "KUBECTL_PORT_FORWARD_WEBSOCKETS",
            websockets,
        )?;
        let mut lines = BufReader::new(forward.0.stdout.take().ok_or("no output")?).lines();
        let line = lines.next().ok_or("port-forward ended")?.map_err(|e| e.to_string())?;
        let port = line.split("127.0.0.1:").nth(1).and_then(|s| s.split(' ').next()).ok_or(line.clone())?;
        for _ in 0..3 {
            let answer = http_get(&format!("127.0.0.1:{port}"))?;
            contains(&answer, "hello")?;
        }
    }
    Ok(())
}

/// An image comes from a registry: a real one, on a node's loopback.
pub fn images_are_pulled(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("pull")?;
    let node = cluster.node(1);
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let config = dir.path().join("registry.yml");
    let settings = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, settings).map_err(|e| e.to_string())?;
    let _registry = cluster.start_on_node(&node, &["docker-registry", "serve", &config.to_string_lossy()])?;
    let archive = format!("oci-archive:{}", crate::harness::tools_image()?.display());
    wait_until("the image is in the registry", SOON, || {
        let copy =
            ["skopeo", "copy", "-q", "--dest-tls-verify=false", &archive, "docker://127.0.0.1:5000/team/tools:7"];
        Ok(cluster.on_node(&node, &copy)?.status.success())
    })?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: pulled}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: '127.0.0.1:5000/team/tools:7', imagePullPolicy: Always, command: [sleep, '1000']}}
"
    ))?;
    ns.ready("pulled")?;
    let described = ns.kubectl(&["describe", "pod", "pulled"])?;
    contains(&described, "Pulling image \"127.0.0.1:5000/team/tools:7\"")?;
    contains(&described, "Successfully pulled image")?;
    contains(&ns.field("pod/pulled", "{.status.containerStatuses[0].imageID}")?, "127.0.0.1:5000/team/tools@sha256:")
}

/// GETs `/` from the host.
pub fn http_get(address: &str) -> Result<String> {
    use std::io::Write;
    use std::net::{TcpStream, ToSocketAddrs};
    let failed = |e: std::io::Error| format!("{address}: {e}");
    let to = address.to_socket_addrs().map_err(failed)?.next().ok_or("no address")?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    Ok(answer)
}
