//! Services (`pkg/apis/core`, `pkg/registry/core/service`). Addresses and node ports are given out by the API server,
//! between the preparation here and the validation.

mod addresses;
mod ports;
mod update;

use serde_json::{Value, json};

use super::checks::{
    check_labels, dns_subdomain_problems, in_range, ip_problems, one_of, qualified_name_problems, report,
    required_one_of,
};
use super::endpoints::check_ip;
use super::json::{at, default_int, default_text, default_to, has, int, list, list_mut, set, text, unset, within};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{NameRule, PLAIN, Strategy};

pub use addresses::problems as address_problems;

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create,
    prepare_update: update::prepare,
    validate,
    validate_update: update::validate,
    validate_status: |new, _| check_status(new),
    fields: |service| {
        ["spec.clusterIP", "spec.type"].into_iter().map(|label| (label, text(service, label).to_owned())).collect()
    },
    warnings,
    name: NameRule::Label1035,
    ..PLAIN
};

/// How long a client stays with its backend, unless the service says.
const AFFINITY_SECONDS: i64 = 10_800;
const MAX_AFFINITY_SECONDS: i64 = 86_400;
/// Where nodes serve their API.
const KUBELET_PORT: i64 = 10_250;

fn default(service: &mut Value) {
    let Some(spec) = service.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_text(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "ClientIP" {
        default_to(spec, "sessionAffinityConfig", json!({}));
        within(spec, "sessionAffinityConfig", |v| default_to(v, "clientIP", json!({})));
        within(spec, "sessionAffinityConfig", |config| {
            within(config, "clientIP", |ip| default_int(ip, "timeoutSeconds", AFFINITY_SECONDS));
        });
    } else if text(spec, "sessionAffinity") == "None" {
        // Who turns affinity off need not take its settings away, too.
        unset(spec, "sessionAffinityConfig");
    }
    default_text(spec, "type", "ClusterIP");
    for port in list_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let target = at(port, "targetPort");
        if target.is_null() || target == "" || *target == 0 {
            let number = at(port, "port").clone();
            set(port, "targetPort", number);
        }
    }
    if is_external(spec) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") != "ExternalName" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
        for point in list_mut(service, "status.loadBalancer.ingress") {
            if !text(point, "ip").is_empty() {
                default_to(point, "ipMode", "VIP");
            }
        }
    }
}

/// A client that knows of one address only sets that.
fn prepare_create(service: &mut Value) {
    set(service, "status", json!({ "loadBalancer": {} }));
    let address = text(service, "spec.clusterIP").to_owned();
    if !address.is_empty() && list(service, "spec.clusterIPs").is_empty() {
        within(service, "spec", |spec| set(spec, "clusterIPs", vec![address]));
    }
}

/// No address of its own: its name stands for its pods' addresses.
fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None"
}

/// Whether it can be reached from outside the cluster.
fn is_external(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

fn validate(service: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(service, "spec"), Path::new("spec"));
    let kind = text(spec, "type");
    let headless = is_headless(spec);
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(path.child("ports"), ""));
    }
    check_type(&mut errors, spec, headless, &path);
    ports::check_ports(&mut errors, spec, &path.child("ports"));
    check_labels(&mut errors, spec, "selector", &path.child("selector"));
    check_affinity(&mut errors, spec, &path);
    errors.extend(addresses::problems(spec));
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        check_ip(&mut errors, address.as_str().unwrap_or_default(), &path.child("externalIPs").index(index));
    }
    required_one_of(&mut errors, spec, &path, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    check_load_balancer(&mut errors, spec, &path);
    check_traffic_policies(&mut errors, spec, &path);
    errors
}

/// What goes with each type.
fn check_type(errors: &mut ErrorList, spec: &Value, headless: bool, path: &Path) {
    if text(spec, "type") == "LoadBalancer" {
        for (index, port) in list(spec, "ports").iter().enumerate() {
            // Some clouds open their firewalls too far for this.
            if int(port, "port") == Some(KUBELET_PORT) {
                let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                errors.push(Error::invalid(path.child("ports").index(index), KUBELET_PORT, detail));
            }
        }
    }
    match text(spec, "type") {
        kind @ ("NodePort" | "LoadBalancer") if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => {
            if !list(spec, "clusterIPs").is_empty() || !text(spec, "clusterIP").is_empty() {
                let detail = "may not be set for ExternalName services";
                errors.push(Error::forbidden(path.child("clusterIPs"), detail));
            }
            for key in ["ipFamilies", "ipFamilyPolicy"] {
                let value = at(spec, key);
                if !value.is_null() && value.as_array().is_none_or(|families| !families.is_empty()) {
                    errors.push(Error::forbidden(path.child(key), "may not be set for ExternalName services"));
                }
            }
            let name = text(spec, "externalName").trim_end_matches('.');
            if name.is_empty() {
                errors.push(Error::required(path.child("externalName"), ""));
            } else {
                report(errors, &path.child("externalName"), name, dns_subdomain_problems(name));
            }
        }
        _ => {}
    }
}

