//! Selectors: of labels (apimachinery `labels`) and of fields (apimachinery `fields`).

mod fields;
mod parse;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

pub use fields::{FieldRequirement, FieldSelector};

use crate::field::{Error, Path};
use crate::kinds::checks::{label_value_problems, qualified_name_problems};

/// Something that has labels.
pub trait Labels {
    /// The value of the label `key`.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// `metadata.labels` of an object, as it is in JSON; anything but an object has no labels.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }
}

impl<T: Labels + ?Sized> Labels for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// A selector of labels: all its requirements hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    /// Sorted by key. `None` selects nothing at all.
    requirements: Option<Vec<LabelRequirement>>,
}

/// Everything.
impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// What is required of it.
    pub operator: Operator,
    /// Sorted, each once. One for the comparing operators, none for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// What is required of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`; also if there is no such label.
    NotIn,
    /// `key=a`.
    Equals,
    /// `key==a`.
    DoubleEquals,
    /// `key!=a`; also if there is no such label.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`, of integers.
    GreaterThan,
    /// `key<1`, of integers.
    LessThan,
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self { requirements: Some(Vec::new()) }
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Self { requirements: None }
    }

    /// Selects what has all of these labels: a Service's `spec.selector`.
    pub fn from_map(labels: &Value) -> Self {
        let entries = labels.as_object().into_iter().flatten();
        let mut requirements: Vec<_> = entries
            .filter_map(|(key, value)| {
                let values = vec![value.as_str()?.to_owned()];
                Some(LabelRequirement { key: key.clone(), operator: Operator::Equals, values })
            })
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements: Some(requirements) }
    }

    /// Reads the query-string form: `app=web,tier in (a,b),!canary`.
    ///
    /// # Errors
    /// Upstream's words, as a 400 carries them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = parse::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements: Some(requirements) })
    }

    /// Reads a `metav1.LabelSelector`: null selects nothing, an empty one everything.
    ///
    /// # Errors
    /// What is wrong with the first requirement that is, in upstream's words.
    pub fn from_json(selector: &Value) -> Result<Self, String> {
        let Value::Object(_) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        if let Some(Value::Object(labels)) = selector.get("matchLabels") {
            for (key, value) in labels {
                let values = vec![value.as_str().unwrap_or_default().to_owned()];
                requirements.push(LabelRequirement::new(key, Operator::Equals, values)?);
            }
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(LabelRequirement::new(text("key"), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements: Some(requirements) })
    }

    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|r| r.matches(labels)))
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether nothing can be selected.
    pub fn is_nothing(&self) -> bool {
        self.requirements.is_none()
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[LabelRequirement] {
        self.requirements.as_deref().unwrap_or_default()
    }
}

impl LabelRequirement {
    /// A requirement whose parts fit.
    ///
    /// # Errors
    /// Upstream's words: `values[0][app]: Invalid value: "b@": a valid label must be ...`.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let key_problems = qualified_name_problems(key);
        if !key_problems.is_empty() {
            errors.push(Error::invalid(Path::new("key"), key, key_problems.join("; ")));
        }
        values.sort();
        values.dedup();
        let path = Path::new("values");
        let wrong_count = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(problem) = wrong_count {
            errors.push(Error::invalid(path.clone(), values.clone(), problem));
        }
        let compares = matches!(operator, Operator::GreaterThan | Operator::LessThan);
        for (index, value) in values.iter().enumerate() {
            if compares && value.parse::<i64>().is_err() {
                let problem = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(Error::invalid(path.index(index), value.as_str(), problem));
            }
            let problems = label_value_problems(value);
            if !problems.is_empty() {
                errors.push(Error::invalid(path.index(index).key(key), value.as_str(), problems.join("; ")));
            }
        }
        match errors.as_slice() {
            [] => Ok(Self { key: key.to_owned(), operator, values }),
            [one] => Err(one.to_string()),
            many => Err(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
        }
    }

    /// Whether these labels satisfy it.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.label(&self.key);
        let among = || value.is_some_and(|v| self.values.binary_search_by(|x| x.as_str().cmp(v)).is_ok());
        let compare = |wanted: std::cmp::Ordering| {
            let value = value.and_then(|v| v.parse::<i64>().ok());
            let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
            value.zip(bound).is_some_and(|(value, bound)| value.cmp(&bound) == wanted)
        };
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => among(),
            Operator::NotIn | Operator::NotEquals => !among(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compare(std::cmp::Ordering::Greater),
            Operator::LessThan => compare(std::cmp::Ordering::Less),
        }
    }
}

/// The query-string form; what selects nothing prints as nothing.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

#[cfg(test)]
mod tests;
