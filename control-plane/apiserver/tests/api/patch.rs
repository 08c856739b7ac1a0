use serde_json::json;

use crate::harness::{Api, DEPLOYMENTS, MAPS, deployment};

#[tokio::test]
async fn three_kinds_of_patches() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a");
    api.config_map("a").await;
    let merged = api.patch(&path, "merge-patch", &json!({"data": {"a": null, "b": "2"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"b": "2"}));
    let operations =
        json!([{"op": "test", "path": "/data/b", "value": "2"}, {"op": "add", "path": "/data/c", "value": "3"}]);
    let patched = api.patch(&path, "json-patch", &operations).await.expect(200);
    assert_eq!(patched["data"], json!({"b": "2", "c": "3"}));
    let failing = json!([{"op": "test", "path": "/data/b", "value": "9"}]);
    assert_eq!(api.patch(&path, "json-patch", &failing).await.code, 422);

    api.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}});
    let path = format!("{DEPLOYMENTS}/d");
    let patched = api.patch(&path, "strategic-merge-patch", &strategic).await.expect(200);
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let mut names: Vec<_> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["c", "side"]);
    assert_eq!(patched["metadata"]["generation"], 2);
}

#[tokio::test]
async fn patches_that_are_not_served() {
    let api = Api::start().await;
    api.config_map("a").await;
    let path = format!("{MAPS}/a");
    assert_eq!(api.send("PATCH", &path, &[("content-type", "application/json")], "{}").await.code, 415);
    assert_eq!(api.patch(&format!("{MAPS}/b"), "merge-patch", &json!({})).await.code, 404);
    let renamed = api.patch(&path, "merge-patch", &json!({"metadata": {"name": "b"}})).await;
    assert_eq!(renamed.code, 400);
    let mistyped = api.patch(&path, "merge-patch", &json!({"data": {"a": 1}})).await;
    assert_eq!(mistyped.code, 400);
}

#[tokio::test]
async fn patches_at_the_same_time_are_all_made() {
    let api = Api::start().await;
    api.config_map("a").await;
    let path = format!("{MAPS}/a");
    let patches = (0..100).map(|i| {
        let (api, path) = (&api, &path);
        async move { api.patch(path, "merge-patch", &json!({"data": {format!("k{i}"): "v"}})).await.code }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    assert_eq!(api.get(&path).await.expect(200)["data"].as_object().unwrap().len(), 101);
}

#[tokio::test]
async fn a_patch_may_insist_on_a_version() {
    let api = Api::start().await;
    let made = api.config_map("a").await;
    let path = format!("{MAPS}/a");
    let version = &made["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "data": {"b": "1"}});
    api.patch(&path, "merge-patch", &patch).await.expect(200);
    let again = json!({"metadata": {"resourceVersion": version}, "data": {"b": "2"}});
    assert_eq!(api.patch(&path, "merge-patch", &again).await.code, 409);
}
