use super::*;
use crate::types::{self, Node, Scalar, Shape};

fn document(group: &str) -> Value {
    v3_document(&Registry::builtin(), group, "v1").unwrap()
}

#[test]
fn the_index_leads_to_the_documents() {
    let registry = Registry::builtin();
    let index = v3_index(&registry);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", v3_hash(&registry, "apps", "v1")));
    assert_eq!(v3_hash(&registry, "apps", "v1").len(), 64);
    assert_ne!(v3_hash(&registry, "apps", "v1"), v3_hash(&registry, "batch", "v1"));
    assert!(v3_document(&registry, "apps", "v2").is_none());
}

/// What kubectl looks for before it sends a request.
#[test]
fn kubectl_finds_what_it_needs() {
    let document = document("apps");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let spec = &deployment["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
    assert!(spec["description"].as_str().is_some_and(|d| !d.is_empty()));
    assert_eq!(deployment["required"], json!(["spec"]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(document["paths"].get("/apis/apps/v1/deployments").is_some());
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["put"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["group"], "autoscaling");
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            found.extend(entries.get("$ref").and_then(Value::as_str).map(str::to_owned));
            entries.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let registry = Registry::builtin();
    for (path, group, version) in v3_paths(&registry) {
        let document = v3_document(&registry, &group, &version).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{path}: {reference}"));
            assert!(document["components"]["schemas"].get(name).is_some(), "{path}: {name}");
        }
    }
    let v2 = v2(&registry);
    let mut found = Vec::new();
    references(&v2, &mut found);
    for reference in found {
        let name = reference.strip_prefix("#/definitions/").unwrap_or_else(|| panic!("{reference}"));
        assert!(v2["definitions"].get(name).is_some(), "{name}");
    }
    assert_eq!(v2["swagger"], "2.0");
    let delete = &v2["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    assert!(delete["x-kubernetes-group-version-kind"].as_array().unwrap().len() > 5);
}

/// The schema of schemas has properties called as what Swagger 2 lacks.
#[test]
fn properties_keep_their_names_in_v2() {
    let v2 = v2(&Registry::builtin());
    let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let properties = v2["definitions"][name]["properties"].as_object().unwrap();
    assert!(properties.contains_key("oneOf") && properties.contains_key("allOf"));
    assert!(properties.values().all(Value::is_object), "{properties:?}");
}

#[test]
fn operations_have_ids_of_their_own() {
    let v2 = v2(&Registry::builtin());
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in v2["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Some(id) = operation.get("operationId").and_then(Value::as_str) {
                assert!(ids.insert(id.to_owned()), "{method} {path}: {id} is there twice");
            }
        }
    }
    assert!(ids.len() > 150);
}

/// The facts in `data/types.txt` and `k8s-openapi` describe the same types.
#[test]
fn the_facts_agree_with_k8s_openapi() {
    let registry = Registry::builtin();
    let mut compared = 0;
    for (_, group, version) in v3_paths(&registry) {
        let document = v3_document(&registry, &group, &version).unwrap();
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { continue };
            let definition = types::definition(name).unwrap_or_else(|| panic!("{name} is not in types.txt"));
            let mut theirs: Vec<&str> = properties.keys().map(String::as_str).collect();
            theirs.sort_unstable();
            let ours: Vec<&str> = definition.fields.iter().map(|f| f.name.as_ref()).collect();
            assert_eq!(ours, theirs, "{name}");
            for field in &definition.fields {
                agree(&format!("{name}.{}", field.name), &field.node, &properties[field.name.as_ref()]);
                compared += 1;
            }
        }
    }
    assert!(compared > 1500, "{compared}");
}

fn agree(what: &str, node: &Node, schema: &Value) {
    let reference = schema["allOf"][0]["$ref"].as_str().map(|r| r.rsplit('/').next().unwrap());
    match &node.shape {
        Shape::List(item) => {
            assert_eq!(schema["type"], "array", "{what}");
            agree(what, item, &schema["items"]);
        }
        Shape::Map(value) => {
            assert_eq!(schema["type"], "object", "{what}");
            agree(what, value, &schema["additionalProperties"]);
        }
        Shape::Reference(definition) => assert_eq!(reference, Some(definition.definition().name.as_ref()), "{what}"),
        Shape::Object(_) => panic!("{what} has no definition"),
        Shape::Scalar(scalar) => {
            let kind = reference.map_or("", |r| r.rsplit('.').next().unwrap());
            let agrees = match scalar {
                Scalar::String => schema["type"] == "string" && schema.get("format").is_none(),
                Scalar::Bytes => schema["format"] == "byte",
                Scalar::Int32 => schema["format"] == "int32",
                Scalar::Int64 => schema["format"] == "int64",
                Scalar::Double => schema["type"] == "number",
                Scalar::Bool => schema["type"] == "boolean",
                Scalar::Time => kind == "Time",
                Scalar::MicroTime => kind == "MicroTime",
                Scalar::Quantity => kind == "Quantity",
                Scalar::IntOrString => kind == "IntOrString",
                Scalar::Raw => matches!(kind, "RawExtension" | "FieldsV1" | "Patch"),
                Scalar::Any => true,
            };
            assert!(agrees, "{what}: {scalar:?} against {schema}");
        }
    }
}
