//! Keys that somebody else keeps (upstream's KMS v2 providers): values are encrypted with keys derived from a seed, and the
//! seed by a plugin, behind a socket on this machine, with a key that never leaves it.
//!
//! The seed lasts until the plugin says that its key has changed. It is asked for that every minute; when it has not
//! answered for three, nothing is written any more, for it may have been told to use another key. What is read says how its
//! seed was encrypted, and seeds that have been decrypted are remembered.

mod plugin;
mod sealed;

#[cfg(test)]
pub(super) mod wire {
    //! What a plugin of the tests' own says and hears.
    pub use super::plugin::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusResponse};
    pub use super::sealed::EncryptedObject;
}

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;
use xebec_clock::{Clock, Random};

use plugin::Plugin;
use sealed::{Dek, EncryptedObject, SEED_BYTES, SEED_TYPE};

/// How often a plugin is asked for its state when it is well, and when it is not.
const WELL: Duration = Duration::from_secs(60);
const NOT_WELL: Duration = Duration::from_secs(10);
/// How long after a good answer its key may be written with.
const GRACE: SignedDuration = SignedDuration::from_mins(3);
/// Decrypted seeds that are remembered: one for each key that a plugin has had, and each start of a server.
const MOST_SEEDS: usize = 1024;
/// What a plugin says of its version.
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];

/// A provider, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KmsConfig {
    pub(super) name: String,
    /// The plugin's socket.
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
}

/// See the module.
pub(super) struct Kms {
    pub(super) config: KmsConfig,
    prefix: Vec<u8>,
    plugin: Plugin,
    clock: Clock,
    random: Random,
    state: Mutex<State>,
    seeds: Mutex<Seeds>,
    /// One poll at a time.
    polling: tokio::sync::Mutex<()>,
}

struct State {
    current: Option<Current>,
    /// What the last look at the plugin found.
    checked: Result<(), String>,
    /// When it is to be looked at again.
    due: Instant,
}

/// What is written with.
#[derive(Clone)]
struct Current {
    dek: Arc<Dek>,
    /// Everything of what is stored but the data.
    head: EncryptedObject,
    expires: Timestamp,
}

/// Decrypted seeds by how they are encrypted, and in which order they came.
#[derive(Default)]
struct Seeds {
    known: BTreeMap<EncryptedObject, Arc<Dek>>,
    order: VecDeque<EncryptedObject>,
}

