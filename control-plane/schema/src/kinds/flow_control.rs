//! Priority and fairness (`pkg/apis/flowcontrol`).

use serde_json::{Value, json};

use super::checks::{dns_subdomain_problems, in_range, not_negative, report, required, required_one_of};
use super::json::{at, default_int, default_to, has, int, list, set, text, within};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const FLOW_SCHEMA: Strategy = Strategy {
    default: |schema| within(schema, "spec", |spec| default_int(spec, "matchingPrecedence", DEFAULT_PRECEDENCE)),
    prepare_create: |schema| set(schema, "status", json!({})),
    prepare_update: super::keep_status,
    validate: check_schema,
    validate_update: |new, _| check_schema(new),
    generation: true,
    ..PLAIN
};

pub(super) const PRIORITY_LEVEL: Strategy = Strategy {
    default: default_level,
    prepare_create: |level| set(level, "status", json!({})),
    prepare_update: super::keep_status,
    validate: check_level,
    validate_update: |new, _| check_level(new),
    generation: true,
    ..PLAIN
};

const DEFAULT_PRECEDENCE: i64 = 1000;
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;

fn default_level(level: &mut Value) {
    let Some(spec) = level.get_mut("spec").filter(|s| s.is_object()) else { return };
    within(spec, "exempt", |exempt| {
        default_to(exempt, "nominalConcurrencyShares", 0);
        default_to(exempt, "lendablePercent", 0);
    });
    within(spec, "limited", |limited| {
        default_to(limited, "nominalConcurrencyShares", 30);
        default_to(limited, "lendablePercent", 0);
        within(limited, "limitResponse", |response| {
            within(response, "queuing", |queuing| {
                default_int(queuing, "handSize", 8);
                default_int(queuing, "queues", 64);
                default_int(queuing, "queueLengthLimit", 50);
            });
        });
    });
    if text(spec, "type") == "Exempt" {
        default_to(spec, "exempt", json!({"nominalConcurrencyShares": 0, "lendablePercent": 0}));
    }
}

fn check_schema(schema: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(schema, "spec"), Path::new("spec"));
    let precedence = int(spec, "matchingPrecedence").unwrap_or_default();
    if precedence <= 0 {
        let detail = "must be a positive value";
        errors.push(Error::invalid(path.child("matchingPrecedence"), precedence, detail));
    }
    if precedence > MAX_PRECEDENCE {
        let detail = format!("must not be greater than {MAX_PRECEDENCE}");
        errors.push(Error::invalid(path.child("matchingPrecedence"), precedence, detail));
    }
    if precedence == 1 && text(schema, "metadata.name") != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(Error::invalid(path.child("matchingPrecedence"), precedence, detail));
    }
    if has(spec, "distinguisherMethod") {
        let method = at(spec, "distinguisherMethod");
        let path = path.child("distinguisherMethod");
        required_one_of(&mut errors, method, &path, "type", &["ByNamespace", "ByUser"]);
    }
    let (level, at_level) = (text(spec, "priorityLevelConfiguration.name"), path.child("priorityLevelConfiguration"));
    if level.is_empty() {
        let detail = "must reference a priority level";
        errors.push(Error::required(at_level.child("name"), detail));
    } else {
        report(&mut errors, &at_level.child("name"), level, dns_subdomain_problems(level));
    }
    for (index, rule) in list(spec, "rules").iter().enumerate() {
        check_rule(&mut errors, rule, &path.child("rules").index(index));
    }
    errors
}

fn check_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    if list(rule, "subjects").is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(Error::required(path.child("subjects"), detail));
    }
    for (index, subject) in list(rule, "subjects").iter().enumerate() {
        check_subject(errors, subject, &path.child("subjects").index(index));
    }
    let (resources, others) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(Error::required(path.clone(), detail));
    }
    for (index, resource) in resources.iter().enumerate() {
        let path = path.child("resourceRules").index(index);
        for key in ["verbs", "apiGroups", "resources"] {
            if list(resource, key).is_empty() {
                let detail = format!("{key} must contain at least one value");
                errors.push(Error::required(path.child(key), detail));
            }
        }
        if list(resource, "namespaces").is_empty() && at(resource, "clusterScope") != true {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(Error::required(path.child("namespaces"), detail));
        }
    }
    for (index, other) in others.iter().enumerate() {
        let path = path.child("nonResourceRules").index(index);
        for key in ["verbs", "nonResourceURLs"] {
            if list(other, key).is_empty() {
                let detail = format!("{key} must contain at least one value");
                errors.push(Error::required(path.child(key), detail));
            }
        }
        for (n, url) in list(other, "nonResourceURLs").iter().filter_map(Value::as_str).enumerate() {
            if url != "*" && !url.starts_with('/') {
                let detail = "must start with slash";
                errors.push(Error::invalid(path.child("nonResourceURLs").index(n), url, detail));
            }
        }
    }
}

