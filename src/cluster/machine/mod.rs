//! Nodes that are virtual machines: each has a kernel of its own, and is on the cluster's bridge like any other node.
//!
//! - `kernel`: which kernels there are
//! - `initramfs`, `init.sh`: how a machine gets from its kernel to the host's files, and from there to `node-init`
//! - `qemu`: what it is made of
//! - `probe`: what this computer lacks for machines, and whether it can run them by itself
//! - `keeper`: `xebec machine`, the process that a machine hangs on
//! - `commands/`: commands in a machine, which has no namespaces to enter

use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::{Cluster, NodeKind, Paths, cgroups, node};
use crate::progress::Progress;
use kernel::Kernel;

pub mod commands;
pub mod initramfs;
pub mod keeper;
pub mod kernel;
pub mod probe;
mod qemu;

/// What the machines of a cluster have in common. Kept in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Where their kernel's package is unpacked.
    pub kernel: PathBuf,
    /// What runs them.
    pub accelerator: Accelerator,
    /// How much memory each has.
    pub memory_mib: u32,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accelerator = match self.accelerator {
            Accelerator::Kvm => "KVM",
            Accelerator::Tcg => "TCG",
        };
        write!(f, "virtual machines of {} MiB, by {accelerator}, with the kernel in ", self.memory_mib)?;
        self.kernel.display().fmt(f)
    }
}

/// What runs a machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, which translates them: slow, and works everywhere.
    Tcg,
}

/// What `up` was told of machines.
#[derive(Debug, clap::Args)]
pub struct MachineArgs {
    /// A new cluster's nodes are virtual machines (QEMU), each with a kernel of its own
    #[arg(long)]
    vm: bool,
    /// The machines' kernel: a directory with a package's boot/ and lib/modules/ [default: Debian's, of scripts/setup.sh vm]
    #[arg(long, value_name = "DIR", requires = "vm")]
    vm_kernel: Option<PathBuf>,
    /// What runs the machines [default: KVM if it runs their kernel here, else TCG]
    #[arg(long, value_enum, requires = "vm")]
    vm_accelerator: Option<Accelerator>,
    /// The memory of each machine [default: 1024]
    #[arg(long, value_name = "MIB", requires = "vm", value_parser = clap::value_parser!(u32).range(512..))]
    vm_memory_mib: Option<u32>,
}

/// Enough for containerd, the agent and a few pods.
const DEFAULT_MEMORY_MIB: u32 = 1024;

impl MachineArgs {
    /// What the nodes of a new cluster are.
    pub fn new_kind(&self) -> anyhow::Result<NodeKind> {
        if !self.vm {
            return Ok(NodeKind::Namespaces);
        }
        let kernel = self.kernel_dir()?.map_or_else(kernel::default_dir, Ok)?;
        probe::check(&kernel)?;
        let accelerator = match self.vm_accelerator {
            Some(accelerator) => accelerator,
            None => {
                let progress = Progress::new();
                progress.doing("trying whether KVM runs the machines' kernel".into());
                let found = probe::accelerator(&Kernel::newest_in(&kernel)?);
                progress.finish();
                found?
            }
        };
        Ok(NodeKind::Machines(Settings {
            kernel,
            accelerator,
            memory_mib: self.vm_memory_mib.unwrap_or(DEFAULT_MEMORY_MIB),
        }))
    }

    /// An error if a cluster's nodes are not what was asked for.
    pub fn check_against(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let as_asked = match &cluster.node_kind {
            NodeKind::Namespaces => !self.vm,
            NodeKind::Machines(now) => {
                self.kernel_dir()?.is_none_or(|dir| dir == now.kernel)
                    && self.vm_accelerator.is_none_or(|accelerator| accelerator == now.accelerator)
                    && self.vm_memory_mib.is_none_or(|memory_mib| memory_mib == now.memory_mib)
            }
        };
        if !as_asked {
            bail!(
                "the nodes of the cluster {} are {}, which they stay: take it down first, or give another --name",
                cluster.name,
                cluster.node_kind
            );
        }
        Ok(())
    }

