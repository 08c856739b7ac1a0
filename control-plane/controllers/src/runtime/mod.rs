//! What runs planners: informers feed caches, caches feed queues, workers plan and the executor acts.

pub mod api;
pub mod cache;
pub mod discovery;
pub mod election;
pub mod executor;
pub mod informer;
pub mod kind;
pub mod labels;
pub mod meta;
pub mod plan;
pub mod queue;
pub mod recorder;
pub mod work_queues;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use api::ApiError;
use executor::Failure;
use meta::Key;
use queue::Queue;

/// A controller's queue.
pub type Keys = Queue<Key>;

/// A controller: looks at what is known about a key, plans, and has the plan carried out.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// For logs.
    fn name(&self) -> &'static str;

    /// Its queue.
    fn queue(&self) -> &Arc<Keys>;

    /// How many keys are worked on at once.
    fn workers(&self) -> usize {
        1
    }

    /// Brings a key's world closer to what it should be. When to look again, if nothing changes.
    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError>;
}

/// Why a key could not be brought to where it should be; it is tried again later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// A plan's action failed.
    #[error(transparent)]
    Plan(#[from] Failure),
    /// A look at the world failed.
    #[error(transparent)]
    Read(#[from] ApiError),
}

/// Starts a controller's workers.
pub fn start(set: &mut JoinSet<()>, controller: &Arc<impl Controller>, cancel: &CancellationToken) {
    for _ in 0..controller.workers().max(1) {
        set.spawn(work(controller.clone(), cancel.clone()));
    }
}

async fn work<C: Controller>(controller: Arc<C>, cancel: CancellationToken) {
    let queue = controller.queue().clone();
    loop {
        let key = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            key = queue.next() => key,
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            outcome = controller.sync(&key) => outcome,
        };
        match outcome {
            Ok(wait) => {
                queue.forget(&key);
                if let Some(wait) = wait {
                    queue.add_after(key.clone(), wait);
                }
            }
            Err(error) => {
                let failures = queue.retry(&key);
                tracing::debug!(controller = controller.name(), %key, %error, failures, "will try again");
            }
        }
        queue.done(&key);
    }
}
