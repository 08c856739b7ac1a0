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
}

/// What a patch makes is told as upstream tells it: as a wrong value of a field `patch`.
#[tokio::test]
async fn patches_that_make_no_object_of_the_kind() {
    let api = Api::start().await;
    api.config_map("a").await;
    let path = format!("{MAPS}/a");
    let why = "json: cannot unmarshal number into Go struct field ConfigMap.data of type string";
    for (content_type, patch) in [
        ("merge-patch", json!({"data": {"a": 1}})),
        ("json-patch", json!([{"op": "add", "path": "/data/a", "value": 1}])),
    ] {
        let mistyped = api.patch(&path, content_type, &patch).await;
        assert_eq!((mistyped.code, mistyped.value()["reason"].as_str()), (422, Some("Invalid")));
        assert!(mistyped.message().starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{mistyped:?}");
        assert!(mistyped.message().ends_with(why), "{mistyped:?}");
    }
    let patch = json!({"data": {"a": 1}});
    let mistyped = api.patch(&path, "strategic-merge-patch", &patch).await;
    let told = "patch: Invalid value: \"map[data:map[a:1]]\": cannot convert int64 to string";
    assert_eq!((mistyped.code, mistyped.message()), (422, format!(" \"\" is invalid: {told}")));
    assert_eq!(mistyped.value()["details"]["causes"][0]["field"], "patch");

    let strict = [("content-type", "application/strategic-merge-patch+json")];
    let patch = r#"{"data": {"a": "1", "a": "2"}, "what": 1}"#;
    let told = "duplicate field \"data.a\", unknown field \"what\"";
    let refused = api.send("PATCH", &format!("{path}?fieldValidation=Strict"), &strict, patch).await;
    let value = "map[data:map[a:2] what:1]";
    let message = format!(" \"\" is invalid: patch: Invalid value: \"{value}\": strict decoding error: {told}");
    assert_eq!((refused.code, refused.message()), (422, message));
    let warned = api.send("PATCH", &path, &strict, patch).await;
    assert!(warned.headers.contains_key("warning"));
    assert_eq!(warned.expect(200)["data"]["a"], "2");
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
