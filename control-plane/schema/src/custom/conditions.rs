//! The status of a CustomResourceDefinition: which names it gets, and whether it is served (apiextensions
//! `controller/status`, `controller/establish`, `controller/nonstructuralschema`, `controller/apiapproval`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kinds::custom_resource_definition::structural;
use crate::kinds::json::{at, list, same, text, truth};

/// Keeps a CustomResourceDefinition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Who says that a group of the community's own was approved.
pub(crate) const APPROVAL: &str = "api-approved.kubernetes.io";

/// The names that others of a group have been given.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds the names that a CustomResourceDefinition has been given.
    pub fn add(&mut self, definition: &Value) {
        let names = at(definition, "status.acceptedNames");
        let short = list(names, "shortNames").iter().filter_map(Value::as_str);
        self.resources
            .extend([text(names, "plural"), text(names, "singular")].into_iter().chain(short).map(str::to_owned));
        self.kinds.extend([text(names, "kind"), text(names, "listKind")].map(str::to_owned));
    }
}

/// The status that a CustomResourceDefinition should have; `taken` has the names of all of its group, its own included.
pub fn status(definition: &Value, taken: &Taken, now: Timestamp) -> Value {
    let mut definition = definition.clone();
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    names(&mut definition, taken, now);
    establish(&mut definition, now);
    non_structural(&mut definition, now);
    approval(&mut definition, now);
    definition["status"].take()
}

/// Whether a condition is true.
pub fn is_true(definition: &Value, condition: &str) -> bool {
    find(definition, condition).is_some_and(|c| c["status"] == "True")
}

/// Sets a condition; its time is that of the last change of its status.
pub fn set(definition: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    if !definition.is_object() {
        return;
    }
    let mut time = json!(seconds(now));
    if let Some(old) = find(definition, kind).filter(|old| old["status"] == status)
        && !old["lastTransitionTime"].is_null()
    {
        time = old["lastTransitionTime"].clone();
    }
    let condition =
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time});
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

fn find<'a>(definition: &'a Value, condition: &str) -> Option<&'a Value> {
    list(definition, "status.conditions").iter().find(|c| c["type"] == condition)
}

fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

