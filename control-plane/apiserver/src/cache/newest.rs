//! How far a store is that others write to, too. Many ask at the same time; one question to the store is enough for all
//! who came before it was put.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use xebec_store::{Revision, Store, StoreError};

/// The store's newest revision, asked for by many.
#[derive(Debug, Default)]
pub struct Newest {
    /// How many questions have been put.
    put: AtomicU64,
    /// The number of the last question that was answered, and its answer.
    answered: Mutex<(u64, Option<Result<Revision, StoreError>>)>,
}

impl Newest {
    /// The revision that `store` has, or had at some time since the call.
    ///
    /// # Errors
    ///
    /// The store does not say.
    pub async fn of(&self, store: &dyn Store) -> Result<Revision, StoreError> {
        let before = self.put.load(Ordering::Acquire);
        // Held while the store is asked: who waits here is answered by the next question.
        let mut answered = self.answered.lock().await;
        if let (number, Some(answer)) = &*answered
            && *number > before
        {
            return answer.clone();
        }
        let number = self.put.fetch_add(1, Ordering::AcqRel) + 1;
        let answer = store.revision().await;
        *answered = (number, Some(answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures::future::join_all;
    use tokio::time::{Duration, sleep};
    use xebec_store::{KeyValue, ListOptions, ListResult, Txn, TxnOutcome, WatchStream};

    use super::*;

    /// Takes a second for each answer, and counts them.
    #[derive(Default)]
    struct Slow(AtomicU64);

    #[async_trait]
    impl Store for Slow {
        async fn get(&self, _: &str) -> Result<Option<KeyValue>, StoreError> {
            Err(StoreError::Closed)
        }

        async fn list(&self, _: &str, _: ListOptions) -> Result<ListResult, StoreError> {
            Err(StoreError::Closed)
        }

        async fn txn(&self, _: Txn) -> Result<TxnOutcome, StoreError> {
            Err(StoreError::Closed)
        }

        async fn watch(&self, _: &str, _: Revision) -> Result<WatchStream, StoreError> {
            Err(StoreError::Closed)
        }

        async fn compact(&self, _: Revision) -> Result<(), StoreError> {
            Err(StoreError::Closed)
        }

        async fn revision(&self) -> Result<Revision, StoreError> {
            // What it is when the question comes.
            let revision = self.0.fetch_add(1, Ordering::AcqRel) + 1;
            sleep(Duration::from_secs(1)).await;
            Ok(revision)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_the_store_is_asked_shares_the_next_question() {
        let (newest, store) = (Arc::new(Newest::default()), Arc::new(Slow::default()));
        let ask = |after_ms: u64| {
            let (newest, store) = (newest.clone(), store.clone());
            async move {
                sleep(Duration::from_millis(after_ms)).await;
                newest.of(&*store).await.unwrap()
            }
        };
        let asked = join_all([ask(0), ask(100), ask(200), ask(900), ask(1500)]).await;
        assert_eq!(asked, [1, 2, 2, 2, 3], "the first answer may be older than those who came later");
        assert_eq!(store.0.load(Ordering::Acquire), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_keeps_nobody_waiting() {
        let (newest, store) = (Newest::default(), Slow::default());
        let impatient = tokio::time::timeout(Duration::from_millis(10), newest.of(&store)).await;
        assert!(impatient.is_err());
        assert_eq!(newest.of(&store).await.unwrap(), 2);
    }
}
