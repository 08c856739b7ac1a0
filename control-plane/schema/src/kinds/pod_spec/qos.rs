//! The quality of service class, by which the kernel is told whom to kill first.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kinds::json::{at, list};
use crate::quantity::Quantity;

/// `Guaranteed` when all containers limit CPU and memory to what they request, `BestEffort` when none asks for
/// anything, else `Burstable` (`pkg/apis/core/v1/helper/qos`).
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    let mut all_limited = true;
    let pod_level = at(spec, "resources");
    let containers: Vec<_> = if has_any(pod_level) {
        vec![pod_level]
    } else {
        ["containers", "initContainers"]
            .into_iter()
            .flat_map(|key| list(spec, key))
            .map(|c| at(c, "resources"))
            .collect()
    };
    for resources in containers {
        add(&mut requests, at(resources, "requests"));
        let limited = add(&mut limits, at(resources, "limits"));
        all_limited &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.iter().all(|(name, request)| limits.get(name) == Some(request));
    if all_limited && equal && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

fn has_any(resources: &Value) -> bool {
    ["requests", "limits"].into_iter().any(|key| at(resources, key).as_object().is_some_and(|m| !m.is_empty()))
}

/// Adds up CPU and memory, and says how many of the two there were.
fn add(sums: &mut BTreeMap<&'static str, Quantity>, quantities: &Value) -> usize {
    let mut found = 0;
    for name in ["cpu", "memory"] {
        let Some(amount) = quantities.get(name).and_then(Quantity::of_json).filter(|q| !q.is_zero()) else { continue };
        let sum = sums.entry(name).or_insert(Quantity::ZERO);
        *sum = sum.add(&amount);
        found += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes() {
        let pod = |requests: Value, limits: Value| json!({"containers": [{"resources": {"requests": requests, "limits": limits}}]});
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({}), json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"cpu": "0"}), json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"cpu": "1"}), json!({}))), "Burstable");
        assert_eq!(qos_class(&pod(json!({"cpu": "1000m", "memory": "1024Mi"}), all.clone())), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"cpu": "500m", "memory": "1Gi"}), all)), "Burstable");
    }
}
