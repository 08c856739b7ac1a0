//! Bundles of trusted certificates, and requests of pods for certificates (`pkg/apis/certificates/validation`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::checks::{dns_subdomain_problems, immutable, in_range, report, required};
use super::json::{at, default_to, has, int, list, set, text, within};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{NameRule, PLAIN, Strategy};

pub(super) const BUNDLE: Strategy = Strategy {
    validate: check_bundle,
    validate_update: |new, old| {
        let mut errors = check_bundle(new);
        let key = "spec.signerName";
        immutable(&mut errors, &Path::new(key), at(new, key), at(old, key));
        errors
    },
    fields: |bundle| vec![("spec.signerName", text(bundle, "spec.signerName").to_owned())],
    // Colons stand for the signer's slash.
    name: NameRule::PathSegment,
    ..PLAIN
};

pub(super) const POD_REQUEST: Strategy = Strategy {
    default: |request| within(request, "spec", |spec| default_to(spec, "maxExpirationSeconds", MAX_SECONDS)),
    prepare_create: |request| set(request, "status", json!({})),
    prepare_update: super::keep_status,
    validate: check_request,
    validate_update: |new, old| {
        let mut errors = Vec::new();
        immutable(&mut errors, &Path::new("spec"), at(new, "spec"), at(old, "spec"));
        errors
    },
    validate_status: check_request_status,
    fields: |request| {
        let field = |path: &str| text(request, path).to_owned();
        vec![
            ("spec.signerName", field("spec.signerName")),
            ("spec.podName", field("spec.podName")),
            ("spec.nodeName", field("spec.nodeName")),
        ]
    },
    ..PLAIN
};

/// No certificate that a pod asks for is good for less.
pub(super) const MIN_SECONDS: i64 = 3600;
const MAX_SECONDS: i64 = 86_400;
const MAX_SECONDS_OF_OTHERS: i64 = 91 * 86_400;
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;

fn check_bundle(bundle: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (signer, name) = (text(bundle, "spec.signerName"), text(bundle, "metadata.name"));
    let (path, at_name) = (Path::new("spec"), Path::new("metadata").child("name"));
    if signer.is_empty() {
        if name.contains(':') {
            let detail = "ClusterTrustBundle without signer name must not have \":\" in its name";
            errors.push(Error::invalid(at_name, name, detail));
        }
    } else {
        check_signer(&mut errors, signer, &path.child("signerName"));
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !name.starts_with(&prefix) {
            let detail = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            errors.push(Error::invalid(at_name, name, detail));
        }
    }
    let text = text(bundle, "spec.trustBundle");
    let path = path.child("trustBundle");
    if text.len() > MAX_BUNDLE_BYTES {
        errors.push(Error::too_long(path.clone(), MAX_BUNDLE_BYTES));
        return errors;
    }
    if let Err(detail) = check_certificates(text) {
        errors.push(Error::invalid(path, "<value omitted>", detail));
    }
    errors
}

/// PEM blocks of certificates, one at least.
fn check_certificates(text: &str) -> Result<(), String> {
    const BEGIN: &str = "-----BEGIN ";
    let (mut rest, mut count) = (text, 0);
    while let Some(start) = rest.find(BEGIN) {
        let block = &rest[start + BEGIN.len()..];
        let label = block.split("-----").next().unwrap_or_default();
        if label != "CERTIFICATE" {
            return Err(format!("entry {count} has bad block type: {label}"));
        }
        let end = format!("-----END {label}-----");
        let Some(stop) = block.find(&end) else { return Err(format!("entry {count} does not end")) };
        let body: String = block[label.len() + 5..stop].split_whitespace().collect();
        if STANDARD.decode(&body).is_err() {
            return Err(format!("entry {count} does not parse as X.509: not base64"));
        }
        rest = &block[stop + end.len()..];
        count += 1;
    }
    if count == 0 { Err("must contain at least one trust anchor".to_owned()) } else { Ok(()) }
}

/// `example.com/signer`.
pub(super) fn check_signer(errors: &mut ErrorList, signer: &str, path: &Path) {
    match signer.split_once('/') {
        Some((domain, name)) if !domain.is_empty() && !name.is_empty() => {
            if !domain.contains('.') {
                let detail = "should be a domain with at least two segments separated by dots";
                errors.push(Error::invalid(path.clone(), domain, detail));
            }
            report(errors, path, domain, dns_subdomain_problems(domain));
        }
        _ => {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(Error::invalid(path.clone(), signer, detail));
        }
    }
}

/// For how long a certificate of a signer's may be good at most.
pub(super) fn most_seconds(signer: &str) -> i64 {
    if signer.starts_with("kubernetes.io/") { MAX_SECONDS } else { MAX_SECONDS_OF_OTHERS }
}

fn check_request(request: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(request, "spec"), Path::new("spec"));
    let signer = text(spec, "signerName");
    check_signer(&mut errors, signer, &path.child("signerName"));
    for key in ["podName", "serviceAccountName", "nodeName"] {
        let name = text(spec, key);
        report(&mut errors, &path.child(key), name, dns_subdomain_problems(name));
    }
    for key in ["podUID", "serviceAccountUID", "nodeUID"] {
        let uid = text(spec, key);
        if uid.is_empty() {
            errors.push(Error::invalid(path.child(key), uid, "must not be empty"));
        } else if uid.len() > 128 {
            errors.push(Error::too_long(path.child(key), 128));
        }
    }
    if int(spec, "maxExpirationSeconds").is_none() {
        errors.push(Error::required(path.child("maxExpirationSeconds"), "must be set"));
    }
    in_range(&mut errors, spec, &path, "maxExpirationSeconds", MIN_SECONDS, most_seconds(signer));
    required(&mut errors, spec, &path, "stubPKCS10Request");
    errors
}

fn check_request_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let known = |object: &Value| -> Vec<String> {
        list(object, "status.conditions").iter().map(|c| text(c, "type").to_owned()).collect()
    };
    for (index, kind) in known(new).iter().enumerate() {
        if !matches!(kind.as_str(), "Issued" | "Denied" | "Failed") {
            let path = path.child("conditions").index(index).child("type");
            errors.push(Error::not_supported(path, kind.as_str(), &["Denied", "Failed", "Issued"]));
        }
    }
    if known(new).len() > 1 {
        let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
        errors.push(Error::invalid(path.child("conditions"), at(new, "status.conditions").clone(), detail));
    }
    if !known(old).is_empty() {
        immutable(&mut errors, &path, at(new, "status"), at(old, "status"));
    }
    if known(new).iter().any(|kind| kind == "Issued") && !has(new, "status.certificateChain") {
        errors.push(Error::required(path.child("certificateChain"), "must be set when issued"));
    }
    errors
}
