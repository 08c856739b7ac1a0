//! Patches of an object: RFC 6902 ([`json_patch`]), RFC 7386 ([`merge_patch`]) and Kubernetes' strategic merge
//! ([`strategic_merge`]). Each gives the new object; what it is worth is for the verbs to see.

mod json;
mod strategic;

use serde_json::{Map, Value};

pub use json::{MAX_COPIED_BYTES, MAX_OPERATIONS};

use crate::resource::Resource;
use crate::status::Status;
use crate::types::Definition;

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is not a patch: 400.
    #[error("{0}")]
    Malformed(String),
    /// It is one, but cannot be applied to this object: 422.
    #[error("{0}")]
    Inapplicable(String),
    /// It does too much: 413.
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    /// The answer to the client, as upstream gives it: what is inapplicable is not explained.
    pub fn status(&self) -> Status {
        match self {
            Self::Malformed(text) => Status::bad_request(text),
            Self::Inapplicable(_) => {
                let message = "the server rejected our request due to an error in our request";
                Status::new(422, "Invalid", message)
            }
            Self::TooLarge(text) => Status::new(413, "RequestEntityTooLarge", text),
        }
    }
}

/// Applies the operations of RFC 6902 in order. As upstream, a negative index counts from the end of a list, and a
/// `test` for null passes where there is nothing.
///
/// # Errors
/// If `operations` is no list of operations, or one of them does not apply.
pub fn json_patch(current: &Value, operations: &Value) -> Result<Value, PatchError> {
    json::apply(current, operations)
}

/// Merges as RFC 7386 says: null deletes, objects merge, all else replaces.
///
/// # Errors
/// If `patch` is not an object.
pub fn merge_patch(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else { return Err(PatchError::Malformed("Invalid JSON Patch".into())) };
    let mut merged = current.clone();
    merge_into(&mut merged, patch);
    Ok(merged)
}

fn merge_into(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(entries) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                entries.remove(key);
            }
            Value::Object(inner) => merge_into(entries.entry(key.as_str()).or_insert(Value::Null), inner),
            other => {
                entries.insert(key.clone(), other.clone());
            }
        }
    }
}

/// Merges as the kind's schema says: lists of structs by their merge key, lists of scalars as sets, with the directives
/// `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and `$setElementOrder` (apimachinery `strategicpatch`).
///
/// # Errors
/// If `patch` is not an object or its directives are malformed.
pub fn strategic_merge(resource: &Resource, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    match resource.definition() {
        Some(definition) => strategic_merge_as(definition, current, patch),
        None => Err(PatchError::Malformed("strategic merge patch format is not supported".into())),
    }
}

/// [`strategic_merge`] for a kind that is not in the table.
///
/// # Errors
/// As [`strategic_merge`].
pub fn strategic_merge_as(definition: &Definition, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    strategic::apply(definition, current, patch)
}

#[cfg(test)]
mod tests;
