//! Whether an applied configuration is of its type. The words are those of upstream's library, Go's way of printing
//! values included.

use std::collections::BTreeSet;

use serde_json::Value;

use super::element::Element;
use super::set::shown;
use super::typed::{Atom, ListType, MapType, ScalarType, Type};
use crate::go;

/// Checks a configuration.
///
/// # Errors
/// All that is wrong with it, as one text: `.spec.foo: field not declared in schema`.
pub fn validate(ty: Type<'_>, value: &Value) -> Result<(), String> {
    let mut walk = Walk { path: Vec::new(), errors: Vec::new() };
    walk.value(ty, value);
    match walk.errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

struct Walk {
    path: Vec<Element>,
    errors: Vec<String>,
}

impl Walk {
    fn error(&mut self, message: impl std::fmt::Display) {
        let path = shown(&self.path);
        self.errors.push(if path.is_empty() { message.to_string() } else { format!("{path}: {message}") });
    }

    fn value(&mut self, ty: Type<'_>, value: &Value) {
        match (ty.atom(Some(value)), value) {
            // Null is a value of every type: it takes a field away.
            (_, Value::Null) => {}
            (Atom::Scalar(scalar), value) => self.scalar(scalar, value),
            (Atom::List(list), Value::Array(items)) => self.items(&list, items),
            (Atom::List(_), value) => self.error(format_args!("expected list, got &{{{}}}", go::printed(value))),
            (Atom::Map(map), Value::Object(entries)) => self.entries(&map, entries),
            (Atom::Map(_), value) => self.error(format_args!("expected map, got &{{{}}}", go::printed(value))),
        }
    }

    fn scalar(&mut self, scalar: ScalarType, value: &Value) {
        match (scalar, value) {
            (ScalarType::Numeric | ScalarType::Untyped, Value::Number(_))
            | (ScalarType::String | ScalarType::Untyped, Value::String(_))
            | (ScalarType::Boolean | ScalarType::Untyped, Value::Bool(_)) => {}
            (ScalarType::Numeric, value) => {
                self.error(format_args!("expected numeric (int or float), got {}", go_type(value)));
            }
            (ScalarType::String, value) => {
                self.error(format_args!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value)));
            }
            (ScalarType::Boolean, value) => {
                self.error(format_args!("expected boolean, got &{{{}}}", go::printed(value)))
            }
            (ScalarType::Untyped, value) => {
                self.error(format_args!("expected any scalar, got &{{{}}}", go::printed(value)))
            }
        }
    }

    fn items(&mut self, list: &ListType<'_>, items: &[Value]) {
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let element = if list.is_atomic() {
                Element::Index(i64::try_from(index).unwrap_or(i64::MAX))
            } else {
                match list.element(item) {
                    Ok(element) => element,
                    Err(why) => return self.error(format_args!("element {index}: {why}")),
                }
            };
            if !list.is_atomic() && !seen.insert(element.clone()) {
                self.error(format_args!("duplicate entries for key {element}"));
            }
            self.path.push(element);
            self.value(list.item, item);
            self.path.pop();
        }
    }

    fn entries(&mut self, map: &MapType<'_>, entries: &serde_json::Map<String, Value>) {
        for (name, value) in entries {
            self.path.push(Element::field(name));
            match map.value_type(name) {
                Some(ty) => self.value(ty, value),
                None => {
                    self.error("field not declared in schema");
                    self.path.pop();
                    return;
                }
            }
            self.path.pop();
        }
    }
}

/// `%T`.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `%#v`.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| format!("{key:?}:{}", go_syntax(value)));
            format!("map[string]interface {{}}{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
