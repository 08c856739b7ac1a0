use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Api, MAPS, PODS, TABLE, config_map, pod};

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn lists_follow_writes_at_once() {
    let api = Api::start().await;
    for i in 0..10 {
        let made = api.config_map(&format!("m{i}")).await;
        let list = api.get(MAPS).await.expect(200);
        assert_eq!(names(&list).len(), i + 1);
        assert_eq!(list["kind"], "ConfigMapList");
        assert_eq!(list["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    }
    assert_eq!(names(&api.get("/api/v1/configmaps").await.expect(200)).len(), 10);
    assert_eq!(names(&api.get("/api/v1/namespaces/other/configmaps").await.expect(200)).len(), 0);
}

#[tokio::test]
async fn selectors_select() {
    let api = Api::start().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut object = pod(name);
        object["metadata"]["labels"] = serde_json::json!({"app": app});
        api.post(PODS, &object).await.expect(201);
    }
    let by = async |query: &str| names(&api.get(&format!("{PODS}?{query}")).await.expect(200));
    assert_eq!(by("labelSelector=app%3Dx").await, ["a", "c"]);
    assert_eq!(by("labelSelector=app+notin+(x)").await, ["b"]);
    assert_eq!(by("labelSelector=!app").await, [""; 0]);
    assert_eq!(by("fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(by("fieldSelector=metadata.name!%3Db,spec.nodeName%3D").await, ["a", "c"]);
    assert_eq!(by("fieldSelector=spec.nodeName%3Dn").await, [""; 0]);
    assert_eq!(api.get(&format!("{PODS}?fieldSelector=spec.nonsense%3D1")).await.code, 400);
    assert_eq!(api.get(&format!("{PODS}?labelSelector=%3D%3D")).await.code, 400);
}

#[tokio::test]
async fn pages_are_of_one_moment() {
    let api = Api::start().await;
    for i in 0..25 {
        api.config_map(&format!("m{i:02}")).await;
    }
    let first = api.get(&format!("{MAPS}?limit=10")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 15);
    let revision = first["metadata"]["resourceVersion"].clone();
    // What happens between the pages is not seen.
    api.config_map("m11x").await;
    api.delete(&format!("{MAPS}/m12")).await.expect(200);
    let mut all = names(&first);
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    loop {
        let page = api.get(&format!("{MAPS}?limit=10&continue={token}")).await.expect(200);
        assert_eq!(page["metadata"]["resourceVersion"], revision);
        all.extend(names(&page));
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    let expected: Vec<String> = (0..25).map(|i| format!("m{i:02}")).collect();
    assert_eq!(all, expected);
    assert_eq!(api.get(&format!("{MAPS}?limit=10&continue=x")).await.code, 400);
}

#[tokio::test]
async fn a_page_of_forgotten_history_comes_with_a_way_on() {
    let api = Api::start().await;
    for i in 0..5 {
        api.config_map(&format!("m{i}")).await;
    }
    let first = api.get(&format!("{MAPS}?limit=2")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    api.delete(&format!("{MAPS}/m3")).await.expect(200);
    api.store.compact(api.store.revision().await.unwrap()).await.unwrap();
    let gone = api.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
    let fresh = gone["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{MAPS}?limit=20&continue={fresh}")).await.expect(200);
    assert_eq!(names(&rest), ["m2", "m4"]);
}

/// Upstream's "should support continue listing from the last key if the original version has been compacted away": in
/// its namespace nothing changes while it waits for that.
#[tokio::test(start_paused = true)]
async fn a_list_can_be_continued_for_ten_minutes_at_most() {
    let api = Api::start().await;
    for i in 0..5 {
        api.config_map(&format!("m{i}")).await;
    }
    let first = api.get(&format!("{MAPS}?limit=2")).await.expect(200);
    let next = format!("{MAPS}?limit=2&continue={}", first["metadata"]["continue"].as_str().unwrap());
    // Only what comes after is newer than the list.
    api.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).await.expect(201);
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(names(&api.get(&next).await.expect(200)), ["m2", "m3"]);
    tokio::time::sleep(Duration::from_secs(320)).await;
    let gone = api.get(&next).await.expect(410);
    let fresh = gone["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{MAPS}?limit=2&continue={fresh}")).await.expect(200);
    assert_eq!(names(&rest), ["m2", "m3"]);
    assert_eq!(rest["metadata"]["remainingItemCount"], 1);
    assert_ne!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn versions_are_minimal_or_exact() {
    let api = Api::start().await;
    let first = api.config_map("a").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    api.config_map("b").await;
    let by = async |query: String| api.get(&format!("{MAPS}?{query}")).await;
    let exact = by(format!("resourceVersion={version}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&exact), ["a"]);
    assert_eq!(exact["metadata"]["resourceVersion"], version);
    let newer = by(format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan")).await.expect(200);
    assert_eq!(names(&newer), ["a", "b"]);
    assert_eq!(names(&by("resourceVersion=0".into()).await.expect(200)), ["a", "b"]);
    assert_eq!(by("resourceVersionMatch=Exact".into()).await.code, 422);
    assert_eq!(by("resourceVersion=x".into()).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn a_version_of_the_future_is_waited_for_and_given_up() {
    let api = Api::start().await;
    let answer = api.get(&format!("{MAPS}?resourceVersion=1000")).await;
    assert!(answer.message().starts_with("Too large resource version: 1000, current: "));
    assert_eq!(answer.expect(504)["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn long_lists_come_whole_and_tables_too() {
    let api = Api::start().await;
    for i in 0..600 {
        let mut map = config_map(&format!("m{i:03}"));
        map["data"]["a"] = "x".repeat(500).into();
        api.post(MAPS, &map).await.expect(201);
    }
    let answer = api.get(MAPS).await;
    assert_eq!(names(&answer.value()).len(), 600);
    let table = api.send("GET", MAPS, &[("accept", TABLE)], "").await.expect(200);
    assert_eq!(table["rows"].as_array().unwrap().len(), 600);
    assert_eq!(table["rows"][599]["cells"][0], "m599");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
    let partial = api.send("GET", MAPS, &[("accept", partial)], "").await.expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(names(&partial).len(), 600);
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let api = Api::start().await;
    let made = api.config_map("a").await;
    let again = Api::over(api.store.clone(), xebec_apiserver::Extensions::default()).await;
    assert_eq!(again.get(&format!("{MAPS}/a")).await.expect(200), made);
}
