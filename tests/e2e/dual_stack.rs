//! A cluster of IPv4 and IPv6, by kubectl.

use std::sync::Arc;

use serde_json::Value;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_until};

/// A deployment of servers that say their pod's name on both families, a pod that asks, and services of every kind.
fn objects() -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
          labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: main
        image: {TOOLS}
        command: [python3, -m, http.server, '8080', --bind, '::']
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: asker}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, '100000']}}
---
apiVersion: v1
kind: Service
metadata: {{name: both}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: six}}
spec:
  ipFamilies: [IPv6]
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: plain}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    )
}

/// Asks an address by HTTP from the pod `asker`; whether there was an answer.
fn answers(ns: &Namespace, address: &str, port: u16) -> Result<bool> {
    let program = format!(
        "import socket
try:
    s = socket.create_connection((\"{address}\", {port}), timeout=2)
    s.sendall(b\"GET / HTTP/1.0\\r\\n\\r\\n\"); print(s.recv(15).decode())
except OSError as e: print(e)"
    );
    Ok(ns.python("asker", &program)?.contains("200"))
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn pods_and_services_have_both_families(_: &Arc<Cluster>) -> Result {
    let cluster = Arc::new(Cluster::beside("dual", &["--nodes", "2", "--ip-family", "dual", "--no-context"])?);
    let ns = cluster.namespace("dual")?;
    ns.apply(&objects())?;
    ns.ready("asker")?;
    ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;

    // Nodes and pods have two of everything, the IPv4 one first.
    let nodes = cluster.get(&["nodes"])?;
    for node in nodes["items"].as_array().ok_or("no nodes")? {
        let ranges = strings(&node["spec"]["podCIDRs"]);
        same(ranges.len(), 2, "podCIDRs")?;
        contains(&ranges[1], "fd00:10:244:")?;
    }
    let pods = ns.get(&["pods", "-l", "app=web"])?;
    for pod in pods["items"].as_array().ok_or("no pods")? {
        let ips: Vec<&str> =
            pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str()).collect();
        same(ips.len(), 2, "podIPs")?;
        same(pod["status"]["podIP"].as_str(), Some(ips[0]), "the first one")?;
        for ip in ips {
            wait_until(&format!("the pod at {ip} answers"), SOON, || answers(&ns, ip, 8080))?;
        }
    }

    // Families by policy; slices of each.
    let both = ns.get(&["service", "both"])?;
    same(strings(&both["spec"]["ipFamilies"]), vec!["IPv4".to_owned(), "IPv6".to_owned()], "families")?;
    let addresses = strings(&both["spec"]["clusterIPs"]);
    contains(&addresses[1], "fd00:10:96::")?;
    for address in &addresses {
        wait_until(&format!("{address} answers"), SOON, || answers(&ns, address, 80))?;
    }
    let slices = ns.get(&["endpointslices", "-l", "kubernetes.io/service-name=both"])?;
    let mut types: Vec<&str> =
        slices["items"].as_array().into_iter().flatten().filter_map(|s| s["addressType"].as_str()).collect();
    types.sort_unstable();
    same(types, vec!["IPv4", "IPv6"], "slices")?;
    contains(&ns.field("service/six", "{.spec.clusterIP}")?, "fd00:10:96::")?;
    same(ns.field("service/plain", "{.spec.ipFamilies[*]}")?.as_str(), "IPv4", "the preferred family")?;

    // Names: both records, and back from the address.
    let resolve = "import socket
print(sorted({a[4][0] for a in socket.getaddrinfo('both', 80, proto=socket.IPPROTO_TCP)}))";
    let found = ns.python("asker", resolve)?;
    for address in &addresses {
        contains(&found, address)?;
    }
    let back = format!("import socket; print(socket.gethostbyaddr('{}')[0])", addresses[1]);
    contains(&ns.python("asker", &back)?, "both.")?;

    // From outside: the NodePort and the load balancer's address of IPv6, from this machine.
    let port: u16 = ns.field("service/both", "{.spec.ports[0].nodePort}")?.parse().map_err(|e| format!("{e}"))?;
    let node = &nodes["items"][0]["status"]["addresses"];
    let internal = node.as_array().into_iter().flatten().filter(|a| a["type"] == "InternalIP");
    let node6 = internal.filter_map(|a| a["address"].as_str()).find(|a| a.contains(':')).ok_or("no IPv6 address")?;
    let balanced = ns.field("service/both", "{.status.loadBalancer.ingress[1].ip}")?;
    for (address, port) in [(node6, port), (balanced.as_str(), 80)] {
        wait_until(&format!("[{address}]:{port} answers"), SOON, || {
            Ok(std::net::TcpStream::connect((address, port)).is_ok())
        })?;
    }

    // A policy bars the one family as the other.
    ns.apply(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
",
    )?;
    for address in &addresses {
        wait_until(&format!("{address} is barred"), SOON, || Ok(!answers(&ns, address, 80)?))?;
    }
    // A second family is given up, and its address with it.
    ns.kubectl(&["delete", "networkpolicy", "nobody"])?;
    ns.kubectl(&["patch", "service", "both", "-p", r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#])?;
    same(ns.field("service/both", "{.spec.clusterIPs[*]}")?.as_str(), addresses[0].as_str(), "what is left")?;
    wait_until("its address is nobody's", SOON, || Ok(!answers(&ns, &addresses[1], 80)?))
}
