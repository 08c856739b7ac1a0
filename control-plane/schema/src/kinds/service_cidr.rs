//! Ranges of service addresses, and the addresses in them (`pkg/apis/networking/validation`).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::checks::{IMMUTABLE, dns_label_problems, dns_subdomain_problems, immutable, report};
use super::json::{at, list, set, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{NameRule, PLAIN, Strategy};

pub(super) const SERVICE_CIDR: Strategy = Strategy {
    prepare_create: |cidr| set(cidr, "status", json!({})),
    prepare_update: super::keep_status,
    validate,
    validate_update,
    generation: true,
    ..PLAIN
};

pub(super) const IP_ADDRESS: Strategy = Strategy {
    validate: check_address,
    validate_update: |new, old| {
        let mut errors = check_address(new);
        immutable(
            &mut errors,
            &Path::new("spec").child("parentRef"),
            at(new, "spec.parentRef"),
            at(old, "spec.parentRef"),
        );
        errors
    },
    generation: true,
    name: NameRule::Other,
    ..PLAIN
};

fn validate(cidr: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (cidrs, path) = (list(cidr, "spec.cidrs"), Path::new("spec").child("cidrs"));
    match cidrs.len() {
        0 => errors.push(Error::required(path.clone(), "at least one CIDR required")),
        1 => {}
        2 => {
            let v6 = |value: &Value| value.as_str().is_some_and(|text| text.contains(':'));
            if v6(&cidrs[0]) == v6(&cidrs[1]) {
                let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                              2001:db8::/64";
                errors.push(Error::invalid(path.clone(), cidrs.to_vec(), detail));
            }
        }
        _ => {
            let detail = "may only hold up to 2 values";
            errors.push(Error::invalid(path.clone(), cidrs.to_vec(), detail));
        }
    }
    for (index, value) in cidrs.iter().enumerate() {
        let (path, text) = (path.index(index), value.as_str().unwrap_or_default());
        match text.parse::<IpNet>() {
            Err(_) => {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(Error::invalid(path, text, detail));
            }
            Ok(net) if net.trunc() != net => {
                let detail =
                    format!("must not have bits set beyond the prefix length (did you mean \"{}\"?)", net.trunc());
                errors.push(Error::invalid(path, text, detail));
            }
            Ok(net) if net.to_string() != text => {
                let detail = format!("must be in canonical form (\"{net}\")");
                errors.push(Error::invalid(path, text, detail));
            }
            Ok(_) => {}
        }
    }
    errors
}

/// A range may get one of the other family, and does not change otherwise.
fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (is, was, path) = (list(new, "spec.cidrs"), list(old, "spec.cidrs"), Path::new("spec").child("cidrs"));
    if was.len() == 1 && is.len() == 2 {
        if is[0] != was[0] {
            errors.push(Error::invalid(path.index(0), is[0].clone(), IMMUTABLE));
        }
        errors.extend(validate(new));
    } else {
        immutable(&mut errors, &path, at(new, "spec.cidrs"), at(old, "spec.cidrs"));
    }
    errors
}

fn check_address(address: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let name = text(address, "metadata.name");
    match name.parse::<IpAddr>() {
        Err(_) => {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(Error::invalid(Path::new("metadata").child("name"), name, detail));
        }
        Ok(ip) if ip.to_string() != name => {
            let detail = format!("must be in canonical form (\"{ip}\")");
            errors.push(Error::invalid(Path::new("metadata").child("name"), name, detail));
        }
        Ok(_) => {}
    }
    let (parent, path) = (at(address, "spec.parentRef"), Path::new("spec").child("parentRef"));
    if parent.is_null() {
        errors.push(Error::required(path, ""));
        return errors;
    }
    let group = text(parent, "group");
    if !group.is_empty() {
        report(&mut errors, &path.child("group"), group, dns_subdomain_problems(group));
    }
    for key in ["resource", "name"] {
        let value = text(parent, key);
        if value.is_empty() {
            errors.push(Error::required(path.child(key), ""));
        } else if value.contains('/') || value.contains('%') {
            let wrong = if value.contains('/') { "may not contain '/'" } else { "may not contain '%'" };
            errors.push(Error::invalid(path.child(key), value, wrong));
        }
    }
    let namespace = text(parent, "namespace");
    if !namespace.is_empty() {
        report(&mut errors, &path.child("namespace"), namespace, dns_label_problems(namespace));
    }
    errors
}
