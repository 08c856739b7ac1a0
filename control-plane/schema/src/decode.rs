//! JSON to a value, keeping note of what a strict decoder objects to.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep a document may nest. (serde_json's own limit is the same.)
pub const MAX_DEPTH: usize = 128;

/// How many strict errors are kept; more say nothing new.
const MAX_DUPLICATES: usize = 100;

/// How many bytes of paths are looked at for strict errors: a long path with many keys below is not written out for
/// each of them.
const MAX_WORK: usize = 16 << 20;

/// A decoded document.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// The document; of a repeated key, the last value.
    pub value: Value,
    /// `duplicate field "spec.replicas"`, each once: upstream's words for strict decoding errors.
    pub duplicates: Vec<String>,
}

/// Why a document is not JSON, in the words of Go's decoder where it has any.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

/// Decodes a document of JSON.
///
/// # Errors
/// If it is not JSON, is followed by something else, or nests deeper than [`MAX_DEPTH`].
pub fn from_json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut state = State::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&mut state).deserialize(&mut deserializer).map_err(|e| go_words(bytes, &e))?;
    deserializer.end().map_err(|e| go_words(bytes, &e))?;
    Ok(Decoded { value, duplicates: state.duplicates })
}

/// Puts what a strict decoder objects to in the order in which it comes upon it.
pub fn in_order(bytes: &[u8], errors: Vec<String>) -> Vec<String> {
    let mut state = State { wanted: errors, ..State::default() };
    // It was read before, as far as there is something to say of it.
    let _ = Seed(&mut state).deserialize(&mut serde_json::Deserializer::from_slice(bytes));
    state.ordered.append(&mut state.wanted);
    state.ordered
}

#[derive(Default)]
struct State {
    /// Where we are, as `spec.containers[0].name`.
    path: String,
    depth: usize,
    duplicates: Vec<String>,
    /// Bytes of paths looked at.
    work: usize,
    /// What is to be put in order, and what of it was met.
    wanted: Vec<String>,
    ordered: Vec<String>,
}

impl State {
    fn enter(&mut self) -> Result<(), &'static str> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err("exceeded max depth") } else { Ok(()) }
    }

    /// Whether the path may be written out once more.
    fn affords(&mut self) -> bool {
        self.work += self.path.len();
        self.work <= MAX_WORK
    }

    /// Notes that the field was there before.
    fn duplicate(&mut self) {
        if self.duplicates.len() < MAX_DUPLICATES && self.affords() {
            let text = format!("duplicate field {:?}", self.path);
            if !self.duplicates.contains(&text) {
                self.duplicates.push(text);
            }
        }
    }

    /// Takes what is wanted of this field.
    fn meet(&mut self, what: &str) {
        if self.wanted.is_empty() || !self.affords() {
            return;
        }
        let text = format!("{what} field {:?}", self.path);
        if let Some(at) = self.wanted.iter().position(|wanted| *wanted == text) {
            self.ordered.push(self.wanted.remove(at));
        }
    }
}

struct Seed<'a>(&'a mut State);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    /// A number is an int64 or a float64.
    #[expect(clippy::cast_precision_loss, reason = "as upstream: beyond int64 a number is a float")]
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(i64::try_from(v).map_or_else(|_| (v as f64).into(), Value::from))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.enter().map_err(A::Error::custom)?;
        let mut out = Vec::new();
        let here = self.0.path.len();
        loop {
            use fmt::Write;
            // Writing to a String does not fail.
            let _ = write!(self.0.path, "[{}]", out.len());
            let item = items.next_element_seed(Seed(self.0))?;
            self.0.path.truncate(here);
            match item {
                Some(item) => out.push(item),
                None => break,
            }
        }
        self.0.depth -= 1;
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.0.enter().map_err(A::Error::custom)?;
        let mut out = Map::new();
        let here = self.0.path.len();
        while let Some(key) = entries.next_key::<String>()? {
            if here > 0 {
                self.0.path.push('.');
            }
            self.0.path.push_str(&key);
            if out.contains_key(&key) {
                self.0.duplicate();
                self.0.meet("duplicate");
            }
            self.0.meet("unknown");
            let value = entries.next_value_seed(Seed(self.0))?;
            self.0.path.truncate(here);
            out.insert(key, value);
        }
        self.0.depth -= 1;
        Ok(Value::Object(out))
    }
}

