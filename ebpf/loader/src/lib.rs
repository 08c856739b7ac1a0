//! Loads, attaches, pins and upgrades the eBPF programs.
