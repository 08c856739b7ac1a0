//! This process, as Prometheus' clients tell of it.

use std::fmt::Write;
use std::fs;

/// How many of the kernel's ticks make a second, for user space: the same on all architectures that we have.
const TICKS: f64 = 100.0;
/// Bytes of a page; on all architectures that we have, unless somebody chooses otherwise.
const PAGE_BYTES: u64 = 4096;

/// Writes what the kernel tells; what it does not tell is left out.
pub(super) fn render(out: &mut String) {
    let mut put = |name: &str, kind: &str, value: f64| {
        let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
    };
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is that of the directory.
        put("process_open_fds", "gauge", open.count().saturating_sub(1) as f64);
    }
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return };
    // The second field is the program's name, in parentheses.
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default() as f64;
    put("process_cpu_seconds_total", "counter", (field(14) + field(15)) / TICKS);
    put("process_virtual_memory_bytes", "gauge", field(23));
    put("process_resident_memory_bytes", "gauge", field(24) * PAGE_BYTES as f64);
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| {
        let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        line.trim().parse::<f64>().ok()
    });
    if let Some(boot) = boot {
        put("process_start_time_seconds", "gauge", boot + field(22) / TICKS);
    }
}
