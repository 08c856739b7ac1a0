//! The store: keys, revisions and watches.
//!
//! A store holds byte values under string keys. Every committed transaction that changes something takes the next
//! revision, a number that only grows; all changes of one transaction share it. A watch replays what happened after a
//! revision, once and in order, and then follows; a revision that has been compacted away is an error, never a gap.
//! A transaction is acknowledged only after it is durable.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

pub mod conformance;
pub mod encrypted;
pub mod etcd;
mod fanout;
pub mod memory;
pub mod shared;
pub mod sqlite;

/// A point in the store's history. 0 is before the first write.
pub type Revision = u64;

/// A key with its value as of some revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, `/registry/...`.
    pub key: String,
    /// The value as it was put.
    pub value: Bytes,
    /// When the key was created (since it last did not exist).
    pub create_revision: Revision,
    /// When the key last changed.
    pub mod_revision: Revision,
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key must not exist.
    Absent(String),
    /// The key must exist and have last changed at this revision.
    Unchanged(String, Revision),
}

/// One change within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key's value.
    Put(String, Bytes),
    /// Removes a key; removing a key that does not exist changes nothing.
    Delete(String),
}

/// Changes that are made all together if every condition holds, or not at all. A key appears in at most one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Carried out in order.
    pub operations: Vec<Operation>,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// The changes are durable. The revision is the transaction's own, or the current one if it changed nothing.
    Committed(Revision),
    /// A condition did not hold; nothing was changed. The index of the first such condition, and the key's state.
    Conflict {
        /// Index into [`Txn::conditions`].
        condition: usize,
        /// The key as it is, `None` if it does not exist.
        current: Option<KeyValue>,
    },
}

/// Which part of a prefix to list, and as of when.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// As of this revision; `None` is the current one.
    pub revision: Option<Revision>,
    /// Only keys greater than this one.
    pub after: Option<String>,
    /// At most this many.
    pub limit: Option<usize>,
}

/// The keys found, in ascending order.
#[derive(Clone, Debug)]
pub struct ListResult {
    /// The keys and their values.
    pub items: Vec<KeyValue>,
    /// The revision the list is a snapshot of.
    pub revision: Revision,
    /// How many keys of the range come after the last item.
    pub remaining: usize,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// The new value; `None` is a deletion.
    pub value: Option<Bytes>,
    /// The key before the change; `None` is a creation.
    pub previous: Option<KeyValue>,
}

/// All events of one revision that a watch asked for, or a sign of progress: an empty batch says that nothing the
/// watch asked for happened up to its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The revision of every event in the batch.
    pub revision: Revision,
    /// In the order of the transaction's operations.
    pub events: Vec<Event>,
}

/// Batches in ascending order of revision. After an `Err` the stream ends.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<Batch, StoreError>> + Send>>;

/// Why the store could not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The history before `compacted` is gone.
    #[error("revision {requested} has been compacted (the oldest is {compacted}); list again and watch from there")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future (the current one is {current})")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The current one.
        current: Revision,
    },
    /// A watcher did not keep up, and its queue is full.
    #[error("the watch fell {0} events behind and was ended; list again and watch from there")]
    Lagged(usize),
    /// The engine failed. A write to an engine on this machine was not made; of one elsewhere, that is not known.
    #[error("store engine: {0}")]
    Engine(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// A versioned key-value store. See the crate's documentation for what every engine promises; [`conformance`] holds
/// each of them to it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The key's current value and the store's current revision.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// The keys that start with `prefix`.
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError>;

    /// Carries out a transaction. When it returns `Committed`, the changes survive any crash.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Everything that happened to keys under `prefix` after revision `after`, then everything that happens.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets history before `revision`: superseded values and deletions. Current values stay.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// The current revision.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Whether others may write to it: then what this process knows of it may be behind.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether the key's value should be written again though it is the same: it is kept in a form that is no longer
    /// wanted.
    fn is_stale(&self, _key: &str) -> bool {
        false
    }
}
