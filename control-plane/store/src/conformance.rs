//! What every engine must do. [`conformance_tests!`](crate::conformance_tests) makes a test of each case for an engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use crate::{
    Batch, Condition, KeyValue, ListOptions, Operation, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream,
};

/// Makes a `#[tokio::test]` of each conformance case. The argument is a closure that returns a fresh, empty
/// `Arc<dyn Store>` (or an `Arc` of an engine); after the word `async`, one that returns a future of such a store and of
/// what has to be kept as long as it is used.
#[macro_export]
macro_rules! conformance_tests {
    (async $make:expr) => {
        $crate::conformance_tests!(@cases async $make);
    };
    ($make:expr) => {
        $crate::conformance_tests!(@cases sync $make);
    };
    (@cases $how:ident $make:expr) => {
        $crate::conformance_tests!(@each $how $make;
            a_put_can_be_read,
            conditions_guard_the_whole_transaction,
            deleting_nothing_changes_nothing,
            lists_are_pages_of_one_snapshot,
            a_watch_replays_and_follows,
            a_transaction_is_one_batch,
            compaction_forgets_the_past_only,
            the_future_is_refused,
            concurrent_writers_take_turns);
    };
    (@each $how:ident $make:expr; $($case:ident),*) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::conformance_tests!(@run $how $make, $case);
            }
        )*
    };
    (@run async $make:expr, $case:ident) => {
        let (store, _guard) = ($make)().await;
        $crate::conformance::$case(store).await;
    };
    (@run sync $make:expr, $case:ident) => {
        $crate::conformance::$case(($make)()).await;
    };
}

/// `Put` of a text value.
pub fn put(key: &str, value: &str) -> Operation {
    Operation::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()))
}

/// Commits the operations without conditions; the revision.
pub async fn commit(store: &dyn Store, operations: Vec<Operation>) -> Revision {
    match store.txn(Txn { conditions: Vec::new(), operations }).await.expect("a transaction without conditions") {
        TxnOutcome::Committed(revision) => revision,
        conflict @ TxnOutcome::Conflict { .. } => panic!("conflict without conditions: {conflict:?}"),
    }
}

