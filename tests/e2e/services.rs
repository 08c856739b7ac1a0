//! Services, from pods, from nodes and from outside; DNS; the pod network.

use std::sync::Arc;

use serde_json::Value;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_for, wait_until};
use crate::workloads::{http_get, web};

/// A UDP server that answers with its pod's name.
fn udp_echo(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: echo
        image: {TOOLS}
        command:
        - python3
        - -c
        - |
          import socket
          s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
          s.bind(('0.0.0.0', 5000))
          while True:
              data, peer = s.recvfrom(2000)
              s.sendto(socket.gethostname().encode() + b' ' + peer[0].encode(), peer)
---
"
    )
}

fn service(name: &str, app: &str, kind: &str, port: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: {kind}, selector: {{app: {app}}}, ports: [{port}]}}
---
"
    )
}

const HTTP: &str = "{name: http, port: 80, targetPort: http}";
const UDP: &str = "{name: echo, port: 5000, protocol: UDP}";

/// GETs `/` in a pod; the body's first line, trimmed.
fn get_from(ns: &Namespace, pod: &str, url: &str) -> Result<String> {
    ns.python(pod, &format!("import urllib.request as u; print(u.urlopen('{url}', timeout=5).read().decode().strip())"))
}

/// Sends a datagram from a pod and returns the answer: the server's name, and the client's address as it saw it.
fn udp_from(ns: &Namespace, pod: &str, host: &str, port: u16, connected: bool) -> Result<String> {
    let send = if connected { "s.connect(a); s.send(b'x')" } else { "s.sendto(b'x', a)" };
    ns.python(
        pod,
        &format!(
            "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
a = (socket.gethostbyname('{host}'), {port}); {send}
d, peer = s.recvfrom(2000)
assert peer == a, (peer, a)
print(d.decode())"
        ),
    )
}

/// The names of an application's pods.
fn names(ns: &Namespace, app: &str) -> Result<Vec<String>> {
    let list = ns.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", "jsonpath={.items[*].metadata.name}"])?;
    Ok(list.split_whitespace().map(Into::into).collect())
}

/// Asks until every pod has answered.
fn all_answer(expected: Vec<String>, mut ask: impl FnMut() -> Result<String>) -> Result {
    let mut waiting = expected.clone();
    wait_until(&format!("each of {expected:?} answers"), SOON, || {
        let answer = ask()?;
        if !expected.contains(&answer) {
            return Err(format!("{answer:?} is none of {expected:?}"));
        }
        waiting.retain(|name| *name != answer);
        Ok(waiting.is_empty())
    })
}

pub fn cluster_ip(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("cluster-ip")?;
    ns.apply(
        &(udp_echo("echo", 2) + &service("web", "web", "ClusterIP", HTTP) + &service("echo", "echo", "ClusterIP", UDP)),
    )?;
    ns.apply(&web("web", 3, ""))?;
    ns.client("client", None)?;
    ns.rolled_out("web")?;
    ns.rolled_out("echo")?;
    let ip = ns.field("service/web", "{.spec.clusterIP}")?;
    contains(&ip, "10.96.")?;
    all_answer(names(&ns, "web")?, || get_from(&ns, "client", &format!("http://{ip}")))?;
    all_answer(names(&ns, "web")?, || get_from(&ns, "client", "http://web"))?;
    for connected in [true, false] {
        all_answer(names(&ns, "echo")?, || {
            let answer = udp_from(&ns, "client", "echo", 5000, connected)?;
            Ok(answer.split(' ').next().unwrap_or_default().to_owned())
        })?;
    }
    // A pod behind the service, through the service: itself included.
    let own = names(&ns, "web")?.remove(0);
    all_answer(names(&ns, "web")?, || get_from(&ns, &own, &format!("http://{ip}")))?;
    // A process on the node.
    let node = cluster.node(2);
    let script = format!("exec 3<>/dev/tcp/{ip}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let from_node = cluster.on_node(&node, &["bash", "-c", &script])?.ok("a client on the node")?;
    contains(&from_node, "web-")
}

/// A service without a selector leads to what the Endpoints of its name say.
pub fn endpoints_by_hand(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("by-hand")?;
    ns.apply(&web("web", 2, ""))?;
    ns.client("client", None)?;
    ns.rolled_out("web")?;
    let pods = names(&ns, "web")?;
    let lead_to = |pod: &str| {
        let ip = ns.field(&format!("pod/{pod}"), "{.status.podIP}")?;
        ns.apply(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: other}}
spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Endpoints
metadata: {{name: other}}
subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{name: http, port: 8080}}]}}]
"
        ))
    };
    for pod in &pods {
        lead_to(pod)?;
        wait_until(&format!("the service leads to {pod}"), SOON, || {
            Ok(get_from(&ns, "client", "http://other")? == *pod)
        })?;
    }
    let slices =
        |output: &str| ns.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=other", "-o", output]);
    let manager = slices("jsonpath={.items[*].metadata.labels.endpointslice\\.kubernetes\\.io/managed-by}")?;
    same(manager.as_str(), "endpointslicemirroring-controller.k8s.io", "who manages the one slice")?;
    ns.kubectl(&["delete", "service", "other"])?;
    wait_until("the endpoints and their slices go with the service", SOON, || {
        let endpoints = ns.kubectl(&["get", "endpoints", "--ignore-not-found", "-o", "name", "other"])?;
        Ok(endpoints.is_empty() && slices("name")?.is_empty())
    })
}

