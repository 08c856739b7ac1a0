//! What this machine lacks for a cluster, all of it at once, and what to do about it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::cgroups;

/// The oldest kernel whose tcx hooks and BPF features the datapath uses.
const KERNEL: (u32, u32) = (6, 6);

/// Checks everything; an error lists what is missing.
pub fn check() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("must run as root: nodes are made of namespaces, mounts and BPF programs (try sudo)");
    }
    programs(&mut missing);
    kernel(&mut missing);
    if missing.is_empty() {
        return Ok(());
    }
    anyhow::bail!("this machine lacks what a cluster needs:\n  - {}", missing.join("\n  - "))
}

/// Where a program is, by `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
}

fn programs(missing: &mut Vec<String>) {
    for (program, package) in
        [("containerd", "containerd"), ("containerd-shim-runc-v2", "containerd"), ("runc", "runc")]
    {
        if find_program(program).is_none() {
            missing.push(format!("{program} is not in PATH (apt-get install {package}, or scripts/setup.sh run)"));
        }
    }
}

fn kernel(missing: &mut Vec<String>) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match parse_release(&release) {
        Some(version) if version < KERNEL => missing.push(format!(
            "the kernel is {}; {}.{} or newer is needed for tcx (on Debian 12: linux-image-cloud-amd64 from backports)",
            release.trim(),
            KERNEL.0,
            KERNEL.1
        )),
        _ => {}
    }
    for kind in ["mnt", "net", "pid", "uts", "ipc", "cgroup"] {
        if !Path::new("/proc/self/ns").join(kind).exists() {
            missing.push(format!("the kernel has no {kind} namespaces"));
        }
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known: Vec<&str> = filesystems.lines().filter_map(|l| l.split_ascii_whitespace().last()).collect();
    for (kind, option) in
        [("overlay", "CONFIG_OVERLAY_FS"), ("bpf", "CONFIG_BPF_SYSCALL"), ("cgroup2", "CONFIG_CGROUPS")]
    {
        // A module that is not loaded yet is loaded by the first mount; only overlay is a module anywhere.
        if !known.contains(&kind) && (kind != "overlay" || !module("overlay")) {
            missing.push(format!("the kernel has no {kind} file system ({option})"));
        }
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push("the kernel has no type information at /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)".into());
    }
    match cgroups::hierarchies() {
        Ok(found) if cgroups::unified(&found).is_none() => missing.push(
            "no cgroup version 2 is mounted, which BPF programs attach to \
             (mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)"
                .into(),
        ),
        Ok(_) => {}
        Err(e) => missing.push(format!("{e:#}")),
    }
}

fn module(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = Path::new("/lib/modules").join(release.trim()).join("modules.dep");
    fs::read_to_string(list).is_ok_and(|l| l.contains(&format!("/{name}.ko")))
}

/// `6.18.44-fc` is 6.18.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_as_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v669\n"), Some((6, 18)));
        assert!(parse_release("6.1.0-18-cloud-amd64").unwrap() < KERNEL);
        assert!(parse_release("6.12.3").unwrap() > KERNEL);
        assert_eq!(parse_release("x"), None);
    }
}
