use serde_json::{Value, json};

use crate::harness::{Api, MAPS, PODS, TABLE, config_map, pod};

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let api = Api::start().await;
    let answer = api.get(&format!("{MAPS}/a")).await;
    assert_eq!(answer.message(), "configmaps \"a\" not found");
    assert_eq!(answer.expect(404)["details"], json!({"name": "a", "kind": "configmaps"}));
    for path in ["/api/v1/nonsense", "/apis/none.io/v1/things", "/api/v1/namespaces/default/nodes"] {
        let answer = api.get(path).await;
        assert_eq!(answer.message(), "the server could not find the requested resource", "{path}");
    }
    let put = api.send("PUT", MAPS, &[], "{}").await;
    assert_eq!(put.code, 405);
}

#[tokio::test]
async fn an_object_has_many_forms() {
    let api = Api::start().await;
    api.post(PODS, &pod("p")).await.expect(201);
    let path = format!("{PODS}/p");
    let table = api.send("GET", &path, &[("accept", TABLE)], "").await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "p");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let partial = api.send("GET", &path, &[("accept", partial)], "").await.expect(200);
    assert_eq!((&partial["kind"], &partial["spec"]), (&json!("PartialObjectMetadata"), &Value::Null));
    let yaml = api.send("GET", &path, &[("accept", "application/yaml")], "").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("kind: Pod"));
    let pretty = api.send("GET", &format!("{path}?pretty=true"), &[], "").await;
    assert!(pretty.bytes.starts_with(b"{\n  "));
    let protobuf = api.send("GET", &path, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    assert_eq!(protobuf.headers["content-type"], "application/vnd.kubernetes.protobuf");
    assert!(protobuf.bytes.starts_with(b"k8s\0"));
    assert_eq!(api.send("GET", &path, &[("accept", "application/cbor")], "").await.code, 406);
}

#[tokio::test]
async fn large_answers_are_compressed() {
    let api = Api::start().await;
    for i in 0..40 {
        let mut map = config_map(&format!("m{i:02}"));
        map["data"]["a"] = "x".repeat(10_000).into();
        api.post(MAPS, &map).await.expect(201);
    }
    let plain = api.get(MAPS).await;
    let zipped = api.send("GET", MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    assert!(zipped.bytes.len() < plain.bytes.len() / 10);
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*zipped.bytes), &mut text).unwrap();
    assert_eq!(text, plain.bytes);
    let one = api.send("GET", &format!("{MAPS}/m00"), &[("accept-encoding", "gzip")], "").await;
    assert!(!one.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn events_are_one_object_in_two_groups() {
    let api = Api::start().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "type": "Normal",
        "reason": "Started", "message": "it has started",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default", "apiVersion": "v1"},
        "source": {"component": "test"}, "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1});
    api.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let other = api.get(&format!("{new}/e")).await.expect(200);
    assert_eq!(other["note"], "it has started");
    assert_eq!(other["regarding"]["name"], "p");
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
    let list = api.get(new).await.expect(200);
    assert_eq!(list["items"][0], other);
    let patched = api.patch(&format!("{new}/e"), "merge-patch", &json!({"deprecatedCount": 2})).await.expect(200);
    assert_eq!(patched["deprecatedCount"], 2);
    assert_eq!(api.get("/api/v1/namespaces/default/events/e").await.expect(200)["count"], 2);
}