async fn keys(store: &dyn Store, prefix: &str, options: ListOptions) -> Vec<(String, Bytes)> {
    let list = store.list(prefix, options).await.expect("list");
    list.items.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

async fn next_events(stream: &mut WatchStream) -> Batch {
    loop {
        let batch = stream.next().await.expect("the watch goes on").expect("the watch is healthy");
        if !batch.events.is_empty() {
            return batch;
        }
    }
}

/// A committed value is read back with its revisions.
pub async fn a_put_can_be_read(store: Arc<dyn Store>) {
    let first = commit(&*store, vec![put("/a", "1")]).await;
    let second = commit(&*store, vec![put("/a", "2")]).await;
    assert!(second > first);
    let expected =
        KeyValue { key: "/a".into(), value: Bytes::from_static(b"2"), create_revision: first, mod_revision: second };
    assert_eq!(store.get("/a").await.expect("get"), Some(expected));
    assert_eq!(store.get("/b").await.expect("get"), None);
    assert_eq!(store.revision().await.expect("revision"), second);
}

/// One failed condition, and nothing happens.
pub async fn conditions_guard_the_whole_transaction(store: Arc<dyn Store>) {
    let made = commit(&*store, vec![put("/a", "1")]).await;
    let txn = Txn {
        conditions: vec![Condition::Unchanged("/a".into(), made), Condition::Absent("/a".into())],
        operations: vec![put("/b", "1"), Operation::Delete("/a".into())],
    };
    let outcome = store.txn(txn).await.expect("txn");
    let TxnOutcome::Conflict { condition: 1, current: Some(current) } = outcome else {
        panic!("expected a conflict on the second condition, got {outcome:?}");
    };
    assert_eq!(current.value, "1");
    assert_eq!(store.revision().await.expect("revision"), made);
    assert_eq!(store.get("/b").await.expect("get"), None);

    let stale = Txn { conditions: vec![Condition::Unchanged("/a".into(), made + 7)], operations: vec![put("/a", "2")] };
    assert!(matches!(store.txn(stale).await, Ok(TxnOutcome::Conflict { condition: 0, .. })));
    let missing = Txn { conditions: vec![Condition::Unchanged("/c".into(), 1)], operations: vec![put("/c", "2")] };
    assert_eq!(store.txn(missing).await.expect("txn"), TxnOutcome::Conflict { condition: 0, current: None });
}

/// No revision is taken when nothing changes.
pub async fn deleting_nothing_changes_nothing(store: Arc<dyn Store>) {
    let before = commit(&*store, vec![put("/a", "1")]).await;
    assert_eq!(commit(&*store, vec![Operation::Delete("/none".into())]).await, before);
    assert_eq!(commit(&*store, Vec::new()).await, before);
    let after = commit(&*store, vec![Operation::Delete("/a".into())]).await;
    assert_eq!(after, before + 1);
    let again = commit(&*store, vec![put("/a", "2")]).await;
    assert_eq!(store.get("/a").await.expect("get").map(|kv| kv.create_revision), Some(again));
}

/// Pages of a list at a revision do not see later writes, and end at the prefix.
pub async fn lists_are_pages_of_one_snapshot(store: Arc<dyn Store>) {
    commit(&*store, (0..5).map(|i| put(&format!("/p/{i}"), "old")).collect()).await;
    commit(&*store, vec![put("/p", "outside"), put("/p0", "outside"), put("/q/0", "outside")]).await;
    let first = store.list("/p/", ListOptions { limit: Some(2), ..Default::default() }).await.expect("list");
    assert_eq!((first.items.len(), first.remaining), (2, 3));
    commit(&*store, vec![put("/p/3", "new"), Operation::Delete("/p/4".into()), put("/p/9", "new")]).await;
    let after = first.items.last().map(|kv| kv.key.clone());
    let rest = ListOptions { revision: Some(first.revision), after, limit: None };
    let rest = keys(&*store, "/p/", rest).await;
    assert_eq!(rest, ["/p/2", "/p/3", "/p/4"].map(|k| (k.to_owned(), Bytes::from_static(b"old"))));
    let now = keys(&*store, "/p/", ListOptions::default()).await;
    assert_eq!(now.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["/p/0", "/p/1", "/p/2", "/p/3", "/p/9"]);
}

/// What happened after the revision, then what happens; only under the prefix; with what was there before.
pub async fn a_watch_replays_and_follows(store: Arc<dyn Store>) {
    let start = commit(&*store, vec![put("/w/a", "1")]).await;
    let changed = commit(&*store, vec![put("/w/a", "2")]).await;
    commit(&*store, vec![put("/x", "1")]).await;
    let mut watch = store.watch("/w/", start).await.expect("watch");
    let batch = next_events(&mut watch).await;
    assert_eq!((batch.revision, batch.events.len()), (changed, 1));
    assert_eq!(batch.events[0].previous.as_ref().map(|kv| kv.value.clone()), Some(Bytes::from_static(b"1")));
    let deleted = commit(&*store, vec![Operation::Delete("/w/a".into())]).await;
    let batch = next_events(&mut watch).await;
    assert_eq!((batch.revision, batch.events[0].value.clone()), (deleted, None));
    assert_eq!(batch.events[0].previous.as_ref().map(|kv| kv.mod_revision), Some(changed));
    let created = commit(&*store, vec![put("/w/a", "3")]).await;
    let batch = next_events(&mut watch).await;
    assert_eq!((batch.revision, batch.events[0].previous.clone()), (created, None));
    // Progress is told even when others write.
    let other = commit(&*store, vec![put("/x", "2")]).await;
    let progress = watch.next().await.expect("goes on").expect("healthy");
    assert_eq!(progress, Batch { revision: other, events: Vec::new() });
}

/// All changes of a transaction share its revision and arrive together.
pub async fn a_transaction_is_one_batch(store: Arc<dyn Store>) {
    let mut live = store.watch("/", 0).await.expect("watch");
    let revision = commit(&*store, vec![put("/a", "1"), put("/b", "1"), put("/c", "1")]).await;
    let mut replayed = store.watch("/", 0).await.expect("watch");
    for stream in [&mut live, &mut replayed] {
        let batch = next_events(stream).await;
        assert_eq!(batch.events.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["/a", "/b", "/c"]);
        assert!(batch.events.iter().all(|e| e.revision == revision));
    }
}

/// What is older than the compaction is refused; what is newer is as it was.
pub async fn compaction_forgets_the_past_only(store: Arc<dyn Store>) {
    let old = commit(&*store, vec![put("/a", "1"), put("/gone", "1")]).await;
    commit(&*store, vec![put("/a", "2")]).await;
    let kept = commit(&*store, vec![Operation::Delete("/gone".into())]).await;
    let newest = commit(&*store, vec![put("/a", "3")]).await;
    store.compact(kept).await.expect("compact");
    let past = ListOptions { revision: Some(old), ..Default::default() };
    assert!(matches!(store.list("/", past).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.watch("/", old).await.err(), Some(StoreError::Compacted { .. })));
    let at = ListOptions { revision: Some(kept), ..Default::default() };
    assert_eq!(keys(&*store, "/", at).await, [("/a".to_owned(), Bytes::from_static(b"2"))]);
    let batch = next_events(&mut store.watch("/", kept).await.expect("watch")).await;
    assert_eq!(batch.revision, newest);
    assert_eq!(batch.events[0].previous.as_ref().map(|kv| kv.value.clone()), Some(Bytes::from_static(b"2")));
    assert_eq!(store.get("/a").await.expect("get").map(|kv| kv.value), Some(Bytes::from_static(b"3")));
}

/// A revision that has not happened is an error, not a wait.
pub async fn the_future_is_refused(store: Arc<dyn Store>) {
    let now = commit(&*store, vec![put("/a", "1")]).await;
    let future = ListOptions { revision: Some(now + 1), ..Default::default() };
    assert!(matches!(store.list("/", future).await, Err(StoreError::Future { .. })));
    assert!(matches!(store.watch("/", now + 1).await.err(), Some(StoreError::Future { .. })));
    assert!(matches!(store.compact(now + 1).await, Err(StoreError::Future { .. })));
}

/// Optimistic increments from many tasks: none is lost, and a watch sees each one once and in order.
pub async fn concurrent_writers_take_turns(store: Arc<dyn Store>) {
    const WRITERS: u32 = 8;
    const EACH: u32 = 25;
    let start = commit(&*store, vec![put("/n", "0")]).await;
    let mut watch = store.watch("/n", start).await.expect("watch");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..EACH {
                increment(&*store, "/n").await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a writer");
    }
    for expected in 1..=WRITERS * EACH {
        let batch = next_events(&mut watch).await;
        assert_eq!(batch.events[0].value.as_deref(), Some(expected.to_string().as_bytes()));
    }
    assert!(watch.next().now_or_never().is_none(), "nothing more happened");
}

async fn increment(store: &dyn Store, key: &str) {
    loop {
        let current = store.get(key).await.expect("get").expect("the counter exists");
        let number: u32 = std::str::from_utf8(&current.value).ok().and_then(|s| s.parse().ok()).expect("a number");
        let conditions = vec![Condition::Unchanged(key.into(), current.mod_revision)];
        let operations = vec![put(key, &(number + 1).to_string())];
        match store.txn(Txn { conditions, operations }).await.expect("txn") {
            TxnOutcome::Committed(_) => return,
            TxnOutcome::Conflict { .. } => tokio::task::yield_now().await,
        }
    }
}

/// Holds `store` against a plain model: after each of `transactions`, every earlier revision lists as the model had it,
/// and a watch from the start is the sequence of differences.
pub async fn matches_the_model(store: Arc<dyn Store>, transactions: Vec<Vec<Operation>>) {
    let mut states: BTreeMap<Revision, BTreeMap<String, Bytes>> = BTreeMap::from([(0, BTreeMap::new())]);
    for operations in transactions {
        let mut state = states.values().next_back().cloned().unwrap_or_default();
        for operation in &operations {
            match operation {
                Operation::Put(key, value) => state.insert(key.clone(), value.clone()),
                Operation::Delete(key) => state.remove(key),
            };
        }
        let revision = commit(&*store, operations).await;
        states.insert(revision, state);
    }
    for (revision, state) in &states {
        let options = ListOptions { revision: Some(*revision), ..Default::default() };
        let expected: Vec<_> = state.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(keys(&*store, "/", options).await, expected, "as of revision {revision}");
    }
    let mut watch = store.watch("/", 0).await.expect("watch");
    let mut replayed = BTreeMap::new();
    for (revision, state) in states.iter().skip(1) {
        let batch = next_events(&mut watch).await;
        assert_eq!(batch.revision, *revision);
        for event in batch.events {
            assert_eq!(event.previous.map(|kv| kv.value), replayed.get(&event.key).cloned());
            match event.value {
                Some(value) => replayed.insert(event.key, value),
                None => replayed.remove(&event.key),
            };
        }
        assert_eq!(&replayed, state, "after revision {revision}");
    }
}
