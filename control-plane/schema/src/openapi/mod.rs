//! OpenAPI: what clients learn of the API's types and operations. Documents are made when they are asked for, from the
//! table and from `k8s-openapi` (which has the descriptions); nothing of them stays in memory.
//!
//! A client compares what it has with the hash in the index; so the hash covers the rows of the group version, and the
//! version of this crate.

mod paths;
pub mod protobuf;
mod schemas;

pub use schemas::{add_object_fields, of_kind as part_schema};

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::Registry;
use crate::resource::Resource;

/// `info.version` of every document: the level of the API.
const VERSION: &str = "v1.37.0";

/// The paths of the v3 index, each with its group and version: `apis/apps/v1`.
pub fn v3_paths(registry: &Registry) -> Vec<(String, String, String)> {
    let mut paths = Vec::new();
    for group in registry.groups() {
        for version in registry.versions(group) {
            paths.push((path_of(group, version), group.to_owned(), version.to_owned()));
        }
    }
    paths
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `GET /openapi/v3`.
pub fn v3_index(registry: &Registry) -> Value {
    let entry = |(path, group, version): (String, String, String)| {
        let hash = v3_hash(registry, &group, &version);
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path, json!({ "serverRelativeURL": url }))
    };
    let paths: Map<String, Value> = v3_paths(registry).into_iter().map(entry).collect();
    json!({ "paths": paths })
}

/// What tells one state of a group version's document from another; also its `ETag`.
pub fn v3_hash(registry: &Registry, group: &str, version: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(concat!(env!("CARGO_PKG_VERSION"), "/1"));
    for row in registry.resources(group, version) {
        hash.update(format!("{:?}{:?}{:?}", (&row.kind, &row.plural, &row.schema), row.verbs, row.subresources));
        if let Some(custom) = &row.custom {
            hash.update(custom.openapi_state());
        }
    }
    hex(hash)
}

/// The same of a document that no registry has.
pub fn v3_hash_of(document: &Value) -> String {
    hex(Sha256::new_with_prefix(document.to_string()))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `GET /openapi/v3/apis/{group}/{version}`; `None` if there is no such group version. The document of the core group
/// is 0.5 MB of JSON.
pub fn v3_document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let rows: Vec<_> = registry.resources(group, version).cloned().collect();
    if rows.is_empty() {
        return None;
    }
    Some(v3_document_of(&rows, &Map::new()))
}

/// The same for rows (of one group version) that no registry has; `own` are the schemas that only their maker knows, by name.
pub fn v3_document_of(rows: &[Arc<Resource>], own: &Map<String, Value>) -> Value {
    let paths: Map<String, Value> = rows.iter().flat_map(|row| paths::of_resource(row)).collect();
    let token = json!({ "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header" });
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": VERSION },
        "paths": paths,
        "components": { "schemas": schemas::of_rows(rows, own), "securitySchemes": { "BearerToken": token } },
    })
}

/// `GET /openapi/v2` as JSON: all groups in one document of Swagger 2.0.
pub fn v2(registry: &Registry) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    let custom = |name: &str| registry.iter().find(|row| row.custom.is_some() && row.schema == name);
    for (_, group, version) in v3_paths(registry) {
        let Some(mut document) = v3_document(registry, &group, &version) else { continue };
        if let Value::Object(schemas) = document["components"]["schemas"].take() {
            for (name, mut schema) in schemas {
                match custom(&name).and_then(|row| row.custom.as_ref()) {
                    Some(custom) => {
                        let kinds = schema["x-kubernetes-group-version-kind"].take();
                        schema = custom.openapi_v2();
                        schema["x-kubernetes-group-version-kind"] = kinds;
                    }
                    None => to_v2(&mut schema),
                }
                merge_kinds(&mut definitions, name, schema);
            }
        }
        if let Value::Object(of_group) = document["paths"].take() {
            paths.extend(of_group.into_iter().map(|(path, item)| (path, path_to_v2(item))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": VERSION },
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": { "BearerToken": { "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header" } },
        "security": [{ "BearerToken": [] }],
    })
}

/// A definition that several groups use (`DeleteOptions`) lists the kinds of all of them.
fn merge_kinds(definitions: &mut Map<String, Value>, name: String, schema: Value) {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    match definitions.get_mut(&name) {
        None => {
            definitions.insert(name, schema);
        }
        Some(known) => {
            let more = schema[KINDS].as_array().cloned().unwrap_or_default();
            if let Some(kinds) = known.get_mut(KINDS).and_then(Value::as_array_mut) {
                let new: Vec<_> = more.into_iter().filter(|kind| !kinds.contains(kind)).collect();
                kinds.extend(new);
            }
        }
    }
}

/// A schema of OpenAPI 3 in the form of Swagger 2: references elsewhere, no `allOf` around them, no `oneOf`.
fn to_v2(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            if let Some(Value::Array(mut parts)) = entries.remove("allOf")
                && let Some(Value::Object(part)) = parts.pop()
            {
                entries.extend(part);
            }
            if entries.remove("oneOf").is_some() {
                entries.insert("type".into(), "string".into());
            }
            if let Some(Value::String(reference)) = entries.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/definitions/");
            }
            for (key, value) in entries.iter_mut() {
                match (key.as_str(), value) {
                    // What is named here are properties, whatever words they use: JSONSchemaProps has "oneOf", too.
                    ("properties", Value::Object(properties)) => properties.values_mut().for_each(to_v2),
                    ("default" | "enum" | "example", _) => {}
                    (_, value) => to_v2(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(to_v2),
        _ => {}
    }
}

fn path_to_v2(mut item: Value) -> Value {
    let types = json!(["application/json", "application/yaml"]);
    for (method, operation) in item.as_object_mut().into_iter().flatten() {
        if method == "parameters" {
            parameters_to_v2(operation);
            continue;
        }
        let Value::Object(entries) = operation else { continue };
        if let Some(parameters) = entries.get_mut("parameters") {
            parameters_to_v2(parameters);
        }
        let mut consumes = vec!["*/*".to_owned()];
        let content = entries.get_mut("requestBody").map(|body| (body["required"].clone(), body["content"].take()));
        if let Some((required, Value::Object(content))) = content {
            entries.remove("requestBody");
            let schema = content.values().next().map(|c| c["schema"].clone()).unwrap_or_default();
            consumes = content.into_iter().map(|(kind, _)| kind).collect();
            let mut parameter = json!({ "name": "body", "in": "body", "required": required == true, "schema": schema });
            to_v2(&mut parameter);
            if let Some(parameters) = entries.entry("parameters").or_insert_with(|| json!([])).as_array_mut() {
                parameters.push(parameter);
            }
        }
        for (_, response) in entries.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten() {
            if let Some(Value::Object(content)) = response.as_object_mut().and_then(|r| r.remove("content")) {
                let mut schema = content.into_iter().next().map(|(_, c)| c["schema"].clone()).unwrap_or_default();
                to_v2(&mut schema);
                response["schema"] = schema;
            }
        }
        entries.insert("consumes".into(), json!(consumes));
        entries.insert("produces".into(), types.clone());
        entries.insert("schemes".into(), json!(["https"]));
    }
    item
}

/// In Swagger 2, a parameter has its type directly.
fn parameters_to_v2(parameters: &mut Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        if let Some(Value::Object(schema)) = parameter.as_object_mut().and_then(|p| p.remove("schema")) {
            parameter.as_object_mut().into_iter().for_each(|p| p.extend(schema.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
