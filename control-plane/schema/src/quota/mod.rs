//! Resource quotas: what an object uses, which quotas concern it, and whether they permit it (upstream
//! `apiserver/pkg/quota/v1`, `pkg/quota/v1/evaluator/core`). Pure: admission charges by it, the controller counts by it.

mod names;
mod pod;
mod scope;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::kinds::json::{at, entries, has, list, text};
use crate::quantity::{Format, Quantity};

pub use names::{Source, sources};
pub use pod::{pod_limits, pod_requests};
pub use scope::matches as in_scope;

/// Amounts by resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// `<class>.storageclass.storage.k8s.io/<resource>` limits what claims of one class use.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

/// The quantities of a map of an object, such as `status.hard`.
pub fn amounts(object: &Value, path: &str) -> Amounts {
    entries(object, path).into_iter().filter_map(|(name, v)| Some((name.to_owned(), Quantity::of_json(v)?))).collect()
}

/// The JSON form.
pub fn to_value(amounts: &Amounts) -> Value {
    Value::Object(amounts.iter().map(|(name, q)| (name.clone(), q.to_string().into())).collect::<Map<_, _>>())
}

/// Adds up.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        to.entry(name.clone()).and_modify(|sum| *sum = sum.add(amount)).or_insert(*amount);
    }
}

/// A kind, as quotas see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Plural resource name.
    pub plural: &'a str,
}

/// A write that quotas may forbid.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Of which kind.
    pub kind: Kind<'a>,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The object as it is to be.
    pub new: &'a Value,
    /// The object as it was; `None` on create.
    pub old: Option<&'a Value>,
    /// The time: pods that are overdue use nothing.
    pub now: Timestamp,
}

impl Kind<'_> {
    fn is_core(self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }

    /// `count/deployments.apps`: the resource that counts objects of the kind.
    pub fn count_name(self) -> String {
        match self.group {
            "" => format!("count/{}", self.plural),
            group => format!("count/{}.{group}", self.plural),
        }
    }

    /// Whether a write of this sort can use anything.
    pub fn is_charged(self, subresource: &str, create: bool) -> bool {
        match (self.group, self.plural, subresource) {
            // Upstream's ignored resources.
            ("" | "events.k8s.io", "events", _) => false,
            ("", "pods", "resize") => !create,
            ("", "persistentvolumeclaims", "status") => !create,
            ("", "persistentvolumeclaims" | "services", "") => true,
            (_, _, sub) => create && sub.is_empty(),
        }
    }

    /// Whether objects of the kind use the resource of that name.
    pub fn uses(self, name: &str) -> bool {
        name == self.count_name()
            || match (self.group, self.plural) {
                ("", "pods") => names::of_pods(name),
                ("", "persistentvolumeclaims") => names::of_claims(name),
                ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
                ("", plural) => names::has_alias(plural) && plural == name,
                _ => false,
            }
    }

    /// What an object of the kind uses.
    pub fn usage(self, object: &Value, now: Timestamp) -> Amounts {
        let mut out = Amounts::from([(self.count_name(), one())]);
        match (self.group, self.plural) {
            ("", "pods") => pod::add_usage(&mut out, object, now),
            ("", "persistentvolumeclaims") => add_claim(&mut out, object),
            ("", "services") => add_service(&mut out, object),
            ("", plural) if names::has_alias(plural) => {
                out.insert(plural.to_owned(), one());
            }
            _ => {}
        }
        out
    }
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

