//! What is known of a kind's objects: fed by the informer, and by the answers to our own writes.
//!
//! Own writes are seen at once, so a planner never acts twice for want of news (upstream's "expectations"):
//! resource versions are one sequence in this cluster, so whichever of a write's answer and its watch event
//! comes first is taken, and the other is known to be old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::kind::Kind;
use super::meta::{Key, Meta};

/// Uids of own deletions that the watch has not confirmed; past this many all are forgotten, at the price of a
/// planner perhaps looking at an object that is gone.
const MAX_TOMBSTONES: usize = 20_000;

/// A lean form of an object: what controllers use of it.
pub trait View: DeserializeOwned + Send + Sync + 'static {
    /// The kind it is a view of.
    fn kind() -> &'static Kind;
    /// Its metadata.
    fn meta(&self) -> &Meta;
    /// What the cache can find it by, beyond namespace and name: `(index, value)`.
    fn indexes(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Index of objects by the uid of the owner that manages them.
pub const BY_CONTROLLER: &str = "controller";
/// Index of pods by node.
pub const BY_NODE: &str = "node";
/// Index of endpoint slices by `namespace/service`.
pub const BY_SERVICE: &str = "service";

/// Index of devices by [`crate::views::pool_key`].
pub const BY_POOL: &str = "pool";

/// A change that the cache went through.
#[derive(Debug)]
pub enum Change<'a, V> {
    /// A new object.
    Added(&'a Arc<V>),
    /// `(old, new)`.
    Updated(&'a Arc<V>, &'a Arc<V>),
    /// It is gone; its last known state.
    Removed(&'a Arc<V>),
}

impl<V> Change<'_, V> {
    /// The object's newest known state.
    pub fn latest(&self) -> &Arc<V> {
        match self {
            Self::Added(v) | Self::Updated(_, v) | Self::Removed(v) => v,
        }
    }

    /// The object's state before, if it was there.
    pub fn previous(&self) -> Option<&Arc<V>> {
        match self {
            Self::Added(_) => None,
            Self::Updated(v, _) | Self::Removed(v) => Some(v),
        }
    }
}

type Handler<V> = Box<dyn Fn(&Change<'_, V>) + Send + Sync>;

/// The objects of a kind.
pub struct Cache<V> {
    inner: RwLock<Inner<V>>,
    pending: parking_lot::Mutex<Vec<Handler<V>>>,
    handlers: OnceLock<Vec<Handler<V>>>,
    synced: watch::Sender<bool>,
}

struct Inner<V> {
    objects: BTreeMap<Key, Arc<V>>,
    index: BTreeMap<&'static str, BTreeMap<String, BTreeSet<Key>>>,
    /// The newest revision the informer has delivered.
    seen: u64,
    /// Own deletions the informer has yet to confirm.
    tombstones: BTreeSet<String>,
}

impl<V> std::fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("objects", &self.inner.read().objects.len()).finish_non_exhaustive()
    }
}

impl<V: View> Default for Cache<V> {
    fn default() -> Self {
        Self {
            inner: RwLock::new(Inner {
                objects: BTreeMap::new(),
                index: BTreeMap::new(),
                seen: 0,
                tombstones: BTreeSet::new(),
            }),
            pending: parking_lot::Mutex::default(),
            handlers: OnceLock::new(),
            synced: watch::Sender::new(false),
        }
    }
}

