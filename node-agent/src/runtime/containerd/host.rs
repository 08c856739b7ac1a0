//! What this machine lets containers have: capabilities, OOM scores, cgroup hierarchies.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of the capabilities by their number (capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Where the cgroup hierarchies are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One hierarchy (v2).
    Unified(PathBuf),
    /// One for each controller (v1).
    Legacy(BTreeMap<String, PathBuf>),
}

/// What this machine lets containers have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Names of the capabilities that the agent has, without `CAP_`.
    pub capabilities: Vec<&'static str>,
    /// The lowest OOM score that may be given.
    pub oom_score_adj_min: i32,
    /// The cgroup hierarchies.
    pub cgroups: Cgroups,
    /// Whether the kernel counts swap.
    pub swap_limit: bool,
    /// Device nodes, for privileged containers: (path, `c` or `b`, major, minor, mode).
    pub devices: Vec<Device>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `/dev/fuse`.
    pub path: String,
    /// Character or block.
    pub kind: char,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
}

impl Host {
    /// Looks at the machine.
    pub fn detect() -> std::io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:"));
        let bounding = bounding.and_then(|v| u64::from_str_radix(v.trim(), 16).ok()).unwrap_or(0);
        let capabilities: Vec<&'static str> =
            CAPABILITIES.iter().enumerate().filter(|(bit, _)| bounding & (1 << bit) != 0).map(|(_, n)| *n).collect();
        let own_score = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0);
        let oom_score_adj_min = if capabilities.contains(&"SYS_RESOURCE") { -1000 } else { own_score };
        let cgroups = find_cgroups(&fs::read_to_string("/proc/self/mountinfo")?);
        let swap_limit = match &cgroups {
            Cgroups::Unified(_) => true,
            Cgroups::Legacy(mounts) => {
                mounts.get("memory").is_some_and(|m| m.join("memory.memsw.limit_in_bytes").exists())
            }
        };
        Ok(Self { capabilities, oom_score_adj_min, cgroups, swap_limit, devices: devices(Path::new("/dev")) })
    }
}

/// Finds the hierarchies in a mountinfo table. A v2 mount beside v1 ones (hybrid) does not count: runc uses v1 then.
fn find_cgroups(mountinfo: &str) -> Cgroups {
    let mut legacy = BTreeMap::new();
    let mut unified = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4) else { continue };
        let mut fields = right.split(' ');
        match fields.next() {
            Some("cgroup2") if point == "/sys/fs/cgroup" => unified = Some(PathBuf::from(point)),
            Some("cgroup") => {
                for option in fields.nth(1).unwrap_or_default().split(',') {
                    if !matches!(option, "rw" | "ro") && !option.starts_with("name=") {
                        legacy.insert(option.to_owned(), PathBuf::from(point));
                    }
                }
            }
            _ => {}
        }
    }
    match unified {
        Some(point) => Cgroups::Unified(point),
        None if legacy.is_empty() => Cgroups::Unified(PathBuf::from("/sys/fs/cgroup")),
        None => Cgroups::Legacy(legacy),
    }
}

/// The device nodes below `/dev`, terminals and shared memory excepted.
fn devices(root: &Path) -> Vec<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.path().symlink_metadata()) else { continue };
            let name = entry.file_name();
            if meta.is_dir() && !["pts", "shm", "mqueue", "fd", "lxd"].iter().any(|n| name == *n) {
                folders.push(path);
                continue;
            }
            let kind = match meta.file_type() {
                t if t.is_char_device() => 'c',
                t if t.is_block_device() => 'b',
                _ => continue,
            };
            if name == "console" {
                continue;
            }
            let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
            let mode = meta.mode() & 0o7777;
            found.push(Device { path: path.to_string_lossy().into_owned(), kind, major, minor, mode });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_mount_beside_v1_ones_does_not_count() {
        let hybrid = "30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      33 20 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let Cgroups::Legacy(mounts) = find_cgroups(hybrid) else { panic!("v1 expected") };
        assert_eq!(mounts.keys().collect::<Vec<_>>(), ["cpu", "cpuacct", "memory"]);
        let pure = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(find_cgroups(pure), Cgroups::Unified(PathBuf::from("/sys/fs/cgroup")));
    }
}
