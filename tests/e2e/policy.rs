//! Network policy: who reaches whom, asked of every pod about every other, as upstream's netpol suite does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, wait_for, wait_until};

/// Answers on ports 80 and 81, TCP and UDP.
const SERVER: &str = "
import socket, threading, time
def tcp(port):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('0.0.0.0', port)); s.listen(64)
    while True:
        c, _ = s.accept(); c.sendall(b'hello'); c.close()
def udp(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', port))
    while True:
        d, peer = s.recvfrom(2000); s.sendto(b'hello', peer)
for port in (80, 81):
    for f in (tcp, udp): threading.Thread(target=f, args=(port,), daemon=True).start()
time.sleep(100000)
";

/// Prints the addresses that answer.
const PROBE: &str = "
import socket, threading
def ask(ip):
    kind = socket.SOCK_STREAM if PROTOCOL == 'tcp' else socket.SOCK_DGRAM
    s = socket.socket(socket.AF_INET, kind); s.settimeout(2)
    try:
        s.connect((ip, PORT))
        if PROTOCOL == 'udp': s.send(b'?')
        if s.recv(10) == b'hello': print(ip, flush=True)
    except OSError: pass
all = [threading.Thread(target=ask, args=(ip,)) for ip in ADDRESSES]
[t.start() for t in all]; [t.join() for t in all]
";

/// Two pods in each of three namespaces, on different nodes.
struct Model {
    namespaces: BTreeMap<&'static str, Namespace>,
    /// `x/a` to its address.
    addresses: BTreeMap<String, String>,
}

/// From whom, to whom: `("x/a", "y/b")`.
type Pairs = BTreeSet<(String, String)>;

impl Model {
    fn new(cluster: &Arc<Cluster>, test: &str) -> Result<Self> {
        let mut model = Self { namespaces: BTreeMap::new(), addresses: BTreeMap::new() };
        for name in ["x", "y", "z"] {
            let namespace = cluster.namespace(&format!("{test}-{name}"))?;
            cluster
                .kubectl(&["label", "namespace", &namespace.name, &format!("ns={name}"), &format!("{test}=yes")])?
                .ok("label")?;
            for (number, pod) in [(1, "a"), (2, "b")] {
                namespace.apply(&server(pod, &cluster.node(number)))?;
            }
            model.namespaces.insert(name, namespace);
        }
        for (name, namespace) in &model.namespaces {
            for pod in ["a", "b"] {
                namespace.ready(pod)?;
                model
                    .addresses
                    .insert(format!("{name}/{pod}"), namespace.field(&format!("pod/{pod}"), "{.status.podIP}")?);
            }
        }
        Ok(model)
    }

    fn namespace(&self, name: &str) -> &Namespace {
        &self.namespaces[name]
    }

    /// Every pair that has an answer.
    fn reached(&self, protocol: &str, port: u16) -> Result<Pairs> {
        let addresses: Vec<&String> = self.addresses.values().collect();
        let program = format!("PROTOCOL, PORT, ADDRESSES = '{protocol}', {port}, {addresses:?}\n{PROBE}");
        let names: BTreeMap<&str, &String> = self.addresses.iter().map(|(name, ip)| (ip.as_str(), name)).collect();
        let mut pairs = Pairs::new();
        for (from, answers) in self.ask_all(&program)? {
            let to = answers.lines().filter_map(|ip| names.get(ip.trim()));
            pairs.extend(to.map(|to| (from.clone(), (*to).clone())));
        }
        Ok(pairs)
    }

    /// Runs a program in every pod at once.
    fn ask_all(&self, program: &str) -> Result<Vec<(String, String)>> {
        std::thread::scope(|scope| {
            let running: Vec<_> = self
                .addresses
                .keys()
                .map(|name| scope.spawn(move || Ok((name.clone(), self.python(name, program)?))))
                .collect();
            running.into_iter().map(|thread| thread.join().map_err(|_| "a probe died".to_owned())?).collect()
        })
    }

    fn python(&self, pod: &str, program: &str) -> Result<String> {
        let (namespace, pod) = pod.split_once('/').ok_or("no namespace")?;
        self.namespace(namespace).python(pod, program)
    }

    /// Waits until exactly the pairs that `expected` names reach each other; a pod always reaches itself.
    fn expect(&self, what: &str, protocol: &str, port: u16, expected: impl Fn(&str, &str) -> bool) -> Result {
        let pods: Vec<&String> = self.addresses.keys().collect();
        let wanted: Pairs = pods
            .iter()
            .flat_map(|from| pods.iter().map(move |to| ((*from).clone(), (*to).clone())))
            .filter(|(from, to)| from == to || expected(from, to))
            .collect();
        let mut last = Pairs::new();
        let result = wait_until(what, SOON, || {
            last = self.reached(protocol, port)?;
            Ok(last == wanted)
        });
        result.map_err(|e| {
            let wrong: Vec<_> = last.symmetric_difference(&wanted).collect();
            format!("{e}; {protocol} {port}; reached and not expected, or the other way round: {wrong:?}")
        })
    }

    fn apply(&self, namespace: &str, name: &str, spec: &str) -> Result {
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy";
        self.namespace(namespace).apply(&format!("{policy}\nmetadata: {{name: {name}}}\nspec: {spec}\n")).map(drop)
    }

    fn delete(&self, namespace: &str, name: &str) -> Result {
        self.namespace(namespace).kubectl(&["delete", "networkpolicy", name]).map(drop)
    }
}

fn server(name: &str, node: &str) -> String {
    let program: String = SERVER.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{pod: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {TOOLS}
    ports: [{{name: serve-80, containerPort: 80}}, {{name: serve-81, containerPort: 81}}]
    command:
    - python3
    - -c
    - |
{program}"
    )
}

fn namespace_of(pod: &str) -> &str {
    pod.split('/').next().unwrap_or_default()
}

/// "should support a 'default-deny-ingress' policy", "... allow ingress access from ... based on PodSelector,
/// NamespaceSelector, both, either; on one named port; updated policies, pods and namespaces; overlapping policies".
pub fn ingress_is_judged(cluster: &Arc<Cluster>) -> Result {
    let m = Model::new(cluster, "netpol-in")?;
    let to_x = |to: &str| namespace_of(to) == "x";
    m.expect("everybody reaches everybody", "tcp", 80, |_, _| true)?;

    m.apply("x", "deny", "{podSelector: {}, policyTypes: [Ingress]}")?;
    for protocol in ["tcp", "udp"] {
        m.expect("nobody reaches x", protocol, 80, |_, to| !to_x(to))?;
    }
    let listed = m.namespace("x").kubectl(&["get", "networkpolicies"])?;
    contains(&listed, "POD-SELECTOR")?;

    // Added to the denial: policies allow together.
    m.apply(
        "x",
        "pods",
        "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
    )?;
    m.expect("x/b reaches x/a", "tcp", 80, |from, to| !to_x(to) || (from == "x/b" && to == "x/a"))?;
    m.apply("x", "pods", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}]}]}")?;
    m.expect("y reaches x", "tcp", 80, |from, to| !to_x(to) || namespace_of(from) == "y")?;
    m.apply(
        "x",
        "pods",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}, podSelector: {matchLabels: {pod: b}}}]}]}",
    )?;
    m.expect("y/b reaches x", "tcp", 80, |from, to| !to_x(to) || from == "y/b")?;
    m.apply(
        "x",
        "pods",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: ['y']}]}}, {podSelector: {matchLabels: {pod: b}}}]}]}",
    )?;
    m.expect("y and x/b reach x", "tcp", 80, |from, to| !to_x(to) || namespace_of(from) == "y" || from == "x/b")?;

    // Ports: by number, name and range; another protocol is another matter.
    m.apply("x", "pods", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: serve-81}]}]}")?;
    m.expect("81 is open by its name", "tcp", 81, |_, _| true)?;
    m.expect("80 is not", "tcp", 80, |_, to| !to_x(to))?;
    m.expect("81 over UDP is not", "udp", 81, |_, to| !to_x(to))?;
    m.apply("x", "pods", "{podSelector: {}, ingress: [{ports: [{port: 75, endPort: 80, protocol: UDP}]}]}")?;
    m.expect("80 over UDP is open by a range", "udp", 80, |_, _| true)?;
    m.expect("81 over UDP is not", "udp", 81, |_, to| !to_x(to))?;

    // Labels change under policies.
    m.apply("x", "pods", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {door: open}}, podSelector: {matchLabels: {key: has}}}]}]}")?;
    m.expect("nobody has both labels", "tcp", 80, |_, to| !to_x(to))?;
    m.namespace("z").kubectl(&["label", "pod", "a", "key=has"])?;
    cluster.kubectl(&["label", "namespace", &m.namespace("z").name, "door=open"])?.ok("label")?;
    m.expect("z/a has both", "tcp", 80, |from, to| !to_x(to) || from == "z/a")?;
    m.namespace("z").kubectl(&["label", "pod", "a", "key-"])?;
    m.expect("and has it no more", "tcp", 80, |_, to| !to_x(to))?;

    // By address.
    let block = |ip: &str, except: &str| {
        format!("{{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: {ip}, except: [{except}]}}}}]}}]}}")
    };
    m.apply("x", "pods", &block("10.0.0.0/8", &format!("{}/32", m.addresses["y/a"])))?;
    m.expect("all but y/a", "tcp", 80, |from, to| !to_x(to) || from != "y/a")?;

    // Probes come from the node: the pods are as ready as before, and the last policy leaves nothing behind.
    m.delete("x", "pods")?;
    m.delete("x", "deny")?;
    m.expect("everybody reaches everybody again", "tcp", 80, |_, _| true)
}

