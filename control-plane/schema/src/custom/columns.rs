//! Printer columns (apiextensions `registry/customresource/tableconvertor`).

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::json_path::JsonPath;
use crate::columns::human_duration;

/// A column of a custom resource's table.
#[derive(Debug)]
pub struct Column {
    spec: Spec,
    path: JsonPath,
}

/// `additionalPrinterColumns`, an entry of.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    format: String,
    description: String,
    priority: i32,
    json_path: String,
}

const NAME: &str = "The object's name, unique among its kind in its namespace";
const AGE: &str = "How long ago the object was created";

/// The columns after the name; without any, when the object was created. Those after one that cannot be read are left
/// out, as upstream leaves them.
pub(super) fn read(columns: &Value) -> Vec<Column> {
    let mut specs: Vec<Spec> =
        columns.as_array().into_iter().flatten().filter_map(|column| Spec::deserialize(column).ok()).collect();
    if specs.is_empty() {
        specs.push(Spec {
            name: "Age".into(),
            kind: "date".into(),
            description: AGE.into(),
            json_path: ".metadata.creationTimestamp".into(),
            ..Spec::default()
        });
    }
    specs.into_iter().map_while(|spec| Some(Column { path: JsonPath::parse(&spec.json_path).ok()?, spec })).collect()
}

/// The definition of the column that is always first.
pub(crate) fn name_definition() -> Value {
    json!({ "name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0 })
}

impl Column {
    /// The column's definition, as tables carry it.
    pub(crate) fn definition(&self) -> Value {
        let spec = &self.spec;
        let description = match spec.description.as_str() {
            "" => format!("Custom resource definition column (in JSONPath format): {}", spec.json_path),
            text => text.to_owned(),
        };
        json!({
            "name": spec.name, "type": spec.kind, "format": spec.format,
            "description": description, "priority": spec.priority,
        })
    }

    /// The cell of an object.
    pub(crate) fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let Some(value) = self.path.find(object).into_iter().next() else { return Value::Null };
        match (self.spec.kind.as_str(), value) {
            (_, Value::Null) => Value::Null,
            ("string", Value::String(text)) => text.as_str().into(),
            ("string", other) => other.to_string().into(),
            ("integer", Value::Number(number)) => whole(number),
            ("number", Value::Number(number)) => json!(number.as_f64()),
            ("boolean", Value::Bool(flag)) => (*flag).into(),
            ("date", Value::String(text)) => match text.parse::<Timestamp>() {
                Ok(then) => human_duration(now.duration_since(then)).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "as upstream: the whole part, at most what an integer holds")]
fn whole(number: &serde_json::Number) -> Value {
    number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or_default() as i64).into()
}
