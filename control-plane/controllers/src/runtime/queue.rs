//! A work queue: each key at most once, never two workers on one key, back-off by key.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use xebec_metrics::Histogram;

/// The first wait after a failure, doubled with each, and the longest (upstream: 5 ms and 1000 s).
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(300));

/// The ends of the buckets of [`Counts`]' times, in seconds (client-go `workqueue`: from 10 ns, each ten times the last).
pub const BOUNDS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// What there is to tell of a queue.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// How many keys were put into it.
    pub adds: u64,
    /// How many of them after a failure.
    pub retries: u64,
    /// How long they waited.
    pub waited: Histogram,
    /// How long they were worked on.
    pub worked: Histogram,
}

/// A queue at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// What was counted so far.
    pub counts: Counts,
    /// How many keys wait.
    pub depth: usize,
    /// For how long each key is worked on that is worked on now.
    pub working: Vec<Duration>,
}

/// A queue of keys.
#[derive(Debug)]
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct Inner<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when its worker is done; since when.
    dirty: BTreeMap<K, Instant>,
    working: BTreeMap<K, Instant>,
    due: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
    failures: BTreeMap<K, u32>,
    counts: Counts,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let inner = Inner {
            ready: VecDeque::new(),
            dirty: BTreeMap::new(),
            working: BTreeMap::new(),
            due: BTreeMap::new(),
            by_time: BTreeSet::new(),
            failures: BTreeMap::new(),
            counts: Counts::default(),
        };
        Self { inner: Mutex::new(inner), wake: Notify::new() }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Puts a key into the queue, unless it waits there already.
    pub fn add(&self, key: K) {
        if self.inner.lock().add(key) {
            self.wake.notify_one();
        }
    }

    /// Puts a key into the queue after a while; an earlier time that it waits for stands.
    pub fn add_after(&self, key: K, wait: Duration) {
        if wait.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + wait;
        let mut inner = self.inner.lock();
        if inner.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        if let Some(old) = inner.due.insert(key.clone(), at) {
            inner.by_time.remove(&(old, key.clone()));
        }
        inner.by_time.insert((at, key));
        drop(inner);
        self.wake.notify_one();
    }

    /// The next key. The worker calls [`Queue::done`] when it is done with it.
    pub async fn next(&self) -> K {
        loop {
            let wait_until = {
                let mut inner = self.inner.lock();
                inner.collect_due();
                if let Some(key) = inner.ready.pop_front() {
                    inner.take(&key);
                    if !inner.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                inner.by_time.first().map(|(at, _)| *at)
            };
            match wait_until {
                Some(at) => tokio::select! {
                    biased;
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Gives a key back: if it was added meanwhile it is queued again.
    pub fn done(&self, key: &K) {
        let mut inner = self.inner.lock();
        if let Some(since) = inner.working.remove(key) {
            inner.counts.worked.observe(&BOUNDS, since.elapsed());
        }
        if inner.dirty.contains_key(key) {
            inner.ready.push_back(key.clone());
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Queues a key again after its back-off; how many failures it has had in a row.
    pub fn retry(&self, key: &K) -> u32 {
        let failures = {
            let mut inner = self.inner.lock();
            let count = inner.failures.entry(key.clone()).or_insert(0);
            *count = count.saturating_add(1);
            let failures = *count;
            inner.counts.retries += 1;
            failures
        };
        let wait = BACKOFF.0.saturating_mul(1 << (failures - 1).min(20)).min(BACKOFF.1);
        self.add_after(key.clone(), wait);
        failures
    }

    /// Forgets a key's failures.
    pub fn forget(&self, key: &K) {
        self.inner.lock().failures.remove(key);
    }

    /// How many keys wait to be worked on now.
    pub fn len(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// What it has done, and does.
    pub fn look(&self) -> Look {
        let inner = self.inner.lock();
        let working = inner.working.values().map(Instant::elapsed).collect();
        Look { counts: inner.counts.clone(), depth: inner.ready.len(), working }
    }

    /// Whether no key waits to be worked on now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Ord + Clone> Inner<K> {
    /// Whether a worker is to be woken.
    fn add(&mut self, key: K) -> bool {
        if self.dirty.contains_key(&key) {
            return false;
        }
        self.counts.adds += 1;
        self.dirty.insert(key.clone(), Instant::now());
        if self.working.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// A worker has it from now on.
    fn take(&mut self, key: &K) {
        if let Some(since) = self.dirty.remove(key) {
            self.counts.waited.observe(&BOUNDS, since.elapsed());
        }
        self.working.insert(key.clone(), Instant::now());
    }

    fn collect_due(&mut self) {
        let now = Instant::now();
        while self.by_time.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.by_time.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_worked_on_by_one() {
        let queue = Queue::default();
        queue.add(1);
        queue.add(1);
        queue.add(2);
        assert_eq!(queue.next().await, 1);
        queue.add(1);
        assert_eq!(queue.next().await, 2);
        assert!(queue.is_empty());
        queue.done(&1);
        assert_eq!(queue.next().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_stands() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after(1, Duration::from_secs(10));
        queue.add_after(1, Duration::from_secs(5));
        queue.add_after(1, Duration::from_secs(20));
        assert_eq!(queue.next().await, 1);
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&1);
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add(7);
        for _ in 0..4 {
            let key = queue.next().await;
            queue.retry(&key);
            queue.done(&key);
        }
        queue.next().await;
        assert!(start.elapsed() >= Duration::from_millis(5 + 10 + 20 + 40));
        assert_eq!(queue.retry(&7), 5);
        queue.forget(&7);
        assert_eq!(queue.retry(&7), 1);
    }
}
