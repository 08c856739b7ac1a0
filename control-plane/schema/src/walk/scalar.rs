//! Single values: what decodes, and their canonical form.

use base64::Engine as _;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::{Error, go_kind, time, wrong_type};
use crate::quantity;
use crate::types::Scalar;

/// As Go's decoder, which does not look at the bits of the last symbol that are no part of a byte.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

pub(super) fn check(scalar: Scalar, go_type: Option<&str>, value: &Value) -> Result<(), Error> {
    let expected = go_type.unwrap_or(scalar.go_type());
    match scalar {
        Scalar::String if value.is_string() => Ok(()),
        Scalar::Bool if value.is_boolean() => Ok(()),
        Scalar::Double if value.is_number() => Ok(()),
        Scalar::Raw | Scalar::Any => Ok(()),
        Scalar::Int32 => integer(value, expected, i64::from(i32::MIN)..=i64::from(i32::MAX)),
        Scalar::Int64 => integer(value, expected, i64::MIN..=i64::MAX),
        Scalar::IntOrString if value.is_string() => Ok(()),
        Scalar::IntOrString => integer(value, "int32", i64::from(i32::MIN)..=i64::from(i32::MAX)),
        Scalar::Quantity => quantity(value).map(|_| ()),
        Scalar::Bytes => match value {
            Value::String(text) => decode(text).map(|_| ()),
            other => wrong_type(other, expected),
        },
        // Their own readers begin by reading a string.
        Scalar::Time => string(value).and_then(|text| time::parse_time(text).map(|_| ()).map_err(Error::Value)),
        Scalar::MicroTime => {
            string(value).and_then(|text| time::parse_micro_time(text).map(|_| ()).map_err(Error::Value))
        }
        Scalar::String | Scalar::Bool | Scalar::Double => wrong_type(value, expected),
    }
}

fn string(value: &Value) -> Result<&str, Error> {
    value.as_str().ok_or_else(|| Error::Type { found: go_kind(value).to_owned(), expected: "string".to_owned() })
}

fn integer(value: &Value, expected: &str, range: std::ops::RangeInclusive<i64>) -> Result<(), Error> {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|n| range.contains(&n)) => Ok(()),
        Value::Number(number) => Err(Error::Type { found: format!("number {number}"), expected: expected.to_owned() }),
        other => wrong_type(other, expected),
    }
}

fn quantity(value: &Value) -> Result<String, Error> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    quantity::canonical(&text).map(Into::into).map_err(|e| Error::Value(e.to_string()))
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    // As Go's decoder does, line breaks are skipped.
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let at = match BASE64.decode(&text) {
        Ok(bytes) => return Ok(bytes),
        Err(InvalidByte(at, _) | InvalidLastSymbol(at, _)) => at,
        Err(InvalidLength(_) | InvalidPadding) => text.len() / 4 * 4,
    };
    Err(Error::Value(format!("illegal base64 data at input byte {at}")))
}

/// The zero value, as Go encodes it.
pub(super) fn zero(scalar: Scalar) -> Value {
    match scalar {
        Scalar::String => "".into(),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => 0.into(),
        Scalar::Bool => false.into(),
        Scalar::Quantity => "0".into(),
        Scalar::Bytes | Scalar::Time | Scalar::MicroTime | Scalar::Raw | Scalar::Any => Value::Null,
    }
}

pub(super) fn canonicalise(scalar: Scalar, value: &mut Value) {
    let canonical = match scalar {
        Scalar::Quantity if value.is_string() || value.is_number() => quantity(value).ok(),
        Scalar::Bytes => value.as_str().and_then(|text| decode(text).ok()).map(|bytes| BASE64.encode(bytes)),
        Scalar::Time => value.as_str().and_then(|text| time::parse_time(text).ok()).map(time::format_time),
        Scalar::MicroTime => {
            value.as_str().and_then(|text| time::parse_micro_time(text).ok()).map(time::format_micro_time)
        }
        _ => None,
    };
    if let Some(canonical) = canonical
        && value.as_str() != Some(&canonical)
    {
        *value = canonical.into();
    }
}
