//! A success as each version of the specification has it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::version::Version;
use crate::netlink::Mac;

/// What was made.
#[derive(Clone, Debug)]
pub struct Success<'a> {
    /// The host's half and the pod's half.
    pub interfaces: [Interface<'a>; 2],
    /// The pod's addresses, each with its gateway.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// Of both halves.
    pub mtu: u32,
}

/// An interface.
#[derive(Clone, Copy, Debug)]
pub struct Interface<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: Mac,
    /// The namespace that it is in; empty: the host's.
    pub sandbox: &'a str,
}

impl Success<'_> {
    /// As `version` has it. A chained plugin adds to what those before it did.
    pub fn to_json(&self, version: Version, previous: Option<&Value>) -> Value {
        let mut result = previous.and_then(Value::as_object).cloned().unwrap_or_default();
        result.insert("cniVersion".to_owned(), json!(version.text()));
        let offset = result.get("interfaces").and_then(Value::as_array).map_or(0, Vec::len);
        append(&mut result, "interfaces", self.interfaces.iter().map(|i| self.interface(i, version)).collect());
        append(&mut result, "ips", self.addresses.iter().map(|a| address(a, offset + 1, version)).collect());
        append(&mut result, "routes", self.addresses.iter().map(route).collect());
        result.entry("dns").or_insert_with(|| json!({}));
        Value::Object(result)
    }

    fn interface(&self, interface: &Interface<'_>, version: Version) -> Value {
        let mac = interface.mac.map(|b| format!("{b:02x}")).join(":");
        let mut out = json!({ "name": interface.name, "mac": mac });
        if !interface.sandbox.is_empty() {
            out["sandbox"] = json!(interface.sandbox);
        }
        if version >= Version::GC {
            out["mtu"] = json!(self.mtu);
        }
        out
    }
}

fn append(result: &mut Map<String, Value>, list: &str, more: Vec<Value>) {
    match result.get_mut(list) {
        Some(Value::Array(before)) => before.extend(more),
        _ => drop(result.insert(list.to_owned(), Value::Array(more))),
    }
}

fn address((address, gateway): &(IpAddr, IpAddr), interface: usize, version: Version) -> Value {
    let mut out = json!({ "address": IpNet::from(*address), "gateway": gateway, "interface": interface });
    if version < Version::NO_FAMILY {
        out["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
    }
    out
}

fn route((_, gateway): &(IpAddr, IpAddr)) -> Value {
    json!({ "dst": if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": gateway })
}
