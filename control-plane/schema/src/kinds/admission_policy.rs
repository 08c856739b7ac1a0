//! Admission policies and their bindings (`pkg/apis/admissionregistration`). Expressions are compiled by
//! [`crate::policy`].

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::checks::{check_selector, dns_subdomain_problems, one_of, qualified_name_problems, report, required};
use super::json::{at, default_text, default_to, has, list, list_mut, set, text, within};
use super::webhook_configuration::{check_match_conditions, check_param_kind, check_rule};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const VALIDATING: Strategy = Strategy {
    default: |policy| default(policy, false),
    prepare_create: |policy| set(policy, "status", json!({})),
    prepare_update: super::keep_status,
    validate: check_validating,
    validate_update: |new, _| check_validating(new),
    generation: true,
    ..PLAIN
};

pub(super) const VALIDATING_BINDING: Strategy = Strategy {
    default: default_binding,
    validate: |binding| check_binding(binding, false),
    validate_update: |new, _| check_binding(new, false),
    generation: true,
    ..PLAIN
};

pub(super) const MUTATING: Strategy = Strategy {
    default: |policy| default(policy, true),
    validate: check_mutating,
    validate_update: |new, _| check_mutating(new),
    generation: true,
    ..PLAIN
};

pub(super) const MUTATING_BINDING: Strategy = Strategy {
    default: default_binding,
    validate: |binding| check_binding(binding, true),
    validate_update: |new, _| check_binding(new, true),
    generation: true,
    ..PLAIN
};

const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_MESSAGE_BYTES: usize = 1024;

fn default(policy: &mut Value, mutating: bool) {
    let Some(spec) = policy.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_to(spec, "failurePolicy", "Fail");
    if mutating {
        default_text(spec, "reinvocationPolicy", "Never");
    }
    within(spec, "matchConstraints", default_match);
}

fn default_binding(binding: &mut Value) {
    if let Some(matching) = binding.pointer_mut("/spec/matchResources") {
        default_match(matching);
    }
}

fn default_match(matching: &mut Value) {
    default_to(matching, "matchPolicy", "Equivalent");
    default_to(matching, "namespaceSelector", json!({}));
    default_to(matching, "objectSelector", json!({}));
    for key in ["resourceRules", "excludeResourceRules"] {
        for rule in list_mut(matching, key) {
            default_to(rule, "scope", "*");
        }
    }
}

fn check_common(errors: &mut ErrorList, spec: &Value, path: &Path) {
    match text(spec, "failurePolicy") {
        "" => errors.push(Error::required(path.child("failurePolicy"), "")),
        _ => one_of(errors, spec, path, "failurePolicy", &["Fail", "Ignore"]),
    }
    check_param_kind(errors, at(spec, "paramKind"), &path.child("paramKind"));
    let at_constraints = path.child("matchConstraints");
    if has(spec, "matchConstraints") {
        check_match(errors, at(spec, "matchConstraints"), &at_constraints);
        if list(spec, "matchConstraints.resourceRules").is_empty() {
            errors.push(Error::required(at_constraints.child("resourceRules"), ""));
        }
    } else {
        errors.push(Error::required(at_constraints, ""));
    }
    check_match_conditions(errors, list(spec, "matchConditions"), &path.child("matchConditions"));
    check_variables(errors, list(spec, "variables"), &path.child("variables"));
}

fn check_variables(errors: &mut ErrorList, variables: &[Value], path: &Path) {
    let mut names = BTreeSet::new();
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = required(errors, variable, &path, "name") {
            let identifier = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !identifier {
                let detail = "name is not a valid CEL identifier";
                errors.push(Error::invalid(path.child("name"), name, detail));
            }
            if !names.insert(name) {
                errors.push(Error::duplicate(path.child("name"), name));
            }
        }
        if text(variable, "expression").trim().is_empty() {
            errors.push(Error::required(path.child("expression"), "expression is not specified"));
        }
    }
}

fn check_match(errors: &mut ErrorList, matching: &Value, path: &Path) {
    match text(matching, "matchPolicy") {
        "" => errors.push(Error::required(path.child("matchPolicy"), "")),
        _ => one_of(errors, matching, path, "matchPolicy", &["Equivalent", "Exact"]),
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if has(matching, key) {
            check_selector(errors, at(matching, key), &path.child(key));
        } else {
            errors.push(Error::required(path.child(key), ""));
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(matching, key).iter().enumerate() {
            check_rule(errors, rule, &path.child(key).index(index), true);
        }
    }
}

fn check_validating(policy: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(policy, "spec"), Path::new("spec"));
    check_common(&mut errors, spec, &path);
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(Error::required(path.child("validations"), detail));
        errors.push(Error::required(path.child("auditAnnotations"), detail));
    }
    for (index, validation) in validations.iter().enumerate() {
        check_validation(&mut errors, validation, &path.child("validations").index(index));
    }
    let at_annotations = path.child("auditAnnotations");
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.push(Error::invalid(at_annotations.clone(), annotations.to_vec(), detail));
    }
    let mut keys = BTreeSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let path = at_annotations.index(index);
        if let Some(key) = required(&mut errors, annotation, &path, "key") {
            let whole = format!("{}/{key}", text(policy, "metadata.name"));
            report(&mut errors, &path.child("key"), key, qualified_name_problems(&whole));
            if !keys.insert(key) {
                errors.push(Error::duplicate(path.child("key"), key));
            }
        }
        if text(annotation, "valueExpression").trim().is_empty() {
            errors.push(Error::required(path.child("valueExpression"), "valueExpression is not specified"));
        }
    }
    errors.extend(crate::policy::policy(spec, false).1);
    errors
}

