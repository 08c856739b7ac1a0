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

/// The authority that is kept in `dir`, which is made if it is not there.
pub fn authority(dir: &Path) -> anyhow::Result<ClusterCa> {
    ClusterCa::load_or_create(dir, &Clock::system(), &Random::system())
        .with_context(|| format!("cannot have the machines' authority in {}", dir.display()))
}

#[cfg(test)]
mod tests;
