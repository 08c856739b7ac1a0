//! Machines without Xebec, beside the cluster's nodes and on the same link: the server that all ways lead to, and a machine
//! for each of the other ways, which has its rules and nobody else's. So no way pays for another.
//!
//! Each is a network namespace held by a process that sleeps. The server and the clients have control groups beside the
//! cluster's, so that clients of every way get the same share of a busy machine.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::cluster::cgroups::{self, Hierarchy};
use crate::cluster::{Cluster, Paths, links};

/// The server's machine.
pub const SERVER: &str = "server";
/// The machine of the bare way: it forwards, and has no rules.
pub const BARE: &str = "bare";
/// Another like it.
pub const BARE_TOO: &str = "bare-too";
/// Two containers of [`BARE`], and one of [`BARE_TOO`].
pub const BARE_PODS: [&str; 3] = ["pod-1", "pod-2", "pod-3"];
/// An address of the server that is reached through [`BARE`], as node ports are through a node.
pub const ROUTED: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 2);
/// The group of all machines but the server, and below either the one that processes are in.
const OTHERS: &str = "others";
const MACHINE: &str = "machine";

/// The machines.
pub struct Stage {
    cluster: Cluster,
    hierarchies: Vec<Hierarchy>,
    fabric: PathBuf,
    machines: BTreeMap<&'static str, Machine>,
}

struct Machine {
    holder: Child,
    address: Ipv4Addr,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for part in [SERVER, OTHERS] {
            let group = self.group(part);
            let gone = cgroups::kill_all(&self.hierarchies, &group);
            if let Err(error) = gone.and_then(|_| cgroups::remove(&self.hierarchies, &group)) {
                eprintln!("note: {error:#}");
            }
        }
    }
}

impl Stage {
    /// Makes them, on the link of a cluster of the bench's own.
    pub fn new(cluster: Cluster, paths: &Paths) -> anyhow::Result<Self> {
        let hierarchies = cgroups::hierarchies()?;
        let mut stage = Self { cluster, hierarchies, fabric: paths.fabric(), machines: BTreeMap::new() };
        for (number, name) in [SERVER, BARE, BARE_TOO, "iptables", "nftables"].into_iter().enumerate() {
            let address = stage.cluster.addresses().node(90 + u16::try_from(number).unwrap_or_default());
            stage.add(name, address)?;
            stage.plug(name)?;
        }
        stage.route_through_bare()?;
        for (number, (pod, node)) in BARE_PODS.into_iter().zip([BARE, BARE, BARE_TOO]).enumerate() {
            stage.add_pod(pod, node, u8::try_from(number + 1).unwrap_or_default())?;
        }
        stage.connect_pods()?;
        Ok(stage)
    }

    /// A machine's address.
    pub fn address(&self, machine: &str) -> anyhow::Result<Ipv4Addr> {
        Ok(self.machine(machine)?.address)
    }

    /// A command on a machine.
    pub fn on(&self, machine: &str, program: &str) -> anyhow::Result<Command> {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/proc/{}/ns/net", self.machine(machine)?.holder.id()), program]);
        cgroups::start_in(
            &mut command,
            &self.hierarchies,
            // As deep as what runs on a node: each level costs at every switch between processes.
            &self.group(if machine == SERVER { SERVER } else { OTHERS }).join(MACHINE),
        )?;
        Ok(command)
    }

    /// The group that the machines' own is in. Not within the cluster's, where what the cluster does not know is killed.
    fn group(&self, part: &str) -> PathBuf {
        let cluster = self.cluster.name.cgroup();
        cluster.with_file_name(format!("{}-{part}", self.cluster.name.as_str()))
    }

    /// A command on a machine, with its input.
    pub fn feed(&self, machine: &str, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
        let mut child = self
            .on(machine, program)?
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let written = child.stdin.take().context("no input")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} (Debian's iptables and nftables are needed): {}", said.trim());
        written.context("the rules were not read")
    }

    /// Whether the bare machines' containers reach each other through a tunnel.
    pub fn tunnel(&self, through: bool) -> anyhow::Result<()> {
        for (node, other, pods) in [(BARE, BARE_TOO, 3), (BARE_TOO, BARE, 1)] {
            let address = self.address(other)?.to_string();
            let (device, gateway) = if through { ("tunnel", format!("10.206.0.{pods}")) } else { ("eth0", address) };
            self.ip(node, &format!("route replace 10.205.{pods}.0/24 via {gateway} dev {device} onlink"))?;
        }
        Ok(())
    }

