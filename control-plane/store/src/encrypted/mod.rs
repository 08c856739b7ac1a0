//! A store whose values are encrypted at rest (upstream `apiserver/pkg/storage/value`, with its prefixes:
//! `k8s:enc:aesgcm:v1:key1:`): a layer over any other store.
//!
//! Which kinds, by which providers and keys, an [`EncryptionConfiguration`] says. The first provider's first key writes;
//! all of them read. A value that another than that one wrote is stale: writing its object again, even unchanged, has
//! it encrypted anew, which is how keys are rotated.

mod config;
mod provider;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use xebec_clock::Random;

use crate::{
    Batch, KeyValue, ListOptions, ListResult, Operation, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream,
};
pub use config::{ConfigError, EncryptionConfiguration};
use provider::Providers;

/// Keys of stale values that are remembered; if there are more, all values are taken for stale.
const MOST_STALE: usize = 100_000;
/// How every encrypted value begins.
const PREFIX: &[u8] = b"k8s:enc:";

/// See the module.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    coder: Arc<Coder>,
}

/// Encrypts and decrypts.
struct Coder {
    rules: config::Rules,
    random: Random,
    stale: Mutex<BTreeSet<String>>,
}

impl EncryptedStore {
    /// Values of `inner`, encrypted as `configuration` says; nonces come from `random`.
    ///
    /// # Errors
    ///
    /// The configuration makes no sense.
    pub fn new(
        inner: Arc<dyn Store>,
        configuration: &EncryptionConfiguration,
        random: Random,
    ) -> Result<Self, ConfigError> {
        let coder = Coder { rules: configuration.rules()?, random, stale: Mutex::default() };
        Ok(Self { inner, coder: Arc::new(coder) })
    }
}

impl Coder {
    fn providers(&self, key: &str) -> Option<&Providers> {
        self.rules.of(key)
    }

    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, StoreError> {
        match self.providers(key) {
            Some(providers) => providers.seal(key, value, &self.random).map_err(|why| failed(key, &why)),
            None => Ok(value),
        }
    }

    /// The plain value, and whether it is stale.
    fn open(&self, key: &str, value: Bytes) -> Result<(Bytes, bool), StoreError> {
        let opened = match self.providers(key) {
            Some(providers) => providers.open(key, &value),
            None if value.starts_with(PREFIX) => {
                Err("it is encrypted, and nothing says how to read its kind".to_owned())
            }
            None => Ok((None, false)),
        };
        let (plain, stale) = opened.map_err(|why| failed(key, &why))?;
        Ok((plain.unwrap_or(value), stale))
    }

    /// A value that is there now.
    fn open_current(&self, mut kv: KeyValue) -> Result<KeyValue, StoreError> {
        let (value, stale) = self.open(&kv.key, kv.value)?;
        kv.value = value;
        if stale {
            self.remember(&kv.key);
        }
        Ok(kv)
    }

    fn remember(&self, key: &str) {
        let mut keys = self.stale.lock();
        if keys.len() <= MOST_STALE {
            keys.insert(key.to_owned());
        }
    }

    fn open_batch(&self, mut batch: Batch) -> Result<Batch, StoreError> {
        for event in &mut batch.events {
            if let Some(value) = event.value.take() {
                let (value, stale) = self.open(&event.key, value)?;
                event.value = Some(value);
                if stale {
                    self.remember(&event.key);
                } else {
                    self.stale.lock().remove(&event.key);
                }
            }
            if let Some(previous) = &mut event.previous {
                previous.value = self.open(&event.key, std::mem::take(&mut previous.value))?.0;
            }
        }
        Ok(batch)
    }
}

fn failed(key: &str, why: &str) -> StoreError {
    StoreError::Engine(format!("unable to transform key {key:?}: {why}"))
}

#[async_trait]
impl Store for EncryptedStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.inner.get(key).await?.map(|kv| self.coder.open_current(kv)).transpose()
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError> {
        let mut result = self.inner.list(prefix, options).await?;
        result.items = result.items.into_iter().map(|kv| self.coder.open_current(kv)).collect::<Result<_, _>>()?;
        Ok(result)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnOutcome, StoreError> {
        let mut written = Vec::new();
        for operation in &mut txn.operations {
            if let Operation::Put(key, value) = operation {
                *value = self.coder.seal(key, std::mem::take(value))?;
                written.push(key.clone());
            }
        }
        match self.inner.txn(txn).await? {
            TxnOutcome::Conflict { condition, current: Some(mut current) } => {
                current.value = self.coder.open(&current.key, current.value)?.0;
                Ok(TxnOutcome::Conflict { condition, current: Some(current) })
            }
            outcome => {
                if matches!(outcome, TxnOutcome::Committed(_)) {
                    let mut stale = self.coder.stale.lock();
                    for key in &written {
                        stale.remove(key);
                    }
                }
                Ok(outcome)
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let coder = self.coder.clone();
        let stream = self.inner.watch(prefix, after).await?;
        Ok(Box::pin(stream.map(move |batch| batch.and_then(|batch| coder.open_batch(batch)))))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    fn is_stale(&self, key: &str) -> bool {
        let stale = self.coder.stale.lock();
        stale.contains(key) || (stale.len() > MOST_STALE && self.coder.providers(key).is_some())
    }
}