pub fn endpoints_follow_readiness(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("endpoints")?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: switch, labels: {{app: switch}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {TOOLS}
    command: [sh, -c, 'mkdir /www; echo on > /www/index.html; exec busybox httpd -f -p 8080 -h /www']
    ports: [{{containerPort: 8080, name: http}}]
    readinessProbe: {{exec: {{command: [test, -e, /ready]}}, periodSeconds: 1}}
---
{}",
        service("switch", "switch", "ClusterIP", HTTP)
    ))?;
    ns.client("client", None)?;
    let ready = |ns: &Namespace| -> Result<Vec<Value>> {
        let slices = ns.get(&["endpointslices", "-l", "kubernetes.io/service-name=switch"])?;
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        let endpoints = slices.iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
        Ok(endpoints.filter(|e| e["conditions"]["ready"] == true).collect())
    };
    same(ready(&ns)?.len(), 0, "ready endpoints before the probe succeeds")?;
    let refused = get_from(&ns, "client", "http://switch").err().unwrap_or_default();
    contains(&refused, "refused")?;
    ns.shell("switch", "touch /ready")?;
    wait_until("it answers", SOON, || Ok(get_from(&ns, "client", "http://switch")? == "on"))?;
    same(ready(&ns)?.len(), 1, "ready endpoints")?;
    ns.shell("switch", "rm /ready")?;
    wait_until("it is taken out", SOON, || Ok(ready(&ns)?.is_empty()))?;
    wait_until("and connections are refused", SOON, || {
        Ok(get_from(&ns, "client", "http://switch").err().is_some_and(|e| e.contains("refused")))
    })
}

pub fn from_outside(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("outside")?;
    ns.apply(
        &(udp_echo("echo", 1)
            + &service("echo", "echo", "NodePort", UDP)
            + &service("lb", "web", "LoadBalancer", HTTP)),
    )?;
    ns.apply(&web("web", 2, ""))?;
    ns.rolled_out("web")?;
    ns.rolled_out("echo")?;
    let node_port = ns.field("service/lb", "{.spec.ports[0].nodePort}")?;
    let body =
        |address: String| -> Result<String> { Ok(http_get(&address)?.lines().last().unwrap_or_default().to_owned()) };
    let nodes = cluster.get(&["nodes"])?;
    let addresses: Vec<String> = nodes["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| {
            n["status"]["addresses"].as_array()?.iter().find(|a| a["type"] == "InternalIP")?["address"]
                .as_str()
                .map(Into::into)
        })
        .collect();
    same(addresses.len(), 3, "node addresses")?;
    for address in &addresses {
        all_answer(names(&ns, "web")?, || body(format!("{address}:{node_port}")))?;
    }
    let lb = wait_for("an address from the pool", SOON, || {
        let ip = ns.field("service/lb", "{.status.loadBalancer.ingress[0].ip}")?;
        Ok((!ip.is_empty()).then_some(ip))
    })?;
    all_answer(names(&ns, "web")?, || body(format!("{lb}:80")))?;

    let udp_port = ns.field("service/echo", "{.spec.ports[0].nodePort}")?;
    let failed = |e: std::io::Error| e.to_string();
    for address in &addresses {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).map_err(failed)?;
        socket.connect(format!("{address}:{udp_port}")).map_err(failed)?;
        socket.send(b"x").map_err(failed)?;
        let mut answer = [0; 200];
        let length = socket.recv(&mut answer).map_err(|e| format!("UDP NodePort at {address}: {e}"))?;
        contains(&String::from_utf8_lossy(&answer[..length]), "echo-")?;
    }
    // Pods reach node ports and load-balancer addresses, too.
    ns.client("client", None)?;
    all_answer(names(&ns, "web")?, || get_from(&ns, "client", &format!("http://{lb}")))?;
    all_answer(names(&ns, "web")?, || get_from(&ns, "client", &format!("http://{}:{node_port}", addresses[0])))
}

