//! What every kind with a pod template shares: the defaults and the validation of a pod's spec
//! (`pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation`).

mod claims;
mod containers;
mod defaults;
mod env;
mod ports;
mod probes;
mod qos;
mod resources;
mod restart;
mod scheduling;
mod security;
mod sources;
mod template;
#[cfg(test)]
mod tests;
mod update;
mod volumes;
mod warnings;
mod windows;

use serde_json::Value;

use self::containers::all_containers_mut;
pub(crate) use self::containers::check_images_of_pod;
pub(crate) use self::defaults::{default_pod, default_spec};
pub(crate) use self::ports::PROTOCOLS;
pub(crate) use self::qos::qos_class;
pub(crate) use self::resources::{canonical_quantities, check_quantity, check_requirements};
pub(crate) use self::scheduling::{check_node_selector, check_taint_effect, check_tolerations};
pub(crate) use self::sources::check_required;
pub(crate) use self::template::{check_always_restarting_template, check_template, default_template};
pub(crate) use self::update::{check_pod_update, differences};
pub(crate) use self::warnings::warnings;
use super::checks::{
    check_labels, dns_label_problems, dns_subdomain_problems, in_range, ip_problems, one_of, report, required_one_of,
};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{at, list, text};

/// Everything wrong with a pod's spec.
pub(crate) fn check_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let volumes = volumes::check_volumes(errors, list(spec, "volumes"), &path.child("volumes"));
    let claims = claims::check_claims(errors, spec, path);
    containers::check_containers(errors, spec, &volumes, &claims, path);
    if at(spec, "hostNetwork") == true {
        ports::check_host_network(errors, list(spec, "containers"), &path.child("containers"));
    }
    required_one_of(errors, spec, path, "restartPolicy", &["Always", "OnFailure", "Never"]);
    required_one_of(errors, spec, path, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    check_labels(errors, spec, "nodeSelector", &path.child("nodeSelector"));
    security::check_pod_security(errors, at(spec, "securityContext"), &path.child("securityContext"));
    security::check_host_namespaces(errors, spec, path);
    security::check_sysctls(errors, spec, &path.child("securityContext").child("sysctls"));
    windows::check_host_process(errors, spec, path);
    scheduling::check_affinity(errors, at(spec, "affinity"), &path.child("affinity"));
    check_dns_config(errors, spec, &path.child("dnsConfig"));
    scheduling::check_gates(errors, spec, path);
    scheduling::check_topology_spread(errors, spec, &path.child("topologySpreadConstraints"));
    check_names(errors, spec, path);
    in_range(errors, spec, path, "activeDeadlineSeconds", 1, i64::from(i32::MAX));
    scheduling::check_tolerations(errors, list(spec, "tolerations"), &path.child("tolerations"));
    check_host_aliases(errors, list(spec, "hostAliases"), &path.child("hostAliases"));
    one_of(errors, spec, path, "preemptionPolicy", &["PreemptLowerPriority", "Never"]);
    resources::check_resource_list(errors, spec, "overhead", &path.child("overhead"));
    check_requirements(errors, at(spec, "resources"), &path.child("resources"));
    match text(spec, "os.name") {
        "linux" | "windows" => {}
        "" if at(spec, "os").is_null() => {}
        "" => errors.push(Error::required(path.child("os").child("name"), "cannot be empty")),
        other => errors.push(Error::not_supported(path.child("os"), other, &["linux", "windows"])),
    }
    windows::check_system(errors, spec, path);
    let name = text(spec, "hostnameOverride");
    if !name.is_empty() {
        report(errors, &path.child("hostnameOverride"), name, dns_subdomain_problems(name));
    }
    if name.len() > MAX_HOSTNAME_BYTES {
        errors.push(Error::too_long(path.child("hostnameOverride"), MAX_HOSTNAME_BYTES));
    }
}

/// What the kernel takes.
const MAX_HOSTNAME_BYTES: usize = 64;

fn check_names(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mut check = |key: &str, problems: fn(&str) -> Vec<String>| {
        let name = text(spec, key);
        if !name.is_empty() {
            report(errors, &path.child(key), name, problems(name));
        }
    };
    check("serviceAccountName", dns_subdomain_problems);
    check("nodeName", dns_subdomain_problems);
    check("hostname", dns_label_problems);
    check("subdomain", dns_label_problems);
    check("priorityClassName", dns_subdomain_problems);
    check("runtimeClassName", dns_subdomain_problems);
}

/// Upstream's limits of a pod's resolver configuration.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

fn check_dns_config(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let config = at(spec, "dnsConfig");
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(Error::required(path.clone(), detail));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(path.child("nameservers"), detail));
            return;
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(Error::invalid(path.child("nameservers"), servers.to_vec(), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        report(errors, &path.child("nameservers").index(index), server, ip_problems(server));
    }
    let searches: Vec<_> = list(config, "searches").iter().filter_map(Value::as_str).collect();
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(Error::invalid(path.child("searches"), list(config, "searches").to_vec(), detail));
    }
    if searches.join(" ").len() > MAX_SEARCH_BYTES {
        let detail =
            format!("must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list");
        errors.push(Error::invalid(path.child("searches"), list(config, "searches").to_vec(), detail));
    }
    for (index, search) in searches.iter().enumerate() {
        // A lone dot is the root: no search at all.
        let name = search.strip_suffix('.').unwrap_or(search);
        if *search != "." {
            report(
                errors,
                &path.child("searches").index(index),
                search,
                dns_subdomain_problems(&name.replace('_', "-")),
            );
        }
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(Error::required(path.child("options").index(index), "must not be empty"));
        }
    }
}

fn check_host_aliases(errors: &mut ErrorList, aliases: &[Value], path: &Path) {
    for (index, alias) in aliases.iter().enumerate() {
        let ip = text(alias, "ip");
        report(errors, &path.index(index).child("ip"), ip, ip_problems(ip));
        for (n, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let path = path.index(index).child("hostnames").index(n);
            report(errors, &path, name, dns_subdomain_problems(name));
        }
    }
}
