//! Security contexts, of pods and of containers.

use serde_json::Value;

use super::volumes::check_local;
use super::windows;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{in_range, one_of};
use crate::kinds::json::{at, has, list, text, truth};

const MAX_ID: i64 = i32::MAX as i64;

fn check_common(errors: &mut ErrorList, context: &Value, path: &Path) {
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        in_range(errors, context, path, key, 0, MAX_ID);
    }
    for (key, system) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        check_profile(errors, context, key, system, &path.child(key));
    }
}

fn check_profile(errors: &mut ErrorList, context: &Value, key: &str, system: &str, path: &Path) {
    let profile = at(context, key);
    if profile.is_null() {
        return;
    }
    if text(profile, "type").is_empty() {
        errors.push(Error::required(path.child("type"), format!("type is required when {key} is set")));
        return;
    }
    one_of(errors, profile, path, "type", &["Localhost", "RuntimeDefault", "Unconfined"]);
    let local = text(profile, "type") == "Localhost";
    let (file, path) = (text(profile, "localhostProfile"), path.child("localhostProfile"));
    if local && file.is_empty() {
        errors.push(Error::required(path, format!("must be set when {system} type is Localhost")));
    } else if !local && has(profile, "localhostProfile") {
        let detail = format!("can only be set when {system} type is Localhost");
        errors.push(Error::invalid(path, file, detail));
    } else if local && system == "seccomp" {
        check_local(errors, file, &path);
    } else if local && file.trim() != file {
        errors.push(Error::invalid(path, file, "must not be padded with whitespace"));
    }
}

pub(super) fn check_pod_security(errors: &mut ErrorList, context: &Value, path: &Path) {
    check_common(errors, context, path);
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_none_or(|g| !(0..=MAX_ID).contains(&g)) {
            let detail = format!("must be between 0 and {MAX_ID}, inclusive");
            errors.push(Error::invalid(path.child("supplementalGroups").index(index), group.clone(), detail));
        }
    }
    one_of(errors, context, path, "fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    one_of(errors, context, path, "supplementalGroupsPolicy", &["Merge", "Strict"]);
    one_of(errors, context, path, "seLinuxChangePolicy", &["MountOption", "Recursive"]);
    windows::check_options(errors, at(context, "windowsOptions"), &path.child("windowsOptions"));
}

/// A pod's sysctls: of namespaces that it has for itself.
pub(super) fn check_sysctls(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mut seen = Vec::new();
    for (index, sysctl) in list(spec, "securityContext.sysctls").iter().enumerate() {
        let (path, name) = (path.index(index).child("name"), text(sysctl, "name"));
        if name.is_empty() {
            errors.push(Error::required(path.clone(), ""));
        } else if !is_sysctl_name(name) {
            let detail = "must have at most 253 characters and match regex \
                          ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(Error::invalid(path.clone(), name, detail));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(path.clone(), name));
        } else {
            seen.push(name);
        }
        let dotted = name.replace('/', ".");
        let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
        if dotted.starts_with("net.") && truth(spec, "hostNetwork") {
            errors.push(Error::invalid(path, name, "may not be specified when 'hostNetwork' is true"));
        } else if (of_ipc || dotted == "kernel.sem") && truth(spec, "hostIPC") {
            errors.push(Error::invalid(path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

/// Whether the namespaces that a pod shares, with its node and among its containers, go together.
pub(super) fn check_host_namespaces(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if truth(spec, "shareProcessNamespace") && truth(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        // Upstream's internal form has all of these in the security context.
        let path = path.child("securityContext").child("shareProcessNamespace");
        errors.push(Error::invalid(path, true, detail));
    }
    if at(spec, "hostUsers") == false {
        for (key, field) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if truth(spec, key) {
                errors.push(Error::forbidden(path.child(field), "when `hostUsers` is false"));
            }
        }
    }
}

/// Parts joined by `.` or `/`, each of which begins and ends with a letter or a digit.
fn is_sysctl_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| plain(*b))
            && bytes.last().is_some_and(|b| plain(*b))
            && bytes.iter().all(|b| plain(*b) || b"-_".contains(b))
    };
    name.len() <= 253 && name.split(['.', '/']).all(is_part)
}

pub(super) fn check_container_security(errors: &mut ErrorList, context: &Value, path: &Path) {
    if context.is_null() {
        return;
    }
    check_common(errors, context, path);
    windows::check_options(errors, at(context, "windowsOptions"), &path.child("windowsOptions"));
    one_of(errors, context, path, "procMount", &["Default", "Unmasked"]);
    if has(context, "allowPrivilegeEscalation") && !truth(context, "allowPrivilegeEscalation") {
        if truth(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path.clone(), context.clone(), detail));
        }
        if list(context, "capabilities.add").iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path.clone(), context.clone(), detail));
        }
    }
}
