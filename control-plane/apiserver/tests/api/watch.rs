use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{Api, MAPS, TABLE, Watch, config_map};

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_watch_shows_state_then_changes() {
    let api = Api::start().await;
    api.config_map("a").await;
    let mut watch = api.watch(&format!("{MAPS}?watch=true")).await;
    assert_eq!(watch.event().await, pair("ADDED", "a"));
    api.config_map("b").await;
    assert_eq!(watch.event().await, pair("ADDED", "b"));
    api.patch(&format!("{MAPS}/a"), "merge-patch", &json!({"data": {"a": "2"}})).await.expect(200);
    assert_eq!(watch.event().await, pair("MODIFIED", "a"));
    api.delete(&format!("{MAPS}/a")).await.expect(200);
    let gone = watch.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["data"]["a"]), (&json!("DELETED"), &json!("2")));
    let after = api.config_map("c").await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(version(&gone["object"]) + 1, version(&after), "a deletion has its own version");
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_a_version() {
    let api = Api::start().await;
    let a = api.config_map("a").await;
    api.config_map("b").await;
    let version = a["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=5")).await;
    assert_eq!(watch.event().await, pair("ADDED", "b"));
    assert_eq!(watch.next().await, None, "its time is up");
}

#[tokio::test(start_paused = true)]
async fn history_that_is_gone_is_an_error_event() {
    let api = Api::start().await;
    for i in 0..3 {
        api.config_map(&format!("m{i}")).await;
    }
    api.store.compact(3).await.unwrap();
    let again = Api::over(api.store.clone(), xebec_apiserver::Extensions::default()).await;
    let mut watch = again.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(event["object"]["message"], "too old resource version: 1 (3)");
    assert_eq!(watch.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn selectors_make_objects_come_and_go() {
    let api = Api::start().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1&labelSelector=show%3Dyes")).await;
    api.config_map("a").await;
    let path = format!("{MAPS}/a");
    let label = async |value: Value| {
        api.patch(&path, "merge-patch", &json!({"metadata": {"labels": {"show": value}}})).await.expect(200)
    };
    label("yes".into()).await;
    assert_eq!(watch.event().await, pair("ADDED", "a"));
    api.patch(&path, "merge-patch", &json!({"data": {"b": "2"}})).await.expect(200);
    assert_eq!(watch.event().await, pair("MODIFIED", "a"));
    let left = label("no".into()).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["show"], "yes", "it is shown as it was");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    api.delete(&path).await.expect(200);
    let mut one = api.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dx&timeoutSeconds=60")).await;
    api.config_map("y").await;
    api.config_map("x").await;
    assert_eq!(one.event().await, pair("ADDED", "x"));
    assert_eq!(one.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_marks_the_end_of_the_state() {
    let api = Api::start().await;
    api.config_map("a").await;
    let b = api.config_map("b").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{MAPS}?{query}&timeoutSeconds=90")).await;
    assert_eq!(watch.event().await, pair("ADDED", "a"));
    assert_eq!(watch.event().await, pair("ADDED", "b"));
    let end = watch.next().await.unwrap();
    assert_eq!((&end["type"], &end["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(end["object"]["metadata"]["resourceVersion"], b["metadata"]["resourceVersion"]);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let secret = api.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], secret["metadata"]["resourceVersion"]);
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK", "the last one, when time is up");
    assert_eq!(watch.next().await, None);
    assert_eq!(api.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn watches_have_forms_too() {
    let api = Api::start().await;
    api.config_map("a").await;
    let path = format!("{MAPS}?watch=1");
    let mut table = api.watch_as(&path, TABLE).await;
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let mut partial = api.watch_as(&path, partial).await;
    api.config_map("b").await;
    let first = table.next().await.unwrap();
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    let second = table.next().await.unwrap();
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    for name in ["a", "b"] {
        let event = partial.next().await.unwrap();
        assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(event["object"]["metadata"]["name"], name);
        assert_eq!(event["object"]["data"], Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_falls_behind_starts_again() {
    let api = Api::start().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1")).await;
    api.config_map("first").await;
    assert_eq!(watch.event().await, pair("ADDED", "first"));
    let mut map = config_map("big");
    map["data"]["a"] = "x".repeat(100_000).into();
    api.post(MAPS, &map).await.expect(201);
    for i in 0..1500 {
        api.patch(&format!("{MAPS}/big"), "merge-patch", &json!({"data": {"i": i.to_string()}})).await.expect(200);
    }
    let mut last = Value::Null;
    while let Some(event) = watch.next().await {
        last = event;
    }
    assert_eq!(last["object"]["code"], 410);
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8, bool),
    Label(u8, bool),
    Data(u8, u8),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5u8, any::<bool>()).prop_map(|(n, label)| Step::Create(n, label)),
        (0..5u8, any::<bool>()).prop_map(|(n, label)| Step::Label(n, label)),
        (0..5u8, 0..3u8).prop_map(|(n, data)| Step::Data(n, data)),
        (0..5u8).prop_map(Step::Delete),
    ]
}

async fn take(api: &Api, step: &Step) {
    let path = |n: &u8| format!("{MAPS}/m{n}");
    match step {
        Step::Create(n, label) => {
            let mut map = config_map(&format!("m{n}"));
            map["metadata"]["labels"] = json!({"l": label.to_string()});
            api.post(MAPS, &map).await;
        }
        Step::Label(n, label) => {
            let patch = json!({"metadata": {"labels": {"l": label.to_string()}}});
            api.patch(&path(n), "merge-patch", &patch).await;
        }
        Step::Data(n, data) => {
            api.patch(&path(n), "merge-patch", &json!({"data": {"a": data.to_string()}})).await;
        }
        Step::Delete(n) => {
            api.delete(&path(n)).await;
        }
    }
}

type State = BTreeMap<String, Value>;

async fn listed(api: &Api, query: &str) -> (State, String) {
    let list = api.get(&format!("{MAPS}?{query}")).await.expect(200);
    let items = list["items"].as_array().unwrap();
    let state = items.iter().map(|i| (i["metadata"]["name"].as_str().unwrap().to_owned(), i.clone())).collect();
    (state, list["metadata"]["resourceVersion"].as_str().unwrap().to_owned())
}

/// Applies a watch's events to a state, each of which must make sense, until its time is up.
async fn replay(mut state: State, mut watch: Watch) -> State {
    let mut last = 0;
    while let Some(event) = watch.next().await {
        let object = event["object"].clone();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > last, "events are in order, once each");
        last = version;
        match event["type"].as_str().unwrap() {
            "ADDED" => assert!(state.insert(name, object).is_none()),
            "MODIFIED" => assert!(state.insert(name, object).is_some()),
            "DELETED" => assert!(state.remove(&name).is_some()),
            other => panic!("{other}"),
        }
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A list, and a watch from its version on, is the later list: with a selector and without.
    #[test]
    fn a_watch_is_the_difference_of_lists(
        before in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let api = Api::start().await;
            // A version of 0 would not mean the beginning.
            api.config_map("first").await;
            for step in &before {
                take(&api, step).await;
            }
            for selector in ["", "labelSelector=l%3Dtrue"] {
                let (start, version) = listed(&api, selector).await;
                let query = format!("{selector}&watch=1&resourceVersion={version}&timeoutSeconds=10");
                let watch = api.watch(&format!("{MAPS}?{query}")).await;
                let fresh = api.watch(&format!("{MAPS}?{selector}&watch=1&timeoutSeconds=10")).await;
                for step in &after {
                    take(&api, step).await;
                }
                let (end, _) = listed(&api, selector).await;
                assert_eq!(replay(start, watch).await, end);
                assert_eq!(replay_from_state(fresh).await, end);
            }
        });
    }
}

/// The same for a watch from the state on, whose first events are in the order of names.
async fn replay_from_state(mut watch: Watch) -> State {
    let mut state = State::new();
    while let Some(event) = watch.next().await {
        let object = event["object"].clone();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if event["type"] == "DELETED" {
            assert!(state.remove(&name).is_some());
        } else {
            state.insert(name, object);
        }
    }
    state
}
