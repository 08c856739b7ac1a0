//! What the datapath needs of the kernel, and whether it is there.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::sys::{self, AttachType};

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether Xebec cannot run without it.
    pub required: bool,
    /// `None` if it is there; else what to do.
    pub missing: Option<String>,
}

/// Everything that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report(pub Vec<Finding>);

impl Report {
    /// Whether everything required is there.
    pub fn is_sufficient(&self) -> bool {
        self.0.iter().all(|finding| !finding.required || finding.missing.is_none())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.0 {
            match (&finding.missing, finding.required) {
                (None, _) => writeln!(f, "ok       {}", finding.name)?,
                (Some(advice), true) => writeln!(f, "MISSING  {}: {advice}", finding.name)?,
                (Some(advice), false) => writeln!(f, "absent   {} (optional): {advice}", finding.name)?,
            }
        }
        Ok(())
    }
}

/// Looks for all of it. `cgroup` is where the cgroup v2 file system is mounted.
pub fn probe(cgroup: &Path) -> Report {
    Report(vec![
        finding("tcx (Linux 6.6)", true, tcx()),
        finding("cgroup v2", true, cgroup2(cgroup)),
        finding(
            "eBPF JIT compiler",
            false,
            setting("/proc/sys/net/core/bpf_jit_enable", |v| v != "0", "set the sysctl net.core.bpf_jit_enable to 1"),
        ),
        finding(
            "kernel type information (BTF)",
            false,
            exists("/sys/kernel/btf/vmlinux", "build the kernel with CONFIG_DEBUG_INFO_BTF"),
        ),
    ])
}

fn finding(name: &'static str, required: bool, result: Result<(), String>) -> Finding {
    Finding { name, required, missing: result.err() }
}

fn tcx() -> Result<(), String> {
    match sys::knows_interface_type(AttachType::TcxIngress) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err("no permission to use bpf(2): run as root; in a container, with CAP_BPF and CAP_NET_ADMIN".to_owned())
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            Err("the kernel has no bpf(2): use one with CONFIG_BPF_SYSCALL".to_owned())
        }
        Err(error) => Err(format!("use a kernel of version 6.6 or later with CONFIG_NET_XGRESS ({error})")),
    }
}

fn cgroup2(path: &Path) -> Result<(), String> {
    let advice = || format!("mount it: mount -t cgroup2 none {}", path.display());
    match nix::sys::statfs::statfs(path) {
        Ok(stat) if stat.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC => Ok(()),
        _ => Err(advice()),
    }
}

fn setting(path: &str, good: impl Fn(&str) -> bool, advice: &str) -> Result<(), String> {
    match fs::read_to_string(path) {
        Ok(value) if good(value.trim()) => Ok(()),
        _ => Err(advice.to_owned()),
    }
}

fn exists(path: &str, advice: &str) -> Result<(), String> {
    if Path::new(path).exists() { Ok(()) } else { Err(advice.to_owned()) }
}