pub fn no_packet_filter_rules(cluster: &Arc<Cluster>) -> Result {
    for number in 1..=3 {
        let node = cluster.node(number);
        let rules = cluster.on_node(&node, &["nft", "list", "ruleset"])?;
        same(rules.ok("nft list ruleset")?.trim(), "", "nftables rules on a node")?;
        // The legacy filter's tables in use; without its module there is no such file.
        let tables = cluster.on_node(&node, &["sh", "-c", "cat /proc/net/ip_tables_names 2>/dev/null || true"])?;
        same(tables.ok("list of tables")?.trim(), "", "iptables tables on a node")?;
    }
    Ok(())
}

pub fn dns(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("dns")?;
    let headless = "apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
";
    ns.apply(&(service("web", "web", "ClusterIP", HTTP) + headless))?;
    ns.apply(&web("web", 2, ""))?;
    ns.client("client", None)?;
    ns.rolled_out("web")?;
    let ip = ns.field("service/web", "{.spec.clusterIP}")?;
    let resolve = |name: &str| {
        ns.python(
            "client",
            &format!("import socket; print(' '.join(sorted({{a[4][0] for a in socket.getaddrinfo('{name}', 80, socket.AF_INET)}})))"),
        )
    };
    let space = &ns.name;
    for name in ["web", &format!("web.{space}"), &format!("web.{space}.svc"), &format!("web.{space}.svc.cluster.local")]
    {
        same(resolve(name)?, ip.clone(), name)?;
    }
    let ips = ns.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"])?;
    let mut ips: Vec<_> = ips.split_whitespace().collect();
    ips.sort_unstable();
    wait_until("the headless name has both pods", SOON, || Ok(resolve("peers")? == ips.join(" ")))?;
    same(resolve("kubernetes.default")?, "10.96.0.1".to_owned(), "the API's name")?;
    let nslookup = |kind: &str, name: &str| ns.shell("client", &format!("busybox nslookup -type={kind} {name}"));
    let full = format!("web.{space}.svc.cluster.local");
    contains(&nslookup("srv", &format!("_http._tcp.{full}"))?, &format!("0 100 80 {full}"))?;
    let reverse: Vec<_> = ip.rsplit('.').collect();
    contains(&nslookup("ptr", &format!("{}.in-addr.arpa", reverse.join(".")))?, &full)?;
    let missing =
        ns.try_kubectl(&["exec", "client", "--", "busybox", "nslookup", &format!("nope.{space}.svc.cluster.local")])?;
    contains(&(missing.out + &missing.err), "NXDOMAIN")?;
    let config = ns.shell("client", "cat /etc/resolv.conf")?;
    contains(&config, &format!("search {space}.svc.cluster.local svc.cluster.local cluster.local"))?;
    contains(&config, "nameserver 10.96.0.10")?;
    contains(&config, "options ndots:5")
}

pub fn pods_reach_pods(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("network")?;
    for number in 1..=3 {
        ns.client(&format!("pod{number}"), Some(&cluster.node(number)))?;
    }
    ns.client("neighbour", Some(&cluster.node(1)))?;
    let server = "import socket
s = socket.create_server(('0.0.0.0', 7000))
while True:
    c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()";
    let mut running = Vec::new();
    for pod in ["pod1", "pod2", "pod3", "neighbour"] {
        running.push(ns.spawn(&["exec", pod, "--", "python3", "-c", server])?);
    }
    let ip = |pod: &str| ns.field(&format!("pod/{pod}"), "{.status.podIP}");
    for from in ["pod1", "pod2", "neighbour"] {
        for to in ["pod1", "pod2", "pod3", "neighbour"] {
            let client = format!(
                "import socket; s = socket.create_connection(('{}', 7000), 5); print(s.recv(100).decode())",
                ip(to)?
            );
            // The server may need a moment to start; the address that it sees is the client's own.
            let seen = wait_for(&format!("{from} reaches {to}"), SOON, || ns.python(from, &client).map(Some))?;
            same(seen, ip(from)?, &format!("the address of {from} as {to} sees it"))?;
        }
    }
    Ok(())
}

pub fn pods_reach_the_outside_as_their_node(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("egress")?;
    ns.client("client", Some(&cluster.node(2)))?;
    let node = ns.field("pod/client", "{.status.hostIP}")?;
    // The host's end of the bridge is outside the cluster: .1 of the nodes' network.
    let (network, _) = node.rsplit_once('.').ok_or("an IPv4 address")?;
    let host = format!("{network}.1");
    let failed = |e: std::io::Error| e.to_string();
    let listener = std::net::TcpListener::bind((host.as_str(), 0)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let server = std::thread::spawn(move || listener.accept().map(|(_, peer)| peer.ip().to_string()));
    ns.python("client", &format!("import socket; socket.create_connection(('{host}', {port}), 5).close()"))?;
    let seen = server.join().map_err(|_| "the server panicked")?.map_err(failed)?;
    same(seen, node, "the address that the outside sees")
}
