//! The watch cache of one stored resource: all objects, and the recent events.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use xebec_schema::resource::Resource;

use super::ring::{CachedEvent, Gone, Ring};
use super::signal::{Signal, Subscription};
use crate::reader::Entry;

/// All objects of a resource, in the order of their keys.
#[derive(Debug)]
pub struct ResourceCache {
    /// The stored row of the resource table.
    pub resource: Arc<Resource>,
    /// `/registry/core/pods/`.
    pub prefix: Box<str>,
    state: RwLock<State>,
    /// The ring's end: changes with every event.
    changed: Arc<Signal>,
    /// Nothing will happen here any more: the kind is gone, or another cache is in this one's place.
    closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// By `namespace/name`, or `name` for what has no namespace: the order of the store's keys.
    objects: BTreeMap<Box<str>, Arc<Entry>>,
    ring: Ring,
    /// Revision of the last change.
    revision: u64,
}

impl ResourceCache {
    /// The cache of a resource whose objects, as of `revision`, are `objects`.
    pub fn new(resource: Arc<Resource>, objects: BTreeMap<Box<str>, Arc<Entry>>, revision: u64) -> Self {
        let prefix = super::prefix(&resource).into_boxed_str();
        let state = State { objects, ring: Ring::new(revision), revision };
        Self { resource, prefix, state: RwLock::new(state), changed: Arc::default(), closed: AtomicBool::new(false) }
    }

    /// Carries out a change: a new state of the object under `key`, or its deletion.
    pub fn apply(&self, key: &str, entry: Option<Arc<Entry>>, revision: u64) {
        let end = {
            let mut state = self.state.write();
            let previous = match &entry {
                Some(entry) => state.objects.insert(key.into(), entry.clone()),
                None => state.objects.remove(key),
            };
            state.revision = revision;
            if entry.is_none() && previous.is_none() {
                return;
            }
            state.ring.push(CachedEvent::new(revision, entry, previous));
            state.ring.end()
        };
        self.changed.set(end);
    }

    /// Puts other contents in place of what there was. Those who watch have to start again.
    pub fn replace(&self, objects: BTreeMap<Box<str>, Arc<Entry>>, revision: u64) {
        let end = {
            let mut state = self.state.write();
            state.objects = objects;
            state.revision = revision;
            state.ring.reset(revision);
            state.ring.end()
        };
        self.changed.set(end);
    }

    /// Says that nothing will happen here any more: watches end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Another number than any that was told before.
        self.changed.set(u64::MAX);
    }

    /// Whether nothing will happen here any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The object under `key`.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Objects whose key starts with `prefix` and comes after `after`, that pass `filter`; the revision of the
    /// resource's last change, the sequence number of the next event, and how many objects with the prefix come after
    /// the last one returned. At most `limit` are returned.
    pub fn list(&self, prefix: &str, after: &str, limit: usize, filter: impl Fn(&Entry) -> bool) -> Listing {
        let state = self.state.read();
        let start = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        let range = state.objects.range::<str, _>((start, Bound::Unbounded));
        let mut range = range.take_while(|(key, _)| key.starts_with(prefix)).peekable();
        let mut items = Vec::new();
        let mut last = None;
        while items.len() < limit {
            let Some((key, entry)) = range.next() else { break };
            last = Some(key);
            if filter(entry) {
                items.push(entry.clone());
            }
        }
        let last = last.filter(|_| range.peek().is_some()).cloned();
        let remaining = if last.is_some() { range.count() } else { 0 };
        Listing { items, revision: state.revision, end: state.ring.end(), last, remaining }
    }

    /// Where to read events from, to see all that happened after `revision`.
    pub fn after(&self, revision: u64) -> Result<u64, Gone> {
        self.state.read().ring.after(revision)
    }

    /// At most `limit` events from `cursor` on.
    pub fn read(&self, cursor: u64, limit: usize) -> Result<Vec<Arc<CachedEvent>>, Gone> {
        self.state.read().ring.read(cursor, limit)
    }

    /// Revision of the last change.
    pub fn revision(&self) -> u64 {
        self.state.read().revision
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says when there are new events.
    pub fn subscribe(&self) -> Subscription {
        self.changed.subscribe()
    }
}

/// A part of a resource's objects.
#[derive(Debug)]
pub struct Listing {
    /// The objects.
    pub items: Vec<Arc<Entry>>,
    /// Revision of the resource's last change.
    pub revision: u64,
    /// Sequence number of the first event after this listing.
    pub end: u64,
    /// Key of the last object looked at, if there are more.
    pub last: Option<Box<str>>,
    /// How many more there are, whether they pass the filter or not.
    pub remaining: usize,
}
