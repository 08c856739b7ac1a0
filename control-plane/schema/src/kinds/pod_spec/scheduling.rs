//! Where a pod may run: tolerations, affinity, spreading, gates.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{check_selector, label_value_problems, one_of, qualified_name_problems, report};
use crate::kinds::json::{at, has, int, list, text};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The effect of a taint or of a toleration.
pub(crate) fn check_taint_effect(errors: &mut ErrorList, object: &Value, may_be_empty: bool, path: &Path) {
    let effect = text(object, "effect");
    if effect.is_empty() && !may_be_empty {
        errors.push(Error::required(path.child("effect"), ""));
    } else {
        one_of(errors, object, path, "effect", &EFFECTS);
    }
}

/// Which taints a pod, or a runtime class, puts up with.
pub(crate) fn check_tolerations(errors: &mut ErrorList, tolerations: &[Value], path: &Path) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (text(toleration, "key"), text(toleration, "value"));
        let operator = text(toleration, "operator");
        if !key.is_empty() {
            report(errors, &path.child("key"), key, qualified_name_problems(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(path.child("operator"), operator, detail));
        }
        if has(toleration, "tolerationSeconds") && text(toleration, "effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(path.child("effect"), text(toleration, "effect"), detail));
        }
        match operator {
            "Equal" | "" => {
                let problems = label_value_problems(value);
                if !problems.is_empty() {
                    errors.push(Error::invalid(path.child("operator"), value, problems.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(Error::invalid(path.child("operator"), toleration.clone(), detail));
            }
            "Exists" => {}
            other => errors.push(Error::not_supported(path.child("operator"), other, &["Equal", "Exists"])),
        }
        check_taint_effect(errors, toleration, true, &path);
    }
}

pub(super) fn check_affinity(errors: &mut ErrorList, affinity: &Value, path: &Path) {
    check_node_affinity(errors, at(affinity, "nodeAffinity"), &path.child("nodeAffinity"));
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (terms, path) = (at(affinity, kind), path.child(kind));
        let key = "requiredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in list(terms, key).iter().enumerate() {
            check_pod_term(errors, term, &path.child(key).index(index));
        }
        let key = "preferredDuringSchedulingIgnoredDuringExecution";
        for (index, weighted) in list(terms, key).iter().enumerate() {
            let path = path.child(key).index(index);
            check_weight(errors, weighted, &path);
            check_pod_term(errors, at(weighted, "podAffinityTerm"), &path.child("podAffinityTerm"));
        }
    }
}

fn check_weight(errors: &mut ErrorList, weighted: &Value, path: &Path) {
    let weight = at(weighted, "weight").as_i64().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn check_node_affinity(errors: &mut ErrorList, affinity: &Value, path: &Path) {
    let key = "requiredDuringSchedulingIgnoredDuringExecution";
    if has(affinity, key) {
        check_node_selector(errors, at(affinity, key), &path.child(key));
    }
    let key = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, weighted) in list(affinity, key).iter().enumerate() {
        let path = path.child(key).index(index);
        check_weight(errors, weighted, &path);
        check_node_term(errors, at(weighted, "preference"), &path.child("preference"));
    }
}

/// A selector of nodes, as volumes and devices have.
pub(crate) fn check_node_selector(errors: &mut ErrorList, selector: &Value, path: &Path) {
    let (terms, path) = (list(selector, "nodeSelectorTerms"), path.child("nodeSelectorTerms"));
    if terms.is_empty() {
        errors.push(Error::required(path.clone(), "must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        check_node_term(errors, term, &path.index(index));
    }
}

fn check_node_term(errors: &mut ErrorList, term: &Value, path: &Path) {
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        check_node_operator(errors, requirement, &path);
        let key = text(requirement, "key");
        report(errors, &path.child("key"), key, qualified_name_problems(key));
    }
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(index);
        if !matches!(text(requirement, "operator"), "In" | "NotIn") {
            let detail = "not a valid selector operator";
            errors.push(Error::invalid(path.child("operator"), text(requirement, "operator"), detail));
        } else if list(requirement, "values").len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(path.child("values"), detail));
        }
        if text(requirement, "key") != "metadata.name" {
            let detail = "not a valid field selector key";
            errors.push(Error::invalid(path.child("key"), text(requirement, "key"), detail));
        }
    }
}

