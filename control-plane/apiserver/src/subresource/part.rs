//! Subresources that exchange the object itself, and change a part of it: `status`, a request's `approval`, a
//! namespace's `finalize`, a pod's `ephemeralcontainers` and `resize`.

use http::Response;
use serde_json::Value;
use xebec_schema::status::Status;

use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::verbs::apply::{self, Configuration};
use crate::verbs::modify::{self, Modify, Next, Rules};
use crate::verbs::patch::{self, Patch};
use crate::verbs::{decode, get, track, update};
use crate::{respond, versions};

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    if call.path.verb == "get" {
        return get::serve(call).await;
    }
    let applies = call.path.verb == "patch" && apply::is_apply(call);
    let patches = call.path.verb == "patch";
    track::check_options(call, if patches { "PatchOptions" } else { "UpdateOptions" }, patches.then_some(applies))?;
    let dry_run = decode::dry_run(&call.query)?;
    let body = body::read(body).await?;
    let part = call.path.subresource.clone();
    let rules = match part.as_str() {
        "finalize" => Rules::Internal,
        part if call.stored.part(part).is_some() => Rules::Part,
        _ => Rules::Status,
    };
    let how = Modify { rules, admission: true, dry_run };
    let next = |call: &mut Call, new: Value, old: &Value| {
        let mut new = merged(call, &part, new, old);
        // What the server's own rules change is not tracked of itself.
        if rules == Rules::Internal {
            track::note(call, &mut new, Some(old));
        }
        Next::Put(new)
    };
    let modified = if applies {
        let configuration = Configuration::read(call, &body)?;
        let compute = |call: &mut Call, old: &Value| {
            let new = configuration.applied(call, Some(old))?;
            let managed = new["metadata"]["managedFields"].clone();
            let mut new = merged(call, &part, new, old);
            new["metadata"]["managedFields"] = managed;
            Ok(Next::Tracked(new))
        };
        modify::modify(call, how, compute).await?
    } else if call.path.verb == "patch" {
        let patch = Patch::read(call, &body)?;
        let compute = |call: &mut Call, old: &Value| patch::patched(call, &patch, old).map(|new| next(call, new, old));
        modify::modify(call, how, compute).await?
    } else {
        let object = decode::object(call, &body)?;
        let object = update::addressed(call, object)?;
        modify::modify(call, how, |call, old| Ok(next(call, object.clone(), old))).await?
    };
    let bytes = versions::convert_bytes(&call.resource, modified.bytes, modified.revision).map_err(Status::internal)?;
    Ok(respond::object(200, &call.resource, bytes, call.wanted, call.server.clock.now()))
}

/// What a part of the new object makes of the old one.
fn merged(call: &Call, part: &str, mut new: Value, old: &Value) -> Value {
    match part {
        "finalize" => {
            let mut out = old.clone();
            set(&mut out, "spec", "finalizers", &new["spec"]["finalizers"]);
            set(&mut out, "metadata", "resourceVersion", &new["metadata"]["resourceVersion"]);
            out
        }
        _ => {
            (call.stored.strategy.prepare_status)(part, &mut new, old, call.server.clock.now());
            new
        }
    }
}

/// Sets or removes a field of a struct.
fn set(object: &mut Value, of: &str, field: &str, value: &Value) {
    if !object[of].is_object() {
        object[of] = serde_json::json!({});
    }
    if let Some(fields) = object[of].as_object_mut() {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.to_owned(), value.clone());
        }
    }
}
