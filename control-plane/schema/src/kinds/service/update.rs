//! Updates of a service: what was given out stays, and what no longer fits the type goes.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{at, carry_over, has, int, list, list_mut, same, set, text, unset};

/// Carries over what the server has given out and the update leaves out, and drops what goes with the old type only.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    carry_over(new, old, "status");
    let before = at(old, "spec");
    let Some(spec) = new.get_mut("spec").filter(|s| s.is_object()) else { return };
    keep_allocated(spec, before);
    drop_unfit(spec, before);
}

fn needs_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

fn needs_node_port(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => at(spec, "allocateLoadBalancerNodePorts") != false,
        _ => false,
    }
}

fn needs_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn keep_allocated(spec: &mut Value, before: &Value) {
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        if text(spec, "clusterIP").is_empty() && list(spec, "clusterIPs").is_empty() {
            carry_over(spec, before, "clusterIP");
            carry_over(spec, before, "clusterIPs");
        } else if list(spec, "clusterIPs").is_empty() && text(spec, "clusterIP") == text(before, "clusterIP") {
            carry_over(spec, before, "clusterIPs");
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if !has(spec, key) {
                carry_over(spec, before, key);
            }
        }
    }
    if needs_node_port(spec) && needs_node_port(before) {
        keep_node_ports(spec, before);
    }
    if needs_health_port(spec) && needs_health_port(before) && int(spec, "healthCheckNodePort").unwrap_or_default() == 0
    {
        carry_over(spec, before, "healthCheckNodePort");
    }
}

/// A port that names no node port keeps the one that the old port of its name has, unless another took it.
fn keep_node_ports(spec: &mut Value, before: &Value) {
    let mut taken: Vec<_> = list(spec, "ports").iter().filter_map(|p| int(p, "nodePort")).filter(|n| *n != 0).collect();
    for port in list_mut(spec, "ports") {
        if int(port, "nodePort").unwrap_or_default() != 0 {
            continue;
        }
        let old = list(before, "ports").iter().find(|old| text(old, "name") == text(port, "name"));
        if let Some(number) = old.and_then(|old| int(old, "nodePort")).filter(|n| *n != 0 && !taken.contains(n)) {
            set(port, "nodePort", number);
            taken.push(number);
        }
    }
}

/// A user who changes the type alone means the rest to follow.
fn drop_unfit(spec: &mut Value, before: &Value) {
    let mut drop = |fits: fn(&Value) -> bool, keys: &[&str]| {
        if fits(before) && !fits(spec) {
            for key in keys {
                if same(at(spec, key), at(before, key)) {
                    unset(spec, key);
                }
            }
        }
    };
    drop(needs_cluster_ip, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    drop(needs_health_port, &["healthCheckNodePort"]);
    let balanced = |spec: &Value| text(spec, "type") == "LoadBalancer";
    drop(balanced, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    drop(super::is_external, &["externalTrafficPolicy"]);
    if needs_node_port(before) && !needs_node_port(spec) && text(spec, "type") != "LoadBalancer" {
        drop_node_ports(spec, before);
    }
}

fn drop_node_ports(spec: &mut Value, before: &Value) {
    let numbers = |spec: &Value| list(spec, "ports").iter().filter_map(|p| int(p, "nodePort")).collect::<Vec<_>>();
    if numbers(spec).iter().all(|number| numbers(before).contains(number)) {
        for port in list_mut(spec, "ports") {
            unset(port, "nodePort");
        }
    }
}

/// Everything wrong with an update.
pub(super) fn validate(new: &Value, old: &Value) -> ErrorList {
    let mut errors = super::validate(new);
    let (spec, before, path) = (at(new, "spec"), at(old, "spec"), Path::new("spec"));
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        check_primary(&mut errors, spec, before, &path);
    }
    if needs_health_port(spec)
        && needs_health_port(before)
        && int(spec, "healthCheckNodePort") != int(before, "healthCheckNodePort")
    {
        errors.push(Error::forbidden(path.child("healthCheckNodePort"), "field is immutable"));
    }
    let class = |spec| text(spec, "loadBalancerClass");
    let balanced = text(spec, "type") == "LoadBalancer" && text(before, "type") == "LoadBalancer";
    if balanced && class(spec) != class(before) {
        errors.push(Error::invalid(path.child("loadBalancerClass"), class(spec), "may not change once set"));
    }
    errors
}

/// The address of a service, once it has one, is its own for life.
fn check_primary(errors: &mut ErrorList, spec: &Value, before: &Value, path: &Path) {
    let (new, old) = (text(spec, "clusterIP"), text(before, "clusterIP"));
    if old.is_empty() || new == old {
        return;
    }
    let detail = if new.is_empty() { "primary clusterIP can not be unset" } else { "may not change once set" };
    errors.push(Error::invalid(path.child("clusterIPs").index(0), vec![new], detail));
}
