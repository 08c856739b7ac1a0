//! Administrators' policies that allow hosts by their names.

use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, SOON, contains, same, wait_until};
use crate::nodes::kill_on;

/// A DNS server on port 53 for the names in RECORDS: a name to an address, or to another name.
const STUB: &str = "
import socket, struct
def wire(name): return b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\\0'
def record(name, kind, data): return wire(name) + struct.pack('>HHIH', kind, 1, 5, len(data)) + data
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 53))
while True:
    q, peer = s.recvfrom(2000)
    labels, at = [], 12
    while q[at]: labels.append(q[at + 1:at + 1 + q[at]].decode().lower()); at += 1 + q[at]
    name, kind, answers = '.'.join(labels), struct.unpack('>H', q[at + 1:at + 3])[0], []
    known = name in RECORDS
    while name in RECORDS:
        to = RECORDS[name]
        if not to[0].isdigit(): answers.append(record(name, 5, wire(to)))
        elif kind == 1: answers.append(record(name, 1, socket.inet_aton(to)))
        name = to
    head = q[:2] + struct.pack('>HHHHH', 0x8580 if known else 0x8583, 1, len(answers), 0, 0)
    s.sendto(head + q[12:at + 5] + b''.join(answers), peer)
";

/// Says hello to each.
const SERVER: &str = "
import socket
s = socket.create_server(('0.0.0.0', 80))
while True:
    c, _ = s.accept(); c.sendall(b'hello'); c.close()
";

/// Says what it hears, after the client has said something.
const ECHO: &str = "
import socket, threading
s = socket.create_server(('0.0.0.0', 81))
def echo(c):
    while d := c.recv(100): c.sendall(d)
while True: threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()
";

/// Connects to HOST, an address or a name, once; prints what comes.
fn connect(ns: &Namespace, host: &str) -> Result<String> {
    let program = format!(
        "import socket
try: print(socket.create_connection(('{host}', 80), 3).recv(10).decode())
except socket.gaierror: print('unknown')
except OSError: print('nothing')"
    );
    Ok(ns.python("client", &program)?.trim().to_owned())
}

fn policy(rules: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {{name: e2e-names}}
spec:
  priority: 40
  subject: {{pods: {{namespaceSelector: {{matchLabels: {{names: e2e}}}}, podSelector: {{matchLabels: {{run: client}}}}}}}}
  egress: {rules}
"
    )
}

