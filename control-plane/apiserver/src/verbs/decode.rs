//! From the body of a request to an object whose types are right, unknown fields gone, defaults filled in.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use xebec_schema::custom::Custom;
use xebec_schema::status::{Cause, Details, Status};
use xebec_schema::types::{self, Definition};
use xebec_schema::{convert, decode, defaults, protobuf, walk};

use super::origin::Origin;
use super::yaml;
use crate::chain::Call;
use crate::query::Query;

/// What Go clients send.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What happens to fields that the kind does not have, and to repeated ones (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and the client is told.
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// From the query; warning is the default.
    ///
    /// # Errors
    ///
    /// 422 for any other word.
    pub fn of(query: &Query) -> Result<Self, Status> {
        match query.get("fieldValidation") {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(invalid_option(
                query_kind(query),
                "fieldValidation",
                &format!("Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""),
                "FieldValueNotSupported",
            )),
        }
    }
}

fn query_kind(query: &Query) -> &'static str {
    if query.has("force") { "PatchOptions" } else { "CreateOptions" }
}

/// 422 for an option of the request.
pub fn invalid_option(kind: &str, field: &str, body: &str, reason: &str) -> Status {
    let cause = Cause { reason: reason.into(), message: body.into(), field: field.into() };
    let details = Details { group: "meta.k8s.io".into(), kind: kind.into(), causes: vec![cause], ..Details::default() };
    let message = format!("{kind}.meta.k8s.io \"\" is invalid: {field}: {body}");
    Status { details: Some(Box::new(details)), ..Status::new(422, "Invalid", message) }
}

/// Whether nothing is to be stored.
///
/// # Errors
///
/// 422 for anything but `dryRun=All`.
pub fn dry_run(query: &Query) -> Result<bool, Status> {
    let mut values = query.all("dryRun").filter(|value| !value.is_empty()).peekable();
    let any = values.peek().is_some();
    match values.find(|value| *value != "All") {
        None => Ok(any),
        Some(other) => Err(invalid_option(
            "CreateOptions",
            "dryRun",
            &format!("Unsupported value: [\"{other}\"]: supported values: \"All\""),
            "FieldValueNotSupported",
        )),
    }
}

/// A body as JSON, and where it comes from. `definition` is what it is to be, which a body in protobuf cannot be read
/// without.
///
/// # Errors
///
/// 415 for an encoding we do not speak, 400 for what is not in the encoding that it says.
pub fn document(
    headers: &HeaderMap,
    body: &Bytes,
    definition: Option<&Definition>,
) -> Result<(Value, Origin<'static>), Status> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match (content_type.split(';').next().unwrap_or_default().trim(), definition) {
        ("" | "application/json" | "text/plain" | "application/x-www-form-urlencoded", _) => json(body),
        ("application/yaml" | "application/x-yaml" | "text/yaml", _) => yaml(body),
        (PROTOBUF, Some(definition)) => {
            let envelope = protobuf::envelope(body).map_err(|e| Status::bad_request(e.to_string()))?;
            let value = envelope.to_json(definition).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok((value, Origin::default()))
        }
        (_, definition) => {
            let mut message = "the body of the request was in an unknown format - accepted media types include: \
                application/json, application/yaml"
                .to_owned();
            if definition.is_some() {
                message.push_str(&format!(", {PROTOBUF}"));
            }
            Err(Status::new(415, "UnsupportedMediaType", message))
        }
    }
}

/// A body of JSON.
///
/// # Errors
///
/// 400 if it is something else.
pub fn json(body: &Bytes) -> Result<(Value, Origin<'static>), Status> {
    let decoded = decode::from_json(body).map_err(|e| Status::bad_request(e.to_string()))?;
    Ok((decoded.value, Origin::json(body.clone(), decoded.duplicates)))
}

/// A body of YAML. Of a repeated key, the last value counts.
///
/// # Errors
///
/// 400 if it is something else.
pub fn yaml(body: &[u8]) -> Result<(Value, Origin<'static>), Status> {
    let value = yaml_lenient(body).map_err(Status::bad_request)?;
    let repeated = yaml::repeated(body).ok().flatten();
    Ok((value, Origin::yaml(repeated.into_iter().collect())))
}

/// An applied configuration: YAML, of which JSON is a part. Of a repeated key, the last value counts.
///
/// # Errors
///
/// What is wrong with it.
pub fn yaml_lenient(body: &[u8]) -> Result<Value, String> {
    if let Ok(decoded) = decode::from_json(body) {
        return Ok(decoded.value);
    }
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_slice_with_options(body, options).map_err(|e| format!("error converting YAML to JSON: {e}"))
}

/// Whether an applied configuration, which [`yaml_lenient`] reads, repeats a key.
///
/// # Errors
///
/// Which ones.
pub fn yaml_strict(body: &[u8]) -> Result<(), String> {
    // Reading JSON as JSON is a lot faster, and most of it repeats nothing.
    if decode::from_json(body).is_ok_and(|decoded| decoded.duplicates.is_empty()) {
        return Ok(());
    }
    let why = match yaml::repeated(body) {
        Ok(None) => return Ok(()),
        Ok(Some(told)) => told,
        Err(why) => format!("yaml: {why}"),
    };
    Err(format!("error converting YAML to JSON: {why}"))
}

