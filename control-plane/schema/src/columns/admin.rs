//! Nodes, namespaces, configuration, access, events.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{AGE, NAME, column, human_duration, or_none, since, wide};
use crate::kinds::json::{at, entries, has, int, list, text, truth};
use crate::resource::Column;

pub(super) const NODE: &[Column] = &[
    NAME,
    column("Status", "string", "Whether the node takes pods", |o, _| node_status(o).into()),
    column("Roles", "string", "What the node is for", |o, _| node_roles(o).into()),
    AGE,
    column("Version", "string", "Its agent's Kubernetes version", |o, _| {
        text(o, "status.nodeInfo.kubeletVersion").into()
    }),
    wide("Internal-IP", "string", "Its address in the cluster", |o, _| address(o, "InternalIP").into()),
    wide("External-IP", "string", "Its address outside", |o, _| address(o, "ExternalIP").into()),
    wide("OS-Image", "string", "Its operating system", |o, _| node_info(o, "osImage").into()),
    wide("Kernel-Version", "string", "Its kernel", |o, _| node_info(o, "kernelVersion").into()),
    wide("Container-Runtime", "string", "What runs its containers", |o, _| {
        node_info(o, "containerRuntimeVersion").into()
    }),
];

pub(super) const NAMESPACE: &[Column] = &[
    NAME,
    column("Status", "string", "Whether it is in use or going away", |o, _| text(o, "status.phase").into()),
    AGE,
];

pub(super) const CONFIG_MAP: &[Column] = &[
    NAME,
    column("Data", "string", "How many keys it has", |o, _| {
        (entries(o, "data").len() + entries(o, "binaryData").len()).into()
    }),
    AGE,
];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    column("Request", "string", "What may be requested, and how much of it is", |o, _| quota(o, false).into()),
    column("Limit", "string", "How high limits may be, and how high they are", |o, _| quota(o, true).into()),
    AGE,
];

/// `pods: 1/2, requests.cpu: 100m/1`: what is used of each resource; of limits, or of everything else.
fn quota(object: &Value, limits: bool) -> String {
    let used = at(object, "status.used");
    let of = |name: &str| used.get(name).and_then(Value::as_str).unwrap_or("0").to_owned();
    let hard = entries(object, "status.hard").into_iter().filter(|(name, _)| name.starts_with("limits.") == limits);
    let terms = hard.map(|(name, most)| format!("{name}: {}/{}", of(name), most.as_str().unwrap_or_default()));
    terms.collect::<Vec<_>>().join(", ")
}

pub(super) const SECRET: &[Column] = &[
    NAME,
    column("Type", "string", "What it is for", |o, _| text(o, "type").into()),
    column("Data", "string", "How many keys it has", |o, _| entries(o, "data").len().into()),
    AGE,
];

pub(super) const SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    column("Secrets", "string", "How many secrets its pods may use", |o, _| list(o, "secrets").len().into()),
    AGE,
];

pub(super) const EVENT: &[Column] = &[
    column("Last Seen", "string", "When it was last seen", |o, now| last_seen(o, now).into()),
    column("Type", "string", "Normal or Warning", |o, _| text(o, "type").into()),
    column("Reason", "string", "Why, in a word", |o, _| text(o, "reason").into()),
    column("Object", "string", "What it is about", |o, _| subject(o).into()),
    wide("Subobject", "string", "Which part of it", |o, _| text(regarding(o), "fieldPath").into()),
    wide("Source", "string", "Who reports it", |o, _| source(o).into()),
    column("Message", "string", "What happened", |o, _| {
        let note = text(o, "note");
        if note.is_empty() { text(o, "message") } else { note }.trim().into()
    }),
    wide("First Seen", "string", "When it was first seen", |o, now| first_seen(o, now).into()),
    wide("Count", "string", "How often it was seen", |o, _| occurrences(o).into()),
    Column { priority: 1, ..NAME },
];

pub(super) const LEASE: &[Column] =
    &[NAME, column("Holder", "string", "Who holds it", |o, _| text(o, "spec.holderIdentity").into()), AGE];

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    column("Role", "string", "The role that is granted", |o, _| {
        format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name")).into()
    }),
    AGE,
    wide("Users", "string", "Users that have it", |o, _| subjects(o, "User").into()),
    wide("Groups", "string", "Groups that have it", |o, _| subjects(o, "Group").into()),
    wide("ServiceAccounts", "string", "Service accounts that have it", |o, _| subjects(o, "ServiceAccount").into()),
];

