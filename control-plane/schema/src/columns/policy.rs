//! What governs the API and the cluster: webhooks, policies, priority levels, autoscalers, devices.

use serde_json::Value;

use super::{AGE, NAME, column, or_none, or_unset};
use crate::kinds::json::{at, has, int, list, text};
use crate::resource::Column;

pub(super) const COMPONENT_STATUS: &[Column] = &[
    NAME,
    column("Status", "string", "Whether it is healthy", |o, _| {
        healthy(o).map_or("Unknown", |c| if text(c, "status") == "True" { "Healthy" } else { "Unhealthy" }).into()
    }),
    column("Message", "string", "What it says of itself", |o, _| healthy(o).map_or("", |c| text(c, "message")).into()),
    column("Error", "string", "Why it could not be asked", |o, _| healthy(o).map_or("", |c| text(c, "error")).into()),
];

fn healthy(component: &Value) -> Option<&Value> {
    list(component, "conditions").iter().find(|c| text(c, "type") == "Healthy")
}

pub(super) const WEBHOOK_CONFIGURATION: &[Column] =
    &[NAME, column("Webhooks", "integer", "How many webhooks it has", |o, _| list(o, "webhooks").len().into()), AGE];

const PARAM_KIND: Column =
    column("ParamKind", "string", "The kind of its parameters", |o, _| match at(o, "spec.paramKind") {
        Value::Null => "<unset>".into(),
        kind => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into(),
    });

pub(super) const VALIDATING_ADMISSION_POLICY: &[Column] = &[
    NAME,
    column("Validations", "integer", "How many rules it has", |o, _| list(o, "spec.validations").len().into()),
    PARAM_KIND,
    AGE,
];

pub(super) const MUTATING_ADMISSION_POLICY: &[Column] = &[
    NAME,
    column("Mutations", "integer", "How many changes it makes", |o, _| list(o, "spec.mutations").len().into()),
    PARAM_KIND,
    AGE,
];

pub(super) const ADMISSION_POLICY_BINDING: &[Column] = &[
    NAME,
    column("PolicyName", "string", "The policy", |o, _| text(o, "spec.policyName").into()),
    column("ParamRef", "string", "The policy's parameters", |o, _| param_ref(at(o, "spec.paramRef")).into()),
    AGE,
];

pub(super) const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column("PriorityLevel", "string", "The level of its requests", |o, _| {
        text(o, "spec.priorityLevelConfiguration.name").into()
    }),
    column("MatchingPrecedence", "string", "Which schema goes first", |o, _| {
        int(o, "spec.matchingPrecedence").unwrap_or_default().into()
    }),
    column("DistinguisherMethod", "string", "How flows are told apart", |o, _| {
        or_none(text(o, "spec.distinguisherMethod.type")).into()
    }),
    AGE,
    column("MissingPL", "string", "Whether its level is missing", |o, _| {
        let dangling = list(o, "status.conditions").iter().find(|c| text(c, "type") == "Dangling");
        dangling.map_or("?", |condition| text(condition, "status")).into()
    }),
];

pub(super) const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    column("Type", "string", "Whether it has limits", |o, _| text(o, "spec.type").into()),
    column("NominalConcurrencyShares", "string", "Its share", |o, _| {
        let shares =
            int(o, "spec.limited.nominalConcurrencyShares").or_else(|| int(o, "spec.exempt.nominalConcurrencyShares"));
        number(shares).into()
    }),
    column("Queues", "string", "How many queues it has", |o, _| queuing(o, "queues").into()),
    column("HandSize", "string", "Among how many queues a flow chooses", |o, _| queuing(o, "handSize").into()),
    column("QueueLengthLimit", "string", "How long a queue may be", |o, _| queuing(o, "queueLengthLimit").into()),
    AGE,
];

pub(super) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", "string", "What it scales", |o, _| {
        format!("{}/{}", text(o, "spec.scaleTargetRef.kind"), text(o, "spec.scaleTargetRef.name")).into()
    }),
    column("Targets", "string", "What it measures, and what that should be", |o, _| targets(o).into()),
    column("MinPods", "string", "How many pods at least", |o, _| match int(o, "spec.minReplicas") {
        Some(number) => number.to_string().into(),
        None => "<unset>".into(),
    }),
    column("MaxPods", "string", "How many pods at most", |o, _| int(o, "spec.maxReplicas").unwrap_or_default().into()),
    column("Replicas", "string", "How many pods there are", |o, _| {
        int(o, "status.currentReplicas").unwrap_or_default().into()
    }),
    AGE,
];

