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
        } else if text(spec, "clusterIP") == text(before, "clusterIP") {
            if list(spec, "clusterIPs").is_empty() {
                carry_over(spec, before, "clusterIPs");
            }
        } else if same(at(spec, "clusterIPs"), at(before, "clusterIPs")) {
            // A client that knows of one address only has changed it.
            let only: Vec<_> =
                [text(spec, "clusterIP")].into_iter().filter(|ip| !ip.is_empty()).map(Value::from).collect();
            set(spec, "clusterIPs", only);
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
    let mut errors = Vec::new();
    let (spec, before, path) = (at(new, "spec"), at(old, "spec"), Path::new("spec"));
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        let (headless, was) = (super::is_headless(spec), super::is_headless(before));
        if !(headless && was) {
            check_lasting(&mut errors, spec, before, "clusterIPs", "clusterIP", &path);
        }
        if !headless && !was {
            check_lasting(&mut errors, spec, before, "ipFamilies", "ipFamily", &path);
        }
    }
    let class = |spec| text(spec, "loadBalancerClass");
    let balanced = text(spec, "type") == "LoadBalancer" && text(before, "type") == "LoadBalancer";
    if balanced && class(spec) != class(before) {
        errors.push(Error::invalid(path.child("loadBalancerClass"), class(spec), "may not change once set"));
    }
    if needs_health_port(spec)
        && needs_health_port(before)
        && int(spec, "healthCheckNodePort") != int(before, "healthCheckNodePort")
    {
        errors.push(Error::forbidden(path.child("healthCheckNodePort"), "field is immutable"));
    }
    errors.extend(super::validate(new));
    errors
}

/// The addresses and families of a service, once it has them, are its own for life; a second one can be added, and
/// given up by asking for a single stack.
fn check_lasting(errors: &mut ErrorList, spec: &Value, before: &Value, key: &str, noun: &str, path: &Path) {
    let (new, old, at_first) = (list(spec, key), list(before, key), path.child(key).index(0));
    let changed = |at: Path| Error::invalid(at, new.to_vec(), "may not change once set");
    if new.len() == old.len() {
        let pairs = new.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old);
        errors.extend(pairs.map(|(index, _)| changed(path.child(key).index(index))));
        return;
    }
    match (new.first(), old.first()) {
        (None, Some(_)) => {
            errors.push(Error::invalid(at_first, new.to_vec(), format!("primary {noun} can not be unset")));
        }
        (Some(new), Some(old)) if new != old => errors.push(changed(at_first)),
        _ => {}
    }
    if new.len() < old.len() && new.len() == 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {noun}");
        errors.push(Error::invalid(path.child("ipFamilyPolicy"), at(spec, "ipFamilyPolicy").clone(), detail));
    }
}
