//! The watch cache: everything that is stored, in memory, in the form in which it is served.
//!
//! One task follows the store and applies each change, so every reader sees changes in the store's order. A writer waits
//! until the cache has its change ([`WatchCache::caught_up`]) before it answers: what a client has been told, it finds
//! in its next list, and the cache is as current as the store for everything this server wrote. Where other servers write
//! to the same store, a request that has to see the newest state first waits for what they wrote
//! ([`WatchCache::current`]).

pub mod entry;
mod newest;
pub mod resource;
pub mod ring;
mod signal;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use xebec_schema::resource::Resource;
use xebec_store::{Batch, Event, ListOptions, Store, StoreError};

use crate::reader::{Entry, Reader};
use entry::Header;
use newest::Newest;
use resource::ResourceCache;

/// Everything we store is below.
pub const ROOT: &str = "/registry/";

/// How many batches of the store are applied before waiting writers are looked at.
const BATCHES: usize = 256;

/// `/registry/core/pods/`: where objects of a stored resource are.
pub fn prefix(resource: &Resource) -> String {
    let group = if resource.group.is_empty() { "core" } else { &resource.group };
    format!("{ROOT}{group}/{}/", resource.plural)
}

/// `namespace/name` or `name`: the key of an object within its resource.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Events of the resources that are being loaded, by prefix.
type Loading = BTreeMap<String, Vec<Event>>;
/// How many revisions of history a server that starts reads again, so that watches which an earlier one served go on
/// from where they were.
const HISTORY: u64 = 4096;

/// How long the store may take to tell its history.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what others have written may take to come.
const CURRENT_TIMEOUT: Duration = Duration::from_secs(10);

/// What will be stored, and its header.
type Announced = (Bytes, Header);
type ByGroup = HashMap<Box<str>, HashMap<Box<str>, Arc<ResourceCache>>>;

/// All caches.
pub struct WatchCache {
    store: Arc<dyn Store>,
    by_group: ArcSwap<ByGroup>,
    /// Held while a batch is applied: whoever holds it sees all caches at one revision.
    loading: Mutex<Loading>,
    /// Everything up to this revision has been applied.
    progress: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
    newest: Newest,
    /// What the store tells is applied, and nothing is being read again.
    following: AtomicBool,
    stop: CancellationToken,
    /// Headers of objects that writers of this server are about to store, so that they need not be parsed again.
    prepared: Mutex<HashMap<Box<str>, Vec<Announced>>>,
}

impl WatchCache {
    /// Loads what is stored of some resources, and follows the store until `stop`.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or holds an object that is not JSON.
    pub async fn load(
        store: Arc<dyn Store>,
        resources: impl Iterator<Item = Arc<Resource>>,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let mut rows: BTreeMap<String, Arc<Resource>> = BTreeMap::new();
        for row in resources {
            rows.entry(prefix(&row)).or_insert(row);
        }
        let revision = store.revision().await?;
        let mut start = revision.saturating_sub(HISTORY);
        let by_group = loop {
            match load_all(&*store, &rows, start).await {
                // The store has forgotten more than that.
                Err(StoreError::Compacted { compacted, .. }) if start < revision => {
                    start = compacted.clamp(start + 1, revision);
                }
                other => break other?,
            }
        };
        let cache = Arc::new(Self {
            store,
            by_group: ArcSwap::from_pointee(by_group),
            loading: Mutex::default(),
            progress: AtomicU64::new(start),
            waiting: Mutex::default(),
            newest: Newest::default(),
            following: AtomicBool::new(true),
            stop,
            prepared: Mutex::default(),
        });
        let mut stream = cache.store.watch(ROOT, start).await?;
        let history = cache.replay(&mut stream, revision);
        if tokio::time::timeout(HISTORY_TIMEOUT, history).await.is_err() {
            tracing::warn!(start, revision, "the store does not tell its history; watches have to start again");
            stream = cache.try_reload().await?;
        }
        tokio::spawn(cache.clone().follow(stream));
        Ok(cache)
    }

    /// Applies what happened up to `revision`, before anybody sees the cache.
    async fn replay(&self, stream: &mut xebec_store::WatchStream, revision: u64) {
        while self.progress() < revision {
            match stream.next().await {
                Some(Ok(batch)) => self.apply(batch),
                // Whoever follows the stream finds out why.
                Some(Err(_)) | None => std::future::pending().await,
            }
        }
    }

    /// The cache of a stored resource.
    pub fn resource(&self, group: &str, plural: &str) -> Option<Arc<ResourceCache>> {
        self.by_group.load().get(group)?.get(plural).cloned()
    }

