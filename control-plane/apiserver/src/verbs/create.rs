//! POST to a collection.

use std::time::Duration;

use http::Response;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_schema::validate;
use xebec_store::{Condition, KeyValue, Operation as StoreOperation, StoreError, Txn, TxnOutcome};

use super::admit::{self, Admission};
use super::{decode, track};
use crate::admission::Operation;
use crate::body::{self, Body, RequestBody};
use crate::cache::entry::{self, Header};
use crate::cache::{self};
use crate::chain::Call;
use crate::server::Shared;
use crate::{respond, versions};

/// How often a generated name is made anew when it is taken (KEP-4420).
const GENERATED_NAME_ATTEMPTS: usize = 8;
/// A generated name is at most 63 bytes, of which this many are random.
const SUFFIX: usize = 5;

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    track::check_options(call, "CreateOptions", None)?;
    let dry_run = decode::dry_run(&call.query)?;
    let body = body::read(body).await?;
    let object = decode::object(call, &body)?;
    let bytes = create(call, object, dry_run).await?;
    Ok(respond::object(201, &call.resource, bytes, call.wanted, call.server.clock.now()))
}

/// Creates an object of the stored version; answers the bytes of the served one.
///
/// # Errors
///
/// As upstream.
pub async fn create(call: &mut Call, mut object: Value, dry_run: bool) -> Result<bytes::Bytes, Status> {
    track::update(call, &mut object, None).await;
    create_tracked(call, object, dry_run).await
}

