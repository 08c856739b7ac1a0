//! What of a cluster runs at the moment, as the supervisor writes it down for the other commands.

use std::collections::BTreeMap;
use std::fs;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::{Paths, read_json, write_atomically};

/// Kept as `state.json` in the runtime directory; written by the supervisor only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The boot that the process ids belong to.
    pub boot: String,
    /// The supervisor.
    pub supervisor: Option<Process>,
    /// `server` and the nodes, by name.
    pub components: BTreeMap<String, Component>,
    /// What the cluster has to do without on this machine, and what to do about it.
    #[serde(default)]
    pub warnings: BTreeMap<String, String>,
}

/// One thing the supervisor keeps alive.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Its process: the API server, or a node's process 1.
    pub process: Option<Process>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it is not running, or why it ended the last time.
    pub last_error: Option<String>,
}

impl State {
    /// What runs now; empty if nothing was recorded since the machine booted.
    pub fn load(paths: &Paths) -> Self {
        let state: Option<Self> = read_json(&paths.running()).unwrap_or_default();
        state.filter(|s| s.boot == boot()).unwrap_or_default()
    }

    /// Writes it down.
    pub fn save(&self, paths: &Paths) -> anyhow::Result<()> {
        write_atomically(&paths.running(), &serde_json::to_vec_pretty(self)?, 0o644)
    }

    /// The supervisor, if it lives.
    pub fn live_supervisor(&self) -> Option<Process> {
        self.supervisor.filter(|p| p.alive())
    }

    /// A component's process, if it lives.
    pub fn live(&self, component: &str) -> Option<Process> {
        self.components.get(component)?.process.filter(|p| p.alive())
    }
}

/// Names this boot of the machine.
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
