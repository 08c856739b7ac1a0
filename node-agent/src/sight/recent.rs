//! The last flows and drops, for those who ask afterwards.

use std::collections::VecDeque;

use jiff::Timestamp;
use xebec_ebpf_loader::layout::Event;

use super::Flow;

/// How many are kept: a few hundred kilobytes at most.
pub(super) const KEPT_MAX: usize = 1_024;

/// The last ones.
#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: VecDeque<(u64, Timestamp, Event)>,
    last: u64,
}

impl Recent {
    /// Keeps one; says its number. Numbers go on where the agent before this one ended, because they are times, as far
    /// as that keeps them going up.
    pub(super) fn push(&mut self, event: &Event, now: Timestamp) -> u64 {
        let us = u64::try_from(now.as_microsecond()).unwrap_or_default();
        self.last = us.max(self.last + 1);
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((self.last, now, *event));
        self.last
    }

    /// Those after a number, oldest first.
    pub(super) fn after<'a>(&'a self, id: u64, node: &'a str) -> impl Iterator<Item = Flow> + 'a {
        let first = self.kept.partition_point(|(known, ..)| *known <= id);
        self.kept.range(first..).map(move |(id, time, event)| Flow::new(event, node, *id, *time))
    }
}
