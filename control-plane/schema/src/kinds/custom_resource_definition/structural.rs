//! What makes a schema structural: each field has a type, and what is said inside `allOf`, `anyOf`, `oneOf` and `not` is
//! about fields that are specified outside of them, and about their values only (apiextensions `apiserver/schema`).

use serde_json::Value;

use crate::custom::compile_pattern;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{list, text, truth};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// Everything that keeps a schema from being structural.
pub(crate) fn validate(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(schema, Level::Root, path, &mut errors);
    complete(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

/// What makes it impossible to read a schema as a structural one at all.
pub(super) fn unreadable(schema: &Value) -> Option<String> {
    let unsupported = [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ];
    let mut found = None;
    super::every(schema, &mut |schema| {
        let present = |name: &str| match &schema[name] {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Object(entries) => !entries.is_empty(),
            _ => true,
        };
        for (name, called) in unsupported {
            if found.is_none() && present(name) {
                found = Some(format!("OpenAPIV3Schema '{called}' is not supported"));
            }
        }
        if found.is_none() && schema["items"].is_array() {
            found = Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
        }
        if found.is_none() && schema[PRESERVE] == Value::Bool(false) {
            found = Some(format!("internal error: '{PRESERVE}' must be true or undefined"));
        }
    });
    found
}

fn properties<'a>(schema: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema[name].as_object().into_iter().flatten()
}

fn invariants(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    let kind = text(schema, "type");
    let items = &schema["items"];
    if kind == "array" && !items.is_object() {
        errors.push(Error::required(path.child("items"), "must be specified"));
    }
    if items.is_object() {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in properties(schema, "properties") {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() && level == Level::Root {
        errors.push(Error::forbidden(path.child("additionalProperties"), "must not be used at the root"));
    }
    if additional.is_object() {
        invariants(additional, Level::Field, &path.child("additionalProperties"), errors);
    }
    extensions(schema, path, errors);
    let skip_any_of = is_int_or_string(list(schema, "anyOf"));
    let skip_first = list(schema, "allOf").first().is_some_and(|first| is_int_or_string(list(first, "anyOf")));
    values(schema, skip_any_of, skip_first, path, errors);
    types(schema, kind, level, path, errors);
    metadata(schema, level, path, errors);
    let bare = properties(schema, "properties").next().is_none();
    if truth(schema, EMBEDDED) && !truth(schema, PRESERVE) && bare {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(path.child("properties"), why));
    }
}

fn types(schema: &Value, kind: &str, level: Level, path: &Path, errors: &mut ErrorList) {
    let field = path.child("type");
    let embedded = truth(schema, EMBEDDED);
    if embedded && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if kind.is_empty() { Error::required(field, why) } else { Error::invalid(field, kind, why) });
    } else if kind.is_empty() && !truth(schema, INT_OR_STRING) && !truth(schema, PRESERVE) {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(Error::required(field, why));
    }
    if embedded && !schema["additionalProperties"].is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(Error::forbidden(path.child("additionalProperties"), why));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(Error::invalid(path.child("type"), kind, "must be object at the root"));
    }
}

fn metadata(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    let meta = level == Level::Root || truth(schema, EMBEDDED);
    let at = |name: &str| path.child("properties").key(name);
    for name in ["kind", "apiVersion"] {
        if let Some(property) = schema["properties"].get(name).filter(|p| meta && text(p, "type") != "string") {
            errors.push(Error::invalid(at(name).child("type"), text(property, "type"), "must be string"));
        }
    }
    let Some(metadata) = schema["properties"].get("metadata") else { return };
    if meta && text(metadata, "type") != "object" {
        errors.push(Error::invalid(at("metadata").child("type"), text(metadata, "type"), "must be object"));
    }
    if level != Level::Root {
        return;
    }
    let named = properties(metadata, "properties").all(|(name, _)| matches!(name.as_str(), "name" | "generateName"));
    let more = metadata.as_object().into_iter().flatten().any(|(key, value)| {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        };
        !empty && !matches!(key.as_str(), "type" | "default" | "properties")
    });
    if !named || more {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(Error::forbidden(at("metadata"), why));
    }
}

