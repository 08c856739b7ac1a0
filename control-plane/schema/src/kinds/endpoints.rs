//! Endpoints, the old form of endpoint slices.

use std::net::IpAddr;

use serde_json::Value;

use super::checks::{dns_label_problems, dns_subdomain_problems, ip_problems, port_number, report, required_one_of};
use super::json::{default_text, int, list, list_mut, text};
use super::pod_spec::PROTOCOLS;
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy =
    Strategy { default, validate, validate_update: |new, _| validate(new), create_on_update: true, ..PLAIN };

fn default(endpoints: &mut Value) {
    for subset in list_mut(endpoints, "subsets") {
        for port in list_mut(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

fn validate(endpoints: &Value) -> ErrorList {
    let mut errors = Vec::new();
    for (index, subset) in list(endpoints, "subsets").iter().enumerate() {
        let path = Path::new("subsets").index(index);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.push(Error::required(path.clone(), "must specify `addresses` or `notReadyAddresses`"));
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (n, address) in list(subset, key).iter().enumerate() {
                check_address(&mut errors, address, &path.child(key).index(n));
            }
        }
        check_ports(&mut errors, list(subset, "ports"), &path.child("ports"));
    }
    errors
}

fn check_address(errors: &mut ErrorList, address: &Value, path: &Path) {
    let mut check = |key: &str, problems: fn(&str) -> Vec<String>| {
        let name = text(address, key);
        if !name.is_empty() {
            report(errors, &path.child(key), name, problems(name));
        }
    };
    check("hostname", dns_label_problems);
    check("nodeName", dns_subdomain_problems);
    check_ip(errors, text(address, "ip"), &path.child("ip"));
}

fn check_ports(errors: &mut ErrorList, ports: &[Value], path: &Path) {
    for (n, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(n), text(port, "name"));
        if name.is_empty() && ports.len() > 1 {
            errors.push(Error::required(path.child("name"), ""));
        } else if !name.is_empty() {
            report(errors, &path.child("name"), name, dns_label_problems(name));
        }
        port_number(errors, &path.child("port"), int(port, "port").unwrap_or_default());
        required_one_of(errors, port, &path, "protocol", &PROTOCOLS);
    }
}

/// Go's `IP.IsLinkLocalMulticast`: 224.0.0.0/24 and ff02::/16.
fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

/// An address that something else can be reached at: not this machine's own, and not everybody's.
pub(super) fn check_ip(errors: &mut ErrorList, address: &str, path: &Path) {
    let problems = ip_problems(address);
    let Ok(ip) = address.parse::<IpAddr>() else {
        return report(errors, path, address, problems);
    };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let problem = if ip.is_unspecified() {
        format!("may not be unspecified ({address})")
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if is_link_local_multicast(ip) {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return;
    };
    errors.push(Error::invalid(path.clone(), address, problem));
}
