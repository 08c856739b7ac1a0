//! Certificate signing requests (`pkg/apis/certificates/validation`). Who asks (`spec.username` and its like) is the
//! server's to fill in, from the request's user, before anything is checked.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::checks::required;
use super::clear_status;
use super::json::{at, carry_over, int, list, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    prepare_create: clear_status,
    // The request does not change; approval and issuing have subresources of their own.
    prepare_update: |new, old| {
        carry_over(new, old, "spec");
        carry_over(new, old, "status");
    },
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
