//! Custom resources in two versions, which a webhook converts.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::Cluster;
use super::hook::Hook;

const V1: &str = "/apis/example.com/v1/namespaces/default/widgets";
const V2: &str = "/apis/example.com/v2/namespaces/default/widgets";

/// What v1 calls `size` is `dimension` in v2.
fn converted(object: &Value, version: &Value) -> Value {
    let (from, to) = if version == "example.com/v2" { ("size", "dimension") } else { ("dimension", "size") };
    let mut object = object.clone();
    object["apiVersion"] = version.clone();
    if let Some(spec) = object["spec"].as_object_mut()
        && let Some(size) = spec.remove(from)
    {
        spec.insert(to.into(), size);
    }
    object
}

fn convert(review: &Value) -> (u16, Vec<u8>) {
    let request = &review["request"];
    let objects = request["objects"].as_array().unwrap().iter();
    let objects: Vec<Value> = objects.map(|object| converted(object, &request["desiredAPIVersion"])).collect();
    let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
    let answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
    (200, answer.to_string().into_bytes())
}

async fn with_widgets() -> (Cluster, Hook) {
    let hook = Hook::local(convert).await;
    let cluster = Cluster::start().await;
    let version = |name: &str, field: &str| {
        json!({"name": name, "served": true, "storage": name == "v1", "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": {
                field: {"type": "integer"}, "color": {"type": "string"}}}}}}})
    };
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version("v1", "size"), version("v2", "dimension")],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"], "clientConfig": hook.config()}}}});
    cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.expect(201);
    let served = async {
        while cluster.get(V2).await.code != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), served).await.expect("the kind is served");
    (cluster, hook)
}

fn widget(version: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": "w"}, "spec": spec})
}

/// What a manager owns of the spec.
fn owned(object: &Value, manager: &str) -> Value {
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    managers.iter().find(|m| m["manager"] == manager).map_or(Value::Null, |m| m["fieldsV1"]["f:spec"].clone())
}

#[tokio::test]
async fn appliers_of_two_versions_mind_each_other() {
    let (cluster, _hook) = with_widgets().await;
    let apply = async |path: &str, who: &str, object: Value| {
        let path = format!("{path}/w?{who}");
        cluster.patch(&path, "application/apply-patch+yaml", &object).await
    };
    let one = widget("v1", json!({"size": 1, "color": "red"}));
    apply(V1, "fieldManager=one", one).await.expect(201);
    let two = widget("v2", json!({"dimension": 2}));
    let refused = apply(V2, "fieldManager=two", two.clone()).await;
    let why = r#"Apply failed with 1 conflict: conflict with "one": .spec.size"#;
    assert_eq!((refused.code, refused.message()), (409, why));
    // The same value is shared.
    let same = widget("v2", json!({"dimension": 1}));
    let shared = apply(V2, "fieldManager=three", same).await.expect(200);
    assert_eq!(owned(&shared, "three"), json!({"f:dimension": {}}));
    assert_eq!(owned(&shared, "one"), json!({"f:color": {}, "f:size": {}}));
    let forced = apply(V2, "fieldManager=two&force=true", two).await.expect(200);
    assert_eq!(forced["spec"], json!({"dimension": 2, "color": "red"}));
    assert_eq!(owned(&forced, "two"), json!({"f:dimension": {}}));
    assert_eq!(owned(&forced, "one"), json!({"f:color": {}}));
    assert_eq!(owned(&forced, "three"), Value::Null);
    // What nobody applies any more goes.
    let less = apply(V1, "fieldManager=one", widget("v1", json!({}))).await.expect(200);
    assert_eq!(less["spec"], json!({"size": 2}));
}

#[tokio::test]
async fn an_update_in_one_version_takes_fields_from_appliers_of_another() {
    let (cluster, _hook) = with_widgets().await;
    let path = format!("{V1}/w?fieldManager=one");
    let one = widget("v1", json!({"size": 1, "color": "red"}));
    cluster.patch(&path, "application/apply-patch+yaml", &one).await.expect(201);
    let patch = json!({"spec": {"dimension": 3}});
    let path = format!("{V2}/w?fieldManager=two");
    let changed = cluster.patch(&path, "application/merge-patch+json", &patch).await.expect(200);
    assert_eq!(changed["spec"], json!({"dimension": 3, "color": "red"}));
    assert_eq!(owned(&changed, "two"), json!({"f:dimension": {}}));
    assert_eq!(owned(&changed, "one"), json!({"f:color": {}}));
}
