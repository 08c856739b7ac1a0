//! `pods/binding`: the scheduler puts a pod on a node (`registry/core/pod/storage/storage.go`).

use http::Response;
use serde_json::{Value, json};
use xebec_schema::field::{Error, Path};
use xebec_schema::status::Status;

use super::{posted, success};
use crate::admission::Operation;
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::respond;
use crate::verbs::admit::{self, Admission};
use crate::verbs::create;
use crate::verbs::decode::{self, Expected};
use crate::verbs::modify::{self, Modify, Next, Rules};

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let body = body::read(body).await?;
    let binding = read(call, &body)?;
    let said = binding["metadata"]["name"].as_str().unwrap_or_default();
    if !said.is_empty() && said != call.path.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    bind(call, binding).await
}

/// Serves a POST to `bindings`, the old way: the pod is the one that is called as the binding is.
///
/// # Errors
///
/// As upstream.
pub async fn serve_collection(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let body = body::read(body).await?;
    let mut binding = read(call, &body)?;
    create::place(&call.resource, call.namespace(), &mut binding)?;
    call.path.name = binding["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if call.path.name.is_empty() {
        let error = Error::required(Path::new("metadata.name"), "name or generateName is required");
        return Err(Status::invalid("", "Binding", "", &[error]));
    }
    bind(call, binding).await
}

fn read(call: &mut Call, body: &bytes::Bytes) -> Result<Value, Status> {
    let expected =
        Expected { group: "", version: "v1", kind: "Binding", definition: decode::definition("core.v1.Binding") };
    posted(call, &expected, body)
}

async fn bind(call: &mut Call, binding: Value) -> Result<Response<Body>, Status> {
    let dry_run = decode::dry_run(&call.query)?;
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or_default();
    let node = target["name"].as_str().unwrap_or_default().to_owned();
    let mut errors = Vec::new();
    if !kind.is_empty() && kind != "Node" {
        errors.push(Error::not_supported(Path::new("target.kind"), kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(Error::required(Path::new("target.name"), ""));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", &call.path.name, &errors));
    }
    let admission = Admission { operation: Operation::Create, old: None, dry_run };
    let binding = admit::mutate(call, admission, Some(binding)).await?;
    let binding = admit::validate(call, admission, binding).await?.unwrap_or_default();
    // From here on, it is a change of the pod.
    let pods = call.server.registry.load().get("", "v1", "pods").cloned().ok_or_else(Status::no_such_path)?;
    (call.resource, call.stored) = (pods.clone(), pods);
    let how = Modify { rules: Rules::Internal, admission: false, dry_run };
    modify::modify(call, how, |call, old| bound(call, &binding, &node, old).map(Next::Put)).await?;
    Ok(respond::encoded(201, &success(201), call.wanted))
}

fn bound(call: &Call, binding: &Value, node: &str, old: &Value) -> Result<Value, Status> {
    let name = &call.path.name;
    let conflict = |why: &str| Err(Status::conflict("", "pods/binding", name, why));
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    let is = old["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != is {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {is}");
        return Err(Status::conflict("", "pods", name, &why));
    }
    if !old["metadata"]["deletionTimestamp"].is_null() {
        return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(host) = old["spec"]["nodeName"].as_str().filter(|host| !host.is_empty()) {
        return conflict(&format!("pod {name} is already assigned to node {host:?}"));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = old.clone();
    new["spec"]["nodeName"] = node.into();
    for of in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][of].as_object().into_iter().flatten() {
            new["metadata"][of][key] = value.clone();
        }
    }
    let now = call.server.clock.now_seconds().to_string();
    set_scheduled(&mut new, &now);
    match binding["metadata"]["resourceVersion"].as_str().filter(|version| !version.is_empty()) {
        Some(version) => new["metadata"]["resourceVersion"] = version.into(),
        None => {
            new["metadata"].as_object_mut().map(|metadata| metadata.remove("resourceVersion"));
        }
    }
    Ok(new)
}

fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now,
        "observedGeneration": pod["metadata"]["generation"]});
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(old) if old["status"] == "True" => {}
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    pod["status"]["conditions"] = conditions.into();
}
