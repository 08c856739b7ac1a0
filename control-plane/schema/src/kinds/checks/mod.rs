//! The vocabulary of validation: each check takes where it looks and adds to what is wrong, in upstream's words
//! (apimachinery `util/validation`, `pkg/apis/core/validation`).

mod labels;
pub(crate) mod names;

use serde_json::Value;

pub(crate) use self::labels::{check_labels, check_selector, selector_is_empty, selector_matches};
pub(crate) use self::names::{
    config_key_problems, dns_label_problems, dns_subdomain_problems, dns1035_label_problems, env_name_problems,
    http_header_problems, ip_problems, label_value_problems, port_name_problems, qualified_name_problems,
};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{int, same, text};

/// What an immutable field says when it changes.
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// What a negative number says.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Adds an error for each problem found with a string.
pub(crate) fn report(errors: &mut ErrorList, path: &Path, value: &str, problems: Vec<String>) {
    errors.extend(problems.into_iter().map(|problem| Error::invalid(path.clone(), value, problem)));
}

/// A field that must hold a string: its value, or an error and `None`.
pub(crate) fn required<'a>(errors: &mut ErrorList, object: &'a Value, path: &Path, key: &str) -> Option<&'a str> {
    let value = text(object, key);
    if value.is_empty() {
        errors.push(Error::required(path.child(key), ""));
        return None;
    }
    Some(value)
}

/// A string field that is one of a few values, if it is there.
pub(crate) fn one_of(errors: &mut ErrorList, object: &Value, path: &Path, key: &str, supported: &[&str]) {
    let value = text(object, key);
    if !value.is_empty() && !supported.contains(&value) {
        errors.push(Error::not_supported(path.child(key), value, supported));
    }
}

/// A string field that must be there and be one of a few values.
pub(crate) fn required_one_of(errors: &mut ErrorList, object: &Value, path: &Path, key: &str, supported: &[&str]) {
    if required(errors, object, path, key).is_some() {
        one_of(errors, object, path, key, supported);
    }
}

/// An integer field that may not be negative, if it is there.
pub(crate) fn not_negative(errors: &mut ErrorList, object: &Value, path: &Path, key: &str) {
    if let Some(number) = int(object, key).filter(|n| *n < 0) {
        errors.push(Error::invalid(path.child(key), number, NOT_NEGATIVE));
    }
}

/// An integer field within bounds, if it is there.
pub(crate) fn in_range(errors: &mut ErrorList, object: &Value, path: &Path, key: &str, low: i64, high: i64) {
    if let Some(number) = int(object, key).filter(|n| !(low..=high).contains(n)) {
        let detail = format!("must be between {low} and {high}, inclusive");
        errors.push(Error::invalid(path.child(key), number, detail));
    }
}

/// A port number.
pub(crate) fn port_number(errors: &mut ErrorList, path: &Path, number: i64) {
    if !(1..=65535).contains(&number) {
        errors.push(Error::invalid(path.clone(), number, "must be between 1 and 65535, inclusive"));
    }
}

/// A port's number or name.
pub(crate) fn port_number_or_name(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::Number(number) => port_number(errors, path, number.as_i64().unwrap_or_default()),
        Value::String(name) => report(errors, path, name, port_name_problems(name)),
        _ => errors.push(Error::invalid(path.clone(), 0, "must be between 1 and 65535, inclusive")),
    }
}

/// A count of pods: an integer that is not negative, or a percentage.
pub(crate) fn int_or_percent(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::Null => {}
        Value::Number(number) => {
            if number.as_i64().is_none_or(|n| n < 0) {
                errors.push(Error::invalid(path.clone(), value.clone(), NOT_NEGATIVE));
            }
        }
        Value::String(text) if percent(value).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                          '93%', regex used for validation is '[0-9]+%')";
            errors.push(Error::invalid(path.clone(), text.as_str(), detail));
        }
        Value::String(_) => {}
        other => {
            errors.push(Error::invalid(path.clone(), other.clone(), "must be an integer or percentage (e.g '5%%')"))
        }
    }
}

/// The number of a percentage such as `25%`.
pub(crate) fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().unwrap_or(i64::MAX))
}

/// A percentage of at most 100.
pub(crate) fn at_most_all(errors: &mut ErrorList, path: &Path, value: &Value) {
    if percent(value).is_some_and(|p| p > 100) {
        errors.push(Error::invalid(path.clone(), value.clone(), "must not be greater than 100%"));
    }
}

/// A field that may not change.
pub(crate) fn immutable(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    if !same(new, old) {
        errors.push(Error::invalid(path.clone(), new.clone(), IMMUTABLE));
    }
}
