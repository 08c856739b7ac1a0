//! Leases (`pkg/apis/coordination/validation`).

use serde_json::Value;

use super::checks::not_negative;
use super::json::{at, has, int, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy =
    Strategy { validate, validate_update: |new, _| validate(new), create_on_update: true, ..PLAIN };

fn validate(lease: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(lease, "spec"), Path::new("spec"));
    if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
        errors.push(Error::invalid(path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    not_negative(&mut errors, spec, &path, "leaseTransitions");
    if has(spec, "strategy") && text(spec, "strategy").is_empty() {
        errors.push(Error::invalid(path.child("strategy"), "", "must not be empty"));
    }
    errors
}
