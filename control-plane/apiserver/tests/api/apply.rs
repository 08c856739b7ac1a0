//! Server-side apply, and who owns what after any write (upstream's `test/integration/apiserver/apply`).

use serde_json::{Value, json};

use crate::harness::{Answer, Api};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn config_map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

fn deployment(spec: &Value) -> Value {
    let mut all = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": all})
}

impl Api {
    async fn apply(&self, path: &str, query: &str, body: &Value) -> Answer {
        let path = format!("{path}?fieldManager=me{query}");
        self.send("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], body.to_string()).await
    }
}

/// The managers of an object, as `name operation subresource`.
fn managers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or("-").to_owned();
    list.iter().map(|e| [text(e, "manager"), text(e, "operation"), text(e, "subresource")].join(" ")).collect()
}

#[tokio::test]
async fn an_apply_creates_and_then_changes() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m");
    let object = api.apply(&path, "", &config_map(&json!({"a": "1", "b": "1"}))).await.expect(201);
    assert_eq!(managers(&object), ["me Apply -"]);
    let again = api.apply(&path, "", &config_map(&json!({"a": "1", "b": "1"}))).await.expect(200);
    assert_eq!(again, object, "applying again writes nothing");
    let object = api.apply(&path, "", &config_map(&json!({"a": "2"}))).await.expect(200);
    assert_eq!(object["data"], json!({"a": "2"}));
    let dry = api.apply(&path, "&dryRun=All", &config_map(&json!({"a": "3"}))).await.expect(200);
    assert_eq!(dry["data"], json!({"a": "3"}));
    assert_eq!(api.get(&path).await.expect(200), object);
}

#[tokio::test]
async fn yaml_is_applied() {
    let api = Api::start().await;
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: \"1\"\n  a: \"2\"\n";
    let headers = [("content-type", "application/apply-patch+yaml; charset=utf-8")];
    let path = format!("{MAPS}/m?fieldManager=me");
    let strict = api.send("PATCH", &format!("{path}&fieldValidation=Strict"), &headers, body).await;
    let told = "yaml: unmarshal errors:\n  line 7: key \"a\" already set in map";
    assert_eq!(strict.message(), format!("error strict decoding YAML: error converting YAML to JSON: {told}"));
    assert_eq!(strict.code, 400);
    let answer = api.send("PATCH", &path, &headers, body).await;
    assert!(answer.headers.contains_key("warning"));
    assert_eq!(answer.expect(201)["data"], json!({"a": "2"}));
    let broken = api.send("PATCH", &path, &headers, "a: [").await;
    assert!(broken.message().starts_with("error decoding YAML: "), "{}", broken.message());
    assert_eq!(broken.code, 400);
    assert_eq!(api.send("PATCH", &path, &headers, "[]").await.code, 400);
}

#[tokio::test]
async fn conflicts_name_who_and_what() {
    let api = Api::start().await;
    api.post(&format!("{DEPLOYMENTS}?fieldManager=kubectl"), &deployment(&json!({"replicas": 1}))).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let refused = api.apply(&path, "", &deployment(&json!({"replicas": 3}))).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl\" using apps/v1",
            "field": ".spec.replicas"}])
    );
    let forced = api.apply(&path, "&force=true", &deployment(&json!({"replicas": 3}))).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(managers(&forced), ["me Apply -", "kubectl Update -"]);
}

