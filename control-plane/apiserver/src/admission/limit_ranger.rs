//! `LimitRanger`: what containers, pods and claims may ask for in a namespace, and what they get if they do not ask
//! (upstream `plugin/pkg/admission/limitranger`).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::quantity::Quantity;
use xebec_schema::quota;
use xebec_schema::status::Status;

use super::support::{containers_mut, forbidden, is, is_new_pod, is_part};
use super::{Operation, Plugin, Review};
use crate::json::{decode, list, object, text};
use crate::reader::Reader;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Amounts by resource.
type Amounts = BTreeMap<String, Quantity>;

/// The plugin.
pub struct LimitRanger {
    reader: Arc<dyn Reader>,
}

/// An item of a LimitRange.
struct Limit {
    kind: String,
    min: Amounts,
    max: Amounts,
    default: Amounts,
    default_request: Amounts,
    ratio: Amounts,
}

impl LimitRanger {
    /// Limit ranges are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn limits(&self, namespace: &str) -> Vec<Limit> {
        let ranges = self.reader.list("", "limitranges", namespace);
        ranges.iter().flat_map(|entry| read_limits(&decode(&entry.bytes))).collect()
    }
}

fn amounts(value: &Value, pointer: &str) -> Amounts {
    let entries = value.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, v)| Some((name.clone(), Quantity::of_json(v)?))).collect()
}

fn read_limits(range: &Value) -> Vec<Limit> {
    let read = |item: &Value| {
        let (min, max) = (amounts(item, "/min"), amounts(item, "/max"));
        let (mut default, mut request) = (amounts(item, "/default"), amounts(item, "/defaultRequest"));
        if text(item, "/type") == "Container" {
            // The API's own defaults: a container without a limit gets the most, without a request the default or the
            // least.
            for (name, most) in &max {
                default.entry(name.clone()).or_insert(*most);
            }
            for (name, amount) in default.iter().chain(&min) {
                request.entry(name.clone()).or_insert(*amount);
            }
        }
        let ratio = amounts(item, "/maxLimitRequestRatio");
        Limit { kind: text(item, "/type").to_owned(), min, max, default, default_request: request, ratio }
    };
    list(range, "/spec/limits").iter().map(read).collect()
}

/// Gives containers what they do not ask for, and says so in an annotation.
fn apply_defaults(pod: &mut Value, limits: &[Limit]) {
    let of_containers = || limits.iter().filter(|l| l.kind == "Container");
    let mut notes = Vec::new();
    for (words, container) in containers_mut(pod) {
        let name = text(container, "/name").to_owned();
        let Some(resources) = object(container, "resources") else { continue };
        for (key, what) in [("requests", "request"), ("limits", "limit")] {
            let mut set = Vec::new();
            for limit in of_containers() {
                let defaults = if key == "limits" { &limit.default } else { &limit.default_request };
                if defaults.is_empty() {
                    continue;
                }
                let Some(present) = object(resources, key) else { continue };
                for (resource, amount) in defaults {
                    if present.get(resource).is_none() {
                        present[resource] = amount.to_string().into();
                        set.push(resource.clone());
                    }
                }
            }
            if !set.is_empty() {
                set.sort();
                notes.push(format!("{} {what} for {words} {name}", set.join(", ")));
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    let annotations = object(pod, "metadata").and_then(|metadata| object(metadata, "annotations"));
    if let Some(annotations) = annotations {
        annotations[ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
}

/// What one container, pod or claim asks for.
struct Asked {
    requests: Amounts,
    limits: Amounts,
}

fn asked(container: &Value) -> Asked {
    Asked { requests: amounts(container, "/resources/requests"), limits: amounts(container, "/resources/limits") }
}

fn check(limit: &Limit, asked: &Asked, problems: &mut Vec<String>) {
    let kind = &limit.kind;
    for (name, least) in &limit.min {
        let head = format!("minimum {name} usage per {kind} is {least}");
        match (asked.requests.get(name), asked.limits.get(name)) {
            (None, _) => problems.push(format!("{head}.  No request is specified")),
            (Some(request), _) if request < least => problems.push(format!("{head}, but request is {request}")),
            (_, Some(limit)) if limit < least => problems.push(format!("{head}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in &limit.max {
        let head = format!("maximum {name} usage per {kind} is {most}");
        match (asked.requests.get(name), asked.limits.get(name)) {
            (_, None) => problems.push(format!("{head}.  No limit is specified")),
            (_, Some(limit)) if limit > most => problems.push(format!("{head}, but limit is {limit}")),
            (Some(request), _) if request > most => problems.push(format!("{head}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in &limit.ratio {
        let head = format!("{name} max limit to request ratio per {kind} is {most}");
        let nonzero = |amounts: &Amounts| amounts.get(name).copied().filter(|q| !q.is_zero());
        match (nonzero(&asked.requests), nonzero(&asked.limits)) {
            (None, _) => problems.push(format!("{head}, but no request is specified or request is 0")),
            (_, None) => problems.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.nano() as f64 / request.nano() as f64;
                if ratio > most.nano() as f64 / 1e9 {
                    problems.push(format!("{head}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn check_pod(pod: &Value, limits: &[Limit]) -> Vec<String> {
    let mut problems = Vec::new();
    for limit in limits {
        match limit.kind.as_str() {
            "Container" => {
                for container in list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers")) {
                    check(limit, &asked(container), &mut problems);
                }
            }
            "Pod" => {
                let asked = Asked { requests: quota::pod_requests(pod), limits: quota::pod_limits(pod) };
                check(limit, &asked, &mut problems);
            }
            _ => {}
        }
    }
    problems
}

/// A claim has requests only; its limits are not looked at.
fn check_claim(claim: &Value, limits: &[Limit]) -> Vec<String> {
    let requests = amounts(claim, "/spec/resources/requests");
    let mut problems = Vec::new();
    for limit in limits.iter().filter(|l| l.kind == "PersistentVolumeClaim") {
        for (most, bounds) in [(false, &limit.min), (true, &limit.max)] {
            for (name, bound) in bounds {
                let word = if most { "maximum" } else { "minimum" };
                let head = format!("{word} {name} usage per PersistentVolumeClaim is {bound}");
                match requests.get(name) {
                    None => problems.push(format!("{head}.  No request is specified")),
                    Some(asked) if (most && asked > bound) || (!most && asked < bound) => {
                        problems.push(format!("{head}, but request is {asked}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    problems
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !is_new_pod(review) {
            return Ok(());
        }
        let limits = self.limits(review.namespace);
        if let (Some(pod), false) = (&mut review.object, limits.is_empty()) {
            apply_defaults(pod, &limits);
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let claim = matches!(review.operation, Operation::Create | Operation::Update)
            && is(review, "", "persistentvolumeclaims");
        let resized = review.operation == Operation::Update && is_part(review, "", "pods", "resize");
        if !claim && !resized && !is_new_pod(review) {
            return Ok(());
        }
        let limits = self.limits(review.namespace);
        let Some(object) = review.object.as_ref().filter(|_| !limits.is_empty()) else { return Ok(()) };
        let problems = if claim { check_claim(object, &limits) } else { check_pod(object, &limits) };
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(review, one)),
            many => Err(forbidden(review, &format!("[{}]", many.join(", ")))),
        }
    }
}
