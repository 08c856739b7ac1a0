//! Every write, in order.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use xebec_store::memory::MemoryStore;
use xebec_store::{
    KeyValue, ListOptions, ListResult, Operation, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream,
};

/// Lines of the trace that are kept to be read; the hash covers all.
const LINES: usize = 200_000;

/// What happened: each write's revision, key and content, boiled down to a hash, and its beginning in words.
#[derive(Clone, Debug)]
pub struct Trace {
    /// FNV-1a over all writes.
    pub hash: u64,
    /// How many there were.
    pub writes: u64,
    /// `revision put|delete key`, the first 200,000 of them.
    pub lines: Vec<String>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, writes: 0, lines: Vec::new() }
    }
}

impl Trace {
    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn record(&mut self, revision: Revision, operation: &Operation) {
        let (verb, key, value) = match operation {
            Operation::Put(key, value) => ("put", key, Some(value)),
            Operation::Delete(key) => ("delete", key, None),
        };
        self.feed(&revision.to_le_bytes());
        self.feed(key.as_bytes());
        self.feed(value.map_or(&[], |v: &Bytes| v.as_ref()));
        self.writes += 1;
        if self.lines.len() < LINES {
            self.lines.push(format!("{revision} {verb} {key} #{:x}", self.hash));
        }
    }
}

/// Looks at every write; what it returns is what is wrong.
pub type Watchman = Box<dyn FnMut(Revision, &Operation) -> Vec<String> + Send>;

/// A store in memory that records what is written to it, and has every write looked at.
pub struct RecordingStore {
    inner: MemoryStore,
    seen: Mutex<Seen>,
}

struct Seen {
    trace: Trace,
    watchman: Watchman,
    wrong: Vec<String>,
}

impl RecordingStore {
    /// An empty store.
    pub fn new(watchman: Watchman) -> Arc<Self> {
        let seen = Seen { trace: Trace::default(), watchman, wrong: Vec::new() };
        Arc::new(Self { inner: MemoryStore::new(), seen: Mutex::new(seen) })
    }

    /// What has been written so far.
    pub fn trace(&self) -> Trace {
        self.seen.lock().trace.clone()
    }

    /// What was wrong so far.
    pub fn wrong(&self) -> Vec<String> {
        self.seen.lock().wrong.clone()
    }
}

#[async_trait]
impl Store for RecordingStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError> {
        self.inner.list(prefix, options).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let operations = txn.operations.clone();
        // The store in memory never waits: what is recorded is in the order of commits.
        let outcome = self.inner.txn(txn).await?;
        if let TxnOutcome::Committed(revision) = &outcome {
            let mut seen = self.seen.lock();
            for operation in &operations {
                seen.trace.record(*revision, operation);
                let wrong = (seen.watchman)(*revision, operation);
                seen.wrong.extend(wrong);
            }
        }
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, after).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
}
