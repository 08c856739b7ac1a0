//! PATCH: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch; what applies goes on to
//! [`super::apply`].

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use xebec_schema::status::Status;
use xebec_schema::types::Definition;
use xebec_schema::{convert, go, patch};

use super::modify::{self, Modify, Next, Rules};
use super::origin::Origin;
use super::{apply, decode, track};
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::{respond, versions};

/// A patch, read.
#[derive(Debug)]
pub struct Patch {
    kind: Kind,
    value: Value,
    /// Keys that it has twice.
    pub repeated: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A list of operations.
    Json,
    /// A JSON merge patch.
    Merge,
    /// A merge patch that knows the kind's lists.
    Strategic,
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
        let kind = match content_type {
            "application/json-patch+json" => Kind::Json,
            "application/merge-patch+json" => Kind::Merge,
            "application/strategic-merge-patch+json" => Kind::Strategic,
            _ => {
                return Err(unsupported(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml",
                ));
            }
        };
        let (value, origin) = decode::json(body).or_else(|error| match kind {
            Kind::Json => Err(error),
            // Clients send YAML as a merge patch, too, and upstream takes it.
            Kind::Merge | Kind::Strategic => decode::yaml(body),
        })?;
        Ok(Self { kind, value, repeated: origin.repeated })
    }

    /// Whether the patch is merged by what the kind says of its lists.
    pub fn is_strategic(&self) -> bool {
        self.kind == Kind::Strategic
    }

    /// What an error shows if there is something wrong with what the patch made: that, or the patch itself.
    pub fn shown(&self, patched: &Value) -> String {
        if self.is_strategic() { go::printed(&self.value) } else { patched.to_string() }
    }

    /// The patched object. `definition` knows how the kind's lists merge.
    ///
    /// # Errors
    ///
    /// 400 or 422 if the patch does not fit, 415 for a strategic merge patch of a kind without a definition.
    pub fn apply(&self, definition: Option<&Definition>, object: &Value) -> Result<Value, Status> {
        match (self.kind, definition) {
            (Kind::Json, _) => patch::json_patch(object, &self.value),
            (Kind::Merge, _) => patch::merge_patch(object, &self.value),
            (Kind::Strategic, Some(definition)) => patch::strategic_merge_as(definition, object, &self.value),
            (Kind::Strategic, None) => {
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
    let new = decode::checked(call, new, &Origin::patch(patch))?;
    super::update::addressed(call, new)
}

/// Whether the patch says which resource version it is for.
fn sets_version(patch: &Patch) -> bool {
    match patch.kind {
        Kind::Json => (patch.value.as_array())
            .is_some_and(|list| list.iter().any(|operation| operation["path"] == "/metadata/resourceVersion")),
        Kind::Merge | Kind::Strategic => !patch.value["metadata"]["resourceVersion"].is_null(),
    }
}