fn check_validation(errors: &mut ErrorList, validation: &Value, path: &Path) {
    let (expression, message) = (text(validation, "expression").trim(), text(validation, "message"));
    if expression.is_empty() {
        errors.push(Error::required(path.child("expression"), "expression is not specified"));
    }
    let given = has(validation, "messageExpression");
    if given && text(validation, "messageExpression").trim().is_empty() {
        let detail = "must be non-empty if specified";
        errors.push(Error::invalid(path.child("messageExpression"), text(validation, "messageExpression"), detail));
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(path.child("message"), message, "message must be non-empty if specified"));
    } else if message.trim().contains('\n') {
        errors.push(Error::invalid(path.child("message"), message, "message must not contain line breaks"));
    } else if message.is_empty() && expression.contains('\n') && !given {
        let detail = "message must be specified if expression contains line breaks";
        errors.push(Error::required(path.child("message"), detail));
    }
    if message.len() > MAX_MESSAGE_BYTES {
        errors.push(Error::too_long(path.child("message"), MAX_MESSAGE_BYTES));
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    one_of(errors, validation, path, "reason", &reasons);
}

fn check_mutating(policy: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(policy, "spec"), Path::new("spec"));
    check_common(&mut errors, spec, &path);
    let mutations = list(spec, "mutations");
    if mutations.is_empty() {
        errors.push(Error::required(path.child("mutations"), "mutations must contain at least one item"));
    }
    for (index, mutation) in mutations.iter().enumerate() {
        let path = path.child("mutations").index(index);
        let (apply, patch) = (at(mutation, "applyConfiguration"), at(mutation, "jsonPatch"));
        let expression = |source: &Value| text(source, "expression").trim().is_empty();
        match text(mutation, "patchType") {
            "ApplyConfiguration" if apply.is_null() => {
                let detail = "must be specified when patchType is ApplyConfiguration";
                errors.push(Error::required(path.child("applyConfiguration"), detail));
            }
            "ApplyConfiguration" if expression(apply) => {
                let detail = "expression is not specified";
                errors.push(Error::required(path.child("applyConfiguration").child("expression"), detail));
            }
            "JSONPatch" if patch.is_null() => {
                let detail = "must be specified when patchType is JSONPatch";
                errors.push(Error::required(path.child("jsonPatch"), detail));
            }
            "JSONPatch" if expression(patch) => {
                let detail = "expression is not specified";
                errors.push(Error::required(path.child("jsonPatch").child("expression"), detail));
            }
            "ApplyConfiguration" | "JSONPatch" => {}
            "" => errors.push(Error::required(path.child("patchType"), "")),
            other => {
                let types = ["ApplyConfiguration", "JSONPatch"];
                errors.push(Error::not_supported(path.child("patchType"), other, &types));
            }
        }
    }
    match text(spec, "reinvocationPolicy") {
        "" => errors.push(Error::required(path.child("reinvocationPolicy"), "")),
        _ => one_of(&mut errors, spec, &path, "reinvocationPolicy", &["IfNeeded", "Never"]),
    }
    errors.extend(crate::policy::policy(spec, true).1);
    errors
}

fn check_binding(binding: &Value, mutating: bool) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(binding, "spec"), Path::new("spec"));
    if let Some(name) = required(&mut errors, spec, &path, "policyName") {
        report(&mut errors, &path.child("policyName"), name, dns_subdomain_problems(name));
    }
    check_param_ref(&mut errors, at(spec, "paramRef"), &path.child("paramRef"));
    if has(spec, "matchResources") {
        check_match(&mut errors, at(spec, "matchResources"), &path.child("matchResources"));
    }
    if mutating {
        return errors;
    }
    let (actions, path) = (list(spec, "validationActions"), path.child("validationActions"));
    if actions.is_empty() {
        errors.push(Error::required(path.clone(), "at least one validation action is required"));
    }
    let mut seen = BTreeSet::new();
    for action in actions.iter().filter_map(Value::as_str) {
        if !matches!(action, "Audit" | "Deny" | "Warn") {
            errors.push(Error::not_supported(path.clone(), action, &["Audit", "Deny", "Warn"]));
        }
        if !seen.insert(action) {
            errors.push(Error::duplicate(path.clone(), action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                      API response and headers serves no purpose)";
        errors.push(Error::invalid(path, actions.to_vec(), detail));
    }
    errors
}

fn check_param_ref(errors: &mut ErrorList, reference: &Value, path: &Path) {
    if reference.is_null() {
        return;
    }
    let (name, selector) = (text(reference, "name"), at(reference, "selector"));
    match (name.is_empty(), selector.is_null()) {
        (false, false) => {
            errors.push(Error::forbidden(path.child("name"), "name and selector are mutually exclusive"));
        }
        (true, true) => errors.push(Error::required(path.clone(), "one of name or selector must be specified")),
        (false, true) => report(errors, &path.child("name"), name, dns_subdomain_problems(name)),
        (true, false) => check_selector(errors, selector, &path.child("selector")),
    }
    match text(reference, "parameterNotFoundAction") {
        "" => errors.push(Error::required(path.child("parameterNotFoundAction"), "")),
        _ => one_of(errors, reference, path, "parameterNotFoundAction", &["Allow", "Deny"]),
    }
}
