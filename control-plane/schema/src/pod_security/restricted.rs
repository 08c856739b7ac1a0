//! What the level `restricted` forbids beyond `baseline`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{added_capabilities, bad_seccomp, unmasked, uses};
use super::{Check, Pod, Version, Violation, plural, quoted, these};
use crate::kinds::json::{at, has, list, text};

/// In the order of upstream's names.
pub(super) const CHECKS: [Check; 7] =
    [privilege_escalation, capabilities, proc_mount, volumes, non_root, user, seccomp];

/// Checks of `baseline` that these take the place of.
pub(super) const REPLACES: [&str; 4] =
    ["capabilities_baseline", "hostPathVolumes", "procMount", "seccompProfile_baseline"];

/// Whether a check is replaced as of a version: the stricter ones came later.
pub(super) fn is_replaced(id: &str, version: Version) -> bool {
    match id {
        "capabilities_baseline" => version.is_at_least(22),
        "seccompProfile_baseline" => version.is_at_least(19),
        "procMount" => version.is_at_least(35),
        _ => true,
    }
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if !pod.version.is_at_least(8) || (pod.version.is_at_least(25) && pod.is_windows()) {
        return None;
    }
    let containers = pod.named(|c| at(c, "securityContext.allowPrivilegeEscalation") != &Value::Bool(false));
    let who = these("container", &containers);
    let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
    (!containers.is_empty()).then(|| Violation::new("allowPrivilegeEscalation != false", detail))
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if !pod.version.is_at_least(22) || (pod.version.is_at_least(25) && pod.is_windows()) {
        return None;
    }
    let drops_all = |c: &Value| list(c, "securityContext.capabilities.drop").iter().any(|d| d == "ALL");
    let keeping = pod.named(|c| !drops_all(c));
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", these("container", &keeping)));
    }
    details.extend(added_capabilities(pod, &["NET_BIND_SERVICE"]));
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

/// Since 1.35, when `baseline` began to let pods with users of their own see more.
fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    if pod.version.is_at_least(35) { unmasked(pod) } else { None }
}

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in list(pod.spec, "volumes") {
        let sources = all(volume);
        let known = sources.iter().any(|(key, _)| VOLUMES.contains(key));
        if known {
            continue;
        }
        names.push(text(volume, "name"));
        kinds.insert(sources.iter().map(|(key, _)| *key).find(|key| *key != "name").unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    let (verb, noun) = (uses(names.len()), plural("restricted volume type", kinds.len()));
    let detail = format!("{} {verb} {noun} {}", these("volume", &names), quoted(kinds));
    Some(Violation::new("restricted volume types", detail))
}

/// The fields of an object that are set.
fn all(object: &Value) -> Vec<(&str, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields.map(|(key, value)| (key.as_str(), value)).filter(|(_, value)| !value.is_null()).collect()
}

/// Root of a pod with users of its own is nobody outside: since 1.35.
fn is_relaxed(pod: &Pod<'_>) -> bool {
    pod.version.is_at_least(35) && pod.has_own_users()
}

fn non_root(pod: &Pod<'_>) -> Option<Violation> {
    if is_relaxed(pod) {
        return None;
    }
    const REASON: &str = "runAsNonRoot != true";
    let (setters, _) = pod.bad_setters("runAsNonRoot", |value| value == &Value::Bool(false));
    if !setters.is_empty() {
        let who = setters.join(" and ");
        return Some(Violation::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false")));
    }
    if at(pod.spec, "securityContext.runAsNonRoot") == &Value::Bool(true) {
        return None;
    }
    let silent = pod.named(|c| !has(c, "securityContext.runAsNonRoot"));
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", these("container", &silent));
    (!silent.is_empty()).then(|| Violation::new(REASON, detail))
}

fn user(pod: &Pod<'_>) -> Option<Violation> {
    if !pod.version.is_at_least(23) || is_relaxed(pod) {
        return None;
    }
    let (setters, _) = pod.bad_setters("runAsUser", |value| value == 0);
    let who = setters.join(" and ");
    (!setters.is_empty()).then(|| Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if !pod.version.is_at_least(19) || (pod.version.is_at_least(25) && pod.is_windows()) {
        return None;
    }
    if let Some(detail) = bad_seccomp(pod) {
        return Some(Violation::new("seccompProfile", detail));
    }
    if has(pod.spec, "securityContext.seccompProfile") {
        return None;
    }
    let silent = pod.named(|c| !has(c, "securityContext.seccompProfile"));
    let who = these("container", &silent);
    let detail =
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
    (!silent.is_empty()).then(|| Violation::new("seccompProfile", detail))
}
