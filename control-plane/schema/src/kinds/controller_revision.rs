//! Controller revisions: snapshots of a template, which do not change.

use serde_json::Value;

use super::checks::{IMMUTABLE, not_negative};
use super::json::{at, same};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy { validate, validate_update, ..PLAIN };

fn validate(revision: &Value) -> ErrorList {
    let mut errors = Vec::new();
    if at(revision, "data").is_null() {
        errors.push(Error::required(Path::new("data"), "data is mandatory"));
    }
    not_negative(&mut errors, revision, &Path::default(), "revision");
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    if !same(at(new, "data"), at(old, "data")) {
        errors.push(Error::invalid(Path::new("data"), at(new, "data").clone(), IMMUTABLE));
    }
    errors
}
