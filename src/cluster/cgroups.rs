//! Control groups, version 1, version 2 or both side by side: whatever the host has mounted.
//!
//! A cluster has the group `xebec/NAME` in every hierarchy, and in it one for each thing that runs. Membership also
//! serves as the record of what belongs to the cluster: it can't be lost in a crash.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::Process;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Version 1's controllers as its mount option has them (`cpu,cpuacct`, `name=systemd`); `None` is version 2.
    pub v1: Option<String>,
}

/// The hierarchies mounted below `/sys/fs/cgroup`, in mount order.
pub fn hierarchies() -> anyhow::Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    Ok(parse_mountinfo(&text))
}

fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let v1 = match kind {
            "cgroup2" => None,
            "cgroup" => Some(v1_options(options)),
            _ => continue,
        };
        if mount.starts_with("/sys/fs/cgroup") && !found.iter().any(|h| h.mount == Path::new(mount)) {
            found.push(Hierarchy { mount: mount.into(), v1 });
        }
    }
    found
}

/// The part of a version 1 mount's options that says which hierarchy it is.
fn v1_options(options: &str) -> String {
    let generic =
        |o: &&str| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix") && !o.contains("release_agent");
    options.split(',').filter(generic).collect::<Vec<_>>().join(",")
}

/// Where version 2 is mounted.
pub fn unified(hierarchies: &[Hierarchy]) -> Option<&Path> {
    hierarchies.iter().find(|h| h.v1.is_none()).map(|h| h.mount.as_path())
}

/// Makes `group` (a path below the root) in every hierarchy, and the groups above it.
pub fn create(hierarchies: &[Hierarchy], group: &Path) -> anyhow::Result<()> {
    for hierarchy in hierarchies {
        let mut dir = hierarchy.mount.clone();
        for part in group {
            if hierarchy.v1.is_none() {
                delegate_controllers(&dir);
            }
            let parent = dir.clone();
            dir.push(part);
            ensure(&dir)?;
            inherit_cpuset(hierarchy, &parent, &dir);
        }
    }
    Ok(())
}

/// Makes one group's directory, unless it is there.
pub fn ensure(dir: &Path) -> anyhow::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).context(format!("cannot make the control group {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Lets the groups below `dir` (version 2) have limits of every kind that `dir` itself may set. What the kernel
/// refuses, such as in a container whose root group holds processes, is a limit that can't be enforced, no more.
pub fn delegate_controllers(dir: &Path) {
    let Ok(available) = fs::read_to_string(dir.join("cgroup.controllers")) else { return };
    for controller in available.split_ascii_whitespace() {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A version 1 cpuset takes no process before it is told its processors and memory nodes.
fn inherit_cpuset(hierarchy: &Hierarchy, parent: &Path, dir: &Path) {
    if !hierarchy.v1.as_ref().is_some_and(|v1| v1.split(',').any(|c| c == "cpuset")) {
        return;
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(dir.join(file)).is_ok_and(|now| now.trim().is_empty()) {
            let _ = fs::read(parent.join(file)).and_then(|value| fs::write(dir.join(file), value));
        }
    }
}

/// The files to write a process's id to (0 for one's own) to have it in `group`.
pub fn procs_files(hierarchies: &[Hierarchy], group: &Path) -> Vec<PathBuf> {
    hierarchies.iter().map(|h| h.mount.join(group).join("cgroup.procs")).collect()
}

/// Has `command` run in `group`, in a session of its own, from its first instruction on: there is no moment in which
/// it could be missed by who goes by membership.
pub fn start_in(command: &mut Command, hierarchies: &[Hierarchy], group: &Path) -> anyhow::Result<()> {
    create(hierarchies, group)?;
    let files = procs_files(hierarchies, group)
        .into_iter()
        .map(|f| fs::File::options().write(true).open(&f).with_context(|| format!("cannot open {}", f.display())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    // SAFETY: system calls on open descriptors only; all of them are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for file in &files {
                nix::unistd::write(file, b"0")?;
            }
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    Ok(())
}

/// The processes in `group` and below it, by the host's ids.
pub fn members(hierarchies: &[Hierarchy], group: &Path) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies {
        visit(&hierarchy.mount.join(group), &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 0));
        });
    }
    found
}

/// Calls `f` for the groups below `dir` and then for `dir` itself.
fn visit(dir: &Path, f: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            visit(&entry.path(), f);
        }
    }
    f(dir);
}

/// Kills every process in `group` and below it, and waits until none is left. Returns how many there were.
pub fn kill_all(hierarchies: &[Hierarchy], group: &Path) -> anyhow::Result<usize> {
    let mut killed = BTreeSet::new();
    // 10 s: what does not die by then hangs in the kernel.
    for _ in 0..1000 {
        let alive: Vec<i32> = members(hierarchies, group).into_iter().filter(|p| Process::of(*p).is_some()).collect();
        if alive.is_empty() {
            return Ok(killed.len());
        }
        for hierarchy in hierarchies {
            let dir = hierarchy.mount.join(group);
            match &hierarchy.v1 {
                None => drop(fs::write(dir.join("cgroup.kill"), "1")),
                // A frozen process dies when it thaws.
                Some(v1) if v1.split(',').any(|c| c == "freezer") => {
                    visit(&dir, &mut |d| drop(fs::write(d.join("freezer.state"), "THAWED")));
                }
                Some(_) => {}
            }
        }
        for pid in alive {
            killed.insert(pid);
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        pause(Duration::from_millis(10));
    }
    let left: Vec<String> = members(hierarchies, group).iter().map(ToString::to_string).collect();
    bail!("processes {} do not die; they hang in the kernel", left.join(", "))
}

/// Removes `group` and the groups below it. They must be empty of processes; the kernel may need a moment to agree.
pub fn remove(hierarchies: &[Hierarchy], group: &Path) -> anyhow::Result<bool> {
    let mut removed = false;
    for hierarchy in hierarchies {
        let dir = hierarchy.mount.join(group);
        for attempt in 0.. {
            let mut failure = None;
            visit(&dir, &mut |d| match fs::remove_dir(d) {
                Ok(()) => removed = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => failure = Some(e),
            });
            match failure {
                None => break,
                Some(e) if attempt >= 300 => {
                    return Err(e).context(format!("cannot remove the control group {}", dir.display()));
                }
                Some(_) => pause(Duration::from_millis(10)),
            }
        }
    }
    Ok(removed)
}

/// Waits, on a thread that has nothing else to do.
pub fn pause(duration: Duration) {
    let timeout = nix::poll::PollTimeout::try_from(duration).unwrap_or(nix::poll::PollTimeout::MAX);
    let _ = nix::poll::poll(&mut [], timeout);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_beside_each_other() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n\
                    42 31 0:38 / /elsewhere rw,relatime - cgroup2 cgroup2 rw\n";
        let found = parse_mountinfo(text);
        let v1: Vec<_> = found.iter().map(|h| h.v1.as_deref()).collect();
        assert_eq!(v1, [Some("cpu,cpuacct"), Some("name=systemd"), None]);
        assert_eq!(unified(&found), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_pure_version_2_host_has_one() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        assert_eq!(parse_mountinfo(text), [Hierarchy { mount: "/sys/fs/cgroup".into(), v1: None }]);
    }
}
