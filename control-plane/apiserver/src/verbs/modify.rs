//! Read, change, check, write; again if somebody else was faster. All verbs that change an object, and their
//! subresources, come through here.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use xebec_schema::apply::managed::same_but_times;
use xebec_schema::field::ErrorList;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_schema::validate;
use xebec_store::{Condition, Operation as StoreOperation, TxnOutcome};

use super::admit::{self, Admission, Riders};
use super::create::{commit, metadata_mut, overtaken};
use super::{conversions, track};
use crate::admission::Operation;
use crate::cache::entry::{self, Header};
use crate::chain::Call;
use crate::reader::Entry;
use crate::versions;

/// How often a change is tried again when others change the object at the same time. Each time another writer has got
/// ahead, so this many writers at once are served.
const ATTEMPTS: usize = 256;

/// What an update may touch, and by which rules it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The object: everything but its status.
    Object,
    /// The status, and metadata.
    Status,
    /// The part of the spec that the subresource is about.
    Part,
    /// What the server's own logic changes, and has checked.
    Internal,
}

/// How an object is to be changed.
#[derive(Clone, Copy, Debug)]
pub struct Modify {
    /// What may change.
    pub rules: Rules,
    /// Whether admission plugins are asked.
    pub admission: bool,
    /// Nothing is stored.
    pub dry_run: bool,
}

/// An object after a change.
#[derive(Clone, Debug)]
pub struct Modified {
    /// The object, in the stored version, without its resource version.
    pub object: Value,
    /// Its bytes, resource version included: of custom resources, in the version of the request; of others, as stored.
    pub bytes: Bytes,
    /// Its revision: that of its deletion, if it was deleted.
    pub revision: u64,
    /// Whether the change was the last that its deletion waited for: it is gone.
    pub deleted: bool,
}

/// What comes of computing the new state of an object.
pub enum Next {
    /// It is to look like this; what changed is noted as the caller's. A `metadata.resourceVersion` says which state this was made from: any other, and it is
    /// a conflict.
    Put(Value),
    /// The same, and who owns what is in it already.
    Tracked(Value),
    /// It is to be deleted; this is its last state.
    Delete(Value),
    /// Nothing is to be done.
    Keep,
}

/// Changes the object that the path names. `compute` makes the new state (of the stored version) from the old; it is
/// called again if the object has been changed meanwhile.
///
/// # Errors
///
/// 404 if there is no such object; what `compute`, admission and validation say; 409 if the new state was made from
/// another than the stored one, or others keep changing the object.
pub async fn modify(
    call: &mut Call,
    how: Modify,
    compute: impl FnMut(&mut Call, &Value) -> Result<Next, Status>,
) -> Result<Modified, Status> {
    let mut modified = change(call, how, compute).await?;
    modified.bytes = versions::answer(&call.server, &call.resource, modified.bytes, modified.revision).await?;
    Ok(modified)
}