/// "should support denying of egress traffic", "... egress to a server in a different namespace", "... in CIDR block with
/// except", DNS included: it is answered by the pod's own node.
pub fn egress_is_judged(cluster: &Arc<Cluster>) -> Result {
    let m = Model::new(cluster, "netpol-out")?;
    m.apply("x", "deny", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}")?;
    for protocol in ["tcp", "udp"] {
        m.expect("x/a reaches nobody", protocol, 80, |from, _| from != "x/a")?;
    }
    // Its answers go out all the same: the others reach it, as the matrix shows. And names are resolved.
    let name = "kubernetes.default.svc.cluster.local";
    contains(&m.python("x/a", &format!("import socket; print(socket.gethostbyname('{name}'))"))?, "10.96.0.1")?;

    m.apply(
        "x",
        "deny",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: 'y'}}}], ports: [{port: serve-80}]}]}",
    )?;
    m.expect("x/a reaches y", "tcp", 80, |from, to| from != "x/a" || namespace_of(to) == "y")?;
    m.expect("on that port only", "tcp", 81, |from, _| from != "x/a")?;

    let (all, left_out) = (format!("{}/32", m.addresses["z/a"]), format!("{}/32", m.addresses["z/b"]));
    m.apply(
        "x",
        "deny",
        &format!("{{podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 10.0.0.0/8, except: ['{left_out}']}}}}]}}]}}"),
    )?;
    m.expect("x/a reaches all but z/b", "tcp", 80, |from, to| from != "x/a" || to != "z/b")?;
    // What one policy leaves out another may allow.
    m.apply(
        "x",
        "more",
        &format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: '{left_out}'}}}}, {{ipBlock: {{cidr: '{all}'}}}}]}}]}}"),
    )?;
    m.expect("x/a reaches all, x/b z only", "tcp", 80, |from, to| from != "x/b" || namespace_of(to) == "z")
}

