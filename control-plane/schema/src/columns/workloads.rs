//! What keeps pods running: deployments, replica sets, jobs, and their like.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME, column, containers, format_labels, format_selector, human_duration, or_none, parse_time, since, wide,
};
use crate::kinds::json::{at, has, int, list, text};
use crate::resource::Column;

const CONTAINERS: Column =
    wide("Containers", "string", "Names of the template's containers", |o, _| template(o, "name"));
const IMAGES: Column = wide("Images", "string", "Images of the template's containers", |o, _| template(o, "image"));
const SELECTOR: Column =
    wide("Selector", "string", "Which pods belong to it", |o, _| format_selector(o, "spec.selector").into());

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    column("Containers", "string", "Names of the template's containers", |o, _| {
        containers(at(o, "template.spec"), "name").into()
    }),
    column("Images", "string", "Images of the template's containers", |o, _| {
        containers(at(o, "template.spec"), "image").into()
    }),
    column("Pod Labels", "string", "The template's labels", |o, _| format_labels(o, "template.metadata.labels").into()),
];

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "string", "How many of the pods are ready, of how many wanted", ready),
    column("Up-to-date", "string", "How many pods have the newest template", |o, _| count(o, "status.updatedReplicas")),
    column("Available", "string", "How many pods have been ready for long enough", |o, _| {
        count(o, "status.availableReplicas")
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const DESIRED: Column = column("Desired", "integer", "How many pods are wanted", |o, _| count(o, "spec.replicas"));
const CURRENT: Column = column("Current", "integer", "How many pods there are", |o, _| count(o, "status.replicas"));
const READY: Column = column("Ready", "integer", "How many pods are ready", |o, _| count(o, "status.readyReplicas"));

pub(super) const REPLICA_SET: &[Column] = &[NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR];

pub(super) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    DESIRED,
    CURRENT,
    READY,
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", "string", "Which pods belong to it", |o, _| format_labels(o, "spec.selector").into()),
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", "string", "When it makes jobs", |o, _| text(o, "spec.schedule").into()),
    column("Timezone", "string", "By which clock", |o, _| or_none(text(o, "spec.timeZone")).into()),
    column("Suspend", "boolean", "Whether it rests", |o, _| match at(o, "spec.suspend") {
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        _ => "<unset>".into(),
    }),
    column("Active", "integer", "How many of its jobs run", |o, _| list(o, "status.active").len().into()),
    column("Last Schedule", "string", "When it last made a job", |o, now| match at(o, "status.lastScheduleTime") {
        Value::Null => "<none>".into(),
        time => since(time, now).into(),
    }),
    AGE,
    wide("Containers", "string", "Names of the template's containers", |o, _| {
        containers(at(o, "spec.jobTemplate.spec.template.spec"), "name").into()
    }),
    wide("Images", "string", "Images of the template's containers", |o, _| {
        containers(at(o, "spec.jobTemplate.spec.template.spec"), "image").into()
    }),
    wide("Selector", "string", "Which pods belong to its jobs", |o, _| {
        format_selector(o, "spec.jobTemplate.spec.selector").into()
    }),
];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", "How many nodes should run the pod", |o, _| count(o, "status.desiredNumberScheduled")),
    column("Current", "integer", "How many of them run it", |o, _| count(o, "status.currentNumberScheduled")),
    column("Ready", "integer", "On how many nodes it is ready", |o, _| count(o, "status.numberReady")),
    column("Up-to-date", "integer", "How many nodes run the newest template", |o, _| {
        count(o, "status.updatedNumberScheduled")
    }),
    column("Available", "integer", "On how many nodes it has been ready for long enough", |o, _| {
        count(o, "status.numberAvailable")
    }),
    column("Node Selector", "string", "Which nodes run it", |o, _| {
        format_labels(o, "spec.template.spec.nodeSelector").into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", "string", "How many of the pods are ready, of how many wanted", ready),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(super) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    column("Controller", "string", "Whose history it is", |o, _| controller(o).into()),
    column("Revision", "string", "Its place in the history", |o, _| count(o, "revision")),
    AGE,
];

pub(super) const JOB: &[Column] = &[
    NAME,
    column("Status", "string", "How the job stands", |o, _| job_status(o).into()),
    column("Completions", "string", "How many pods have succeeded, of how many wanted", |o, _| completions(o).into()),
    column("Duration", "string", "How long it has run, or took", |o, now| job_duration(o, now).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", "string", "How many pods must stay", |o, _| int_or_percent(o, "spec.minAvailable").into()),
    column("Max Unavailable", "string", "How many pods may be gone", |o, _| {
        int_or_percent(o, "spec.maxUnavailable").into()
    }),
    column("Allowed Disruptions", "integer", "How many pods may be evicted now", |o, _| {
        count(o, "status.disruptionsAllowed")
    }),
    AGE,
];

fn count(object: &Value, path: &str) -> Value {
    int(object, path).unwrap_or_default().into()
}

fn template(object: &Value, field: &str) -> Value {
    containers(at(object, "spec.template.spec"), field).into()
}

fn ready(object: &Value, _: Timestamp) -> Value {
    format!("{}/{}", count(object, "status.readyReplicas"), count(object, "spec.replicas")).into()
}

fn int_or_percent(object: &Value, path: &str) -> String {
    match at(object, path) {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "N/A".to_owned(),
    }
}

/// `replicaset.apps/web`, or `<none>`.
fn controller(object: &Value) -> String {
    let owners = list(object, "metadata.ownerReferences");
    let Some(owner) = owners.iter().find(|o| at(o, "controller") == true) else { return "<none>".to_owned() };
    let kind = text(owner, "kind").to_lowercase();
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "name")),
        None => format!("{kind}/{}", text(owner, "name")),
    }
}

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| {
        list(job, "status.conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if has(job, "metadata.deletionTimestamp") {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = count(job, "status.succeeded");
    if let Some(wanted) = int(job, "spec.completions") {
        return format!("{succeeded}/{wanted}");
    }
    match int(job, "spec.parallelism") {
        Some(parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        _ => format!("{succeeded}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let Some(start) = parse_time(at(job, "status.startTime")) else { return String::new() };
    let end = parse_time(at(job, "status.completionTime")).unwrap_or(now);
    human_duration(end.duration_since(start))
}