impl<V: View> Cache<V> {
    /// Calls `handler` after every change. To be called before the informer starts: later handlers are not called.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, V>) + Send + Sync + 'static) {
        self.pending.lock().push(Box::new(handler));
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        let mut receiver = self.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = receiver.wait_for(|synced| *synced).await;
    }

    /// The object.
    pub fn get(&self, key: &Key) -> Option<Arc<V>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// All objects, by key.
    pub fn list(&self) -> Vec<Arc<V>> {
        self.inner.read().objects.values().cloned().collect()
    }

    /// A namespace's objects, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<V>> {
        let inner = self.inner.read();
        inner
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(k, _)| k.namespace == namespace)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// The objects that an index has under a value, by key.
    pub fn by_index(&self, index: &'static str, value: &str) -> Vec<Arc<V>> {
        let inner = self.inner.read();
        let Some(keys) = inner.index.get(index).and_then(|i| i.get(value)) else { return Vec::new() };
        keys.iter().filter_map(|k| inner.objects.get(k).cloned()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in an object from the watch.
    pub fn watched(&self, new: V) {
        let revision = new.meta().resource_version;
        let done = {
            let mut inner = self.inner.write();
            inner.seen = inner.seen.max(revision);
            if inner.tombstones.contains(&new.meta().uid) { None } else { inner.put(new) }
        };
        self.notify_put(done);
    }

    /// Takes in a deletion from the watch.
    pub fn watched_deletion(&self, last: &V) {
        let removed = {
            let mut inner = self.inner.write();
            inner.seen = inner.seen.max(last.meta().resource_version);
            inner.tombstones.remove(&last.meta().uid);
            inner.remove(&last.meta().key(), &last.meta().uid)
        };
        self.notify_removed(removed);
    }

    /// Takes in a bookmark.
    pub fn bookmark(&self, revision: u64) {
        let mut inner = self.inner.write();
        inner.seen = inner.seen.max(revision);
    }

    /// Takes in the answer to an own write.
    pub fn wrote(&self, new: V) {
        let done = {
            let mut inner = self.inner.write();
            let meta = new.meta();
            // Delivered already, and gone since.
            let gone = meta.resource_version <= inner.seen && !inner.objects.contains_key(&meta.key());
            if gone || inner.tombstones.contains(&meta.uid) { None } else { inner.put(new) }
        };
        self.notify_put(done);
    }

    /// Takes in that an own deletion has removed an object.
    pub fn deleted(&self, key: &Key, uid: &str) {
        let removed = {
            let mut inner = self.inner.write();
            let removed = inner.remove(key, uid);
            if removed.is_some() {
                if inner.tombstones.len() >= MAX_TOMBSTONES {
                    inner.tombstones.clear();
                }
                inner.tombstones.insert(uid.to_owned());
            }
            removed
        };
        self.notify_removed(removed);
    }

    /// Takes in a whole list, read at `revision`.
    pub fn replace(&self, items: Vec<V>, revision: u64) {
        let listed: BTreeSet<Key> = items.iter().map(|v| v.meta().key()).collect();
        let stale: Vec<(Key, String)> = {
            let mut inner = self.inner.write();
            inner.seen = inner.seen.max(revision);
            // What the list does not have is gone; what it has although we deleted it, the watch will confirm.
            let uids: BTreeSet<&str> = items.iter().map(|v| v.meta().uid.as_str()).collect();
            inner.tombstones.retain(|uid| uids.contains(uid.as_str()));
            inner
                .objects
                .values()
                .map(|v| v.meta())
                .filter(|m| m.resource_version <= revision && !listed.contains(&m.key()))
                .map(|m| (m.key(), m.uid.clone()))
                .collect()
        };
        for (key, uid) in stale {
            let removed = self.inner.write().remove(&key, &uid);
            self.notify_removed(removed);
        }
        for item in items {
            let done = {
                let mut inner = self.inner.write();
                if inner.tombstones.contains(&item.meta().uid) { None } else { inner.put(item) }
            };
            self.notify_put(done);
        }
        self.synced.send_replace(true);
    }

    fn handlers(&self) -> &[Handler<V>] {
        self.handlers.get_or_init(|| std::mem::take(&mut *self.pending.lock()))
    }

    fn notify_put(&self, done: Option<(Option<Arc<V>>, Arc<V>)>) {
        let Some((old, new)) = done else { return };
        match old {
            Some(old) if old.meta().uid == new.meta().uid => self.notify(&Change::Updated(&old, &new)),
            Some(old) => {
                self.notify(&Change::Removed(&old));
                self.notify(&Change::Added(&new));
            }
            None => self.notify(&Change::Added(&new)),
        }
    }

    fn notify_removed(&self, removed: Option<Arc<V>>) {
        if let Some(old) = removed {
            self.notify(&Change::Removed(&old));
        }
    }

    fn notify(&self, change: &Change<'_, V>) {
        for handler in self.handlers() {
            handler(change);
        }
    }
}

impl<V: View> Inner<V> {
    /// Stores an object unless it is older than what is known; the old one and the new one.
    fn put(&mut self, new: V) -> Option<(Option<Arc<V>>, Arc<V>)> {
        let key = new.meta().key();
        if self.objects.get(&key).is_some_and(|old| old.meta().resource_version >= new.meta().resource_version) {
            return None;
        }
        let new = Arc::new(new);
        let old = self.objects.insert(key.clone(), new.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        for (index, value) in new.indexes() {
            self.index.entry(index).or_default().entry(value).or_default().insert(key.clone());
        }
        Some((old, new))
    }

    fn remove(&mut self, key: &Key, uid: &str) -> Option<Arc<V>> {
        if self.objects.get(key)?.meta().uid != uid {
            return None;
        }
        let old = self.objects.remove(key)?;
        self.unindex(key, &old);
        Some(old)
    }

    fn unindex(&mut self, key: &Key, old: &V) {
        for (index, value) in old.indexes() {
            if let Some(values) = self.index.get_mut(index)
                && let Some(keys) = values.get_mut(&value)
            {
                keys.remove(key);
                if keys.is_empty() {
                    values.remove(&value);
                }
            }
        }
    }
}

/// A cache as the executor sees it: where answers to writes go.
pub trait Sink: Send + Sync {
    /// An object as the API server stored it.
    fn wrote(&self, body: &[u8]);
    /// An object that is gone.
    fn deleted(&self, key: &Key, uid: &str);
}

impl<V: View> Sink for Cache<V> {
    fn wrote(&self, body: &[u8]) {
        match serde_json::from_slice::<V>(body) {
            Ok(view) if !view.meta().uid.is_empty() => Cache::wrote(self, view),
            Ok(_) => {}
            Err(error) => tracing::debug!(kind = %V::kind().kind, %error, "an answer cannot be read"),
        }
    }

    fn deleted(&self, key: &Key, uid: &str) {
        Cache::deleted(self, key, uid);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::runtime::kind;

    #[derive(Debug, serde::Deserialize)]
    struct Thing {
        metadata: Meta,
    }

    impl View for Thing {
        fn kind() -> &'static Kind {
            &kind::POD
        }
        fn meta(&self) -> &Meta {
            &self.metadata
        }
        fn indexes(&self) -> Vec<(&'static str, String)> {
            self.metadata.controller().map(|r| (BY_CONTROLLER, r.uid.clone())).into_iter().collect()
        }
    }

    fn thing(name: &str, uid: &str, revision: u64) -> Thing {
        serde_json::from_value(serde_json::json!({"metadata": {
            "name": name, "namespace": "n", "uid": uid, "resourceVersion": revision.to_string(),
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "o1", "controller": true}],
        }}))
        .unwrap()
    }

    #[test]
    fn own_writes_are_seen_and_old_news_is_not() {
        let cache = Cache::<Thing>::default();
        let changes = Arc::new(AtomicUsize::new(0));
        let counter = changes.clone();
        cache.on_change(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        cache.replace(vec![thing("a", "u1", 5)], 10);
        cache.wrote(thing("b", "u2", 12));
        assert_eq!(cache.by_index(BY_CONTROLLER, "o1").len(), 2);
        cache.watched(thing("b", "u2", 12));
        assert_eq!(changes.load(Ordering::Relaxed), 2);
        // A deletes before the answer of our own write comes in: the answer must not bring it back.
        cache.watched(thing("c", "u3", 13));
        cache.watched_deletion(&thing("c", "u3", 14));
        cache.wrote(thing("c", "u3", 13));
        assert!(cache.get(&Key::new("n", "c")).is_none());
    }

    #[test]
    fn own_deletions_hold_until_confirmed() {
        let cache = Cache::<Thing>::default();
        cache.replace(vec![thing("a", "u1", 5)], 10);
        cache.deleted(&Key::new("n", "a"), "u1");
        cache.watched(thing("a", "u1", 11));
        assert!(cache.is_empty());
        cache.watched(thing("a", "u2", 13));
        cache.watched_deletion(&thing("a", "u1", 12));
        assert_eq!(cache.get(&Key::new("n", "a")).unwrap().meta().uid, "u2");
    }

    #[test]
    fn a_list_removes_what_it_lacks_unless_newer() {
        let cache = Cache::<Thing>::default();
        cache.replace(vec![thing("a", "u1", 5), thing("b", "u2", 6)], 10);
        cache.wrote(thing("c", "u3", 25));
        cache.replace(vec![thing("b", "u2", 6)], 20);
        let names: Vec<String> = cache.list().iter().map(|t| t.meta().name.clone()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(cache.by_index(BY_CONTROLLER, "o1").len(), 2);
    }
}