pub(super) const RESOURCE_CLAIM: &[Column] =
    &[NAME, column("State", "string", "How it stands", |o, _| claim_state(o).into()), AGE];

pub(super) const RESOURCE_SLICE: &[Column] = &[
    NAME,
    column("Node", "string", "Where the devices are", |o, _| or_unset(text(o, "spec.nodeName")).into()),
    column("Driver", "string", "Whose they are", |o, _| text(o, "spec.driver").into()),
    column("Pool", "string", "Which pool they are in", |o, _| text(o, "spec.pool.name").into()),
    AGE,
];

/// Kinds of which there is nothing to say.
pub(super) const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub(super) const CLUSTER_TRUST_BUNDLE: &[Column] =
    &[NAME, column("SignerName", "string", "Who signs", |o, _| or_none(text(o, "spec.signerName")).into())];

pub(super) const STORAGE_VERSION_MIGRATION: &[Column] = &[
    Column { format: "", ..NAME },
    column("Resource", "string", "What is migrated", |o, _| {
        let resource = at(o, "spec.resource");
        match text(resource, "group") {
            "" => text(resource, "resource").into(),
            group => format!("{}.{group}", text(resource, "resource")).into(),
        }
    }),
];

fn param_ref(reference: &Value) -> String {
    let (name, namespace) = (text(reference, "name"), text(reference, "namespace"));
    if reference.is_null() {
        return "<unset>".to_owned();
    }
    if name.is_empty() {
        return super::format_selector(reference, "selector");
    }
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn number(number: Option<i64>) -> String {
    number.map_or_else(|| "<none>".to_owned(), |n| n.to_string())
}

fn queuing(object: &Value, key: &str) -> String {
    number(int(at(object, "spec.limited.limitResponse.queuing"), key))
}

/// How many metrics are shown.
const METRICS_SHOWN: usize = 2;

fn targets(object: &Value) -> String {
    // In the older version, there is at most one.
    if let Some(target) = int(object, "spec.targetCPUUtilizationPercentage") {
        let current = int(object, "status.currentCPUUtilizationPercentage");
        let current = current.map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"));
        return format!("cpu: {current}/{target}%");
    }
    let (specs, statuses) = (list(object, "spec.metrics"), list(object, "status.currentMetrics"));
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let none = Value::Null;
    let all: Vec<_> =
        specs.iter().enumerate().map(|(n, spec)| target(spec, statuses.get(n).unwrap_or(&none))).collect();
    let shown = all[..all.len().min(METRICS_SHOWN)].join(", ");
    if all.len() > METRICS_SHOWN { format!("{shown} + {} more...", all.len() - METRICS_SHOWN) } else { shown }
}

fn target(spec: &Value, status: &Value) -> String {
    let key = match text(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (at(at(spec, key), "target"), at(at(status, key), "current"));
    let amount = |of: &Value, key: &str| at(of, key).as_str().map(str::to_owned);
    let now = |key: &str| amount(current, key).unwrap_or_else(|| "<unknown>".to_owned());
    match key {
        "resource" | "containerResource" => {
            let name = text(at(spec, key), "name");
            if let Some(wanted) = amount(target, "averageValue") {
                return format!("{name}: {}/{wanted}", now("averageValue"));
            }
            let percent = |of: &Value| int(of, "averageUtilization").map(|n| format!("{n}%"));
            let current = percent(current).unwrap_or_else(|| "<unknown>".to_owned());
            format!("{name}: {current}/{}", percent(target).unwrap_or_else(|| "<auto>".to_owned()))
        }
        "pods" => format!("{}/{}", now("averageValue"), amount(target, "averageValue").unwrap_or_default()),
        _ => match amount(target, "averageValue") {
            Some(wanted) => format!("{}/{wanted} (avg)", now("averageValue")),
            None => format!("{}/{}", now("value"), amount(target, "value").unwrap_or_default()),
        },
    }
}

fn claim_state(claim: &Value) -> String {
    let mut states = Vec::new();
    let going = has(claim, "metadata.deletionTimestamp");
    if going {
        states.push("deleted");
    }
    if has(claim, "status.allocation") {
        states.push("allocated");
        if !list(claim, "status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !going {
        states.push("pending");
    }
    states.join(",")
}
