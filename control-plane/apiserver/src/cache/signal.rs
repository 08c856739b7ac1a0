//! Tells watches that there are new events, in the order in which they began to wait: `tokio::sync::watch` wakes its
//! receivers in random order, and a simulation would not repeat itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A number that changes.
#[derive(Debug, Default)]
pub struct Signal {
    value: AtomicU64,
    changed: Notify,
}

impl Signal {
    /// Changes it, and wakes all that wait.
    pub fn set(&self, value: u64) {
        self.value.store(value, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Someone who wants to know of changes from now on.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        Subscription { seen: self.value.load(Ordering::Acquire), signal: self.clone() }
    }
}

/// Waits for changes.
#[derive(Debug)]
pub struct Subscription {
    signal: Arc<Signal>,
    seen: u64,
}

impl Subscription {
    /// What has changed so far is known.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.signal.value.load(Ordering::Acquire);
    }

    /// Waits for a change that is not known yet.
    pub async fn changed(&mut self) {
        let changed = self.signal.changed.notified();
        tokio::pin!(changed);
        loop {
            // On the list of those that are woken before the value is looked at.
            changed.as_mut().enable();
            let value = self.signal.value.load(Ordering::Acquire);
            if value != self.seen {
                self.seen = value;
                return;
            }
            changed.as_mut().await;
            changed.set(self.signal.changed.notified());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiters_are_woken_in_order() {
        let signal = Arc::new(Signal::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        for number in 0..32 {
            let (mut subscription, order) = (signal.subscribe(), order.clone());
            tokio::spawn(async move {
                subscription.changed().await;
                order.lock().push(number);
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        signal.set(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(*order.lock(), (0..32).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_between_is_not_missed() {
        let signal = Arc::new(Signal::default());
        let mut subscription = signal.subscribe();
        signal.set(1);
        subscription.changed().await;
        signal.set(2);
        subscription.mark_unchanged();
        assert!(tokio::time::timeout(Duration::from_secs(1), subscription.changed()).await.is_err());
    }
}
