//! What a job makes of its pods' failures and successes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{NOT_NEGATIVE, one_of, qualified_name_problems, report, required_one_of};
use crate::kinds::json::{at, has, int, list, text};

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITIONS: usize = 20;
/// The longest list of indexes.
const MAX_INDEXES_BYTES: usize = 64 * 1024;

/// `podFailurePolicy`.
pub(super) fn check_failure_policy(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let rules = list(spec, "podFailurePolicy.rules");
    let path = path.child("rules");
    if rules.len() > MAX_RULES {
        errors.push(Error::too_many(path.clone(), rules.len(), MAX_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        required_one_of(errors, rule, &path, "action", &["Count", "FailIndex", "FailJob", "Ignore"]);
        if text(rule, "action") == "FailIndex" && !has(spec, "backoffLimitPerIndex") {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(Error::invalid(path.child("action"), "FailIndex", detail));
        }
        if has(rule, "onExitCodes") {
            check_exit_codes(errors, spec, at(rule, "onExitCodes"), &path.child("onExitCodes"));
        }
        check_conditions(errors, list(rule, "onPodConditions"), &path.child("onPodConditions"));
        match (has(rule, "onExitCodes"), list(rule, "onPodConditions").is_empty()) {
            (true, false) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(Error::invalid(path, rule.clone(), detail));
            }
            (false, true) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(Error::invalid(path, rule.clone(), detail));
            }
            _ => {}
        }
    }
}

fn check_exit_codes(errors: &mut ErrorList, spec: &Value, codes: &Value, path: &Path) {
    required_one_of(errors, codes, path, "operator", &["In", "NotIn"]);
    if let Some(name) = at(codes, "containerName").as_str() {
        let known = ["containers", "initContainers"]
            .into_iter()
            .any(|key| list(at(spec, "template.spec"), key).iter().any(|container| text(container, "name") == name));
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(Error::invalid(path.child("containerName"), name, detail));
        }
    }
    let (values, path) = (list(codes, "values"), path.child("values"));
    if values.is_empty() {
        errors.push(Error::invalid(path.clone(), values.to_vec(), "at least one value is required"));
    } else if values.len() > MAX_EXIT_CODES {
        errors.push(Error::too_many(path.clone(), values.len(), MAX_EXIT_CODES));
    }
    let (mut seen, mut last, mut ordered) = (BTreeSet::new(), i64::MIN, true);
    for (index, value) in values.iter().enumerate() {
        let code = value.as_i64().unwrap_or_default();
        if text(codes, "operator") == "In" && code == 0 {
            errors.push(Error::invalid(path.index(index), 0, "must not be 0 for the In operator"));
        }
        if !seen.insert(code) {
            errors.push(Error::duplicate(path.index(index), code));
        }
        ordered &= last <= code;
        last = code;
    }
    if !ordered {
        errors.push(Error::invalid(path, values.to_vec(), "must be ordered"));
    }
}

fn check_conditions(errors: &mut ErrorList, conditions: &[Value], path: &Path) {
    if conditions.len() > MAX_CONDITIONS {
        errors.push(Error::too_many(path.clone(), conditions.len(), MAX_CONDITIONS));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = text(condition, "type");
        report(errors, &path.child("type"), kind, qualified_name_problems(kind));
        let status = text(condition, "status");
        if status.is_empty() {
            errors.push(Error::required(path.child("status"), "valid values: \"False\", \"True\", \"Unknown\""));
        } else {
            one_of(errors, condition, &path, "status", &["False", "True", "Unknown"]);
        }
    }
}

/// `successPolicy`.
pub(super) fn check_success_policy(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let policy = at(spec, "successPolicy");
    if policy.is_null() {
        return;
    }
    if text(spec, "completionMode") != "Indexed" {
        errors.push(Error::invalid(path.clone(), policy.clone(), "requires indexed completion mode"));
        return;
    }
    let (rules, path) = (list(policy, "rules"), path.child("rules"));
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(Error::required(path.clone(), detail));
    }
    if rules.len() > MAX_RULES {
        errors.push(Error::too_many(path.clone(), rules.len(), MAX_RULES));
    }
    let completions = int(spec, "completions").unwrap_or_default();
    for (index, rule) in rules.iter().enumerate() {
        check_success_rule(errors, rule, completions, &path.index(index));
    }
}

fn check_success_rule(errors: &mut ErrorList, rule: &Value, completions: i64, path: &Path) {
    let (indexes, count) = (at(rule, "succeededIndexes").as_str(), int(rule, "succeededCount"));
    if indexes.is_none() && count.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(Error::required(path.clone(), detail));
    }
    let mut listed = None;
    if let Some(indexes) = indexes {
        let path = path.child("succeededIndexes");
        if indexes.len() > MAX_INDEXES_BYTES {
            errors.push(Error::too_long(path.clone(), MAX_INDEXES_BYTES));
        }
        match count_indexes(indexes, completions) {
            Ok(n) => listed = Some(n),
            Err(error) => {
                let detail = format!("error parsing succeededIndexes: {error}");
                errors.push(Error::invalid(path, indexes, detail));
            }
        }
    }
    let Some(count) = count else { return };
    let path = path.child("succeededCount");
    if count < 0 {
        errors.push(Error::invalid(path.clone(), count, NOT_NEGATIVE));
    }
    if count > completions {
        let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(Error::invalid(path.clone(), count, detail));
    }
    if let Some(listed) = listed.filter(|listed| count > *listed) {
        let detail = format!(
            "must be less than or equal to {listed} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(Error::invalid(path, count, detail));
    }
}

/// How many indexes a list such as `0,2-5` has: they go up, and stay below the completions.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut count, mut last) = (0, -1);
    for part in text.split(',') {
        let number = |digits: &str| {
            let parsed = digits
                .parse::<i64>()
                .map_err(|_| format!("cannot convert string to integer for index: \"{digits}\""))?;
            if parsed >= completions {
                return Err(format!("too large index: \"{digits}\""));
            }
            Ok(parsed)
        };
        let limits: Vec<_> = part.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment \"{part}\" violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let low = number(limits[0])?;
        if low <= last {
            return Err(format!("non-increasing order, previous: {last}, current: {low}"));
        }
        last = match limits.get(1) {
            None => low,
            Some(digits) => {
                let high = number(digits)?;
                if high <= low {
                    return Err(format!("non-increasing order, previous: {low}, current: {high}"));
                }
                high
            }
        };
        count += last - low + 1;
    }
    Ok(count)
}
