//! When a container is started again: its own policy, and rules that stand above it (KEP-5307).

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::one_of;
use crate::kinds::json::{at, list, text};

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const MAX_RULES: usize = 20;
const MAX_VALUES: usize = 255;

pub(super) fn check_restart(errors: &mut ErrorList, container: &Value, path: &Path) {
    let rules = list(container, "restartPolicyRules");
    if text(container, "restartPolicy").is_empty() {
        if !rules.is_empty() {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(Error::required(path.child("restartPolicy"), detail));
        }
    } else {
        one_of(errors, container, path, "restartPolicy", &POLICIES);
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > MAX_RULES {
        errors.push(Error::too_many(path.clone(), rules.len(), MAX_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        required_choice(errors, rule, "action", &["Restart", "RestartAllContainers"], &path);
        let codes = at(rule, "exitCodes");
        let path = path.child("exitCodes");
        if codes.is_null() {
            errors.push(Error::required(path, "must be specified"));
            continue;
        }
        required_choice(errors, codes, "operator", &["In", "NotIn"], &path);
        let values = list(codes, "values").len();
        if values > MAX_VALUES {
            errors.push(Error::too_many(path.child("values"), values, MAX_VALUES));
        }
    }
}

fn required_choice(errors: &mut ErrorList, object: &Value, key: &str, supported: &[&str], path: &Path) {
    match text(object, key) {
        "" => errors.push(Error::required(path.child(key), "must be specified")),
        _ => one_of(errors, object, path, key, supported),
    }
}
