//! Kinds that are served in more than one group or version, and stored in one.
//!
//! Built-in ones are worked on in the stored form, and converted where they come in and go out. Custom resources are
//! worked on in the version of the request, and converted where they come out of the store and go into it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use xebec_schema::convert;
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;

use crate::cache::entry;
use crate::reader::Entry;

/// The row in whose form objects of a served row are worked on.
pub fn stored(registry: &Registry, served: &Arc<Resource>) -> Arc<Resource> {
    if !convert::is_converted(served) {
        return served.clone();
    }
    let stored = registry.get(served.storage_group(), served.storage_version(), &served.plural);
    stored.unwrap_or(served).clone()
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
/// The bytes are not JSON.
pub fn load(row: &Resource, bytes: &Bytes) -> Result<Value, serde_json::Error> {
    let mut object: Value = serde_json::from_slice(bytes)?;
    if let Some(custom) = &row.custom
        && custom.stored().is_some()
    {
        custom.adopt(&mut object);
    }
    Ok(object)
}

/// The bytes to store of an object in the form in which it is worked on.
pub fn save(row: &Resource, object: &Value) -> Bytes {
    let stored = row.custom.as_ref().and_then(|custom| custom.stored()?.custom.as_ref());
    let Some(stored) = stored else { return entry::encode(object) };
    let mut object = object.clone();
    stored.adopt(&mut object);
    entry::encode(&object)
}
