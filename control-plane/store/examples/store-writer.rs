//! Writes to the database file it is given until it is killed, and prints each write once it is acknowledged.
//!
//! The crash test runs it. A line is `KEY REVISION`; eight tasks write at once, so that commits are shared.

use std::io::Write;
use std::sync::Arc;

use xebec_store::sqlite::SqliteStore;
use xebec_store::{Condition, Store, Txn, TxnOutcome, conformance::put};

const TASKS: usize = 8;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(round)) = (arguments.next(), arguments.next()) else {
        return Err("usage: store-writer DATABASE ROUND".into());
    };
    let store = Arc::new(SqliteStore::open(path)?);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (store, round) = (store.clone(), round.clone());
        tasks.spawn(async move {
            for number in 0u64.. {
                let key = format!("/k/{round}/{task}/{number}");
                let txn = Txn { conditions: vec![Condition::Absent(key.clone())], operations: vec![put(&key, &key)] };
                match store.txn(txn).await {
                    Ok(TxnOutcome::Committed(revision)) => {
                        let mut out = std::io::stdout().lock();
                        // The reader may be gone already; then so are we.
                        let _ = writeln!(out, "{key} {revision}").and_then(|()| out.flush());
                    }
                    other => panic!("{key}: {other:?}"),
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}
