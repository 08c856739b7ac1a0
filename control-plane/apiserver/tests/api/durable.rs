//! Over SQLite: what was acknowledged is there after a restart, and only that.

use std::sync::Arc;

use serde_json::{Value, json};
use xebec_apiserver::Extensions;
use xebec_store::Store;
use xebec_store::sqlite::SqliteStore;

use crate::crds::{definition, establish, spec};
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

/// Sees what happens in a collection from `seen` on, restarts the server, and sees the same again. Objects are made by
/// `make`; the one called `a` is there.
async fn watch_over_a_restart(collection: &str, make: impl AsyncFn(&Api, &str) -> Value, prepare: impl AsyncFn(&Api)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let open = || -> Arc<dyn Store> { Arc::new(SqliteStore::open(&path).unwrap()) };
    let api = Api::over(open(), Extensions::default()).await;
    prepare(&api).await;
    let seen = make(&api, "a").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let resumed = format!("{collection}?watch=1&resourceVersion={seen}");
    let mut watch = api.watch(&resumed).await;
    api.patch(&format!("{collection}/a"), "merge-patch", &json!({"metadata": {"labels": {"k": "1"}}}))
        .await
        .expect(200);
    make(&api, "b").await;
    api.delete(&format!("{collection}/a")).await.expect(200);
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
    make(&again, "c").await;
    assert_eq!(watch.next().await.unwrap()["object"]["metadata"]["name"], "c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_after_a_restart() {
    watch_over_a_restart(MAPS, async |api, name| api.config_map(name).await, async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_custom_resources_go_on_after_a_restart() {
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let make = async |api: &Api, name: &str| {
        let widget =
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1}});
        api.post(widgets, &widget).await.expect(201)
    };
    let define = async |api: &Api| {
        establish(api, &definition(spec())).await;
    };
    watch_over_a_restart(widgets, make, define).await;
}
