//! PUT.

use http::Response;
use serde_json::Value;
use xebec_schema::status::Status;

use super::create;
use super::modify::{self, Modify, Next, Rules};
use super::{decode, track};
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::{respond, versions};

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    track::check_options(call, "UpdateOptions", None)?;
    let dry_run = decode::dry_run(&call.query)?;
    let body = body::read(body).await?;
    let object = decode::object(call, &body)?;
    let object = addressed(call, object)?;
    let exists = call.cache()?.get(&call.key()).is_some();
    if !exists && call.stored.strategy.create_on_update {
        return create_instead(call, object, dry_run).await;
    }
    let how = Modify { rules: Rules::Object, admission: true, dry_run };
    let modified = modify::modify(call, how, |_, _| Ok(Next::Put(object.clone()))).await?;
    let bytes = versions::convert_bytes(&call.resource, modified.bytes, modified.revision).map_err(Status::internal)?;
    Ok(respond::object(200, &call.resource, bytes, call.wanted, call.server.clock.now()))
}

/// A PUT of what does not exist, for the kinds where that makes it. The client may have been authorized to update only.
async fn create_instead(call: &mut Call, object: Value, dry_run: bool) -> Result<Response<Body>, Status> {
    authorize_create(call).await?;
    let bytes = create::create(call, object, dry_run).await?;
    Ok(respond::object(201, &call.resource, bytes, call.wanted, call.server.clock.now()))
}

/// Whether the client may create what it wanted to change.
///
/// # Errors
///
/// 403.
pub async fn authorize_create(call: &Call) -> Result<(), Status> {
    let mut attributes = crate::request::Target::Resource(Box::new(call.path.clone())).attributes(
        &call.user,
        &call.parts.method,
        call.parts.uri.path(),
    );
    attributes.verb = "create".into();
    crate::chain::authorize(&call.server, &attributes).await
}

/// Checks that the object is the one that the path names.
///
/// # Errors
///
/// 400 if it is another.
pub fn addressed(call: &Call, mut object: Value) -> Result<Value, Status> {
    create::place(&call.stored, call.namespace(), &mut object)?;
    let metadata = create::metadata_mut(&mut object);
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        metadata.insert("name".into(), call.path.name.as_str().into());
    } else if name != call.path.name {
        let (path, kind) = (&call.path.name, name);
        return Err(Status::bad_request(format!(
            "the name of the object ({kind}) does not match the name on the URL ({path})"
        )));
    }
    Ok(object)
}
