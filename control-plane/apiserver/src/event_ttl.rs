//! Events are kept for an hour (upstream's `--event-ttl`), so that a cluster in trouble does not drown in them.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;
use xebec_store::{Condition, Operation, Store, Txn};

use crate::cache::{self, WatchCache};
use crate::reader::Reader;

/// How long an event is kept after it last happened.
const TTL: SignedDuration = SignedDuration::from_hours(1);
/// How often old ones are looked for.
const INTERVAL: Duration = Duration::from_secs(60);
/// How many are deleted in one transaction.
const BATCH: usize = 100;

/// When an event happened. Any of these may be absent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    metadata: Metadata,
    last_timestamp: Option<Timestamp>,
    event_time: Option<Timestamp>,
    series: Option<Series>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    creation_timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    last_observed_time: Option<Timestamp>,
}

impl View {
    fn happened(&self) -> Option<Timestamp> {
        let series = self.series.as_ref().and_then(|series| series.last_observed_time);
        [self.metadata.creation_timestamp, self.last_timestamp, self.event_time, series].into_iter().flatten().max()
    }
}

/// Deletes old events until `stop`.
pub async fn run(cache: Arc<WatchCache>, store: Arc<dyn Store>, clock: Clock, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for txn in deletions(&cache, clock.now()) {
            // An event that happens again meanwhile makes its batch fail; the next round takes the others.
            if let Err(error) = store.txn(txn).await {
                tracing::warn!(%error, "old events could not be deleted; trying again in a minute");
                break;
            }
        }
    }
}

/// What deletes all events that are old.
fn deletions(cache: &WatchCache, now: Timestamp) -> Vec<Txn> {
    let Some(events) = cache.resource("", "events") else { return Vec::new() };
    let limit = now.checked_sub(TTL).unwrap_or(Timestamp::MIN);
    let old: Vec<(String, u64)> = cache
        .list("", "events", "")
        .into_iter()
        .filter(|entry| {
            let view = serde_json::from_slice::<View>(&entry.bytes);
            view.is_ok_and(|view| view.happened().is_some_and(|at| at < limit))
        })
        .map(|entry| (format!("{}{}", events.prefix, cache::key(&entry.namespace, &entry.name)), entry.revision))
        .collect();
    let txn = |batch: &[(String, u64)]| Txn {
        conditions: batch.iter().map(|(key, revision)| Condition::Unchanged(key.clone(), *revision)).collect(),
        operations: batch.iter().map(|(key, _)| Operation::Delete(key.clone())).collect(),
    };
    old.chunks(BATCH).map(txn).collect()
}
