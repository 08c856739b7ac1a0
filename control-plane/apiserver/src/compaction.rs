//! Forgets old history (upstream's API server compacts etcd every five minutes).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use xebec_store::Store;

/// History of between one and two of these is kept: as long as a list may be continued.
const INTERVAL: Duration = Duration::from_secs(300);

/// Compacts until `stop`.
pub async fn run(store: Arc<dyn Store>, stop: CancellationToken) {
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Some(revision) = last
            && let Err(error) = store.compact(revision).await
        {
            tracing::warn!(%error, revision, "the store could not be compacted; trying again in five minutes");
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
