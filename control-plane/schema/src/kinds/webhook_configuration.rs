//! Configurations of admission webhooks (`pkg/apis/admissionregistration`). Expressions are compiled by
//! [`crate::policy`].

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::checks::{
    check_selector, dns_label_problems, dns_subdomain_problems, one_of, qualified_name_problems, report, required,
};
use super::json::{at, default_to, int, list, list_mut, text, within};
use crate::cel::admission::Sees;
use crate::field::{Error, ErrorList, Path};
use crate::policy;
use crate::resource::{PLAIN, Strategy};

pub(super) const MUTATING: Strategy = Strategy {
    default: |configuration| default(configuration, true),
    validate: |configuration| validate(configuration, true),
    validate_update: |new, _| validate(new, true),
    generation: true,
    ..PLAIN
};

pub(super) const VALIDATING: Strategy = Strategy {
    default: |configuration| default(configuration, false),
    validate: |configuration| validate(configuration, false),
    validate_update: |new, _| validate(new, false),
    generation: true,
    ..PLAIN
};

/// The versions of AdmissionReview that upstream speaks.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const MAX_MATCH_CONDITIONS: usize = 64;

fn default(configuration: &mut Value, mutating: bool) {
    for hook in list_mut(configuration, "webhooks") {
        default_to(hook, "failurePolicy", "Fail");
        default_to(hook, "matchPolicy", "Equivalent");
        default_to(hook, "namespaceSelector", json!({}));
        default_to(hook, "objectSelector", json!({}));
        default_to(hook, "timeoutSeconds", 10);
        if mutating {
            default_to(hook, "reinvocationPolicy", "Never");
        }
        within(hook, "clientConfig", |client| within(client, "service", |service| default_to(service, "port", 443)));
        for rule in list_mut(hook, "rules") {
            default_to(rule, "scope", "*");
        }
    }
}

fn validate(configuration: &Value, mutating: bool) -> ErrorList {
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (index, hook) in list(configuration, "webhooks").iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        check_hook(&mut errors, hook, &path, mutating);
        check_review_versions(&mut errors, list(hook, "admissionReviewVersions"), &path);
        if !text(hook, "name").is_empty() && !names.insert(text(hook, "name")) {
            errors.push(Error::duplicate(path.child("name"), text(hook, "name")));
        }
    }
    errors
}

fn check_review_versions(errors: &mut ErrorList, versions: &[Value], path: &Path) {
    let path = path.child("admissionReviewVersions");
    if versions.is_empty() {
        let detail = "must specify one of v1, v1beta1";
        errors.push(Error::required(path, detail));
        return;
    }
    let (mut seen, mut known) = (BTreeSet::new(), false);
    for (index, version) in versions.iter().filter_map(Value::as_str).enumerate() {
        if !seen.insert(version) {
            errors.push(Error::invalid(path.index(index), version, "duplicate version"));
        }
        let problems = super::checks::dns1035_label_problems(version);
        report(errors, &path.index(index), version, problems);
        known |= REVIEW_VERSIONS.contains(&version);
    }
    if !known {
        let detail = "must include at least one of v1, v1beta1";
        errors.push(Error::invalid(path, versions.to_vec(), detail));
    }
}

fn check_hook(errors: &mut ErrorList, hook: &Value, path: &Path, mutating: bool) {
    let name = text(hook, "name");
    check_fully_qualified(errors, name, &path.child("name"));
    for (index, rule) in list(hook, "rules").iter().enumerate() {
        check_rule(errors, rule, &path.child("rules").index(index), false);
    }
    one_of(errors, hook, path, "failurePolicy", &["Fail", "Ignore"]);
    one_of(errors, hook, path, "matchPolicy", &["Equivalent", "Exact"]);
    match at(hook, "sideEffects").as_str() {
        None => errors.push(Error::required(path.child("sideEffects"), "must specify one of None, NoneOnDryRun")),
        Some("None" | "NoneOnDryRun") => {}
        Some(other) => {
            errors.push(Error::not_supported(path.child("sideEffects"), other, &["None", "NoneOnDryRun"]));
        }
    }
    if let Some(seconds) = int(hook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(Error::invalid(path.child("timeoutSeconds"), seconds, detail));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        check_selector(errors, at(hook, key), &path.child(key));
    }
    if mutating {
        one_of(errors, hook, path, "reinvocationPolicy", &["IfNeeded", "Never"]);
    }
    check_client(errors, at(hook, "clientConfig"), &path.child("clientConfig"));
    let (conditions, path) = (list(hook, "matchConditions"), path.child("matchConditions"));
    check_match_conditions(errors, conditions, &path);
    policy::conditions(conditions, &path, Sees { authorizer: true, ..Sees::default() }, errors);
}

