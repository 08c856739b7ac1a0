//! Config maps (`pkg/apis/core/validation`).

use serde_json::Value;

use super::checks::{config_key_problems, report};
use super::json::{at, entries, same, truth};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy { validate, validate_update, ..PLAIN };

/// How many bytes of values a config map or a secret may have.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

fn validate(map: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let mut total = 0;
    for (key, value) in entries(map, "data") {
        let path = Path::new("data").key(key);
        report(&mut errors, &path, key, config_key_problems(key));
        if at(map, "binaryData").get(key).is_some() {
            errors.push(Error::invalid(path, key, "duplicate of key present in binaryData"));
        }
        total += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(map, "binaryData") {
        report(&mut errors, &Path::new("binaryData").key(key), key, config_key_problems(key));
        total += decoded_len(value);
    }
    if total > MAX_BYTES {
        errors.push(Error::too_long(Path::new(""), MAX_BYTES));
    }
    errors
}

/// How many bytes a base64 string stands for.
pub(super) fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take(2).filter(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    check_immutable(&mut errors, new, old, &["data", "binaryData"]);
    errors
}

/// What was declared immutable stays so, and as it is.
pub(super) fn check_immutable(errors: &mut ErrorList, new: &Value, old: &Value, fields: &[&str]) {
    if !truth(old, "immutable") {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !truth(new, "immutable") {
        errors.push(Error::forbidden(Path::new("immutable"), detail));
    }
    for field in fields {
        if !same(at(new, field), at(old, field)) {
            errors.push(Error::forbidden(Path::new(*field), detail));
        }
    }
}
