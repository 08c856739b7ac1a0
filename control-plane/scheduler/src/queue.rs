//! Pods that wait to be placed: by priority and then by age; those that were refused wait for the cluster to change, and
//! each refusal makes them wait longer (upstream `pkg/scheduler/backend/queue`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use xebec_controllers::runtime::meta::Key;

use crate::views::{Pod, PodRef};

/// The wait after a first refusal, doubled with each, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A refused pod is tried again after so long even if nothing seems to have changed.
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(300);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<Key, Waiting>,
    /// Those that may be tried now, in order.
    active: BTreeSet<Rank>,
    /// Those that are tried at a time.
    timed: BTreeSet<(Instant, Key)>,
    /// Counts arrivals, for age.
    arrivals: u64,
    /// Counts changes of the cluster: one that comes while a pod is tried counts for it too.
    changes: u64,
}

type Rank = (Reverse<i32>, u64, Key);

#[derive(Debug)]
struct Waiting {
    pod: PodRef,
    arrival: u64,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    /// Being tried since the cluster had changed so often.
    Trying(u64),
    /// To be tried at a time, whatever happens.
    BackingOff(Instant),
    /// Refused: to be tried when the cluster changes, not before the first time, and at the second anyway.
    Refused(Instant, Instant),
}

impl Waiting {
    fn rank(&self, key: &Key) -> Rank {
        (Reverse(self.pod.priority), self.arrival, key.clone())
    }

    fn backoff(&self) -> Duration {
        BACKOFF.0.saturating_mul(1 << self.attempts.saturating_sub(1).min(10)).min(BACKOFF.1)
    }
}

impl Inner {
    fn set(&mut self, key: &Key, state: State) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        match waiting.state {
            State::Active => {
                let rank = waiting.rank(key);
                self.active.remove(&rank);
            }
            State::BackingOff(at) | State::Refused(_, at) => {
                self.timed.remove(&(at, key.clone()));
            }
            State::Trying(_) => {}
        }
        waiting.state = state;
        match state {
            State::Active => {
                let rank = waiting.rank(key);
                self.active.insert(rank);
            }
            State::BackingOff(at) | State::Refused(_, at) => {
                self.timed.insert((at, key.clone()));
            }
            State::Trying(_) => {}
        }
    }

    /// A refused pod has reason to be tried again: at once, or when its back-off is over.
    fn revive(&mut self, key: &Key, now: Instant) {
        if let Some(Waiting { state: State::Refused(not_before, _), .. }) = self.waiting.get(key) {
            let not_before = *not_before;
            self.set(key, if not_before <= now { State::Active } else { State::BackingOff(not_before) });
        }
    }
}