async fn change(
    call: &mut Call,
    how: Modify,
    mut compute: impl FnMut(&mut Call, &Value) -> Result<Next, Status>,
) -> Result<Modified, Status> {
    let cache = call.cache()?;
    let key = call.key();
    let full_key = format!("{}{key}", cache.prefix);
    let mut current = cache.get(&key).ok_or_else(|| call.not_found())?;
    for _ in 0..ATTEMPTS {
        let old = versions::load(&call.server, &call.resource, &current.bytes).await?;
        call.conversions.clear();
        let mut plan = match computed(call, &old, &mut compute).await? {
            Next::Keep => return Ok(kept(old, &current)),
            Next::Delete(last) => Plan { new: last, delete: true, strict: false },
            Next::Put(new) => prepare(call, how, new, &old, how.rules != Rules::Internal).await?,
            Next::Tracked(new) => prepare(call, how, new, &old, false).await?,
        };
        if !plan.delete && same(&plan.new, &old) && !is_stale(call, &full_key).await? {
            return Ok(kept(old, &current));
        }
        let mut riders = Riders::default();
        if plan.delete {
            // Plugins refuse a deletion before it begins; here they only say what goes with the object.
            let admission = Admission { operation: Operation::Delete, old: Some(&old), dry_run: how.dry_run };
            let mut last = old.clone();
            riders = admit::ride(call, admission, &mut last).await?;
        } else if how.admission {
            let admission = Admission { operation: Operation::Update, old: Some(&old), dry_run: how.dry_run };
            riders = admit::ride(call, admission, &mut plan.new).await?;
        }
        let stored = versions::save(&call.server, &call.resource, &plan.new).await?;
        if how.dry_run {
            let bytes = entry::splice(&stored, current.revision);
            return Ok(Modified { object: plan.new, bytes, revision: current.revision, deleted: plan.delete });
        }
        match write(call, &full_key, &plan, stored, current.revision, riders).await? {
            Written::Done(modified) => return Ok(modified),
            Written::Overtaken => {}
            Written::Gone => return Err(call.not_found()),
            Written::Changed(_) if plan.strict => return Err(modified_error(call)),
            Written::Changed(entry) => current = entry,
        }
    }
    Err(modified_error(call))
}

/// Whether an object is stored in a form that is no longer wanted: it is written then, though it stays the same.
async fn is_stale(call: &Call, key: &str) -> Result<bool, Status> {
    if call.server.store.is_stale(key) {
        return Ok(true);
    }
    let row = &call.cache()?.resource;
    if row.custom.is_none() {
        return Ok(false);
    }
    // The cache has it in the version that is to be stored, whatever is.
    let stored = call.server.store.get(key).await.map_err(Status::internal)?;
    let Some(stored) = stored else { return Ok(false) };
    let stored: TypeMeta = serde_json::from_slice(&stored.value).map_err(Status::internal)?;
    Ok(stored.api_version != row.api_version())
}

/// Of which version an object is.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    api_version: String,
}

/// The next state, with the conversions that it takes.
async fn computed(
    call: &mut Call,
    old: &Value,
    compute: &mut impl FnMut(&mut Call, &Value) -> Result<Next, Status>,
) -> Result<Next, Status> {
    loop {
        let next = compute(call, old);
        if !conversions::fetch(call).await? {
            return next;
        }
    }
}

struct Plan {
    new: Value,
    delete: bool,
    /// The client said which state it changed.
    strict: bool,
}

enum Written {
    Done(Modified),
    /// What was to be written with it has changed.
    Overtaken,
    Gone,
    Changed(Arc<Entry>),
}

async fn write(
    call: &Call,
    key: &str,
    plan: &Plan,
    stored: Bytes,
    old: u64,
    mut riders: Riders,
) -> Result<Written, Status> {
    let header = Header::of(&call.stored, &plan.new);
    let (operation, prepared) = if plan.delete {
        (StoreOperation::Delete(key.to_owned()), None)
    } else {
        let prepared = call.server.cache.prepare(key, stored.clone(), header);
        (StoreOperation::Put(key.to_owned(), stored.clone()), Some(prepared))
    };
    let txn = riders.with(Condition::Unchanged(key.to_owned(), old), operation);
    match commit(&call.server, txn).await? {
        TxnOutcome::Committed(revision) => {
            call.server.cache.caught_up(revision).await;
            drop((prepared, riders));
            let bytes = entry::splice(&stored, revision);
            Ok(Written::Done(Modified { object: plan.new.clone(), bytes, revision, deleted: plan.delete }))
        }
        TxnOutcome::Conflict { condition, current, .. } if condition > 0 => {
            overtaken(&call.server, current).await?;
            Ok(Written::Overtaken)
        }
        TxnOutcome::Conflict { current: None, .. } => Ok(Written::Gone),
        TxnOutcome::Conflict { current: Some(current), .. } => {
            let row = &call.cache()?.resource;
            let entry = entry::read(row, &current.value, current.mod_revision).map_err(Status::internal)?;
            Ok(Written::Changed(Arc::new(entry)))
        }
    }
}