fn check_affinity(errors: &mut ErrorList, spec: &Value, path: &Path) {
    required_one_of(errors, spec, path, "sessionAffinity", &["ClientIP", "None"]);
    let config = path.child("sessionAffinityConfig");
    if text(spec, "sessionAffinity") == "ClientIP" {
        let path = config.child("clientIP").child("timeoutSeconds");
        match int(spec, "sessionAffinityConfig.clientIP.timeoutSeconds") {
            None => {
                let detail = "when session affinity type is ClientIP";
                errors.push(Error::required(config.child("clientIP"), detail));
            }
            Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                errors.push(Error::invalid(path, seconds, detail));
            }
            Some(_) => {}
        }
    } else if has(spec, "sessionAffinityConfig") {
        let detail = "must not be set when session affinity is None";
        errors.push(Error::forbidden(config, detail));
    }
}

fn check_load_balancer(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let load_balancer = text(spec, "type") == "LoadBalancer";
    for key in ["loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts"] {
        let value = at(spec, key);
        let given = !value.is_null() && value.as_array().is_none_or(|ranges| !ranges.is_empty());
        if given && !load_balancer {
            // Upstream's path of the ranges begins with a capital.
            let name = if key == "loadBalancerSourceRanges" { "LoadBalancerSourceRanges" } else { key };
            errors.push(Error::forbidden(path.child(name), "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    let class = text(spec, "loadBalancerClass");
    if load_balancer && has(spec, "loadBalancerClass") {
        report(errors, &path.child("loadBalancerClass"), class, qualified_name_problems(class));
    }
    for (index, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(Error::invalid(path.child("LoadBalancerSourceRanges").index(index), range, detail));
        }
    }
}

fn check_traffic_policies(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let policy = text(spec, "externalTrafficPolicy");
    let health_port = int(spec, "healthCheckNodePort").unwrap_or_default();
    if !policy.is_empty() && !is_external(spec) {
        let detail = "may only be set for externally-accessible services";
        errors.push(Error::invalid(path.child("externalTrafficPolicy"), policy, detail));
    } else {
        one_of(errors, spec, path, "externalTrafficPolicy", &["Cluster", "Local"]);
    }
    if health_port != 0 {
        if text(spec, "type") == "LoadBalancer" && policy == "Local" {
            in_range(errors, spec, path, "healthCheckNodePort", 1, 65535);
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(Error::invalid(path.child("healthCheckNodePort"), health_port, detail));
        }
    }
    if text(spec, "type") != "ExternalName" {
        required_one_of(errors, spec, path, "internalTrafficPolicy", &["Cluster", "Local"]);
    }
    one_of(errors, spec, path, "trafficDistribution", &["PreferClose", "PreferSameZone", "PreferSameNode"]);
}

fn check_status(service: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status.loadBalancer.ingress");
    let ingress = list(service, "status.loadBalancer.ingress");
    if !ingress.is_empty() && text(service, "spec.type") != "LoadBalancer" {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(Error::forbidden(path, detail));
        return errors;
    }
    for (index, point) in ingress.iter().enumerate() {
        let path = path.index(index);
        if has(point, "ip") {
            report(&mut errors, &path.child("ip"), text(point, "ip"), ip_problems(text(point, "ip")));
        }
        if has(point, "hostname") {
            let name = text(point, "hostname");
            report(&mut errors, &path.child("hostname"), name, dns_subdomain_problems(name));
            if ip_problems(name).is_empty() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(Error::invalid(path.child("hostname"), name, detail));
            }
        }
        if has(point, "ipMode") && text(point, "ip").is_empty() {
            let detail = "may not be specified when `ip` is not set";
            errors.push(Error::forbidden(path.child("ipMode"), detail));
        } else {
            one_of(&mut errors, point, &path, "ipMode", &["Proxy", "VIP"]);
        }
    }
    errors
}

fn warnings(service: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if !text(service, "spec.loadBalancerIP").is_empty() {
        out.push("spec.loadBalancerIP is deprecated".to_owned());
    }
    if text(service, "spec.type") == "ExternalName" && !list(service, "spec.externalIPs").is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if text(service, "spec.sessionAffinity") != "None" && text(service, "spec.clusterIP") == "None" {
        out.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    out
}
