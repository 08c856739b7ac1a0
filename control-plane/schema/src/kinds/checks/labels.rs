//! Labels and label selectors (apimachinery `metav1/validation`).

use serde_json::Value;

use super::{label_value_problems, qualified_name_problems, report, required};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{entries, list, text};

/// A map of labels. As upstream, the path of each error is the map's, not the entry's.
pub(crate) fn check_labels(errors: &mut ErrorList, object: &Value, key: &str, path: &Path) {
    for (name, value) in entries(object, key) {
        report(errors, path, name, qualified_name_problems(name));
        let value = value.as_str().unwrap_or_default();
        report(errors, path, value, label_value_problems(value));
    }
}

/// A label selector in its JSON form.
pub(crate) fn check_selector(errors: &mut ErrorList, selector: &Value, path: &Path) {
    check_labels(errors, selector, "matchLabels", &path.child("matchLabels"));
    for (index, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        check_requirement(errors, requirement, &path.child("matchExpressions").index(index));
    }
}

fn check_requirement(errors: &mut ErrorList, requirement: &Value, path: &Path) {
    let values = list(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(Error::required(path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    if let Some(key) = required(errors, requirement, path, "key") {
        report(errors, &path.child("key"), key, qualified_name_problems(key));
    }
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        report(errors, &path.child("values").index(index), value, label_value_problems(value));
    }
}

/// A selector that selects everything.
pub(crate) fn selector_is_empty(selector: &Value) -> bool {
    entries(selector, "matchLabels").is_empty() && list(selector, "matchExpressions").is_empty()
}

/// Whether a selector selects what has the labels `labels` (a JSON map).
pub(crate) fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let equal = entries(selector, "matchLabels").into_iter().all(|(k, v)| labels.get(k) == Some(v));
    let expressions = list(selector, "matchExpressions").iter().all(|requirement| {
        let value = labels.get(text(requirement, "key"));
        let listed = value.is_some_and(|v| list(requirement, "values").contains(v));
        match text(requirement, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_match_and_are_judged() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "NotIn", "values": ["x"]}, {"key": "c", "operator": "Exists"}]});
        assert!(selector_matches(&selector, &json!({"a": "1", "c": ""})));
        assert!(!selector_matches(&selector, &json!({"a": "1", "b": "x", "c": ""})));
        assert!(!selector_matches(&selector, &json!({"a": "2", "c": ""})));
        let mut errors = Vec::new();
        let wrong = json!({"matchExpressions": [{"key": "b", "operator": "In"}, {"key": "", "operator": "Like"}]});
        check_selector(&mut errors, &wrong, &Path::new("spec.selector"));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or \
             'NotIn'",
                "spec.selector.matchExpressions[1].operator: Invalid value: \"Like\": not a valid selector operator",
                "spec.selector.matchExpressions[1].key: Required value",
            ]
        );
    }
}