fn kept(old: Value, current: &Entry) -> Modified {
    Modified { object: old, bytes: current.bytes.clone(), revision: current.revision, deleted: false }
}

fn modified_error(call: &Call) -> Status {
    Status::modified(&call.resource.group, &call.resource.plural, &call.path.name)
}

/// Brings a new state in order, and checks it.
async fn prepare(call: &mut Call, how: Modify, mut new: Value, old: &Value, track: bool) -> Result<Plan, Status> {
    let strict = check_precondition(call, &new, old)?;
    if !strict && call.path.verb == "update" && !call.stored.strategy.unconditional_update {
        return Err(must_say_version(call));
    }
    if how.rules == Rules::Internal {
        let delete = deletion_is_complete(&call.stored, &new, old);
        return Ok(Plan { new, delete, strict });
    }
    carry_over(&mut new, old);
    if track {
        track::update(call, &mut new, Some(old)).await;
    }
    let admission = Admission { operation: Operation::Update, old: Some(old), dry_run: how.dry_run };
    if how.admission {
        let managed = new["metadata"]["managedFields"].clone();
        new = admit::mutate(call, admission, Some(new)).await?.unwrap_or_default();
        track::restore(call, &mut new, &managed);
        carry_over(&mut new, old);
    }
    let resource = call.stored.clone();
    let strategy = &resource.strategy;
    match (how.rules, resource.part(&call.path.subresource)) {
        (Rules::Object, _) => (strategy.prepare_update)(&mut new, old),
        (Rules::Part, Some(part)) => {
            keep_metadata(&mut new, old);
            (part.prepare)(&mut new, old);
        }
        _ => new = with_status_of(&resource, new, old),
    }
    generation(&resource, &mut new, old);
    let errors = check(&resource, how.rules, &call.path.subresource, &new, old);
    if !errors.is_empty() {
        return Err(Status::invalid(&call.resource.group, &call.resource.kind, &call.path.name, &errors));
    }
    if how.rules == Rules::Object {
        call.warnings.extend(validate::warnings(&resource, &new));
    }
    if how.admission {
        new = admit::validate(call, admission, Some(new)).await?.unwrap_or_default();
    }
    let delete = deletion_is_complete(&resource, &new, old);
    Ok(Plan { new, delete, strict })
}

/// Whether the object that the client changed is the stored one. Answers whether it said which it was.
fn check_precondition(call: &Call, new: &Value, old: &Value) -> Result<bool, Status> {
    let said = |key: &str| new["metadata"][key].as_str().filter(|text| !text.is_empty() && *text != "0");
    let is = |key: &str| old["metadata"][key].as_str().unwrap_or_default();
    let Call { resource, path, .. } = call;
    if let Some(uid) = said("uid")
        && uid != is("uid")
    {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", is("uid"));
        return Err(Status::conflict(&resource.group, &resource.plural, &path.name, &why));
    }
    match said("resourceVersion") {
        None => Ok(false),
        Some(version) if version == is("resourceVersion") => Ok(true),
        Some(version) if version.parse::<u64>().is_err() => {
            let error = xebec_schema::field::Error::invalid(
                xebec_schema::field::Path::new("metadata.resourceVersion"),
                version,
                "must be specified for an update",
            );
            Err(Status::invalid(&resource.group, &resource.kind, &path.name, &[error]))
        }
        Some(_) => Err(modified_error(call)),
    }
}

/// 422 for an update that does not say which state of the object it was made from.
fn must_say_version(call: &Call) -> Status {
    let path = xebec_schema::field::Path::new("metadata.resourceVersion");
    let error = xebec_schema::field::Error::invalid(path, 0, "must be specified for an update");
    Status::invalid(&call.resource.group, &call.resource.kind, &call.path.name, &[error])
}

