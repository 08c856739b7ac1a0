//! Reading and filling in JSON objects by dotted paths, with absent and null taken alike, as Go's zero values are.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The value at a dotted path; null when any step is absent.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(value, |v, key| v.get(key)).unwrap_or(&NULL)
}

/// The string at a path; empty when absent.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The integer at a path.
pub(crate) fn int(value: &Value, path: &str) -> Option<i64> {
    at(value, path).as_i64()
}

/// Whether the boolean at a path is true.
pub(crate) fn truth(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or_default()
}

/// The list at a path; empty when absent.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The entries of the map at a path, in order of their keys.
pub(crate) fn entries<'a>(value: &'a Value, path: &str) -> Vec<(&'a str, &'a Value)> {
    let mut out: Vec<_> = at(value, path).as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v)).collect();
    out.sort_by_key(|(k, _)| *k);
    out
}

/// Whether a path holds something.
pub(crate) fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// The object at a dotted path, for changing; `None` when a step is absent.
pub(crate) fn object_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut here = value;
    for key in path.split('.').filter(|k| !k.is_empty()) {
        here = here.get_mut(key)?;
    }
    here.as_object_mut()
}

/// The items of the list at a dotted path, for changing.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &str) -> &'a mut [Value] {
    let mut here = value;
    for key in path.split('.') {
        match here.get_mut(key) {
            Some(next) => here = next,
            None => return &mut [],
        }
    }
    here.as_array_mut().map_or(&mut [], Vec::as_mut_slice)
}

/// Sets a field of an object that is absent or null. Does nothing to what is not an object.
pub(crate) fn default_to(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Some(object) = value.as_object_mut()
        && object.get(key).is_none_or(Value::is_null)
    {
        object.insert(key.to_owned(), to.into());
    }
}

/// Sets a string field that is absent, null or empty: the Go types whose zero value is the empty string.
pub(crate) fn default_text(value: &mut Value, key: &str, to: &str) {
    if let Some(object) = value.as_object_mut()
        && object.get(key).is_none_or(|v| v.is_null() || v == "")
    {
        object.insert(key.to_owned(), to.into());
    }
}

/// Sets a number field that is absent, null or zero: the Go types whose zero value means unset.
pub(crate) fn default_int(value: &mut Value, key: &str, to: i64) {
    if let Some(object) = value.as_object_mut()
        && object.get(key).is_none_or(|v| v.is_null() || v == 0)
    {
        object.insert(key.to_owned(), to.into());
    }
}

/// Changes a field, if it is there.
pub(crate) fn within(value: &mut Value, key: &str, change: impl FnOnce(&mut Value)) {
    if let Some(field) = value.get_mut(key) {
        change(field);
    }
}

/// Makes `new[key]` what `old[key]` is, absent included.
pub(crate) fn carry_over(new: &mut Value, old: &Value, key: &str) {
    if let Some(object) = new.as_object_mut() {
        match old.get(key) {
            Some(value) => object.insert(key.to_owned(), value.clone()),
            None => object.remove(key),
        };
    }
}

/// Sets a field.
pub(crate) fn set(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Some(object) = value.as_object_mut() {
        object.insert(key.to_owned(), to.into());
    }
}

/// Removes a field.
pub(crate) fn unset(value: &mut Value, key: &str) {
    if let Some(object) = value.as_object_mut() {
        object.remove(key);
    }
}

/// Two values that the API holds equal: null, absent, empty lists and empty maps are one (Go's `equality.Semantic`).
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => x
            .keys()
            .chain(y.keys())
            .all(|key| same(x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null))),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        _ => a == b || (empty(a) && empty(b)),
    }
}