    /// Keeps the objects of a resource that was not there before, or whose row has changed: they are read again, and who
    /// watches the old ones has to start again. Calls for one resource must not overlap.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or holds an object that is not JSON; then nothing has changed.
    pub async fn open(&self, row: Arc<Resource>) -> Result<(), StoreError> {
        let prefix = prefix(&row);
        loop {
            let revision = {
                let mut loading = self.loading.lock();
                loading.insert(prefix.clone(), Vec::new());
                self.progress()
            };
            let objects = load_resource(&*self.store, &row, revision).await;
            let mut loading = self.loading.lock();
            // Gone if the store's watch broke meanwhile: there may have been events that nobody has told.
            let Some(events) = loading.remove(&prefix) else { continue };
            let cache = Arc::new(ResourceCache::new(row, objects?, revision));
            for event in events.iter().filter(|event| event.revision > revision) {
                if let Some((_, _, key)) = split(&event.key) {
                    self.apply_event(&cache, key, event);
                }
            }
            self.put(&cache.resource.group, &cache.resource.plural, Some(cache.clone()));
            return Ok(());
        }
    }

    /// Keeps a resource's objects no more. Who watches them is told that it is over.
    pub fn close(&self, group: &str, plural: &str) {
        let _applying = self.loading.lock();
        self.put(group, plural, None);
    }

    fn put(&self, group: &str, plural: &str, cache: Option<Arc<ResourceCache>>) {
        let mut by_group = ByGroup::clone(&self.by_group.load());
        let of_group = by_group.entry(group.into()).or_default();
        let old = match cache {
            Some(cache) => of_group.insert(plural.into(), cache),
            None => of_group.remove(plural),
        };
        self.by_group.store(Arc::new(by_group));
        if let Some(old) = old {
            old.close();
        }
    }

    /// Whether the cache follows the store, and is not being filled anew.
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Acquire)
    }

    /// Everything up to this revision is in the cache.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Acquire)
    }

    /// Waits until the cache has everything that anybody has written to the store so far. A store of this server's own
    /// need not be asked: a write is answered when the cache has it.
    ///
    /// # Errors
    ///
    /// The store does not say how far it is, or what it has does not come.
    pub async fn current(&self) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let revision = self.newest.of(&*self.store).await?;
        let late = |_| StoreError::Engine(format!("what it has up to revision {revision} does not come"));
        tokio::time::timeout(CURRENT_TIMEOUT, self.caught_up(revision)).await.map_err(late)
    }

    /// Waits until the cache has everything up to `revision`, or the server stops.
    pub async fn caught_up(&self, revision: u64) {
        if self.progress() >= revision {
            return;
        }
        let (done, wait) = oneshot::channel();
        self.waiting.lock().entry(revision).or_default().push(done);
        // The revision may have been applied between the look above and the lock; whoever applies it looks at the
        // waiting after it has moved `progress`.
        if self.progress() >= revision {
            return;
        }
        tokio::select! {
            biased;
            // The sender goes only when the cache does.
            _ = wait => {}
            // Nobody follows the store any more.
            () = self.stop.cancelled() => {}
        }
    }

    /// Tells the cache what is about to be stored under a full key. Dropping the answer takes it back.
    pub fn prepare(&self, key: &str, stored: Bytes, header: Header) -> Prepared<'_> {
        self.prepared.lock().entry(key.into()).or_default().push((stored.clone(), header));
        Prepared { cache: self, key: key.into(), stored }
    }

    fn take_prepared(&self, key: &str, stored: &Bytes) -> Option<Header> {
        let mut prepared = self.prepared.lock();
        let headers = prepared.get_mut(key)?;
        let index = headers.iter().position(|(bytes, _)| bytes == stored)?;
        let (_, header) = headers.swap_remove(index);
        if headers.is_empty() {
            prepared.remove(key);
        }
        Some(header)
    }

    /// Applies what the store reports, until `stop`. When the store drops the watch, everything is read again.
    async fn follow(self: Arc<Self>, stream: xebec_store::WatchStream) {
        let stop = self.stop.clone();
        let mut stream = stream.ready_chunks(BATCHES);
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = stream.next() => chunk,
                () = stop.cancelled() => return,
            };
            let mut failure = chunk.is_none().then_some(StoreError::Closed);
            for batch in chunk.into_iter().flatten() {
                match batch {
                    Ok(batch) => self.apply(batch),
                    Err(error) => failure = Some(error),
                }
            }
            self.wake();
            let Some(error) = failure else { continue };
            if stop.is_cancelled() {
                return;
            }
            tracing::warn!(%error, "the store ended its watch; reading everything again");
            self.following.store(false, Ordering::Release);
            let fresh = tokio::select! {
                biased;
                fresh = self.reload() => fresh,
                () = stop.cancelled() => return,
            };
            stream = fresh.ready_chunks(BATCHES);
            self.following.store(true, Ordering::Release);
            self.wake();
        }
    }

    fn apply(&self, batch: Batch) {
        let mut loading = self.loading.lock();
        for event in batch.events {
            let Some((group, plural, key)) = split(&event.key) else { continue };
            if let Some(cache) = self.resource(group, plural) {
                self.apply_event(&cache, key, &event);
            }
            if !loading.is_empty()
                && let Some(events) = loading.get_mut(&event.key[..event.key.len() - key.len()])
            {
                events.push(event);
            }
        }
        self.progress.fetch_max(batch.revision, Ordering::AcqRel);
    }

    fn apply_event(&self, cache: &ResourceCache, key: &str, event: &Event) {
        let entry = match &event.value {
            None => None,
            Some(value) => {
                let entry = match self.take_prepared(&event.key, value) {
                    Some(header) => Ok(header.entry(value, event.revision)),
                    None => entry::read(&cache.resource, value, event.revision),
                };
                match entry {
                    Ok(entry) => Some(Arc::new(entry)),
                    Err(error) => {
                        tracing::error!(key = event.key, %error, "a stored object is not JSON; it is not served");
                        return;
                    }
                }
            }
        };
        cache.apply(key, entry, event.revision);
    }

    fn wake(&self) {
        let progress = self.progress();
        let mut waiting = self.waiting.lock();
        let later = waiting.split_off(&(progress + 1));
        let done = std::mem::replace(&mut *waiting, later);
        drop(waiting);
        for waiter in done.into_values().flatten() {
            // Somebody who stopped waiting does not mind.
            let _ = waiter.send(());
        }
    }

    async fn reload(&self) -> xebec_store::WatchStream {
        loop {
            match self.try_reload().await {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "the store cannot be read; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn try_reload(&self) -> Result<xebec_store::WatchStream, StoreError> {
        let revision = self.store.revision().await?;
        let mut done: Vec<Arc<ResourceCache>> = Vec::new();
        loop {
            let next = {
                let mut loading = self.loading.lock();
                let next = self.caches().into_iter().find(|cache| !done.iter().any(|d| Arc::ptr_eq(d, cache)));
                if next.is_none() {
                    // Those that are being loaded have to begin again.
                    loading.clear();
                    self.progress.fetch_max(revision, Ordering::AcqRel);
                }
                next
            };
            let Some(cache) = next else { break };
            let objects = load_resource(&*self.store, &cache.resource, revision).await?;
            cache.replace(objects, revision);
            done.push(cache);
        }
        self.store.watch(ROOT, revision).await
    }

    /// All caches, in the order of their prefixes.
    fn caches(&self) -> Vec<Arc<ResourceCache>> {
        let mut caches: Vec<_> = self.by_group.load().values().flat_map(|g| g.values().cloned()).collect();
        caches.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        caches
    }
}

/// What a writer told the cache; see [`WatchCache::prepare`].
pub struct Prepared<'a> {
    cache: &'a WatchCache,
    key: Box<str>,
    stored: Bytes,
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        self.cache.take_prepared(&self.key, &self.stored);
    }
}

