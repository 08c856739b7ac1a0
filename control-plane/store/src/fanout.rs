//! Hands committed batches to the watchers, in process.
//!
//! A commit never waits for a watcher: each has a bounded queue, and one whose queue is full is ended and told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{Batch, Revision, StoreError, WatchStream};

/// How many batches a watcher may fall behind. A batch is one transaction; at this many, the watcher's own cache is
/// minutes behind, and listing again is cheaper.
const QUEUE_BATCHES: usize = 16_384;

#[derive(Debug)]
struct Subscriber {
    prefix: String,
    queue: mpsc::Sender<Batch>,
    lost: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    published: Revision,
    subscribers: Vec<Subscriber>,
}

/// The watchers of one store.
#[derive(Debug, Default)]
pub(crate) struct Fanout(Mutex<Inner>);

/// A place in the queue of live batches: everything after `since` arrives.
pub(crate) struct Subscription {
    /// What was published when the subscription began.
    pub since: Revision,
    queue: mpsc::Receiver<Batch>,
    lost: Arc<AtomicUsize>,
}

impl Fanout {
    /// Starts after `revision`.
    pub fn new(revision: Revision) -> Self {
        Self(Mutex::new(Inner { published: revision, subscribers: Vec::new() }))
    }

    /// The revision of the last published batch.
    pub fn published(&self) -> Revision {
        self.0.lock().published
    }

    /// Follows what is published under `prefix` from now on.
    pub fn subscribe(&self, prefix: &str) -> Subscription {
        let (queue, receiver) = mpsc::channel(QUEUE_BATCHES);
        let lost = Arc::new(AtomicUsize::new(0));
        let mut inner = self.0.lock();
        inner.subscribers.push(Subscriber { prefix: prefix.to_owned(), queue, lost: lost.clone() });
        Subscription { since: inner.published, queue: receiver, lost }
    }

    /// Hands committed batches to whoever watches a key of theirs, and their revisions to everybody.
    pub fn publish(&self, batches: impl IntoIterator<Item = Batch>) {
        let mut inner = self.0.lock();
        for batch in batches {
            debug_assert!(batch.revision > inner.published, "batches are published in order");
            inner.published = batch.revision;
            inner.subscribers.retain(|subscriber| subscriber.offer(&batch));
        }
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.0.lock().subscribers.clear();
    }
}

impl Subscriber {
    /// Whether the subscriber stays.
    fn offer(&self, batch: &Batch) -> bool {
        let events: Vec<_> = batch.events.iter().filter(|e| e.key.starts_with(&self.prefix)).cloned().collect();
        let wanted = events.len();
        match self.queue.try_send(Batch { revision: batch.revision, events }) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            // A sign of progress may be lost: the next one says more.
            Err(TrySendError::Full(_)) if wanted == 0 => true,
            Err(TrySendError::Full(_)) => {
                self.lost.store(wanted, Ordering::Relaxed);
                false
            }
        }
    }
}

impl Subscription {
    /// What happened before the subscription began (`replay`, ascending), then what happens.
    pub fn after(self, replay: Vec<Batch>) -> WatchStream {
        let Self { queue, lost, .. } = self;
        let live = futures::stream::unfold((queue, lost, false), |(mut queue, lost, ended)| async move {
            if ended {
                return None;
            }
            match queue.recv().await {
                Some(batch) => Some((Ok(batch), (queue, lost, false))),
                None => {
                    let error = match lost.load(Ordering::Relaxed) {
                        0 => StoreError::Closed,
                        events => StoreError::Lagged(events),
                    };
                    Some((Err(error), (queue, lost, true)))
                }
            }
        });
        Box::pin(futures::stream::iter(replay.into_iter().map(Ok)).chain(live))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Event;

    fn batch(revision: Revision) -> Batch {
        let event = Event { revision, key: "/a/x".into(), value: Some(Bytes::from_static(b"v")), previous: None };
        Batch { revision, events: vec![event] }
    }

    #[tokio::test]
    async fn a_watcher_that_falls_behind_is_told() {
        let fanout = Fanout::new(0);
        let mut stream = fanout.subscribe("/a/").after(Vec::new());
        for revision in 1..=QUEUE_BATCHES as u64 + 1 {
            fanout.publish([batch(revision)]);
        }
        for revision in 1..=QUEUE_BATCHES as u64 {
            assert_eq!(stream.next().await.unwrap().unwrap().revision, revision);
        }
        assert!(matches!(stream.next().await, Some(Err(StoreError::Lagged(1)))));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn progress_reaches_those_who_asked_for_something_else() {
        let fanout = Fanout::new(4);
        let mut stream = fanout.subscribe("/b/").after(Vec::new());
        fanout.publish([batch(5)]);
        assert_eq!(stream.next().await.unwrap().unwrap(), Batch { revision: 5, events: Vec::new() });
    }
}
