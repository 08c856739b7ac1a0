//! DELETE of one object (apiserver `registry/rest/delete.go`, `registry/generic/registry/store.go`).
//!
//! An object with finalizers, or one that is to be given time, is only marked; it goes when the last finalizer is
//! removed and its time is confirmed ([`super::modify`]).

use bytes::Bytes;
use http::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use xebec_schema::status::Status;
use xebec_schema::types;

use super::admit::{self, Admission};
use super::create::metadata_mut;
use super::decode;
use super::modify::{self, Modified, Modify, Next, Rules};
use crate::admission::Operation;
use crate::admission::dynamic::request::SentOptions;
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::query::Query;
use crate::{respond, versions};

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// What becomes of the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are left alone.
    Orphan,
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How long the object is given, in seconds; by default, what it says itself.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of what it owns.
    pub propagation: Option<Propagation>,
    /// The object must have this UID.
    pub uid: Option<String>,
    /// The object must have this resource version.
    pub resource_version: Option<String>,
    /// Nothing is deleted.
    pub dry_run: bool,
}

impl Options {
    /// Reads the query and the body.
    ///
    /// # Errors
    ///
    /// 400 and 422 for what is malformed.
    pub fn read(call: &mut Call, body: &Bytes) -> Result<Self, Status> {
        let mut options = Self::of_query(&call.query)?;
        if body.is_empty() {
            return Ok(options);
        }
        let (value, _) = decode::document(&call.parts.headers, body, types::definition(DELETE_OPTIONS))?;
        if value.is_null() {
            return Ok(options);
        }
        options.merge(&value)?;
        // Admission shows them to webhooks as they were sent.
        call.parts.extensions.insert(SentOptions(value));
        Ok(options)
    }

    fn of_query(query: &Query) -> Result<Self, Status> {
        let orphan = query.maybe_flag("orphanDependents");
        Ok(Self {
            grace_period_seconds: query.number("gracePeriodSeconds")?,
            propagation: propagation(query.get("propagationPolicy"), orphan)?,
            dry_run: decode::dry_run(query)?,
            ..Self::default()
        })
    }

    /// Puts in what a `DeleteOptions` object says.
    ///
    /// # Errors
    ///
    /// 400 and 422 for what is malformed.
    pub fn merge(&mut self, value: &Value) -> Result<(), Status> {
        if !value.is_object() {
            return Err(Status::bad_request("the body of a delete must be a DeleteOptions object"));
        }
        let kind = value["kind"].as_str().unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            return Err(Status::bad_request(format!("{kind} cannot be handled as a DeleteOptions")));
        }
        if let Some(seconds) = value["gracePeriodSeconds"].as_i64() {
            self.grace_period_seconds = Some(seconds);
        }
        let policy = value["propagationPolicy"].as_str().unwrap_or_default();
        if let Some(policy) = propagation(policy, value["orphanDependents"].as_bool())? {
            self.propagation = Some(policy);
        }
        let text = |key: &str| value["preconditions"][key].as_str().map(str::to_owned);
        self.uid = text("uid").or(self.uid.take());
        self.resource_version = text("resourceVersion").or(self.resource_version.take());
        match value["dryRun"].as_array().map(Vec::as_slice) {
            None | Some([]) => {}
            Some(all) if all.iter().all(|v| v == "All") => self.dry_run = true,
            Some(_) => {
                return Err(decode::invalid_option(
                    "DeleteOptions",
                    "dryRun",
                    "Unsupported value: supported values: \"All\"",
                    "FieldValueNotSupported",
                ));
            }
        }
        Ok(())
    }
}

fn propagation(policy: &str, orphan: Option<bool>) -> Result<Option<Propagation>, Status> {
    match (policy, orphan) {
        ("", None) => Ok(None),
        ("", Some(true)) | ("Orphan", None) => Ok(Some(Propagation::Orphan)),
        ("", Some(false)) | ("Background", None) => Ok(Some(Propagation::Background)),
        ("Foreground", None) => Ok(Some(Propagation::Foreground)),
        (_, Some(_)) => Err(decode::invalid_option(
            "DeleteOptions",
            "propagationPolicy",
            &format!("Invalid value: \"{policy}\": orphanDependents and deletionPropagation cannot be both set"),
            "FieldValueInvalid",
        )),
        (other, None) => Err(decode::invalid_option(
            "DeleteOptions",
            "propagationPolicy",
            &format!(
                "Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
            ),
            "FieldValueNotSupported",
        )),
    }
}

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let body = body::read(body).await?;
    let options = Options::read(call, &body)?;
    let deleted = delete(call, &options).await?;
    let waits = options.propagation == Some(Propagation::Foreground) && !deleted.deleted;
    let code = if waits { 202 } else { 200 };
    if deleted.deleted && !call.stored.answers_deleted() {
        return Ok(respond::encoded(code, &gone(call, &deleted.object), call.wanted));
    }
    let bytes = versions::convert_bytes(&call.resource, deleted.bytes, deleted.revision).map_err(Status::internal)?;
    Ok(respond::object(code, &call.resource, bytes, call.wanted, call.server.clock.now()))
}

