//! The checks of the level `baseline`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Check, Pod, Violation, plural, quoted, these};
use crate::kinds::json::{at, has, int, list, text, truth};

/// By upstream's names, in their order.
pub(super) const CHECKS: [(&str, Check); 12] = [
    ("appArmorProfile", app_armor),
    ("capabilities_baseline", capabilities),
    ("hostNamespaces", host_namespaces),
    ("hostPathVolumes", host_paths),
    ("hostPorts", host_ports),
    ("hostProbesAndHostLifecycle", probe_hosts),
    ("privileged", privileged),
    ("procMount", proc_mount),
    ("seLinuxOptions", se_linux),
    ("seccompProfile_baseline", seccomp),
    ("sysctls", sysctls),
    ("windowsHostProcess", host_process),
];

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let allowed = |value: &Value| matches!(value.as_str(), Some("RuntimeDefault" | "Localhost"));
    let (mut setters, values) = pod.bad_setters("appArmorProfile.type", |value| !allowed(value));
    let mut values: Vec<String> = values.into_iter().collect();
    let annotated = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations: Vec<String> = pod
        .annotations()
        .into_iter()
        .filter(|(key, value)| key.starts_with(ANNOTATION) && !annotated(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotations.is_empty() {
        setters.push(plural("annotation", annotations.len()));
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        setters.join(" and "),
        values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", ")
    );
    Some(Violation::new(plural("forbidden AppArmor profile", values.len()), detail))
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Which containers add capabilities beyond `allowed`: `container "a" must not include "X" in ...`.
pub(super) fn added_capabilities(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let mut found = BTreeSet::new();
    let mut containers = Vec::new();
    for container in pod.containers() {
        let added = list(container, "securityContext.capabilities.add").iter().filter_map(Value::as_str);
        let bad: Vec<&str> = added.filter(|capability| !allowed.contains(capability)).collect();
        if !bad.is_empty() {
            containers.push(text(container, "name"));
            found.extend(bad);
        }
    }
    (!containers.is_empty()).then(|| {
        let who = these("container", &containers);
        format!("{who} must not include {} in securityContext.capabilities.add", quoted(found))
    })
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    Some(Violation::new("non-default capabilities", added_capabilities(pod, &CAPABILITIES)?))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| truth(pod.spec, field));
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    (!set.is_empty()).then(|| Violation::new("host namespaces", set.join(", ")))
}

fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let volumes: Vec<&str> =
        list(pod.spec, "volumes").iter().filter(|v| has(v, "hostPath")).map(|v| text(v, "name")).collect();
    (!volumes.is_empty()).then(|| Violation::new("hostPath volumes", these("volume", &volumes)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let ports = |c: &Value| -> Vec<i64> {
        list(c, "ports").iter().filter_map(|p| int(p, "hostPort")).filter(|port| *port != 0).collect()
    };
    let containers = pod.named(|c| !ports(c).is_empty());
    if containers.is_empty() {
        return None;
    }
    // As text: that is upstream's order.
    let all: BTreeSet<String> = pod.containers().flat_map(ports).map(|p| p.to_string()).collect();
    let (verb, noun) = (uses(containers.len()), plural("hostPort", all.len()));
    let all = all.into_iter().collect::<Vec<_>>().join(", ");
    Some(Violation::new("hostPort", format!("{} {verb} {noun} {all}", these("container", &containers))))
}

pub(super) fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

/// Since 1.34: no probe or hook may be aimed at another host.
fn probe_hosts(pod: &Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&str; 5] =
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"];
    if !pod.version.is_at_least(34) {
        return None;
    }
    let (mut containers, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in pod.containers() {
        for handler in HANDLERS {
            for kind in ["httpGet", "tcpSocket"] {
                let host = text(container, &format!("{handler}.{kind}.host"));
                if !host.is_empty() {
                    containers.insert(text(container, "name"));
                    hosts.insert(host);
                }
            }
        }
    }
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<&str> = containers.into_iter().collect();
    let (verb, noun) = (uses(containers.len()), plural("probe or lifecycle host", hosts.len()));
    let detail = format!("{} {verb} {noun} {}", these("container", &containers), quoted(hosts));
    Some(Violation::new("probe or lifecycle host", detail))
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.named(|c| truth(c, "securityContext.privileged"));
    let detail = || format!("{} must not set securityContext.privileged=true", these("container", &containers));
    (!containers.is_empty()).then(|| Violation::new("privileged", detail()))
}

/// Since 1.35 a pod with users of its own may see all of `/proc`.
fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    if pod.version.is_at_least(35) && pod.has_own_users() {
        return None;
    }
    unmasked(pod)
}

