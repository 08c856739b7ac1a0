//! Answers of webhooks that are good for a while.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Answers by question. The question itself, which may be a secret, is not kept.
pub struct Cache<V> {
    inner: Mutex<Inner<V>>,
    most: usize,
}

struct Inner<V> {
    answers: HashMap<[u8; 32], (V, Instant)>,
    /// The questions, the oldest first.
    order: VecDeque<[u8; 32]>,
}

impl<V: Clone> Cache<V> {
    /// Keeps `most` answers; the oldest goes first.
    pub fn new(most: usize) -> Self {
        Self { inner: Mutex::new(Inner { answers: HashMap::new(), order: VecDeque::new() }), most }
    }

    /// The answer to a question, if it is known and still good.
    pub fn get(&self, question: &[u8]) -> Option<V> {
        let inner = self.inner.lock();
        let (answer, until) = inner.answers.get(&hash(question))?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    /// Keeps an answer for so long.
    pub fn put(&self, question: &[u8], answer: V, good_for: Duration) {
        if good_for.is_zero() {
            return;
        }
        let (key, mut inner) = (hash(question), self.inner.lock());
        if inner.answers.insert(key, (answer, Instant::now() + good_for)).is_none() {
            inner.order.push_back(key);
        }
        while inner.order.len() > self.most {
            if let Some(oldest) = inner.order.pop_front() {
                inner.answers.remove(&oldest);
            }
        }
    }
}

fn hash(question: &[u8]) -> [u8; 32] {
    Sha256::digest(question).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time_and_not_without_end() {
        let cache = Cache::new(2);
        cache.put(b"a", 1, Duration::from_secs(10));
        cache.put(b"a", 2, Duration::from_secs(10));
        cache.put(b"b", 3, Duration::from_secs(20));
        assert_eq!((cache.get(b"a"), cache.get(b"b"), cache.get(b"c")), (Some(2), Some(3), None));
        cache.put(b"c", 4, Duration::ZERO);
        assert_eq!(cache.get(b"c"), None);
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!((cache.get(b"a"), cache.get(b"b")), (None, Some(3)));
        cache.put(b"c", 4, Duration::from_secs(10));
        cache.put(b"d", 5, Duration::from_secs(10));
        assert_eq!((cache.get(b"b"), cache.get(b"c"), cache.get(b"d")), (None, Some(4), Some(5)));
    }
}
