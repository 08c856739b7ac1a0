//! Rolling updates and a node drain under load lose not one request, without a preStop hook.
//!
//! The server is nginx with its usual signals: on SIGTERM it ends at once, whatever it is doing. So what is shown is
//! that nothing is sent to a pod any more when it gets the signal. Clients make a connection for each request: an idle
//! connection that is kept open is the server's to close.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{Cluster, Namespace, Result, SOON, contains, image, same, wait_for, wait_until};

/// How many rolling updates there are, if not [`ROLLOUTS`].
const ROLLOUTS_VARIABLE: &str = "XEBEC_DRAIN_ROLLOUTS";
const ROLLOUTS: u32 = 2;

const WEB: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data:
  nginx.conf: |
    user www-data;
    worker_processes 1;
    pid /tmp/nginx.pid;
    error_log /dev/stderr warn;
    events { worker_connections 1024; }
    http {
      access_log off;
      server { listen 8080 backlog=1024; location / { return 200 \"served\\n\"; } }
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: xebec.local/nginx:1
        command: [nginx, -c, /etc/web/nginx.conf, -g, daemon off;]
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {port: http}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /etc/web}]
      volumes: [{name: config, configMap: {name: web}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
";

/// Requests until told to stop, one after the other, each on its own connection; what went wrong.
struct Client {
    what: String,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Client {
    fn start(what: &str, address: SocketAddr) -> Self {
        Self::spawn(what, move |served| {
            served.fetch_add(1, Ordering::Relaxed);
            request(address).map_err(|e| vec![e])
        })
    }

    /// Runs wrk for a second at a time, on a node or here.
    fn wrk(what: &str, cluster: &Arc<Cluster>, node: Option<String>, url: String) -> Self {
        let cluster = Arc::clone(cluster);
        Self::spawn(what, move |served| {
            let arguments = ["wrk", "-t1", "-c8", "-d1s", "--timeout", "5s", "-H", "Connection: close", &url];
            let printed = match &node {
                Some(node) => cluster.on_node(node, &arguments),
                None => crate::harness::run(std::process::Command::new(arguments[0]).args(&arguments[1..]), None),
            };
            let report = printed.and_then(|p| p.ok("wrk")).map_err(|e| vec![e])?;
            let requests = report.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
            served.fetch_add(requests.unwrap_or(0), Ordering::Relaxed);
            let bad = report.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
            let bad: Vec<String> = bad.map(|line| line.trim().to_owned()).collect();
            if bad.is_empty() { Ok(()) } else { Err(bad) }
        })
    }

    fn spawn(
        what: &str,
        mut once: impl FnMut(&AtomicUsize) -> std::result::Result<(), Vec<String>> + Send + 'static,
    ) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&served));
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Err(failure) = once(&counter) {
                    failures.extend(failure);
                }
            }
            failures
        });
        Self { what: what.to_owned(), stop, served, thread }
    }

    /// Stops; the number of requests, all of which must have been answered.
    fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join().map_err(|_| format!("the client of {} panicked", self.what))?;
        let served = self.served.load(Ordering::Relaxed);
        if !failures.is_empty() {
            let some = failures.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            return Err(format!("{}: {} of {served} requests failed: {some}", self.what, failures.len()));
        }
        Ok(served)
    }
}

fn request(address: SocketAddr) -> Result {
    let failed = |step: &'static str| move |e: std::io::Error| format!("{step}: {e}");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed("timeout"))?;
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(failed("write"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed("read"))?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("served\n") {
        Ok(())
    } else {
        Err(format!("answered {answer:?}"))
    }
}

/// How long pods were held back, in milliseconds, as the nodes' agents tell.
fn held_back(cluster: &Cluster, namespace: &str) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    let logs = std::fs::read_dir(cluster.logs()).map_err(|e| format!("{}: {e}", cluster.logs().display()))?;
    for file in logs.flatten() {
        let text = std::fs::read(file.path()).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            if line.contains("no node sends the pod new connections")
                && line.contains(namespace)
                && let Some((_, rest)) = line.split_once("waited_ms=")
            {
                all.extend(rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse::<u64>().ok()));
            }
        }
    }
    all.sort_unstable();
    Ok(all)
}

fn update_and_drain(cluster: &Cluster, ns: &Namespace, rollouts: u32) -> Result {
    for _ in 0..rollouts {
        ns.kubectl(&["rollout", "restart", "deployment/web"])?;
        ns.rolled_out("web")?;
    }
    let node = ns.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].spec.nodeName}"])?;
    let drained = ns.kubectl(&["drain", &node, "--ignore-daemonsets", "--timeout=60s", "--pod-selector=app=web"]);
    let result = drained.and_then(|said| contains(&said, "drained")).and_then(|()| ns.rolled_out("web"));
    cluster.kubectl(&["uncordon", &node])?.ok("uncordon")?;
    result
}

pub fn no_request_is_lost(cluster: &Arc<Cluster>) -> Result {
    let rollouts = match std::env::var(ROLLOUTS_VARIABLE) {
        Ok(text) => text.parse().map_err(|e| format!("{ROLLOUTS_VARIABLE}={text}: {e}"))?,
        Err(_) => ROLLOUTS,
    };
    cluster.load(&image("nginx")?)?;
    let ns = cluster.namespace("drain-ack")?;
    ns.apply(WEB)?;
    ns.rolled_out("web")?;
    let cluster_ip = ns.field("service/web", "{.spec.clusterIP}")?;
    let node_port = ns.field("service/web", "{.spec.ports[0].nodePort}")?;
    let node_ip =
        ns.field(&format!("node/{}", cluster.node(1)), "{.status.addresses[?(@.type=='InternalIP')].address}")?;
    let load_balancer = wait_for("an address from the pool", SOON, || {
        let ip = ns.field("service/web", "{.status.loadBalancer.ingress[0].ip}")?;
        Ok((!ip.is_empty()).then_some(ip))
    })?;
    let address = |text: String| text.parse::<SocketAddr>().map_err(|e| format!("{text}: {e}"));
    let (lb, port) = (address(format!("{load_balancer}:80"))?, address(format!("{node_ip}:{node_port}"))?);
    for to in [lb, port] {
        wait_until("the service answers from outside", SOON, || Ok(request(to).is_ok()))?;
    }

    let clients = vec![
        Client::start("LoadBalancer", lb),
        Client::start("NodePort", port),
        Client::wrk("wrk by LoadBalancer", cluster, None, format!("http://{lb}/")),
        Client::wrk("wrk by NodePort", cluster, None, format!("http://{port}/")),
        Client::wrk("wrk by ClusterIP", cluster, Some(cluster.node(2)), format!("http://{cluster_ip}/")),
    ];
    let result = update_and_drain(cluster, &ns, rollouts);
    let outcomes: Vec<Result<usize>> = clients.into_iter().map(Client::finish).collect();
    let held_back = held_back(cluster, &ns.name)?;
    if let (Some(median), Some(last)) = (held_back.get(held_back.len() / 2), held_back.last()) {
        println!("{} pods held back: median {median} ms, longest {last} ms; requests {outcomes:?}", held_back.len());
    }
    result?;
    for outcome in outcomes {
        if outcome? == 0 {
            return Err("a client made no request".to_owned());
        }
    }
    if held_back.len() < 3 * rollouts as usize {
        return Err(format!("{} pods were held back in {rollouts} rolling updates of three", held_back.len()));
    }
    let events = ns.kubectl(&["get", "events", "--field-selector=reason=DrainTimeout", "-o", "name"])?;
    same(events.trim(), "", "pods stopped although a node had not let go of them")
}
