//! The ports of a service.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{
    dns_label_problems, port_number, port_number_or_name, qualified_name_problems, report, required_one_of,
};
use crate::kinds::json::{at, has, int, list, text};
use crate::kinds::pod_spec::PROTOCOLS;

pub(super) fn check_ports(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let ports = list(spec, "ports");
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(index), text(port, "name"));
        if name.is_empty() && ports.len() > 1 {
            errors.push(Error::required(path.child("name"), ""));
        } else if !name.is_empty() {
            report(errors, &path.child("name"), name, dns_label_problems(name));
            if !names.insert(name) {
                errors.push(Error::duplicate(path.child("name"), name));
            }
        }
        port_number(errors, &path.child("port"), int(port, "port").unwrap_or_default());
        required_one_of(errors, port, &path, "protocol", &PROTOCOLS);
        port_number_or_name(errors, &path.child("targetPort"), at(port, "targetPort"));
        if has(port, "appProtocol") {
            let protocol = text(port, "appProtocol");
            report(errors, &path.child("appProtocol"), protocol, qualified_name_problems(protocol));
        }
    }
    check_node_ports(errors, spec, path);
    check_repetition(errors, ports, path);
}

fn check_node_ports(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let kind = text(spec, "type");
    let mut seen = BTreeSet::new();
    for (index, port) in list(spec, "ports").iter().enumerate() {
        let path = path.index(index).child("nodePort");
        let number = int(port, "nodePort").unwrap_or_default();
        if number == 0 {
            continue;
        }
        if kind == "ClusterIP" {
            errors.push(Error::forbidden(path, "may not be used when `type` is 'ClusterIP'"));
        } else if kind == "ExternalName" {
            errors.push(Error::forbidden(path, "may not be used when `type` is 'ExternalName'"));
        } else if !seen.insert((text(port, "protocol"), number)) {
            errors.push(Error::duplicate(path, number));
        }
    }
}

/// One number and protocol can be one port only.
fn check_repetition(errors: &mut ErrorList, ports: &[Value], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (number, protocol) = (int(port, "port").unwrap_or_default(), text(port, "protocol"));
        if !seen.insert((number, protocol)) {
            let key = serde_json::json!({ "port": number, "protocol": protocol });
            errors.push(Error::duplicate(path.index(index), key));
        }
    }
}
