//! A watch of etcd's: opened again where it was whenever the connection is lost.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Error, EventType, WatchClient, WatchOptions, WatchResponse};

use super::{key_value, ours, theirs, within};
use crate::{Batch, Event, Revision, StoreError, WatchStream};

/// How long to wait before the connection is tried again.
const RETRY: Duration = Duration::from_millis(200);

async fn open(client: &WatchClient, first: i64) -> Result<etcd_client::WatchStream, Error> {
    let options = WatchOptions::new().with_all_keys().with_start_revision(first).with_prev_key();
    within(client.clone().watch("\0", Some(options))).await
}

/// The oldest revision that can be read: etcd says it when it is asked for what is older.
pub(super) async fn compacted(client: &WatchClient) -> Result<Revision, Error> {
    let mut stream = open(client, 1).await?;
    while let Some(response) = within(stream.message()).await? {
        if response.compact_revision() > 0 {
            return Ok(ours(response.compact_revision()));
        }
        if !response.created() {
            break;
        }
    }
    Ok(0)
}

struct Follower {
    client: WatchClient,
    prefix: String,
    /// Everything up to here has been handed on, or waits in `ready`.
    seen: Revision,
    stream: Option<etcd_client::WatchStream>,
    ready: VecDeque<Batch>,
    ended: bool,
}

/// What happens to keys under `prefix` after a revision.
pub(super) fn follow(client: WatchClient, prefix: &str, after: Revision) -> WatchStream {
    let prefix = prefix.to_owned();
    let follower = Follower { client, prefix, seen: after, stream: None, ready: VecDeque::new(), ended: false };
    Box::pin(futures::stream::unfold(follower, |mut follower| async move {
        if follower.ended {
            return None;
        }
        let next = follower.next().await;
        follower.ended = next.is_err();
        Some((next, follower))
    }))
}

impl Follower {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let received = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match open(&self.client, theirs(self.seen) + 1).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match received {
                Ok(Some(response)) if response.canceled() => {
                    if response.compact_revision() > 0 {
                        let compacted = ours(response.compact_revision());
                        return Err(StoreError::Compacted { requested: self.seen, compacted });
                    }
                    self.lost(response.cancel_reason()).await;
                }
                Ok(Some(response)) => self.take(&response),
                Ok(None) => self.lost("the stream ended").await,
                Err(error) => self.lost(&error.to_string()).await,
            }
        }
    }

    async fn lost(&mut self, why: &str) {
        tracing::warn!(why, "a watch of etcd was interrupted; it goes on from revision {}", self.seen);
        self.stream = None;
        tokio::time::sleep(RETRY).await;
    }

    /// Whole revisions come in one answer.
    fn take(&mut self, response: &WatchResponse) {
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = ours(kv.mod_revision());
            if self.ready.back().is_none_or(|last| last.revision != revision) {
                self.ready.push_back(Batch { revision, events: Vec::new() });
            }
            self.seen = revision;
            if !kv.key().starts_with(self.prefix.as_bytes()) {
                continue;
            }
            let put = event.event_type() == EventType::Put;
            let event = Event {
                revision,
                key: String::from_utf8_lossy(kv.key()).into_owned(),
                value: put.then(|| Bytes::copy_from_slice(kv.value())),
                previous: event.prev_kv().map(key_value),
            };
            if let Some(last) = self.ready.back_mut() {
                last.events.push(event);
            }
        }
    }
}