fn names(definition: &mut Value, taken: &Taken, now: Timestamp) {
    let requested = at(definition, "spec.names").clone();
    let accepted = at(definition, "status.acceptedNames").clone();
    if same(&requested, &accepted) {
        return;
    }
    let mut given = accepted.as_object().cloned().unwrap_or_default();
    let mut conflict: Option<(&str, String)> = None;
    let mut claim = |given: &mut Map<String, Value>, name: &str, reason: &'static str, used: &BTreeSet<String>| {
        let wanted = text(&requested, name);
        if wanted == text(&accepted, name) || !used.contains(wanted) {
            given.insert(name.to_owned(), wanted.into());
        } else {
            conflict = Some((reason, format!("{wanted:?} is already in use")));
        }
    };
    claim(&mut given, "plural", "PluralConflict", &taken.resources);
    claim(&mut given, "singular", "SingularConflict", &taken.resources);
    let mut short_conflict = None;
    if !same(at(&requested, "shortNames"), at(&accepted, "shortNames")) {
        let own: Vec<&str> = list(&accepted, "shortNames").iter().filter_map(Value::as_str).collect();
        let used: Vec<String> = list(&requested, "shortNames")
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !own.contains(name) && taken.resources.contains(*name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        match used.as_slice() {
            [] => copy(&mut given, &requested, "shortNames"),
            [one] => short_conflict = Some(one.clone()),
            many => short_conflict = Some(format!("[{}]", many.join(", "))),
        }
    }
    claim(&mut given, "kind", "KindConflict", &taken.kinds);
    claim(&mut given, "listKind", "ListKindConflict", &taken.kinds);
    // As upstream, the last conflict is told; those of short names come between.
    if let Some(message) = short_conflict
        && !matches!(conflict, Some(("KindConflict" | "ListKindConflict", _)))
    {
        conflict = Some(("ShortNamesConflict", message));
    }
    copy(&mut given, &requested, "categories");
    definition["status"]["acceptedNames"] = given.into();
    match &conflict {
        Some((reason, message)) => set(definition, "NamesAccepted", "False", reason, message, now),
        None => set(definition, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
    }
    if !is_true(definition, "Established") && conflict.is_some() {
        set(definition, "Established", "False", "NotAccepted", "not all names are accepted", now);
    }
}

fn copy(given: &mut Map<String, Value>, from: &Value, name: &str) {
    match from.get(name).filter(|value| !value.is_null()) {
        Some(value) => given.insert(name.to_owned(), value.clone()),
        None => given.remove(name),
    };
}

fn establish(definition: &mut Value, now: Timestamp) {
    if !is_true(definition, "NamesAccepted") || is_true(definition, "Established") {
        return;
    }
    let bundle = text(definition, "spec.conversion.webhook.clientConfig.caBundle");
    if crate::kinds::custom_resource_definition::is_invalid_bundle(bundle) {
        let message = "The conversion webhook CABundle is invalid";
        set(definition, "Established", "False", "InvalidCABundle", message, now);
    } else {
        let message = "the initial names have been accepted";
        set(definition, "Established", "True", "InitialNamesAccepted", message, now);
    }
}

fn non_structural(definition: &mut Value, now: Timestamp) {
    let mut problems = Vec::new();
    if truth(definition, "spec.preserveUnknownFields") {
        problems.push("spec.preserveUnknownFields: Invalid value: true: must be false".to_owned());
    }
    for (index, version) in list(definition, "spec.versions").iter().enumerate() {
        let path = crate::field::Path::new("spec.versions").index(index).child("schema").child("openAPIV3Schema");
        let schema = at(version, "schema.openAPIV3Schema");
        if schema.is_object() {
            problems.extend(structural::validate(schema, &path).iter().map(ToString::to_string));
        }
    }
    match problems.as_slice() {
        [] => {
            if let Some(conditions) = definition["status"]["conditions"].as_array_mut() {
                conditions.retain(|c| c["type"] != "NonStructuralSchema");
            }
        }
        [one] => set(definition, "NonStructuralSchema", "True", "Violations", one, now),
        many => {
            let message = format!("[{}]", many.join(", "));
            set(definition, "NonStructuralSchema", "True", "Violations", &message, now);
        }
    }
}

fn approval(definition: &mut Value, now: Timestamp) {
    const CONDITION: &str = "KubernetesAPIApprovalPolicyConformant";
    if !is_protected(text(definition, "spec.group")) {
        return;
    }
    let (status, reason, message) = match Approval::of(&definition["metadata"]["annotations"]) {
        (Approval::Missing, why) => ("False", "MissingAnnotation", why),
        (Approval::Invalid, why) => ("False", "InvalidAnnotation", why),
        (Approval::Bypassed, why) => ("False", "UnapprovedAnnotation", why),
        (Approval::Approved, why) => ("True", "ApprovedAnnotation", why),
    };
    set(definition, CONDITION, status, reason, &message, now);
}

/// Whether a group is one of the community's own.
pub(crate) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")))
}

/// What the annotation says of the approval of an API in a protected group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// Nothing.
    Missing,
    /// Neither a URL nor `unapproved...`.
    Invalid,
    /// That there is none.
    Bypassed,
    /// Where it was given.
    Approved,
}

impl Approval {
    /// What the annotations say, and in which words it is told.
    pub(crate) fn of(annotations: &Value) -> (Self, String) {
        let said = annotations[APPROVAL].as_str().unwrap_or_default();
        let see = "see https://github.com/kubernetes/enhancements/pull/1111";
        let url = said.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && rest.split('/').next().is_some_and(|host| !host.is_empty())
        });
        if said.is_empty() {
            (Self::Missing, format!("protected groups must have approval annotation {APPROVAL:?}, {see}"))
        } else if said.starts_with("unapproved") {
            (Self::Bypassed, format!("not approved: {said:?}"))
        } else if url {
            (Self::Approved, format!("approved in {said}"))
        } else {
            let why = format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
                 \"unapproved\", {see}"
            );
            (Self::Invalid, why)
        }
    }
}
