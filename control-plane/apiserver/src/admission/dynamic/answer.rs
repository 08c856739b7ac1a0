//! What webhooks say (apiserver `admission/plugin/webhook/request/admissionreview.go`, `.../errors`).

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::Value;
use xebec_schema::status::{Cause, Details, Status};

use crate::json::text;

/// An answer that makes sense.
#[derive(Debug)]
pub(super) struct Answer {
    pub allowed: bool,
    /// JSON patch operations.
    pub patch: Option<Value>,
    pub annotations: Vec<(String, String)>,
    pub warnings: Vec<String>,
    /// Why not.
    pub status: Value,
}

/// Reads the answer to the review with a UID.
///
/// # Errors
///
/// In upstream's words.
pub(super) fn read(body: &[u8], uid: &str, v1: bool, mutating: bool) -> Result<Answer, String> {
    let review: Value =
        serde_json::from_slice(body).map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    if v1 {
        check_v1(&review, uid, patch.is_some(), mutating)?;
    }
    let patch = match patch.filter(|_| mutating) {
        None => None,
        Some(encoded) => {
            let bytes = STANDARD.decode(encoded).map_err(|e| format!("illegal base64 data in response.patch: {e}"))?;
            Some(serde_json::from_slice(&bytes).map_err(|e| format!("response.patch is no JSON: {e}"))?)
        }
    };
    let entries = response["auditAnnotations"].as_object().into_iter().flatten();
    let warnings = response["warnings"].as_array().into_iter().flatten();
    Ok(Answer {
        allowed: response["allowed"].as_bool().unwrap_or(false),
        patch,
        annotations: entries.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
        warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
        status: response["status"].clone(),
    })
}

fn check_v1(review: &Value, uid: &str, patch: bool, mutating: bool) -> Result<(), String> {
    let (version, kind) = (text(review, "/apiVersion"), text(review, "/kind"));
    if version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let said = format!("{group}/{version}, Kind={kind}");
        return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {said}"));
    }
    let response = &review["response"];
    if text(response, "/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "/uid")));
    }
    let patch_type = response["patchType"].as_str();
    match (mutating, patch, patch_type) {
        (false, true, _) => Err("validating webhook may not return response.patch".into()),
        (false, false, Some(_)) => Err("validating webhook may not return response.patchType".into()),
        (true, true, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, false, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (true, true, Some(other)) if other != "JSONPatch" => {
            Err(format!("webhook returned invalid response.patchType of {other:?}"))
        }
        _ => Ok(()),
    }
}

/// The Status of a request that a webhook has denied.
pub(super) fn denied(webhook: &str, status: &Value) -> Status {
    let by = format!("admission webhook {webhook:?} denied the request");
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|c| (400..600).contains(c));
    let (message, reason) = (text(status, "/message"), text(status, "/reason"));
    let message = match (message, reason) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let details = status["details"].as_object().map(|_| Box::new(details(&status["details"])));
    Status { code: code.unwrap_or(400), reason: known_reason(reason), message, details }
}

fn details(value: &Value) -> Details {
    let cause = |cause: &Value| Cause {
        reason: text(cause, "/reason").to_owned(),
        message: text(cause, "/message").to_owned(),
        field: text(cause, "/field").to_owned(),
    };
    Details {
        name: text(value, "/name").to_owned(),
        group: text(value, "/group").to_owned(),
        kind: text(value, "/kind").to_owned(),
        uid: text(value, "/uid").to_owned(),
        causes: value["causes"].as_array().into_iter().flatten().map(cause).collect(),
        retry_after_seconds: value["retryAfterSeconds"].as_u64().and_then(|s| u32::try_from(s).ok()).unwrap_or(0),
    }
}

/// The most reasons of webhooks' own making that are passed on.
const MAX_REASONS: usize = 256;
const MAX_REASON_BYTES: usize = 64;
static REASONS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// A reason as Statuses carry it. They are few, and live as long as the process; a webhook that makes up more than fit
/// goes without.
pub(super) fn known_reason(reason: &str) -> &'static str {
    if reason.is_empty() || reason.len() > MAX_REASON_BYTES {
        return "";
    }
    let mut known = REASONS.lock();
    if let Some(known) = known.get(reason) {
        return known;
    }
    if known.len() >= MAX_REASONS {
        return "";
    }
    let kept: &'static str = Box::leak(reason.to_owned().into_boxed_str());
    known.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review(response: Value) -> Vec<u8> {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).to_string().into()
    }

    #[test]
    fn answers_are_checked() {
        let error = |body: &[u8], mutating: bool| read(body, "u", true, mutating).expect_err("an error");
        assert_eq!(error(b"{}", true), "webhook response was absent");
        assert!(error(b"nonsense", true).starts_with("couldn't get version/kind; json parse error"));
        assert_eq!(error(&review(json!({"uid": "x"})), true), "expected response.uid=\"u\", got \"x\"");
        assert_eq!(
            error(br#"{"response": {}}"#, true),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="
        );
        let patch = json!({"uid": "u", "allowed": true, "patch": "W10="});
        assert_eq!(error(&review(patch.clone()), true), "webhook returned response.patch but not response.patchType");
        assert_eq!(error(&review(patch), false), "validating webhook may not return response.patch");
        let answer = read(
            &review(json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch",
            "warnings": ["w"], "auditAnnotations": {"a": "b"}})),
            "u",
            true,
            true,
        )
        .expect("an answer");
        assert_eq!(answer.patch, Some(json!([])));
        assert_eq!((answer.warnings, answer.annotations.len(), answer.allowed), (vec!["w".to_owned()], 1, true));
        // The older version says less.
        let answer = read(br#"{"response": {"allowed": true, "patch": "W10="}}"#, "u", false, true).expect("an answer");
        assert!(answer.patch.is_some());
    }

    #[test]
    fn denials_are_upstreams() {
        let status = denied("a.b.c", &json!({"message": "no", "code": 403, "reason": "Forbidden"}));
        assert_eq!((status.code, status.reason), (403, "Forbidden"));
        assert_eq!(status.message, "admission webhook \"a.b.c\" denied the request: no");
        let status = denied("a.b.c", &Value::Null);
        assert_eq!((status.code, status.reason), (400, ""));
        assert_eq!(status.message, "admission webhook \"a.b.c\" denied the request without explanation");
        assert_eq!(
            denied("a.b.c", &json!({"code": 200, "reason": "Mine"})).message,
            "admission webhook \"a.b.c\" denied the request: Mine"
        );
    }
}