/// A name of at least three labels.
fn check_fully_qualified(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(Error::required(path.clone(), ""));
        return;
    }
    let problems = dns_subdomain_problems(name);
    if problems.is_empty() && name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(Error::invalid(path.clone(), name, detail));
    }
    report(errors, path, name, problems);
}

/// Conditions of a webhook or a policy: named, and not too many.
pub(super) fn check_match_conditions(errors: &mut ErrorList, conditions: &[Value], path: &Path) {
    if conditions.len() > MAX_MATCH_CONDITIONS {
        errors.push(Error::too_many(path.clone(), conditions.len(), MAX_MATCH_CONDITIONS));
    }
    let mut names = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if text(condition, "expression").trim().is_empty() {
            errors.push(Error::required(path.child("expression"), ""));
        }
        let name = text(condition, "name");
        if name.is_empty() {
            errors.push(Error::required(path.child("name"), ""));
            continue;
        }
        report(errors, &path.child("name"), name, qualified_name_problems(name));
        if !names.insert(name) {
            errors.push(Error::duplicate(path.child("name"), name));
        }
    }
}

/// Which requests a webhook or a policy is for.
pub(super) fn check_rule(errors: &mut ErrorList, rule: &Value, path: &Path, named: bool) {
    for key in ["apiGroups", "apiVersions", "resources"] {
        let (items, path) = (list(rule, key), path.child(key));
        if items.is_empty() {
            errors.push(Error::required(path.clone(), ""));
        }
        if items.len() > 1 && items.iter().any(|item| item == "*") && key != "resources" {
            let detail = "if '*' is present, must not specify other ".to_owned()
                + if key == "apiGroups" { "API groups" } else { "API versions" };
            errors.push(Error::invalid(path.clone(), items.to_vec(), detail));
        }
        if key == "apiVersions" {
            for (index, _) in items.iter().enumerate().filter(|(_, item)| *item == "") {
                errors.push(Error::required(path.index(index), ""));
            }
        }
    }
    check_resources(errors, list(rule, "resources"), &path.child("resources"));
    one_of(errors, rule, path, "scope", &["*", "Cluster", "Namespaced"]);
    check_operations(errors, list(rule, "operations"), &path.child("operations"));
    if named {
        let mut seen = BTreeSet::new();
        for (index, name) in list(rule, "resourceNames").iter().filter_map(Value::as_str).enumerate() {
            if !seen.insert(name) {
                errors.push(Error::duplicate(path.child("resourceNames").index(index), name));
            }
        }
    }
}

fn check_resources(errors: &mut ErrorList, resources: &[Value], path: &Path) {
    let all: Vec<_> = resources.iter().filter_map(Value::as_str).collect();
    // Whose subresources are covered by `x/*`, and which subresources by `*/y`.
    let (mut whose, mut which) = (BTreeSet::new(), BTreeSet::new());
    for (index, resource) in all.iter().enumerate() {
        let path = path.index(index);
        let (of, sub) = resource.split_once('/').unwrap_or((resource, ""));
        if resource.is_empty() {
            errors.push(Error::required(path.clone(), ""));
        }
        if whose.contains(of) && resource.contains('/') {
            let detail = format!("if '{of}/*' is present, must not specify {resource}");
            errors.push(Error::invalid(path.clone(), *resource, detail));
        }
        if which.contains(sub) && resource.contains('/') {
            let detail = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.push(Error::invalid(path, *resource, detail));
        }
        match (of, sub) {
            (_, "*") => whose.insert(of),
            ("*", sub) if !sub.is_empty() => which.insert(sub),
            _ => false,
        };
    }
    if all.len() > 1 && all.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(Error::invalid(path.clone(), resources.to_vec(), detail));
    }
    if all.contains(&"*") && all.iter().any(|resource| *resource != "*" && !resource.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(path.clone(), resources.to_vec(), detail));
    }
}

