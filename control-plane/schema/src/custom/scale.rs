//! The scale subresource of a custom resource: where its numbers are.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::field::{Error, ErrorList, Path};

/// `subresources.scale`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scale {
    spec_replicas_path: String,
    status_replicas_path: String,
    label_selector_path: Option<String>,
}

impl Scale {
    /// The replicas that are wanted; `None` if the object does not say.
    pub fn wanted(&self, object: &Value) -> Option<i64> {
        at(object, &self.spec_replicas_path)?.as_i64()
    }

    /// The replicas that there are.
    pub fn present(&self, object: &Value) -> i64 {
        at(object, &self.status_replicas_path).and_then(Value::as_i64).unwrap_or(0)
    }

    /// The selector of the replicas, in text form.
    pub fn selector<'a>(&self, object: &'a Value) -> &'a str {
        let path = self.label_selector_path.as_deref().unwrap_or_default();
        at(object, path).and_then(Value::as_str).unwrap_or_default()
    }

    /// Where the wanted replicas are, `.spec.replicas`.
    pub fn wanted_path(&self) -> &str {
        &self.spec_replicas_path
    }

    /// Asks for another number of replicas.
    pub fn want(&self, object: &mut Value, replicas: i64) {
        let mut here = object;
        for name in steps(&self.spec_replicas_path) {
            if !here.is_object() {
                *here = Value::Object(Map::new());
            }
            here = &mut here[name];
        }
        *here = replicas.into();
    }

    pub(super) fn validate_spec(&self, object: &Value) -> ErrorList {
        replicas(object, &self.spec_replicas_path)
    }

    pub(super) fn validate_status(&self, object: &Value) -> ErrorList {
        let mut errors = replicas(object, &self.status_replicas_path);
        if let Some(path) = &self.label_selector_path
            && let Some(value) = at(object, path).filter(|value| !value.is_string())
        {
            let why = format!("{path} accessor error: {value} is of the type {}, expected string", go_type(value));
            errors.push(Error::invalid(Path::new(path.as_str()), "", why));
        }
        errors
    }
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('.').unwrap_or(path).split('.').filter(|step| !step.is_empty())
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut steps = steps(path).peekable();
    steps.peek()?;
    steps.try_fold(object, |value, step| value.get(step))
}

fn replicas(object: &Value, path: &str) -> ErrorList {
    let Some(value) = at(object, path) else { return ErrorList::new() };
    let field = Path::new(path);
    let error = match value.as_i64() {
        None => {
            let why = format!("{path} accessor error: {value} is of the type {}, expected int64", go_type(value));
            Error::invalid(field, 0, why)
        }
        Some(n) if n < 0 => Error::invalid(field, n, "should be a non-negative integer"),
        Some(n) if n > i64::from(i32::MAX) => {
            Error::invalid(field, n, format!("should be less than or equal to {}", i32::MAX))
        }
        Some(_) => return ErrorList::new(),
    };
    vec![error]
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
