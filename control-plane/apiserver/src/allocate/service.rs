//! What a service has, and needs.

use std::net::IpAddr;

use serde_json::Value;

use super::range::AddressRange;
use super::records::Thing;
use crate::json::{list, strings, text};

pub(super) fn kind(service: &Value) -> &str {
    match text(service, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

pub(super) fn is_headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == "None" || text(service, "/spec/clusterIPs/0") == "None"
}

/// Its cluster addresses.
pub(super) fn addresses(service: &Value) -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = strings(service, "/spec/clusterIPs").iter().filter_map(|a| a.parse().ok()).collect();
    if let Ok(address) = text(service, "/spec/clusterIP").parse()
        && !out.contains(&address)
    {
        out.insert(0, address);
    }
    out
}

/// Its node ports, that for health checks included.
pub(super) fn node_ports(service: &Value) -> Vec<u16> {
    let ports = list(service, "/spec/ports").iter().map(|port| &port["nodePort"]);
    let all = ports.chain(service.pointer("/spec/healthCheckNodePort"));
    all.filter_map(|p| p.as_u64().and_then(|p| u16::try_from(p).ok())).filter(|p| *p > 0).collect()
}

pub(super) fn needs_addresses(service: &Value) -> bool {
    kind(service) != "ExternalName" && !is_headless(service)
}

pub(super) fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

pub(super) fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

pub(super) fn ports(service: &Value) -> usize {
    list(service, "/spec/ports").len()
}

/// The node port that the service asks for; 0 for any.
pub(super) fn node_port(service: &Value, index: usize) -> i64 {
    service["spec"]["ports"][index]["nodePort"].as_i64().unwrap_or(0)
}

pub(super) fn set_node_port(service: &mut Value, index: usize, port: u16) {
    service["spec"]["ports"][index]["nodePort"] = port.into();
}

/// The node port of an earlier port of the same number and another protocol.
pub(super) fn sibling_node_port(service: &Value, index: usize) -> Option<u16> {
    let ports = list(service, "/spec/ports");
    let this = ports.get(index)?;
    let protocol = |port: &Value| match text(port, "/protocol") {
        "" => "TCP".to_owned(),
        protocol => protocol.to_owned(),
    };
    let sibling = ports[..index].iter().find(|p| p["port"] == this["port"] && protocol(p) != protocol(this))?;
    let port = u16::try_from(sibling["nodePort"].as_u64()?).ok()?;
    // Not if a third already has it with this protocol.
    let clash = |p: &Value| p["nodePort"].as_u64() == Some(u64::from(port)) && protocol(p) == protocol(this);
    (port > 0 && !ports.iter().any(clash)).then_some(port)
}

pub(super) fn set_addresses(service: &mut Value, addresses: &[IpAddr]) {
    let Some(first) = addresses.first() else { return };
    service["spec"]["clusterIP"] = first.to_string().into();
    service["spec"]["clusterIPs"] = addresses.iter().map(|a| Value::from(a.to_string())).collect();
}

/// Takes out a chosen address or port that it cannot have, so that another is chosen.
pub(super) fn forget(service: &mut Value, lost: Thing) {
    match lost {
        Thing::Address(address) => {
            // What comes after a chosen address has been chosen, too.
            let left: Vec<IpAddr> = addresses(service).into_iter().take_while(|a| *a != address).collect();
            if let Some(spec) = service["spec"].as_object_mut() {
                spec.remove("clusterIP");
                spec.remove("clusterIPs");
            }
            set_addresses(service, &left);
        }
        Thing::Port(port) => {
            for index in 0..ports(service) {
                if node_port(service, index) == i64::from(port) {
                    set_node_port(service, index, 0);
                }
            }
            if service["spec"]["healthCheckNodePort"] == port {
                service["spec"]["healthCheckNodePort"] = 0.into();
            }
        }
    }
}

pub(super) fn set(service: &mut Value, key: &str, value: impl Into<Value>) {
    service["spec"][key] = value.into();
}

pub(super) fn family_of(range: &AddressRange) -> &'static str {
    if range.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// What an update may leave out and keeps (upstream `patchAllocatedValues`): the addresses, and the node ports of ports
/// of the same name, or the same number and protocol.
pub(super) fn carry_over(service: &mut Value, old: &Value) {
    if kind(service) != "ExternalName" && kind(old) != "ExternalName" {
        let unset = text(service, "/spec/clusterIP").is_empty() && strings(service, "/spec/clusterIPs").is_empty();
        for key in ["clusterIP", "clusterIPs"] {
            if unset && let Some(value) = old["spec"].get(key) {
                service["spec"][key] = value.clone();
            }
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            let absent = service["spec"].get(key).is_none_or(Value::is_null);
            if absent && let Some(value) = old["spec"].get(key) {
                service["spec"][key] = value.clone();
            }
        }
    }
    if needs_node_ports(service) && needs_node_ports(old) {
        let known: Vec<Value> = list(old, "/spec/ports").to_vec();
        let same = |a: &Value, b: &Value| a["port"] == b["port"] && a["protocol"] == b["protocol"];
        for index in 0..ports(service) {
            let port = &service["spec"]["ports"][index];
            if port["nodePort"].as_i64().unwrap_or(0) != 0 {
                continue;
            }
            let before = known.iter().find(|p| same(p, port)).and_then(|p| p["nodePort"].as_u64());
            let before = before.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
            let used = |p: u16| node_ports(service).contains(&p);
            if let Some(before) = before.filter(|p| !used(*p)) {
                set_node_port(service, index, before);
            }
        }
    }
    if needs_health_check_port(service) && needs_health_check_port(old) {
        let unset = service["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0) == 0;
        if unset && let Some(port) = old["spec"].get("healthCheckNodePort") {
            service["spec"]["healthCheckNodePort"] = port.clone();
        }
    }
}

/// What a service of its type does not have, if the client did not put it there itself (upstream
/// `dropTypeDependentFields`): after a change of type, the leftovers of the old one.
pub(super) fn drop_unneeded(service: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    let needs_addresses = needs_addresses(service) || is_headless(service);
    let node_ports = needs_node_ports(service) || kind(service) == "LoadBalancer";
    let health = needs_health_check_port(service);
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let mut drop = |key: &str| {
        if spec.get(key) == old["spec"].get(key) {
            spec.remove(key);
        }
    };
    if !needs_addresses && kind(old) != "ExternalName" {
        ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter().for_each(&mut drop);
    }
    if !health && needs_health_check_port(old) {
        drop("healthCheckNodePort");
    }
    if !node_ports && needs_node_ports(old) {
        let before = self::node_ports(old);
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let leftover = port["nodePort"].as_u64().is_some_and(|p| before.iter().any(|b| u64::from(*b) == p));
            if leftover && let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
}
