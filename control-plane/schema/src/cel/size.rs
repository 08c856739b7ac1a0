//! How large values can get that a schema describes: by what it says, or else by what fits into a request (apiserver
//! `cel/common/schemas.go`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::types::escape;

/// No request is larger.
const MAX_REQUEST_BYTES: u64 = 3 << 20;
/// `"2006-01-02T15:04:05.999999999Z"` and the like.
const MAX_TIME_BYTES: u64 = 32;
const DATE_BYTES: u64 = 12;

/// The size of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Items of a list, entries of a map, bytes of a string: at most. 0 for what has none.
    pub elements: u64,
    /// What it takes in JSON, at least.
    pub min_bytes: u64,
    inner: Inner,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inner {
    Nothing,
    /// Of a list, or the values of a map.
    Items(Box<Size>),
    /// By the names that expressions use.
    Fields(BTreeMap<String, Size>),
}

fn number(schema: &Value, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_i64).map(|n| u64::try_from(n).unwrap_or(0))
}

impl Size {
    fn scalar(elements: u64, min_bytes: u64) -> Self {
        Self { elements, min_bytes, inner: Inner::Nothing }
    }

    /// What has no more than so many bytes.
    pub(super) fn bounded(elements: u64) -> Self {
        Self::scalar(elements, 0)
    }

    /// A map of no more than so many entries.
    pub(super) fn map_of(elements: u64, value: Self) -> Self {
        Self { elements, min_bytes: 0, inner: Inner::Items(Box::new(value)) }
    }

    /// An object.
    pub(super) fn record<const N: usize>(fields: [(&str, Self); N]) -> Self {
        let fields = fields.into_iter().map(|(name, size)| (name.to_owned(), size)).collect();
        Self { elements: 0, min_bytes: 0, inner: Inner::Fields(fields) }
    }

    /// What a structural schema describes; `None` for a schema without a type. `root` is an object as a whole.
    pub fn of(schema: &Value, root: bool) -> Option<Self> {
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
        if flag("x-kubernetes-int-or-string") {
            return Some(Self::scalar(MAX_REQUEST_BYTES - 2, 1));
        }
        match schema.get("type").and_then(Value::as_str)? {
            "array" => {
                let item = Self::of(schema.get("items")?, false)?;
                let fit = (MAX_REQUEST_BYTES - 2) / (item.min_bytes + 1);
                let elements = number(schema, "maxItems").unwrap_or(fit);
                Some(Self { elements, min_bytes: 2, inner: Inner::Items(Box::new(item)) })
            }
            "object" => Self::of_object(schema, root || flag("x-kubernetes-embedded-resource")),
            "boolean" => Some(Self::scalar(0, 4)),
            "integer" | "number" => Some(Self::scalar(0, 1)),
            "string" => Some(Self::of_string(schema)),
            _ => None,
        }
    }

    fn of_string(schema: &Value) -> Self {
        let longest = number(schema, "maxLength");
        let elements = match schema.get("format").and_then(Value::as_str) {
            Some("byte") => longest.unwrap_or(MAX_REQUEST_BYTES - 2),
            Some("duration" | "date-time") => MAX_TIME_BYTES,
            Some("date") => DATE_BYTES,
            _ => {
                let values = schema.get("enum").and_then(Value::as_array);
                let of_values = values.map(|values| {
                    values.iter().filter_map(Value::as_str).map(|value| value.len() as u64).max().unwrap_or(0)
                });
                // A character is up to four bytes.
                longest.map(|n| n.saturating_mul(4)).or(of_values).unwrap_or(MAX_REQUEST_BYTES - 2)
            }
        };
        Self::scalar(elements, 2)
    }

    fn of_object(schema: &Value, root: bool) -> Option<Self> {
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            let value = Self::of(values, false)?;
            let fit = (MAX_REQUEST_BYTES - 2) / (value.min_bytes + 6);
            let elements = number(schema, "maxProperties").unwrap_or(fit);
            return Some(Self { elements, min_bytes: 2, inner: Inner::Items(Box::new(value)) });
        }
        let required = |name: &str| {
            let names = schema.get("required").and_then(Value::as_array);
            names.is_some_and(|names| names.iter().any(|known| known == name))
        };
        let mut fields = BTreeMap::new();
        let mut min_bytes = 2;
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let Some(size) = Self::of(property, false) else { continue };
            if required(name) && property.get("default").is_none() {
                min_bytes += name.len() as u64 + size.min_bytes + 4;
            }
            fields.extend(escape(name).map(|name| (name, size)));
        }
        if root {
            let text = || Self::scalar(MAX_REQUEST_BYTES - 2, 2);
            let names = ["name", "generateName"].map(|name| (name.to_owned(), text()));
            let metadata = Self { elements: 0, min_bytes: 2, inner: Inner::Fields(names.into()) };
            fields.extend([("apiVersion".into(), text()), ("kind".into(), text()), ("metadata".into(), metadata)]);
        }
        Some(Self { elements: 0, min_bytes, inner: Inner::Fields(fields) })
    }

    /// A field of an object; the values of a map.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.inner {
            Inner::Fields(fields) => fields.get(name),
            Inner::Items(value) => Some(value),
            Inner::Nothing => None,
        }
    }

    /// The items of a list, the values of a map.
    pub(super) fn item(&self) -> Option<&Self> {
        match &self.inner {
            Inner::Items(item) => Some(item),
            _ => None,
        }
    }

    /// How many such values fit into a request.
    pub fn cardinality(&self) -> u64 {
        MAX_REQUEST_BYTES / (self.min_bytes + 1)
    }
}
