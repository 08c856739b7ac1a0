//! What only Windows has, and what it does not have. No node of ours runs it; pods for it are objects all the same.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{dns_subdomain_problems, report};
use crate::kinds::json::{at, has, list, text, truth};

const MAX_CREDENTIAL_SPEC_KIB: usize = 64;
const MAX_DOMAIN_BYTES: usize = 256;
const MAX_USER_BYTES: usize = 104;
const MAX_NETBIOS_CHARS: usize = 15;

/// The `windowsOptions` of a security context.
pub(super) fn check_options(errors: &mut ErrorList, options: &Value, path: &Path) {
    if has(options, "gmsaCredentialSpecName") {
        let name = text(options, "gmsaCredentialSpecName");
        report(errors, &path.child("gmsaCredentialSpecName"), name, dns_subdomain_problems(name));
    }
    if has(options, "gmsaCredentialSpec") {
        let (spec, path) = (text(options, "gmsaCredentialSpec"), path.child("gmsaCredentialSpec"));
        if spec.is_empty() {
            errors.push(Error::invalid(path, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > MAX_CREDENTIAL_SPEC_KIB * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {MAX_CREDENTIAL_SPEC_KIB} KiB");
            errors.push(Error::invalid(path, spec, detail));
        }
    }
    if has(options, "runAsUserName") {
        let name = text(options, "runAsUserName");
        let problems = user_problems(name);
        errors.extend(problems.into_iter().map(|why| Error::invalid(path.child("runAsUserName"), name, why)));
    }
}

/// What is wrong with `DOMAIN\\USER`, or `USER`.
fn user_problems(name: &str) -> Vec<String> {
    let one = |why: &str| vec![format!("runAsUserName cannot {why}")];
    if name.is_empty() {
        return one("be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return one("contain control characters");
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>()[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return one("contain more than one backslash"),
    };
    let mut out = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= MAX_DOMAIN_BYTES) {
        out.push(format!("runAsUserName's Domain length must be under {MAX_DOMAIN_BYTES} characters"));
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)) {
        out.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
    }
    if user.is_empty() {
        out.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > MAX_USER_BYTES {
        out.push(format!("runAsUserName's User length must not be longer than {MAX_USER_BYTES} characters"));
    }
    if !user.is_empty() && user.bytes().all(|b| b == b'.' || b == b' ') {
        out.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        out.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".into());
    }
    out
}

fn is_netbios(domain: &str) -> bool {
    let length = domain.chars().count();
    (1..=MAX_NETBIOS_CHARS).contains(&length)
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(domain: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.split('.').all(is_label)
}

/// All containers of a pod, and where they are.
fn containers<'a>(spec: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    let of = |key: &'static str| {
        let path = path.child(key);
        list(spec, key).iter().enumerate().map(move |(index, container)| (container, path.index(index)))
    };
    of("initContainers").chain(of("containers")).chain(of("ephemeralContainers")).collect()
}

/// Containers that run on the node itself.
pub(super) fn check_host_process(errors: &mut ErrorList, spec: &Value, path: &Path) {
    const KEY: &str = "securityContext.windowsOptions.hostProcess";
    let of_pod = at(spec, KEY).as_bool();
    let all = containers(spec, path);
    let mut on_the_node = 0;
    for (container, path) in &all {
        let own = at(container, KEY).as_bool();
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let path = path.child("securityContext").child("windowsOptions").child("hostProcess");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {of_pod}");
            errors.push(Error::invalid(path, own, detail));
        }
        on_the_node += usize::from(own.or(of_pod) == Some(true));
    }
    if on_the_node == 0 {
        return;
    }
    if on_the_node != all.len() {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(Error::invalid(path.clone(), "", detail));
    }
    if !truth(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(Error::invalid(path.child("hostNetwork"), false, detail));
    }
}

/// What a pod may not ask of the system that it says it is for.
pub(super) fn check_system(errors: &mut ErrorList, spec: &Value, path: &Path) {
    match text(spec, "os.name") {
        "linux" => {
            let detail = "windows options cannot be set for a linux pod";
            forbid(errors, spec, &["securityContext.windowsOptions"], detail, path);
            for (container, path) in containers(spec, path) {
                forbid(errors, container, &["securityContext.windowsOptions"], detail, &path);
            }
        }
        "windows" => {
            const DETAIL: &str = "cannot be set for a windows pod";
            forbid(errors, spec, &OF_LINUX_PODS, DETAIL, path);
            for (container, path) in containers(spec, path) {
                forbid(errors, container, &OF_LINUX_CONTAINERS, DETAIL, &path);
            }
        }
        _ => {}
    }
}

const OF_LINUX_PODS: [&str; 14] = [
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
];

const OF_LINUX_CONTAINERS: [&str; 10] = [
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "securityContext.seccompProfile",
    "securityContext.capabilities",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.privileged",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.procMount",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
];

fn forbid(errors: &mut ErrorList, object: &Value, keys: &[&str], detail: &str, path: &Path) {
    for key in keys {
        let value = at(object, key);
        // What is false by default is not asked for when it is false; nor is an empty list.
        let is_asked = match (*key, value) {
            (_, Value::Null) => false,
            ("hostPID" | "hostIPC", value) => value == true,
            (_, Value::Array(items)) => !items.is_empty(),
            _ => true,
        };
        if is_asked {
            let path = key.split('.').fold(path.clone(), |path, part| path.child(part));
            errors.push(Error::forbidden(path, detail));
        }
    }
}
