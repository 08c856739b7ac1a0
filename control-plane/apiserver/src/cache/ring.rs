//! The recent events of one resource. Watchers read it at their own pace by sequence number; nothing is queued for any
//! of them, so a slow watcher costs nothing, and finds out that it was too slow when what it needs is gone.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::reader::Entry;

/// At most this many events are kept.
const MAX_EVENTS: usize = 16_384;
/// At most this many bytes of objects are kept, unless they are fewer than [`MIN_EVENTS`].
const MAX_BYTES: usize = 16 << 20;
/// This many are kept whatever they weigh.
const MIN_EVENTS: usize = 1024;

/// `ADDED`, `MODIFIED` or `DELETED`, as one watcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object exists (or matches the selector) now, and did not before.
    Added,
    /// It existed before.
    Modified,
    /// It exists (or matches) no more.
    Deleted,
}

impl Change {
    /// The event's `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// In which form an event is encoded: a key for the encodings that are made once. Its parts are the address of the
/// served row of the resource table, the number of the form (object, partial metadata, table...), and the change.
pub type View = (usize, u8, Change);

/// A change of one object.
#[derive(Debug)]
pub struct CachedEvent {
    /// When.
    pub revision: u64,
    /// The object after the change; `None` if it was deleted.
    pub current: Option<Arc<Entry>>,
    /// The object before the change; `None` if it was created.
    pub previous: Option<Arc<Entry>>,
    encoded: Mutex<Vec<(View, Bytes)>>,
}

impl CachedEvent {
    /// An event that nobody has encoded yet.
    pub fn new(revision: u64, current: Option<Arc<Entry>>, previous: Option<Arc<Entry>>) -> Self {
        Self { revision, current, previous, encoded: Mutex::new(Vec::new()) }
    }

    /// How somebody sees it who sees only what passes `filter`; `None` if it does not concern them.
    pub fn seen_by(&self, filter: impl Fn(&Entry) -> bool) -> Option<Change> {
        let now = self.current.as_deref().is_some_and(&filter);
        let before = self.previous.as_deref().is_some_and(&filter);
        match (before, now) {
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
            (false, false) => None,
        }
    }

    /// The event in a form, encoded by `encode` if nobody asked for it before.
    pub fn encoded(&self, view: View, encode: impl FnOnce() -> Bytes) -> Bytes {
        let mut encoded = self.encoded.lock();
        if let Some((_, bytes)) = encoded.iter().find(|(v, _)| *v == view) {
            return bytes.clone();
        }
        let bytes = encode();
        encoded.push((view, bytes.clone()));
        bytes
    }

    fn weight(&self) -> usize {
        [&self.current, &self.previous].into_iter().flatten().map(|e| e.bytes.len() + 256).sum()
    }
}

/// What a watcher needs has been dropped. Holds the oldest revision after which everything is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone(pub u64);

/// The events, oldest first.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Arc<CachedEvent>>,
    /// Sequence number of the first event.
    first: u64,
    /// Everything that happened after this revision is here.
    complete_after: u64,
    bytes: usize,
}

impl Ring {
    /// An empty ring: nothing is known of what happened up to `revision`.
    pub fn new(revision: u64) -> Self {
        Self { events: VecDeque::new(), first: 0, complete_after: revision, bytes: 0 }
    }

    /// Adds the newest event; drops the oldest while there are too many.
    pub fn push(&mut self, event: CachedEvent) {
        self.bytes += event.weight();
        self.events.push_back(Arc::new(event));
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.events.len() > MIN_EVENTS) {
            let Some(dropped) = self.events.pop_front() else { break };
            self.bytes -= dropped.weight();
            self.first += 1;
            self.complete_after = dropped.revision;
        }
    }

    /// Forgets everything: what happened up to `revision` is not known. Watchers find out by [`Gone`].
    pub fn reset(&mut self, revision: u64) {
        // One more than was ever given out, so that no cursor is still good.
        self.first += self.events.len() as u64 + 1;
        self.events.clear();
        self.bytes = 0;
        self.complete_after = revision;
    }

    /// The sequence number that the next event will have.
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The sequence number of the first event after `revision`.
    pub fn after(&self, revision: u64) -> Result<u64, Gone> {
        if revision < self.complete_after {
            return Err(Gone(self.complete_after));
        }
        Ok(self.first + self.events.partition_point(|e| e.revision <= revision) as u64)
    }

    /// At most `limit` events from the sequence number `cursor` on.
    pub fn read(&self, cursor: u64, limit: usize) -> Result<Vec<Arc<CachedEvent>>, Gone> {
        let Some(skip) = cursor.checked_sub(self.first) else { return Err(Gone(self.complete_after)) };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.events.len());
        Ok(self.events.range(skip..).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64) -> CachedEvent {
        CachedEvent::new(revision, None, None)
    }

    #[test]
    fn a_reader_that_falls_behind_is_told() {
        let mut ring = Ring::new(5);
        assert_eq!(ring.after(4), Err(Gone(5)));
        let start = ring.after(5).unwrap();
        for revision in 6..6 + MAX_EVENTS as u64 {
            ring.push(event(revision));
        }
        assert_eq!(ring.read(start, 1).unwrap()[0].revision, 6);
        ring.push(event(6 + MAX_EVENTS as u64));
        assert_eq!(ring.read(start, 1).unwrap_err(), Gone(6));
        assert_eq!(ring.read(ring.after(6).unwrap(), 1).unwrap()[0].revision, 7);
    }

    #[test]
    fn after_a_reset_no_cursor_is_good() {
        let mut ring = Ring::new(0);
        ring.push(event(1));
        let end = ring.end();
        ring.reset(9);
        assert!(ring.read(end, 1).is_err());
        assert!(ring.read(ring.after(9).unwrap(), 1).unwrap().is_empty());
    }
}
