//! CustomResourceDefinitions and custom resources.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Api, TABLE};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A definition of widgets, whose only version has this schema of its `spec`.
pub fn definition(spec: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "priority": 1,
                        "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec,
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

pub fn spec() -> Value {
    json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "replicas": {"type": "integer", "default": 2},
        "color": {"type": "string", "enum": ["red", "green"], "default": "red"},
        "port": {"x-kubernetes-int-or-string": true},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "weight": {"type": "integer", "default": 5}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "maybe": {"type": "string", "nullable": true},
        "when": {"type": "string", "format": "date-time"}}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Creates a definition and waits until it is established.
pub async fn establish(api: &Api, definition: &Value) -> Value {
    api.post(CRDS, definition).await.expect(201);
    let path = format!("{CRDS}/{}", definition["metadata"]["name"].as_str().unwrap());
    for _ in 0..1000 {
        let crd = api.get(&path).await.expect(200);
        if condition(&crd, "Established").is_some_and(|c| c["status"] == "True") {
            return crd;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not established: {}", api.get(&path).await.expect(200));
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    crd["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

async fn gone(api: &Api, path: &str) {
    for _ in 0..1000 {
        if api.get(path).await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} is still there: {}", api.get(path).await.expect(200));
}

#[tokio::test(start_paused = true)]
async fn a_definition_is_established_and_its_objects_are_served() {
    let api = Api::start().await;
    let crd = establish(&api, &definition(spec())).await;
    assert_eq!(crd["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(crd["spec"]["names"]["singular"], "widget");
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["acceptedNames"], crd["spec"]["names"]);
    let accepted = condition(&crd, "NamesAccepted").unwrap();
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("True"), &json!("NoConflicts")));
    assert_eq!(accepted["message"], "no conflicts found");
    assert_eq!(condition(&crd, "Established").unwrap()["reason"], "InitialNamesAccepted");

    let created = api.post(WIDGETS, &widget("a", json!({"size": 3}))).await.expect(201);
    assert_eq!(created["spec"], json!({"size": 3, "replicas": 2, "color": "red"}));
    assert_eq!(created["metadata"]["generation"], 1);
    let list = api.get(WIDGETS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("WidgetList"), &json!("example.com/v1")));
    let discovered = api.get("/apis/example.com/v1").await.expect(200);
    let names: Vec<&str> =
        discovered["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(discovered["resources"][0]["shortNames"], json!(["wd"]));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_told_in_upstreams_words() {
    let api = Api::start().await;
    establish(&api, &definition(spec())).await;
    for (spec, expected) in [
        (
            json!({"size": "big"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (json!({}), "spec.size: Required value"),
        (json!({"size": 11}), "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"),
        (json!({"size": 0}), "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        (
            json!({"size": 1, "color": "blue"}),
            "spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\"",
        ),
        (json!({"size": 1, "tags": ["a", "b", "a"]}), "spec.tags[2]: Duplicate value: \"a\""),
        (
            json!({"size": 1, "parts": [{"name": "x"}, {"name": "x"}]}),
            "spec.parts[1]: Duplicate value: {\"name\":\"x\"}",
        ),
        (json!({"size": 1, "parts": [{"weight": 1}]}), "spec.parts[0].name: Required value"),
        (
            json!({"size": 1, "port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"size": 1, "when": "soon"}),
            "spec.when: Invalid value: \"soon\": spec.when in body must be of type date-time: \"soon\"",
        ),
        (json!({"size": 1, "replicas": -1}), ".spec.replicas: Invalid value: -1: should be a non-negative integer"),
    ] {
        let answer = api.post(WIDGETS, &widget("bad", spec)).await;
        assert_eq!(answer.code, 422, "{}", String::from_utf8_lossy(&answer.bytes));
        assert_eq!(answer.message(), format!("Widget.example.com \"bad\" is invalid: {expected}"));
    }
    let mut malformed = widget("bad", json!({"size": 1}));
    malformed["metadata"]["labels"] = json!({"a": 1});
    let message = api.post(WIDGETS, &malformed).await.message();
    let words = "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string";
    assert_eq!(message, format!("Widget in version \"v1\" cannot be handled as a Widget: {words}"));
    let unknown = json!({"size": 1, "colour": "red", "free": {"any": 1}, "parts": [{"name": "a", "x": 1}]});
    let answer = api
        .send("POST", &format!("{WIDGETS}?fieldValidation=Strict"), &[], widget("bad", unknown.clone()).to_string())
        .await;
    let words = "strict decoding error: unknown field \"spec.colour\", unknown field \"spec.parts[0].x\"";
    assert_eq!(answer.message(), format!("Widget in version \"v1\" cannot be handled as a Widget: {words}"));
    let answer = api.post(WIDGETS, &widget("pruned", unknown)).await;
    let warnings: Vec<_> = answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let pruned = answer.expect(201);
    assert_eq!(pruned["spec"]["free"], json!({"any": 1}));
    assert_eq!(pruned["spec"]["parts"], json!([{"name": "a", "weight": 5}]));
    assert!(pruned["spec"].get("colour").is_none());
}

#[tokio::test(start_paused = true)]
async fn nulls_are_values_where_the_schema_says_so() {
    let api = Api::start().await;
    establish(&api, &definition(spec())).await;
    let created = api
        .post(WIDGETS, &widget("a", json!({"size": 1, "color": null, "maybe": null, "when": null})))
        .await
        .expect(201);
    assert_eq!(created["spec"], json!({"size": 1, "color": "red", "maybe": null, "replicas": 2}));
}

#[tokio::test(start_paused = true)]
async fn status_and_scale_are_subresources() {
    let api = Api::start().await;
    establish(&api, &definition(spec())).await;
    let mut with_status = widget("a", json!({"size": 1}));
    with_status["status"] = json!({"replicas": 9});
    let mut object = api.post(WIDGETS, &with_status).await.expect(201);
    assert!(object.get("status").is_none());
    object["status"] = json!({"replicas": 1, "selector": "app=a"});
    object["spec"]["size"] = 7.into();
    object["metadata"]["labels"] = json!({"x": "y"});
    let path = format!("{WIDGETS}/a");
    let updated = api.put(&format!("{path}/status"), &object).await.expect(200);
    assert_eq!(updated["status"]["replicas"], 1);
    assert_eq!(updated["spec"]["size"], 1);
    assert!(updated["metadata"].get("labels").is_none());
    assert_eq!(updated["metadata"]["generation"], 1);

    let mut scale = api.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=a"}));
    scale["spec"]["replicas"] = 5.into();
    api.put(&format!("{path}/scale"), &scale).await.expect(200);
    let now = api.get(&path).await.expect(200);
    assert_eq!(now["spec"]["replicas"], 5);
    assert_eq!(now["metadata"]["generation"], 2);
    assert_eq!(now["status"]["selector"], "app=a");
    let patched =
        api.patch(&format!("{path}/scale"), "merge-patch", &json!({"spec": {"replicas": 1}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 1);
    let patched =
        api.patch(&path, "merge-patch", &json!({"spec": {"size": 2}, "status": {"replicas": 4}})).await.expect(200);
    assert_eq!((&patched["spec"]["size"], &patched["status"]["replicas"]), (&json!(2), &json!(1)));
    assert_eq!(api.patch(&path, "strategic-merge-patch", &json!({})).await.code, 415);
    // An update has to say what it was made from.
    let mut blind = now.clone();
    blind["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let words = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
    assert_eq!(api.put(&path, &blind).await.message(), format!("Widget.example.com \"a\" is invalid: {words}"));
}

#[tokio::test(start_paused = true)]
async fn columns_and_selectable_fields() {
    let api = Api::start().await;
    establish(&api, &definition(spec())).await;
    for (name, color) in [("a", "red"), ("b", "green")] {
        api.post(WIDGETS, &widget(name, json!({"size": 1, "color": color}))).await.expect(201);
    }
    api.patch(
        &format!("{WIDGETS}/b/status"),
        "merge-patch",
        &json!({"status": {"conditions": [
        {"type": "Other", "status": "x"}, {"type": "Ready", "status": "True"}]}}),
    )
    .await
    .expect(200);
    let table = api.send("GET", WIDGETS, &[("accept", TABLE)], "").await.expect(200);
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c["priority"].as_i64().unwrap()))
        .collect();
    assert_eq!(columns, [("Name", 0), ("Size", 0), ("Ready", 1), ("Age", 0)]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", 1, null, "0s"]));
    assert_eq!(table["rows"][1]["cells"], json!(["b", 1, "True", "0s"]));
    let green = api.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dgreen")).await.expect(200);
    assert_eq!(green["items"][0]["metadata"]["name"], "b");
    assert_eq!(green["items"].as_array().unwrap().len(), 1);
    let message = api.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await.message();
    assert_eq!(message, "field label not supported: spec.size");
}

#[tokio::test(start_paused = true)]
async fn names_that_are_taken_are_not_given_twice() {
    let api = Api::start().await;
    establish(&api, &definition(spec())).await;
    let mut other = definition(spec());
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Widget", "shortNames": ["wd"]});
    api.post(CRDS, &other).await.expect(201);
    let path = format!("{CRDS}/gadgets.example.com");
    let mut crd = Value::Null;
    for _ in 0..1000 {
        crd = api.get(&path).await.expect(200);
        if condition(&crd, "NamesAccepted").is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let accepted = condition(&crd, "NamesAccepted").unwrap();
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("ListKindConflict")));
    assert_eq!(accepted["message"], "\"WidgetList\" is already in use");
    assert_eq!(condition(&crd, "Established").unwrap()["reason"], "NotAccepted");
    api.get("/apis/example.com/v1/gadgets").await.expect(404);
    // They are given to the other one once they are free.
    api.delete(&format!("{CRDS}/widgets.example.com")).await.expect(200);
    for _ in 0..1000 {
        if api.get("/apis/example.com/v1/gadgets").await.code == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{}", api.get(&path).await.expect(200));
}

#[tokio::test(start_paused = true)]
async fn a_definition_goes_after_its_objects() {
    let api = Api::start().await;
    establish(&api, &definition(spec())).await;
    let mut kept = widget("kept", json!({"size": 1}));
    kept["metadata"]["finalizers"] = json!(["example.com/keep"]);
    api.post(WIDGETS, &kept).await.expect(201);
    api.post(WIDGETS, &widget("a", json!({"size": 1}))).await.expect(201);
    let path = format!("{CRDS}/widgets.example.com");
    let deleted = api.delete(&path).await.expect(200);
    assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&deleted, "Terminating").unwrap()["reason"], "InstanceDeletionPending");
    gone(&api, &format!("{WIDGETS}/a")).await;
    let crd = api.get(&path).await.expect(200);
    assert_eq!(condition(&crd, "Terminating").unwrap()["reason"], "InstanceDeletionInProgress");
    let refused = api.post(WIDGETS, &widget("late", json!({"size": 1}))).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("create not allowed while custom resource definition is terminating"));
    let discovered = api.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(discovered["resources"][0]["verbs"], json!(["delete", "deletecollection", "get", "list", "watch"]));
    api.patch(&format!("{WIDGETS}/kept"), "merge-patch", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    gone(&api, &path).await;
    api.get(WIDGETS).await.expect(404);
    // Another one of the same name begins anew.
    establish(&api, &definition(spec())).await;
    assert_eq!(api.get(WIDGETS).await.expect(200)["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_new_schema_applies_to_old_objects() {
    let api = Api::start().await;
    establish(&api, &definition(spec())).await;
    api.post(WIDGETS, &widget("a", json!({"size": 3, "color": "green"}))).await.expect(201);
    let path = format!("{CRDS}/widgets.example.com");
    let mut crd = api.get(&path).await.expect(200);
    let schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].as_object_mut().unwrap();
    let properties = schema["properties"].as_object_mut().unwrap();
    properties.insert("shape".into(), json!({"type": "string", "default": "round"}));
    properties["size"]["maximum"] = 2.into();
    api.put(&path, &crd).await.expect(200);
    let mut object = Value::Null;
    for _ in 0..1000 {
        object = api.get(&format!("{WIDGETS}/a")).await.expect(200);
        if object["spec"]["shape"] == "round" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(object["spec"]["shape"], "round");
    // What was wrong before and has not changed is let be.
    object["spec"]["color"] = "red".into();
    let object = api.put(&format!("{WIDGETS}/a"), &object).await.expect(200);
    let mut worse = object.clone();
    worse["spec"]["size"] = 4.into();
    assert_eq!(api.put(&format!("{WIDGETS}/a"), &worse).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn versions_are_views_of_one_object() {
    let api = Api::start().await;
    let mut crd = definition(spec());
    let mut old = crd["spec"]["versions"][0].clone();
    old["name"] = "v1beta1".into();
    old["storage"] = false.into();
    old["deprecated"] = true.into();
    old["selectableFields"] = json!([{"jsonPath": ".spec.only"}]);
    old["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["only"] = json!({"type": "string"});
    crd["spec"]["versions"].as_array_mut().unwrap().push(old);
    establish(&api, &crd).await;
    let beta = WIDGETS.replace("/v1/", "/v1beta1/");
    let mut object = widget("a", json!({"size": 3, "only": "here"}));
    object["apiVersion"] = "example.com/v1beta1".into();
    let answer = api.post(&beta, &object).await;
    let warning = answer.headers.get("warning").unwrap().to_str().unwrap().to_owned();
    assert_eq!(warning, "299 - \"example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget\"");
    let created = answer.expect(201);
    assert_eq!(created["apiVersion"], "example.com/v1beta1");
    // The storage version does not have the field.
    assert!(created["spec"].get("only").is_none());
    let list = api.get(WIDGETS).await.expect(200);
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1");
    let list = api.get(&beta).await.expect(200);
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
    let mut watch = api.watch(&format!("{beta}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["apiVersion"], "example.com/v1beta1");
    let mut object = api.get(&format!("{beta}/a")).await.expect(200);
    object["spec"]["size"] = 4.into();
    api.put(&format!("{beta}/a"), &object).await.expect(200);
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["size"], 4);
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["size"], 4);
}

/// A write that changes nothing moves an object to the version in which it is to be stored: so migrations work.
#[tokio::test(start_paused = true)]
async fn what_is_stored_in_another_version_is_written_again() {
    let api = Api::start().await;
    let mut crd = definition(spec());
    let mut newer = crd["spec"]["versions"][0].clone();
    newer["name"] = "v2".into();
    newer["storage"] = false.into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(newer);
    establish(&api, &crd).await;
    let made = api.post(WIDGETS, &widget("a", json!({"size": 3}))).await.expect(201);
    let stored = async || {
        let found = api.store.get("/registry/example.com/widgets/default/a").await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&found.value).unwrap()["apiVersion"].clone()
    };
    assert_eq!(stored().await, "example.com/v1");
    let switch = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    api.patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &switch).await.expect(200);
    let path = format!("{WIDGETS}/a");
    for _ in 0..1000 {
        api.patch(&path, "merge-patch", &json!({})).await.expect(200);
        if stored().await == "example.com/v2" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(stored().await, "example.com/v2");
    let now = api.patch(&path, "merge-patch", &json!({})).await.expect(200);
    assert_eq!((&now["apiVersion"], &now["spec"]), (&made["apiVersion"], &made["spec"]));
    assert_ne!(now["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let again = api.patch(&path, "merge-patch", &json!({})).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], now["metadata"]["resourceVersion"], "once is enough");
}

#[tokio::test(start_paused = true)]
async fn openapi_knows_them_at_once() {
    let api = Api::start().await;
    let before = api.get("/openapi/v3").await.expect(200);
    assert!(before["paths"].get("apis/example.com/v1").is_none());
    establish(&api, &definition(spec())).await;
    let index = api.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = api.get(&url).await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["maximum"], 10);
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "version": "v1", "kind": "Widget"}])
    );
    assert!(schema["properties"]["metadata"]["allOf"][0]["$ref"].as_str().unwrap().ends_with("ObjectMeta"));
    // Of what all kinds have, the same is said.
    let built_in = &api.get("/openapi/v3/apis/apps/v1").await.expect(200)["components"]["schemas"];
    let built_in = &built_in["io.k8s.api.apps.v1.Deployment"]["properties"];
    for field in ["apiVersion", "kind", "metadata"] {
        assert!(built_in[field]["description"].is_string());
        assert_eq!(schema["properties"][field]["description"], built_in[field]["description"]);
    }
    let v2 = api.get("/openapi/v2").await.expect(200);
    assert_eq!(v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"]["maximum"], 10);
    assert!(v2["definitions"].get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
    let path = format!("{CRDS}/widgets.example.com");
    let mut crd = api.get(&path).await.expect(200);
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "A widget.".into();
    api.put(&path, &crd).await.expect(200);
    for _ in 0..1000 {
        let now = api.get("/openapi/v3").await.expect(200);
        if now["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str() != Some(&url) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the hash has not changed");
}

#[tokio::test(start_paused = true)]
async fn bad_definitions_are_refused() {
    let api = Api::start().await;
    let refuse = async |crd: Value, expected: &str| {
        let answer = api.post(CRDS, &crd).await;
        assert_eq!(answer.code, 422, "{}", String::from_utf8_lossy(&answer.bytes));
        let message = answer.message();
        assert!(message.contains(expected), "{message}\ndoes not contain\n{expected}");
    };
    let with = |change: fn(&mut Value)| {
        let mut crd = definition(spec());
        change(&mut crd);
        crd
    };
    refuse(
        with(|c| c["metadata"]["name"] = "x.example.com".into()),
        "metadata.name: Invalid value: \"x.example.com\": must be spec.names.plural+\".\"+spec.group",
    )
    .await;
    refuse(
        with(|c| {
            c["spec"]["versions"][0].as_object_mut().unwrap().remove("schema");
        }),
        "spec.versions[0].schema.openAPIV3Schema: Required value",
    )
    .await;
    refuse(with(|c| c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"] = json!({})),
        "spec.validation.openAPIV3Schema.properties[spec].properties[x].type: Required value: must not be empty for specified object fields").await;
    refuse(with(|c| c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["default"] = "x".into()),
        "spec.validation.openAPIV3Schema.properties[spec].properties[size].default: Invalid value: \"string\":  in body must be of type integer: \"string\"").await;
    refuse(
        with(|c| c["spec"]["versions"][0]["storage"] = false.into()),
        "must have exactly one version marked as storage version",
    )
    .await;
    refuse(
        with(|c| c["spec"]["scope"] = "Galaxy".into()),
        "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"",
    )
    .await;
    refuse(
        with(|c| c["spec"]["preserveUnknownFields"] = true.into()),
        "spec.preserveUnknownFields: Invalid value: true: cannot set to true",
    )
    .await;
    refuse(with(|c| { c["spec"]["group"] = "x.k8s.io".into(); c["metadata"]["name"] = "widgets.x.k8s.io".into(); }),
        "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation").await;
}

/// As many as a large operator brings.
#[tokio::test(start_paused = true)]
async fn a_hundred_definitions_at_once() {
    let api = Api::start().await;
    for n in 0..100 {
        let mut crd = definition(spec());
        crd["metadata"]["name"] = format!("kind{n}s.example.com").into();
        crd["spec"]["names"] = json!({"plural": format!("kind{n}s"), "kind": format!("Kind{n}")});
        api.post(CRDS, &crd).await.expect(201);
    }
    for _ in 0..1000 {
        let list = api.get("/apis/example.com/v1").await;
        if list.code == 200 && list.value()["resources"].as_array().unwrap().len() == 300 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not all are served");
}

#[tokio::test(start_paused = true)]
async fn rules_are_checked_and_their_mistakes_are_told() {
    let api = Api::start().await;
    let mut crd = definition(spec());
    let rules = json!([{"rule": "self.size >= oldSelf.size", "message": "size cannot shrink"},
        {"rule": "!has(self.replicas) || self.replicas < 100"}]);
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = rules;
    establish(&api, &crd).await;
    api.post(WIDGETS, &widget("a", json!({"size": 3}))).await.expect(201);
    let patch = json!({"spec": {"size": 2}});
    let answer = api.patch(&format!("{WIDGETS}/a"), "merge-patch", &patch).await;
    assert_eq!(answer.message(), "Widget.example.com \"a\" is invalid: spec: Invalid value: size cannot shrink");
    let answer = api.post(WIDGETS, &widget("b", json!({"size": 3, "replicas": 100}))).await;
    let words = "spec: Invalid value: failed rule: !has(self.replicas) || self.replicas < 100";
    assert_eq!(answer.message(), format!("Widget.example.com \"b\" is invalid: {words}"));
    let mut bad = crd.clone();
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.nope > 1"}]);
    let answer = api.send("POST", &format!("{CRDS}?dryRun=All"), &[], bad.to_string()).await;
    let message = answer.message();
    assert!(message.contains("undefined field 'nope'"), "{message}");
}