impl Queue {
    /// A pod waits, or has changed.
    pub fn put(&self, pod: &PodRef) {
        let key = pod.metadata.key();
        let mut inner = self.inner.lock();
        if let Some(waiting) = inner.waiting.get(&key) {
            let was_active = waiting.state == State::Active;
            let placing_changed = !is_placed_like(&waiting.pod, pod);
            if was_active {
                // Its rank depends on it.
                inner.set(&key, State::Trying(0));
            }
            if let Some(waiting) = inner.waiting.get_mut(&key) {
                waiting.pod = pod.clone();
            }
            if was_active {
                inner.set(&key, State::Active);
            } else if placing_changed {
                inner.changes += 1;
                inner.revive(&key, Instant::now());
            }
        } else {
            inner.arrivals += 1;
            let waiting = Waiting { pod: pod.clone(), arrival: inner.arrivals, attempts: 0, state: State::Trying(0) };
            inner.waiting.insert(key.clone(), waiting);
            inner.set(&key, State::Active);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// A pod no longer waits.
    pub fn remove(&self, key: &Key) {
        let mut inner = self.inner.lock();
        inner.set(key, State::Trying(0));
        inner.waiting.remove(key);
    }

    /// The cluster has changed such that refused pods may fit now; `concerns` says which.
    pub fn revive(&self, concerns: impl Fn(&Pod) -> bool) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        inner.changes += 1;
        let refused: Vec<Key> = inner
            .waiting
            .iter()
            .filter(|(_, w)| matches!(w.state, State::Refused(..)) && concerns(&w.pod))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &refused {
            inner.revive(key, now);
        }
        drop(inner);
        if !refused.is_empty() {
            self.wake.notify_one();
        }
    }

    /// The pod to try next. Its outcome is told by [`Queue::remove`], [`Queue::refused`] or [`Queue::failed`].
    pub async fn next(&self) -> PodRef {
        loop {
            let wait_until = {
                let mut inner = self.inner.lock();
                let now = Instant::now();
                while let Some((at, key)) = inner.timed.first().cloned()
                    && at <= now
                {
                    inner.set(&key, State::Active);
                }
                if let Some((_, _, key)) = inner.active.first().cloned() {
                    let changes = inner.changes;
                    inner.set(&key, State::Trying(changes));
                    if let Some(waiting) = inner.waiting.get_mut(&key) {
                        waiting.attempts = waiting.attempts.saturating_add(1);
                        return waiting.pod.clone();
                    }
                }
                inner.timed.first().map(|(at, _)| *at)
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

    /// The pod fits nowhere: it waits for the cluster to change, unless it has since the pod was taken.
    pub fn refused(&self, key: &Key) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let changes = inner.changes;
        let Some(waiting) = inner.waiting.get(key) else { return };
        let not_before = now + waiting.backoff();
        let changed = matches!(waiting.state, State::Trying(since) if since != changes);
        let state =
            if changed { State::BackingOff(not_before) } else { State::Refused(not_before, now + UNSCHEDULABLE_LIMIT) };
        inner.set(key, state);
        drop(inner);
        self.wake.notify_one();
    }

    /// Placing the pod went wrong: it is tried again after its back-off.
    pub fn failed(&self, key: &Key) {
        let mut inner = self.inner.lock();
        let Some(waiting) = inner.waiting.get(key) else { return };
        let at = Instant::now() + waiting.backoff();
        inner.set(key, State::BackingOff(at));
        drop(inner);
        self.wake.notify_one();
    }

    /// How many pods wait, and how many of them may be tried now.
    pub fn len(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.waiting.len(), inner.active.len())
    }
}

/// Whether nothing changed that may make the pod fit (its status does not).
fn is_placed_like(old: &Pod, new: &Pod) -> bool {
    old.metadata.generation == new.metadata.generation && old.metadata.labels == new.metadata.labels
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pod(name: &str, priority: i32) -> PodRef {
        let mut pod = Pod { priority, ..Pod::default() };
        pod.metadata.name = name.into();
        Arc::new(pod)
    }

    async fn next(queue: &Queue) -> String {
        queue.next().await.metadata.name.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn by_priority_then_age() {
        let queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.put(&pod(name, priority));
        }
        let order = [next(&queue).await, next(&queue).await, next(&queue).await, next(&queue).await];
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_waits_for_a_change_and_its_backoff() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.put(&pod("a", 0));
        next(&queue).await;
        queue.refused(&Key::new("", "a"));
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
        queue.revive(|_| true);
        next(&queue).await;
        assert_eq!(start.elapsed(), Duration::from_secs(60));
        queue.refused(&Key::new("", "a"));
        queue.revive(|_| true);
        next(&queue).await;
        assert_eq!(start.elapsed(), Duration::from_secs(62));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_while_a_pod_is_tried_counts() {
        let queue = Queue::default();
        queue.put(&pod("a", 0));
        next(&queue).await;
        queue.revive(|_| true);
        queue.refused(&Key::new("", "a"));
        let start = Instant::now();
        next(&queue).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_is_tried_in_the_end() {
        let queue = Queue::default();
        queue.put(&pod("a", 0));
        next(&queue).await;
        queue.refused(&Key::new("", "a"));
        let start = Instant::now();
        next(&queue).await;
        assert_eq!(start.elapsed(), UNSCHEDULABLE_LIMIT);
        queue.remove(&Key::new("", "a"));
        assert_eq!(queue.len(), (0, 0));
    }
}
