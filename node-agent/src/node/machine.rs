//! What this machine is and has.

use std::fs;
use std::path::Path;

use crate::disk::FileSystem;

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
            storage_bytes: FileSystem::of(data).map_or(0, |fs| fs.bytes),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            os_image: os_image.trim_matches('"').to_owned(),
        }
    }
}

/// How many processes and threads there are, and how many there can be.
pub fn threads() -> Option<(i64, i64)> {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<i64>().ok());
    // `0.10 0.20 0.30 1/234 5678`: running and all threads.
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let threads = load.split_whitespace().nth(3)?.split_once('/')?.1.parse::<i64>().ok()?;
    let max = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")].into_iter().flatten().min();
    Some((threads, max?))
}

/// A line of `/proc/meminfo`, in bytes.
pub fn memory(field: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: i64 = text.lines().find_map(|l| l.strip_prefix(field))?.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
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
