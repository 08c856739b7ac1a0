use serde_json::json;

use crate::harness::{Api, MAPS, config_map, deployment};

#[tokio::test]
async fn the_server_says_who_and_when() {
    let api = Api::start().await;
    let map = api.config_map("a").await;
    let metadata = &map["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(api.get(&format!("{MAPS}/a")).await.expect(200), map);
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let api = Api::start().await;
    api.config_map("a").await;
    let again = api.post(MAPS, &config_map("a")).await;
    assert_eq!(again.message(), "configmaps \"a\" already exists");
    assert_eq!(again.expect(409)["reason"], "AlreadyExists");
}

#[tokio::test]
async fn names_are_generated() {
    let api = Api::start().await;
    let mut map = config_map("");
    map["metadata"] = json!({"generateName": "web-"});
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let made = api.post(MAPS, &map).await.expect(201);
        names.insert(made["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 20);
    assert!(names.iter().all(|name| name.starts_with("web-") && name.len() == 9));
    map["metadata"] = json!({});
    let nameless = api.post(MAPS, &map).await;
    assert!(nameless.message().contains("name or generateName is required"), "{}", nameless.message());
}

#[tokio::test]
async fn the_namespace_is_that_of_the_path() {
    let api = Api::start().await;
    let mut map = config_map("a");
    map["metadata"]["namespace"] = "other".into();
    let answer = api.post(MAPS, &map).await;
    let expected = "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!(answer.message(), expected);
    assert_eq!(answer.code, 400);
    map["metadata"]["resourceVersion"] = "1".into();
    map["metadata"]["namespace"] = "default".into();
    let versioned = api.post(MAPS, &map).await;
    assert_eq!(versioned.message(), "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn unknown_fields_are_dropped_reported_or_refused() {
    let api = Api::start().await;
    let mut map = deployment("a");
    map["spec"]["nonsense"] = 1.into();
    let strict = api.post("/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict", &map).await;
    assert_eq!(
        strict.message(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \
         \"spec.nonsense\""
    );
    assert_eq!(strict.code, 400);
    let warned = api.post("/apis/apps/v1/namespaces/default/deployments", &map).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.nonsense\\\"\"");
    let made = warned.expect(201);
    assert_eq!(made["spec"]["nonsense"], json!(null));
    assert_eq!(made["metadata"]["generation"], 1);
    let ignored = "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Ignore&dryRun=All";
    map["metadata"]["name"] = "b".into();
    let quiet = api.post(ignored, &map).await;
    assert!(!quiet.headers.contains_key("warning"));
    quiet.expect(201);
    assert_eq!(api.get("/apis/apps/v1/namespaces/default/deployments/b").await.code, 404);
}

/// Upstream's "should detect unknown and duplicate fields of a typed object".
#[tokio::test]
async fn what_is_strictly_wrong_is_told_in_the_documents_order() {
    let api = Api::start().await;
    let body = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "name": "n"}, "what": 1,
        "data": {}, "data": {}}"#;
    let json = [("content-type", "application/json")];
    let strict = api.send("POST", &format!("{MAPS}?fieldValidation=Strict"), &json, body).await;
    let told = "duplicate field \"metadata.name\", unknown field \"what\", duplicate field \"data\"";
    let refused = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: ";
    assert_eq!((strict.code, strict.message()), (400, format!("{refused}{told}")));

    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: first\n  name: second\nwhat: 1\n";
    let yaml = [("content-type", "application/yaml")];
    let strict = api.send("POST", &format!("{MAPS}?fieldValidation=Strict"), &yaml, body).await;
    let told = "yaml: unmarshal errors:\n  line 5: key \"name\" already set in map, unknown field \"what\"";
    assert_eq!((strict.code, strict.message()), (400, format!("{refused}{told}")));
    let ignored = api.send("POST", &format!("{MAPS}?fieldValidation=Ignore"), &yaml, body).await;
    assert_eq!(ignored.expect(201)["metadata"]["name"], "second");
}

#[tokio::test]
async fn wrong_types_and_kinds_are_refused() {
    let api = Api::start().await;
    let mut map = config_map("a");
    map["data"] = json!({"a": 1});
    let answer = api.post(MAPS, &map).await;
    assert_eq!(answer.code, 400);
    assert!(answer.message().starts_with("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: "));
    let mut secret = config_map("a");
    secret["kind"] = "Secret".into();
    assert_eq!(api.post(MAPS, &secret).await.code, 400);
    let mut version = config_map("a");
    version["apiVersion"] = "v2".into();
    let expected = "the API version in the data (v2) does not match the expected API version (v1)";
    assert_eq!(api.post(MAPS, &version).await.message(), expected);
    for body in ["", "{", "[]", "\"x\"", "null", "{}x"] {
        let answer = api.send("POST", MAPS, &[("content-type", "application/json")], body).await;
        assert_eq!(answer.code, 400, "{body}: {answer:?}");
    }
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(api.send("POST", MAPS, &[("content-type", "application/json")], deep).await.code, 400);
}

#[tokio::test]
async fn bodies_come_in_yaml_and_protobuf() {
    let api = Api::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: written\ndata:\n  k: |\n    two\n    lines\n";
    let made = api.send("POST", MAPS, &[("content-type", "application/yaml")], yaml).await.expect(201);
    assert_eq!(made["data"]["k"], "two\nlines\n");
    // ConfigMap{metadata: {name: "p"}, data: {"k": "v"}}
    let protobuf = b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x0d\n\x03\n\x01p\x12\x06\n\x01k\x12\x01v".to_vec();
    let made = api.send("POST", MAPS, &[("content-type", "application/vnd.kubernetes.protobuf")], protobuf).await;
    let made = made.expect(201);
    assert_eq!((&made["metadata"]["name"], &made["data"]), (&json!("p"), &json!({"k": "v"})));
    let nonsense = api.send("POST", MAPS, &[("content-type", "application/vnd.kubernetes.protobuf")], "k8s").await;
    assert_eq!(nonsense.code, 400);
    let cbor = api.send("POST", MAPS, &[("content-type", "application/cbor")], "x").await;
    assert_eq!(cbor.value()["reason"], "UnsupportedMediaType");
    assert_eq!(cbor.code, 415);
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    let large = api.send("POST", MAPS, &[("content-type", "application/json")], large).await;
    assert_eq!(large.expect(413)["reason"], "RequestEntityTooLarge");
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let api = Api::start().await;
    api.post(&format!("{MAPS}?dryRun=All"), &config_map("a")).await.expect(201);
    assert_eq!(api.get(&format!("{MAPS}/a")).await.code, 404);
    assert_eq!(api.post(&format!("{MAPS}?dryRun=Some"), &config_map("a")).await.code, 422);
}

#[tokio::test]
async fn many_at_once_get_a_name_each() {
    let api = Api::start().await;
    let names: Vec<String> = (0..200).map(|i| format!("n{}", i % 50)).collect();
    let paths = names.iter().map(|name| async { api.post(MAPS, &config_map(name)).await.code });
    let codes = futures::future::join_all(paths).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 50);
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 150);
}