/// The Status that says that an object is gone.
fn gone(call: &Call, object: &Value) -> Value {
    let mut details = json!({"name": call.path.name, "kind": call.resource.plural, "uid": object["metadata"]["uid"]});
    if !call.resource.group.is_empty() {
        details["group"] = call.resource.group.as_ref().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Deletes the object that the path names, or marks it.
///
/// # Errors
///
/// 404, 409 for preconditions that do not hold, and what admission says.
pub async fn delete(call: &mut Call, options: &Options) -> Result<Modified, Status> {
    let entry = call.cache()?.get(&call.key()).ok_or_else(|| call.not_found())?;
    let old = versions::load(&call.server, &call.resource, &entry.bytes).await?;
    let admission = Admission { operation: Operation::Delete, old: Some(&old), dry_run: options.dry_run };
    admit::mutate(call, admission, None).await?;
    admit::validate(call, admission, None).await?;
    remove(call, options, |_, _| {}).await
}

/// Deletes the object that the path names, or marks it, without asking admission. `change` is made to it before.
///
/// # Errors
///
/// 404, 409 for preconditions that do not hold.
pub async fn remove(
    call: &mut Call,
    options: &Options,
    change: impl Fn(&mut Value, Timestamp),
) -> Result<Modified, Status> {
    let how = Modify { rules: Rules::Internal, admission: false, dry_run: options.dry_run };
    modify::modify(call, how, |call, old| {
        preconditions(call, options, old)?;
        let now = call.server.clock.now_seconds();
        let mut old = old.clone();
        change(&mut old, now);
        Ok(next(call, options, &old, now))
    })
    .await
}

fn preconditions(call: &Call, options: &Options, old: &Value) -> Result<(), Status> {
    let is = |key: &str| old["metadata"][key].as_str().unwrap_or_default();
    for (words, wanted, is) in
        [("UID", &options.uid, is("uid")), ("ResourceVersion", &options.resource_version, is("resourceVersion"))]
    {
        let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != is) else { continue };
        let why = format!("Precondition failed: {words} in precondition: {wanted}, {words} in object meta: {is}");
        return Err(Status::conflict(&call.resource.group, &call.resource.plural, &call.path.name, &why));
    }
    Ok(())
}

/// What a deletion makes of an object.
fn next(call: &Call, options: &Options, old: &Value, now: Timestamp) -> Next {
    let mut new = old.clone();
    let marked = !old["metadata"]["deletionTimestamp"].is_null();
    if !marked {
        (call.stored.strategy.prepare_delete)(&mut new, now);
    }
    set_finalizers(&mut new, options.propagation);
    let waits_for_finalizers = new["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    let waits_for_contents = call.stored.group.is_empty()
        && call.stored.plural == "namespaces"
        && (!marked || new["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()));
    let mut grace = 0;
    if call.stored.strategy.graceful_delete {
        grace = match grace_period(options, old) {
            Grace::Pending => return Next::Keep,
            Grace::Seconds(seconds) => seconds,
        };
    }
    if grace == 0 && !waits_for_finalizers && !waits_for_contents {
        return Next::Delete(old.clone());
    }
    if waits_for_contents && !marked {
        new["status"]["phase"] = "Terminating".into();
    }
    mark(&mut new, old, grace, now, call.stored.strategy.graceful_delete || waits_for_finalizers);
    Next::Put(without_version(new))
}

/// A change that the server makes is one of whatever is stored.
fn without_version(mut object: Value) -> Value {
    metadata_mut(&mut object).remove("resourceVersion");
    object
}

enum Grace {
    /// The object has been marked, and its time cannot be shortened to what is asked for.
    Pending,
    Seconds(i64),
}

/// How long a pod is given (`podStrategy.CheckGracefulDelete`, `rest.BeforeDelete`).
fn grace_period(options: &Options, old: &Value) -> Grace {
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let Some(current) = old["metadata"]["deletionGracePeriodSeconds"].as_i64() else { return Grace::Seconds(0) };
        return match options.grace_period_seconds {
            // Time can only be shortened.
            Some(asked) if asked.max(0) < current => Grace::Seconds(asked.max(0)),
            _ if current == 0 => Grace::Seconds(0),
            _ => Grace::Pending,
        };
    }
    let unscheduled = old["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let over = matches!(old["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || over {
        return Grace::Seconds(0);
    }
    let asked = options.grace_period_seconds;
    match asked.or_else(|| old["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0) {
        seconds if seconds < 0 => Grace::Seconds(1),
        seconds => Grace::Seconds(seconds),
    }
}

/// Marks an object as being deleted. `generation` goes up the first time.
fn mark(new: &mut Value, old: &Value, grace: i64, now: Timestamp, with_grace: bool) {
    let marked_at = old["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let old_grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let start = match marked_at {
        Some(at) => at.checked_sub(SignedDuration::from_secs(old_grace)).unwrap_or(at),
        None => now,
    };
    let end = start.checked_add(SignedDuration::from_secs(grace)).unwrap_or(start);
    let metadata = metadata_mut(new);
    metadata.insert("deletionTimestamp".into(), end.to_string().into());
    if with_grace {
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if marked_at.is_none() && generation > 0 {
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

/// The garbage collector's finalizers say what becomes of what the object owns.
fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<Value> = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.retain(|f| f != "orphan" && f != "foregroundDeletion");
    match propagation {
        Propagation::Orphan => finalizers.push("orphan".into()),
        Propagation::Foreground => finalizers.push("foregroundDeletion".into()),
        Propagation::Background => {}
    }
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}
