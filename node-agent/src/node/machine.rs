//! What this machine is and has.

use std::fs;
use std::path::Path;

/// What this machine is and has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Size of the file system that pods are on, in bytes.
    pub storage_bytes: i64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// From the firmware, or the machine's id.
    pub system_uuid: String,
    /// New at each boot.
    pub boot_id: String,
    /// `6.1.0-18-amd64`.
    pub kernel_version: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
}

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Little memory is left.
    pub memory: bool,
    /// Little of the disk is left.
    pub disk: bool,
    /// Few process ids are left.
    pub pid: bool,
}

/// Below this much available memory there is pressure (upstream's eviction threshold).
const MEMORY_LEFT_MIN_BYTES: i64 = 100 << 20;
/// Below a tenth of the disk there is pressure, but on a large one not while this much is left.
const DISK_LEFT_ENOUGH_BYTES: i64 = 4 << 30;

impl Machine {
    /// Looks at the machine; pods' files are at `data`.
    pub fn detect(data: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let machine_id = read("/etc/machine-id");
        let uuid = read("/sys/class/dmi/id/product_uuid").to_lowercase();
        let os = read("/etc/os-release");
        let os_image = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        Self {
            cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory_bytes: memory("MemTotal:").unwrap_or(0),
            storage_bytes: disk(data).map_or(0, |(size, _)| size),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            os_image: os_image.trim_matches('"').to_owned(),
        }
    }
}

/// What is short now.
pub fn pressure(data: &Path) -> Pressure {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<i64>().ok());
    // `0.10 0.20 0.30 1/234 5678`: running and all threads.
    let threads = fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|t| t.split_whitespace().nth(3)?.split_once('/')?.1.parse::<i64>().ok());
    let pid_max = number("/proc/sys/kernel/pid_max");
    Pressure {
        memory: memory("MemAvailable:").is_some_and(|left| left < MEMORY_LEFT_MIN_BYTES),
        disk: disk(data).is_some_and(|(size, left)| left < size / 10 && left < DISK_LEFT_ENOUGH_BYTES),
        pid: threads.zip(pid_max).is_some_and(|(threads, max)| threads > max - max / 10),
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn memory(field: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: i64 = text.lines().find_map(|l| l.strip_prefix(field))?.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// Size of a path's file system, and what is left of it, in bytes.
fn disk(path: &Path) -> Option<(i64, i64)> {
    let path = path.ancestors().find(|p| p.exists())?;
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let unit = i64::try_from(stat.fragment_size()).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks).unwrap_or(i64::MAX).saturating_mul(unit);
    Some((bytes(stat.blocks()), bytes(stat.blocks_available())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_of_everything() {
        let machine = Machine::detect(Path::new("/no/such/path/yet"));
        assert!(machine.cpu_milli >= 1000);
        assert!(machine.memory_bytes > 1 << 20);
        assert!(machine.storage_bytes > 1 << 20);
        assert!(!machine.kernel_version.is_empty() && !machine.boot_id.is_empty());
    }
}
