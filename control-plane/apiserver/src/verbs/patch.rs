//! PATCH: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch; what applies goes on to
//! [`super::apply`].

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use xebec_schema::status::Status;
use xebec_schema::types::Definition;
use xebec_schema::{convert, patch};

use super::modify::{self, Modify, Next, Rules};
use super::{apply, decode, track};
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::{respond, versions};

/// A patch, read.
pub enum Patch {
    /// A list of operations.
    Json(Value),
    /// A JSON merge patch.
    Merge(Value),
    /// A merge patch that knows the kind's lists.
    Strategic(Value),
}

impl Patch {
    /// Reads the body by its content type.
    ///
    /// # Errors
    ///
    /// 415 for a type that is not served, 400 for what is no such patch.
    pub fn read(call: &Call, body: &Bytes) -> Result<Self, Status> {
        let header = call.parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let content_type = header.split(';').next().unwrap_or_default().trim();
        let read: fn(Value) -> Self = match content_type {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            _ => {
                return Err(unsupported(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml",
                ));
            }
        };
        let (value, _) = decode::json(body).or_else(|error| {
            // Clients send YAML as a merge patch, too, and upstream takes it.
            if content_type == "application/json-patch+json" {
                return Err(error);
            }
            decode::yaml(body).map(|value| (value, Vec::new()))
        })?;
        Ok(read(value))
    }

    /// The patched object. `definition` knows how the kind's lists merge.
    ///
    /// # Errors
    ///
    /// 400 or 422 if the patch does not fit, 415 for a strategic merge patch of a kind without a definition.
    pub fn apply(&self, definition: Option<&Definition>, object: &Value) -> Result<Value, Status> {
        match (self, definition) {
            (Self::Json(operations), _) => patch::json_patch(object, operations),
            (Self::Merge(patch), _) => patch::merge_patch(object, patch),
            (Self::Strategic(patch), Some(definition)) => patch::strategic_merge_as(definition, object, patch),
            (Self::Strategic(_), None) => {
                return Err(unsupported(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                ));
            }
        }
        .map_err(|error| error.status())
    }
}

fn unsupported(message: &str) -> Status {
    Status::new(415, "UnsupportedMediaType", message)
}

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let applies = apply::is_apply(call);
    track::check_options(call, "PatchOptions", Some(applies))?;
    let dry_run = decode::dry_run(&call.query)?;
    let body = body::read(body).await?;
    if applies {
        return apply::serve(call, &body, dry_run).await;
    }
    let patch = Patch::read(call, &body)?;
    let how = Modify { rules: Rules::Object, admission: true, dry_run };
    let modified = modify::modify(call, how, |call, old| patched(call, &patch, old).map(Next::Put)).await?;
    let bytes = versions::convert_bytes(&call.resource, modified.bytes, modified.revision).map_err(Status::internal)?;
    Ok(respond::object(200, &call.resource, bytes, call.wanted, call.server.clock.now()))
}

/// The new state (of the stored version) that a patch makes of the old.
///
/// # Errors
///
/// The patch does not fit, or makes something that is no object of the kind.
pub fn patched(call: &mut Call, patch: &Patch, old: &Value) -> Result<Value, Status> {
    let mut served = old.clone();
    convert::from_stored(&call.resource, &mut served);
    // Of a custom resource, nobody knows how its lists are to merge.
    let definition = call.resource.definition().filter(|_| call.resource.custom.is_none());
    let mut new = patch.apply(definition, &served)?;
    // A patch that does not touch the resource version is one of whatever is stored.
    if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] && !sets_version(patch) {
        new["metadata"].as_object_mut().map(|metadata| metadata.remove("resourceVersion"));
    }
    let new = decode::checked(call, new, Vec::new())?;
    super::update::addressed(call, new)
}

/// Whether the patch says which resource version it is for.
fn sets_version(patch: &Patch) -> bool {
    match patch {
        Patch::Json(operations) => operations
            .as_array()
            .is_some_and(|list| list.iter().any(|operation| operation["path"] == "/metadata/resourceVersion")),
        Patch::Merge(patch) | Patch::Strategic(patch) => !patch["metadata"]["resourceVersion"].is_null(),
    }
}
