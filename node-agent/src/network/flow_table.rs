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
const FULL_PERCENT: u64 = 90;

/// The table and its counters.
pub struct FlowTable {
    /// The flows.
    pub flows: Table<FlowKey, Flow>,
    /// [`flow_counters`].
    pub counters: Counters,
}

/// How full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Entries that are there.
    pub present: u64,
    /// Entries that there is room for.
    pub room: u64,
    /// Entries that were ever added.
    pub added: u64,
}

impl Fill {
    /// Counts. With a full table that takes some milliseconds.
    pub fn read(flows: &Table<FlowKey, Flow>, counters: &Counters) -> Result<Self, Error> {
        // In this order: what is added meanwhile does not count as evicted.
        let added = counters.sum(flow_counters::ADDED)?;
        Ok(Self { present: flows.count()? as u64, room: flows.max_entries().into(), added })
    }

    /// Entries that had to go for others: nothing else removes one.
    pub fn evicted(&self) -> u64 {
        self.added.saturating_sub(self.present)
    }

    /// What is wrong, if anything is.
    fn problem(&self) -> Option<String> {
        let (Self { present, room, .. }, evicted) = (self, self.evicted());
        (present * 100 >= room * FULL_PERCENT).then(|| {
            format!("{present} of {room} entries are in use, and {evicted} were evicted so far, idle ones first")
        })
    }
}

impl FlowTable {
    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Result<Option<String>, Error> {
        Ok(Fill::read(&self.flows, &self.counters)?.problem())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_nearly_full_is_a_problem() {
        let fill = |present| Fill { present, room: 1_000, added: 5_000 };
        assert_eq!(fill(899).problem(), None);
        let problem = fill(900).problem().unwrap();
        assert_eq!(problem, "900 of 1000 entries are in use, and 4100 were evicted so far, idle ones first");
    }
}
