//! What this machine lacks for a cluster, all of it at once, and what to do about it.

use xebec_node_agent::check::machine::ThisMachine;
use xebec_node_agent::check::report;

use super::{NodeKind, machine};

/// Checks everything that nodes of this kind need; an error lists what is missing.
pub fn check(kind: &NodeKind) -> anyhow::Result<()> {
    match kind {
        NodeKind::Namespaces => namespaces(),
        NodeKind::Machines(settings) => machine::probe::check(&settings.kernel),
    }
}

/// Fails unless this process may make nodes.
pub fn check_root() -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "must run as root: nodes are made of namespaces, mounts and BPF programs (try sudo)"
    );
    Ok(())
}

fn namespaces() -> anyhow::Result<()> {
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
