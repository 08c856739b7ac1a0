//! What the tests of clusters with IPv6 have in common: servers on two nodes, and a pod that asks them.

use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, TOOLS};

/// Bars the servers.
pub const NOBODY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
";

/// A server for both families that says its name and who asks.
const SERVER: &str = "import http.server, socket
          class Server(http.server.ThreadingHTTPServer):
              address_family = socket.AF_INET6
          class Handler(http.server.BaseHTTPRequestHandler):
              def do_GET(self):
                  body = f'{socket.gethostname()} {self.client_address[0]}'.encode()
                  self.send_response(200)
                  self.send_header('Content-Length', str(len(body)))
                  self.end_headers()
                  self.wfile.write(body)
          Server(('::', 8080), Handler).serve_forever()";

/// They are ready when their nodes can reach them by HTTP.
fn servers() -> String {
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
        command:
        - python3
        - -c
        - |
          {SERVER}
        readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
"
    )
}

/// A cluster of two nodes with the deployment `web`, the pod `asker`, and these services.
pub fn set_up(ip_family: &str, services: &str) -> Result<Namespace> {
    let arguments = ["--nodes", "2", "--ip-family", ip_family, "--no-context"];
    let ns = Arc::new(Cluster::beside(ip_family, &arguments)?).namespace(ip_family)?;
    ns.apply(services)?;
    ns.apply(&servers())?;
    ns.client("asker", None)?;
    ns.rolled_out("web")?;
    Ok(ns)
}

/// What a server says to the pod `asker`: its name and who asks; nothing if there is no answer.
pub fn ask(ns: &Namespace, host: &str, port: u16) -> Result<String> {
    let program = format!(
        "import urllib.request as u
try: print(u.urlopen('{}', timeout=2).read().decode())
except OSError: print()",
        url(host, port)
    );
    ns.python("asker", &program)
}

/// Addresses of IPv6 have brackets in it.
fn url(host: &str, port: u16) -> String {
    if host.contains(':') { format!("http://[{host}]:{port}/") } else { format!("http://{host}:{port}/") }
}

/// The texts of a list in an object, by JSONPath.
pub fn texts(ns: &Namespace, what: &str, path: &str) -> Result<Vec<String>> {
    Ok(ns.field(what, path)?.split_whitespace().map(str::to_owned).collect())
}

/// A node's own addresses.
pub fn node_addresses(ns: &Namespace, number: u32) -> Result<Vec<String>> {
    let node = format!("node/{}", ns.cluster.node(number));
    texts(ns, &node, "{.status.addresses[?(@.type=='InternalIP')].address}")
}

/// The addresses of each server.
pub fn server_addresses(ns: &Namespace) -> Result<Vec<Vec<String>>> {
    let path = "jsonpath={range .items[*]}{.status.podIPs[*].ip}{\"\\n\"}{end}";
    let lines = ns.kubectl(&["get", "pods", "-l", "app=web", "-o", path])?;
    Ok(lines.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
}
