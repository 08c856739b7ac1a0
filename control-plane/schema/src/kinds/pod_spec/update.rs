//! What may change in a pod: next to nothing.

use serde_json::{Value, json};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{at, carry_over, default_to, entries, int, list, list_mut, same, set, text, unset, within};

const MAY_CHANGE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
    additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
    previously negative)";

/// An update of a pod's spec, given the new pod and the old one.
pub(crate) fn check_pod_update(errors: &mut ErrorList, new: &Value, old: &Value) {
    let (new, old) = (at(new, "spec"), at(old, "spec"));
    let path = Path::new("spec");
    for key in ["containers", "initContainers"] {
        if list(new, key).len() != list(old, key).len() {
            errors.push(Error::forbidden(path.child(key), "pod updates may not add or remove containers"));
            return;
        }
    }
    check_deadline(errors, new, old, &path);
    check_gates(errors, new, old, &path);
    check_tolerations(errors, list(new, "tolerations"), list(old, "tolerations"), &path.child("tolerations"));
    if is_gated(old) {
        check_narrowing(errors, new, old, &path);
    }
    let permitted = with_permitted_changes(new, old);
    if !same(&permitted, old) {
        let changed = differences(&permitted, old, &path).join("\n");
        errors.push(Error::forbidden(path, format!("{MAY_CHANGE}\n{changed}")));
    }
}

fn check_deadline(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let path = path.child("activeDeadlineSeconds");
    match (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds")) {
        (Some(new), Some(old)) if new > old => {
            errors.push(Error::invalid(path, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            errors.push(Error::invalid(path, Value::Null, "must not update from a positive integer to nil value"));
        }
        _ => {}
    }
}

fn check_gates(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    for (index, gate) in list(new, "schedulingGates").iter().enumerate() {
        if !list(old, "schedulingGates").contains(gate) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
            errors.push(Error::forbidden(path.child("schedulingGates").index(index).child("name"), detail));
        }
    }
}

/// Tolerations may be added, and those that are there may change their time only.
fn check_tolerations(errors: &mut ErrorList, new: &[Value], old: &[Value], path: &Path) {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        unset(&mut toleration, "tolerationSeconds");
        toleration
    };
    let new: Vec<_> = new.iter().map(without_time).collect();
    if old.iter().any(|toleration| !new.contains(&without_time(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(path.clone(), detail));
    }
}

/// The new spec with what may change put back to what it was; what then still differs may not.
fn with_permitted_changes(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    for key in ["containers", "initContainers"] {
        for (container, old) in list_mut(&mut spec, key).iter_mut().zip(list(old, key)) {
            carry_over(container, old, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        carry_over(&mut spec, old, key);
    }
    if int(new, "terminationGracePeriodSeconds") == Some(1)
        && int(old, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0)
    {
        carry_over(&mut spec, old, "terminationGracePeriodSeconds");
    }
    if is_gated(old) {
        carry_over(&mut spec, old, "nodeSelector");
        put_back_node_affinity(&mut spec, old);
    }
    spec
}

/// A pod that is held back by gates may still be narrowed to fewer nodes.
fn is_gated(spec: &Value) -> bool {
    !list(spec, "schedulingGates").is_empty()
}

fn put_back_node_affinity(spec: &mut Value, old: &Value) {
    let before = at(old, "affinity.nodeAffinity");
    if before.is_null() {
        within(spec, "affinity", |affinity| unset(affinity, "nodeAffinity"));
    } else {
        default_to(spec, "affinity", json!({}));
        within(spec, "affinity", |affinity| set(affinity, "nodeAffinity", before.clone()));
    }
}

/// What a pod that is held back asks of its node: more than before, if it changes at all.
fn check_narrowing(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let selector = at(new, "nodeSelector");
    let keeps = |(key, value): (&str, &Value)| selector.get(key) == Some(value);
    if !entries(old, "nodeSelector").into_iter().all(keeps) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(Error::invalid(path.child("nodeSelector"), selector.clone(), detail));
    }
    let at_terms = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (terms, before, path) = (list(new, at_terms), list(old, at_terms), path.child(at_terms));
    if before.is_empty() {
        return;
    }
    if terms.len() != before.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(Error::invalid(path, terms.to_vec(), detail));
        return;
    }
    for (index, (term, before)) in terms.iter().zip(before).enumerate() {
        let keeps = |key| list(before, key).iter().all(|requirement| list(term, key).contains(requirement));
        if !keeps("matchExpressions") || !keeps("matchFields") {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(Error::invalid(path.index(index), term.clone(), detail));
        }
    }
}

/// The fields that differ, one a line, with what they were and what they would be.
pub(crate) fn differences(new: &Value, old: &Value, path: &Path) -> Vec<String> {
    if same(new, old) {
        return Vec::new();
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.into_iter().flat_map(|key| differences(at(new, key), at(old, key), &path.child(key))).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().flat_map(|(n, (a, b))| differences(a, b, &path.index(n))).collect()
        }
        _ => vec![format!("  {path}: {old} -> {new}")],
    }
}