pub fn names_are_allowed(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("names")?;
    ns.kubectl(&["label", "namespace", &ns.name, "names=e2e"])?;
    let mut running = Vec::new();
    for (name, program) in [("one", SERVER), ("two", SERVER), ("three", SERVER), ("four", ECHO)] {
        ns.client(name, Some(&cluster.node(2)))?;
        running.push(ns.spawn(&["exec", name, "--", "python3", "-c", program])?);
    }
    let ip = |pod: &str| ns.field(&format!("pod/{pod}"), "{.status.podIP}");
    let (one, two, three, four) = (ip("one")?, ip("two")?, ip("three")?, ip("four")?);
    ns.client("stub", Some(&cluster.node(2)))?;
    let records = format!(
        "RECORDS = {{'www.example.test': '{one}', 'alias.deep.example.test': 'cdn.other.test', 'cdn.other.test': '{two}', \
         'example.test': '{three}', 'echo.example.test': '{four}', 'late.example.test': '{three}'}}\n{STUB}"
    );
    running.push(ns.spawn(&["exec", "stub", "--", "python3", "-c", &records])?);
    let stub = ip("stub")?;
    let stubs = format!("--from-literal=stubDomains={{\"example.test\": [\"{stub}\"]}}");
    cluster.kubectl(&["create", "configmap", "kube-dns", "-n", "kube-system", &stubs])?.ok("create configmap")?;
    ns.client("client", Some(&cluster.node(1)))?;
    ns.kubectl(&["label", "pod", "client", "run=client"])?;
    wait_until("the stub's names are known", SOON, || Ok(connect(&ns, "www.example.test")? == "hello"))?;

    refusals(&ns)?;
    let allow = "{action: Allow, to: [{domainNames: ['*.example.test']}]}";
    let deny = "{action: Deny, to: [{networks: ['0.0.0.0/0', '::/0']}]}";
    ns.apply(&policy(&format!("[{allow}, {deny}]")))?;
    wait_until("everything is barred", SOON, || Ok(connect(&ns, &three)? == "nothing"))?;
    same(connect(&ns, &two)?, "nothing".to_owned(), "nobody has looked it up")?;
    same(connect(&ns, "alias.deep.example.test")?, "hello".to_owned(), "the first connection after the lookup")?;
    same(connect(&ns, &two)?, "hello".to_owned(), "the address behind the alias")?;
    same(connect(&ns, "example.test")?, "nothing".to_owned(), "the name that all are below")?;
    same(connect(&ns, &three)?, "nothing".to_owned(), "another address")?;
    same(connect(&ns, "nobody.example.test")?, "unknown".to_owned(), "names are resolved as ever")?;
    same(connect(&ns, "www.example.test")?, "hello".to_owned(), "another name")?;

    let client = format!("{}/client", ns.name);
    let traced = cluster.xebec_named(&["trace", "--from", &client, "--to", &format!("{one}:80")])?;
    contains(&traced.out, "AdminNetworkPolicy e2e-names (priority 40): allow (www.example.test as *.example.test)")?;
    outlives_the_agent(cluster, &ns, &two)?;

    let metrics = cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/metrics", cluster.node(1))])?;
    contains(&metrics.ok("metrics")?, "xebec_policy_domain_addresses 4\n")?;

    ns.kubectl(&["patch", "anp", "e2e-names", "--type=json", "-p", r#"[{"op": "remove", "path": "/spec/egress/0"}]"#])?;
    wait_until("all is barred again", SOON, || Ok(connect(&ns, &two)? == "nothing"))?;
    ns.kubectl(&["delete", "anp", "e2e-names"])?;
    wait_until("all is open again", SOON, || Ok(connect(&ns, &two)? == "hello"))?;
    cluster.kubectl(&["delete", "configmap", "-n", "kube-system", "kube-dns"])?.ok("delete").map(drop)
}

fn refusals(ns: &Namespace) -> Result {
    let refused = |rule: &str, why: &str| contains(&ns.apply_refused(&policy(&format!("[{rule}]")))?, why);
    let to = "to: [{domainNames: [example.test]}]";
    for action in ["Deny", "Pass"] {
        refused(&format!("{{action: {action}, {to}}}"), "domainNames may only be used with Allow action")?;
    }
    refused(
        &format!("{{action: Allow, {to}, ports: [{{namedPort: web}}]}}"),
        "networks/nodes/domainNames peer cannot be set with namedPorts",
    )?;
    for odd in ["test", "www.*.test", "*"] {
        refused(&format!("{{action: Allow, to: [{{domainNames: ['{odd}']}}]}}"), "should match")?;
    }
    Ok(())
}

/// What was looked up before an agent's death is allowed after it, and connections stand.
fn outlives_the_agent(cluster: &Cluster, ns: &Namespace, two: &str) -> Result {
    let program = "import socket, os, time
s = socket.create_connection(('echo.example.test', 81), 5)
open('/connected', 'w').close()
while not os.path.exists('/again'): time.sleep(0.05)
s.sendall(b'still here'); open('/answer', 'wb').write(s.recv(100))";
    let _client = ns.spawn(&[
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        &format!("cat > /c.py <<'X'\n{program}\nX\nsetsid python3 /c.py"),
    ])?;
    wait_until("it is connected", SOON, || Ok(ns.shell("client", "test -e /connected && echo yes").is_ok()))?;
    kill_on(cluster, &cluster.node(1), "xebec agent")?;
    wait_until("the agent answers again", SOON, || Ok(ns.shell("client", "echo ok").is_ok_and(|o| o == "ok\n")))?;
    // It has cleared up what it found when it lets new names in.
    wait_until("new names are allowed", SOON, || Ok(connect(ns, "late.example.test")? == "hello"))?;
    same(connect(ns, two)?, "hello".to_owned(), "an address that was looked up before")?;
    ns.shell("client", "touch /again")?;
    wait_until("the connection answers", SOON, || {
        Ok(ns.shell("client", "cat /answer").is_ok_and(|answer| answer == "still here"))
    })
}
