//! Embedded objects (`x-kubernetes-embedded-resource`) have a kind and valid metadata, as all objects have
//! (apiextensions `schema/objectmeta`).

use serde_json::Value;

use super::schema::{Additional, Schema};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::dns1035_label_problems;
use crate::resource::NameRule;
use crate::validate;

/// Everything that is wrong with embedded objects; with `root`, the value itself is one.
pub(super) fn validate(schema: &Schema, root: bool, value: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    check(schema, root, value, path, &mut errors);
    errors
}

fn check(schema: &Schema, root: bool, value: &Value, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(entries) => {
            if root || schema.embedded {
                embedded(value, path, errors);
            }
            for (name, value) in entries {
                match (schema.properties.get(name), &schema.additional_properties) {
                    (Some(property), _) => check(property, false, value, &path.child(name), errors),
                    (None, Some(Additional::Schema(schema))) => check(schema, false, value, &path.key(name), errors),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for (index, item) in items.iter().enumerate() {
                check(schema, false, item, &path.index(index), errors);
            }
        }
        _ => {}
    }
}

fn embedded(value: &Value, path: &Path, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        let field = path.child(name);
        match &value[name] {
            Value::Null if value.get(name).is_none() => errors.push(Error::required(field, "")),
            Value::String(text) if text.is_empty() => errors.push(Error::invalid(field, "", "must not be empty")),
            Value::String(text) if name == "apiVersion" && text.matches('/').count() > 1 => {
                errors.push(Error::invalid(field, text.as_str(), format!("unexpected GroupVersion string: {text}")));
            }
            Value::String(text) if name == "kind" => {
                let problems = dns1035_label_problems(&text.to_lowercase());
                if !problems.is_empty() {
                    let why = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
                    errors.push(Error::invalid(field, text.as_str(), why));
                }
            }
            Value::String(_) => {}
            other => errors.push(Error::invalid(field, other.clone(), "must be a string")),
        }
    }
    if value["metadata"].is_object() {
        let mut object = serde_json::json!({ "metadata": value["metadata"] });
        if object["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            object["metadata"]["name"] = "fakename".into();
        }
        let namespaced = !object["metadata"]["namespace"].as_str().unwrap_or_default().is_empty();
        errors.extend(validate::metadata_at(&path.child("metadata"), NameRule::PathSegment, namespaced, &object));
    }
}