/// What a client may leave out of an update, or cannot change.
fn carry_over(new: &mut Value, old: &Value) {
    validate::carry_metadata(new, old);
    let metadata = metadata_mut(new);
    if metadata.get("generateName").is_none()
        && let Some(prefix) = old["metadata"].get("generateName")
    {
        metadata.insert("generateName".into(), prefix.clone());
    }
}

/// The old object with the new one's status and metadata; of custom resources, without the latter.
fn with_status_of(resource: &Resource, mut new: Value, old: &Value) -> Value {
    let mut out = old.clone();
    if resource.custom.is_some() {
        let managed = new["metadata"]["managedFields"].take();
        new["metadata"] = old["metadata"].clone();
        match managed {
            Value::Null => metadata_mut(&mut new).remove("managedFields"),
            managed => metadata_mut(&mut new).insert("managedFields".into(), managed),
        };
    }
    for key in ["metadata", "status"] {
        match new.get_mut(key).map(Value::take) {
            Some(value) if !value.is_null() || resource.custom.is_some() && key == "status" => out[key] = value,
            _ => {
                out.as_object_mut().map(|o| o.remove(key));
            }
        }
    }
    out
}

/// Puts back what an update of a part cannot change of the metadata (`metav1.ResetObjectMetaForStatus`).
fn keep_metadata(new: &mut Value, old: &Value) {
    let metadata = metadata_mut(new);
    for key in ["deletionTimestamp", "labels", "annotations", "finalizers", "ownerReferences"] {
        match &old["metadata"][key] {
            Value::Null => metadata.remove(key),
            value => metadata.insert(key.to_owned(), value.clone()),
        };
    }
}

/// Counts a change of what the object is to be.
fn generation(resource: &Resource, new: &mut Value, old: &Value) {
    if !resource.strategy.generation {
        return;
    }
    // Without the subresource, a custom resource's status is a field as any other.
    let has_status = resource.custom.as_ref().is_none_or(|custom| custom.has_status());
    let spec = |object: &Value| -> Vec<(String, Value)> {
        let fields = object.as_object().into_iter().flatten();
        let fields = fields.filter(|(key, _)| match key.as_str() {
            "metadata" | "kind" | "apiVersion" => false,
            "status" => !has_status,
            _ => true,
        });
        fields.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let before = old["metadata"]["generation"].as_i64().unwrap_or(0);
    let changed = spec(new) != spec(old);
    let generation = if changed { before + 1 } else { before };
    if generation > 0 {
        metadata_mut(new).insert("generation".into(), generation.into());
    }
}

fn check(resource: &Resource, rules: Rules, subresource: &str, new: &Value, old: &Value) -> ErrorList {
    match rules {
        Rules::Part => validate::part(resource, subresource, new, old),
        Rules::Object => validate::update(resource, new, old),
        Rules::Status | Rules::Internal => validate::status(resource, new, old),
    }
}

/// Whether the update removed the last thing that the object's deletion waited for (apiserver
/// `ShouldDeleteDuringUpdate`).
fn deletion_is_complete(resource: &Resource, new: &Value, old: &Value) -> bool {
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    let deleting = !old["metadata"]["deletionTimestamp"].is_null();
    let grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let namespace = resource.group.is_empty() && resource.plural == "namespaces";
    deleting && grace == 0 && empty(&new["metadata"]["finalizers"]) && (!namespace || empty(&new["spec"]["finalizers"]))
}

/// Whether two states are the same but for their resource versions, and the times at which managers changed them.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    new.len() == old.len()
        && new.iter().all(|(key, value)| match (key.as_str(), value, old.get(key)) {
            ("metadata", Value::Object(new), Some(Value::Object(old))) => {
                let without = |m: &serde_json::Map<String, Value>| {
                    let mut m = m.clone();
                    m.remove("resourceVersion");
                    m.remove("managedFields");
                    m
                };
                let managed = |m: &serde_json::Map<String, Value>| m.get("managedFields").cloned().unwrap_or_default();
                without(new) == without(old) && same_but_times(&managed(new), &managed(old))
            }
            (_, value, Some(before)) => value == before,
            _ => false,
        })
}
