//! Values against a schema, in upstream's words (kube-openapi `validation/validate`, apiextensions
//! `apiserver/validation`).
//!
//! In an update, what was wrong before and has not changed is let be (KEP-4008): each value that can be correlated with
//! an old one is, and its errors do not count if it equals it.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::format;
use super::schema::{Additional, Schema};
use crate::field::{Error, ErrorKind, ErrorList, Path};
use crate::kinds::json::same;

/// The old value that a value is the successor of, and the schema that says how its parts correlate.
#[derive(Clone, Copy)]
pub(super) struct Old<'a> {
    value: &'a Value,
    schema: Option<&'a Schema>,
}

/// Everything that is wrong with a value. `path` is the field that it is in, `old` its predecessor.
pub(super) fn validate(schema: &Schema, value: &Value, old: Option<&Value>, path: &Path) -> ErrorList {
    let old = old.map(|value| Old { value, schema: Some(schema) });
    let outcome = node(schema, value, old, "");
    outcome.problems.into_iter().map(|problem| problem.at(path)).collect()
}

impl<'a> Old<'a> {
    fn field(self, name: &str) -> Option<Old<'a>> {
        if self.schema.is_some_and(Schema::is_atomic_map) {
            return None;
        }
        let value = self.value.as_object()?.get(name)?;
        Some(Self { value, schema: self.schema.and_then(|schema| schema.child(name)) })
    }

    fn item(self, new: &Value) -> Option<Old<'a>> {
        let schema = self.schema.filter(|schema| schema.is_list_map())?;
        let value = super::list_type::counterpart(&schema.list_map_keys, self.value.as_array()?, new)?;
        Some(Self { value, schema: schema.items.as_deref() })
    }
}

/// What is wrong with a value, and where (from the validated value on, with dots).
#[derive(Clone, Debug, PartialEq)]
struct Problem {
    name: String,
    kind: ErrorKind,
    value: Option<Value>,
    detail: String,
    /// Of the validated value as a whole, wherever the schema is.
    of_whole: bool,
}

impl Problem {
    fn at(self, path: &Path) -> Error {
        let name = self.name.strip_prefix('.').unwrap_or(&self.name);
        let path = if name.is_empty() || self.of_whole { path.clone() } else { path.child(name) };
        Error { kind: self.kind, path, value: self.value, detail: self.detail }
    }
}

#[derive(Default)]
struct Outcome {
    problems: Vec<Problem>,
    /// How many checks were made: what chooses among alternatives the one that was nearest.
    matches: usize,
}

impl Outcome {
    fn of(problem: Problem) -> Self {
        Self { problems: vec![problem], matches: 0 }
    }

    fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    fn merge(&mut self, other: Self) {
        self.matches += other.matches;
        other.problems.into_iter().for_each(|problem| self.add(problem));
    }

