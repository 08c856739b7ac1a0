//! Reading stored objects without a type for each: by JSON pointer, empty where something is absent.

use serde_json::Value;

/// The string at `pointer` (RFC 6901); empty if there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `pointer`; empty if there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The strings of the list at `pointer`.
pub(crate) fn strings(value: &Value, pointer: &str) -> Vec<String> {
    list(value, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether the boolean at `pointer` is true.
pub(crate) fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The label or annotation `key` in the map at `pointer`: keys may contain slashes, so they are no part of it.
pub(crate) fn entry<'a>(value: &'a Value, pointer: &str, key: &str) -> Option<&'a str> {
    value.pointer(pointer)?.get(key)?.as_str()
}

/// The object `value[key]`, made if it is absent or null; `None` if `value` or what is there is no object.
pub(crate) fn object<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let slot = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(serde_json::Map::new());
    }
    slot.is_object().then_some(slot)
}

/// The list `value[key]`, made if it is absent or null; `None` if `value` is no object or what is there no list.
pub(crate) fn array<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    let slot = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

/// A stored object, decoded. What the server has stored is JSON; if it should be damaged, it reads as null.
pub(crate) fn decode(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}
