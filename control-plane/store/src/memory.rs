//! A store in memory, for tests and simulations: no threads, no I/O, every call completes at once.

use std::collections::{BTreeMap, VecDeque};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::fanout::Fanout;
use crate::{
    Batch, Condition, Event, KeyValue, ListOptions, ListResult, Operation, Revision, Store, StoreError, Txn,
    TxnOutcome, WatchStream,
};

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    compacted: Revision,
    current: BTreeMap<String, KeyValue>,
    /// Everything after `compacted`, ascending.
    history: VecDeque<Batch>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    fanout: Fanout,
}

impl MemoryStore {
    /// An empty store at revision 0.
    pub fn new() -> Self {
        Self::default()
    }
}

impl State {
    fn failed_condition(&self, conditions: &[Condition]) -> Option<(usize, Option<KeyValue>)> {
        conditions.iter().enumerate().find_map(|(index, condition)| {
            let (key, unchanged_since) = match condition {
                Condition::Absent(key) => (key, None),
                Condition::Unchanged(key, at) => (key, Some(*at)),
            };
            let current = self.current.get(key);
            let holds = current.map(|kv| kv.mod_revision) == unchanged_since;
            (!holds).then(|| (index, current.cloned()))
        })
    }

    fn apply(&mut self, operation: Operation, revision: Revision) -> Option<Event> {
        match operation {
            Operation::Put(key, value) => {
                let create_revision = self.current.get(&key).map_or(revision, |kv| kv.create_revision);
                let kv = KeyValue { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision };
                let previous = self.current.insert(key.clone(), kv);
                Some(Event { revision, key, value: Some(value), previous })
            }
            Operation::Delete(key) => {
                let previous = self.current.remove(&key)?;
                Some(Event { revision, key, value: None, previous: Some(previous) })
            }
        }
    }

    /// The keys under `prefix` as they were at `revision`: the present ones with what came later undone.
    fn snapshot(&self, prefix: &str, revision: Revision) -> BTreeMap<String, KeyValue> {
        let from = prefix.to_owned();
        let mut found: BTreeMap<_, _> = self
            .current
            .range(from..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, kv)| (key.clone(), kv.clone()))
            .collect();
        for batch in self.history.iter().rev().take_while(|batch| batch.revision > revision) {
            for event in batch.events.iter().rev().filter(|event| event.key.starts_with(prefix)) {
                match &event.previous {
                    Some(previous) => found.insert(event.key.clone(), previous.clone()),
                    None => found.remove(&event.key),
                };
            }
        }
        found
    }

    fn check(&self, requested: Revision) -> Result<(), StoreError> {
        if requested < self.compacted {
            Err(StoreError::Compacted { requested, compacted: self.compacted })
        } else if requested > self.revision {
            Err(StoreError::Future { requested, current: self.revision })
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.state.lock().current.get(key).cloned())
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError> {
        let state = self.state.lock();
        let revision = options.revision.unwrap_or(state.revision);
        state.check(revision)?;
        let mut items: Vec<_> = state
            .snapshot(prefix, revision)
            .into_values()
            .filter(|kv| options.after.as_ref().is_none_or(|after| kv.key > *after))
            .collect();
        let total = items.len();
        items.truncate(options.limit.unwrap_or(usize::MAX));
        Ok(ListResult { remaining: total - items.len(), items, revision })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let mut state = self.state.lock();
        if let Some((condition, current)) = state.failed_condition(&txn.conditions) {
            return Ok(TxnOutcome::Conflict { condition, current });
        }
        let revision = state.revision + 1;
        let events: Vec<_> = txn.operations.into_iter().filter_map(|op| state.apply(op, revision)).collect();
        if events.is_empty() {
            return Ok(TxnOutcome::Committed(state.revision));
        }
        state.revision = revision;
        let batch = Batch { revision, events };
        state.history.push_back(batch.clone());
        // Published under the lock: watchers see batches in order.
        self.fanout.publish([batch]);
        Ok(TxnOutcome::Committed(revision))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let state = self.state.lock();
        state.check(after)?;
        let first = state.history.partition_point(|batch| batch.revision <= after);
        let replay = state.history.range(first..).filter_map(|batch| {
            let events: Vec<_> = batch.events.iter().filter(|e| e.key.starts_with(prefix)).cloned().collect();
            (!events.is_empty()).then_some(Batch { revision: batch.revision, events })
        });
        Ok(self.fanout.subscribe(prefix).after(replay.collect()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if revision > state.revision {
            return Err(StoreError::Future { requested: revision, current: state.revision });
        }
        state.compacted = state.compacted.max(revision);
        let keep = state.history.partition_point(|batch| batch.revision <= revision);
        state.history.drain(..keep);
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state.lock().revision)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    crate::conformance_tests!(|| Arc::new(super::MemoryStore::new()));
}
