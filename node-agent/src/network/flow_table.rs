//! Watches how full the uplink's flow table is.
//!
//! A full table forgets the flows that were unused longest; a node where that happens has more connections through it than
//! it can keep, and its operator should know before one of them breaks.

use std::time::Duration;

use tokio::sync::watch;
use xebec_ebpf_loader::layout::{Flow, FlowKey, flow_counters};
use xebec_ebpf_loader::{Counters, Error, Table};

/// How often to look.
const EVERY: Duration = Duration::from_secs(15);
/// How full it may be, in percent. The kernel keeps some entries in reserve for each CPU.
const FULL_PERCENT: usize = 90;

/// The table and its counters.
pub struct FlowTable {
    /// The flows.
    pub flows: Table<FlowKey, Flow>,
    /// [`flow_counters`].
    pub counters: Counters,
}

impl FlowTable {
    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Result<Option<String>, Error> {
        let (present, room) = (self.flows.count()?, self.flows.max_entries() as usize);
        if present * 100 < room * FULL_PERCENT {
            return Ok(None);
        }
        let added = self.counters.sum(flow_counters::ADDED)?;
        let evicted = added.saturating_sub(present as u64);
        Ok(Some(format!("{present} of {room} entries are in use, and {evicted} were evicted so far, idle ones first")))
    }

    /// Looks now and then, for ever.
    pub async fn watch_over(self, problem: watch::Sender<Option<String>>) {
        loop {
            match self.problem() {
                Ok(found) => {
                    // The numbers change each time; that there is a problem is the news.
                    problem.send_if_modified(|known| {
                        let changed = known.is_some() != found.is_some();
                        if changed {
                            *known = found;
                        }
                        changed
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot see how full the flow table is"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
