//! Network policies (`pkg/apis/networking/validation`).

use ipnet::IpNet;
use serde_json::{Value, json};

use super::checks::{check_selector, in_range, port_number_or_name};
use super::json::{at, default_text, has, int, list, list_mut, set, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy =
    Strategy { default, validate, validate_update: |new, _| validate(new), generation: true, ..PLAIN };

fn default(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec").filter(|s| s.is_object()) else { return };
    for direction in ["ingress", "egress"] {
        for rule in list_mut(spec, direction) {
            for port in list_mut(rule, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }
    // Rules for what comes in are always meant; for what goes out only where there are any.
    if list(spec, "policyTypes").is_empty() {
        let types = if list(spec, "egress").is_empty() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        set(spec, "policyTypes", types);
    }
}

fn validate(policy: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(policy, "spec"), Path::new("spec"));
    check_selector(&mut errors, at(spec, "podSelector"), &path.child("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let path = path.child(direction).index(index);
            for (n, port) in list(rule, "ports").iter().enumerate() {
                check_port(&mut errors, port, &path.child("ports").index(n));
            }
            for (n, peer) in list(rule, peers).iter().enumerate() {
                check_peer(&mut errors, peer, &path.child(peers).index(n));
            }
        }
    }
    check_types(&mut errors, list(spec, "policyTypes"), &path.child("policyTypes"));
    errors
}

fn check_types(errors: &mut ErrorList, types: &[Value], path: &Path) {
    if types.len() > 2 {
        errors.push(Error::invalid(path.clone(), types.to_vec(), "may not specify more than two policyTypes"));
        return;
    }
    for (index, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            errors.push(Error::not_supported(path.index(index), kind, &["Egress", "Ingress"]));
        }
    }
}

fn check_port(errors: &mut ErrorList, port: &Value, path: &Path) {
    let protocol = text(port, "protocol");
    if has(port, "protocol") && !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        errors.push(Error::not_supported(path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]));
    }
    let number = at(port, "port");
    if !number.is_null() {
        port_number_or_name(errors, &path.child("port"), number);
    }
    let Some(end) = int(port, "endPort") else { return };
    let path = path.child("endPort");
    match number {
        Value::Null => errors.push(Error::required(path.clone(), "may not be specified when `port` is not specified")),
        Value::String(_) => {
            errors.push(Error::required(path.clone(), "may not be specified when `port` is non-numeric"))
        }
        _ => {
            let start = number.as_i64().unwrap_or_default();
            if end < start {
                errors.push(Error::invalid(path.clone(), end, "must be greater than or equal to `port`"));
            }
        }
    }
    in_range(errors, port, &Path::new(path.as_str().trim_end_matches(".endPort")), "endPort", 1, 65535);
}

fn check_peer(errors: &mut ErrorList, peer: &Value, path: &Path) {
    let given = ["podSelector", "namespaceSelector", "ipBlock"].into_iter().filter(|key| has(peer, key)).count();
    for key in ["podSelector", "namespaceSelector"] {
        check_selector(errors, at(peer, key), &path.child(key));
    }
    if has(peer, "ipBlock") {
        check_block(errors, at(peer, "ipBlock"), &path.child("ipBlock"));
    }
    if given == 0 {
        errors.push(Error::required(path.clone(), "must specify a peer"));
    } else if has(peer, "ipBlock") && given > 1 {
        errors.push(Error::forbidden(path.clone(), "may not specify both ipBlock and another peer"));
    }
}

const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

fn check_block(errors: &mut ErrorList, block: &Value, path: &Path) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        errors.push(Error::required(path.child("cidr"), ""));
        return;
    }
    let Ok(whole) = cidr.parse::<IpNet>() else {
        errors.push(Error::invalid(path.child("cidr"), cidr, CIDR));
        return;
    };
    for (index, except) in list(block, "except").iter().enumerate() {
        let (path, text) = (path.child("except").index(index), except.as_str().unwrap_or_default());
        match text.parse::<IpNet>() {
            Err(_) => errors.push(Error::invalid(path, text, CIDR)),
            Ok(part) if !whole.contains(&part.network()) || whole.prefix_len() >= part.prefix_len() => {
                let detail = "must be a strict subset of `cidr`";
                errors.push(Error::invalid(path, text, detail));
            }
            Ok(_) => {}
        }
    }
}
