//! Limit ranges (`pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::checks::{qualified_name_problems, report};
use super::json::{at, default_to, entries, list, list_mut, text, within};
use super::pod_spec::canonical_quantities;
use crate::field::{Error, ErrorList, Path};
use crate::quantity::Quantity;
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy { default, validate, validate_update: |new, _| validate(new), ..PLAIN };

/// What can be limited.
const STANDARD: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

/// A container's default limit is the maximum; its default request is the default limit, else the minimum.
fn default(range: &mut Value) {
    for item in list_mut(range, "spec.limits") {
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(quantities) = item.get_mut(key) {
                canonical_quantities(quantities);
            }
        }
        if text(item, "type") == "Container" {
            fill(item, "default", "max");
            fill(item, "defaultRequest", "default");
            fill(item, "defaultRequest", "min");
        }
    }
}

fn fill(item: &mut Value, key: &str, from: &str) {
    let Some(source) = at(item, from).as_object().filter(|s| !s.is_empty()).cloned() else { return };
    default_to(item, key, json!({}));
    for (name, amount) in source {
        within(item, key, |v| default_to(v, &name, amount));
    }
}

fn validate(range: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let mut kinds = BTreeSet::new();
    for (index, item) in list(range, "spec.limits").iter().enumerate() {
        let path = Path::new("spec.limits").index(index);
        let kind = text(item, "type");
        let problems = qualified_name_problems(kind);
        if problems.is_empty() && !kind.contains('/') && !STANDARD.contains(&kind) {
            let detail = "must be a standard limit type or fully qualified";
            errors.push(Error::invalid(path.child("type"), kind, detail));
        }
        report(&mut errors, &path.child("type"), kind, problems);
        if !kinds.insert(kind) {
            errors.push(Error::duplicate(path.child("type"), kind));
        }
        if kind == "Pod" {
            for key in ["default", "defaultRequest"] {
                if !entries(item, key).is_empty() {
                    let detail = "may not be specified when `type` is 'Pod'";
                    errors.push(Error::forbidden(path.child(key), detail));
                }
            }
        }
        let storage = |key: &str| at(item, key).get("storage").is_some();
        if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(Error::required(path.child("limits"), detail));
        }
        check_order(&mut errors, item, &path);
        check_ratio(&mut errors, item, &path.child("maxLimitRequestRatio"));
    }
    errors
}

/// How far limit and request may be apart: never less than not at all, nor more than the bounds leave room for.
fn check_ratio(errors: &mut ErrorList, item: &Value, path: &Path) {
    for (name, value) in entries(item, "maxLimitRequestRatio") {
        let Some(ratio) = Quantity::of_json(value) else { continue };
        if ratio.nano() < 1_000_000_000 {
            let detail = format!("ratio {ratio} is less than 1");
            errors.push(Error::invalid(path.key(name), ratio.to_string(), detail));
        }
        let bound = |key: &str| at(item, key).get(name).and_then(Quantity::of_json).map(|q| q.nano() as f64);
        if let (Some(min), Some(max)) = (bound("min").filter(|min| *min > 0.0), bound("max"))
            && ratio.nano() as f64 / 1e9 > max / min
        {
            let detail = format!("ratio {ratio} is greater than max/min = {:.6}", max / min);
            errors.push(Error::invalid(path.key(name), ratio.to_string(), detail));
        }
    }
}

/// Each resource: min <= defaultRequest <= default <= max. With each pair: who is blamed, whose value is shown, and
/// upstream's word for the greater one.
fn check_order(errors: &mut ErrorList, item: &Value, path: &Path) {
    let pairs = [
        ("min", "max", "min", "min", "max"),
        ("min", "defaultRequest", "defaultRequest", "defaultRequest", "default request"),
        ("defaultRequest", "max", "defaultRequest", "defaultRequest", "max"),
        ("defaultRequest", "default", "defaultRequest", "defaultRequest", "default limit"),
        ("min", "default", "default", "min", "default"),
        ("default", "max", "default", "max", "max"),
    ];
    for (low, high, blamed, shown, word) in pairs {
        for (name, value) in entries(item, low) {
            let (Some(a), Some(b)) = (Quantity::of_json(value), at(item, high).get(name).and_then(Quantity::of_json))
            else {
                continue;
            };
            if a > b {
                let first = if low == "defaultRequest" { "default request" } else { low };
                let detail = format!("{first} value {a} is greater than {word} value {b}");
                let shown = if shown == low { a } else { b };
                errors.push(Error::invalid(path.child(blamed).key(name), shown.to_string(), detail));
            }
        }
    }
}
