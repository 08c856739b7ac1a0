//! Visitors over an object and its schema: does it decode ([`check_types`]), which of its fields are unknown
//! ([`unknown_fields`]), and the form in which it is kept ([`prune`]).
//!
//! The words are those of upstream's decoder (`sigs.k8s.io/json`, a Go `encoding/json` that minds the case of names).
//! In Go an error names the innermost struct and the path of field names; list indices and map keys are not in it.

mod scalar;
mod time;

use serde_json::{Map, Value};

pub use time::{parse_micro_time, parse_time};

use crate::resource::Resource;
use crate::types::{Definition, Node, Shape};

/// Whether the object can be decoded. It names the first field of a wrong type, in sorted order of fields.
///
/// # Errors
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
pub fn check_types(resource: &Resource, object: &Value) -> Result<(), String> {
    if let Some(custom) = &resource.custom {
        return custom.check(object);
    }
    resource.definition().map_or(Ok(()), |definition| check(definition, object))
}

/// [`check_types`] for a kind that is not in the table: a subresource's, or `DeleteOptions`.
///
/// # Errors
/// As [`check_types`].
pub fn check(definition: &Definition, object: &Value) -> Result<(), String> {
    let mut context = Context { owner: "", path: Vec::new() };
    let Err(error) = context.object(definition, object) else { return Ok(()) };
    let (found, expected) = match error {
        Error::Type { found, expected } => (found, expected),
        Error::Struct { found, expected } => (found.to_owned(), expected),
        Error::Value(text) => return Err(text),
    };
    if context.path.is_empty() {
        // There is no field to name.
        return Err(format!("json: cannot unmarshal {found} into Go value of type {expected}"));
    }
    let (owner, path) = (context.owner, context.path.join("."));
    Err(format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}"))
}

/// [`check`] for an object that was put together from values, not decoded: a strategic merge patch's. Upstream restores
/// it by other means (`runtime.DefaultUnstructuredConverter`), and these name no field.
///
/// # Errors
/// `unrecognized type: int32`.
pub fn check_restored(definition: &Definition, object: &Value) -> Result<(), String> {
    let mut context = Context { owner: "", path: Vec::new() };
    context.object(definition, object).map_err(|error| match error {
        Error::Type { found, expected } => not_restored(&found, &expected),
        Error::Struct { found, .. } => format!("cannot restore struct from: {}", restored_kind(found)),
        Error::Value(text) => text,
    })
}

/// Why a value is not made one of a Go type that is no struct.
fn not_restored(found: &str, expected: &str) -> String {
    let kind = restored_kind(found);
    if expected.starts_with("[]") {
        return format!("cannot restore slice from {kind}");
    }
    if expected.starts_with("map[") {
        return format!("cannot restore map from {kind}");
    }
    match expected {
        "bool" => "unrecognized type: bool".to_owned(),
        // Go can convert one number to another, and an integer to a string; it is not done, but told so.
        expected if matches!(kind, "int64" | "float64") => format!("cannot convert {kind} to {expected}"),
        "int32" | "int64" | "float64" => format!("unrecognized type: {expected}"),
        // All other scalars are strings with a name.
        _ => "unrecognized type: string".to_owned(),
    }
}

/// Go's kind of what a JSON value was read into.
fn restored_kind(found: &str) -> &str {
    match found.split_once(' ') {
        Some((_, number)) if number.contains(['.', 'e', 'E']) => "float64",
        Some(_) => "int64",
        None => match found {
            "number" => "int64",
            "object" => "map",
            "array" => "slice",
            other => other,
        },
    }
}

enum Error {
    /// The JSON type is not that of the Go type.
    Type { found: String, expected: String },
    /// The same, of a struct.
    Struct { found: &'static str, expected: String },
    /// The type's own reading failed, with these words.
    Value(String),
}

/// Where an error is; left as it is where the first one happened.
struct Context<'a> {
    /// The innermost struct's name.
    owner: &'a str,
    path: Vec<&'a str>,
}

impl<'a> Context<'a> {
    fn object(&mut self, definition: &'a Definition, value: &Value) -> Result<(), Error> {
        let Value::Object(entries) = value else {
            let package = definition.name.rsplit('.').nth(1).unwrap_or_default();
            let expected = format!("{package}.{}", definition.go_name());
            return Err(Error::Struct { found: go_kind(value), expected });
        };
        for field in &definition.fields {
            let Some(value) = entries.get(field.name.as_ref()) else { continue };
            let owner = std::mem::replace(&mut self.owner, definition.go_name());
            self.path.push(&field.name);
            self.node(&field.node, field.go_type, value)?;
            self.path.pop();
            self.owner = owner;
        }
        Ok(())
    }

