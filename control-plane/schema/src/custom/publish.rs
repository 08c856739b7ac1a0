//! What OpenAPI documents say of custom resources (apiextensions `controller/openapi/builder`).

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Custom;
use crate::kinds::json::{list, text, truth};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What is said of the fields that all kinds have: the same as of the built-in ones.
static NAMESPACE: LazyLock<Value> =
    LazyLock::new(|| Namespace::json_schema(&mut SchemaGenerator::default()).to_value());

fn description(field: &str) -> &'static Value {
    &NAMESPACE["properties"][field]["description"]
}

impl Custom {
    /// The schema as OpenAPI 3 has it.
    pub fn openapi_v3(&self) -> Value {
        if !self.published.is_object() {
            return json!({ "type": "object" });
        }
        let mut schema = unfold(&self.published);
        type_meta(&mut schema, false);
        embedded(&mut schema, false);
        self.selectable(&mut schema);
        schema
    }

    /// The schema as Swagger 2 has it, with references to definitions: simpler, and nothing in it that old clients stumble
    /// over.
    pub fn openapi_v2(&self) -> Value {
        let keeps = truth(&self.published, "x-kubernetes-preserve-unknown-fields") || self.preserve_unknown;
        let mut schema = json!({ "type": "object" });
        if self.published.is_object() && !keeps {
            schema = simplify(&self.published);
            type_meta(&mut schema, true);
            embedded(&mut schema, true);
        }
        self.selectable(&mut schema);
        schema
    }

    /// What tells one state of the documents from another.
    pub(crate) fn openapi_state(&self) -> String {
        format!("{}{:?}{}", self.published, self.labels, self.preserve_unknown)
    }

    fn selectable(&self, schema: &mut Value) {
        if !self.labels.is_empty() {
            let fields: Vec<Value> = self.labels.iter().map(|label| json!({ "fieldPath": label })).collect();
            schema["x-kubernetes-selectable-fields"] = fields.into();
        }
    }
}

fn reference(name: &str, v2: bool) -> Value {
    let description = description("metadata");
    if v2 {
        return json!({ "description": description, "$ref": format!("#/definitions/{META}.{name}") });
    }
    let reference = format!("#/components/schemas/{META}.{name}");
    json!({ "description": description, "allOf": [{ "$ref": reference }] })
}

fn type_meta(schema: &mut Value, v2: bool) {
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({ "type": "string", "description": description("apiVersion") });
    schema["properties"]["kind"] = json!({ "type": "string", "description": description("kind") });
    schema["properties"]["metadata"] = reference("ObjectMeta", v2);
}

/// Embedded objects have a kind and metadata, too.
fn embedded(schema: &mut Value, v2: bool) {
    let Some(entries) = schema.as_object_mut() else { return };
    for (name, value) in entries.iter_mut() {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(|s| embedded(s, v2)),
            ("items" | "additionalProperties", inner) => embedded(inner, v2),
            _ => {}
        }
    }
    let keeps = truth(schema, "x-kubernetes-preserve-unknown-fields");
    if !truth(schema, "x-kubernetes-embedded-resource") || (v2 && keeps) {
        return;
    }
    type_meta(schema, v2);
    let mut required: Vec<Value> = list(schema, "required").to_vec();
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|r| r == name) {
            required.push(name.into());
        }
    }
    schema["required"] = required.into();
}

/// Says of int-or-string values what they are.
fn unfold(schema: &Value) -> Value {
    let Value::Object(entries) = schema else { return schema.clone() };
    let mut out: Map<String, Value> = entries
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let value = match (name.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    properties.iter().map(|(name, schema)| (name.clone(), unfold(schema))).collect::<Map<_, _>>().into()
                }
                ("items" | "additionalProperties", inner) => unfold(inner),
                (_, other) => other.clone(),
            };
            (name.clone(), value)
        })
        .collect();
    let known = !list(schema, "anyOf").is_empty() || !list(schema, "allOf").is_empty();
    if truth(schema, "x-kubernetes-int-or-string") && !known {
        out.insert("anyOf".into(), json!([{ "type": "integer" }, { "type": "string" }]));
    }
    out.into()
}

/// A schema without what Swagger 2 does not have.
fn simplify(schema: &Value) -> Value {
    const DROPPED: [&str; 6] = ["allOf", "anyOf", "oneOf", "not", "nullable", "example"];
    let Value::Object(entries) = schema else { return schema.clone() };
    let nullable = truth(schema, "nullable");
    let keeps = truth(schema, "x-kubernetes-preserve-unknown-fields");
    let untyped_list = text(schema, "type") == "array" && (keeps || !schema["items"].is_object());
    let mut out = Map::new();
    for (name, value) in entries.iter().filter(|(name, value)| !value.is_null() && !DROPPED.contains(&name.as_str())) {
        let value = match (name.as_str(), value) {
            ("type", _) if nullable || untyped_list || (keeps && value == "object") => continue,
            ("items" | "properties", _) if nullable || keeps => continue,
            ("properties", Value::Object(properties)) => {
                properties.iter().map(|(name, schema)| (name.clone(), simplify(schema))).collect::<Map<_, _>>().into()
            }
            ("items" | "additionalProperties", inner) => simplify(inner),
            ("required", Value::Array(names)) => required(schema, names),
            (_, other) => other.clone(),
        };
        out.insert(name.clone(), value);
    }
    if out.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        out.remove("required");
    }
    out.into()
}

/// What must be there, and may not be null.
fn required(schema: &Value, names: &[Value]) -> Value {
    if truth(&schema["additionalProperties"], "nullable") {
        return json!([]);
    }
    let stays = |name: &&Value| {
        let property = name.as_str().and_then(|name| schema["properties"].get(name));
        !property.is_some_and(|property| truth(property, "nullable"))
    };
    names.iter().filter(stays).cloned().collect()
}
