use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::SqliteStore;
use crate::conformance::{commit, matches_the_model, put};
use crate::memory::MemoryStore;
use crate::{ListOptions, Operation, Store, StoreError};

/// A store whose directory goes when the test ends.
fn fresh() -> Arc<SqliteStore> {
    let dir = tempfile::tempdir().expect("a temporary directory").keep();
    let store = Arc::new(SqliteStore::open(dir.join("state.db")).expect("open"));
    // Linux keeps the files for as long as they are open; read connections open by path later, so it stays until exit.
    CLEANUP.with(|c| c.borrow_mut().push(Directory(dir)));
    store
}

struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

thread_local! {
    static CLEANUP: std::cell::RefCell<Vec<Directory>> = const { std::cell::RefCell::new(Vec::new()) };
}

crate::conformance_tests!(fresh);

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state.db");
    let store = SqliteStore::open(&path).unwrap();
    commit(&store, vec![put("/a", "1"), put("/b", "1")]).await;
    let last = commit(&store, vec![Operation::Delete("/b".into())]).await;
    store.compact(last).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.revision().await.unwrap(), last, "the revision never goes back");
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");
    assert_eq!(store.get("/b").await.unwrap(), None);
    assert_eq!(commit(&store, vec![put("/c", "1")]).await, last + 1);
}

#[tokio::test]
async fn compaction_gives_the_space_back() {
    let store = fresh();
    for i in 0..2000 {
        commit(&*store, vec![put("/a", &i.to_string())]).await;
    }
    let revision = store.revision().await.unwrap();
    store.compact(revision).await.unwrap();
    let rows = || async {
        store.read(|c, _| Ok(c.query_row("SELECT COUNT(*) FROM log", [], |r| r.get::<_, u64>(0))?)).await.unwrap()
    };
    tokio::time::timeout(Duration::from_secs(10), async {
        while rows().await > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("one row is left");
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1999");
}

#[test]
fn the_database_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state.db");
    let _store = SqliteStore::open(&path).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(&path, "hello, this is certainly not an SQLite file, and long enough to be looked at").unwrap();
    assert!(matches!(SqliteStore::open(&path).err(), Some(StoreError::Engine(_))));
}

fn transactions() -> impl Strategy<Value = Vec<Vec<Operation>>> {
    let operation = ("[abc]", proptest::option::of("[0-9]")).prop_map(|(key, value)| match value {
        Some(value) => put(&format!("/{key}"), &value),
        None => Operation::Delete(format!("/{key}")),
    });
    let distinct = proptest::collection::vec(operation, 1..4).prop_map(|mut operations: Vec<Operation>| {
        let mut seen = Vec::new();
        operations.retain(|op| {
            let (Operation::Put(key, _) | Operation::Delete(key)) = op;
            let new = !seen.contains(key);
            seen.push(key.clone());
            new
        });
        operations
    });
    proptest::collection::vec(distinct, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn engines_match_the_model(transactions in transactions()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            matches_the_model(Arc::new(MemoryStore::new()), transactions.clone()).await;
            matches_the_model(fresh(), transactions).await;
        });
    }
}

#[tokio::test]
async fn odd_prefixes_list_what_they_should() {
    let store = fresh();
    commit(&*store, vec![put("/a/ü", "1"), put("/a/z\u{10FFFE}", "2"), put("/a%b", "3"), put("/a_b", "4")]).await;
    let count = |prefix: &'static str| {
        let store = store.clone();
        async move { store.list(prefix, ListOptions::default()).await.unwrap().items.len() }
    };
    assert_eq!((count("/a/").await, count("/a%").await, count("/a_").await), (2, 1, 1));
}
