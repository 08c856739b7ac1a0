//! What pods are given: configuration, volumes, limits, probes, identity.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, same, wait_until};

pub fn environment_and_files(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("config")?;
    ns.kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=size=1"])?;
    ns.kubectl(&["create", "secret", "generic", "keys", "--from-literal=password=s3cret"])?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: reader, labels: {{tier: front}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {TOOLS}
    command: [sleep, '100000']
    env:
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: keys, key: password}}}}}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: ADDRESS, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: BOTH, value: '$(COLOUR)-$(NODE)'}}
    envFrom: [{{configMapRef: {{name: settings}}, prefix: SET_}}]
    volumeMounts:
    - {{name: settings, mountPath: /settings}}
    - {{name: keys, mountPath: /keys, readOnly: true}}
    - {{name: about, mountPath: /about}}
    - {{name: scratch, mountPath: /scratch}}
    - {{name: memory, mountPath: /memory}}
    - {{name: host, mountPath: /host}}
  volumes:
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: keys, secret: {{secretName: keys, defaultMode: 0400}}}}
  - {{name: about, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
  - {{name: scratch, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory}}}}
  - {{name: host, hostPath: {{path: /run, type: Directory}}}}
"
    ))?;
    ns.ready("reader")?;
    let node = ns.field("pod/reader", "{.spec.nodeName}")?;
    let address = ns.field("pod/reader", "{.status.podIP}")?;
    let printed = ns.shell("reader", "echo $COLOUR $PASSWORD $NODE $ADDRESS $BOTH $SET_size")?;
    same(printed.trim(), &*format!("blue s3cret {node} {address} blue-{node} 1"), "environment")?;
    same(ns.shell("reader", "cat /settings/colour /keys/password")?.as_str(), "blues3cret", "files")?;
    same(ns.shell("reader", "stat -L -c %a /keys/password")?.trim(), "400", "mode of a secret's file")?;
    contains(&ns.shell("reader", "cat /about/labels")?, "tier=\"front\"")?;
    contains(&ns.shell("reader", "mount")?, "tmpfs on /memory")?;
    ns.shell("reader", "echo kept > /scratch/file && cat /scratch/file && ls /host")?;
    ns.kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"red"}}"#])?;
    wait_until("the file follows", Duration::from_secs(90), || {
        Ok(ns.shell("reader", "cat /settings/colour")? == "red")
    })?;
    ns.kubectl(&["delete", "pod", "reader"]).map(drop)
}

pub fn a_missing_config_map_is_reported(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("missing")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: waits}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, '1000'], envFrom: [{{configMapRef: {{name: late}}}}]}}
"
    ))?;
    wait_until("the reason shows", SOON, || {
        Ok(ns.kubectl(&["get", "pod", "waits"])?.contains("CreateContainerConfigError"))
    })?;
    ns.kubectl(&["create", "configmap", "late", "--from-literal=a=b"])?;
    ns.ready("waits")
}

pub fn limits_are_enforced(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("limits")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: hungry}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {TOOLS}
    command: [python3, -c, 'x = bytearray(200 << 20)']
    resources: {{limits: {{memory: 32Mi, cpu: 500m}}}}
"
    ))?;
    wait_until("it is killed", SOON, || Ok(ns.kubectl(&["get", "pod", "hungry"])?.contains("OOMKilled")))?;
    same(ns.field("pod/hungry", "{.status.qosClass}")?.as_str(), "Guaranteed", "QoS class")
}

pub fn probes(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("probes")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: probed}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: http
    image: {TOOLS}
    command: [sh, -c, 'mkdir /www; touch /www/index.html; exec busybox httpd -f -p 8080 -h /www']
    livenessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1, failureThreshold: 2}}
    startupProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1, failureThreshold: 30}}
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
  - name: exec
    image: {TOOLS}
    command: [sh, -c, 'touch /alive; exec sleep 100000']
    livenessProbe: {{exec: {{command: [cat, /alive]}}, periodSeconds: 1, failureThreshold: 2}}
"
    ))?;
    ns.ready("probed")?;
    ns.kubectl(&["exec", "probed", "-c", "http", "--", "rm", "/www/index.html"])?;
    ns.kubectl(&["exec", "probed", "-c", "exec", "--", "rm", "/alive"])?;
    for name in ["http", "exec"] {
        let path = format!("{{.status.containerStatuses[?(@.name=='{name}')].restartCount}}");
        wait_until(&format!("{name} is restarted"), SOON, || {
            Ok(ns.field("pod/probed", &path)?.parse::<u32>().unwrap_or(0) > 0)
        })?;
    }
    contains(&ns.kubectl(&["describe", "pod", "probed"])?, "Liveness probe failed")
}

pub fn termination_is_graceful(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("grace")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: polite}}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: main
    image: {TOOLS}
    command: [sh, -c, 'trap \"echo bye > /dev/termination-log; exit 0\" TERM; while :; do sleep 0.1; done']
  - name: stubborn
    image: {TOOLS}
    command: [sh, -c, 'trap \"\" TERM; while :; do sleep 0.1; done']
"
    ))?;
    ns.ready("polite")?;
    let mut watch = ns.spawn(&["get", "pod", "polite", "-w", "-o", "json"])?;
    ns.kubectl(&["delete", "pod", "polite", "--grace-period=2"])?;
    let refused = ns.refused(&["get", "pod", "polite"])?;
    contains(&refused, "pods \"polite\" not found")?;
    let _ = watch.0.kill();
    let mut seen = String::new();
    if let Some(mut out) = watch.0.stdout.take() {
        std::io::Read::read_to_string(&mut out, &mut seen).map_err(|e| e.to_string())?;
    }
    contains(&seen, "\"message\": \"bye\\n\"")
}

pub fn the_service_account_token_works(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("token")?;
    ns.client("client", None)?;
    let ask = |path: &str| {
        ns.python(
            "client",
            &format!(
                "import ssl, urllib.request as u
d = '/var/run/secrets/kubernetes.io/serviceaccount/'
c = ssl.create_default_context(cafile=d + 'ca.crt')
r = u.Request('https://kubernetes.default.svc{path}', headers={{'Authorization': 'Bearer ' + open(d + 'token').read()}})
try: print(u.urlopen(r, context=c, timeout=5).status)
except u.HTTPError as e: print(e.code, e.read().decode())"
            ),
        )
    };
    let pods = format!("/api/v1/namespaces/{}/pods", ns.name);
    let denied = ask(&pods)?;
    contains(&denied, "403")?;
    contains(&denied, &format!("system:serviceaccount:{}:default", ns.name))?;
    ns.kubectl(&[
        "create",
        "rolebinding",
        "view",
        "--clusterrole=view",
        &format!("--serviceaccount={}:default", ns.name),
    ])?;
    wait_until("the binding takes effect", SOON, || Ok(ask(&pods)? == "200"))?;
    contains(&ask("/api/v1/secrets")?, "403")
}
