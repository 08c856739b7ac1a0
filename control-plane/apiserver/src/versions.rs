//! Kinds that are served in more than one group or version, and stored in one.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use xebec_schema::convert;
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;

use crate::cache::entry;
use crate::reader::Entry;

/// The row in which objects of a served row are stored.
pub fn stored(registry: &Registry, served: &Arc<Resource>) -> Arc<Resource> {
    if !convert::is_converted(served) {
        return served.clone();
    }
    let stored = registry.get(served.storage_group(), served.storage_version(), &served.plural);
    stored.unwrap_or(served).clone()
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
    if !convert::is_converted(served) {
        return Ok(bytes);
    }
    let mut object: Value = serde_json::from_slice(&bytes)?;
    convert::from_stored(served, &mut object);
    Ok(entry::splice(&entry::encode(&object), revision))
}