fn check_operations(errors: &mut ErrorList, operations: &[Value], path: &Path) {
    if operations.is_empty() {
        errors.push(Error::required(path.clone(), ""));
    }
    if operations.len() > 1 && operations.iter().any(|operation| operation == "*") {
        let detail = "if '*' is present, must not specify other operations";
        errors.push(Error::invalid(path.clone(), operations.to_vec(), detail));
    }
    for (index, operation) in operations.iter().enumerate() {
        let operation = operation.as_str().unwrap_or_default();
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        if !known.contains(&operation) {
            errors.push(Error::not_supported(path.index(index), operation, &known));
        }
    }
}

fn check_client(errors: &mut ErrorList, client: &Value, path: &Path) {
    let (url, service) = (at(client, "url").as_str(), at(client, "service"));
    match (url, service.is_null()) {
        (Some(_), false) | (None, true) => {
            let detail = "exactly one of url or service is required";
            errors.push(Error::required(path.clone(), detail));
        }
        (Some(url), true) => check_url(errors, url, &path.child("url")),
        (None, false) => check_service(errors, service, &path.child("service")),
    }
}

/// Upstream's form of the address of a webhook.
pub(super) fn check_url(errors: &mut ErrorList, url: &str, path: &Path) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut invalid = |detail: String| errors.push(Error::invalid(path.clone(), url, detail));
    let Some((scheme, rest)) = url.split_once("://") else {
        invalid(format!("url must be a valid URL{FORM}"));
        return;
    };
    if scheme != "https" {
        invalid(format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        invalid(format!("host must be specified{FORM}"));
    }
    if authority.contains('@') {
        invalid(format!("user information is not permitted in the URL{FORM}"));
    }
    if rest.contains('#') {
        invalid(format!("fragments are not permitted in the URL{FORM}"));
    }
    if rest.contains('?') {
        invalid(format!("query parameters are not permitted in the URL{FORM}"));
    }
}

fn check_service(errors: &mut ErrorList, service: &Value, path: &Path) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            let detail = format!("service {key} is required");
            errors.push(Error::required(path.child(key), detail));
        }
    }
    if let Some(port) = int(service, "port").filter(|p| !(1..=65535).contains(p)) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(path.child("port"), port, detail));
    }
    let Some(request) = at(service, "path").as_str() else { return };
    let path = path.child("path");
    if matches!(request, "" | "/") {
        return;
    }
    if !request.starts_with('/') {
        errors.push(Error::invalid(path.clone(), request, "must start with a '/'"));
    }
    let trimmed = request.strip_prefix('/').unwrap_or(request);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    for (index, step) in trimmed.split('/').enumerate() {
        if step.is_empty() {
            let detail = format!("segment[{index}] may not be empty");
            errors.push(Error::invalid(path.clone(), request, detail));
            continue;
        }
        for problem in dns_subdomain_problems(step) {
            errors.push(Error::invalid(path.clone(), request, format!("segment[{index}]: {problem}")));
        }
    }
}

/// A reference to a kind of parameters, and the namespace of one.
pub(super) fn check_param_kind(errors: &mut ErrorList, kind: &Value, path: &Path) {
    if kind.is_null() {
        return;
    }
    if let Some(version) = required(errors, kind, path, "apiVersion") {
        let parts: Vec<_> = version.split('/').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            let detail = format!("unexpected GroupVersion string: {version}");
            errors.push(Error::invalid(path.child("apiVersion"), version, detail));
        }
    }
    if let Some(name) = required(errors, kind, path, "kind") {
        report(errors, &path.child("kind"), name, dns_label_problems(&name.to_lowercase()));
    }
}
