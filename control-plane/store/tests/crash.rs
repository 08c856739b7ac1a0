//! Acknowledged writes survive `kill -9` at any moment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures::StreamExt;
use xebec_store::sqlite::SqliteStore;
use xebec_store::{ListOptions, Revision, Store};

const ROUNDS: u64 = 10;

/// The example beside this test in the build directory.
fn writer() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let writer = test.parent().and_then(Path::parent).expect("a build directory").join("examples/store-writer");
    assert!(writer.exists(), "{} is missing: build it with `cargo test` or `cargo build --examples`", writer.display());
    writer
}

/// Runs the writer, kills it after `acknowledged` writes, and returns what it had acknowledged by then.
fn write_and_kill(database: &Path, round: u64, acknowledged: usize) -> Vec<(String, Revision)> {
    let mut child = Command::new(writer())
        .arg(database)
        .arg(round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the writer");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut seen = Vec::new();
    let parse = |line: String| -> Option<(String, Revision)> {
        let (key, revision) = line.split_once(' ')?;
        Some((key.to_owned(), revision.parse().ok()?))
    };
    while seen.len() < acknowledged {
        let line = lines.next().expect("the writer goes on").expect("a line");
        seen.extend(parse(line));
    }
    child.kill().expect("SIGKILL");
    // What it had printed before it died was acknowledged, too; a line cut short was not.
    seen.extend(lines.map_while(Result::ok).filter_map(parse));
    child.wait().expect("reap");
    seen
}

#[tokio::test]
async fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let database = dir.path().join("state.db");
    let mut acknowledged = BTreeMap::new();
    let mut last = 0;
    for round in 0..ROUNDS {
        // From the very first write to a few hundred: the moment differs each time.
        let seen = write_and_kill(&database, round, (round * round * 7) as usize + 1);
        acknowledged.extend(seen);

        let store = SqliteStore::open(&database).expect("open after a crash");
        let revision = store.revision().await.expect("revision");
        assert!(revision > last, "the revision never goes back");
        last = revision;
        let list = store.list("/k/", ListOptions::default()).await.expect("list");
        let stored: BTreeMap<_, _> = list.items.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        for (key, revision) in &acknowledged {
            assert_eq!(stored.get(key), Some(revision), "{key} was acknowledged in a round before {round}");
        }
        assert_eq!(replay(&store, revision).await, stored, "a watch from the start sees every write once");
    }
    assert!(acknowledged.len() as u64 > ROUNDS);
}

/// Key and revision of every event up to `until`, which must come in order.
async fn replay(store: &SqliteStore, until: Revision) -> BTreeMap<String, Revision> {
    let mut watch = store.watch("/k/", 0).await.expect("watch");
    let mut found = BTreeMap::new();
    let mut at = 0;
    while at < until {
        let batch = watch.next().await.expect("the watch goes on").expect("the watch is healthy");
        assert!(batch.revision > at);
        at = batch.revision;
        for event in batch.events {
            assert_eq!(found.insert(event.key, event.revision), None);
        }
    }
    found
}
