//! A store whose values are encrypted at rest (upstream `apiserver/pkg/storage/value`, with its prefixes:
//! `k8s:enc:aesgcm:v1:key1:`): a layer over any other store.
//!
//! Which kinds, by which providers and keys, an [`EncryptionConfiguration`] says. The first provider's first key writes;
//! all of them read. A value that another than that one wrote is stale: writing its object again, even unchanged, has
//! it encrypted anew, which is how keys are rotated. The configuration may be changed while the store is in use.

mod config;
mod kms;
#[cfg(test)]
mod kms_tests;
mod provider;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use xebec_clock::{Clock, Random};

use crate::{
    Batch, KeyValue, ListOptions, ListResult, Operation, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream,
};
use config::Rules;
pub use config::{ConfigError, EncryptionConfiguration};
use kms::{Kms, KmsConfig};

/// Keys of stale values that are remembered; if there are more, all values are taken for stale.
const MOST_STALE: usize = 100_000;
/// How often a configuration without plugins is looked at again.
const NO_PLUGINS: Duration = Duration::from_secs(1);
/// How every encrypted value begins.
const PREFIX: &[u8] = b"k8s:enc:";

/// See the module.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    coder: Arc<Coder>,
}

/// Encrypts and decrypts.
struct Coder {
    rules: RwLock<Arc<Rules>>,
    clock: Clock,
    random: Random,
    stale: Mutex<Stale>,
}

/// Which values should be written again.
enum Stale {
    /// These.
    These(BTreeSet<String>),
    /// All that are encrypted, but for these.
    AllBut(BTreeSet<String>),
}

impl Default for Stale {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Stale {
    /// A value has been seen that should be written again.
    fn add(&mut self, key: &str) {
        match self {
            Self::These(keys) if keys.len() >= MOST_STALE => *self = Self::AllBut(BTreeSet::new()),
            Self::These(keys) => {
                keys.insert(key.to_owned());
            }
            Self::AllBut(fresh) => {
                fresh.remove(key);
            }
        }
    }