/// The same for an object in which it is noted who owns what.
///
/// # Errors
///
/// As upstream.
pub async fn create_tracked(call: &mut Call, mut object: Value, dry_run: bool) -> Result<bytes::Bytes, Status> {
    place(&call.stored, call.namespace(), &mut object)?;
    let metadata = metadata_mut(&mut object);
    if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let admission = Admission { operation: Operation::Create, old: None, dry_run };
    let managed = object["metadata"]["managedFields"].clone();
    let mut object = admit::mutate(call, admission, Some(object)).await?.unwrap_or_default();
    track::restore(call, &mut object, &managed);
    let resource = call.stored.clone();
    system_metadata(&call.server, &resource, &mut object);
    // What is prepared may depend on the name (labels that carry it): each try begins with the object without one.
    let generate_from = generated_prefix(&object).map(|prefix| (prefix, object.clone()));
    for attempt in 1.. {
        if let Some((prefix, nameless)) = &generate_from {
            object.clone_from(nameless);
            let suffix = call.server.random.name_suffix(SUFFIX);
            metadata_mut(&mut object).insert("name".into(), format!("{prefix}{suffix}").into());
        }
        (resource.strategy.prepare_create)(&mut object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let errors = validate::create(&resource, &object);
        if !errors.is_empty() {
            return Err(Status::invalid(&call.resource.group, &call.resource.kind, &name, &errors));
        }
        if attempt == 1 {
            call.warnings.extend(validate::warnings(&resource, &object));
        }
        object = admit::validate(call, admission, Some(object)).await?.unwrap_or_default();
        if let Some(bytes) = store(call, admission, &mut object, &name).await? {
            let (bytes, revision) = bytes;
            let bytes = versions::answer(&call.server, &call.resource, bytes, revision).await?;
            return versions::convert_bytes(&call.resource, bytes, revision).map_err(Status::internal);
        }
        if generate_from.is_none() || attempt >= GENERATED_NAME_ATTEMPTS {
            return Err(Status::already_exists(&call.resource.group, &call.resource.plural, &name));
        }
    }
    Err(Status::internal("names ran out"))
}

/// How often a write is tried again when what is to be written with it changes at the same time.
pub(super) const RIDER_ATTEMPTS: usize = 256;

/// Stores a new object, unless there is one of its name. Answers its bytes and its revision.
async fn store(
    call: &Call,
    admission: Admission<'_>,
    object: &mut Value,
    name: &str,
) -> Result<Option<(bytes::Bytes, u64)>, Status> {
    let key = cache::key(call.namespace(), name);
    let cache = call.cache()?;
    if cache.get(&key).is_some() {
        return Ok(None);
    }
    let full_key = format!("{}{key}", cache.prefix);
    for _ in 0..RIDER_ATTEMPTS {
        let mut riders = admit::ride(call, admission, object).await?;
        let stored = versions::save(&call.server, &call.resource, object).await?;
        if admission.dry_run {
            return Ok(Some((stored, 0)));
        }
        let header = Header::of(&call.stored, object);
        let prepared = call.server.cache.prepare(&full_key, stored.clone(), header);
        let put = StoreOperation::Put(full_key.clone(), stored.clone());
        let txn = riders.with(Condition::Absent(full_key.clone()), put);
        match commit(&call.server, txn).await? {
            TxnOutcome::Committed(revision) => {
                call.server.cache.caught_up(revision).await;
                drop((prepared, riders));
                return Ok(Some((entry::splice(&stored, revision), revision)));
            }
            TxnOutcome::Conflict { condition: 0, .. } => return Ok(None),
            TxnOutcome::Conflict { current, .. } => overtaken(&call.server, current).await?,
        }
    }
    Err(Status::too_many_requests("what is written with the object keeps changing; please try again", 1))
}

/// Waits until the cache knows what got ahead of a write.
///
/// # Errors
///
/// The store fails.
pub(super) async fn overtaken(server: &Shared, current: Option<KeyValue>) -> Result<(), Status> {
    let revision = match current {
        Some(current) => current.mod_revision,
        None => server.store.revision().await.map_err(|e| store_error(&e))?,
    };
    server.cache.caught_up(revision).await;
    Ok(())
}

/// Carries out a transaction, and counts it.
///
/// # Errors
///
/// 500 if the store fails, 503 if it is closed.
pub async fn commit(server: &Shared, txn: Txn) -> Result<TxnOutcome, Status> {
    let start = Instant::now();
    let outcome = server.store.txn(txn).await.map_err(|e| store_error(&e));
    server.metrics.stored(start.elapsed().max(Duration::ZERO));
    outcome
}

/// What the client hears of the store's troubles.
pub fn store_error(error: &StoreError) -> Status {
    match error {
        StoreError::Closed => Status::new(503, "ServiceUnavailable", "the server is shutting down"),
        other => Status::internal(other),
    }
}

/// The object's metadata, which is made if there is none.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        if !object.is_object() {
            *object = json!({});
        }
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("it has just been made an object")
}

/// Puts the object into the namespace of the request (apiserver `EnsureObjectNamespaceMatchesRequestNamespace`).
///
/// # Errors
///
/// 400 if it says another.
pub fn place(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), Status> {
    let metadata = metadata_mut(object);
    let said = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !resource.namespaced {
        if !said.is_empty() {
            metadata.remove("namespace");
        }
        return Ok(());
    }
    if said.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    } else if said != namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(message));
    }
    Ok(())
}

/// What the server says of a new object, and the client cannot.
fn system_metadata(server: &Shared, resource: &Resource, object: &mut Value) {
    let uid = server.random.uuid();
    let now = server.clock.now_seconds().to_string();
    let metadata = metadata_mut(object);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "generation"] {
        metadata.remove(key);
    }
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), now.into());
    if resource.strategy.generation {
        metadata.insert("generation".into(), 1.into());
    }
}

/// What a name is to be generated from, if one is.
fn generated_prefix(object: &Value) -> Option<String> {
    let text = |key: &str| object["metadata"][key].as_str().filter(|text| !text.is_empty());
    if text("name").is_some() {
        return None;
    }
    let mut prefix = text("generateName")?.to_owned();
    let mut end = prefix.len().min(63 - SUFFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    prefix.truncate(end);
    Some(prefix)
}