fn extensions(schema: &Value, path: &Path, errors: &mut ErrorList) {
    for name in [PRESERVE, EMBEDDED] {
        if truth(schema, INT_OR_STRING) && truth(schema, name) {
            errors.push(Error::invalid(path.child(name), true, "must be false if x-kubernetes-int-or-string is true"));
        }
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, which stands beside `x-kubernetes-int-or-string`.
fn is_int_or_string(any_of: &[Value]) -> bool {
    let only = |schema: &Value, kind: &str| {
        schema.as_object().is_some_and(|entries| entries.len() == 1) && text(schema, "type") == kind
    };
    matches!(any_of, [first, second] if only(first, "integer") && only(second, "string"))
}

fn values(schema: &Value, skip_any_of: bool, skip_first: bool, path: &Path, errors: &mut ErrorList) {
    for (index, inner) in list(schema, "anyOf").iter().enumerate().filter(|_| !skip_any_of) {
        nested(inner, false, &path.child("anyOf").index(index), errors);
    }
    for (index, inner) in list(schema, "allOf").iter().enumerate() {
        nested(inner, skip_first && index == 0, &path.child("allOf").index(index), errors);
    }
    for (index, inner) in list(schema, "oneOf").iter().enumerate() {
        nested(inner, false, &path.child("oneOf").index(index), errors);
    }
    if schema["not"].is_object() {
        nested(&schema["not"], false, &path.child("not"), errors);
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(why) = compile_pattern(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: error parsing regexp: {why}");
        errors.push(Error::invalid(path.child("pattern"), pattern, why));
    }
}

fn nested(schema: &Value, skip_any_of: bool, path: &Path, errors: &mut ErrorList) {
    values(schema, skip_any_of, false, path, errors);
    if schema["items"].is_object() {
        nested(&schema["items"], false, &path.child("items"), errors);
    }
    for (name, property) in properties(schema, "properties") {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    let mut forbid = |name: &str, why: &str| {
        let set = match &schema[name] {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty() || name == "default",
            Value::Array(items) => !items.is_empty(),
            _ => true,
        };
        if set {
            errors.push(Error::forbidden(path.child(name), why));
        }
    };
    forbid("type", "must be empty to be structural");
    forbid("additionalProperties", "must be undefined to be structural");
    forbid("default", "must be undefined to be structural");
    forbid("title", "must be empty to be structural");
    forbid("description", "must be empty to be structural");
    for name in ["nullable", PRESERVE, EMBEDDED, INT_OR_STRING] {
        forbid(name, "must be false to be structural");
    }
    forbid("x-kubernetes-list-map-keys", "must be empty to be structural");
    forbid("x-kubernetes-list-type", "must be undefined to be structural");
    forbid("x-kubernetes-map-type", "must be undefined to be structural");
    forbid("x-kubernetes-validations", "must be empty to be structural");
    if schema["properties"].get("metadata").is_some() {
        let path = path.child("properties").key("metadata");
        errors.push(Error::forbidden(path, "must not be specified in a nested context"));
    }
}

/// Every field that `what` speaks of is specified in `schema`.
fn complete(what: &Value, schema: Option<&Value>, at: &Path, from: &Path, errors: &mut ErrorList) {
    if what["not"].is_object() {
        specified(&what["not"], schema, at, &from.child("not"), errors);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in list(what, junctor).iter().enumerate() {
            specified(inner, schema, at, &from.child(junctor).index(index), errors);
        }
    }
}

fn specified(what: &Value, schema: Option<&Value>, at: &Path, from: &Path, errors: &mut ErrorList) {
    let Some(schema) = schema.filter(|schema| schema.is_object()) else {
        errors.push(Error::required(at.clone(), format!("because it is defined in {from}")));
        return;
    };
    complete(what, Some(schema), at, from, errors);
    if what["items"].is_object() {
        specified(&what["items"], schema.get("items"), &at.child("items"), &from.child("items"), errors);
    }
    for (name, property) in properties(what, "properties") {
        let (at, from) = (at.child("properties").key(name), from.child("properties").key(name));
        match schema["properties"].get(name) {
            Some(schema) => specified(property, Some(schema), &at, &from, errors),
            None => errors.push(Error::required(at, format!("because it is defined in {from}"))),
        }
    }
}

/// The schema of a field, by its path (`.spec.a['b.c']`); `items` permits indices of lists.
pub(super) fn field_at<'a>(schema: &'a Value, path: &str, items: bool) -> Result<&'a Value, String> {
    let mut here = schema;
    let mut rest = path;
    if rest.is_empty() || !rest.starts_with(['.', '[']) {
        return Err(format!("expected '.' or '[' but got: {:?}", rest.chars().next().unwrap_or_default().to_string()));
    }
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (name, rest) = after.split_at(end);
            if name.is_empty() {
                return Err("unexpected end of JSON path".to_owned());
            }
        } else if let Some(after) = rest.strip_prefix("['") {
            let end = after.find("']").ok_or("unterminated path segment")?;
            name = &after[..end];
            rest = &after[end + 2..];
        } else {
            return Err(format!("expected '.' or '[' but got: {rest:?}"));
        }
        let property = here["properties"].get(name);
        let additional = Some(&here["additionalProperties"]).filter(|a| a.is_object());
        let item = Some(&here["items"]).filter(|i| i.is_object() && items && name.parse::<u32>().is_ok());
        here = property.or(additional).or(item).ok_or_else(|| format!("does not refer to a valid field: {name}"))?;
    }
    Ok(here)
}
