//! What pods use (`component-helpers/resource`, `pkg/quota/v1/evaluator/core/pods.go`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Amounts, add, amounts, is_sidecar, names, one};
use crate::kinds::checks::qualified_name_problems;
use crate::kinds::json::{at, int, list, text};
use crate::quantity::Quantity;

/// What all containers of a pod request together, as the scheduler and quotas see it.
pub fn pod_requests(pod: &Value) -> Amounts {
    let mut total = total(pod, "requests");
    add(&mut total, &amounts(pod, "spec.overhead"));
    total
}

/// What all containers of a pod may use together.
pub fn pod_limits(pod: &Value) -> Amounts {
    let mut total = total(pod, "limits");
    // What has no limit has none with the overhead either.
    for (name, overhead) in amounts(pod, "spec.overhead") {
        if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = limit.add(&overhead);
        }
    }
    total
}

fn total(pod: &Value, key: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in list(pod, "spec.containers") {
        add(&mut sum, &container_amounts(pod, container, "status.containerStatuses", key));
    }
    // Init containers run one after the other, and sidecars beside all that come later.
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in list(pod, "spec.initContainers") {
        let own = container_amounts(pod, container, "status.initContainerStatuses", key);
        let mut at_once = sidecars.clone();
        add(&mut at_once, &own);
        if is_sidecar(container) {
            add(&mut sum, &own);
            sidecars.clone_from(&at_once);
        }
        at_least(&mut most, &at_once);
    }
    at_least(&mut sum, &most);
    for (name, amount) in amounts(at(pod, "spec.resources"), key) {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            sum.insert(name, amount);
        }
    }
    sum
}

fn at_least(amounts: &mut Amounts, others: &Amounts) {
    for (name, other) in others {
        amounts.entry(name.clone()).and_modify(|own| *own = (*own).max(*other)).or_insert(*other);
    }
}

/// What the container asks for or, while it is being resized, what it still has if that is more.
fn container_amounts(pod: &Value, container: &Value, statuses: &str, key: &str) -> Amounts {
    let asked = amounts(at(container, "resources"), key);
    let name = text(container, "name");
    let Some(status) = list(pod, statuses).iter().find(|s| text(s, "name") == name) else { return asked };
    let infeasible = list(pod, "status.conditions")
        .iter()
        .any(|c| text(c, "type") == "PodResizePending" && text(c, "reason") == "Infeasible");
    let actual = at(status, "resources").get(key).filter(|v| v.as_object().is_some_and(|m| !m.is_empty()));
    if actual.is_none() {
        return asked;
    }
    let mut out = if infeasible { Amounts::new() } else { asked };
    at_least(&mut out, &amounts(at(status, "resources"), key));
    if key == "requests" {
        at_least(&mut out, &amounts(status, "allocatedResources"));
    }
    out
}

/// Whether the pod has ended, or should have.
pub(super) fn is_over(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(pod, "status.phase"), "Failed" | "Succeeded") {
        return true;
    }
    let deletion = text(pod, "metadata.deletionTimestamp").parse::<Timestamp>().ok();
    let grace = int(pod, "metadata.deletionGracePeriodSeconds");
    deletion
        .zip(grace)
        .is_some_and(|(at, grace)| at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|until| now > until))
}

pub(super) fn add_usage(out: &mut Amounts, pod: &Value, now: Timestamp) {
    if !is_over(pod, now) {
        out.extend(compute(&pod_requests(pod), &pod_limits(pod)));
    }
}

/// Requests and limits under the names that quotas have for them.
fn compute(requests: &Amounts, limits: &Amounts) -> BTreeMap<String, Quantity> {
    let mut out = Amounts::from([("pods".to_owned(), one())]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            out.insert(name.to_owned(), *request);
            out.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            out.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        if name.starts_with("hugepages-") {
            out.insert(name.clone(), *request);
            out.insert(format!("requests.{name}"), *request);
        }
        let limited = format!("requests.{name}");
        let extended = !names::is_native(name) && !name.starts_with("requests.");
        if extended && qualified_name_problems(&limited).is_empty() {
            out.insert(limited, *request);
        }
    }
    out
}

/// Resources that every container must ask for where a quota limits them: those of the first version of quotas.
const EXPLICIT: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What a pod's containers do not say and have to: `must specify limits.cpu for: c1`.
pub(super) fn missing(limited: &BTreeSet<&str>, pod: &Value) -> Option<String> {
    let pod_level = at(pod, "spec.resources");
    if ["requests", "limits"].iter().any(|key| at(pod_level, key).as_object().is_some_and(|m| !m.is_empty())) {
        return None;
    }
    let mut lacking: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in list(pod, "spec.containers").iter().chain(list(pod, "spec.initContainers")) {
        let resources = at(container, "resources");
        let said = compute(&amounts(resources, "requests"), &amounts(resources, "limits"));
        for name in EXPLICIT.iter().filter(|name| limited.contains(*name) && !said.contains_key(**name)) {
            lacking.entry(name).or_default().insert(text(container, "name"));
        }
    }
    let of = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(",");
    let terms: Vec<String> = lacking.iter().map(|(name, who)| format!("{name} for: {}", of(who))).collect();
    (!terms.is_empty()).then(|| format!("must specify {}", terms.join("; ")))
}
