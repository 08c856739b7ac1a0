//! Over SQLite: what was acknowledged is there after a restart, and only that.

use std::sync::Arc;

use serde_json::{Value, json};
use xebec_apiserver::Extensions;
use xebec_store::Store;
use xebec_store::sqlite::SqliteStore;

use crate::harness::{Api, MAPS, config_map};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let open = || -> Arc<dyn Store> { Arc::new(SqliteStore::open(&path).unwrap()) };
    let api = Api::over(open(), Extensions::default()).await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1")).await;
    let creates = (0..300).map(|i| {
        let api = &api;
        async move {
            let made = api.post(MAPS, &config_map(&format!("m{i:03}"))).await.expect(201);
            let patch = json!({"data": {"i": i.to_string()}});
            let path = format!("{MAPS}/{}", made["metadata"]["name"].as_str().unwrap());
            let patched = api.patch(&path, "merge-patch", &patch).await.expect(200);
            // A writer finds its write at once.
            assert_eq!(api.get(&path).await.expect(200), patched);
            if i % 3 == 0 {
                api.delete(&path).await.expect(200);
            }
        }
    });
    futures::future::join_all(creates).await;
    let mut last = 0;
    for _ in 0..700 {
        let event = watch.next().await.unwrap();
        let version: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > last, "events are in the store's order");
        last = version;
    }
    let before = api.get(MAPS).await.expect(200);
    assert_eq!(before["items"].as_array().map(Vec::len), Some(200));
    drop(api);

    let again = Api::over(open(), Extensions::default()).await;
    let after: Value = again.get(MAPS).await.expect(200);
    assert_eq!(after["items"], before["items"]);
    again.config_map("later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let open = || -> Arc<dyn Store> { Arc::new(SqliteStore::open(&path).unwrap()) };
    let api = Api::over(open(), Extensions::default()).await;
    let seen = api.config_map("a").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let resumed = format!("{MAPS}?watch=1&resourceVersion={seen}");
    let mut watch = api.watch(&resumed).await;
    api.patch(&format!("{MAPS}/a"), "merge-patch", &json!({"data": {"k": "1"}})).await.expect(200);
    api.config_map("b").await;
    api.delete(&format!("{MAPS}/a")).await.expect(200);
    let mut before = Vec::new();
    for _ in 0..3 {
        before.push(watch.next().await.unwrap());
    }
    drop(watch);
    drop(api);

    let again = Api::over(open(), Extensions::default()).await;
    let mut watch = again.watch(&resumed).await;
    for event in before {
        assert_eq!(watch.next().await.unwrap(), event);
    }
    again.config_map("c").await;
    assert_eq!(watch.next().await.unwrap()["object"]["metadata"]["name"], "c");
}
