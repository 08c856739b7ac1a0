//! Which families a service's addresses are of (upstream `initIPFamilyFields` in
//! `pkg/registry/core/service/storage/alloc.go`).

use std::net::IpAddr;

use serde_json::Value;
use xebec_schema::field::{Error, Path};
use xebec_schema::kinds::service::address_problems;

use super::range::AddressRange;
use super::service::{family_of, is_headless, kind, set};
use crate::json::{strings, text};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// Fills in the families and the family policy; answers the families to take addresses of, in order.
pub(super) fn settle(
    service: &mut Value,
    old: Option<&Value>,
    ranges: &[AddressRange],
) -> Result<Vec<String>, Vec<Error>> {
    if kind(service) == "ExternalName" {
        return Ok(Vec::new());
    }
    let old = old.filter(|old| kind(old) != "ExternalName");
    complete_addresses(service);
    // What prefers two families keeps those it got, also where the cluster has become a dual-stack one since.
    if old.is_some_and(|old| is_same_preference(service, old)) {
        return Ok(strings(service, "/spec/ipFamilies"));
    }
    let open = is_headless(service) && has_no_selector(service);
    if policy(service).is_empty() {
        let adopted = old.map(policy).filter(|policy| !policy.is_empty());
        set(service, "ipFamilyPolicy", adopted.unwrap_or(if open { REQUIRE } else { SINGLE }).to_owned());
    }
    let problems = address_problems(&service["spec"]);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut errors = Vec::new();
    if let Some(old) = old {
        release(service, old, &mut errors);
    }
    check_single(service, &mut errors);
    let mut families = infer(service, ranges, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    if !open {
        check_available(service, &families, ranges)?;
    }
    if families.is_empty() {
        families.extend(ranges.first().map(|range| family_of(range).to_owned()));
    }
    // Who writes the endpoints of a service without selector and address may write both families everywhere.
    if policy(service) != SINGLE && families.len() == 1 && (open || ranges.len() == 2) {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
    }
    set(service, "ipFamilies", families.clone());
    Ok(families)
}

fn policy(service: &Value) -> &str {
    text(service, "/spec/ipFamilyPolicy")
}

fn has_no_selector(service: &Value) -> bool {
    service.pointer("/spec/selector").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
}

/// A client that knows of one address only sets that one.
fn complete_addresses(service: &mut Value) {
    let first = text(service, "/spec/clusterIP").to_owned();
    if !first.is_empty() && strings(service, "/spec/clusterIPs").is_empty() {
        set(service, "clusterIPs", vec![first]);
    }
}

fn is_same_preference(service: &Value, old: &Value) -> bool {
    let same = |pointer| strings(service, pointer) == strings(old, pointer);
    policy(service) == PREFER && policy(old) == PREFER && same("/spec/clusterIPs") && same("/spec/ipFamilies")
}

fn invalid_policy(service: &Value, detail: &str) -> Error {
    Error::invalid(Path::new("spec.ipFamilyPolicy"), policy(service), detail)
}

/// What an update gives up: all of a second family by the policy alone; anything less is a mistake.
fn release(service: &mut Value, old: &Value, errors: &mut Vec<Error>) {
    for (key, noun) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let pointer = format!("/spec/{key}");
        let (mut new, before) = (strings(service, &pointer), strings(old, &pointer));
        if policy(service) == SINGLE {
            if new == before && new.len() > 1 {
                new.truncate(1);
                set(service, key, new);
            }
        } else if !new.is_empty() && new.len() < before.len() && before.starts_with(&new) {
            let detail = format!("must be 'SingleStack' to release the secondary {noun}");
            errors.push(invalid_policy(service, &detail));
        }
    }
}

fn check_single(service: &Value, errors: &mut Vec<Error>) {
    if policy(service) != SINGLE {
        return;
    }
    for (key, noun) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if strings(service, &format!("/spec/{key}")).len() == 2 {
            let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {noun} are specified");
            errors.push(invalid_policy(service, &detail));
        }
    }
}

/// The families that are asked for, by name or by address.
fn infer(service: &Value, ranges: &[AddressRange], errors: &mut Vec<Error>) -> Vec<String> {
    let mut families = strings(service, "/spec/ipFamilies");
    let addresses = strings(service, "/spec/clusterIPs");
    for (index, address) in addresses.iter().enumerate().skip(families.len()) {
        let Ok(parsed) = address.parse::<IpAddr>() else { break };
        let family = if parsed.is_ipv4() { "IPv4" } else { "IPv6" };
        if ranges.iter().any(|range| family_of(range) == family) {
            families.push(family.to_owned());
        } else {
            let path = Path::new("spec.clusterIPs").index(index);
            let detail = format!("{family} is not configured on this cluster");
            errors.push(Error::invalid(path, addresses.clone(), detail));
        }
    }
    families
}

fn check_available(service: &Value, families: &[String], ranges: &[AddressRange]) -> Result<(), Vec<Error>> {
    let mut errors = Vec::new();
    if policy(service) == REQUIRE && ranges.len() < 2 {
        errors.push(invalid_policy(service, "this cluster is not configured for dual-stack services"));
    }
    for (index, family) in families.iter().enumerate() {
        if !ranges.iter().any(|range| family_of(range) == family) {
            let path = Path::new("spec.ipFamilies").index(index);
            errors.push(Error::invalid(path, family.as_str(), "not configured on this cluster"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