#[tokio::test]
async fn options_are_checked() {
    let api = Api::start().await;
    let headers = [("content-type", "application/apply-patch+yaml")];
    let nobody = api.send("PATCH", &format!("{MAPS}/m"), &headers, config_map(&json!({})).to_string()).await;
    let status = nobody.expect(422);
    assert_eq!(
        status["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let forced = api.patch(&format!("{MAPS}/m?force=true"), "merge-patch", &json!({})).await.expect(422);
    assert_eq!(
        forced["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
    );
    let long = format!("{MAPS}?fieldManager={}", "x".repeat(129));
    assert_eq!(api.post(&long, &config_map(&json!({}))).await.code, 422);
    let cbor = [("content-type", "application/apply-patch+cbor")];
    let refused = api.send("PATCH", &format!("{MAPS}/m?fieldManager=me"), &cbor, "x").await.expect(415);
    assert_eq!(refused["reason"], "UnsupportedMediaType");
    assert!(refused["message"].as_str().unwrap().ends_with("application/apply-patch+yaml"));
}

#[tokio::test]
async fn what_is_applied_is_of_the_kind_and_of_the_path() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m");
    let mut wrong = config_map(&json!({}));
    wrong["foo"] = 1.into();
    let status = api.apply(&path, "", &wrong).await.expect(500);
    assert_eq!(
        status["message"],
        "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .foo: field not declared in schema"
    );
    let mut other = config_map(&json!({}));
    other["kind"] = "Secret".into();
    assert_eq!(api.apply(&path, "", &other).await.expect(400)["message"], "invalid object type: /v1, Kind=Secret");
    let mut named = config_map(&json!({}));
    named["metadata"]["name"] = "other".into();
    assert_eq!(api.apply(&path, "", &named).await.code, 400);
    let mut uid = config_map(&json!({}));
    uid["metadata"]["uid"] = "u".into();
    let status = api.apply(&path, "", &uid).await.expect(409);
    assert!(status["message"].as_str().unwrap().contains("uid mismatch: the provided object specified uid u"));
}

#[tokio::test]
async fn a_resource_version_in_the_configuration_counts() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m");
    let object = api.apply(&path, "", &config_map(&json!({"a": "1"}))).await.expect(201);
    let mut next = config_map(&json!({"a": "2"}));
    next["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    api.apply(&path, "", &next).await.expect(200);
    next["data"]["a"] = "3".into();
    let status = api.apply(&path, "", &next).await.expect(409);
    assert!(status["message"].as_str().unwrap().contains("the object has been modified"));
}

#[tokio::test]
async fn every_write_has_a_manager() {
    let api = Api::start().await;
    let agent = ("user-agent", "agent/v1 (linux)");
    let json_type = ("content-type", "application/json");
    let created = api.send("POST", MAPS, &[agent, json_type], config_map(&json!({"a": "1"})).to_string()).await;
    assert_eq!(managers(&created.expect(201)), ["agent Update -"]);
    let path = format!("{MAPS}/m");
    let patched = api.patch(&format!("{path}?fieldManager=p"), "merge-patch", &json!({"data": {"b": "1"}})).await;
    assert_eq!(managers(&patched.expect(200)), ["agent Update -", "p Update -"]);
    let put = api.put(&format!("{path}?fieldManager=q"), &config_map(&json!({"a": "2", "b": "1"}))).await.expect(200);
    assert_eq!(managers(&put), ["agent Update -", "p Update -", "q Update -"]);
    let list = &put["metadata"]["managedFields"];
    assert_eq!(list[0]["fieldsV1"], json!({"f:data": {}}));
    assert_eq!(list[2]["fieldsV1"], json!({"f:data": {"f:a": {}}}));
    assert_eq!(list[2]["time"], "2026-01-01T00:00:00Z");
    let same = api.put(&format!("{path}?fieldManager=r"), &config_map(&json!({"a": "2", "b": "1"}))).await.expect(200);
    assert_eq!(same, put);
    let reset = api.patch(&path, "merge-patch", &json!({"metadata": {"managedFields": [{}]}})).await.expect(200);
    assert!(reset["metadata"].get("managedFields").is_none());
}

#[tokio::test]
async fn statuses_are_applied_apart() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, &deployment(&json!({}))).await.expect(201);
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "status": {"replicas": 7}});
    let path = format!("{DEPLOYMENTS}/web/status");
    let object = api.apply(&path, "", &status).await.expect(200);
    assert_eq!(object["status"]["replicas"], 7);
    assert_eq!(managers(&object), ["me Apply status", "admin Update -"]);
    assert_eq!(object["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
    let mut both = status.clone();
    both["spec"] = json!({"replicas": 9});
    let object = api.apply(&path, "", &both).await.expect(200);
    assert_eq!(object["spec"]["replicas"], 1, "the specification is not the status's to change");
    assert_eq!(api.apply(&format!("{DEPLOYMENTS}/none/status"), "", &status).await.code, 404);
}

#[tokio::test]
async fn a_scale_is_applied() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    api.apply(&path, "", &deployment(&json!({"replicas": 1}))).await.expect(201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 4}});
    let scale_path = format!("{path}/scale?fieldManager=hpa");
    let headers = [("content-type", "application/apply-patch+yaml")];
    let refused = api.send("PATCH", &scale_path, &headers, scale.to_string()).await.expect(409);
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
    api.put(&scale_path, &scale).await.expect(200);
    let object = api.get(&path).await.expect(200);
    assert_eq!(object["spec"]["replicas"], 4);
    assert_eq!(managers(&object), ["me Apply -", "hpa Update scale"]);
    assert_eq!(object["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"].get("f:replicas"), None);
    let refused = api.apply(&path, "", &deployment(&json!({"replicas": 2}))).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    // Who does not say how many leaves it to others.
    let object = api.apply(&path, "", &deployment(&json!({}))).await.expect(200);
    assert_eq!(object["spec"]["replicas"], 4);
}

#[tokio::test]
async fn lists_of_pods_merge_by_their_keys() {
    let api = Api::start().await;
    let pod = |container: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}});
    let path = format!("{PODS}/p");
    api.apply(&path, "", &pod(json!({"name": "a", "image": "x:1"}))).await.expect(201);
    let labels = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"l": "x"}}});
    let other = format!("{path}?fieldManager=other");
    let headers = [("content-type", "application/apply-patch+yaml")];
    let object = api.send("PATCH", &other, &headers, labels.to_string()).await.expect(200);
    assert_eq!(managers(&object), ["me Apply -", "other Apply -"]);
    let object = api.apply(&path, "", &pod(json!({"name": "a", "image": "x:2"}))).await.expect(200);
    assert_eq!(object["spec"]["containers"][0]["image"], "x:2");
    assert_eq!(object["metadata"]["labels"]["l"], "x");
    let twice = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a"}, {"name": "a"}]}});
    let status = api.apply(&path, "", &twice).await.expect(500);
    assert!(
        status["message"].as_str().unwrap().ends_with(".spec.containers: duplicate entries for key [name=\"a\"]"),
        "{status}"
    );
}

#[tokio::test]
async fn applies_of_events_are_of_their_version() {
    let api = Api::start().await;
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "action": "a", "reason": "r", "type": "Normal", "note": "first", "reportingController": "c.io/c",
        "reportingInstance": "i", "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let path = "/apis/events.k8s.io/v1/namespaces/default/events/e";
    let object = api.apply(path, "", &event).await.expect(201);
    assert!(object["metadata"]["managedFields"][0]["fieldsV1"].get("f:note").is_some());
    // The same event in the core group, changed there.
    let core = "/api/v1/namespaces/default/events/e";
    let patched = api.patch(&format!("{core}?fieldManager=core"), "merge-patch", &json!({"message": "x"})).await;
    assert_eq!(patched.code, 200, "{}", patched.message());
    let object = patched.value();
    assert_eq!(managers(&object), ["me Apply -", "core Update -"]);
    assert_eq!(object["metadata"]["managedFields"][0]["fieldsV1"].get("f:note"), None, "it was taken");
}