fn check_node_operator(errors: &mut ErrorList, requirement: &Value, path: &Path) {
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
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(Error::required(path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
}

fn check_pod_term(errors: &mut ErrorList, term: &Value, path: &Path) {
    check_selector(errors, at(term, "labelSelector"), &path.child("labelSelector"));
    check_selector(errors, at(term, "namespaceSelector"), &path.child("namespaceSelector"));
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(Error::required(path.child("topologyKey"), "can not be empty"));
    } else {
        report(errors, &path.child("topologyKey"), key, qualified_name_problems(key));
    }
}

pub(super) fn check_topology_spread(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        if at(constraint, "maxSkew").as_i64().is_none_or(|skew| skew <= 0) {
            let skew = at(constraint, "maxSkew").clone();
            errors.push(Error::invalid(path.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (topology, when) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if topology.is_empty() {
            errors.push(Error::required(path.child("topologyKey"), "can not be empty"));
        }
        if !WHEN_UNSATISFIABLE.contains(&when) {
            errors.push(Error::not_supported(path.child("whenUnsatisfiable"), when, &WHEN_UNSATISFIABLE));
        }
        let same = |other: &Value| text(other, "topologyKey") == topology && text(other, "whenUnsatisfiable") == when;
        if constraints[index + 1..].iter().any(same) {
            let pair = format!("{{{topology}, {when}}}");
            errors.push(Error::duplicate(path.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        check_min_domains(errors, constraint, when, &path.child("minDomains"));
        one_of(errors, constraint, &path, "nodeAffinityPolicy", &["Honor", "Ignore"]);
        one_of(errors, constraint, &path, "nodeTaintsPolicy", &["Honor", "Ignore"]);
        check_match_label_keys(errors, constraint, &path.child("matchLabelKeys"));
        check_selector(errors, at(constraint, "labelSelector"), &path.child("labelSelector"));
    }
}

const WHEN_UNSATISFIABLE: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];

fn check_min_domains(errors: &mut ErrorList, constraint: &Value, when: &str, path: &Path) {
    let Some(domains) = int(constraint, "minDomains") else { return };
    if domains <= 0 {
        errors.push(Error::invalid(path.clone(), domains, "must be greater than zero"));
    }
    if when != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
        errors.push(Error::invalid(path.clone(), domains, detail));
    }
}

fn check_match_label_keys(errors: &mut ErrorList, constraint: &Value, path: &Path) {
    let (keys, selector) = (list(constraint, "matchLabelKeys"), at(constraint, "labelSelector"));
    if !keys.is_empty() && selector.is_null() {
        errors.push(Error::forbidden(path.clone(), "must not be specified when labelSelector is not set"));
    }
    for (index, key) in keys.iter().enumerate() {
        let (path, key) = (path.index(index), key.as_str().unwrap_or_default());
        report(errors, &path, key, qualified_name_problems(key));
        let selected = at(selector, "matchLabels").get(key).is_some()
            || list(selector, "matchExpressions").iter().any(|requirement| text(requirement, "key") == key);
        if selected {
            errors.push(Error::invalid(path, key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}

pub(super) fn check_gates(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        let path = path.child("readinessGates").index(index).child("conditionType");
        report(errors, &path, kind, qualified_name_problems(kind));
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let path = path.child("schedulingGates").index(index);
        let name = text(gate, "name");
        report(errors, &path, name, qualified_name_problems(name));
        if !seen.insert(name) {
            errors.push(Error::duplicate(path, name));
        }
    }
}