    fn node(&mut self, node: &'a Node, go_type: Option<&str>, value: &Value) -> Result<(), Error> {
        match (&node.shape, value) {
            // To Go, null is an absent field or a zero value.
            (_, Value::Null) => Ok(()),
            (Shape::Scalar(scalar), value) => scalar::check(*scalar, go_type, value),
            (Shape::List(item), Value::Array(items)) => {
                items.iter().try_for_each(|value| self.node(item, go_type.and_then(|t| t.strip_prefix("[]")), value))
            }
            (Shape::Map(item), Value::Object(entries)) => {
                entries.values().try_for_each(|value| self.node(item, None, value))
            }
            (Shape::Reference(_) | Shape::Object(_), value) => match node.definition() {
                Some(definition) => self.object(definition, value),
                None => Ok(()),
            },
            (Shape::List(_) | Shape::Map(_), value) => {
                wrong_type(value, go_type.map_or_else(|| node.go_type(), str::to_owned))
            }
        }
    }
}

fn wrong_type(value: &Value, expected: impl Into<String>) -> Result<(), Error> {
    Err(Error::Type { found: go_kind(value).to_owned(), expected: expected.into() })
}

/// What Go calls a JSON value in its errors.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `unknown field "spec.foo"`, for each field that the kind does not have.
pub fn unknown_fields(resource: &Resource, object: &Value) -> Vec<String> {
    if let Some(custom) = &resource.custom {
        let unknown = custom.coerce(&mut object.clone()).unwrap_or_default();
        return unknown.into_iter().map(|name| format!("unknown field \"{name}\"")).collect();
    }
    resource.definition().map_or_else(Vec::new, |definition| unknown(definition, object))
}

/// [`unknown_fields`] for a kind that is not in the table.
pub fn unknown(definition: &Definition, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Value::Object(entries) = object {
        unknown_in_object(definition, entries, &mut String::new(), &mut found);
    }
    found
}

fn unknown_in_object(
    definition: &Definition,
    entries: &Map<String, Value>,
    path: &mut String,
    found: &mut Vec<String>,
) {
    let here = path.len();
    for (name, value) in entries {
        if here > 0 {
            path.push('.');
        }
        path.push_str(name);
        match definition.field(name) {
            Some(field) => unknown_in_node(&field.node, value, path, found),
            None if definition.preserve_unknown => {}
            None => found.push(format!("unknown field {path:?}")),
        }
        path.truncate(here);
    }
}

fn unknown_in_node(node: &Node, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let here = path.len();
    match (&node.shape, value) {
        (Shape::List(item), Value::Array(items)) => {
            for (index, value) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                unknown_in_node(item, value, path, found);
                path.truncate(here);
            }
        }
        (Shape::Map(item), Value::Object(entries)) => {
            for (key, value) in entries {
                path.push('.');
                path.push_str(key);
                unknown_in_node(item, value, path, found);
                path.truncate(here);
            }
        }
        (_, Value::Object(entries)) => {
            if let Some(definition) = node.definition() {
                unknown_in_object(definition, entries, path, found);
            }
        }
        _ => {}
    }
}

/// Brings a decodable object into the form in which it is kept: without unknown fields and nulls, quantities and
/// times canonical. An object that [`check_types`] refuses keeps what is wrong with it.
pub fn prune(resource: &Resource, object: &mut Value) {
    if let Some(custom) = &resource.custom {
        // What cannot be read stays as it is.
        let _ = custom.coerce(object);
        return;
    }
    if let Some(definition) = resource.definition() {
        prune_as(definition, object);
    }
}

/// [`prune`] for a kind that is not in the table.
pub fn prune_as(definition: &Definition, object: &mut Value) {
    let Value::Object(entries) = object else { return };
    entries.retain(|name, value| match definition.field(name) {
        _ if value.is_null() => false,
        Some(field) => {
            prune_node(&field.node, value);
            true
        }
        None => definition.preserve_unknown,
    });
}

fn prune_node(node: &Node, value: &mut Value) {
    match (&node.shape, value) {
        (Shape::Scalar(scalar), value) => scalar::canonicalise(*scalar, value),
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| prune_element(item, value)),
        (Shape::Map(item), Value::Object(entries)) => {
            entries.iter_mut().for_each(|(_, value)| prune_element(item, value));
        }
        (_, value) => {
            if let Some(definition) = node.definition() {
                prune_as(definition, value);
            }
        }
    }
}

/// A null in a list or map is its type's zero value.
fn prune_element(node: &Node, value: &mut Value) {
    if value.is_null() {
        *value = match &node.shape {
            Shape::Scalar(scalar) => scalar::zero(*scalar),
            Shape::List(_) => Value::Null,
            Shape::Map(_) | Shape::Reference(_) | Shape::Object(_) => Value::Object(Map::new()),
        };
    }
    prune_node(node, value);
}

#[cfg(test)]
mod tests;
