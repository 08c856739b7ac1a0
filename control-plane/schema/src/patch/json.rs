//! RFC 6902.

use serde_json::{Map, Value};

use super::PatchError;
use crate::decode::MAX_DEPTH;

/// How many operations a patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// How much the `copy` operations of a patch may add, in bytes of JSON.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

fn inapplicable(text: impl Into<String>) -> PatchError {
    PatchError::Inapplicable(text.into())
}

pub(super) fn apply(current: &Value, operations: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = operations else {
        let kind = if operations.is_object() { "object" } else { "value" };
        let text = format!("json: cannot unmarshal {kind} into Go value of type jsonpatch.Patch");
        return Err(PatchError::Malformed(text));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut document = current.clone();
    let mut copied = 0;
    for operation in operations {
        let Value::Object(operation) = operation else {
            let text = "json: cannot unmarshal value into Go value of type jsonpatch.Operation";
            return Err(PatchError::Malformed(text.into()));
        };
        step(&mut document, operation, &mut copied)?;
    }
    Ok(document)
}

fn step(document: &mut Value, operation: &Map<String, Value>, copied: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = text("op").unwrap_or_default();
    let pointer = |name: &str| {
        let path = text(name).ok_or_else(|| inapplicable(format!("{kind} operation has no {name}")))?;
        parse(path)
    };
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => add(document, &pointer("path")?, value()),
        "remove" => remove(document, &pointer("path")?).map(|_| ()),
        "replace" => {
            let path = pointer("path")?;
            match find_mut(document, &path) {
                Some(target) => {
                    let value = value();
                    check_depth(&path, &value)?;
                    *target = value;
                    Ok(())
                }
                None => Err(inapplicable(format!(
                    "replace operation does not apply: doc is missing key: /{}",
                    path.join("/")
                ))),
            }
        }
        "move" => {
            let (from, path) = (pointer("from")?, pointer("path")?);
            let moved = remove(document, &from)?;
            add(document, &path, moved)
        }
        "copy" => {
            let (from, path) = (pointer("from")?, pointer("path")?);
            let found = find_mut(document, &from).cloned();
            let found = found.ok_or_else(|| inapplicable("copy operation does not apply: doc is missing from path"))?;
            *copied += found.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(inapplicable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                )));
            }
            add(document, &path, found)
        }
        "test" => {
            let path = pointer("path")?;
            let found = find_mut(document, &path).map_or(Value::Null, |v| v.clone());
            if same(&found, &value()) {
                Ok(())
            } else {
                Err(inapplicable(format!("testing value /{} failed", path.join("/"))))
            }
        }
        other => Err(inapplicable(format!("Unexpected kind: {other}"))),
    }
}

/// Equality of JSON values: `1` and `1.0` are the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// The segments of a JSON pointer (RFC 6901).
fn parse(pointer: &str) -> Result<Vec<String>, PatchError> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let rest = pointer.strip_prefix('/').ok_or_else(|| inapplicable(format!("{pointer:?} is no JSON pointer")))?;
    Ok(rest.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect())
}

/// The position that a segment names in a list of `length`; a negative one counts from the end.
fn position(segment: &str, length: usize) -> Option<usize> {
    match segment.strip_prefix('-') {
        Some(back) => length.checked_sub(back.parse().ok()?),
        None => segment.parse().ok(),
    }
}

fn find_mut<'a>(document: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |value, segment| match value {
        Value::Object(entries) => entries.get_mut(segment),
        Value::Array(items) => {
            let at = position(segment, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    })
}

/// Whether a value nests no deeper than `levels`.
fn fits(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|v| fits(v, levels - 1)),
        Value::Object(entries) => levels > 0 && entries.values().all(|v| fits(v, levels - 1)),
        _ => true,
    }
}

/// What could not be decoded again must not come about.
fn check_depth(path: &[String], value: &Value) -> Result<(), PatchError> {
    let fits = MAX_DEPTH.checked_sub(path.len()).is_some_and(|levels| fits(value, levels));
    if fits { Ok(()) } else { Err(inapplicable("exceeded max depth")) }
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
    check_depth(path, &value)?;
    let Some((last, parents)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    let missing = || inapplicable(format!("add operation does not apply: doc is missing path: /{}", path.join("/")));
    match find_mut(document, parents).ok_or_else(missing)? {
        Value::Object(entries) => {
            entries.insert(last.clone(), value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            // Behind the last item is a place, too: -1 names it.
            let at = position(last, items.len() + 1)
                .filter(|at| *at <= items.len())
                .ok_or_else(|| inapplicable(format!("Unable to access invalid index: {last}")))?;
            items.insert(at, value);
        }
        _ => return Err(missing()),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, PatchError> {
    let missing = || inapplicable(format!("Unable to remove nonexistent key: /{}", path.join("/")));
    let (last, parents) = path.split_last().ok_or_else(missing)?;
    match find_mut(document, parents).ok_or_else(missing)? {
        Value::Object(entries) => entries.remove(last).ok_or_else(missing),
        Value::Array(items) => {
            let at = position(last, items.len()).filter(|at| *at < items.len()).ok_or_else(missing)?;
            Ok(items.remove(at))
        }
        _ => Err(missing()),
    }
}
