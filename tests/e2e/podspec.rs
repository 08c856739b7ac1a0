//! What a pod's spec may ask of its node, and what the node refuses.

use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_until};

pub fn who_a_container_is(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("who")?;
    ns.kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: p, annotations: {{folder: inner}}}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext:
    runAsUser: 1001
    runAsGroup: 2002
    fsGroup: 3003
    supplementalGroups: [4004]
    seccompProfile: {{type: RuntimeDefault}}
    sysctls: [{{name: net.ipv4.tcp_fin_timeout, value: '33'}}]
  containers:
  - name: main
    image: {TOOLS}
    command: [sleep, '100000']
    env:
    - {{name: FOLDER, valueFrom: {{fieldRef: {{fieldPath: \"metadata.annotations['folder']\"}}}}}}
    - {{name: CPUS, valueFrom: {{resourceFieldRef: {{resource: limits.cpu, divisor: 1m}}}}}}
    resources: {{limits: {{cpu: 250m, memory: 64Mi}}}}
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {{drop: [ALL]}}
    volumeMounts:
    - {{name: scratch, mountPath: /scratch}}
    - {{name: scratch, mountPath: /part, subPathExpr: $(FOLDER)/deep}}
    - {{name: all, mountPath: /all}}
  - name: free
    image: {TOOLS}
    command: [sleep, '100000']
    securityContext: {{runAsUser: 0, seccompProfile: {{type: Unconfined}}}}
  volumes:
  - {{name: scratch, emptyDir: {{}}}}
  - name: all
    projected:
      defaultMode: 0440
      sources:
      - configMap: {{name: settings, items: [{{key: colour, path: a/colour, mode: 0400}}]}}
      - configMap: {{name: nobody, optional: true}}
      - downwardAPI: {{items: [{{path: limit, resourceFieldRef: {{containerName: main, resource: limits.memory, divisor: 1Mi}}}}]}}
"
    ))?;
    ns.ready("p")?;
    let sh = |container: &str, command: &str| ns.kubectl(&["exec", "p", "-c", container, "--", "sh", "-c", command]);
    same(sh("main", "id -u; id -g; id -G")?.as_str(), "1001\n2002\n2002 3003 4004\n", "user and groups")?;
    contains(&sh("main", "touch /here 2>&1 || true")?, "Read-only file system")?;
    same(sh("main", "touch /scratch/f && stat -c %g /scratch/f")?.trim(), "3003", "group of a new file")?;
    same(sh("main", "echo x > /part/g && cat /scratch/inner/deep/g")?.trim(), "x", "a file below a subPath")?;
    same(sh("main", "echo $CPUS; cat /all/limit")?.as_str(), "250\n64", "limits")?;
    same(
        sh("main", "cat /all/a/colour && stat -L -c %a /all/a/colour /all/limit")?.as_str(),
        "blue440\n440\n",
        "files",
    )?;
    let status = |container: &str, field: &str| sh(container, &format!("grep ^{field}: /proc/self/status | cut -f2"));
    same(status("main", "Seccomp")?.trim(), "2", "filtered system calls")?;
    same(status("main", "NoNewPrivs")?.trim(), "1", "no new privileges")?;
    same(status("main", "CapBnd")?.trim(), "0000000000000000", "capabilities")?;
    same(status("free", "Seccomp")?.trim(), "0", "no filter")?;
    same(sh("free", "id -u")?.trim(), "0", "another user")?;
    same(sh("free", "cat /proc/sys/net/ipv4/tcp_fin_timeout")?.trim(), "33", "a sysctl")?;
    ns.kubectl(&["delete", "pod", "p"]).map(drop)
}

fn one(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  {spec}
  containers:
  - {{name: main, image: {TOOLS}, {container}}}
"
    )
}

fn events_hold(ns: &Namespace, what: &str) -> Result {
    wait_until(what, SOON, || Ok(ns.kubectl(&["get", "events"])?.contains(what)))
}

pub fn pods_that_the_node_refuses(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("refused")?;
    let idle = "command: [sleep, '1000']";
    for (name, spec, reason) in [
        ("sysctl", "securityContext: {sysctls: [{name: kernel.msgmax, value: '65536'}]}", "SysctlForbidden"),
        ("os", &*format!("os: {{name: windows}}\n  nodeName: {}", cluster.node(1)), "PodOSNotSupported"),
    ] {
        ns.apply(&one(name, spec, idle))?;
        let pod = format!("pod/{name}");
        wait_until(reason, SOON, || {
            Ok(ns.field(&pod, "{.status.phase} {.status.reason}")? == format!("Failed {reason}"))
        })?;
    }
    let class = format!("{}-class", ns.name);
    ns.apply(&format!(
        "{{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {{name: {class}}}, handler: no-such-handler}}"
    ))?;
    ns.apply(&one("class", &format!("runtimeClassName: {class}"), idle))?;
    events_hold(&ns, "no runtime for \"no-such-handler\" is configured")?;
    ns.kubectl(&["delete", "runtimeclass", &class])?;
    ns.apply(&one("root", "securityContext: {runAsNonRoot: true}", idle))?;
    events_hold(&ns, "container has runAsNonRoot and image will run as root")?;
    let path = "volumes: [{name: v, emptyDir: {}}]";
    let mount = format!(
        "{idle}, env: [{{name: A, value: ../x}}], volumeMounts: [{{name: v, mountPath: /v, subPathExpr: $(A)}}]"
    );
    ns.apply(&one("escape", path, &mount))?;
    wait_until("a subPath that leads out is refused", SOON, || {
        Ok(ns.kubectl(&["get", "pod", "escape"])?.contains("CreateContainerConfigError"))
    })
}

pub fn names_and_last_words(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("names")?;
    let spec = "hostname: host
  subdomain: sub
  setHostnameAsFQDN: true
  hostAliases: [{ip: 1.2.3.4, hostnames: [alias.example]}]";
    ns.apply(&one("named", spec, "command: [sh, -c, 'hostname; cat /etc/hosts; echo last words; exit 3'], terminationMessagePolicy: FallbackToLogsOnError"))?;
    wait_until("it has failed", SOON, || Ok(ns.field("pod/named", "{.status.phase}")? == "Failed"))?;
    let log = ns.kubectl(&["logs", "named"])?;
    contains(&log, &format!("host.sub.{}.svc.cluster.local\n", ns.name))?;
    contains(&log, "1.2.3.4\talias.example")?;
    let ended = "{.status.containerStatuses[0].state.terminated.message}";
    contains(&ns.field("pod/named", ended)?, "last words")?;
    let user = "securityContext: {runAsUser: 1001}";
    let custom = "command: [sh, -c, 'printf DONE > /dev/custom-log'], terminationMessagePath: /dev/custom-log";
    ns.apply(&one("custom", user, custom))?;
    wait_until("it is done", SOON, || Ok(ns.field("pod/custom", "{.status.phase}")? == "Succeeded"))?;
    same(ns.field("pod/custom", ended)?.as_str(), "DONE", "its message")
}

pub fn sidecars_start_first_and_stop_last(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("sidecars")?;
    let say = |name: &str| format!("echo {name} >> /log/order");
    let last = "trap 'date +%s.%N > /log/stopped; exit 0' TERM; while :; do sleep 0.1; done";
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  terminationGracePeriodSeconds: 10
  restartPolicy: Never
  initContainers:
  - {{name: first, image: {TOOLS}, command: [sh, -c, '{}'], volumeMounts: [{{name: log, mountPath: /log}}]}}
  - name: side
    image: {TOOLS}
    restartPolicy: Always
    command: [sh, -c, \"{}; {last}\"]
    startupProbe: {{exec: {{command: [grep, side, /log/order]}}, periodSeconds: 1}}
    volumeMounts: [{{name: log, mountPath: /log}}]
  - {{name: second, image: {TOOLS}, command: [sh, -c, '{}'], volumeMounts: [{{name: log, mountPath: /log}}]}}
  containers:
  - {{name: main, image: {TOOLS}, command: [sh, -c, '{}; cat /log/order; sleep 1'], volumeMounts: [{{name: log, mountPath: /log}}]}}
  volumes: [{{name: log, emptyDir: {{}}}}]
",
        say("first"),
        say("side"),
        say("second"),
        say("main"),
    ))?;
    wait_until("it is done", SOON, || Ok(ns.field("pod/p", "{.status.phase}")? == "Succeeded"))?;
    same(ns.kubectl(&["logs", "p", "-c", "main"])?.as_str(), "first\nside\nsecond\nmain\n", "order")?;
    let pod = ns.get(&["pod", "p"])?;
    let ended = |list: &str, index: usize| {
        let terminated = &pod["status"][list][index]["state"]["terminated"];
        (terminated["exitCode"].as_i64(), terminated["finishedAt"].as_str().unwrap_or_default().to_owned())
    };
    let (side, main) = (ended("initContainerStatuses", 1), ended("containerStatuses", 0));
    same((side.0, main.0), (Some(0), Some(0)), "exit codes")?;
    if side.1 >= main.1 { Ok(()) } else { Err(format!("the sidecar ended at {}, before {}", side.1, main.1)) }
}
