//! Rows that come and go while the server runs.

use std::sync::Arc;

use serde_json::{Value, json};
use xebec_schema::custom::Custom;
use xebec_schema::resource::Resource;
use xebec_schema::types::Definition;

use crate::harness::Api;

const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// The ConfigMap's row under another name, without a schema.
fn widgets(api: &Api) -> Arc<Resource> {
    let registry = api.server.shared().registry.load_full();
    let definition =
        Definition { name: "com.example.v1.Widget".into(), fields: vec![], atomic: false, preserve_unknown: true };
    Arc::new(Resource {
        group: "example.com".into(),
        kind: "Widget".into(),
        list_kind: "WidgetList".into(),
        plural: "widgets".into(),
        singular: "widget".into(),
        custom: Some(Arc::new(Custom::new(Arc::new(definition)))),
        ..Resource::clone(registry.get("", "v1", "configmaps").unwrap())
    })
}

async fn serve(api: &Api, rows: &[Arc<Resource>]) {
    api.server.shared().serve_custom(rows.to_vec(), rows).await.unwrap();
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1}})
}

#[tokio::test(start_paused = true)]
async fn a_row_is_served_as_soon_as_it_is_there_and_no_longer() {
    let api = Api::start().await;
    api.get(WIDGETS).await.expect(404);
    let row = widgets(&api);
    serve(&api, std::slice::from_ref(&row)).await;
    api.post(WIDGETS, &widget("a")).await.expect(201);
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["size"], 1);
    let groups = api.get("/apis").await.expect(200).to_string();
    assert!(groups.contains("example.com"), "{groups}");
    let listed = api.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(listed["resources"][0]["name"], "widgets");

    let mut watch = api.watch(&format!("{WIDGETS}?watch=1")).await;
    assert_eq!(watch.event().await, ("ADDED".into(), "a".into()));
    api.post(WIDGETS, &widget("b")).await.expect(201);
    assert_eq!(watch.event().await, ("ADDED".into(), "b".into()));
    // The same row again: nothing happens to the watch.
    serve(&api, std::slice::from_ref(&row)).await;
    api.post(WIDGETS, &widget("c")).await.expect(201);
    assert_eq!(watch.event().await, ("ADDED".into(), "c".into()));

    serve(&api, &[]).await;
    assert!(watch.next().await.is_none());
    api.get(WIDGETS).await.expect(404);
    api.get("/apis/example.com/v1").await.expect(404);
}

#[tokio::test(start_paused = true)]
async fn another_row_for_the_same_objects_ends_watches_and_keeps_the_objects() {
    let api = Api::start().await;
    serve(&api, &[widgets(&api)]).await;
    api.post(WIDGETS, &widget("a")).await.expect(201);
    let mut watch = api.watch(&format!("{WIDGETS}?watch=1")).await;
    assert_eq!(watch.event().await, ("ADDED".into(), "a".into()));
    serve(&api, &[widgets(&api)]).await;
    assert!(watch.next().await.is_none());
    let listed = api.get(WIDGETS).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = api.watch(&format!("{WIDGETS}?watch=1&resourceVersion={version}")).await;
    api.post(WIDGETS, &widget("b")).await.expect(201);
    assert_eq!(watch.event().await, ("ADDED".into(), "b".into()));
}

/// Objects that are written while the row changes are neither lost nor repeated.
#[tokio::test]
async fn writes_go_on_while_rows_change() {
    let api = Api::start().await;
    serve(&api, &[widgets(&api)]).await;
    let writes = async {
        for n in 0..200 {
            api.post(WIDGETS, &widget(&format!("w{n:03}"))).await.expect(201);
        }
    };
    let changes = async {
        for _ in 0..50 {
            serve(&api, &[widgets(&api)]).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writes, changes);
    let listed = api.get(WIDGETS).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 200);
}
