//! What this machine lacks for a cluster, all of it at once, and what to do about it.

use xebec_node_agent::check::machine::ThisMachine;
use xebec_node_agent::check::report;

/// Checks everything; an error lists what is missing.
pub fn check() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("must run as root: nodes are made of namespaces, mounts and BPF programs (try sudo)");
    }
    let report = report(&ThisMachine, &crate::check::unified());
    let missing = report.findings.iter().filter(|finding| finding.required).filter_map(|finding| {
        finding.missing.as_ref().map(|advice| format!("{} ({}): {advice}", finding.name, finding.purpose))
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    anyhow::bail!("this machine lacks what a cluster needs:\n  - {}", missing.join("\n  - "))
}
