//! Pods' cgroups, and what the kernel counts in containers' ones. The containers' own are made by runc.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::host::Cgroups;
use crate::runtime::{CPU_PERIOD_US, Limits, Usage};

/// The controllers that pods are held by.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// The least and the most of processor time that the kernel lets a group have, on v2 and on v1.
const WEIGHTS: (u64, u64) = (1, 10_000);
const SHARES: (u64, u64) = (2, 262_144);

/// Held by who weighs a class of pods.
static WEIGHING: Mutex<()> = Mutex::new(());

impl Cgroups {
    /// Where `cgroup` is in the hierarchy of `controller`.
    fn path(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let relative = cgroup.trim_start_matches('/');
        match self {
            Self::Unified(root) => Some(root.join(relative)),
            Self::Legacy(mounts) => Some(mounts.get(controller)?.join(relative)),
        }
    }

    /// Makes a pod's `cgroup` (an absolute path below the root of the hierarchy) if it is not there, and sets its limits.
    pub fn create(&self, cgroup: &str, limits: &Limits) -> io::Result<()> {
        self.set_limits(cgroup, limits)?;
        self.weigh_class(cgroup)
    }

    fn set_limits(&self, cgroup: &str, limits: &Limits) -> io::Result<()> {
        match self {
            Self::Unified(root) => {
                let path = root.join(cgroup.trim_start_matches('/'));
                fs::create_dir_all(&path)?;
                delegate(root, &path);
                let period = CPU_PERIOD_US;
                let quota = limits.cpu_quota_us.map_or("max".to_owned(), |q| q.to_string());
                set(&path, "cpu.weight", &cpu_weight(limits.cpu_shares).to_string())?;
                set(&path, "cpu.max", &format!("{quota} {period}"))?;
                set(&path, "memory.max", &limit(limits.memory_bytes, "max"))?;
                set(&path, "pids.max", &limit(limits.pids, "max"))
            }
            Self::Legacy(mounts) => {
                for controller in ["cpu", "memory", "pids"] {
                    let Some(mount) = mounts.get(controller) else { continue };
                    let path = mount.join(cgroup.trim_start_matches('/'));
                    fs::create_dir_all(&path)?;
                    match controller {
                        "cpu" => {
                            set(&path, "cpu.shares", &limits.cpu_shares.max(2).to_string())?;
                            if let Some(quota) = limits.cpu_quota_us {
                                set(&path, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
                                set(&path, "cpu.cfs_quota_us", &quota.to_string())?;
                            } else if is_limited(&path, "cpu.cfs_quota_us") {
                                set(&path, "cpu.cfs_quota_us", "-1")?;
                            }
                        }
                        "memory" => {
                            if let Some(bytes) = limits.memory_bytes {
                                set(&path, "memory.limit_in_bytes", &bytes.to_string())?;
                            } else if is_limited(&path, "memory.limit_in_bytes") {
                                set(&path, "memory.limit_in_bytes", "-1")?;
                            }
                        }
                        _ => set(&path, "pids.max", &limit(limits.pids, "max"))?,
                    }
                }
                Ok(())
            }
        }
    }

    /// Removes a pod's `cgroup` and what is below it from every hierarchy. One that is not there is no error.
    pub fn remove(&self, cgroup: &str) -> io::Result<()> {
        let relative = cgroup.trim_start_matches('/');
        match self {
            Self::Unified(root) => remove_tree(&root.join(relative))?,
            Self::Legacy(_) => {
                // runc makes the path in every hierarchy there is, `systemd` among them.
                for entry in fs::read_dir("/sys/fs/cgroup")?.flatten() {
                    remove_tree(&entry.path().join(relative))?;
                }
            }
        }
        self.weigh_class(cgroup)
    }

    /// Gives the pods of a pod's class the processor time together that they have asked for one by one: those that ask for
    /// none get what others leave (kubelet: `qos_container_manager_linux.go`).
    fn weigh_class(&self, pod: &str) -> io::Result<()> {
        let Some(class) = Path::new(pod).parent().and_then(Path::to_str) else { return Ok(()) };
        let asks = match class.rsplit('/').next() {
            Some("burstable") => true,
            Some("besteffort") => false,
            _ => return Ok(()),
        };
        let (file, (least, most)) = match self {
            Self::Unified(_) => ("cpu.weight", WEIGHTS),
            Self::Legacy(_) => ("cpu.shares", SHARES),
        };
        let Some(path) = self.path("cpu", class).filter(|path| path.exists()) else { return Ok(()) };
        // Pods come and go at the same time, and the last to write must have seen all.
        let _turn = WEIGHING.lock();
        let together = if asks { weights_below(&path, file)?.clamp(least, most) } else { least };
        set(&path, file, &together.to_string())
    }

    /// How often the kernel has killed a process of `cgroup` for its memory.
    pub fn oom_kills(&self, cgroup: &str) -> Option<u64> {
        let file = match self {
            Self::Unified(_) => "memory.events",
            Self::Legacy(_) => "memory.oom_control",
        };
        let text = fs::read_to_string(self.path("memory", cgroup)?.join(file)).ok()?;
        let count = text.lines().find_map(|l| l.strip_prefix("oom_kill "))?;
        count.trim().parse().ok()
    }

    /// What `cgroup` uses.
    pub fn usage(&self, cgroup: &str) -> Option<Usage> {
        let read = |controller: &str, file: &str| -> Option<String> {
            fs::read_to_string(self.path(controller, cgroup)?.join(file)).ok()
        };
        let number = |text: String| -> Option<u64> { text.trim().parse().ok() };
        let field = |text: &str, name: &str| -> Option<u64> {
            text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
        };
        let (cpu_ns, memory, inactive) = match self {
            Self::Unified(_) => {
                let stat = read("memory", "memory.stat")?;
                let cpu = field(&read("cpu", "cpu.stat")?, "usage_usec")? * 1000;
                (cpu, number(read("memory", "memory.current")?)?, field(&stat, "inactive_file")?)
            }
            Self::Legacy(_) => {
                let stat = read("memory", "memory.stat")?;
                let cpu = number(read("cpuacct", "cpuacct.usage")?)?;
                (cpu, number(read("memory", "memory.usage_in_bytes")?)?, field(&stat, "total_inactive_file")?)
            }
        };
        let processes = read("pids", "pids.current").and_then(number).unwrap_or(0);
        Some(Usage { cpu_ns, memory_working_set_bytes: memory.saturating_sub(inactive), processes })
    }
}

/// What the machine uses: of the whole hierarchy's root (v2) the kernel counts no memory.
pub(super) fn machine_usage() -> Option<Usage> {
    usage_of(&fs::read_to_string("/proc/stat").ok()?, &fs::read_to_string("/proc/meminfo").ok()?)
}

/// From `/proc/stat` and `/proc/meminfo`.
fn usage_of(stat: &str, meminfo: &str) -> Option<Usage> {
    // User, nice, system, idle, iowait, irq, softirq, steal, in hundredths of a second (USER_HZ).
    let mut fields = stat.lines().find_map(|line| line.strip_prefix("cpu "))?.split_whitespace();
    let ticks: Vec<u64> = fields.by_ref().map_while(|field| field.parse().ok()).take(8).collect();
    let busy: u64 = ticks.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 7)).map(|(_, ticks)| ticks).sum();
    let field = |name: &str| -> Option<u64> {
        let kib: u64 =
            meminfo.lines().find_map(|l| l.strip_prefix(name))?.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib * 1024)
    };
    let used = field("MemTotal:")?.saturating_sub(field("MemFree:")?);
    let memory = used.saturating_sub(field("Inactive(file):")?);
    // How many there are is asked of /proc/loadavg, by those who want to know.
    Some(Usage { cpu_ns: busy * 10_000_000, memory_working_set_bytes: memory, processes: 0 })
}

