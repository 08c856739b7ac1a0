//! What is served below an object: one table of all subresources.

mod binding;
mod connect;
mod eviction;
mod links;
mod part;
mod proxy;
mod scale;

pub(crate) use binding::serve_collection as serve_bindings;
pub(crate) use connect::relay;
pub(crate) use proxy::below_proxy;
pub(crate) use scale::of as scale_of;

use http::Response;
use serde_json::{Value, json};
use xebec_schema::defaults;
use xebec_schema::status::Status;

use crate::admission::Operation;
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::extension::Question;
use crate::verbs::admit::{self, Admission};
use crate::verbs::decode::{self, Expected};
use crate::{respond, versions};

/// Serves it.
///
/// # Errors
///
/// 404 for a subresource that the kind does not have, 405 for a verb that it does not; else as upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let row = call.resource.subresource(&call.path.subresource).cloned().ok_or_else(Status::no_such_path)?;
    if !row.verbs.iter().any(|verb| verb == call.path.verb) {
        return Err(Status::method_not_allowed());
    }
    match (row.name.as_ref(), call.path.verb) {
        ("status" | "approval" | "finalize" | "ephemeralcontainers" | "resize", _) => part::serve(call, body).await,
        ("scale", _) => scale::serve(call, body).await,
        ("binding", "create") => binding::serve(call, body).await,
        ("eviction", "create") => eviction::serve(call, body).await,
        ("log" | "exec" | "attach" | "portforward", _) => connect::serve(call, body).await,
        ("proxy", _) => proxy::serve(call, body).await,
        (_, "create") => answer(call, &row, body).await,
        _ => Err(Status::no_such_path()),
    }
}

/// A POST that somebody plugged in answers: `serviceaccounts/token`.
async fn answer(
    call: &mut Call,
    row: &xebec_schema::resource::Subresource,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let server = call.server.clone();
    let key = (call.resource.group.to_string(), call.resource.plural.to_string(), row.name.to_string());
    let handler = server.extensions.subresources.get(&key).ok_or_else(Status::no_such_path)?;
    let dry_run = decode::dry_run(&call.query)?;
    let body = body::read(body).await?;
    let registry = server.registry.load_full();
    let definition = registry
        .by_kind(&row.group, &row.version, &row.kind)
        .map_or_else(|| built_in(&row.group, &row.version, &row.kind), |resource| resource.definition());
    let expected = Expected { group: &row.group, version: &row.version, kind: &row.kind, definition };
    let mut object = posted(call, &expected, &body)?;
    if let Some(definition) = definition {
        defaults::apply_as(definition, &mut object);
    }
    let admission = Admission { operation: Operation::Create, old: None, dry_run };
    let object = admit::mutate(call, admission, Some(object)).await?;
    let object = admit::validate(call, admission, object).await?.unwrap_or_default();
    let parent = parent(call).await?;
    let question = Question {
        user: &call.user,
        resource: &call.resource,
        namespace: call.namespace(),
        name: &call.path.name,
        parent: Some(&parent),
        object,
        dry_run,
    };
    let answer = handler.answer(question).await?;
    Ok(respond::encoded(201, &answer, call.wanted))
}

/// The definition of a kind that has no row of its own: `authentication.k8s.io/v1 TokenRequest`.
fn built_in(group: &str, version: &str, kind: &str) -> Option<&'static xebec_schema::types::Definition> {
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    decode::definition(&format!("{group}.{version}.{kind}"))
}

/// A body that is to be of a kind other than the parent's.
fn posted(call: &mut Call, expected: &Expected<'_>, body: &bytes::Bytes) -> Result<Value, Status> {
    let (value, origin) = decode::document(&call.parts.headers, body, expected.definition)?;
    decode::typed(call, expected, value, &origin)
}

/// The object that the subresource belongs to, as it is stored.
async fn parent(call: &Call) -> Result<Value, Status> {
    let entry = call.cache()?.get(&call.key()).ok_or_else(|| call.not_found())?;
    versions::load(&call.server, &call.resource, &entry.bytes).await
}

/// `Status` of something that went well.
fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}
