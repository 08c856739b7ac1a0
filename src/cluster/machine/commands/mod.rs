//! Commands in a machine: a server in it that runs them, and the host's side.
//!
//! They go over the cluster's network by TLS. Both sides show certificates of an authority that the cluster's machines
//! have for this alone, and whose key root on the host can read: whoever may become root there may have commands run.

use std::path::Path;

use anyhow::Context as _;
use jiff::SignedDuration;
use xebec_clock::{Clock, Random};
use xebec_pki::ClusterCa;

pub mod client;
pub mod frames;
pub mod server;

/// Where a machine takes commands. Below what services may have, and no other part of a node's.
pub const PORT: u16 = 10_262;

/// Longer than a machine or a caller lives; they make themselves new ones at each start.
const VALIDITY: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// Makes the authority in `dir`, unless it is there. Not for two at once.
pub fn make_authority(dir: &Path) -> anyhow::Result<ClusterCa> {
    ClusterCa::load_or_create(dir, &Clock::system(), &Random::system())
        .with_context(|| format!("cannot have the machines' authority in {}", dir.display()))
}

/// The authority in `dir`. Machines and callers each load it, at the same time, and so must not make it.
fn authority(dir: &Path) -> anyhow::Result<ClusterCa> {
    anyhow::ensure!(dir.join("ca.crt").exists(), "the machines have no authority yet in {}", dir.display());
    make_authority(dir)
}

#[cfg(test)]
mod tests;
