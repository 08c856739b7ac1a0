//! A step of a path into an object: a field, or an item of a list by its keys, its value or its place.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

/// A step of a path.
#[derive(Clone, Debug)]
pub enum Element {
    /// A field of a struct, or an entry of a map.
    Field(Box<str>),
    /// The item of a list whose keys have these values; sorted by key.
    Key(Box<[(Box<str>, Value)]>),
    /// The item of a set that is this value.
    Value(Value),
    /// The item at this place.
    Index(i64),
}

/// Why a step could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    /// A kind of step that a later version knows; whoever meets it leaves it out.
    #[error("unknown path element type")]
    Unknown,
    /// It is none.
    #[error("{0}")]
    Malformed(String),
}

impl Element {
    /// A field.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// Reads the form of `FieldsV1`: `f:name`, `k:{"name":"a"}`, `v:"x"`, `i:3`.
    ///
    /// # Errors
    /// If it is not of that form.
    pub fn parse(text: &str) -> Result<Self, ElementError> {
        let malformed = |why: &str| Err(ElementError::Malformed(why.to_owned()));
        if text.len() < 2 || !text.is_char_boundary(2) {
            return malformed("key must be 2 characters long:");
        }
        let (kind, rest) = text.split_at(2);
        let json = || serde_json::from_str::<Value>(rest).map_err(|e| ElementError::Malformed(e.to_string()));
        match kind {
            "f:" => Ok(Self::field(rest)),
            "v:" => Ok(Self::Value(json()?)),
            "i:" => rest.parse().map(Self::Index).or_else(|_| malformed("an index is a number")),
            "k:" => match json()? {
                Value::Object(keys) => Ok(Self::keys(keys.into_iter().map(|(k, v)| (k.into(), v)).collect())),
                _ => malformed("associative list keys are an object"),
            },
            _ if kind.ends_with(':') => Err(ElementError::Unknown),
            _ => malformed(&format!("missing colon: {text}")),
        }
    }

    /// The item with these keys.
    pub fn keys(mut keys: Vec<(Box<str>, Value)>) -> Self {
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Key(keys.into())
    }

    /// The form of `FieldsV1`.
    pub fn encoded(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let keys: Map<String, Value> = keys.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
                format!("k:{}", Value::Object(keys))
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

/// As people read it: `.spec`, `[name="a"]`, `[="x"]`, `[3]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                for (at, (key, value)) in keys.iter().enumerate() {
                    let open = if at == 0 { '[' } else { ',' };
                    write!(f, "{open}{key}={}", shown(value))?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={}]", shown(value)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A value within a path, as Go's library writes it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(entries) => {
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}={}", shown(value))).collect();
            format!("{{{}}}", entries.join(";"))
        }
        Value::Number(number) => match number.as_f64() {
            // Go prints 2.0 as 2.
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((a_key, a_value), (b_key, b_value)) in a.iter().zip(b.iter()) {
                    let order = a_key.cmp(b_key).then_with(|| compare(a_value, b_value));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// An order of all values: numbers by what they count, then strings, booleans, lists, maps, null.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let different = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| *order != Ordering::Equal);
            different.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => compare_maps(a, b),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_maps(a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
    // Whether maps are kept in order depends on how serde_json was built.
    let sorted = |map: &Map<String, Value>| -> Vec<String> {
        let mut keys: Vec<String> = map.keys().cloned().collect();
        keys.sort();
        keys
    };
    let (a_keys, b_keys) = (sorted(a), sorted(b));
    for (a_key, b_key) in a_keys.iter().zip(&b_keys) {
        let order = a_key.cmp(b_key).then_with(|| compare(&a[a_key.as_str()], &b[b_key.as_str()]));
        if order != Ordering::Equal {
            return order;
        }
    }
    a_keys.len().cmp(&b_keys.len())
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// Whether two values are the same, 1 and 1.0 included.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => compare(a, b) == Ordering::Equal,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_go_to_text_and_back() {
        for text in [
            r#"f:name"#,
            r#"f:app.kubernetes.io/name"#,
            r#"i:3"#,
            r#"i:-1"#,
            r#"v:"x""#,
            r#"v:8080"#,
            r#"v:true"#,
            r#"k:{"containerPort":80,"protocol":"TCP"}"#,
            r#"f:"#,
        ] {
            assert_eq!(Element::parse(text).unwrap().encoded(), text);
        }
        assert_eq!(Element::parse("g:x").unwrap_err(), ElementError::Unknown);
        assert_eq!(Element::parse("x").unwrap_err().to_string(), "key must be 2 characters long:");
        assert_eq!(Element::parse("field").unwrap_err().to_string(), "missing colon: field");
        for text in ["i:index", "v:{", "k:[]", "k:invalid json", "é"] {
            assert!(matches!(Element::parse(text), Err(ElementError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn elements_are_shown_as_upstream_shows_them() {
        for (text, shown) in [
            ("f:spec", ".spec"),
            (r#"k:{"protocol":"TCP","containerPort":80}"#, r#"[containerPort=80,protocol="TCP"]"#),
            (r#"v:"a""#, r#"[="a"]"#),
            ("i:3", "[3]"),
        ] {
            assert_eq!(Element::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn numbers_are_what_they_count() {
        assert_eq!(Element::parse("v:1").unwrap(), Element::parse("v:1.0").unwrap());
        assert!(equal(&serde_json::json!({"a": [1]}), &serde_json::json!({"a": [1.0]})));
    }
}