pub(super) fn unmasked(pod: &Pod<'_>) -> Option<Violation> {
    let of = |c: &Value| at(c, "securityContext.procMount").as_str().filter(|m| *m != "Default").map(str::to_owned);
    let containers = pod.named(|c| of(c).is_some());
    if containers.is_empty() {
        return None;
    }
    let values: BTreeSet<String> = pod.containers().filter_map(of).collect();
    let values = quoted(values.iter().map(String::as_str));
    let who = these("container", &containers);
    Some(Violation::new("procMount", format!("{who} must not set securityContext.procMount to {values}")))
}

fn se_linux(pod: &Pod<'_>) -> Option<Violation> {
    let engine = pod.version.is_at_least(31);
    let known = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (engine && kind == "container_engine_t")
    };
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let (mut setters, mut containers) = (Vec::new(), Vec::new());
    for (of, is_pod) in std::iter::once((pod.spec, true)).chain(pod.containers().map(|c| (c, false))) {
        let options = at(of, "securityContext.seLinuxOptions");
        let kind = text(options, "type");
        let (sets_user, sets_role) = (!text(options, "user").is_empty(), !text(options, "role").is_empty());
        if !known(kind) {
            types.insert(kind);
        }
        (user, role) = (user | sets_user, role | sets_role);
        match (known(kind) && !sets_user && !sets_role, is_pod) {
            (true, _) => {}
            (false, true) => setters.push("pod".to_owned()),
            (false, false) => containers.push(text(of, "name")),
        }
    }
    if !containers.is_empty() {
        setters.push(these("container", &containers));
    }
    if setters.is_empty() {
        return None;
    }
    let mut bad = Vec::new();
    if !types.is_empty() {
        bad.push(these("type", &types.into_iter().collect::<Vec<_>>()));
    }
    bad.extend(user.then(|| "user may not be set".to_owned()));
    bad.extend(role.then(|| "role may not be set".to_owned()));
    let (who, what) = (setters.join(" and "), bad.join("; "));
    Some(Violation::new("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {what}")))
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if !pod.version.is_at_least(19) {
        return seccomp_annotations(pod);
    }
    let detail = bad_seccomp(pod)?;
    Some(Violation::new("seccompProfile", detail))
}

/// Who sets a profile other than the two good ones.
pub(super) fn bad_seccomp(pod: &Pod<'_>) -> Option<String> {
    let good = |value: &Value| matches!(value.as_str(), Some("RuntimeDefault" | "Localhost"));
    let (setters, values) = pod.bad_setters("seccompProfile.type", |value| !good(value));
    let values = quoted(values.iter().map(String::as_str));
    let who = setters.join(" and ");
    (!setters.is_empty()).then(|| format!("{who} must not set securityContext.seccompProfile.type to {values}"))
}

/// Before there was a field.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let good = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let names = pod.named(|_| true);
    let concerns = |key: &str| {
        key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.strip_prefix("container.seccomp.security.alpha.kubernetes.io/").is_some_and(|n| names.contains(&n))
    };
    let bad: Vec<String> = pod
        .annotations()
        .into_iter()
        .filter(|(key, value)| concerns(key) && !good(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let detail = || format!("forbidden {} {}", plural("annotation", bad.len()), bad.join(", "));
    (!bad.is_empty()).then(|| Violation::new("seccompProfile", detail()))
}

/// Which are safe, and since which minor version they are known to be.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let safe = |name: &str| SYSCTLS.iter().any(|(n, since)| *n == name && pod.version.is_at_least(*since));
    let set = list(pod.spec, "securityContext.sysctls").iter().map(|s| text(s, "name"));
    let bad: Vec<&str> = set.filter(|name| !safe(name)).collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<Violation> {
    let (setters, _) = pod.bad_setters("windowsOptions.hostProcess", |value| value == &Value::Bool(true));
    let who = setters.join(" and ");
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    (!setters.is_empty()).then(|| Violation::new("hostProcess", detail))
}