/// The kind that a body has to be of.
pub struct Expected<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// How its objects look; `None` permits everything.
    pub definition: Option<&'a Definition>,
}

impl Expected<'_> {
    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// The definition of a built-in type: `autoscaling.v1.Scale`.
pub fn definition(name: &str) -> Option<&'static Definition> {
    types::definition(&format!("io.k8s.api.{name}"))
}

/// Decodes a body into an object of the call's kind, in the stored version.
///
/// # Errors
///
/// 400 and 415, in upstream's words.
pub fn object(call: &mut Call, body: &Bytes) -> Result<Value, Status> {
    // A custom resource has no form in protobuf.
    let definition = call.resource.definition().filter(|_| call.resource.custom.is_none());
    let (value, origin) = document(&call.parts.headers, body, definition)?;
    checked(call, value, &origin)
}

/// The same for a document that is not the body as it came: the outcome of a patch.
///
/// # Errors
///
/// 400; 422 for what a patch made.
pub fn checked(call: &mut Call, value: Value, origin: &Origin<'_>) -> Result<Value, Status> {
    let resource = call.resource.clone();
    if let Some(custom) = &resource.custom {
        return self::custom(call, custom, value, origin);
    }
    let expected = Expected {
        group: &resource.group,
        version: &resource.version,
        kind: &resource.kind,
        definition: resource.definition(),
    };
    let mut object = typed(call, &expected, value, origin)?;
    defaults::apply(&resource, &mut object);
    if convert::is_converted(&resource) {
        convert::to_stored(&resource, &mut object);
        // What the stored version has, and the served one cannot say.
        let stored = call.stored.clone();
        defaults::apply(&stored, &mut object);
    }
    Ok(object)
}

/// [`checked`] for a custom resource.
fn custom(call: &mut Call, custom: &Custom, mut value: Value, origin: &Origin<'_>) -> Result<Value, Status> {
    let validation = FieldValidation::of(&call.query)?;
    let resource = call.resource.clone();
    let said = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (said_version, said_kind) = (said("apiVersion"), said("kind"));
    if said_kind.is_empty() {
        return Err(Status::bad_request(format!("Object 'Kind' is missing in '{value}'")));
    }
    let api_version = resource.api_version();
    if said_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({said_version}) does not match the expected API version ({api_version})"
        )));
    }
    let refused = |value: &Value, why: String| origin.refused(&resource.kind, &resource.version, value, why);
    if said_kind != resource.kind {
        return Err(refused(&value, "the kind does not match".to_owned()));
    }
    let unknown = custom.coerce(&mut value).map_err(|why| refused(&value, why))?;
    if validation != FieldValidation::Ignore {
        // What is repeated is found while decoding, what is unknown afterwards.
        let mut strict = origin.repeated.clone();
        strict.extend(unknown.into_iter().map(|name| format!("unknown field \"{name}\"")));
        if !strict.is_empty() && validation == FieldValidation::Strict {
            return Err(refused(&value, format!("strict decoding error: {}", strict.join(", "))));
        }
        call.warnings.extend(strict);
    }
    custom.default(&mut value);
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("selfLink");
    }
    Ok(value)
}

/// Checks a document against the kind it has to be of; drops what the kind does not have. Defaults are not filled in.
///
/// # Errors
///
/// 400.
pub fn typed(call: &mut Call, expected: &Expected<'_>, mut value: Value, origin: &Origin<'_>) -> Result<Value, Status> {
    let validation = FieldValidation::of(&call.query)?;
    let Some(object) = value.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: \
             json: cannot unmarshal into Go value of type struct",
            expected.kind
        )));
    };
    let api_version = expected.api_version();
    for (key, wanted) in [("apiVersion", api_version.as_str()), ("kind", expected.kind)] {
        let said = object.entry(key).or_insert_with(|| wanted.into());
        if said.as_str() == Some("") || said.is_null() {
            *said = wanted.into();
        }
    }
    let said = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (said_version, said_kind) = (said("apiVersion"), said("kind"));
    if said_kind != expected.kind {
        let version = said_version.rsplit('/').next().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "{said_kind} in version \"{version}\" cannot be handled as a {}: the kind does not match",
            expected.kind
        )));
    }
    if said_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({said_version}) does not match the expected API version ({api_version})"
        )));
    }
    let refused = |why: String| origin.refused(expected.kind, expected.version, &value, why);
    if let Some(definition) = expected.definition {
        origin.check(definition, &value).map_err(refused)?;
    }
    if validation != FieldValidation::Ignore {
        let unknown = expected.definition.map_or_else(Vec::new, |definition| walk::unknown(definition, &value));
        let strict = origin.strict(unknown);
        if !strict.is_empty() && validation == FieldValidation::Strict {
            return Err(refused(format!("strict decoding error: {}", strict.join(", "))));
        }
        call.warnings.extend(strict);
    }
    if let Some(definition) = expected.definition {
        walk::prune_as(definition, &mut value);
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("selfLink");
    }
    Ok(value)
}
