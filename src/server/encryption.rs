//! What is encrypted in the store: the file that says it, which may change while the server runs, and the plugins that have
//! keys.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;
use xebec_apiserver::extension::Check;
use xebec_clock::{Clock, Random};
use xebec_store::Store;
use xebec_store::encrypted::{EncryptedStore, EncryptionConfiguration};

/// How often the file is looked at (upstream's).
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Plugins may start at the same time as the server: this long, and this often, they are asked.
const PLUGINS_PATIENCE: Duration = Duration::from_secs(30);
const PLUGINS_RETRY: Duration = Duration::from_secs(1);

/// A store that encrypts as a file says.
pub struct Encryption {
    /// The store.
    pub store: Arc<EncryptedStore>,
    path: PathBuf,
    /// The file as it was last read.
    text: String,
    /// Whether the file is read again when it changes.
    reloads: bool,
}

impl Encryption {
    /// Over `inner`, as the file at `path` says.
    pub async fn open(
        inner: Arc<dyn Store>,
        path: &Path,
        reloads: bool,
        sources: (Clock, Random),
    ) -> anyhow::Result<Self> {
        let what = || format!("cannot use {} (--encryption-provider-config)", path.display());
        let text = fs::read_to_string(path).with_context(what)?;
        let configuration = EncryptionConfiguration::parse(&text).with_context(what)?;
        let store = EncryptedStore::new(inner, &configuration, sources).with_context(what)?;
        let begun = Instant::now();
        while let Err(why) = store.prepare().await {
            if begun.elapsed() >= PLUGINS_PATIENCE {
                bail!("{}: {why}", what());
            }
            tracing::info!("waiting for a KMS plugin: {why}");
            tokio::time::sleep(PLUGINS_RETRY).await;
        }
        Ok(Self { store: Arc::new(store), path: path.to_owned(), text, reloads })
    }

    /// How the plugins are, for the server's health: one for all where they may become others, else one for each.
    pub fn health(&self) -> BTreeMap<String, Check> {
        let plugins = self.store.plugins().len();
        if self.reloads {
            let store = Arc::clone(&self.store);
            let all: Check = Arc::new(move || store.plugins().into_iter().collect::<Result<(), _>>());
            return BTreeMap::from([("kms-providers".to_owned(), all)]);
        }
        let one = |index: usize| {
            let store = Arc::clone(&self.store);
            let check: Check = Arc::new(move || store.plugins().into_iter().nth(index).unwrap_or(Ok(())));
            (format!("kms-provider-{index}"), check)
        };
        (0..plugins).map(one).collect()
    }

    /// Asks the plugins, and follows the file if that is wanted, for as long as it is polled.
    pub async fn follow(mut self) {
        let store = Arc::clone(&self.store);
        let files = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if let Err(error) = self.look().await {
                    tracing::error!("{error:#}; the encryption configuration from before stays");
                }
            }
        };
        tokio::join!(store.follow(), files);
    }

    /// Takes up what the file says, if that is something else than before.
    async fn look(&mut self) -> anyhow::Result<()> {
        if !self.reloads {
            return Ok(());
        }
        let what = || format!("cannot use {} (--encryption-provider-config)", self.path.display());
        let text = fs::read_to_string(&self.path).with_context(what)?;
        if text == self.text {
            return Ok(());
        }
        let configuration = EncryptionConfiguration::parse(&text).with_context(what)?;
        self.store.reload(&configuration).await.map_err(anyhow::Error::msg).with_context(what)?;
        tracing::info!("encrypting as {} says now", self.path.display());
        self.text = text;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use xebec_store::memory::MemoryStore;
    use xebec_store::{Operation, Txn};

    use super::*;

    const KEY: &str = "/registry/core/secrets/ns/a";

    fn file(provider: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers:\n  - {provider}\n  - identity: {{}}\n"
        )
    }

    async fn stored(encryption: &Encryption, inner: &MemoryStore) -> String {
        let operations = vec![Operation::Put(KEY.into(), "x".into())];
        encryption.store.txn(Txn { conditions: Vec::new(), operations }).await.unwrap();
        String::from_utf8_lossy(&inner.get(KEY).await.unwrap().unwrap().value).into_owned()
    }

    #[tokio::test]
    async fn a_changed_file_is_taken_up_if_it_makes_sense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("encryption.yaml");
        let keyed = |cipher: &str| {
            file(&format!("{cipher}: {{keys: [{{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}}]}}"))
        };
        fs::write(&path, keyed("aesgcm")).unwrap();
        let inner = Arc::new(MemoryStore::new());
        let sources = || (Clock::system(), Random::seeded(1));
        let mut encryption = Encryption::open(inner.clone(), &path, true, sources()).await.unwrap();
        assert!(stored(&encryption, &inner).await.starts_with("k8s:enc:aesgcm:v1:a:"));
        assert_eq!(encryption.health().keys().collect::<Vec<_>>(), ["kms-providers"]);
        fs::write(&path, "nonsense").unwrap();
        assert!(format!("{:#}", encryption.look().await.unwrap_err()).contains("encryption.yaml"));
        assert!(stored(&encryption, &inner).await.starts_with("k8s:enc:aesgcm:v1:a:"));
        fs::write(&path, keyed("secretbox")).unwrap();
        encryption.look().await.unwrap();
        assert!(stored(&encryption, &inner).await.starts_with("k8s:enc:secretbox:v1:a:"));
        // Without the flag, it counts as it was at the start.
        let mut fixed = Encryption::open(inner.clone(), &path, false, sources()).await.unwrap();
        fs::write(&path, keyed("aesgcm")).unwrap();
        fixed.look().await.unwrap();
        assert!(stored(&fixed, &inner).await.starts_with("k8s:enc:secretbox:v1:a:"));
        assert!(fixed.health().is_empty());
    }
}