pub(super) const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", "string", "Who is asked to sign", |o, _| or_none(text(o, "spec.signerName")).into()),
    column("Requestor", "string", "Who asks", |o, _| text(o, "spec.username").into()),
    column("RequestedDuration", "string", "For how long", |o, _| match int(o, "spec.expirationSeconds") {
        Some(seconds) => human_duration(SignedDuration::from_secs(seconds)).into(),
        None => "<none>".into(),
    }),
    column("Condition", "string", "Whether it is approved and issued", |o, _| request_condition(o).into()),
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    column("Value", "integer", "The priority that its pods get", |o, _| int(o, "value").unwrap_or_default().into()),
    column("Global-Default", "boolean", "Whether pods that name no class get it", |o, _| {
        truth(o, "globalDefault").into()
    }),
    AGE,
    column("PreemptionPolicy", "string", "Whether its pods displace others", |o, _| text(o, "preemptionPolicy").into()),
];

pub(super) const RUNTIME_CLASS: &[Column] =
    &[NAME, column("Handler", "string", "What runs its pods", |o, _| text(o, "handler").into()), AGE];

fn node_status(node: &Value) -> String {
    let ready = list(node, "status.conditions").iter().find(|c| text(c, "type") == "Ready");
    let mut status = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if truth(node, "spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let roles: BTreeSet<_> = entries(node, "metadata.labels")
        .into_iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(","))
}

fn address(node: &Value, kind: &str) -> String {
    or_none(list(node, "status.addresses").iter().find(|a| text(a, "type") == kind).map_or("", |a| text(a, "address")))
}

fn node_info(node: &Value, field: &str) -> String {
    let value = text(at(node, "status.nodeInfo"), field);
    if value.is_empty() { "<unknown>".to_owned() } else { value.to_owned() }
}

/// The first of two fields that is there: an event has one name for a thing in the core group, and another in
/// `events.k8s.io`.
fn either<'a>(event: &'a Value, core: &str, other: &str) -> &'a Value {
    if has(event, core) { at(event, core) } else { at(event, other) }
}

fn regarding(event: &Value) -> &Value {
    either(event, "involvedObject", "regarding")
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    let first = either(event, "firstTimestamp", "deprecatedFirstTimestamp");
    since(if first.is_null() { at(event, "eventTime") } else { first }, now)
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    if has(event, "series") {
        return since(at(event, "series.lastObservedTime"), now);
    }
    let last = either(event, "lastTimestamp", "deprecatedLastTimestamp");
    if last.is_null() { first_seen(event, now) } else { since(last, now) }
}

fn occurrences(event: &Value) -> i64 {
    if has(event, "series") {
        return int(event, "series.count").unwrap_or_default();
    }
    either(event, "count", "deprecatedCount").as_i64().filter(|n| *n != 0).unwrap_or(1)
}

fn subject(event: &Value) -> String {
    let kind = text(regarding(event), "kind").to_lowercase();
    match text(regarding(event), "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(event: &Value) -> String {
    let source = either(event, "source", "deprecatedSource");
    let pick = |core: &str, path: &str, other: &str| {
        [text(source, core), text(event, path), text(event, other)]
            .into_iter()
            .find(|t| !t.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let component = pick("component", "reportingComponent", "reportingController");
    match pick("host", "reportingInstance", "reportingInstance").as_str() {
        "" => component,
        instance => format!("{component}, {instance}"),
    }
}

fn subjects(binding: &Value, kind: &str) -> String {
    let names = list(binding, "subjects").iter().filter(|s| text(s, "kind") == kind).map(|s| {
        if kind == "ServiceAccount" {
            format!("{}/{}", text(s, "namespace"), text(s, "name"))
        } else {
            text(s, "name").to_owned()
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

fn request_condition(request: &Value) -> String {
    let is = |kind: &str| list(request, "status.conditions").iter().any(|c| text(c, "type") == kind);
    let mut condition = match (is("Denied"), is("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if is("Failed") {
        condition.push_str(",Failed");
    }
    if !text(request, "status.certificate").is_empty() {
        condition.push_str(",Issued");
    }
    condition
}

pub(super) const API_SERVICE: &[Column] = &[
    NAME,
    column(
        "Service",
        "string",
        "The service behind which the server is that serves the version",
        |object, _| match text(object, "spec.service.name") {
            "" => "Local".into(),
            name => format!("{}/{name}", text(object, "spec.service.namespace")).into(),
        },
    ),
    column("Available", "string", "Whether the server can be reached", |object, _| {
        let condition = list(object, "status.conditions").iter().find(|c| text(c, "type") == "Available");
        match condition.map(|c| (text(c, "status"), text(c, "reason"))) {
            None => "Unknown".into(),
            Some((status, reason)) if status != "True" && !reason.is_empty() => format!("{status} ({reason})").into(),
            Some((status, _)) => status.into(),
        }
    }),
    AGE,
];
