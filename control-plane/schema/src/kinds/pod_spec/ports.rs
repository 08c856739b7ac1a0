//! Container ports.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{port_name_problems, port_number, report, required_one_of};
use crate::kinds::json::{int, list, text};

/// The protocols of a port.
pub(crate) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn check_ports(errors: &mut ErrorList, ports: &[Value], path: &Path) {
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = port_name_problems(name);
            if problems.is_empty() && !names.insert(name) {
                errors.push(Error::duplicate(path.child("name"), name));
            }
            report(errors, &path.child("name"), name, problems);
        }
        let number = int(port, "containerPort").unwrap_or_default();
        if number == 0 {
            errors.push(Error::required(path.child("containerPort"), ""));
        } else {
            port_number(errors, &path.child("containerPort"), number);
        }
        let host_port = int(port, "hostPort").unwrap_or_default();
        if host_port != 0 {
            port_number(errors, &path.child("hostPort"), host_port);
        }
        required_one_of(errors, port, &path, "protocol", &PROTOCOLS);
    }
}

/// Two containers of a pod cannot have the same port of the node.
pub(super) fn check_host_port_conflicts(errors: &mut ErrorList, containers: &[Value], path: &Path) {
    let mut taken = BTreeSet::new();
    for (c, container) in containers.iter().enumerate() {
        for (p, port) in list(container, "ports").iter().enumerate() {
            let host_port = int(port, "hostPort").unwrap_or_default();
            if host_port == 0 {
                continue;
            }
            let key = format!("{}/{}/{host_port}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(key.clone()) {
                errors.push(Error::duplicate(path.index(c).child("ports").index(p).child("hostPort"), key));
            }
        }
    }
}

/// On the node's network, a port is the node's port. In a template it may be left out: the pod that is made of it gets
/// it by default.
pub(super) fn check_host_network(errors: &mut ErrorList, containers: &[Value], path: &Path) {
    for (c, container) in containers.iter().enumerate() {
        for (p, port) in list(container, "ports").iter().enumerate() {
            let host_port = int(port, "hostPort").unwrap_or_default();
            if host_port != 0 && host_port != int(port, "containerPort").unwrap_or_default() {
                let path = path.index(c).child("ports").index(p).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(path, host_port, detail));
            }
        }
    }
}