    /// A value is as it should be.
    fn remove(&mut self, key: &str) {
        match self {
            Self::These(keys) => {
                keys.remove(key);
            }
            // What is not remembered is written once more than it would have to be.
            Self::AllBut(fresh) if fresh.len() >= MOST_STALE => {}
            Self::AllBut(fresh) => {
                fresh.insert(key.to_owned());
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        match self {
            Self::These(keys) => keys.contains(key),
            Self::AllBut(fresh) => !fresh.contains(key),
        }
    }
}

impl EncryptedStore {
    /// Values of `inner`, encrypted as `configuration` says; nonces come from the randomness. Plugins that have keys are
    /// asked for the first time by [`EncryptedStore::prepare`], and from then on by [`EncryptedStore::follow`].
    ///
    /// # Errors
    ///
    /// The configuration makes no sense.
    pub fn new(
        inner: Arc<dyn Store>,
        configuration: &EncryptionConfiguration,
        (clock, random): (Clock, Random),
    ) -> Result<Self, ConfigError> {
        let rules = configuration.rules(|config| Arc::new(Kms::new(config, clock.clone(), random.clone())))?;
        let coder = Coder { rules: RwLock::new(Arc::new(rules)), clock, random, stale: Mutex::default() };
        Ok(Self { inner, coder: Arc::new(coder) })
    }

    /// Asks the plugins that have keys, where they have not answered yet.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them.
    pub async fn prepare(&self) -> Result<(), String> {
        prepare(&self.coder.rules().plugins()).await
    }

    /// Asks the plugins again and again, for as long as it is polled.
    pub async fn follow(&self) {
        loop {
            let plugins = self.coder.rules().plugins();
            let Some(next) = plugins.iter().min_by_key(|kms| kms.due()) else {
                // There may be some after the configuration has changed.
                tokio::time::sleep(NO_PLUGINS).await;
                continue;
            };
            // Another configuration may have others.
            tokio::time::sleep_until(next.due().min(Instant::now() + NO_PLUGINS)).await;
            if next.due() <= Instant::now() {
                self.poll(next).await;
            }
        }
    }

    async fn poll(&self, plugin: &Kms) {
        if plugin.poll().await {
            *self.coder.stale.lock() = Stale::AllBut(BTreeSet::new());
        }
    }

    /// Encrypts by another configuration from now on, and reads by it. Everything that is encrypted may have to be written
    /// again.
    ///
    /// # Errors
    ///
    /// It makes no sense, or one of its plugins is not well; the one before stays.
    pub async fn reload(&self, configuration: &EncryptionConfiguration) -> Result<(), String> {
        let coder = &self.coder;
        let known = coder.rules().plugins();
        let make = |config: KmsConfig| {
            let same = known.iter().find(|kms| kms.config == config);
            same.cloned().unwrap_or_else(|| Arc::new(Kms::new(config, coder.clock.clone(), coder.random.clone())))
        };
        let rules = configuration.rules(make).map_err(|error| error.to_string())?;
        prepare(&rules.plugins()).await?;
        *coder.rules.write() = Arc::new(rules);
        *coder.stale.lock() = Stale::AllBut(BTreeSet::new());
        Ok(())
    }

    /// What is wrong with each of the plugins, if anything is, as far as is known.
    pub fn plugins(&self) -> Vec<Result<(), String>> {
        self.coder.rules().plugins().iter().map(|kms| kms.check()).collect()
    }
}

async fn prepare(plugins: &[Arc<Kms>]) -> Result<(), String> {
    for kms in plugins {
        if kms.check().is_err() {
            kms.poll().await;
        }
        kms.check()?;
    }
    Ok(())
}

impl Coder {
    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, StoreError> {
        match self.rules().of(key) {
            Some(providers) => providers.seal(key, value, &self.random).map_err(|why| failed(key, &why)),
            None => Ok(value),
        }
    }

    /// The plain value, and whether it is stale.
    async fn open(&self, key: &str, value: Bytes) -> Result<(Bytes, bool), StoreError> {
        let opened = match self.rules().of(key) {
            Some(providers) => providers.open(key, &value).await,
            None if value.starts_with(PREFIX) => {
                Err("it is encrypted, and nothing says how to read its kind".to_owned())
            }
            None => Ok((None, false)),
        };
        let (plain, stale) = opened.map_err(|why| failed(key, &why))?;
        Ok((plain.unwrap_or(value), stale))
    }

    /// A value that is there now.
    async fn open_current(&self, mut kv: KeyValue) -> Result<KeyValue, StoreError> {
        let (value, stale) = self.open(&kv.key, kv.value).await?;
        kv.value = value;
        if stale {
            self.stale.lock().add(&kv.key);
        }
        Ok(kv)
    }

    async fn open_batch(&self, mut batch: Batch) -> Result<Batch, StoreError> {
        for event in &mut batch.events {
            if let Some(value) = event.value.take() {
                let (value, stale) = self.open(&event.key, value).await?;
                event.value = Some(value);
                if stale {
                    self.stale.lock().add(&event.key);
                } else {
                    self.stale.lock().remove(&event.key);
                }
            }
            if let Some(previous) = &mut event.previous {
                previous.value = self.open(&event.key, std::mem::take(&mut previous.value)).await?.0;
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
        match self.inner.get(key).await? {
            Some(kv) => self.coder.open_current(kv).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError> {
        let mut result = self.inner.list(prefix, options).await?;
        for item in &mut result.items {
            let stored = std::mem::take(item);
            *item = self.coder.open_current(stored).await?;
        }
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
                current.value = self.coder.open(&current.key, current.value).await?.0;
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
        Ok(Box::pin(stream.then(move |batch| {
            let coder = coder.clone();
            async move { coder.open_batch(batch?).await }
        })))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    fn is_stale(&self, key: &str) -> bool {
        let stale = self.coder.stale.lock().has(key);
        stale && self.coder.rules().of(key).is_some()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}