    fn machine(&self, name: &str) -> anyhow::Result<&Machine> {
        self.machines.get(name).with_context(|| format!("no machine {name}"))
    }

    fn add(&mut self, name: &'static str, address: Ipv4Addr) -> anyhow::Result<()> {
        let hold = || {
            // This thread's alone, and its child's.
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (try sudo)")?;
            Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn().context("cannot run sleep")
        };
        let holder = std::thread::spawn(hold).join().map_err(|_| anyhow::anyhow!("the thread died"))??;
        self.machines.insert(name, Machine { holder, address });
        self.ip(name, "link set lo up")?;
        self.run(self.on(name, "sysctl")?, "-qw net.ipv4.ip_forward=1")
    }

    /// Joins a machine to the nodes' link.
    fn plug(&self, name: &str) -> anyhow::Result<()> {
        let machine = self.machine(name)?;
        let (pid, bridge) = (machine.holder.id(), links::BRIDGE);
        let mut fabric = Command::new("nsenter");
        fabric.args([&format!("--net={}", self.fabric.display()), "ip"]);
        self.run(fabric, &format!("link add x-{name} up master {bridge} type veth peer name eth0 netns {pid}"))?;
        let host = self.cluster.addresses().host();
        let prefix = self.cluster.addresses().subnet().prefix_len();
        self.ip(name, &format!("address add {}/{prefix} dev eth0", machine.address))?;
        self.ip(name, "link set eth0 up")?;
        self.ip(name, &format!("route add default via {host}"))
    }

    /// Gives the server an address that the host reaches through the bare machine, and it the host.
    fn route_through_bare(&self) -> anyhow::Result<()> {
        let (bare, server) = (self.address(BARE)?, self.address(SERVER)?);
        self.ip(SERVER, &format!("address add {ROUTED} dev lo"))?;
        self.ip(SERVER, &format!("rule add from {ROUTED} lookup 202"))?;
        self.ip(SERVER, &format!("route add default via {bare} table 202"))?;
        self.ip(BARE, &format!("route add {ROUTED} via {server}"))?;
        self.route_from_host(ROUTED, bare)
    }

    /// Has the host reach an address through a machine. The route goes with the host's link to the cluster.
    pub fn route_from_host(&self, to: Ipv4Addr, through: Ipv4Addr) -> anyhow::Result<()> {
        self.run(Command::new("ip"), &format!("route replace {to} via {through}"))
    }

    fn add_pod(&mut self, name: &'static str, node: &'static str, number: u8) -> anyhow::Result<()> {
        let address = Ipv4Addr::new(10, 205, number, 1);
        self.add(name, address)?;
        let pid = self.machine(name)?.holder.id();
        self.ip(node, &format!("link add {name} up type veth peer name eth0 netns {pid}"))?;
        self.ip(node, &format!("address add 10.205.{number}.254/24 dev {name}"))?;
        self.ip(name, &format!("address add {address}/24 dev eth0"))?;
        self.ip(name, "link set eth0 up")?;
        self.ip(name, &format!("route add default via 10.205.{number}.254"))
    }

    fn connect_pods(&self) -> anyhow::Result<()> {
        for (node, other, own) in [(BARE, BARE_TOO, 1), (BARE_TOO, BARE, 3)] {
            let (local, remote) = (self.address(node)?, self.address(other)?);
            let device = format!("type vxlan id 7 dstport 4790 local {local} remote {remote} dev eth0");
            self.ip(node, &format!("link add tunnel up {device}"))?;
            self.ip(node, &format!("address add 10.206.0.{own}/24 dev tunnel"))?;
        }
        self.tunnel(false)
    }

    fn ip(&self, machine: &str, arguments: &str) -> anyhow::Result<()> {
        self.run(self.on(machine, "ip")?, arguments)
    }

    fn run(&self, mut command: Command, arguments: &str) -> anyhow::Result<()> {
        let output = command.args(arguments.split(' ')).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments}: {}", said.trim());
        Ok(())
    }
}