/// Lets each controller be used all the way down to `path`. One that the kernel refuses is left: the write of the limit
/// says so.
fn delegate(root: &Path, path: &Path) {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).take_while(|p| p.starts_with(root)).collect();
    parents.reverse();
    for parent in parents {
        for controller in CONTROLLERS {
            drop(fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")));
        }
    }
}

/// What the pods in a folder have together.
fn weights_below(class: &Path, file: &str) -> io::Result<u64> {
    let weight = |pod: fs::DirEntry| fs::read_to_string(pod.path().join(file)).ok()?.trim().parse::<u64>().ok();
    Ok(fs::read_dir(class)?.flatten().filter_map(weight).sum())
}

fn set(path: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = path.join(file);
    fs::write(&path, value).map_err(|e| {
        io::Error::new(e.kind(), format!("cannot write {value} to {}: {e}; is the controller enabled?", path.display()))
    })
}

/// Whether a v1 limit is set: the kernel writes a huge number, or -1, for none.
fn is_limited(path: &Path, file: &str) -> bool {
    let value = fs::read_to_string(path.join(file)).ok().and_then(|text| text.trim().parse::<i64>().ok());
    value.is_some_and(|value| (0..1 << 60).contains(&value))
}

fn limit(value: Option<i64>, unlimited: &str) -> String {
    value.map_or(unlimited.to_owned(), |v| v.to_string())
}

