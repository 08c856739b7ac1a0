//! Kinds that are served in more than one group or version, and stored in one.
//!
//! Built-in ones are worked on in the stored form, and converted where they come in and go out. Custom resources are
//! worked on in the version of the request, and converted where they come out of the store and go into it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use xebec_schema::convert;
use xebec_schema::custom::Conversion;
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;

use crate::cache::entry;
use crate::cache::ring::CachedEvent;
use crate::conversion;
use crate::reader::Entry;
use crate::server::Shared;

/// The row in whose form objects of a served row are worked on.
pub fn stored(registry: &Registry, served: &Arc<Resource>) -> Arc<Resource> {
    if !convert::is_converted(served) {
        return served.clone();
    }
    let stored = registry.get(served.storage_group(), served.storage_version(), &served.plural);
    stored.unwrap_or(served).clone()
}

/// The rows in whose form the objects of all rows are kept; a kind of several versions comes more than once.
pub fn all_stored(registry: &Registry) -> impl Iterator<Item = Arc<Resource>> {
    registry.iter().filter(|row| !row.virtual_kind).map(|row| stored(registry, row))
}

/// Whether objects of a row are served in another form than they are kept in.
pub fn differs(served: &Resource) -> bool {
    convert::is_converted(served) || served.custom.as_ref().is_some_and(|custom| custom.stored().is_some())
}

/// The bytes of a stored object as `served` shows it.
///
/// # Errors
///
/// The entry is not JSON, which the cache rules out.
pub fn serve(served: &Resource, stored: &Entry) -> Result<Bytes, serde_json::Error> {
    convert_bytes(served, stored.bytes.clone(), stored.revision)
}

/// The same for bytes (resource version included) that are in no entry.
///
/// # Errors
///
/// The bytes are not JSON.
pub fn convert_bytes(served: &Resource, bytes: Bytes, revision: u64) -> Result<Bytes, serde_json::Error> {
    if !differs(served) {
        return Ok(bytes);
    }
    let mut object: Value = serde_json::from_slice(&bytes)?;
    match &served.custom {
        Some(custom) if custom.is_version_of(&object) => return Ok(bytes),
        Some(custom) => custom.adopt(&mut object),
        None => convert::from_stored(served, &mut object),
    }
    Ok(entry::splice(&entry::encode(&object), revision))
}

/// The object of stored bytes in the form in which it is worked on.
///
/// # Errors
///
/// 500 if the bytes are not JSON, or a webhook fails that converts them.
pub async fn load(server: &Shared, row: &Resource, bytes: &Bytes) -> Result<Value, Status> {
    let object: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
    if !is_custom_view(row) {
        return Ok(object);
    }
    conversion::convert(server, row, vec![object]).await?.pop().ok_or_else(|| Status::internal("lost"))
}

/// The bytes to store of an object in the form in which it is worked on.
///
/// # Errors
///
/// 500 if a webhook fails that converts it.
pub async fn save(server: &Shared, row: &Resource, object: &Value) -> Result<Bytes, Status> {
    let Some(stored) = row.custom.as_ref().and_then(|custom| custom.stored()) else { return Ok(entry::encode(object)) };
    let converted = conversion::convert(server, stored, vec![object.clone()]).await?;
    Ok(converted.first().map(entry::encode).unwrap_or_default())
}

/// The bytes of a stored object in the version of a custom row; those of other rows as they are.
///
/// # Errors
///
/// As [`load`].
pub async fn answer(server: &Shared, row: &Resource, bytes: Bytes, revision: u64) -> Result<Bytes, Status> {
    if !is_custom_view(row) {
        return Ok(bytes);
    }
    Ok(entry::splice(&entry::encode(&load(server, row, &bytes).await?), revision))
}

/// Entries in the version of a row, where that needs a webhook; all others as they are: [`serve`] converts them.
///
/// # Errors
///
/// As [`load`].
pub async fn shown(server: &Shared, row: &Resource, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, Status> {
    if !needs_webhook(row) {
        return Ok(entries);
    }
    let objects: Result<Vec<Value>, _> = entries.iter().map(|entry| serde_json::from_slice(&entry.bytes)).collect();
    let converted = conversion::convert(server, row, objects.map_err(Status::internal)?).await?;
    let shown = entries.iter().zip(&converted).map(|(entry, object)| {
        let bytes = entry::splice(&entry::encode(object), entry.revision);
        Arc::new(Entry { bytes, ..Entry::clone(entry) })
    });
    Ok(shown.collect())
}

/// [`shown`], for what happened to an object.
///
/// # Errors
///
/// As [`load`].
pub async fn event(server: &Shared, row: &Resource, event: Arc<CachedEvent>) -> Result<Arc<CachedEvent>, Status> {
    if !needs_webhook(row) {
        return Ok(event);
    }
    let entries = [&event.previous, &event.current].into_iter().flatten().cloned().collect();
    let mut shown = shown(server, row, entries).await?;
    let current = event.current.as_ref().and_then(|_| shown.pop());
    let previous = event.previous.as_ref().and_then(|_| shown.pop());
    Ok(Arc::new(CachedEvent::new(event.revision, current, previous)))
}

/// Whether a row is a version of custom resources that are stored in another.
fn is_custom_view(row: &Resource) -> bool {
    row.custom.as_ref().is_some_and(|custom| custom.stored().is_some() || *custom.conversion() != Conversion::None)
}

fn needs_webhook(row: &Resource) -> bool {
    row.custom.as_ref().is_some_and(|custom| *custom.conversion() != Conversion::None)
}
