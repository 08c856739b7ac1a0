//! Drain acknowledgement: a pod that is to go is asked to stop only after every node has let go of it.
//!
//! A pod that is deleted leaves its services' EndpointSlices at once, as ready endpoint, but each node learns of it a
//! little later, and sends it new connections until then. So its agent holds SIGTERM (and preStop) back: [`ledger`]
//! says at which revision the pod left its slices, and [`peers`] asks the other agents until their kernels hold that
//! revision too. Connections that there are already stay where they are, until the pod ends them.
//!
//! The wait is bounded; a node that is not ready does not count; a pod that no slice names does not wait.

pub mod answer;
pub mod ledger;
pub mod peers;
pub mod quiet;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::ledger::{Ledger, Standing};
use self::peers::Peers;
use crate::network::PodIdentity;

/// The annotation of a pod that says how long it may be held back; 0 for not at all.
pub const TIMEOUT_ANNOTATION: &str = "net.xebec.io/drain-timeout-ms";
/// How long a pod is held back at most, if it does not say.
pub const TIMEOUT_MS: u32 = 5_000;
/// After the last node has let go: what it sent before is on its way.
const SETTLE: Duration = Duration::from_millis(20);
/// Then requests that have begun may end: many servers drop them on SIGTERM, and a connection that is not accepted yet is
/// lost when the server closes its socket. One that is kept open without a request looks the same, so this is short.
const QUIET_MAX: Duration = Duration::from_millis(250);
/// How often to look.
const QUIET_POLL: Duration = Duration::from_millis(10);

/// How long the pod with these annotations is held back at most. One that cannot be read is as if it were not there.
pub fn timeout(annotations: &BTreeMap<String, String>) -> Duration {
    let wanted = annotations.get(TIMEOUT_ANNOTATION).and_then(|text| text.trim().parse().ok());
    Duration::from_millis(u64::from(wanted.unwrap_or(TIMEOUT_MS)))
}

/// What came of waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No service leads to the pod: there was nothing to wait for.
    Unused,
    /// Nobody sends it new connections.
    LetGo,
    /// These nodes may still do so; none if the pod's slices still name it.
    TimedOut(Vec<String>),
}

/// Waits until services no longer lead to a pod.
#[async_trait]
pub trait Services: Send + Sync + 'static {
    /// Returns when every node has let go of the pod, or after `within`.
    async fn let_go(&self, pod: &PodIdentity, within: Duration) -> Outcome;
}

/// Where there are no services: nobody is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

#[async_trait]
impl Services for NoServices {
    async fn let_go(&self, _: &PodIdentity, _: Duration) -> Outcome {
        Outcome::Unused
    }
}

/// How many clients a pod has: none if that cannot be known.
pub type Clients = Box<dyn Fn(&PodIdentity) -> Option<usize> + Send + Sync>;

/// The services of a cluster.
pub struct ClusterServices {
    ledger: Ledger,
    peers: Arc<Peers>,
    clients: Arc<Clients>,
}

impl ClusterServices {
    /// By this node's ledger, and the other nodes'; `clients` may block for a moment.
    pub fn new(ledger: Ledger, peers: Arc<Peers>, clients: Clients) -> Self {
        Self { ledger, peers, clients: Arc::new(clients) }
    }

    /// Returns when the pod has no clients, or after a while.
    async fn quiet(&self, pod: &PodIdentity) {
        loop {
            let (clients, asked) = (Arc::clone(&self.clients), pod.clone());
            let now = tokio::task::spawn_blocking(move || clients(&asked)).await;
            if !matches!(now, Ok(Some(1..))) {
                return;
            }
            tokio::time::sleep(QUIET_POLL).await;
        }
    }

    /// The revision at which the pod left its slices, once it has and this node's maps hold it; none if none names it.
    async fn left_here(&self, uid: &str) -> Option<u64> {
        let mut applied = self.ledger.applied();
        loop {
            // Before the first list it would seem that no slice names the pod.
            let now = *applied.borrow_and_update();
            if let Some(now) = now {
                match self.ledger.standing(uid) {
                    Standing::Unnamed => return None,
                    Standing::Left(revision) if now >= revision => return Some(revision),
                    Standing::Left(_) | Standing::InUse => {}
                }
            }
            if applied.changed().await.is_err() {
                return None;
            }
        }
    }
}

#[async_trait]
impl Services for ClusterServices {
    async fn let_go(&self, pod: &PodIdentity, within: Duration) -> Outcome {
        let deadline = tokio::time::Instant::now() + within;
        let revision = match tokio::time::timeout_at(deadline, self.left_here(&pod.uid)).await {
            Ok(None) => return Outcome::Unused,
            Ok(Some(revision)) => revision,
            Err(_) => return Outcome::TimedOut(Vec::new()),
        };
        let missing = self.peers.reach(revision, deadline).await;
        if !missing.is_empty() {
            return Outcome::TimedOut(missing);
        }
        let now = tokio::time::Instant::now();
        tokio::time::sleep_until(deadline.min(now + SETTLE)).await;
        // Whether or not it is quiet by then.
        drop(tokio::time::timeout_at(deadline.min(now + SETTLE + QUIET_MAX), self.quiet(pod)).await);
        Outcome::LetGo
    }
}

#[cfg(test)]
mod tests;
