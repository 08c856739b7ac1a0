//! The schema of a custom resource (`JSONSchemaProps`), read once. What is not valid has been refused when the
//! CustomResourceDefinition was written; reading is lenient.

use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A schema, or the part of one that describes a value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Schema {
    /// `object`, `array`, `string`...; empty for int-or-string values and those of any type.
    #[serde(rename = "type")]
    pub kind: String,
    /// A format of strings or numbers: `date-time`, `int32`.
    pub format: String,
    /// What an absent field is set to.
    #[serde(deserialize_with = "not_null")]
    pub default: Option<Value>,
    /// Whether null is a value.
    pub nullable: bool,
    /// The largest number.
    pub maximum: Option<f64>,
    /// Whether `maximum` itself is too large.
    pub exclusive_maximum: bool,
    /// The smallest number.
    pub minimum: Option<f64>,
    /// Whether `minimum` itself is too small.
    pub exclusive_minimum: bool,
    /// What a number must be a multiple of.
    pub multiple_of: Option<f64>,
    /// Of strings, in characters.
    pub max_length: Option<u64>,
    /// Of strings, in characters.
    pub min_length: Option<u64>,
    /// What strings must contain.
    #[serde(deserialize_with = "pattern")]
    pub pattern: Option<Pattern>,
    /// Of lists.
    pub max_items: Option<u64>,
    /// Of lists.
    pub min_items: Option<u64>,
    /// Of objects.
    pub max_properties: Option<u64>,
    /// Of objects.
    pub min_properties: Option<u64>,
    /// The permitted values.
    #[serde(rename = "enum")]
    pub values: Vec<Value>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// The fields.
    pub properties: BTreeMap<String, Schema>,
    /// The values of a map.
    #[serde(deserialize_with = "additional")]
    pub additional_properties: Option<Additional>,
    /// The items of a list.
    #[serde(deserialize_with = "boxed")]
    pub items: Option<Box<Schema>>,
    /// All of these hold.
    pub all_of: Vec<Schema>,
    /// At least one of these holds.
    pub any_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub one_of: Vec<Schema>,
    /// This does not hold.
    #[serde(deserialize_with = "boxed")]
    pub not: Option<Box<Schema>>,
    /// Fields that are not declared are kept.
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    pub preserve_unknown: bool,
    /// The value is an object of some kind, with metadata.
    #[serde(rename = "x-kubernetes-embedded-resource")]
    pub embedded: bool,
    /// The value is an integer or a string.
    #[serde(rename = "x-kubernetes-int-or-string")]
    pub int_or_string: bool,
    /// `atomic`, `set` or `map`.
    #[serde(rename = "x-kubernetes-list-type")]
    pub list_type: Option<String>,
    /// What tells the items of a list of type `map` apart.
    #[serde(rename = "x-kubernetes-list-map-keys")]
    pub list_map_keys: Vec<String>,
    /// `granular` or `atomic`.
    #[serde(rename = "x-kubernetes-map-type")]
    pub map_type: Option<String>,
    /// Rules in CEL.
    #[serde(rename = "x-kubernetes-validations")]
    pub validations: Vec<Rule>,
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
pub enum Additional {
    /// Any, or none.
    Allowed(bool),
    /// All are of this form.
    Schema(Box<Schema>),
}

/// A regular expression, and its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As it was written.
    pub text: String,
    /// Compiled; `None` if it is none.
    pub regex: Option<Regex>,
}

/// A rule of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// The expression that must hold.
    pub rule: String,
    /// What is said if it does not.
    pub message: String,
    /// An expression of what is said.
    pub message_expression: String,
    /// `FieldValueInvalid`, `FieldValueForbidden`, `FieldValueRequired` or `FieldValueDuplicate`.
    pub reason: Option<String>,
    /// Which field is at fault, relative to the rule's.
    pub field_path: String,
    /// The rule is checked when there is no old value, too; `oldSelf` is an optional then.
    pub optional_old_self: Option<bool>,
}

impl Schema {
    /// Reads a schema.
    pub fn read(value: &Value) -> Self {
        Self::deserialize(value).unwrap_or_default()
    }

    /// The schema of the field or map entry called `name`.
    pub fn child(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional_properties {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        })
    }

    /// Whether lists of this schema merge by keys.
    pub fn is_list_map(&self) -> bool {
        self.list_type.as_deref() == Some("map")
    }

    /// Whether objects of this schema are replaced as a whole.
    pub fn is_atomic_map(&self) -> bool {
        self.map_type.as_deref() == Some("atomic")
    }

    /// Whether this schema, or one inside it, is as `found` says.
    pub fn any(&self, found: &impl Fn(&Schema) -> bool) -> bool {
        let more = match &self.additional_properties {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        };
        found(self)
            || self.properties.values().any(|s| s.any(found))
            || more.into_iter().chain(&self.items).chain(&self.not).any(|s| s.any(found))
            || self.all_of.iter().chain(&self.any_of).chain(&self.one_of).any(|s| s.any(found))
    }
}

fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Ok(Some(Value::deserialize(deserializer)?).filter(|value| !value.is_null()))
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pattern>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    Ok(text.map(|text| {
        let regex = compile(&text).ok();
        Pattern { text, regex }
    }))
}

/// Compiles a pattern, whose compiled size is bounded.
///
/// # Errors
/// It is no regular expression.
pub(crate) fn compile(text: &str) -> Result<Regex, regex::Error> {
    // In Go, `$` without flags is the end of the text only, as in this library; the syntax is RE2's in both.
    regex::RegexBuilder::new(text).size_limit(4 << 20).build()
}

fn additional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Additional>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Bool(allowed) => Some(Additional::Allowed(allowed)),
        value @ Value::Object(_) => Some(Additional::Schema(Box::new(Schema::read(&value)))),
        _ => None,
    })
}

fn boxed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Schema>>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        value @ Value::Object(_) => Some(Box::new(Schema::read(&value))),
        _ => None,
    })
}
