//! The one thread that writes.

use std::sync::Arc;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{Shared, rows};
use crate::{Batch, Condition, Revision, StoreError, Txn, TxnOutcome};

/// Transactions that share one commit at most. At 128 the cost of the commit no longer shows.
const GROUP: usize = 128;
/// Revisions that one step of a compaction looks at: a few milliseconds, between two commits.
const COMPACT_REVISIONS: u64 = 512;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
pub(super) enum Request {
    Txn(Txn, Reply<TxnOutcome>),
    Compact(Revision, Reply<()>),
}

pub(super) struct Writer {
    connection: Connection,
    revision: Revision,
    shared: Arc<Shared>,
    /// Where the compaction under way goes on.
    compacting: Option<Revision>,
}

/// What a transaction did, to be told once it is durable.
struct Done {
    outcome: TxnOutcome,
    batch: Option<Batch>,
}

impl Writer {
    pub fn new(connection: Connection, revision: Revision, shared: Arc<Shared>) -> Self {
        // A compaction that a crash cut short goes on from the start: looking at rows again is harmless.
        let compacting = Some(1).filter(|_| *shared.compacted.lock() > 0);
        Self { connection, revision, shared, compacting }
    }

    /// Works until every handle to the store is gone.
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            // While a compaction is under way, its steps fill the time between requests.
            if self.compacting.is_some() && requests.is_empty() && !requests.is_closed() {
                self.compact_step();
                continue;
            }
            if requests.blocking_recv_many(&mut group, GROUP) == 0 {
                break;
            }
            self.serve(&mut group);
            if self.compacting.is_some() {
                self.compact_step();
            }
        }
        self.shared.fanout.close();
    }

    fn serve(&mut self, group: &mut Vec<Request>) {
        let mut txns = Vec::with_capacity(group.len());
        for request in group.drain(..) {
            match request {
                Request::Txn(txn, reply) => txns.push((txn, reply)),
                Request::Compact(revision, reply) => {
                    // Nobody who gave up waiting needs the answer.
                    let _ = reply.send(self.compact(revision));
                }
            }
        }
        if !txns.is_empty() {
            self.commit(txns);
        }
    }

    /// One commit for all; if it fails, none of them happened.
    fn commit(&mut self, txns: Vec<(Txn, Reply<TxnOutcome>)>) {
        let (txns, replies): (Vec<_>, Vec<_>) = txns.into_iter().unzip();
        match self.try_commit(txns) {
            Ok((revision, done)) => {
                self.revision = revision;
                let (outcomes, batches): (Vec<_>, Vec<_>) = done.into_iter().map(|d| (d.outcome, d.batch)).unzip();
                // Watchers hear of all of it first: whoever waits for a write mostly waits for a watcher to have it, too.
                self.shared.fanout.publish(batches.into_iter().flatten());
                for (outcome, reply) in outcomes.into_iter().zip(replies) {
                    // A writer that went away has its write all the same.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::error!(%error, writes = replies.len(), "the store could not commit");
                let error = StoreError::from(error);
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn try_commit(&mut self, txns: Vec<Txn>) -> rusqlite::Result<(Revision, Vec<Done>)> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut revision = self.revision;
        let mut done = Vec::with_capacity(txns.len());
        for txn in txns {
            let one = execute(&transaction, txn, revision)?;
            if let TxnOutcome::Committed(committed) = one.outcome {
                revision = committed;
            }
            done.push(one);
        }
        if revision == self.revision {
            // Nothing changed: there is nothing to make durable.
            transaction.rollback()?;
        } else {
            transaction.commit()?;
        }
        Ok((revision, done))
    }

    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { requested: revision, current: self.revision });
        }
        if revision <= *self.shared.compacted.lock() {
            return Ok(());
        }
        // Readers are refused before the first row goes.
        *self.shared.compacted.lock() = revision;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        rows::set_compacted(&transaction, revision, self.revision)?;
        transaction.commit()?;
        self.compacting = Some(1);
        Ok(())
    }

    fn compact_step(&mut self) {
        let Some(from) = self.compacting.take() else { return };
        let compacted = *self.shared.compacted.lock();
        match self.try_compact_step(from, compacted) {
            Ok(next) => self.compacting = next,
            // The next compaction starts over; until then the rows only take space.
            Err(error) => tracing::warn!(%error, "compaction stopped"),
        }
    }

    fn try_compact_step(&mut self, from: Revision, compacted: Revision) -> rusqlite::Result<Option<Revision>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let next = rows::compact_step(&transaction, from, compacted, COMPACT_REVISIONS)?;
        transaction.commit()?;
        Ok(next)
    }
}

/// Carries out one transaction inside the shared one. `revision` is the current revision before it.
fn execute(connection: &Connection, txn: Txn, revision: Revision) -> rusqlite::Result<Done> {
    let mut seen = rows::Seen::default();
    for (index, condition) in txn.conditions.iter().enumerate() {
        let (key, unchanged_since) = match condition {
            Condition::Absent(key) => (key, None),
            Condition::Unchanged(key, at) => (key, Some(*at)),
        };
        let current = seen.current(connection, key)?;
        if current.map(|kv| kv.mod_revision) != unchanged_since {
            let outcome = TxnOutcome::Conflict { condition: index, current: current.cloned() };
            return Ok(Done { outcome, batch: None });
        }
    }
    let mut events = Vec::with_capacity(txn.operations.len());
    for (position, operation) in txn.operations.into_iter().enumerate() {
        events.extend(rows::apply(connection, operation, &mut seen, revision + 1, position)?);
    }
    if events.is_empty() {
        return Ok(Done { outcome: TxnOutcome::Committed(revision), batch: None });
    }
    let batch = Batch { revision: revision + 1, events };
    Ok(Done { outcome: TxnOutcome::Committed(revision + 1), batch: Some(batch) })
}