impl Reader for WatchCache {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.resource(group, plural)?.get(&key(namespace, name))
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Entry>> {
        let Some(cache) = self.resource(group, plural) else { return Vec::new() };
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        cache.list(&prefix, "", usize::MAX, |_| true).items
    }

    fn generation(&self, group: &str, plural: &str) -> u64 {
        self.resource(group, plural).map_or(0, |cache| cache.revision())
    }
}

/// `/registry/core/pods/default/web` is `("", "pods", "default/web")`.
fn split(key: &str) -> Option<(&str, &str, &str)> {
    let (group, rest) = key.strip_prefix(ROOT)?.split_once('/')?;
    let (plural, key) = rest.split_once('/')?;
    Some((if group == "core" { "" } else { group }, plural, key))
}

/// The caches of these rows, as of a revision.
async fn load_all(
    store: &dyn Store,
    rows: &BTreeMap<String, Arc<Resource>>,
    revision: u64,
) -> Result<ByGroup, StoreError> {
    let mut by_group = ByGroup::new();
    for row in rows.values() {
        let objects = load_resource(store, row, revision).await?;
        let cache = Arc::new(ResourceCache::new(row.clone(), objects, revision));
        by_group.entry(row.group.as_ref().into()).or_default().insert(row.plural.as_ref().into(), cache);
    }
    Ok(by_group)
}

async fn load_resource(
    store: &dyn Store,
    resource: &Resource,
    revision: u64,
) -> Result<BTreeMap<Box<str>, Arc<Entry>>, StoreError> {
    let prefix = prefix(resource);
    let mut objects = BTreeMap::new();
    let mut after = None;
    loop {
        // Page by page, so that loading a large store does not hold it in memory twice.
        let options = ListOptions { revision: Some(revision), after, limit: Some(1000) };
        let page = store.list(&prefix, options).await?;
        after = page.items.last().map(|item| item.key.clone());
        for item in page.items {
            let Some(key) = item.key.strip_prefix(&prefix) else { continue };
            let entry = entry::read(resource, &item.value, item.mod_revision)
                .map_err(|error| StoreError::Engine(format!("{} is not JSON: {error}", item.key)))?;
            objects.insert(key.into(), Arc::new(entry));
        }
        if page.remaining == 0 || after.is_none() {
            return Ok(objects);
        }
    }
}