/// A pod that is born under a policy is never heard without it; `xebec flows` says why, `xebec service show` that all is
/// as it should be.
pub fn drops_are_seen(cluster: &Arc<Cluster>) -> Result {
    let m = Model::new(cluster, "netpol-see")?;
    let x = m.namespace("x");
    m.apply("x", "deny", "{podSelector: {matchLabels: {pod: late}}, policyTypes: [Ingress]}")?;
    x.apply(&server("late", &cluster.node(1)))?;
    let ip = wait_for("the pod has an address", SOON, || {
        let ip = x.field("pod/late", "{.status.podIP}")?;
        Ok((!ip.is_empty()).then_some(ip))
    })?;
    let probe = format!("PROTOCOL, PORT, ADDRESSES = 'tcp', 80, ['{ip}']\n{PROBE}");
    let mut flows =
        cluster.start_xebec(&["flows", "--verdict", "dropped", "--pod", &format!("{}/late", x.name), "-o", "json"])?;
    x.ready("late")?;
    for pod in ["x/b", "y/a"] {
        let answer = m.python(pod, &probe)?;
        if !answer.is_empty() {
            return Err(format!("{pod} reaches it: {answer}"));
        }
    }
    let line = wait_for("a drop is shown", SOON, || {
        m.python("y/a", &probe)?;
        Ok(flows.line())
    })?;
    for part in ["\"reason\":\"policy-ingress\"", "\"direction\":\"ingress\"", &format!("\"destination\":\"{ip}\"")] {
        contains(&line, part)?;
    }

    x.kubectl(&["expose", "pod", "a", "--port=80", "--name=web"])?;
    let shown = wait_for("what the kernels hold is what is wanted", SOON, || {
        let printed = cluster.xebec_named(&["service", "show", &format!("{}/web", x.name)])?;
        Ok(printed.status.success().then_some(printed.out))
    })?;
    contains(&shown, &format!("{}:80", m.addresses["x/a"]))?;
    contains(&cluster.xebec_named(&["service", "list"])?.ok("service list")?, "10.96.0.1:443")?;
    contains(&cluster.xebec(&["check"])?.ok("check")?, "tcx")
}