    /// In full, for it is kept and used elsewhere.
    fn kernel_dir(&self) -> anyhow::Result<Option<PathBuf>> {
        let full = |dir: &PathBuf| dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()));
        self.vm_kernel.as_ref().map(full).transpose()
    }
}

/// Starts a node that is a machine and does not run. What an earlier life left is cleared; its disk stays.
pub fn start(cluster: &Cluster, paths: &Paths, number: u16) -> anyhow::Result<Process> {
    let name = cluster.name.node(number);
    let (hierarchies, group) = (cgroups::hierarchies()?, node::group(cluster, &name));
    node::clear(&hierarchies, &group)?;
    for dir in [paths.node(&name), paths.machines(), paths.machine(&name)] {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    // Machines that start side by side find one that is whole.
    commands::make_authority(&paths.machines())?;
    let log = node::open_log(&paths.log(&name))?;
    let mut command = Command::new(paths.binary());
    command
        .arg0("xebec")
        .args(["machine", "--name", cluster.name.as_str(), "--number", &number.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    cgroups::start_in(&mut command, &hierarchies, &group)?;
    let child = command.spawn().with_context(|| format!("cannot run {}", paths.binary().display()))?;
    Process::of(i32::try_from(child.id())?).context("the machine's keeper died at once; see its log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        given: MachineArgs,
    }

    fn given(arguments: &[&str]) -> MachineArgs {
        CommandLine::try_parse_from(["up"].iter().chain(arguments)).map(|line| line.given).unwrap()
    }

    fn cluster(node_kind: serde_json::Value) -> Cluster {
        serde_json::from_value(serde_json::json!({"name": "try", "index": 7, "nodes": 1, "nodeKind": node_kind}))
            .unwrap()
    }

    fn of_machines() -> Cluster {
        let settings = serde_json::json!({"kind": "machines", "kernel": "/", "accelerator": "tcg", "memoryMib": 1024});
        cluster(settings)
    }

    #[test]
    fn the_record_says_what_the_nodes_are() {
        let before = of_machines();
        let text = serde_json::to_string(&before).unwrap();
        let after: Cluster = serde_json::from_str(&text).unwrap();
        assert_eq!(after.node_kind, before.node_kind);
        let NodeKind::Machines(settings) = after.node_kind else { panic!("{text}") };
        assert_eq!((settings.accelerator, settings.memory_mib), (Accelerator::Tcg, 1024));
    }

    #[test]
    fn a_record_of_before_is_of_namespaces() {
        let old: Cluster = serde_json::from_value(serde_json::json!({"name": "try", "index": 7, "nodes": 1})).unwrap();
        assert_eq!(old.node_kind, NodeKind::Namespaces);
        assert_eq!(cluster(serde_json::json!({"kind": "namespaces"})).node_kind, NodeKind::Namespaces);
    }

    #[test]
    fn a_cluster_keeps_what_its_nodes_are() {
        let machines = of_machines();
        for kept in [&[][..], &["--vm"], &["--vm", "--vm-memory-mib", "1024", "--vm-kernel", "/"]] {
            given(kept).check_against(&machines).unwrap();
        }
        for other in [&["--vm", "--vm-memory-mib", "2048"], &["--vm", "--vm-accelerator", "kvm"]] {
            let error = given(other).check_against(&machines).unwrap_err().to_string();
            assert!(error.contains("virtual machines"), "{error}");
        }
        let error = given(&["--vm"]).check_against(&cluster(serde_json::json!({"kind": "namespaces"}))).unwrap_err();
        assert!(error.to_string().contains("sets of namespaces"), "{error:#}");
    }

    #[test]
    fn options_for_machines_need_machines() {
        assert!(CommandLine::try_parse_from(["up", "--vm-memory-mib", "1024"]).is_err());
        assert!(CommandLine::try_parse_from(["up", "--vm", "--vm-memory-mib", "16"]).is_err());
    }
}
