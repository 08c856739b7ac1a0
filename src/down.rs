//! `xebec down`: removes all that `up` made.
//!
//! It goes by the cluster's name and not only by what was recorded, so that it also clears what a crash left half
//! made; a step that fails does not keep the others from being done.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::cluster::links::Netlink;
use crate::cluster::process::Process;
use crate::cluster::state::State;
use crate::cluster::{self, Cluster, Lock, Name, Paths, RUN_ROOT, STATE_ROOT, cgroups, egress, namespaces};
use crate::kubeconfig;

/// Removes a cluster and all that is its.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's name
    #[arg(long, default_value = "xebec")]
    name: Name,
}

/// `xebec down`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "must run as root (try sudo)");
    let name = &args.name;
    let paths = Paths::of(name);
    let lock = Lock::take(&paths.state)?;
    // A damaged record must not keep the rest from being removed.
    let cluster = Cluster::load(&paths).unwrap_or_default();
    let mut report = Report::default();
    report.step("", processes(name, &paths));
    report.step("the nodes' network", network(name, &paths));
    report.step("the nodes' way out", way_out(name, cluster.as_ref()));
    report.step(
        &format!("the kubeconfig context {}", name.context()),
        forget_context(name, cluster.as_ref().and_then(|c| c.previous_context.as_deref())),
    );
    report.step(&paths.run.display().to_string(), remove_dir(&paths.run));
    let known = cluster.is_some();
    remove_nodes(&paths.state.join("nodes"));
    report.step(&paths.state.display().to_string(), remove_dir(&paths.state).map(|_| known));
    drop(lock);
    for empty in [STATE_ROOT, RUN_ROOT] {
        // Other clusters' directories keep them.
        let _ = fs::remove_dir(empty);
    }
    report.end(name)
}

/// What was done.
#[derive(Default)]
struct Report {
    removed: usize,
    failures: Vec<String>,
}

/// What a step found to remove.
trait Found {
    fn describe(self, what: &str) -> Option<String>;
}

impl Found for bool {
    fn describe(self, what: &str) -> Option<String> {
        self.then(|| what.to_owned())
    }
}

impl Found for usize {
    fn describe(self, _: &str) -> Option<String> {
        match self {
            0 => None,
            1 => Some("1 process".into()),
            n => Some(format!("{n} processes")),
        }
    }
}

impl Report {
    fn step(&mut self, what: &str, result: anyhow::Result<impl Found>) {
        match result.map(|found| found.describe(what)) {
            Ok(Some(what)) => {
                println!("removed {what}");
                self.removed += 1;
            }
            Ok(None) => {}
            Err(e) => self.failures.push(format!("{e:#}")),
        }
    }

    fn end(self, name: &Name) -> anyhow::Result<()> {
        if !self.failures.is_empty() {
            anyhow::bail!("not everything of cluster {name} could be removed:\n  - {}", self.failures.join("\n  - "));
        }
        if self.removed == 0 {
            println!("there is no cluster {name}: nothing to remove");
        } else {
            println!("cluster {name} is gone");
        }
        Ok(())
    }
}

/// The supervisor first, since it would start the others again.
fn processes(name: &Name, paths: &Paths) -> anyhow::Result<usize> {
    let state = State::load(paths);
    let mut killed = end(state.supervisor.into_iter())?;
    // All at once: a node takes a moment to die, with its containers, mounts and programs.
    killed += end(state.components.values().filter_map(|c| c.process))?;
    let hierarchies = cgroups::hierarchies()?;
    killed += cgroups::kill_all(&hierarchies, &name.cgroup())?;
    cgroups::remove(&hierarchies, &name.cgroup())?;
    for hierarchy in &hierarchies {
        let _ = fs::remove_dir(hierarchy.mount.join("xebec"));
    }
    Ok(killed)
}

/// Kills processes and waits until they are dead. Returns how many there were.
fn end(processes: impl Iterator<Item = Process>) -> anyhow::Result<usize> {
    let alive: Vec<_> = processes.filter_map(|p| Some((p, p.open()?))).collect();
    for (_, fd) in &alive {
        fd.signal(Signal::SIGKILL).context("cannot kill a process of the cluster")?;
    }
    for (process, fd) in &alive {
        anyhow::ensure!(fd.wait(Duration::from_secs(10)), "process {} does not die", process.pid);
    }
    Ok(alive.len())
}

fn network(name: &Name, paths: &Paths) -> anyhow::Result<bool> {
    let released = namespaces::release(&paths.fabric())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let removed = runtime.block_on(async { Netlink::here()?.remove(&cluster::host_link(name)).await })?;
    Ok(released || removed)
}

fn way_out(name: &Name, cluster: Option<&Cluster>) -> anyhow::Result<bool> {
    let removed = egress::remove(name)?;
    let turned_on = cluster.map(|c| c.forwarding_set.clone()).unwrap_or_default();
    if turned_on.is_empty() {
        return Ok(removed);
    }
    let _lock = Lock::take(Path::new(STATE_ROOT))?;
    match cluster::all()?.into_iter().find(|other| other.name != *name) {
        // Another cluster's nodes go out the same way; it inherits the duty to turn it off.
        Some(mut other) => {
            let missing = turned_on.into_iter().filter(|l| !other.forwarding_set.contains(l)).collect::<Vec<_>>();
            other.forwarding_set.extend(missing);
            other.save(&Paths::of(&other.name))?;
        }
        None => egress::stop_forwarding(&turned_on),
    }
    Ok(removed)
}

fn forget_context(name: &Name, previous: Option<&str>) -> anyhow::Result<bool> {
    let Ok(path) = kubeconfig::users_own() else { return Ok(false) };
    kubeconfig::unmerge(&path, &name.context(), previous)
}

/// Removes the nodes' data, which is nearly all there is, side by side. What can't be removed here is met again, and
/// reported, by [`remove_dir`].
fn remove_nodes(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    if namespaces::mounts_below(dir).is_ok_and(|mounts| !mounts.is_empty()) {
        return;
    }
    std::thread::scope(|scope| {
        for entry in entries.flatten() {
            scope.spawn(move || drop(fs::remove_dir_all(entry.path())));
        }
    });
}

fn remove_dir(dir: &Path) -> anyhow::Result<bool> {
    for mounted in namespaces::mounts_below(dir)? {
        umount2(&mounted, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", mounted.display()))?;
    }
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).context(format!("cannot remove {}", dir.display())),
    }
}
