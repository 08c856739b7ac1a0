//! Roles and bindings (`pkg/apis/rbac`). Whether a user may grant what they say is authorisation, not validation.

use serde_json::Value;

use super::checks::{check_selector, dns_subdomain_problems, report, required};
use super::json::{at, default_text, list, list_mut, same, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{NameRule, PLAIN, Strategy};

pub(super) const ROLE: Strategy = Strategy {
    validate: |role| check_rules(role, true),
    validate_update: |new, _| check_rules(new, true),
    name: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

pub(super) const CLUSTER_ROLE: Strategy = Strategy {
    validate: check_cluster_role,
    validate_update: |new, _| check_cluster_role(new),
    name: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

pub(super) const ROLE_BINDING: Strategy = Strategy {
    default: default_binding,
    validate: |binding| check_binding(binding, &["ClusterRole", "Role"]),
    validate_update: |new, old| check_binding_update(new, old, &["ClusterRole", "Role"]),
    name: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

pub(super) const CLUSTER_ROLE_BINDING: Strategy = Strategy {
    default: default_binding,
    validate: |binding| check_binding(binding, &["ClusterRole"]),
    validate_update: |new, old| check_binding_update(new, old, &["ClusterRole"]),
    name: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

const GROUP: &str = "rbac.authorization.k8s.io";

fn default_binding(binding: &mut Value) {
    if let Some(role) = binding.get_mut("roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in list_mut(binding, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn check_cluster_role(role: &Value) -> ErrorList {
    let mut errors = check_rules(role, false);
    let path = Path::new("aggregationRule").child("clusterRoleSelectors");
    let rule = at(role, "aggregationRule");
    if !rule.is_null() && list(rule, "clusterRoleSelectors").is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(Error::required(path.clone(), detail));
    }
    for (index, selector) in list(rule, "clusterRoleSelectors").iter().enumerate() {
        check_selector(&mut errors, selector, &path.index(index));
    }
    errors
}

fn check_rules(role: &Value, namespaced: bool) -> ErrorList {
    let mut errors = Vec::new();
    for (index, rule) in list(role, "rules").iter().enumerate() {
        check_rule(&mut errors, rule, namespaced, &Path::new("rules").index(index));
    }
    errors
}

fn check_rule(errors: &mut ErrorList, rule: &Value, namespaced: bool, path: &Path) {
    if list(rule, "verbs").is_empty() {
        errors.push(Error::required(path.child("verbs"), "verbs must contain at least one value"));
    }
    let urls = at(rule, "nonResourceURLs");
    let resources = ["apiGroups", "resources", "resourceNames"];
    if !list(rule, "nonResourceURLs").is_empty() {
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(Error::invalid(path.child("nonResourceURLs"), urls.clone(), detail));
        }
        if resources.iter().any(|key| !list(rule, key).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(Error::invalid(path.child("nonResourceURLs"), urls.clone(), detail));
        }
        return;
    }
    if list(rule, "apiGroups").is_empty() {
        let detail = "resource rules must supply at least one api group";
        errors.push(Error::required(path.child("apiGroups"), detail));
    }
    if list(rule, "resources").is_empty() {
        let detail = "resource rules must supply at least one resource";
        errors.push(Error::required(path.child("resources"), detail));
    }
}

fn check_binding(binding: &Value, kinds: &[&str]) -> ErrorList {
    let mut errors = Vec::new();
    let (role, path) = (at(binding, "roleRef"), Path::new("roleRef"));
    if text(role, "apiGroup") != GROUP {
        errors.push(Error::not_supported(path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]));
    }
    if !kinds.contains(&text(role, "kind")) {
        errors.push(Error::not_supported(path.child("kind"), text(role, "kind"), kinds));
    }
    if let Some(name) = required(&mut errors, role, &path, "name") {
        check_path_segment(&mut errors, name, &path.child("name"));
    }
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        check_subject(&mut errors, subject, &Path::new("subjects").index(index));
    }
    errors
}

fn check_path_segment(errors: &mut ErrorList, name: &str, path: &Path) {
    if name == "." || name == ".." {
        errors.push(Error::invalid(path.clone(), name, format!("may not be '{name}'")));
    }
    for illegal in ["/", "%"] {
        if name.contains(illegal) {
            errors.push(Error::invalid(path.clone(), name, format!("may not contain '{illegal}'")));
        }
    }
}

fn check_subject(errors: &mut ErrorList, subject: &Value, path: &Path) {
    let name = required(errors, subject, path, "name");
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            if let Some(name) = name {
                report(errors, &path.child("name"), name, dns_subdomain_problems(name));
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(path.child("apiGroup"), group, &[""]));
            }
            // Even in a namespace: the binding's own is not assumed.
            required(errors, subject, path, "namespace");
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::not_supported(path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => errors.push(Error::not_supported(path.child("kind"), other, &["ServiceAccount", "User", "Group"])),
    }
}

fn check_binding_update(new: &Value, old: &Value, kinds: &[&str]) -> ErrorList {
    let mut errors = check_binding(new, kinds);
    if !same(at(new, "roleRef"), at(old, "roleRef")) {
        errors.push(Error::invalid(Path::new("roleRef"), at(new, "roleRef").clone(), "cannot change roleRef"));
    }
    errors
}