/// What Go's decoder says of the same mistake (`encoding/json`'s scanner).
fn go_words(bytes: &[u8], error: &serde_json::Error) -> DecodeError {
    if error.is_eof() {
        return DecodeError("unexpected end of JSON input".into());
    }
    let text = error.to_string();
    let at = offset(bytes, error.line(), error.column());
    let found = bytes[at.min(bytes.len())..].iter().copied().find(|b| !b.is_ascii_whitespace());
    let context = if text.starts_with("expected value") || text.starts_with("expected ident") {
        "looking for beginning of value"
    } else if text.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if text.starts_with("trailing comma") {
        if found == Some(b']') {
            "looking for beginning of value"
        } else {
            "looking for beginning of object key string"
        }
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("trailing characters") {
        "after top-level value"
    } else if text.starts_with("recursion limit exceeded") || text.starts_with("exceeded max depth") {
        return DecodeError("exceeded max depth".into());
    } else {
        return DecodeError(text);
    };
    match found {
        Some(byte) => DecodeError(format!("invalid character {} {context}", go_quote(byte))),
        None => DecodeError("unexpected end of JSON input".into()),
    }
}

/// The offset of a line (from 1) and column (from 1).
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let before = bytes.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    before + column.saturating_sub(1)
}

/// A byte as Go's scanner quotes it.
fn go_quote(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".into(),
        b'"' => "'\"'".into(),
        0x20..0x7f => format!("'{}'", char::from(byte)),
        b => format!("'{}'", char::from(b).escape_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> String {
        from_json(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn duplicates_are_named_by_path() {
        let text = r#"{"spec":{"replicas":1,"replicas":2,"list":[{"a":1},{"a":1,"a":2,"a":3}]},"x":{"x":1},"spec2":1}"#;
        let decoded = from_json(text.as_bytes()).unwrap();
        assert_eq!(decoded.duplicates, [r#"duplicate field "spec.replicas""#, r#"duplicate field "spec.list[1].a""#]);
        assert_eq!(decoded.value["spec"]["replicas"], 2);
    }

    #[test]
    fn errors_are_put_in_the_documents_order() {
        let text = br#"{"z":1,"spec":{"b":1,"replicas":2,"replicas":3},"a":1,"a":2}"#;
        let mut errors = from_json(text).unwrap().duplicates;
        errors.extend(["a", "spec.b", "z"].map(|path| format!("unknown field {path:?}")));
        let expected = [
            r#"unknown field "z""#,
            r#"unknown field "spec.b""#,
            r#"duplicate field "spec.replicas""#,
            r#"unknown field "a""#,
            r#"duplicate field "a""#,
        ];
        assert_eq!(in_order(text, errors), expected);
    }

    #[test]
    fn numbers_are_int64_or_float64() {
        let decoded = from_json(b"[1, -1, 1.5, 1e3, 9223372036854775807, 9223372036854775808]").unwrap();
        assert_eq!(decoded.value, json!([1, -1, 1.5, 1000.0, i64::MAX, 9_223_372_036_854_775_808.0]));
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        assert_eq!(error(""), "unexpected end of JSON input");
        assert_eq!(error("{\"a\":"), "unexpected end of JSON input");
        assert_eq!(error("{\"a\": x}"), "invalid character 'x' looking for beginning of value");
        assert_eq!(error("{a: 1}"), "invalid character 'a' looking for beginning of object key string");
        assert_eq!(error("{\"a\" 1}"), "invalid character '1' after object key");
        assert_eq!(error("{\"a\": 1 \"b\"}"), "invalid character '\"' after object key:value pair");
        assert_eq!(error("[1 2]"), "invalid character '2' after array element");
        assert_eq!(error("{} {}"), "invalid character '{' after top-level value");
        assert_eq!(error("{\n\"a\": 1,\n}"), "invalid character '}' looking for beginning of object key string");
    }

    #[test]
    fn nesting_is_bounded() {
        assert_eq!(error(&"[".repeat(100_000)), "exceeded max depth");
        assert!(from_json(format!("{}1{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
    }

    #[test]
    fn bytes_that_are_no_json_never_panic() {
        proptest::proptest!(|(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64))| {
            let _ = from_json(&bytes);
        });
    }
}
