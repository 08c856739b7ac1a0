//! Which kernel parameters pods may set: those that concern nobody outside the pod (kubelet `sysctl/allowlist.go`).

use crate::api::pod::PodSpec;

/// The namespace that a parameter belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// The safe ones.
const SAFE: [(&str, Namespace); 12] = [
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("net.ipv4.ip_local_port_range", Namespace::Net),
    ("net.ipv4.tcp_syncookies", Namespace::Net),
    ("net.ipv4.ping_group_range", Namespace::Net),
    ("net.ipv4.ip_unprivileged_port_start", Namespace::Net),
    ("net.ipv4.ip_local_reserved_ports", Namespace::Net),
    ("net.ipv4.tcp_keepalive_time", Namespace::Net),
    ("net.ipv4.tcp_fin_timeout", Namespace::Net),
    ("net.ipv4.tcp_keepalive_intvl", Namespace::Net),
    ("net.ipv4.tcp_keepalive_probes", Namespace::Net),
    ("net.ipv4.tcp_rmem", Namespace::Net),
    ("net.ipv4.tcp_wmem", Namespace::Net),
];

/// A parameter's name with dots between its parts. Where the first separator is a slash, dots belong to the parts.
pub fn normalized(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The message of the rejection of a pod that sets what it may not.
pub fn forbidden(spec: &PodSpec) -> Option<String> {
    spec.security_context.sysctls.iter().find_map(|sysctl| {
        let name = normalized(&sysctl.name);
        let why = match SAFE.iter().find(|(safe, _)| *safe == name) {
            None => format!("{name:?} not allowlisted"),
            Some((_, Namespace::Ipc)) if spec.host_ipc => format!("{name:?} not allowed with host ipc enabled"),
            Some((_, Namespace::Net)) if spec.host_network => format!("{name:?} not allowed with host net enabled"),
            Some(_) => return None,
        };
        Some(format!("forbidden sysctl: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_stays_within_the_pod_may_be_set() {
        let told = |name: &str, host_network: bool| {
            let spec = json!({ "hostNetwork": host_network, "securityContext": { "sysctls": [{ "name": name, "value": "1" }] } });
            forbidden(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!(told("kernel.shm_rmid_forced", false), None);
        assert_eq!(told("kernel/shm_rmid_forced", true), None);
        assert_eq!(told("kernel.msgmax", false).unwrap(), "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
        assert!(told("net.ipv4.tcp_syncookies", true).is_some());
        assert_eq!(normalized("net/ipv4/conf/eth0.1/rp_filter"), "net.ipv4.conf.eth0/1.rp_filter");
    }
}
