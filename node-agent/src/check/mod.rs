//! What a node needs of its machine and kernel, and what it can do without: looked for, not guessed by versions.
//!
//! [`report`] says what there is, from what a [`Machine`] answers; [`machine`] is the one the program runs on.

pub mod machine;

use std::fmt;
use std::path::Path;

/// What can be looked for.
pub trait Machine {
    /// Whether the kernel has an attach point for programs.
    fn hook(&self, hook: Hook) -> Presence;
    /// Whether a file system of this kind is mounted at `path`.
    fn is_mounted(&self, path: &Path, kind: &str) -> bool;
    /// Whether the kernel knows the file system, or has a module for it.
    fn knows_filesystem(&self, kind: &str) -> bool;
    /// Whether an interface of this kind can be made.
    fn link(&self, kind: Link) -> Presence;
    /// What a file holds, if it is there.
    fn read(&self, path: &str) -> Option<String>;
    /// Whether a namespace of this kind (`mnt`, `net`, ...) exists.
    fn has_namespace(&self, kind: &str) -> bool;
    /// Whether a program is in `PATH`.
    fn has_program(&self, name: &str) -> bool;
}

/// Where programs attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// On interfaces, both ways (Linux 6.6).
    Tcx,
    /// On sockets of a cgroup: `connect` and its kin.
    SocketAddress,
    /// On TCP's steps in a cgroup.
    SocketOps,
    /// On interfaces, before the kernel has made a packet of it.
    Xdp,
}

/// Kinds of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Pairs, for pods.
    Veth,
    /// Tunnels.
    Vxlan,
}

/// Whether something is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Here,
    /// It is not; the kernel's words.
    Missing(String),
    /// This process may not know.
    Forbidden,
}

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether a node cannot run without it.
    pub required: bool,
    /// What it is for.
    pub purpose: &'static str,
    /// `None` if it is there; else what to do.
    pub missing: Option<String>,
}

/// Everything that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// In the order they matter.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether everything required is there.
    pub fn is_sufficient(&self) -> bool {
        self.findings.iter().all(|finding| !finding.required || finding.missing.is_none())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or_default();
        for Finding { name, required, purpose, missing } in &self.findings {
            match (missing, required) {
                (None, _) => writeln!(f, "ok       {name:width$}  {purpose}")?,
                (Some(advice), true) => writeln!(f, "MISSING  {name:width$}  {purpose}: {advice}")?,
                (Some(advice), false) => writeln!(f, "absent   {name:width$}  {purpose}; optional: {advice}")?,
            }
        }
        Ok(())
    }
}

/// Looks for what the network needs; `cgroup` is where the cgroup v2 file system is mounted. An agent does so at its
/// start.
pub fn network(machine: &dyn Machine, cgroup: &Path) -> Report {
    let advice = |text: &str| text.to_owned();
    let mount = format!("mount it: mount -t cgroup2 none {}", cgroup.display());
    let newer = "use a kernel of version 6.6 or later with CONFIG_NET_XGRESS (Debian 12: linux-image-cloud-amd64 of bookworm-backports)";
    let cgroup_bpf = "use a kernel with CONFIG_CGROUP_BPF";
    let is_on = |path: &str| machine.read(path).is_some_and(|value| value.trim() != "0");
    let findings = vec![
        hook(machine, Hook::Tcx, "tcx", true, "carries every pod's packets", newer),
        hook(machine, Hook::SocketAddress, "cgroup socket hooks", true, "services for pods and the node", cgroup_bpf),
        finding("cgroup v2", true, "where the socket hooks attach", machine.is_mounted(cgroup, "cgroup2"), mount),
        finding(
            "BPF file system",
            true,
            "programs and maps outlive the agent",
            machine.knows_filesystem("bpf"),
            advice("use a kernel with CONFIG_BPF_SYSCALL"),
        ),
        link(
            machine,
            Link::Veth,
            "veth",
            true,
            "connects pods",
            "load the module veth, or use a kernel with CONFIG_VETH",
        ),
        link(
            machine,
            Link::Vxlan,
            "VXLAN",
            false,
            "reaches nodes that are not on the same link",
            "load the module vxlan, or keep all nodes on one link",
        ),
        hook(
            machine,
            Hook::Xdp,
            "XDP",
            false,
            "NodePorts before the kernel's own work",
            "use a kernel with CONFIG_BPF_SYSCALL",
        ),
        hook(machine, Hook::SocketOps, "TCP hooks", false, "latencies of services", cgroup_bpf),
        finding(
            "eBPF JIT compiler",
            false,
            "speed",
            is_on("/proc/sys/net/core/bpf_jit_enable"),
            advice("set the sysctl net.core.bpf_jit_enable to 1"),
        ),
        finding(
            "kernel type information",
            false,
            "readable maps for bpftool",
            machine.read("/sys/kernel/btf/vmlinux").is_some(),
            advice("use a kernel with CONFIG_DEBUG_INFO_BTF"),
        ),
    ];
    Report { findings }
}

/// Looks for all that a node, or a cluster of nodes on one machine, needs.
pub fn report(machine: &dyn Machine, cgroup: &Path) -> Report {
    let mut report = network(machine, cgroup);
    let namespaces = ["mnt", "net", "pid", "uts", "ipc", "cgroup"];
    let lacking: Vec<&str> = namespaces.into_iter().filter(|kind| !machine.has_namespace(kind)).collect();
    report.findings.push(finding(
        "namespaces",
        true,
        "what containers and nodes are made of",
        lacking.is_empty(),
        format!("the kernel has none for {}: use one with CONFIG_NAMESPACES", lacking.join(", ")),
    ));
    report.findings.push(finding(
        "overlay file system",
        true,
        "containers' images",
        machine.knows_filesystem("overlay"),
        "load the module overlay, or use a kernel with CONFIG_OVERLAY_FS".to_owned(),
    ));
    for (name, required, purpose, package) in [
        ("containerd", true, "runs containers", "containerd"),
        ("containerd-shim-runc-v2", true, "runs containers", "containerd"),
        ("runc", true, "runs containers", "runc"),
        ("nft", false, "the way beyond this machine for nodes on it", "nftables"),
    ] {
        let advice = format!("apt-get install {package}");
        report.findings.push(finding(name, required, purpose, machine.has_program(name), advice));
    }
    report
}

fn finding(name: &'static str, required: bool, purpose: &'static str, is_here: bool, advice: String) -> Finding {
    Finding { name, required, purpose, missing: (!is_here).then_some(advice) }
}

fn hook(
    machine: &dyn Machine,
    hook: Hook,
    name: &'static str,
    required: bool,
    purpose: &'static str,
    advice: &str,
) -> Finding {
    Finding { name, required, purpose, missing: missing(machine.hook(hook), advice) }
}

fn link(
    machine: &dyn Machine,
    link: Link,
    name: &'static str,
    required: bool,
    purpose: &'static str,
    advice: &str,
) -> Finding {
    Finding { name, required, purpose, missing: missing(machine.link(link), advice) }
}

fn missing(presence: Presence, advice: &str) -> Option<String> {
    match presence {
        Presence::Here => None,
        Presence::Missing(words) => Some(format!("{advice} ({words})")),
        Presence::Forbidden => {
            Some("no permission to look: run as root; in a container, with CAP_BPF and CAP_NET_ADMIN".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
