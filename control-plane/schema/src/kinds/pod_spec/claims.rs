//! Devices that a pod claims (`resource.k8s.io`), and their use by its containers.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{dns_label_problems, dns_subdomain_problems, report, required};
use crate::kinds::json::{has, list, text};

const NAMES: [&str; 2] = ["resourceClaimName", "resourceClaimTemplateName"];

/// Checks a pod's claims, and returns their names.
pub(super) fn check_claims<'a>(errors: &mut ErrorList, spec: &'a Value, path: &Path) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = path.child("resourceClaims").index(index);
        if let Some(name) = required(errors, claim, &path, "name") {
            report(errors, &path.child("name"), name, dns_label_problems(name));
            if !names.insert(name) {
                errors.push(Error::duplicate(path.child("name"), name));
            }
        }
        let detail = match NAMES.map(|key| has(claim, key)) {
            [true, true] => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            [false, false] => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => None,
        };
        errors.extend(detail.map(|detail| Error::invalid(path.clone(), claim.clone(), detail)));
        for key in NAMES.into_iter().filter(|key| has(claim, key)) {
            report(errors, &path.child(key), text(claim, key), dns_subdomain_problems(text(claim, key)));
        }
    }
    names
}

/// Checks that a container uses claims of its pod.
pub(super) fn check_used_claims(errors: &mut ErrorList, container: &Value, claims: &BTreeSet<&str>, path: &Path) {
    let mut used = BTreeSet::new();
    for (index, claim) in list(container, "resources.claims").iter().enumerate() {
        let (path, name) = (path.child("resources").child("claims").index(index), text(claim, "name"));
        if name.is_empty() {
            errors.push(Error::required(path, ""));
            continue;
        }
        if !used.insert((name, text(claim, "request"))) {
            errors.push(Error::duplicate(path.clone(), name));
        }
        if !claims.contains(name) {
            let known = if claims.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", claims.iter().copied().collect::<Vec<_>>().join(", "))
            };
            let mut error = Error::not_found(path, name);
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{known}");
            errors.push(error);
        }
    }
}
