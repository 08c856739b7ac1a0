//! `xebec exec NODE -- COMMAND`: a command on a node, in its namespaces or in the machine that it is.

use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::cluster::machine::commands::client::Target;
use crate::cluster::process::Process;
use crate::cluster::state::State;
use crate::cluster::{Cluster, Name, NodeKind, Paths, cgroups, node};

/// Runs a command on a node.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's name
    #[arg(long, default_value = "xebec")]
    name: Name,
    /// The node: its name, or its number from 1
    node: String,
    /// The command and its arguments; a shell if there are none
    #[arg(last = true)]
    command: Vec<String>,
}

/// Exits as the command did: with its code, or 128 and the number of the signal that ended it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (cluster, node, process) = find(&args.name, &args.node)?;
    let shell = ["/bin/sh".to_owned()];
    let command = if args.command.is_empty() { &shell } else { args.command.as_slice() };
    match cluster.node_kind {
        NodeKind::Namespaces => in_namespaces(&cluster, &node, process, command),
        NodeKind::Machines(_) => in_machine(&Target::of(&cluster, &node)?, command),
    }
}

fn in_machine(target: &Target, command: &[String]) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(target.attached(command));
    // Somebody may still be reading standard input, which can't be told to stop.
    runtime.shutdown_background();
    code.map(ExitCode::from)
}

fn in_namespaces(cluster: &Cluster, node: &str, process: Process, command: &[String]) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command")?;
    enter(cluster, node, process)?;
    // The terminal's signals are the command's; this process waits for it. What is ignored stays ignored across exec,
    // so the handlers are set after the start.
    let mut child = Command::new(program).args(arguments).spawn().with_context(|| format!("cannot run {program}"))?;
    for terminal_signal in [Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { signal(terminal_signal, SigHandler::SigIgn) }.context("cannot ignore the terminal's signals")?;
    }
    let status = child.wait().context("cannot wait for the command")?;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

/// The name of a running node, and the process that it lives as long as.
fn find(name: &Name, node: &str) -> anyhow::Result<(Cluster, String, Process)> {
    let paths = Paths::of(name);
    let Some(cluster) = Cluster::load(&paths)? else {
        bail!("there is no cluster {name} (xebec up --name {name} makes one)");
    };
    let known: Vec<String> = cluster.node_list().into_iter().map(|(name, _)| name).collect();
    let node = match node.parse::<u16>() {
        Ok(number) => cluster.name.node(number),
        Err(_) => node.to_owned(),
    };
    if !known.contains(&node) {
        bail!("cluster {name} has no node {node}; it has {}", known.join(", "));
    }
    match State::load(&paths).live(&node) {
        Some(process) => Ok((cluster, node, process)),
        None => bail!("node {node} is not running (xebec up --name {name} starts it)"),
    }
}

/// Moves this process, which must have one thread only, to a node; children are processes of the node in full.
fn enter(cluster: &Cluster, node: &str, process: Process) -> anyhow::Result<()> {
    let pid_fd = process.open().context("the node died just now")?;
    // The node's group tells its socket programs that we are on it. Version 2 keeps a leaf for us.
    let hierarchies = cgroups::hierarchies()?;
    let group = node::group(cluster, node);
    for hierarchy in &hierarchies {
        let mut dir = hierarchy.mount.join(&group);
        if hierarchy.v1.is_none() {
            dir.push("exec");
            cgroups::ensure(&dir)?;
        }
        let file = dir.join("cgroup.procs");
        std::fs::write(&file, "0").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let all = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    setns(pid_fd.fd().as_fd(), all).context("cannot enter the node's namespaces")
}
