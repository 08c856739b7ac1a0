//! Forgets old history (upstream's API server compacts etcd every five minutes).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use xebec_store::Store;

/// History of between one and two of these is kept: as long as a list may be continued.
const INTERVAL: Duration = Duration::from_secs(300);

/// How much of the history is forgotten.
#[derive(Debug, Default)]
pub struct Forgotten(AtomicU64);

impl Forgotten {
    /// Whether a list of this revision may not be continued any more. Even if nothing that it is about has changed: then
    /// the answer would be the same, but clients count on being told within ten minutes.
    pub fn covers(&self, revision: u64) -> bool {
        revision < self.0.load(Ordering::Relaxed)
    }
}

/// Compacts until `stop`, and says in `forgotten` how far.
pub async fn run(store: Arc<dyn Store>, forgotten: Arc<Forgotten>, stop: CancellationToken) {
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Some(revision) = last {
            match store.compact(revision).await {
                Ok(()) => forgotten.0.store(revision, Ordering::Relaxed),
                Err(error) => {
                    tracing::warn!(%error, revision, "the store could not be compacted; trying again in five minutes");
                }
            }
        }
        last = match store.revision().await {
            Ok(revision) => Some(revision),
            Err(error) => {
                tracing::warn!(%error, "the store does not tell its revision");
                None
            }
        };
    }
}
