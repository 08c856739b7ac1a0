//! Certificate signing requests (`pkg/apis/certificates/validation`). Who asks (`spec.username` and its like) is the
//! server's to fill in, from the request's user, before anything is checked.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::checks::required;
use super::clear_status;
use super::json::{at, carry_over, default_text, default_to, has, int, list, set, text, within};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    prepare_create: clear_status,
    // The request does not change; approval and issuing have subresources of their own.
    prepare_update: |new, old| {
        carry_over(new, old, "spec");
        carry_over(new, old, "status");
    },
    prepare_status,
    validate,
    validate_update: |_, _| Vec::new(),
    validate_status,
    fields: |request| vec![("spec.signerName", text(request, "spec.signerName").to_owned())],
    ..PLAIN
};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The shortest certificate that may be asked for.
const MIN_SECONDS: i64 = 600;

/// Approval changes conditions alone, of any type; the status keeps what approval said
/// (`pkg/registry/certificates/certificates/strategy.go`). Times that are not given are filled in.
fn prepare_status(part: &str, new: &mut Value, old: &Value, now: Timestamp) {
    let before = list(old, "status.conditions");
    let is_approval = |c: &&Value| matches!(text(c, "type"), "Approved" | "Denied");
    let mut conditions = list(new, "status.conditions").to_vec();
    match part {
        "approval" => carry_over(new, old, "status"),
        "status" => {
            let given = conditions.into_iter().filter(|c| !is_approval(&c));
            conditions = before.iter().filter(is_approval).cloned().chain(given).collect();
        }
        _ => return,
    }
    for condition in &mut conditions {
        let same = before.iter().find(|b| text(b, "type") == text(condition, "type"));
        let changed = same.is_none_or(|b| text(b, "status") != text(condition, "status"));
        let since = same.filter(|_| !changed).map(|b| text(b, "lastTransitionTime").to_owned());
        let since = since.filter(|time| !time.is_empty()).unwrap_or_else(|| now.to_string());
        default_text(condition, "lastUpdateTime", &now.to_string());
        default_text(condition, "lastTransitionTime", &since);
    }
    if !conditions.is_empty() || has(new, "status.conditions") {
        default_to(new, "status", json!({}));
        within(new, "status", |status| set(status, "conditions", conditions));
    }
}

fn validate(request: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(request, "spec"), Path::new("spec"));
    check_pem(&mut errors, text(spec, "request"), &path.child("request"));
    let usages = list(spec, "usages");
    if usages.is_empty() {
        errors.push(Error::required(path.child("usages"), ""));
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in usages.iter().enumerate() {
        let (path, usage) = (path.child("usages").index(index), usage.as_str().unwrap_or_default());
        if !USAGES.contains(&usage) {
            errors.push(Error::not_supported(path.clone(), usage, &USAGES));
        }
        if !seen.insert(usage) {
            errors.push(Error::duplicate(path, usage));
        }
    }
    if let Some(signer) = required(&mut errors, spec, &path, "signerName") {
        let path = path.child("signerName");
        match signer.split_once('/') {
            Some((domain, name)) if !domain.is_empty() && !name.is_empty() => {
                if !domain.contains('.') {
                    let detail = "should be a domain with at least two segments separated by dots";
                    errors.push(Error::invalid(path, domain, detail));
                }
            }
            _ => errors.push(Error::invalid(
                path,
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            )),
        }
    }
    if let Some(seconds) = int(spec, "expirationSeconds").filter(|s| *s < MIN_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(path.child("expirationSeconds"), seconds, detail));
    }
    errors
}

/// The form of a PEM block; the signature is checked where it is signed.
fn check_pem(errors: &mut ErrorList, request: &str, path: &Path) {
    let text = STANDARD.decode(request).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let begins = ["-----BEGIN CERTIFICATE REQUEST-----", "-----BEGIN NEW CERTIFICATE REQUEST-----"];
    if !begins.iter().any(|begin| text.contains(begin)) {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(Error::invalid(path.clone(), request, detail));
    }
}

fn validate_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status.conditions");
    let is = |object: &Value, kind: &str| list(object, "status.conditions").iter().any(|c| text(c, "type") == kind);
    if is(new, "Approved") && is(new, "Denied") {
        let index = list(new, "status.conditions").len().saturating_sub(1);
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.push(Error::invalid(
            path.index(index).child("type"),
            text(&list(new, "status.conditions")[index], "type"),
            detail,
        ));
    }
    for kind in ["Approved", "Denied", "Failed"] {
        if is(old, kind) && !is(new, kind) {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.push(Error::forbidden(path.clone(), detail));
        }
    }
    let (certificate, before) = (text(new, "status.certificate"), text(old, "status.certificate"));
    if !before.is_empty() && certificate != before {
        let detail = "updates may not set certificate content";
        errors.push(Error::forbidden(Path::new("status.certificate"), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approval_changes_conditions_and_the_status_keeps_them() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let old = json!({ "status": { "certificate": "eA==" } });
        let mut new = json!({
            "metadata": { "annotations": { "a": "b" } },
            "status": { "conditions": [{ "type": "Other", "status": "True" }, { "type": "Approved", "status": "True" }] },
        });
        prepare_status("approval", &mut new, &old, now);
        assert_eq!(new["metadata"]["annotations"]["a"], "b");
        assert_eq!(new["status"]["certificate"], "eA==");
        assert_eq!(new["status"]["conditions"][0]["type"], "Other");
        assert_eq!(new["status"]["conditions"][1]["lastUpdateTime"], "2026-01-01T00:00:00Z");

        let later: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut status =
            json!({ "status": { "conditions": [{ "type": "Denied" }, { "type": "Other", "status": "True" }] } });
        prepare_status("status", &mut status, &new, later);
        let kinds: Vec<_> = list(&status, "status.conditions").iter().map(|c| text(c, "type")).collect();
        assert_eq!(kinds, ["Approved", "Other"]);
        assert_eq!(status["status"]["conditions"][1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }
}