    fn add(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// A value that may have a predecessor.
fn node(schema: &Schema, value: &Value, old: Option<Old<'_>>, path: &str) -> Outcome {
    let outcome = check(schema, value, old, path);
    match old {
        Some(old) if !outcome.is_valid() && same(old.value, value) => Outcome::default(),
        _ => outcome,
    }
}

fn check(schema: &Schema, value: &Value, old: Option<Old<'_>>, path: &str) -> Outcome {
    let mut outcome = Outcome::default();
    if value.is_null() {
        outcome.merge(type_of(schema, value, path));
        outcome.merge(values(schema, value, path));
        return outcome;
    }
    let mut run = |result: Outcome| {
        outcome.merge(result);
        outcome.matches += 1;
    };
    if !schema.kind.is_empty() || schema.int_or_string || has_format(schema) {
        run(type_of(schema, value, path));
    }
    run(junctors(schema, value, old, path));
    match value {
        Value::String(text) => {
            run(string(schema, text, path));
            if has_format(schema) && format::is_known("string", &schema.format) {
                run(string_format(schema, text, path));
            }
        }
        Value::Number(_) => run(number(schema, value, path)),
        Value::Array(items) => run(list(schema, items, old, path)),
        _ => {}
    }
    run(values(schema, value, path));
    if let Value::Object(entries) = value {
        run(object(schema, entries, old, path));
    }
    outcome.matches += 1;
    outcome
}

/// A format that means something for the schema's type; others are as good as none.
fn has_format(schema: &Schema) -> bool {
    !schema.format.is_empty() && !schema.int_or_string && format::is_known(&schema.kind, &schema.format)
}

fn problem(path: &str, kind: ErrorKind, value: impl Into<Value>, detail: impl Into<String>) -> Problem {
    Problem { name: path.to_owned(), kind, value: Some(value.into()), detail: detail.into(), of_whole: false }
}

fn invalid(path: &str, value: &Value, words: &str) -> Problem {
    problem(path, ErrorKind::Invalid, value.clone(), format!("{path} in body {words}"))
}

fn of_whole(detail: String) -> Problem {
    Problem { of_whole: true, ..problem("", ErrorKind::Invalid, "", detail) }
}

fn type_of(schema: &Schema, value: &Value, path: &str) -> Outcome {
    let types: &[&str] = match (schema.int_or_string, schema.kind.as_str()) {
        (true, _) => &["integer", "string"],
        (false, "") => &[],
        (false, kind) => &[kind],
    };
    let wrong = |expected: &str, found: &str| {
        let detail = format!("{path} in body must be of type {expected}: {found:?}");
        Outcome::of(problem(path, ErrorKind::TypeInvalid, found, detail))
    };
    let fine = Outcome { problems: Vec::new(), matches: 1 };
    let found = match value {
        Value::Null if types.is_empty() || schema.nullable => return fine,
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
    };
    let numeric = types.contains(&"number") || types.contains(&"integer");
    if has_format(schema) && !numeric && matches!(value, Value::String(_) | Value::Array(_)) {
        return fine;
    }
    let whole = value.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0);
    let as_other_number =
        (found == "number" && whole && types.contains(&"integer")) || (found == "integer" && types.contains(&"number"));
    if types.is_empty() || types.contains(&found) || as_other_number {
        return fine;
    }
    wrong(&types.join(","), found)
}

fn values(schema: &Schema, value: &Value, path: &str) -> Outcome {
    let equal = |permitted: &Value| match (permitted.as_f64(), value.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => permitted == value,
    };
    if schema.values.is_empty() || schema.values.iter().any(equal) {
        return Outcome::default();
    }
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let names: Vec<String> = schema.values.iter().map(|v| format!("{:?}", text(v))).collect();
    let detail = format!("supported values: {}", names.join(", "));
    Outcome::of(problem(path, ErrorKind::NotSupported, value.clone(), detail))
}

fn string(schema: &Schema, text: &str, path: &str) -> Outcome {
    let length = text.chars().count() as u64;
    let value = Value::from(text);
    let problem = match schema {
        Schema { max_length: Some(max), .. } if length > *max => {
            let detail = format!("may not be more than {max} bytes");
            problem(path, ErrorKind::TooLong, Value::Null, detail)
        }
        Schema { min_length: Some(min), .. } if length < *min => {
            invalid(path, &value, &format!("should be at least {min} chars long"))
        }
        Schema { pattern: Some(pattern), .. } if !pattern.regex.as_ref().is_some_and(|r| r.is_match(text)) => {
            invalid(path, &value, &format!("should match '{}'", pattern.text))
        }
        _ => return Outcome::default(),
    };
    Outcome::of(problem)
}

fn string_format(schema: &Schema, text: &str, path: &str) -> Outcome {
    if format::is(&schema.format, text) {
        return Outcome::default();
    }
    let detail = format!("{path} in body must be of type {}: {text:?}", schema.format);
    Outcome::of(problem(path, ErrorKind::TypeInvalid, text, detail))
}

fn number(schema: &Schema, value: &Value, path: &str) -> Outcome {
    let mut outcome = Outcome { problems: Vec::new(), matches: 1 };
    let number = value.as_f64().unwrap_or_default();
    // Bounds of whole numbers are whole numbers.
    let bound = |bound: f64| if value.is_f64() { bound } else { bound.trunc() };
    if let Some(words) = out_of_range(schema, value) {
        outcome.add(of_whole(format!("Checked value must be of type {words} in {path}")));
    }
    if let Some(factor) = schema.multiple_of {
        let quotient = if factor < 1.0 { 1.0 / factor * number } else { number / factor };
        if factor > 0.0 && (quotient - quotient.round()).abs() > 1e-9 {
            outcome.add(invalid(path, value, &format!("should be a multiple of {}", go_float(factor))));
        }
    }
    if let Some(max) = schema.maximum.map(bound) {
        if schema.exclusive_maximum && number >= max {
            outcome.add(invalid(path, value, &format!("should be less than {}", go_float(max))));
        } else if number > max {
            outcome.add(invalid(path, value, &format!("should be less than or equal to {}", go_float(max))));
        }
    }
    if let Some(min) = schema.minimum.map(bound) {
        if schema.exclusive_minimum && number <= min {
            outcome.add(invalid(path, value, &format!("should be greater than {}", go_float(min))));
        } else if number < min {
            outcome.add(invalid(path, value, &format!("should be greater than or equal to {}", go_float(min))));
        }
    }
    outcome
}

fn out_of_range(schema: &Schema, value: &Value) -> Option<String> {
    let fits = |low: f64, high: f64| value.as_f64().is_some_and(|n| (low..=high).contains(&n));
    let (low, high) = match (schema.kind.as_str(), schema.format.as_str()) {
        ("integer", "int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        ("integer", _) => (-9_223_372_036_854_775_808.0, 9_223_372_036_854_775_807.0),
        ("number", "float") => (f64::from(f32::MIN), f64::from(f32::MAX)),
        _ => return None,
    };
    if fits(low, high) {
        return None;
    }
    Some(match schema.format.as_str() {
        format @ ("int32" | "int64" | "float") => format!("{} with format {format}", schema.kind),
        _ => format!("{} (default format)", schema.kind),
    })
}

/// A number as Go's `%v` prints it.
fn go_float(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    number.to_string()
}

fn list(schema: &Schema, items: &[Value], old: Option<Old<'_>>, path: &str) -> Outcome {
    let mut outcome = Outcome { problems: Vec::new(), matches: 1 };
    let size = items.len() as u64;
    if let Some(item_schema) = &schema.items {
        let mut place = String::new();
        for (index, item) in items.iter().enumerate() {
            place.clear();
            // Writing to a String does not fail.
            let _ = write!(place, "{path}[{index}]");
            outcome.merge(node(item_schema, item, old.and_then(|old| old.item(item)), &place));
        }
    }
    if let Some(min) = schema.min_items.filter(|min| size < *min) {
        outcome.add(invalid(path, &size.into(), &format!("should have at least {min} items")));
    }
    if let Some(max) = schema.max_items.filter(|max| size > *max) {
        outcome.add(too_many(path, size, max));
    }
    outcome
}

fn too_many(path: &str, size: u64, max: u64) -> Problem {
    let noun = if max == 1 { "item" } else { "items" };
    problem(path, ErrorKind::TooMany, size, format!("must have at most {max} {noun}"))
}

fn object(schema: &Schema, entries: &Map<String, Value>, old: Option<Old<'_>>, path: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let size = entries.len() as u64;
    if let Some(min) = schema.min_properties.filter(|min| size < *min) {
        outcome.add(invalid(path, &size.into(), &format!("should have at least {min} properties")));
    }
    if let Some(max) = schema.max_properties.filter(|max| size > *max) {
        outcome.add(too_many(path, size, max));
    }
    // At the root, `apiVersion` is of another version than the old one's, and says nothing.
    let predecessor = |name: &str| {
        old.filter(|_| !(path.is_empty() && matches!(name, "kind" | "apiVersion"))).and_then(|old| old.field(name))
    };
    for (name, value) in entries {
        if schema.properties.contains_key(name) {
            continue;
        }
        match &schema.additional_properties {
            Some(Additional::Allowed(false)) => {
                let detail = format!("{path}.{name} in body is a forbidden property");
                outcome.add(problem(path, ErrorKind::Invalid, name.as_str(), detail));
            }
            Some(Additional::Schema(schema)) => {
                outcome.merge(node(schema, value, predecessor(name), &format!("{path}.{name}")));
            }
            Some(Additional::Allowed(true)) | None => {}
        }
    }
    for (name, schema) in &schema.properties {
        if let Some(value) = entries.get(name) {
            let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            outcome.merge(node(schema, value, predecessor(name), &place));
        }
    }
    for name in &schema.required {
        if !entries.contains_key(name) {
            outcome.add(Problem {
                name: format!("{path}.{name}"),
                kind: ErrorKind::Required,
                value: None,
                detail: String::new(),
                of_whole: false,
            });
        }
    }
    outcome
}

fn junctors(schema: &Schema, value: &Value, old: Option<Old<'_>>, path: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let outcomes =
        |schemas: &[Schema]| -> Vec<Outcome> { schemas.iter().map(|s| check(s, value, old, path)).collect() };
    if !schema.any_of.is_empty() {
        let mut all = outcomes(&schema.any_of);
        match all.iter().position(Outcome::is_valid) {
            Some(valid) => outcome.merge(all.swap_remove(valid)),
            None => {
                outcome.add(of_whole(format!("{path:?} must validate at least one schema (anyOf)")));
                outcome.merge(nearest(all));
            }
        }
    }
    if !schema.one_of.is_empty() {
        let mut all = outcomes(&schema.one_of);
        let valid = all.iter().filter(|o| o.is_valid()).count();
        let words = match valid {
            0 => "Found none valid".to_owned(),
            n => format!("Found {n} valid alternatives"),
        };
        match all.iter().position(Outcome::is_valid) {
            Some(first) if valid == 1 => outcome.merge(all.swap_remove(first)),
            first => {
                let problem = format!("{path:?} must validate one and only one schema (oneOf). {words}");
                outcome.add(of_whole(problem));
                if first.is_none() {
                    outcome.merge(nearest(all));
                }
            }
        }
    }
    if !schema.all_of.is_empty() {
        let all = outcomes(&schema.all_of);
        let valid = all.iter().filter(|o| o.is_valid()).count();
        let incomplete = valid != all.len();
        all.into_iter().for_each(|result| outcome.merge(result));
        if incomplete {
            let none = if valid == 0 { ". None validated" } else { "" };
            outcome.add(of_whole(format!("{path:?} must validate all the schemas (allOf){none}")));
        }
    }
    if let Some(not) = &schema.not
        && check(not, value, old, path).is_valid()
    {
        outcome.add(of_whole(format!("{path:?} must not validate the schema (not)")));
    }
    outcome.matches += 1;
    outcome
}

/// The first of those that made the most checks.
fn nearest(all: Vec<Outcome>) -> Outcome {
    let mut best = Outcome::default();
    for (index, outcome) in all.into_iter().enumerate() {
        if index == 0 || outcome.matches > best.matches {
            best = outcome;
        }
    }
    best
}
