//! Endpoint slices (`pkg/apis/discovery/validation`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{
    dns_label_problems, dns_subdomain_problems, immutable, in_range, label_value_problems, qualified_name_problems,
    report, required_one_of,
};
use super::endpoints::check_ip;
use super::json::{at, default_text, default_to, has, list, list_mut, text};
use super::pod_spec::PROTOCOLS;
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy { default, validate, validate_update, generation: true, ..PLAIN };

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

fn default(slice: &mut Value) {
    for port in list_mut(slice, "ports") {
        default_to(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
}

fn validate(slice: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::default();
    required_one_of(&mut errors, slice, &path, "addressType", &["FQDN", "IPv4", "IPv6"]);
    let endpoints = list(slice, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(Error::too_many(path.child("endpoints"), endpoints.len(), MAX_ENDPOINTS));
        return errors;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        check_endpoint(&mut errors, endpoint, text(slice, "addressType"), &path.child("endpoints").index(index));
    }
    check_ports(&mut errors, list(slice, "ports"), &path.child("ports"));
    errors
}

fn check_endpoint(errors: &mut ErrorList, endpoint: &Value, kind: &str, path: &Path) {
    let (addresses, at_addresses) = (list(endpoint, "addresses"), path.child("addresses"));
    if addresses.is_empty() {
        errors.push(Error::required(at_addresses.clone(), "must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        errors.push(Error::too_many(at_addresses.clone(), addresses.len(), MAX_ADDRESSES));
    }
    for (index, address) in addresses.iter().enumerate() {
        let (path, address) = (at_addresses.index(index), address.as_str().unwrap_or_default());
        match kind {
            "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                errors.push(Error::invalid(path, address, "must be a valid IPv4 address"));
            }
            "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                errors.push(Error::invalid(path, address, "must be a valid IPv6 address"));
            }
            "IPv4" | "IPv6" => check_ip(errors, address, &path),
            "FQDN" => report(errors, &path, address, dns_subdomain_problems(address.trim_end_matches('.'))),
            _ => {}
        }
    }
    let node = text(endpoint, "nodeName");
    if has(endpoint, "nodeName") {
        report(errors, &path.child("nodeName"), node, dns_subdomain_problems(node));
    }
    for (key, problems) in HINTS {
        check_hints(errors, list(endpoint, &format!("hints.{key}")), problems, &path.child("hints").child(key));
    }
    if has(endpoint, "hostname") {
        let hostname = text(endpoint, "hostname");
        report(errors, &path.child("hostname"), hostname, dns_label_problems(hostname));
    }
}

/// What is wrong with a name.
type Problems = fn(&str) -> Vec<String>;

/// Whom an endpoint may be meant for, and how they are called.
const HINTS: [(&str, Problems); 2] = [("forZones", label_value_problems), ("forNodes", dns_subdomain_problems)];
const MAX_HINTS: usize = 8;

fn check_hints(errors: &mut ErrorList, hints: &[Value], problems: Problems, path: &Path) {
    if hints.len() > MAX_HINTS {
        errors.push(Error::too_many(path.clone(), hints.len(), MAX_HINTS));
        return;
    }
    let mut names = BTreeSet::new();
    for (index, hint) in hints.iter().enumerate() {
        let path = path.index(index).child("name");
        let Some(name) = hint.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            errors.push(Error::required(path, ""));
            continue;
        };
        if !names.insert(name) {
            errors.push(Error::duplicate(path.clone(), name));
        }
        report(errors, &path, name, problems(name));
    }
}

fn check_ports(errors: &mut ErrorList, ports: &[Value], path: &Path) {
    if ports.len() > MAX_PORTS {
        errors.push(Error::too_many(path.clone(), ports.len(), MAX_PORTS));
        return;
    }
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(index), text(port, "name"));
        if !name.is_empty() {
            report(errors, &path.child("name"), name, dns_label_problems(name));
        }
        if !names.insert(name) {
            errors.push(Error::duplicate(path.child("name"), name));
        }
        required_one_of(errors, port, &path, "protocol", &PROTOCOLS);
        in_range(errors, port, &path, "port", 1, 65535);
        if has(port, "appProtocol") {
            let protocol = text(port, "appProtocol");
            report(errors, &path.child("appProtocol"), protocol, qualified_name_problems(protocol));
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("addressType"), at(new, "addressType"), at(old, "addressType"));
    errors
}
