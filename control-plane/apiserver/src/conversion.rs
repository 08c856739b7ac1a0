//! Custom resources from version to version by webhook (apiextensions `apiserver/conversion`).

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use xebec_schema::custom::{Conversion, Custom};
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;

use crate::server::Shared;
use crate::webhook::Target;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The same objects in a row's version, in its form.
///
/// # Errors
///
/// 500 if a webhook is to be asked, and fails.
pub async fn convert(server: &Shared, row: &Resource, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
    let Some(custom) = &row.custom else { return Ok(objects) };
    let Conversion::Webhook(webhook) = custom.conversion() else {
        return Ok(objects.into_iter().map(|object| adopted(custom, object)).collect());
    };
    let foreign: Vec<&Value> = objects.iter().filter(|object| !custom.is_version_of(object)).collect();
    if foreign.is_empty() {
        return Ok(objects);
    }
    let failed = |why: String| {
        let from = foreign[0]["apiVersion"].as_str().unwrap_or_default();
        Status::internal(format!("conversion webhook for {from}, Kind={} {why}", row.kind))
    };
    let mut converted = ask(server, custom, webhook, &foreign).await.map_err(failed)?.into_iter();
    let mut out = Vec::with_capacity(objects.len());
    for object in &objects {
        if custom.is_version_of(object) {
            out.push(object.clone());
            continue;
        }
        let new = converted.next().ok_or_else(|| failed("failed: no object returned".into()))?;
        let index = out.len();
        let new = accepted(custom, object, new)
            .map_err(|why| failed(format!("returned invalid converted object at index {index}: {why}")))?;
        out.push(adopted(custom, new));
    }
    Ok(out)
}

fn adopted(custom: &Custom, mut object: Value) -> Value {
    custom.adopt(&mut object);
    object
}

/// What the webhook makes of the objects.
async fn ask(server: &Shared, custom: &Custom, webhook: &Value, objects: &[&Value]) -> Result<Vec<Value>, String> {
    let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let version = versions.into_iter().find(|v| matches!(*v, "v1" | "v1beta1"));
    let version = version.ok_or("failed: no supported conversion review versions")?;
    let uid = server.random.uuid();
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": { "uid": uid, "desiredAPIVersion": custom.api_version(), "objects": objects },
    });
    let target = Target::from_client_config(&webhook["clientConfig"]).map_err(|why| format!("failed: {why}"))?;
    let body = Bytes::from(review.to_string());
    let answer = server.webhooks.post(&target, body, TIMEOUT).await.map_err(|e| format!("failed: {e}"))?;
    let mut answer: Value = serde_json::from_slice(&answer).map_err(|e| format!("failed: {e}"))?;
    let response = answer["response"].take();
    if !response.is_object() {
        return Err("failed: no response provided".into());
    }
    if version == "v1" && response["uid"].as_str() != Some(&uid) {
        let said = response["uid"].as_str().unwrap_or_default();
        return Err(format!("failed: expected response.uid={uid:?}, got {said:?}"));
    }
    let status = response["result"]["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return Err(match response["result"]["message"].as_str().filter(|message| !message.is_empty()) {
            Some(message) => format!("failed: {message}"),
            None => format!("failed: response.result.status was '{status}', not 'Success'"),
        });
    }
    let converted = response["convertedObjects"].as_array().cloned().unwrap_or_default();
    if converted.len() != objects.len() {
        let (wanted, got) = (objects.len(), converted.len());
        return Err(format!("returned {got} objects, expected {wanted}"));
    }
    Ok(converted)
}

/// A converted object, if it is the same object: of its metadata, labels and annotations may differ.
fn accepted(custom: &Custom, original: &Value, mut converted: Value) -> Result<Value, String> {
    if !custom.is_version_of(&converted) {
        let said = converted["apiVersion"].as_str().unwrap_or_default();
        return Err(format!("invalid groupVersion (expected {}, received {said})", custom.api_version()));
    }
    for (path, called) in
        [("/kind", "kind"), ("/metadata/name", "name"), ("/metadata/namespace", "namespace"), ("/metadata/uid", "UID")]
    {
        let text = |object: &Value| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (was, is) = (text(original), text(&converted));
        if was != is {
            return Err(format!("must have the same {called}: {was} != {is}"));
        }
    }
    let Value::Object(said) = converted["metadata"].take() else {
        return Err("missing metadata in converted object".into());
    };
    let mut metadata = original["metadata"].as_object().cloned().unwrap_or_default();
    for name in ["labels", "annotations"] {
        match said.get(name).filter(|value| !value.is_null()) {
            None => {
                metadata.remove(name);
            }
            Some(Value::Object(entries)) => {
                texts(name, entries)?;
                metadata.insert(name.to_owned(), entries.clone().into());
            }
            Some(_) => return Err(format!("invalid metadata.{name} in converted object")),
        }
    }
    converted["metadata"] = metadata.into();
    Ok(converted)
}

fn texts(name: &str, entries: &Map<String, Value>) -> Result<(), String> {
    match entries.iter().find(|(_, value)| !value.is_string()) {
        Some((key, _)) => Err(format!("metadata.{name}[{key}] must be a string in converted object")),
        None => Ok(()),
    }
}
