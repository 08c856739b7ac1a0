//! Lists of types `set` and `map`: nothing in them is there twice (apiextensions `schema/listtype`).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};
use crate::field::{Error, ErrorList, Path};

/// Everything that is there twice.
pub(super) fn validate(schema: &Schema, value: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    check(schema, value, path, &mut errors);
    errors
}

fn check(schema: &Schema, value: &Value, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                if let Some(Additional::Schema(schema)) = &schema.additional_properties {
                    check(schema, value, &path.key(name), errors);
                }
                if let Some(property) = schema.properties.get(name) {
                    check(property, value, &path.child(name), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => {
                    let twice = repeated(items.iter().map(Value::to_string));
                    errors.extend(twice.into_iter().map(|at| Error::duplicate(path.index(at), items[at].clone())));
                }
                Some("map") => list_map(schema, items, path, errors),
                _ => {}
            }
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    check(schema, item, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn list_map(schema: &Schema, items: &[Value], path: &Path, errors: &mut ErrorList) {
    if let Some(at) = items.iter().position(|item| !item.is_object() && !item.is_null()) {
        let why = "must be an object for an array of list-type map";
        errors.push(Error::invalid(path.index(at), items[at].clone(), why));
        return;
    }
    let keys: Vec<Value> = items.iter().map(|item| key_of(&schema.list_map_keys, item)).collect();
    let twice = repeated(keys.iter().map(Value::to_string));
    errors.extend(twice.into_iter().map(|at| Error::duplicate(path.index(at), keys[at].clone())));
}

fn key_of(keys: &[String], item: &Value) -> Value {
    let fields = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    fields.collect::<Map<_, _>>().into()
}

/// The item of `old` that has the keys of `new`.
pub(super) fn counterpart<'a>(keys: &[String], old: &'a [Value], new: &Value) -> Option<&'a Value> {
    let wanted = key_of(keys, new);
    old.iter().find(|item| key_of(keys, item) == wanted)
}

/// The positions at which something comes for the second time.
fn repeated(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut second = Vec::new();
    for (at, text) in texts.enumerate() {
        let times = seen.entry(text).or_default();
        *times += 1;
        if *times == 2 {
            second.push(at);
        }
    }
    second
}
