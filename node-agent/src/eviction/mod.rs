//! What happens when the node runs short of memory, disk or process ids, or a pod of the disk it may use (eviction_manager.go
//! upstream): conditions of the node, and pods that have to go, one at a time.
//!
//! [`threshold`] says what short is, [`plan`] who has to go and why (both pure); [`measure`] looks, and [`run`] acts.

pub mod measure;
pub mod plan;
pub mod run;
pub mod threshold;

use std::time::Duration;

pub use threshold::{Threshold, ThresholdError};

/// When pods have to go.
#[derive(Clone, Debug)]
pub struct EvictionConfig {
    /// Below these, at once.
    pub hard: Vec<Threshold>,
    /// How long a condition of the node holds on after what caused it is over.
    pub pressure_transition: Duration,
    /// How often to look.
    pub every: Duration,
}

impl Default for EvictionConfig {
    fn default() -> Self {
        Self {
            hard: threshold::defaults(),
            pressure_transition: Duration::from_secs(5 * 60),
            every: Duration::from_secs(10),
        }
    }
}

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Little memory is left.
    pub memory: bool,
    /// Little of a disk is left.
    pub disk: bool,
    /// Few process ids are left.
    pub pid: bool,
}

impl Pressure {
    /// The node's conditions that hold, by name.
    pub fn conditions(&self) -> Vec<&'static str> {
        let all = [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure"), (self.pid, "PIDPressure")];
        all.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
    }
}