/// The v2 weight of v1 shares, as runc converts them.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_what_it_uses() {
        let stat = "cpu  100 1 50 9000 20 3 4 5 0 0\ncpu0 1 2 3 4\n";
        let meminfo = "MemTotal:  1000 kB\nMemFree:  300 kB\nInactive(file):   200 kB\n";
        let usage = usage_of(stat, meminfo).unwrap();
        assert_eq!((usage.cpu_ns, usage.memory_working_set_bytes), (158 * 10_000_000, 500 * 1024));
        assert!(machine_usage().is_some_and(|usage| usage.cpu_ns > 0 && usage.memory_working_set_bytes > 0));
    }

    #[test]
    fn a_pods_limits_are_written_to_its_files_and_taken_back() {
        // A folder takes what is written as the kernel does, except that the last word stays as it was written.
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::Unified(root.path().to_owned());
        let read = |file: &str| fs::read_to_string(root.path().join("kubepods/burstable/podu").join(file)).unwrap();
        let limits =
            Limits { cpu_shares: 1024, cpu_quota_us: Some(50_000), memory_bytes: Some(64 << 20), pids: Some(100) };
        cgroups.create("/kubepods/burstable/podu", &limits).unwrap();
        let files = ["cpu.weight", "cpu.max", "memory.max", "pids.max"];
        assert_eq!(files.map(read), ["39", "50000 100000", "67108864", "100"]);
        for folder in ["", "kubepods", "kubepods/burstable"] {
            let last = fs::read_to_string(root.path().join(folder).join("cgroup.subtree_control")).unwrap();
            assert_eq!(last, "+pids", "{folder:?} lets those below be limited");
        }
        // In place, to more: and to no limit at all.
        let more =
            Limits { cpu_shares: 2048, cpu_quota_us: Some(200_000), memory_bytes: Some(1 << 30), pids: Some(100) };
        cgroups.create("/kubepods/burstable/podu", &more).unwrap();
        assert_eq!(files.map(read), ["79", "200000 100000", "1073741824", "100"]);
        cgroups.create("/kubepods/burstable/podu", &Limits { cpu_shares: 2, ..Limits::default() }).unwrap();
        assert_eq!(files.map(read), ["1", "max 100000", "max", "max"]);
    }

    #[test]
    fn a_class_weighs_what_its_pods_do() {
        let root = tempfile::tempdir().unwrap();
        let mount = |name: &str| (name.to_owned(), root.path().join(name));
        let cgroups = Cgroups::Legacy(["cpu", "memory", "pids"].map(mount).into());
        let weight = |class: &str| {
            fs::read_to_string(root.path().join("cpu/kubepods").join(class).join("cpu.shares")).unwrap_or_default()
        };
        let of = |cpu_shares: u64| Limits { cpu_shares, ..Limits::default() };
        cgroups.create("/kubepods/burstable/poda", &of(512)).unwrap();
        cgroups.create("/kubepods/burstable/podb", &of(102)).unwrap();
        assert_eq!(weight("burstable"), "614");
        // In place, to more.
        cgroups.create("/kubepods/burstable/podb", &of(1024)).unwrap();
        assert_eq!(weight("burstable"), "1536");
        cgroups.create("/kubepods/besteffort/podc", &of(2)).unwrap();
        cgroups.create("/kubepods/podd", &of(2048)).unwrap();
        assert_eq!((weight("besteffort"), weight("")), ("2".to_owned(), String::new()));
        // Folders of files cannot be removed as the kernel's can.
        fs::remove_dir_all(root.path().join("cpu/kubepods/burstable/poda")).unwrap();
        cgroups.weigh_class("/kubepods/burstable/poda").unwrap();
        assert_eq!(weight("burstable"), "1024");
        let unified = Cgroups::Unified(root.path().join("v2"));
        for pod in ["a", "b"] {
            unified.create(&format!("/kubepods/burstable/pod{pod}"), &of(1024)).unwrap();
        }
        let weight = fs::read_to_string(root.path().join("v2/kubepods/burstable/cpu.weight")).unwrap();
        assert_eq!(weight, "78");
    }

    #[test]
    fn what_a_container_uses_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::Unified(root.path().to_owned());
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
        assert_eq!(cgroups.usage("/"), None);
        write("cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
        write("memory.current", "3000\n");
        write("memory.stat", "anon 1\ninactive_file 1000\n");
        write("pids.current", "7\n");
        let usage = Usage { cpu_ns: 1_500_000, memory_working_set_bytes: 2000, processes: 7 };
        assert_eq!(cgroups.usage("/"), Some(usage));
        write("memory.events", "low 0\noom 1\noom_kill 2\n");
        assert_eq!(cgroups.oom_kills("/"), Some(2));
    }

    #[test]
    fn shares_become_weights_as_runc_does_it() {
        assert_eq!(cpu_weight(2), 1);
        assert_eq!(cpu_weight(1024), 39);
        assert_eq!(cpu_weight(262_144), 10_000);
    }
}
