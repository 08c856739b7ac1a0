//! Which objects a quota is about: `spec.scopes` and `spec.scopeSelector`.

use serde_json::Value;

use super::{Kind, crosses_namespaces, is_best_effort};
use crate::kinds::json::{at, int, list, text};

/// Whether an object of the kind is within all of the quota's scopes.
pub fn matches(kind: Kind<'_>, quota: &Value, object: &Value) -> bool {
    let plain = list(quota, "spec.scopes").iter().filter_map(Value::as_str);
    plain.map(|scope| (scope, "Exists", &[][..])).chain(selectors(quota)).all(|(scope, operator, values)| {
        match (kind.group, kind.plural) {
            ("", "pods") => pod(scope, operator, values, object),
            ("", "persistentvolumeclaims") => claim(scope, operator, values, object),
            // Nothing else has scopes, so quotas with scopes are not about it.
            _ => false,
        }
    })
}

fn selectors(quota: &Value) -> impl Iterator<Item = (&str, &str, &[Value])> {
    list(quota, "spec.scopeSelector.matchExpressions")
        .iter()
        .map(|term| (text(term, "scopeName"), text(term, "operator"), list(term, "values")))
}

fn pod(scope: &str, operator: &str, values: &[Value], pod: &Value) -> bool {
    let terminating = || int(pod, "spec.activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        "PriorityClass" => {
            let class = text(pod, "spec.priorityClassName");
            selected(operator, values, Some(class).filter(|c| !c.is_empty()))
        }
        _ => false,
    }
}

fn claim(scope: &str, operator: &str, values: &[Value], claim: &Value) -> bool {
    if scope != "VolumeAttributesClass" {
        return false;
    }
    let classes: Vec<&str> = [
        "spec.volumeAttributesClassName",
        "status.currentVolumeAttributesClassName",
        "status.modifyVolumeStatus.targetVolumeAttributesClassName",
    ]
    .into_iter()
    .map(|path| at(claim, path).as_str().unwrap_or_default())
    .filter(|class| !class.is_empty())
    .collect();
    if classes.is_empty() {
        return selected(operator, values, None);
    }
    classes.into_iter().any(|class| selected(operator, values, Some(class)))
}

/// A label selector's term about one label, whose value this is.
fn selected(operator: &str, values: &[Value], value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| values.iter().any(|v| v == value));
    match operator {
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "In" => listed(),
        "NotIn" => !listed(),
        _ => false,
    }
}