fn count(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn add_service(out: &mut Amounts, service: &Value) {
    let ports = list(service, "spec.ports");
    let (mut node_ports, mut balancers) = (0, 0);
    match text(service, "spec.type") {
        "NodePort" => node_ports = ports.len(),
        "LoadBalancer" => {
            balancers = 1;
            // The ports are not given out yet: what counts is what is asked for.
            let declined = at(service, "spec.allocateLoadBalancerNodePorts") == &Value::Bool(false);
            let numbered = || ports.iter().filter(|p| at(p, "nodePort").as_i64().is_some_and(|n| n != 0)).count();
            node_ports = if declined { numbered() } else { ports.len() };
        }
        _ => {}
    }
    out.insert("services".into(), one());
    out.insert("services.nodeports".into(), count(node_ports));
    out.insert("services.loadbalancers".into(), count(balancers));
}

fn add_claim(out: &mut Amounts, claim: &Value) {
    let annotated = at(claim, "metadata.annotations").get("volume.beta.kubernetes.io/storage-class");
    let class = annotated.and_then(Value::as_str).unwrap_or_else(|| text(claim, "spec.storageClassName"));
    let mut put = |name: &str, amount: Quantity| {
        if !class.is_empty() {
            out.insert(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
        out.insert(name.to_owned(), amount);
    };
    put("persistentvolumeclaims", one());
    let storage = |path: &str| at(claim, path).get("storage").and_then(Quantity::of_json);
    if let Some(asked) = storage("spec.resources.requests") {
        // A claim that is being enlarged holds what has been allocated, even if it asks for less again.
        let held = storage("status.allocatedResources").filter(|held| *held > asked).unwrap_or(asked);
        let whole = if held.nano() % 1_000_000_000 == 0 { held } else { Quantity::new(held.value(), held.format()) };
        put("requests.storage", whole);
    }
}

/// Which of `quotas` the request changes, and what they count as used then.
///
/// # Errors
///
/// The words by which the request is refused.
pub fn charge(quotas: &[Value], request: &Request<'_>) -> Result<Vec<(usize, Amounts)>, String> {
    let kind = request.kind;
    let mut concerned = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        let limited = limited_by(quota, kind);
        if limited.is_empty() || !in_scope(kind, quota, request.new) {
            continue;
        }
        let name = text(quota, "metadata.name");
        if kind.is_core("pods")
            && let Some(missing) = pod::missing(&limited, request.new)
        {
            return Err(format!("failed quota: {name}: {missing}"));
        }
        if limited.iter().any(|resource| at(quota, "status.used").get(*resource).is_none()) {
            let resources = limited.into_iter().collect::<Vec<_>>().join(",");
            return Err(format!("status unknown for quota: {name}, resources: {resources}"));
        }
        concerned.push(index);
    }
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let usage = kind.usage(request.new, request.now);
    let negative: Vec<&str> = usage.iter().filter(|(_, q)| q.is_negative()).map(|(n, _)| n.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let before = request.old.map(|old| kind.usage(old, request.now));
    let mut out = Vec::new();
    for index in concerned {
        let quota = &quotas[index];
        // What did not count towards this quota before counts in full now.
        let counted = request.old.is_some_and(|old| in_scope(kind, quota, old));
        let added = more(&usage, before.as_ref().filter(|_| counted));
        if let Some(used) = charged(quota, &added)? {
            out.push((index, used));
        }
    }
    Ok(out)
}

/// What of `usage` goes beyond `before`.
fn more(usage: &Amounts, before: Option<&Amounts>) -> Amounts {
    let beyond = |(name, amount): (&String, &Quantity)| {
        let had = before.and_then(|b| b.get(name)).copied().unwrap_or(Quantity::ZERO);
        let more = if had.is_zero() { *amount } else { amount.sub(&had) };
        (!more.is_zero() && !more.is_negative()).then(|| (name.clone(), more))
    };
    usage.iter().filter_map(beyond).collect()
}

/// The resources that a quota limits and the kind uses.
fn limited_by<'a>(quota: &'a Value, kind: Kind<'_>) -> BTreeSet<&'a str> {
    let hard = at(quota, "status.hard").as_object().into_iter().flatten();
    hard.map(|(name, _)| name.as_str()).filter(|name| kind.uses(name)).collect()
}

/// What the quota counts as used with `added`; `None` if that changes nothing.
fn charged(quota: &Value, added: &Amounts) -> Result<Option<Amounts>, String> {
    let (hard, mut used) = (amounts(quota, "status.hard"), amounts(quota, "status.used"));
    let requested: Amounts =
        added.iter().filter(|(n, _)| hard.contains_key(*n)).map(|(n, q)| (n.clone(), *q)).collect();
    if requested.is_empty() {
        return Ok(None);
    }
    let before = used.clone();
    add(&mut used, &requested);
    let exceeded: Vec<&String> = requested.keys().filter(|n| used.get(*n) > hard.get(*n)).collect();
    if exceeded.is_empty() {
        return Ok(Some(used));
    }
    let print = |of: &Amounts| {
        let terms = exceeded.iter().map(|n| format!("{n}={}", of.get(*n).copied().unwrap_or(Quantity::ZERO)));
        terms.collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        text(quota, "metadata.name"),
        print(&requested),
        print(&before),
        print(&hard)
    ))
}

/// The status of a quota, when `counted` is what objects use of it. `None` if it says so already.
pub fn status(quota: &Value, counted: &Amounts) -> Option<Value> {
    let hard = amounts(quota, "spec.hard");
    let mut used = amounts(quota, "status.used");
    used.retain(|name, _| hard.contains_key(name));
    used.extend(counted.iter().filter(|(n, _)| hard.contains_key(*n)).map(|(n, q)| (n.clone(), *q)));
    let settled = has(quota, "status.hard") && has(quota, "status.used");
    if settled && amounts(quota, "status.hard") == hard && amounts(quota, "status.used") == used {
        return None;
    }
    Some(serde_json::json!({"hard": at(quota, "spec.hard"), "used": to_value(&used)}))
}

/// Whether the pod no longer uses anything but its place in the store.
pub fn is_over(pod: &Value, now: Timestamp) -> bool {
    pod::is_over(pod, now)
}

fn is_best_effort(pod: &Value) -> bool {
    crate::kinds::pod_spec::qos_class(at(pod, "spec")) == "BestEffort"
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// Whether some pod affinity term of the pod looks beyond its own namespace.
fn crosses_namespaces(pod: &Value) -> bool {
    const LISTS: [&str; 2] =
        ["requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"];
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        LISTS.iter().any(|which| {
            list(pod, &format!("spec.affinity.{kind}.{which}")).iter().any(|term| {
                let term = if has(term, "podAffinityTerm") { at(term, "podAffinityTerm") } else { term };
                !list(term, "namespaces").is_empty() || has(term, "namespaceSelector")
            })
        })
    })
}
