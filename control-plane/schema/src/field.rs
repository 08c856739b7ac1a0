//! Errors in a field of an object, with upstream's words (apimachinery `util/validation/field`).

use std::fmt;

use serde_json::Value;

/// Where in an object: `spec.containers[0].name`, `metadata.labels[a/b]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// A path of one or more dotted names.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The field `name` of this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The list item at `index`.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The map entry under `key`.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("<nil>") } else { f.write_str(&self.0) }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// It must be there and is not.
    Required,
    /// It repeats what must be unique.
    Duplicate,
    /// It is malformed or out of range.
    Invalid,
    /// It is not one of the permitted values.
    NotSupported,
    /// It is well-formed but not permitted here.
    Forbidden,
    /// It is longer than permitted.
    TooLong,
    /// There are more than permitted.
    TooMany,
    /// It is of the wrong JSON type.
    TypeInvalid,
    /// The server failed.
    Internal,
}

impl ErrorKind {
    /// The `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TypeInvalid => "Invalid value",
            Self::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field. Its `Display` is upstream's message, path included.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {}", self.body())]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where.
    pub path: Path,
    /// The value, where the message quotes it.
    pub value: Option<Value>,
    /// More words; may be empty.
    pub detail: String,
}

/// All that is wrong with an object.
pub type ErrorList = Vec<Error>;

impl Error {
    /// A field that must be there is not.
    pub fn required(path: Path, detail: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Required, path, value: None, detail: detail.into() }
    }

    /// A malformed or out-of-range value.
    pub fn invalid(path: Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, path, value: Some(value.into()), detail: detail.into() }
    }

    /// A value of the wrong JSON type.
    pub fn type_invalid(path: Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: ErrorKind::TypeInvalid, path, value: Some(value.into()), detail: detail.into() }
    }

    /// A value that is not one of `supported`, which are named in order.
    pub fn not_supported(path: Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<_> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self { kind: ErrorKind::NotSupported, path, value: Some(value.into()), detail }
    }

    /// A value that repeats what must be unique.
    pub fn duplicate(path: Path, value: impl Into<Value>) -> Self {
        Self { kind: ErrorKind::Duplicate, path, value: Some(value.into()), detail: String::new() }
    }

    /// A reference to what does not exist.
    pub fn not_found(path: Path, value: impl Into<Value>) -> Self {
        Self { kind: ErrorKind::NotFound, path, value: Some(value.into()), detail: String::new() }
    }

    /// Something not permitted here.
    pub fn forbidden(path: Path, detail: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Forbidden, path, value: None, detail: detail.into() }
    }

    /// A value longer than `max` bytes.
    pub fn too_long(path: Path, max: usize) -> Self {
        Self { kind: ErrorKind::TooLong, path, value: None, detail: format!("may not be more than {max} bytes") }
    }

    /// `count` items where at most `max` are permitted.
    pub fn too_many(path: Path, count: usize, max: usize) -> Self {
        let noun = if max == 1 { "item" } else { "items" };
        Self {
            kind: ErrorKind::TooMany,
            path,
            value: Some(count.into()),
            detail: format!("must have at most {max} {noun}"),
        }
    }

    /// The message without the path, as a `StatusCause` carries it.
    pub fn body(&self) -> String {
        let words = self.kind.words();
        let head = match (&self.kind, &self.value) {
            (ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal, _) | (_, None) => {
                words.to_owned()
            }
            (_, Some(value)) => format!("{words}: {}", quote(value)),
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }
}

/// A value as upstream's messages print it: strings quoted, numbers and booleans bare, the rest as JSON.
fn quote(value: &Value) -> String {
    match value {
        // Upstream quotes it.
        Value::Null => "\"null\"".to_owned(),
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(Error::required(path.clone(), "").to_string(), "spec.containers[0].name: Required value");
        assert_eq!(
            Error::invalid(path.clone(), "A", "must be lower case").to_string(),
            "spec.containers[0].name: Invalid value: \"A\": must be lower case"
        );
        assert_eq!(
            Error::not_supported(path, "x", &["b", "a"]).to_string(),
            "spec.containers[0].name: Unsupported value: \"x\": supported values: \"b\", \"a\""
        );
        assert_eq!(Error::forbidden(Path::new("spec").key("k"), "no").to_string(), "spec[k]: Forbidden: no");
    }
}