/// AdminNetworkPolicies before, the BaselineAdminNetworkPolicy after the network policies of users.
pub fn administrators_decide(cluster: &Arc<Cluster>) -> Result {
    let m = Model::new(cluster, "anp")?;
    let x = m.namespace("x");
    let peers = |ns: &str| format!("[{{namespaces: {{matchLabels: {{anp: 'yes', ns: '{ns}'}}}}}}]");
    let subject = |ns: &str| format!("{{namespaces: {{matchLabels: {{anp: 'yes', ns: '{ns}'}}}}}}");
    let admin = |name: &str, priority: u32, subject: &str, rules: &str| {
        x.apply(&format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{priority: {priority}, subject: {subject}, {rules}}}\n"
        ))
    };
    let deny = format!("ingress: [{{name: no-y, action: Deny, from: {}}}]", peers("y"));
    admin("e2e-deny", 20, &subject("x"), &deny)?;
    let denied = |from: &str, to: &str| namespace_of(from) == "y" && namespace_of(to) == "x";
    m.expect("y does not reach x", "tcp", 80, |from, to| !denied(from, to))?;
    m.apply("x", "allow", "{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}")?;
    m.expect("whatever x's own policies allow", "tcp", 80, |from, to| !denied(from, to))?;
    let from = format!("{}/a", m.namespace("y").name);
    let traced = cluster.xebec_named(&["trace", "--from", &from, "--to", &format!("{}:80", m.addresses["x/a"])])?;
    contains(&traced.out, "AdminNetworkPolicy e2e-deny (priority 20): deny")?;

    // An earlier one lets one port in, for one pod.
    let one = "ingress: [{action: Allow, from: [{pods: {namespaceSelector: {matchLabels: {anp: 'yes'}}, podSelector: \
               {matchLabels: {pod: a}}}}], ports: [{portNumber: {protocol: TCP, port: 80}}]}]";
    admin("e2e-allow", 10, &subject("x"), one)?;
    m.expect("y/a reaches x on one port", "tcp", 80, |from, to| !denied(from, to) || from == "y/a")?;
    m.expect("and on no other", "tcp", 81, |from, to| !denied(from, to))?;

    // Out: not to the nodes of the others, nor to a network, but for what is passed on.
    let ip = &m.addresses["z/b"];
    let out = format!(
        "egress: [{{action: Pass, to: {}, ports: [{{namedPort: serve-80}}]}}, {{action: Deny, to: [{{networks: ['{ip}/32']}}]}}]",
        peers("z")
    );
    admin("e2e-out", 30, &subject("y"), &out)?;
    m.expect("what is passed on passes", "tcp", 80, |from, to| !denied(from, to) || from == "y/a")?;
    m.expect("what is not does not", "tcp", 81, |from, to| {
        !denied(from, to) && (namespace_of(from) != "y" || to != "z/b")
    })?;

    // The baseline holds for whom no network policy speaks.
    let baseline = |name: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{subject: {}, ingress: [{{action: Deny, from: {}}}]}}\n",
            subject("z"),
            peers("x")
        )
    };
    contains(&x.apply_refused(&baseline("other"))?, "metadata.name=\"default\"")?;
    x.apply(&baseline("default"))?;
    let reaches = |from: &str, to: &str| !denied(from, to) || from == "y/a";
    m.expect("x does not reach z", "tcp", 80, |from, to| {
        reaches(from, to) && (namespace_of(from) != "x" || namespace_of(to) != "z")
    })?;
    m.apply("z", "allow", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{}]}")?;
    m.expect("but where a policy of z lets it", "tcp", 80, |from, to| {
        reaches(from, to) && (namespace_of(from) != "x" || to != "z/b")
    })?;
    contains(&x.kubectl(&["get", "anp", "e2e-deny"])?, "20")?;
    x.kubectl(&["delete", "anp", "e2e-deny", "e2e-allow", "e2e-out"])?;
    x.kubectl(&["delete", "banp", "default"])?;
    m.expect("everybody reaches everybody again", "tcp", 81, |_, _| true)
}