fn check_subject(errors: &mut ErrorList, subject: &Value, path: &Path) {
    let key = match text(subject, "kind") {
        "ServiceAccount" => "serviceAccount",
        "User" => "user",
        "Group" => "group",
        other => {
            let kinds = ["Group", "ServiceAccount", "User"];
            errors.push(Error::not_supported(path.child("kind"), other, &kinds));
            return;
        }
    };
    for (other, word) in [("serviceAccount", "ServiceAccount"), ("user", "User"), ("group", "Group")] {
        if other != key && has(subject, other) {
            let detail = format!("{other} is forbidden when subject kind is not '{word}'");
            errors.push(Error::forbidden(path.child(other), detail));
        }
    }
    if !has(subject, key) {
        let detail = format!("{key} is required when subject kind is '{}'", text(subject, "kind"));
        errors.push(Error::required(path.child(key), detail));
        return;
    }
    required(errors, at(subject, key), &path.child(key), "name");
    if key == "serviceAccount" {
        required(errors, at(subject, key), &path.child(key), "namespace");
    }
}

fn check_level(level: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(level, "spec"), Path::new("spec"));
    let name = text(level, "metadata.name");
    if name == "exempt" && text(spec, "type") != "Exempt" {
        let detail = "type must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(Error::invalid(path.child("type"), text(spec, "type"), detail));
    }
    match text(spec, "type") {
        "Exempt" => {
            if name != "exempt" {
                let detail = "type must be 'Exempt' if and only if `name` is 'exempt'";
                errors.push(Error::invalid(path.child("type"), "Exempt", detail));
            }
            if has(spec, "limited") {
                let detail = "must be nil if the type is not Limited";
                errors.push(Error::forbidden(path.child("limited"), detail));
            }
            check_shares(&mut errors, at(spec, "exempt"), &path.child("exempt"));
        }
        "Limited" => {
            if has(spec, "exempt") {
                let detail = "must be nil if the type is Limited";
                errors.push(Error::forbidden(path.child("exempt"), detail));
            }
            if has(spec, "limited") {
                check_limited(&mut errors, at(spec, "limited"), &path.child("limited"));
            } else {
                let detail = "must not be empty when type is Limited";
                errors.push(Error::required(path.child("limited"), detail));
            }
        }
        other => errors.push(Error::not_supported(path.child("type"), other, &["Exempt", "Limited"])),
    }
    errors
}

fn check_shares(errors: &mut ErrorList, level: &Value, path: &Path) {
    if let Some(shares) = int(level, "nominalConcurrencyShares").filter(|n| *n < 0) {
        let detail = "must be a non-negative integer";
        errors.push(Error::invalid(path.child("nominalConcurrencyShares"), shares, detail));
    }
    in_range(errors, level, path, "lendablePercent", 0, 100);
}

fn check_limited(errors: &mut ErrorList, limited: &Value, path: &Path) {
    check_shares(errors, limited, path);
    not_negative(errors, limited, path, "borrowingLimitPercent");
    let (response, path) = (at(limited, "limitResponse"), path.child("limitResponse"));
    match text(response, "type") {
        "Reject" => {
            if has(response, "queuing") {
                let detail = "must be nil if limited.limitResponse.type is not Limited";
                errors.push(Error::forbidden(path.child("queuing"), detail));
            }
        }
        "Queue" => {
            if has(response, "queuing") {
                check_queuing(errors, at(response, "queuing"), &path.child("queuing"));
            } else {
                let detail = "must not be empty if limited.limitResponse.type is Limited";
                errors.push(Error::required(path.child("queuing"), detail));
            }
        }
        "" => errors.push(Error::required(path.child("type"), "")),
        other => errors.push(Error::not_supported(path.child("type"), other, &["Queue", "Reject"])),
    }
}

fn check_queuing(errors: &mut ErrorList, queuing: &Value, path: &Path) {
    for key in ["queueLengthLimit", "queues", "handSize"] {
        let number = int(queuing, key).unwrap_or_default();
        if number <= 0 {
            errors.push(Error::invalid(path.child(key), number, "must be positive"));
        }
    }
    let (queues, hand) = (int(queuing, "queues").unwrap_or_default(), int(queuing, "handSize").unwrap_or_default());
    if queues > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        errors.push(Error::invalid(path.child("queues"), queues, detail));
    }
    if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.push(Error::invalid(path.child("handSize"), hand, detail));
    }
}
