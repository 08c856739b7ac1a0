//! The request under review, as webhooks and expressions see it: an `AdmissionRequest` of `admission.k8s.io`.

use serde_json::{Value, json};
use xebec_schema::convert;
use xebec_schema::resource::Resource;

use crate::admission::{Operation, Review};
use crate::chain::Call;
use crate::subresource::{below_proxy, scale_of};

/// An object of the stored version as `row` shows it.
pub(super) fn shown(row: &Resource, subresource: &str, stored: &Value) -> Value {
    if subresource == "scale" {
        return scale_of(row, stored);
    }
    let mut object = stored.clone();
    if is_of_other_kind(row, subresource) {
        return object;
    }
    match &row.custom {
        Some(custom) => custom.adopt(&mut object),
        None => convert::from_stored(row, &mut object),
    }
    object
}

/// Whether a subresource exchanges objects of a kind of its own.
fn is_of_other_kind(row: &Resource, subresource: &str) -> bool {
    row.subresource(subresource).is_some_and(|sub| !sub.version.is_empty() || sub.kind != row.kind)
}

/// The object that is asked for: what streams are opened with, for those.
pub(super) fn object(review: &Review<'_>, row: &Resource) -> Value {
    match (&review.object, review.operation) {
        (_, Operation::Connect) => review.options(),
        (Some(object), _) => shown(row, review.subresource, object),
        (None, _) => Value::Null,
    }
}

/// The object as it was.
pub(super) fn old_object(review: &Review<'_>, row: &Resource) -> Value {
    match (review.old, review.operation) {
        (None, _) | (_, Operation::Connect) => Value::Null,
        (Some(old), _) => shown(row, review.subresource, old),
    }
}

fn kind(row: &Resource, subresource: &str) -> Value {
    match row.subresource(subresource) {
        Some(sub) if sub.version.is_empty() => json!({"group": row.group, "version": row.version, "kind": sub.kind}),
        Some(sub) => json!({"group": sub.group, "version": sub.version, "kind": sub.kind}),
        None => json!({"group": row.group, "version": row.version, "kind": row.kind}),
    }
}

fn resource(row: &Resource) -> Value {
    json!({"group": row.group, "version": row.version, "resource": row.plural})
}

/// The request, without its objects.
pub(super) fn request(review: &Review<'_>, row: &Resource) -> Value {
    let user = review.user;
    let mut info = json!({});
    if !user.name.is_empty() {
        info["username"] = user.name.as_str().into();
    }
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone()))).collect();
    }
    let mut request = json!({
        "kind": kind(row, review.subresource),
        "resource": resource(row),
        "requestKind": kind(review.requested, review.subresource),
        "requestResource": resource(review.requested),
        "operation": review.operation.name(),
        "userInfo": info,
        "dryRun": review.dry_run,
    });
    if !review.subresource.is_empty() {
        request["subResource"] = review.subresource.into();
        request["requestSubResource"] = review.subresource.into();
    }
    if !review.name.is_empty() {
        request["name"] = review.name.into();
    }
    let is_namespace = review.resource.group.is_empty() && review.resource.plural == "namespaces";
    let namespace = if is_namespace && review.namespace.is_empty() { review.name } else { review.namespace };
    if !namespace.is_empty() {
        request["namespace"] = namespace.into();
    }
    request["options"] = if review.operation == Operation::Connect { Value::Null } else { review.options() };
    request
}

/// `metav1.DeleteOptions` as the client sent them, kept with the call for admission to see.
#[derive(Clone, Debug)]
pub(crate) struct SentOptions(pub Value);

/// The options of a call: `CreateOptions` and the like; for streams, what they are opened with.
pub(in crate::admission) fn options(call: &Call, operation: Operation, dry_run: bool) -> Value {
    if operation == Operation::Connect {
        return stream_options(call);
    }
    let kind = match (operation, call.path.verb) {
        (Operation::Create, _) => "CreateOptions",
        (Operation::Delete, _) => "DeleteOptions",
        (_, "patch") => "PatchOptions",
        _ => "UpdateOptions",
    };
    let mut options = call.parts.extensions.get::<SentOptions>().map_or_else(|| json!({}), |sent| sent.0.clone());
    options["kind"] = kind.into();
    options["apiVersion"] = "meta.k8s.io/v1".into();
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    if operation == Operation::Delete {
        if let Ok(Some(seconds)) = call.query.number("gracePeriodSeconds") {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if !call.query.get("propagationPolicy").is_empty() {
            options["propagationPolicy"] = call.query.get("propagationPolicy").into();
        }
        return options;
    }
    for field in ["fieldManager", "fieldValidation"] {
        if !call.query.get(field).is_empty() {
            options[field] = call.query.get(field).into();
        }
    }
    if kind == "PatchOptions" && call.query.flag("force") {
        options["force"] = true.into();
    }
    options
}

fn stream_options(call: &Call) -> Value {
    let kind = call.resource.subresource(&call.path.subresource).map_or("", |sub| sub.kind.as_ref());
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for switch in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(switch) {
            options[switch] = true.into();
        }
    }
    for field in ["container", "path"] {
        if !call.query.get(field).is_empty() {
            options[field] = call.query.get(field).into();
        }
    }
    if call.path.subresource == "proxy"
        && let Some(path) = below_proxy(call.parts.uri.path(), &call.resource.plural).filter(|path| !path.is_empty())
    {
        options["path"] = path.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    let ports = call.query.all("ports").flat_map(|ports| ports.split(',')).filter_map(|p| p.parse::<u16>().ok());
    let ports: Vec<u16> = ports.collect();
    if !ports.is_empty() {
        options["ports"] = ports.into();
    }
    options
}
