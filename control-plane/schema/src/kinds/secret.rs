//! Secrets (`pkg/apis/core/validation`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::checks::{config_key_problems, immutable, report};
use super::config_map::{MAX_BYTES, check_immutable, decoded_len};
use super::json::{at, default_text, default_to, entries, set, text, unset, within};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_update,
    validate,
    validate_update,
    fields: |secret| vec![("type", text(secret, "type").to_owned())],
    ..PLAIN
};

/// `stringData` is for writing only: it goes into `data`, over what is there.
fn default(secret: &mut Value) {
    if let Some(Value::Object(strings)) = secret.get("stringData").cloned() {
        default_to(secret, "data", json!({}));
        for (key, value) in strings {
            if let Some(text) = value.as_str() {
                within(secret, "data", |data| set(data, &key, STANDARD.encode(text)));
            }
        }
    }
    unset(secret, "stringData");
    default_text(secret, "type", "Opaque");
}

/// An update that names no type keeps the one there is.
fn prepare_update(new: &mut Value, old: &Value) {
    default_text(new, "type", text(old, "type"));
}

fn validate(secret: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let data = Path::new("data");
    let mut total = 0;
    for (key, value) in entries(secret, "data") {
        report(&mut errors, &data.key(key), key, config_key_problems(key));
        total += decoded_len(value);
    }
    if total > MAX_BYTES {
        errors.push(Error::too_long(data.clone(), MAX_BYTES));
    }
    check_type(&mut errors, secret, &data);
    errors
}

const REDACTED: &str = "<secret contents redacted>";

fn check_type(errors: &mut ErrorList, secret: &Value, path: &Path) {
    let key = |key: &str| at(secret, "data").get(key);
    let mut need = |name: &str| {
        if key(name).is_none() {
            errors.push(Error::required(path.key(name), ""));
        }
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            let name = at(secret, "metadata.annotations").get(annotation).and_then(Value::as_str).unwrap_or_default();
            if name.is_empty() {
                let path = Path::new("metadata").child("annotations").key(annotation);
                errors.push(Error::required(path, ""));
            }
        }
        "kubernetes.io/dockercfg" => check_json(errors, secret, ".dockercfg", path),
        "kubernetes.io/dockerconfigjson" => check_json(errors, secret, ".dockerconfigjson", path),
        "kubernetes.io/basic-auth" if key("username").is_none() && key("password").is_none() => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if key("ssh-privatekey").is_none_or(|k| k == "") => {
            errors.push(Error::required(path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn check_json(errors: &mut ErrorList, secret: &Value, key: &str, path: &Path) {
    let Some(value) = at(secret, "data").get(key) else {
        errors.push(Error::required(path.key(key), ""));
        return;
    };
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        // The position only: the message must not quote what is secret.
        let detail = format!("not a JSON object at line {}, column {}", error.line(), error.column());
        errors.push(Error::invalid(path.key(key), REDACTED, detail));
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("type"), at(new, "type"), at(old, "type"));
    check_immutable(&mut errors, new, old, &["data"]);
    errors
}
