//! Namespaces, nodes and pods, and the traffic between them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use xebec_ebpf_loader::Maps;
use xebec_ebpf_loader::layout::VERSION;

use crate::agent;
use crate::scripts::{CLIENT, DATAGRAMS, HTTP, LARGE, SERVER, STREAM, TRANSFER};

/// Tries for five seconds.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begin = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => {
                let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
                assert!(now.tv_sec() - begin.tv_sec() < 10, "{what}: {error}");
                // Somebody else's turn, so that what is waited for can happen.
                Command::new("sleep").arg("0.05").status().unwrap();
            }
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace, held by a process that sleeps.
pub struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "3600"]).spawn().unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        while fs::read_link(&path).map_or(true, |link| link == own) {
            std::thread::yield_now();
        }
        let namespace = Self(child);
        namespace.ip("link set lo up");
        namespace
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn ip(&self, arguments: &str) -> String {
        let mut all = vec![format!("--net={}", self.path()), "ip".to_owned()];
        all.extend(arguments.split_whitespace().map(str::to_owned));
        run("nsenter", &all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Joins it to the bridge port `port` of `fabric`.
    fn plug(&self, fabric: &Self, port: &str) {
        fabric.ip(&format!("link add {port} type veth peer name up0 netns {}", self.0.id()));
        fabric.ip(&format!("link set {port} up"));
        self.ip("link set up0 up");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where processes run: a network namespace and a cgroup.
pub struct Place {
    pub name: String,
    pub address: String,
    /// Of IPv6, where there is that.
    pub address6: String,
    namespace: Rc<Namespace>,
    cgroup: Option<PathBuf>,
    server: Option<Child>,
}

/// A server's answer.
#[derive(Debug)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// The asker's address as the server saw it.
    pub seen: String,
    /// The server's address as the asker sees it.
    pub peer: String,
}

impl Place {
    fn new(name: &str, address: &str, namespace: Rc<Namespace>, cgroup: Option<PathBuf>) -> Self {
        let (own_name, address) = (name.to_owned(), address.to_owned());
        let mut place = Self { name: own_name, address, address6: String::new(), namespace, cgroup, server: None };
        let mut server = place.python(SERVER, &[name]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the server of {name}");
        place.server = Some(server);
        place
    }

    /// The same place, without a server of its own.
    fn again(&self) -> Self {
        Self {
            name: self.name.clone(),
            address: self.address.clone(),
            address6: self.address6.clone(),
            namespace: Rc::clone(&self.namespace),
            cgroup: self.cgroup.clone(),
            server: None,
        }
    }

    fn python(&self, script: &str, arguments: &[&str]) -> Command {
        // The shell joins the cgroup before it becomes the program: from outside the namespace, where the cgroup's
        // file system is to be seen.
        let join = match &self.cgroup {
            Some(cgroup) => format!("echo $$ > {}/cgroup.procs; ", cgroup.display()),
            None => String::new(),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{join}exec nsenter --net={} python3 \"$@\"", self.namespace.path()), "sh"]);
        command.args(["-S", "-c", script]).args(arguments);
        command
    }

    pub fn ask(&self, protocol: &str, to: &str) -> Result<Answer, String> {
        let (host, port) = to.rsplit_once(':').unwrap();
        let output = self.python(CLIENT, &[protocol, host, port]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            [server, seen, peer] if *server != "error:" => {
                Ok(Answer { server: (*server).to_owned(), seen: (*seen).to_owned(), peer: (*peer).to_owned() })
            }
            _ => Err(text),
        }
    }

    /// What a script prints.
    pub fn output(&self, script: &str, arguments: &[&str]) -> String {
        let output = self.python(script, arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Sends one datagram of that many bytes; the answer.
    pub fn ask_large(&self, to: &str, bytes: usize) -> String {
        let (host, port) = to.rsplit_once(':').unwrap();
        self.output(LARGE, &[host, port, &bytes.to_string()])
    }

    /// Status, weight and body of an HTTP answer.
    pub fn http(&self, url: &str) -> String {
        self.output(HTTP, &[url])
    }

    /// A datagram socket that stays.
    pub fn datagrams(&self, to: &str, connected: bool) -> Stream {
        let kind = if connected { "connected" } else { "unconnected" };
        let (host, port) = to.rsplit_once(':').unwrap();
        self.start(DATAGRAMS, &[kind, host, port], &format!("{kind} datagrams from {} to {to}", self.name))
    }

    /// Sends that many bytes, and asserts that they all arrive.
    pub fn transfer(&self, to: &str, port: u16, bytes: usize) {
        let output = self.python(TRANSFER, &[to, &port.to_string(), &bytes.to_string()]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), bytes.to_string(), "{} to {to}", self.name);
    }

    /// Opens a connection that stays.
    pub fn open(&self, to: &str) -> Stream {
        let (host, port) = to.rsplit_once(':').unwrap();
        self.start(STREAM, &[host, port], &format!("{} to {to}", self.name))
    }

    /// Starts a script that says "open" when it is ready.
    pub fn start(&self, script: &str, arguments: &[&str], name: &str) -> Stream {
        let mut child = self.python(script, arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut stream = Stream { name: name.to_owned(), child, input, output };
        assert_eq!(stream.line(), "open", "{}", stream.name);
        stream
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// An open connection to a server that sends back what it gets.
pub struct Stream {
    name: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Stream {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Sends a line; the line that comes back.
    pub fn ask(&mut self) -> String {
        writeln!(self.input, "ask").unwrap();
        self.line()
    }

    /// Sends a line and waits for it to come back.
    pub fn exchange(&mut self, text: &str) {
        writeln!(self.input, "{text}").unwrap();
        assert_eq!(self.line(), text, "{}", self.name);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Node {
    facts: Value,
    namespace: Rc<Namespace>,
    cgroup: PathBuf,
    bpffs: PathBuf,
    host: Place,
    agent: Option<Agent>,
}

struct Agent {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Agent {
    /// Reads lines up to an answer.
    fn answer(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the agent died");
            // The test harness writes its own lines, not all of them ended.
            if let Some(at) = line.find('@') {
                return serde_json::from_str(&line[at + 1..]).unwrap();
            }
        }
    }
}

/// Three nodes, a router between them, and a client outside.
pub struct Cluster {
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    nodes: BTreeMap<String, Node>,
    client: Place,
    pods: BTreeMap<String, Rc<Namespace>>,
    fabric: Namespace,
    cgroup: PathBuf,
    dir: tempfile::TempDir,
    families: Families,
}

/// Which addresses there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    Both,
    V6,
}

impl Families {
    fn has_v4(self) -> bool {
        self != Self::V6
    }

    fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// Where the cgroup v2 file system is.
fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    PathBuf::from(mount.expect("a cgroup v2 mount")[1])
}

impl Cluster {
    pub fn new() -> Self {
        Self::make(Families::V4)
    }

    /// With IPv6 beside IPv4: what is 172.30.0.N has fd00:172:30::N, too.
    pub fn dual_stack() -> Self {
        Self::make(Families::Both)
    }

    /// With IPv6 alone.
    pub fn ipv6() -> Self {
        Self::make(Families::V6)
    }

    fn make(families: Families) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup_root().join(format!("xebec-network-test-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fabric = Namespace::new();
        for (bridge, address) in [("br0", "172.30.0.1/24"), ("br1", "172.31.0.1/24")] {
            fabric.ip(&format!("link add {bridge} type bridge"));
            if families.has_v4() {
                fabric.ip(&format!("address add {address} dev {bridge}"));
            }
            fabric.ip(&format!("link set {bridge} up"));
            if families.has_v6() {
                fabric.ip(&format!("address add {} dev {bridge} nodad", beside(address)));
            }
        }
        if families.has_v6() {
            let forward = "net.ipv6.conf.all.forwarding=1";
            run("nsenter", &[&format!("--net={}", fabric.path()), "sysctl", "-qw", forward]);
        }
        run("nsenter", &[&format!("--net={}", fabric.path()), "sysctl", "-qw", "net.ipv4.ip_forward=1"]);

        let outside = Rc::new(Namespace::new());
        outside.plug(&fabric, "client");
        fabric.ip("link set client master br0");
        if families.has_v4() {
            outside.ip("address add 172.30.0.50/24 dev up0");
            outside.ip("route add default via 172.30.0.1");
        }
        if families.has_v6() {
            outside.ip("address add fd00:172:30::50/64 dev up0 nodad");
            outside.ip("route add default via fd00:172:30::1");
        }
        let mut client = Place::new("client", "172.30.0.50", outside, None);
        client.address6 = "fd00:172:30::50".to_owned();

        let mut cluster = Self {
            objects: BTreeMap::new(),
            nodes: BTreeMap::new(),
            client,
            pods: BTreeMap::new(),
            fabric,
            cgroup,
            dir,
            families,
        };
        for (number, network) in [(1, "172.30.0"), (2, "172.30.0"), (3, "172.31.0")] {
            cluster.add_node(number, network);
        }
        for name in ["n1", "n2", "n3"] {
            cluster.start_agent(name);
        }
        cluster
    }

    fn add_node(&mut self, number: u32, network: &str) {
        let name = format!("n{number}");
        let address = format!("{network}.1{number}");
        let namespace = Rc::new(Namespace::new());
        namespace.plug(&self.fabric, &name);
        self.fabric.ip(&format!("link set {name} master {}", if network == "172.30.0" { "br0" } else { "br1" }));
        let cgroup = self.cgroup.join(&name);
        fs::create_dir(&cgroup).unwrap();
        let bpffs = self.dir.path().join(format!("{name}-bpf"));
        let mut facts = json!({
            "name": name, "bpffs": bpffs, "cgroup": cgroup,
            "leases": self.dir.path().join(format!("{name}-leases")),
            "podNamespaces": self.pod_namespaces(&name),
            "domainNames": self.dir.path().join(format!("{name}-names")),
        });
        let (mut ranges, mut addresses) = (Vec::new(), Vec::new());
        if self.families.has_v4() {
            namespace.ip(&format!("address add {address}/24 dev up0"));
            namespace.ip(&format!("route add default via {network}.1"));
            let pods = format!("10.244.{number}.0/24");
            facts["address"] = address.clone().into();
            facts["podCidr"] = pods.clone().into();
            ranges.push(pods);
            addresses.push(address.clone());
        }
        let mut address6 = String::new();
        if self.families.has_v6() {
            let net = beside(&format!("{address}/24"));
            address6 = beside(&address);
            namespace.ip(&format!("address add {net} dev up0 nodad"));
            namespace.ip(&format!("route add default via {}", beside(&format!("{network}.1"))));
            let pods6 = format!("fd00:10:244:{number}::/64");
            facts["address6"] = address6.clone().into();
            facts["podCidr6"] = pods6.clone().into();
            ranges.push(pods6);
            addresses.push(address6.clone());
        }
        facts["addresses"] = json!(addresses);
        facts["ranges"] = json!(ranges);
        // As its agent would say.
        let link = beside(&format!("{network}.0/24"));
        facts["links"] = format!("{network}.0/24,{link}").into();
        let object = node_object(&facts, true);
        let mut host = Place::new(&format!("{name}-host"), &address, Rc::clone(&namespace), Some(cgroup.clone()));
        host.address6 = address6;
        self.remember("nodes", &object);
        self.nodes.insert(name, Node { facts, namespace, cgroup, bpffs, host, agent: None });
    }

    /// Where a node's pods' network namespaces are.
    fn pod_namespaces(&self, node: &str) -> PathBuf {
        let dir = self.dir.path().join(format!("{node}-netns"));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn remember(&mut self, collection: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.entry(collection.to_owned()).or_default().insert(name, object.clone());
    }

    pub fn start_agent(&mut self, name: &str) {
        let objects: BTreeMap<&String, Vec<&Value>> =
            self.objects.iter().map(|(collection, all)| (collection, all.values().collect())).collect();
        let node = self.nodes.get_mut(name).unwrap();
        let mut facts = node.facts.clone();
        facts["objects"] = json!(objects);
        let exe = std::env::current_exe().unwrap();
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", node.namespace.path()))
            .arg(exe)
            .args(["--exact", "agent::agent", "--ignored", "--nocapture"])
            .env(agent::VARIABLE, facts.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut agent = Agent { child, input, output };
        assert_eq!(agent.answer(), json!({ "ready": true }), "{name}");
        node.agent = Some(agent);
    }

    /// SIGKILL.
    pub fn kill_agent(&mut self, name: &str) {
        let mut agent = self.nodes.get_mut(name).unwrap().agent.take().unwrap();
        agent.child.kill().unwrap();
        agent.child.wait().unwrap();
    }

    fn order(&mut self, name: &str, order: &Value) -> Value {
        let agent = self.nodes.get_mut(name).unwrap().agent.as_mut().unwrap();
        writeln!(agent.input, "{order}").unwrap();
        let answer = agent.answer();
        assert!(answer.get("error").is_none(), "{order}: {answer}");
        answer
    }

    fn order_all(&mut self, order: &Value) {
        let names: Vec<String> =
            self.nodes.iter().filter(|(_, n)| n.agent.is_some()).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.order(&name, order);
        }
    }

    /// Makes a pod with a server in it.
    pub fn pod(&mut self, node: &str, name: &str) -> Place {
        let namespace = Rc::new(Namespace::new());
        let answer = self.order(node, &json!({ "do": "setup", "uid": name, "netns": namespace.path() }));
        let again = self.order(node, &json!({ "do": "setup", "uid": name, "netns": namespace.path() }));
        assert_eq!(answer, again, "setting up a pod again");
        self.pods.insert(name.to_owned(), Rc::clone(&namespace));
        std::os::unix::fs::symlink(namespace.path(), self.pod_namespaces(node).join(name)).unwrap();
        let cgroup = self.nodes[node].cgroup.join(name);
        fs::create_dir(&cgroup).unwrap();
        let mut place = Place::new(name, answer["address"].as_str().unwrap(), namespace, Some(cgroup));
        let all = answer["addresses"].as_array().unwrap();
        let six = all.iter().filter_map(Value::as_str).find(|address| address.contains(':'));
        place.address6 = six.unwrap_or_default().to_owned();
        place
    }

    /// Makes a pod that the API knows, with a label `app` and the server's port by the name `web`.
    pub fn labelled_pod(&mut self, node: &str, name: &str, app: &str) -> Place {
        self.put("pods", &pod_object(node, name, app, None));
        let place = self.pod(node, name);
        self.put("pods", &pod_object(node, name, app, Some(&place.address)));
        place
    }

    /// Changes what the API knows of a pod.
    pub fn put_pod(&mut self, node: &str, name: &str, app: &str, address: &str) {
        self.put("pods", &pod_object(node, name, app, Some(address)));
    }

    pub fn remove_pod(&mut self, node: &str, name: &str) {
        self.order(node, &json!({ "do": "teardown", "uid": name }));
        self.order(node, &json!({ "do": "teardown", "uid": name }));
    }

    pub fn host(&self, node: &str) -> Place {
        self.nodes[node].host.again()
    }

    pub fn client(&self) -> Place {
        self.client.again()
    }

    /// Pulls a node's plug, or puts it back.
    pub fn plug(&self, node: &str, is_in: bool) {
        self.fabric.ip(&format!("link set {node} {}", if is_in { "up" } else { "down" }));
    }

    /// Tells the client's router of a way to pods.
    pub fn route_from_outside(&self, pods: &str, node: &str) {
        self.fabric.ip(&format!("route add {pods} via {node}"));
    }

    pub fn put(&mut self, collection: &str, object: &Value) {
        self.remember(collection, object);
        self.order_all(&json!({ "do": "put", "collection": collection, "object": object }));
    }

    pub fn delete(&mut self, collection: &str, name: &str) {
        self.objects.get_mut(collection).unwrap().remove(name);
        self.order_all(&json!({ "do": "delete", "collection": collection, "name": name }));
    }

    pub fn set_ready(&mut self, node: &str, ready: bool) {
        let object = node_object(&self.nodes[node].facts, ready);
        self.put("nodes", &object);
    }

    /// The node whose MAC the client's neighbour table has for an address.
    pub fn owner_of(&self, address: &str) -> String {
        let neighbours = self.client.namespace.ip(&format!("neighbour show to {address}"));
        let mac = neighbours.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap_or_default();
        let has = |node: &Node| node.namespace.ip("link show up0").contains(mac);
        self.nodes
            .iter()
            .find(|(_, node)| !mac.is_empty() && has(node))
            .map(|(name, _)| name.clone())
            .unwrap_or_default()
    }

    /// Has the link between a node and the others carry no more than this, and say nothing of it.
    pub fn narrow(&self, node: &str, mtu: u32) {
        self.fabric.ip(&format!("link set {node} mtu {mtu}"));
    }

    /// What a node's agent says of the paths to others.
    pub fn path_problem(&mut self, node: &str) -> Option<String> {
        self.order(node, &json!({ "do": "path problem" }))["problem"].as_str().map(str::to_owned)
    }

    /// What a node's agent says of its flow table.
    pub fn flow_table_problem(&mut self, node: &str) -> Option<String> {
        self.order(node, &json!({ "do": "flow table" }))["problem"].as_str().map(str::to_owned)
    }

    /// The client asks for everybody's MAC anew.
    pub fn forget_neighbours(&self) {
        self.client.namespace.ip("neighbour flush all");
    }

    /// Starts an agent over what one of another version left, and connects the node's pods again, as their workers do.
    pub fn start_newer_agent(&mut self, node: &str) {
        let root = self.nodes[node].bpffs.join("xebec");
        fs::rename(root.join(format!("v{VERSION}")), root.join(format!("v{}", VERSION - 1))).unwrap();
        self.start_agent(node);
        for pod in fs::read_dir(self.pod_namespaces(node)).unwrap() {
            let uid = pod.unwrap().file_name().into_string().unwrap();
            let netns = self.pods[&uid].path();
            self.order(node, &json!({ "do": "setup", "uid": uid, "netns": netns }));
        }
    }

    /// Puts an agent with another configuration in the place of a node's.
    pub fn reconfigure(&mut self, node: &str, fact: &str, value: &str) {
        self.kill_agent(node);
        self.nodes.get_mut(node).unwrap().facts[fact] = value.into();
        self.start_agent(node);
    }

    /// A node's uplink, as `ip` shows it.
    pub fn uplink(&self, node: &str) -> String {
        self.nodes[node].namespace.ip("-d link show up0")
    }

    /// What the kernel holds for a node.
    pub fn maps(&self, node: &str) -> Maps {
        Maps::open(&self.nodes[node].bpffs.join(format!("xebec/v{VERSION}"))).unwrap()
    }

    /// Does something at the switch that the nodes are plugged into.
    pub fn at_the_switch<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.fabric.path()).unwrap();
        let there = || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            action()
        };
        std::thread::scope(|scope| scope.spawn(there).join()).unwrap()
    }

    /// Neither route, interface nor pin is left of a pod.
    pub fn assert_no_trace(&self, node: &str, address: &str) {
        let node = &self.nodes[node];
        assert!(!node.namespace.ip("route").contains(address));
        let links = node
            .namespace
            .ip("-o link")
            .lines()
            .filter(|line| line.contains(": xb") && !line.contains("vxlan"))
            .count();
        let pins = fs::read_dir(node.bpffs.join("xebec/links")).unwrap();
        let pins = pins.filter(|pin| pin.as_ref().unwrap().file_name().to_string_lossy().starts_with("pod-")).count();
        assert_eq!(links, pins);
    }

    /// What `xebec down` does to the datapath of a node.
    pub fn unload(&mut self, node: &str) {
        self.kill_agent(node);
        xebec_ebpf_loader::unload(&self.nodes[node].bpffs).unwrap();
        assert!(!self.nodes[node].bpffs.join("xebec").exists());
    }
}

fn pod_object(node: &str, name: &str, app: &str, address: Option<&str>) -> Value {
    let addresses: Vec<Value> = address.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "metadata": { "namespace": "default", "name": name, "uid": name, "labels": { "app": app } },
        "spec": {
            "nodeName": node,
            "containers": [{ "ports": [{ "name": "web", "containerPort": 8_080, "protocol": "TCP" }] }],
        },
        "status": { "phase": "Running", "podIPs": addresses },
    })
}

/// The IPv6 address (or network) that goes with an IPv4 one: 172.30.0.11/24 and fd00:172:30::11/64.
fn beside(address: &str) -> String {
    let (address, length) = address.split_once('/').map_or((address, ""), |(address, _)| (address, "/64"));
    let parts: Vec<&str> = address.split('.').collect();
    format!("fd00:{}:{}::{}{length}", parts[0], parts[1], parts[3])
}

fn node_object(facts: &Value, ready: bool) -> Value {
    let addresses = facts["addresses"].as_array().unwrap();
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({ "type": "InternalIP", "address": address })).collect();
    json!({
        "metadata": { "name": facts["name"], "annotations": { "net.xebec.io/links": facts["links"] } },
        "spec": { "podCIDR": facts["ranges"][0], "podCIDRs": facts["ranges"] },
        "status": {
            "addresses": addresses,
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        },
    })
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            if let Some(agent) = &mut node.agent {
                let _ = agent.child.kill();
                let _ = agent.child.wait();
            }
            let _ = xebec_ebpf_loader::unload(&node.bpffs);
            let _ = Command::new("umount").arg(&node.bpffs).status();
        }
        self.nodes.clear();
        remove_cgroups(&self.cgroup);
    }
}

/// Processes that are being killed keep a cgroup for a moment.
fn remove_cgroups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    for _ in 0..50 {
        if fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        let _ = Command::new("sleep").arg("0.02").status();
    }
}
