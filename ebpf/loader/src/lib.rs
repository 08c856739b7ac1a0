//! Loads, attaches, pins and upgrades the eBPF programs.

/// The programs, as the build script compiled them.
pub static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xebec-ebpf-programs"));
