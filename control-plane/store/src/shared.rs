//! One process' way to a store that others use, too: tests of several servers in one process have one each. What it tells
//! of others' doings may come late, and it may be cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;

use crate::{KeyValue, ListOptions, ListResult, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream};

/// See the module.
pub struct Shared {
    store: Arc<dyn Store>,
    late_by: Duration,
    is_cut: AtomicBool,
}

impl Shared {
    /// A way to `store`, whose watches tell of each batch only after `late_by`.
    pub fn new(store: Arc<dyn Store>, late_by: Duration) -> Self {
        Self { store, late_by, is_cut: AtomicBool::new(false) }
    }

    /// Cuts it off, or mends it. Watches that have begun go on.
    pub fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Release);
    }

    fn store(&self) -> Result<&dyn Store, StoreError> {
        match self.is_cut.load(Ordering::Acquire) {
            true => Err(StoreError::Engine("there is no way to it".into())),
            false => Ok(&*self.store),
        }
    }
}

#[async_trait]
impl Store for Shared {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.store()?.get(key).await
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError> {
        self.store()?.list(prefix, options).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.store()?.txn(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let (stream, late_by) = (self.store()?.watch(prefix, after).await?, self.late_by);
        if late_by.is_zero() {
            return Ok(stream);
        }
        Ok(Box::pin(stream.then(move |batch| async move {
            tokio::time::sleep(late_by).await;
            batch
        })))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store()?.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store()?.revision().await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn is_stale(&self, key: &str) -> bool {
        self.store.is_stale(key)
    }
}