impl Seeds {
    fn put(&mut self, head: EncryptedObject, dek: Arc<Dek>) {
        if self.known.insert(head.clone(), dek).is_none() {
            self.order.push_back(head);
        }
        while self.order.len() > MOST_SEEDS {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

/// What is said of a key in logs and errors.
fn hash(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let hex: String = digest(&SHA256, key_id.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Kms {
    pub(super) fn new(config: KmsConfig, clock: Clock, random: Random) -> Self {
        let state = State { current: None, checked: Err("it has not been asked yet".into()), due: Instant::now() };
        Self {
            prefix: format!("k8s:enc:kms:v2:{}:", config.name).into_bytes(),
            plugin: Plugin::new(config.socket.clone(), config.timeout),
            config,
            clock,
            random,
            state: Mutex::new(state),
            seeds: Mutex::default(),
            polling: tokio::sync::Mutex::default(),
        }
    }

    /// What is stored, without what it begins with, if this provider wrote it.
    pub(super) fn strip<'a>(&self, stored: &'a [u8]) -> Option<&'a [u8]> {
        stored.strip_prefix(self.prefix.as_slice())
    }

    /// When the plugin is to be looked at again.
    pub(super) fn due(&self) -> Instant {
        self.state.lock().due
    }

    /// What is wrong with the plugin, if anything is, as far as is known.
    pub(super) fn check(&self) -> Result<(), String> {
        self.state.lock().checked.clone()
    }

    pub(super) fn seal(&self, context: &str, plain: &[u8]) -> Result<Bytes, String> {
        let current = self.state.lock().current.clone();
        let Some(mut current) = current else {
            let why = self.check().err().unwrap_or_default();
            return Err(format!("got unexpected nil transformer: {why}"));
        };
        let now = self.clock.now();
        if now > current.expires {
            let seconds = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
            return Err(format!(
                "encryptedDEKSource with keyID hash {:?} expired at {} (current time is {})",
                hash(&current.head.key_id),
                seconds(current.expires),
                seconds(now)
            ));
        }
        current.head.encrypted_data = current.dek.seal(context, plain, &self.random)?;
        let mut out = self.prefix.clone();
        current.head.write(&mut out)?;
        Ok(out.into())
    }

    /// What was sealed, and whether it should be sealed anew.
    pub(super) async fn open(&self, context: &str, stored: &[u8]) -> Result<(Bytes, bool), String> {
        let mut object = EncryptedObject::read(stored)?;
        let data = std::mem::take(&mut object.encrypted_data);
        let known = self.seeds.lock().known.get(&object).cloned();
        let dek = match known {
            Some(dek) => dek,
            None => self.decrypt(&object).await?,
        };
        let plain = dek.open(context, &data)?;
        let state = self.state.lock();
        let stale = state
            .current
            .as_ref()
            .is_none_or(|current| current.head.key_id != object.key_id || object.source_type != SEED_TYPE);
        Ok((plain.into(), stale))
    }

    async fn decrypt(&self, head: &EncryptedObject) -> Result<Arc<Dek>, String> {
        let uid = self.random.uuid();
        let source = self.plugin.decrypt(&uid, head).await;
        let source = source.map_err(|why| format!("failed to decrypt DEK, error: {why}"))?;
        let dek = Arc::new(Dek::new(head.source_type, source)?);
        self.seeds.lock().put(head.clone(), dek.clone());
        Ok(dek)
    }

    /// Looks at the plugin. Whether its key is another than it was.
    pub(super) async fn poll(&self) -> bool {
        let _one = self.polling.lock().await;
        let (checked, changed) = match self.look().await {
            Ok(changed) => (Ok(()), changed),
            Err(why) => {
                tracing::warn!(provider = self.config.name, "{why}");
                (Err(why), false)
            }
        };
        let mut state = self.state.lock();
        state.due = Instant::now() + if checked.is_ok() { WELL } else { NOT_WELL };
        state.checked = checked;
        changed
    }

    async fn look(&self) -> Result<bool, String> {
        let name = &self.config.name;
        let status = self.plugin.status().await.map_err(|why| {
            format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {why}")
        })?;
        let mut wrong = Vec::new();
        if status.healthz != "ok" {
            wrong.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if !VERSIONS.contains(&status.version.as_str()) {
            wrong.push(format!("expected KMSv2 API version {}, got {}", VERSIONS[0], status.version));
        }
        if let Err(why) = sealed::check_key_id(&status.key_id) {
            wrong.push(format!("expected KMSv2 KeyID to be set, got {}: {why}", status.key_id));
        }
        match wrong.as_slice() {
            [] => {}
            [one] => return Err(format!("kmsv2 Provider {name} is not healthy, error: {one}")),
            all => return Err(format!("kmsv2 Provider {name} is not healthy, error: [{}]", all.join(", "))),
        }
        self.rotate(&status.key_id).await
    }

    /// Makes sure that what is written is written with a key of the plugin's. Whether that is another than before.
    async fn rotate(&self, key_id: &str) -> Result<bool, String> {
        let expires = self.clock.now().checked_add(GRACE).unwrap_or(Timestamp::MAX);
        let before = {
            let mut state = self.state.lock();
            match &mut state.current {
                Some(current) if current.head.key_id == key_id => {
                    current.expires = expires;
                    return Ok(false);
                }
                Some(current) => current.head.key_id.clone(),
                None => String::new(),
            }
        };
        let mut seed = vec![0; SEED_BYTES];
        self.random.fill(&mut seed);
        let uid = self.random.uuid();
        let failed = |why: &str, encrypted: &str| {
            format!(
                "failed to rotate DEK uid={uid:?}, errGen={why}, statusKeyIDHash={:?}, encryptKeyIDHash={:?}, \
                 stateKeyIDHash={:?}",
                hash(key_id),
                hash(encrypted),
                hash(&before)
            )
        };
        let head = match self.plugin.encrypt(&uid, &seed).await {
            Ok(head) => head,
            Err(why) => return Err(failed(&format!("failed to encrypt DEK, error: {why}"), "")),
        };
        head.check().map_err(|why| failed(&why, &head.key_id))?;
        if head.key_id != key_id {
            return Err(failed("<nil>", &head.key_id));
        }
        let dek = Arc::new(Dek::new(SEED_TYPE, seed)?);
        self.seeds.lock().put(head.clone(), dek.clone());
        tracing::info!(provider = self.config.name, key = hash(key_id), "values are written with a new key");
        self.state.lock().current = Some(Current { dek, head, expires });
        Ok(true)
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kms").field("config", &self.config).finish_non_exhaustive()
    }
}
