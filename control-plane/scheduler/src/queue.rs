//! Pods that wait for a node: by priority, then by age; those that could not be placed wait for something to change.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use xebec_controllers::runtime::meta::Key;

/// The first wait of a pod that could not be placed, doubled with each try, and the longest (upstream's
/// `podInitialBackoffSeconds` and `podMaxBackoffSeconds`).
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A pod is tried again after so long even if nothing has changed.
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
struct Waiting {
    priority: i32,
    tries: u32,
    /// Counts up: who came first goes first.
    since: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Being placed.
    Working,
    /// Something changed; its back-off is not over.
    Backoff(Instant),
    /// Nothing has changed since it could not be placed.
    Unschedulable {
        since: Instant,
    },
}

/// Upstream's scheduling queue. Pure but for the times it is given.
#[derive(Debug, Default)]
pub struct Queue {
    pods: BTreeMap<Key, Waiting>,
    ready: BTreeSet<(Reverse<i32>, u64, Key)>,
    arrivals: u64,
    /// Something changed while pods were being placed: whoever fails is tried again.
    moved: bool,
}

impl Queue {
    /// Adds a pod, or learns its priority anew. A pod that waits for a change is tried again: it may have changed
    /// itself.
    pub fn add(&mut self, key: Key, priority: i32) {
        match self.pods.get(&key).map(|w| w.state) {
            Some(State::Working | State::Ready | State::Backoff(_)) => {}
            Some(State::Unschedulable { .. }) => self.make_ready(&key),
            None => {
                self.arrivals += 1;
                let waiting = Waiting { priority, tries: 0, since: self.arrivals, state: State::Ready };
                self.ready.insert((Reverse(priority), waiting.since, key.clone()));
                self.pods.insert(key, waiting);
            }
        }
    }

    /// Forgets a pod: it is gone, or has a node.
    pub fn remove(&mut self, key: &Key) {
        if let Some(waiting) = self.pods.remove(key) {
            self.ready.remove(&(Reverse(waiting.priority), waiting.since, key.clone()));
        }
    }

    /// The next pod to place.
    pub fn pop(&mut self, now: Instant) -> Option<Key> {
        self.collect_due(now);
        let (.., key) = self.ready.pop_first()?;
        if let Some(waiting) = self.pods.get_mut(&key) {
            waiting.state = State::Working;
            waiting.tries = waiting.tries.saturating_add(1);
        }
        if self.pods.values().filter(|w| w.state == State::Working).count() == 1 {
            self.moved = false;
        }
        Some(key)
    }

    /// A pod could not be placed.
    pub fn unschedulable(&mut self, key: &Key, now: Instant) {
        let moved = self.moved;
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.state =
                if moved { State::Backoff(now + backoff(waiting.tries)) } else { State::Unschedulable { since: now } };
        }
    }

    /// Placing a pod failed for other reasons: it is tried again.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.state = State::Backoff(now + backoff(waiting.tries));
        }
    }

    /// Something changed that may make room: those that wait for that are tried again after their back-off.
    pub fn something_changed(&mut self) {
        self.moved = true;
        for waiting in self.pods.values_mut() {
            if let State::Unschedulable { since } = waiting.state {
                waiting.state = State::Backoff(since + backoff(waiting.tries));
            }
        }
    }

    /// When a pod becomes ready by itself.
    pub fn next_due(&self) -> Option<Instant> {
        self.pods.values().filter_map(Waiting::due).min()
    }

    fn collect_due(&mut self, now: Instant) {
        let due: Vec<Key> =
            self.pods.iter().filter(|(_, w)| w.due().is_some_and(|at| at <= now)).map(|(key, _)| key.clone()).collect();
        due.iter().for_each(|key| self.make_ready(key));
    }

    fn make_ready(&mut self, key: &Key) {
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.state = State::Ready;
            self.ready.insert((Reverse(waiting.priority), waiting.since, key.clone()));
        }
    }
}

impl Waiting {
    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Backoff(at) => Some(at),
            State::Unschedulable { since } => Some(since + UNSCHEDULABLE_LIMIT),
            State::Ready | State::Working => None,
        }
    }
}

fn backoff(tries: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(BACKOFF.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }

    #[tokio::test(start_paused = true)]
    async fn important_pods_first_then_those_that_came_first() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.add(key(name), priority);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(Instant::now())).map(|k| k.name).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_placed_waits_for_a_change_and_its_back_off() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(key("a"), 0);
        assert_eq!(queue.pop(start), Some(key("a")));
        queue.unschedulable(&key("a"), start);
        assert_eq!(queue.next_due(), Some(start + UNSCHEDULABLE_LIMIT));
        queue.something_changed();
        assert_eq!(queue.pop(start), None);
        assert_eq!(queue.next_due(), Some(start + Duration::from_secs(1)));
        let later = start + Duration::from_secs(1);
        assert_eq!(queue.pop(later), Some(key("a")));
        queue.something_changed();
        queue.unschedulable(&key("a"), later);
        assert_eq!(queue.next_due(), Some(later + Duration::from_secs(2)), "it changed meanwhile");
        queue.remove(&key("a"));
        assert_eq!(queue.next_due(), None);
    }
}
