//! The cluster addresses of a service and their families, as far as they can be judged without knowing the cluster
//! (upstream `ValidateServiceClusterIPsRelatedFields`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{ip_problems, one_of, report};
use crate::kinds::json::{list, text};

/// What is wrong with the addresses and families in a service's `spec`. The server asks before it gives out what is
/// missing: of a contradiction it could make no sense.
pub fn problems(spec: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    // Those are forbidden elsewhere.
    if text(spec, "type") == "ExternalName" {
        return errors;
    }
    let (first, all, at_ips) = (text(spec, "clusterIP"), list(spec, "clusterIPs"), path.child("clusterIPs"));
    if first.is_empty() && !all.is_empty() {
        let detail = "must be empty when `clusterIP` is not specified";
        errors.push(Error::invalid(at_ips.clone(), all.to_vec(), detail));
    } else if let Some(listed) = all.first()
        && listed != first
    {
        errors.push(Error::invalid(at_ips.clone(), all.to_vec(), "first value must match `clusterIP`"));
    }
    check_families(&mut errors, spec, &path);
    let given: Vec<&str> = if all.is_empty() { vec![first] } else { all.iter().filter_map(Value::as_str).collect() };
    let before = errors.len();
    for (index, address) in given.iter().enumerate() {
        if *address == "None" && index == 0 {
            if all.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(Error::invalid(at_ips.clone(), all.to_vec(), detail));
            }
        } else if !address.is_empty() || !all.is_empty() {
            report(&mut errors, &at_ips.index(index), address, ip_problems(address));
        }
    }
    let unreadable = errors.len() > before;
    if all.len() > 2 {
        errors.push(Error::invalid(at_ips.clone(), all.to_vec(), "may only hold up to 2 values"));
    }
    // What follows would only repeat it in other words.
    if unreadable {
        return errors;
    }
    let is_v6: Vec<bool> = given.iter().filter_map(|a| a.parse::<IpAddr>().ok()).map(|a| a.is_ipv6()).collect();
    if all.len() > 1 && !(is_v6.contains(&true) && is_v6.contains(&false) && all.len() == 2) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(Error::invalid(at_ips.clone(), all.to_vec(), detail));
    }
    if errors.is_empty() {
        check_match(&mut errors, spec, all, &at_ips);
    }
    errors
}

fn check_families(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        let (path, family) = (path.child("ipFamilies").index(index), family.as_str().unwrap_or_default());
        if family != "IPv4" && family != "IPv6" {
            errors.push(Error::not_supported(path, family, &["IPv4", "IPv6"]));
        } else if !seen.insert(family) {
            errors.push(Error::duplicate(path, family));
        }
    }
    one_of(errors, spec, path, "ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"]);
}

/// Each address is of the family in its place.
fn check_match(errors: &mut ErrorList, spec: &Value, addresses: &[Value], path: &Path) {
    for (index, (address, family)) in addresses.iter().zip(list(spec, "ipFamilies")).enumerate() {
        let (Some(text), Some(family)) = (address.as_str(), family.as_str()) else { continue };
        let Ok(parsed) = text.parse::<IpAddr>() else { continue };
        if parsed.is_ipv6() != (family == "IPv6") {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(Error::invalid(path.index(index), text, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(spec: Value) -> Vec<String> {
        problems(&spec).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        for spec in [
            json!({}),
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4", "IPv6"]}),
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}),
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilyPolicy": "PreferDualStack"}),
        ] {
            assert_eq!(said(spec.clone()), Vec::<String>::new(), "{spec}");
        }
        for (spec, expected) in [
            (
                json!({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.1"]}),
                "spec.clusterIPs: Invalid value: [\"None\",\"10.0.0.1\"]: 'None' must be the first and only value",
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each \
                 IP family",
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}),
                "spec.clusterIPs[0]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[0]`",
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.9"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.9\"]: first value must match `clusterIP`",
            ),
            (json!({"ipFamilies": ["IPv4", "IPv4"]}), "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
            (
                json!({"ipFamilies": ["IPv5"]}),
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
            ),
        ] {
            assert_eq!(said(spec.clone()), [expected], "{spec}");
        }
    }
}
