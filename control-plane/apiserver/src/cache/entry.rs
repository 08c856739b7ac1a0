//! From stored bytes to what is served: one copy of the object, with its revision spliced in, and the few fields that
//! selectors need.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use xebec_schema::resource::Resource;

use crate::reader::Entry;

/// How every stored object begins.
const HEAD: &[u8] = b"{\"metadata\":{";
/// What is spliced in right after [`HEAD`], before the number.
const VERSION: &[u8] = b"\"resourceVersion\":\"";

/// What selectors and lookups need of an object.
#[derive(Clone, Debug)]
pub struct Header {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    labels: Arc<[(Box<str>, Box<str>)]>,
    fields: Arc<[(Cow<'static, str>, Box<str>)]>,
}

impl Header {
    /// Reads the header of an object of the stored version.
    pub fn of(resource: &Resource, object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |key: &str| Arc::from(metadata[key].as_str().unwrap_or_default());
        let mut labels: Vec<(Box<str>, Box<str>)> = metadata["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into()))
            .collect();
        labels.sort();
        // Many are empty, and as many as there are pods: what is not there reads as empty.
        let fields = resource.fields(object).into_iter().filter(|(_, v)| !v.is_empty());
        let fields = fields.map(|(k, v)| (k, v.into_boxed_str())).collect();
        Self { namespace: text("namespace"), name: text("name"), uid: text("uid"), labels: labels.into(), fields }
    }

    /// The entry of the object at a revision. `stored` is its stored form.
    pub fn entry(self, stored: &[u8], revision: u64) -> Entry {
        Entry {
            namespace: self.namespace,
            name: self.name,
            uid: self.uid,
            revision,
            labels: self.labels,
            fields: self.fields,
            bytes: splice(stored, revision),
        }
    }
}

/// The entry for stored bytes.
///
/// # Errors
///
/// The bytes are no object in the stored form: the store holds something that this server did not write.
pub fn read(resource: &Resource, stored: &[u8], revision: u64) -> Result<Entry, serde_json::Error> {
    let mut object: Value = serde_json::from_slice(stored)?;
    let Some(custom) = &resource.custom else { return Ok(Header::of(resource, &object).entry(stored, revision)) };
    // It was stored by an earlier schema, perhaps in another version.
    let was = object.clone();
    custom.adopt(&mut object);
    let header = Header::of(resource, &object);
    Ok(if object == was { header.entry(stored, revision) } else { header.entry(&encode(&object), revision) })
}

/// The stored form of an object: metadata first, no resource version.
pub fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"metadata\":{");
    let metadata = object["metadata"].as_object().into_iter().flatten();
    for (index, (key, value)) in metadata.filter(|(key, _)| *key != "resourceVersion").enumerate() {
        put_field(&mut out, index > 0, key, value);
    }
    out.push(b'}');
    for (key, value) in object.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata") {
        put_field(&mut out, true, key, value);
    }
    out.push(b'}');
    out.into()
}

fn put_field(out: &mut Vec<u8>, comma: bool, key: &str, value: &Value) {
    if comma {
        out.push(b',');
    }
    // Writing into memory has no way to fail: keys are strings.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(out, value);
}

/// The served form: the stored bytes with the resource version put in.
pub fn splice(stored: &[u8], revision: u64) -> Bytes {
    let Some(rest) = stored.strip_prefix(HEAD) else { return Bytes::copy_from_slice(stored) };
    let mut out = BytesMut::with_capacity(stored.len() + VERSION.len() + 22);
    put_head(&mut out, revision, rest.first() == Some(&b'}'));
    out.extend_from_slice(rest);
    out.freeze()
}

/// The served form with another resource version: a deleted object carries the revision of its deletion.
pub fn resplice(served: &[u8], revision: u64) -> Bytes {
    let after = served.strip_prefix(HEAD).and_then(|rest| rest.strip_prefix(VERSION)).and_then(|rest| {
        let end = rest.iter().position(|b| *b == b'"')?;
        Some(&rest[end + 1..])
    });
    let Some(rest) = after else { return Bytes::copy_from_slice(served) };
    let mut out = BytesMut::with_capacity(served.len() + 20);
    put_head(&mut out, revision, true);
    out.extend_from_slice(rest);
    out.freeze()
}

fn put_head(out: &mut BytesMut, revision: u64, last: bool) {
    out.extend_from_slice(HEAD);
    out.extend_from_slice(VERSION);
    out.extend_from_slice(revision.to_string().as_bytes());
    out.extend_from_slice(if last { b"\"" } else { b"\"," });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stored_object_comes_back_with_its_version() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "\"\n"},
            "metadata": {"name": "x", "resourceVersion": "7"}});
        let stored = encode(&object);
        assert!(stored.starts_with(HEAD));
        assert!(!stored.windows(15).any(|w| w == b"resourceVersion"));
        let back: Value = serde_json::from_slice(&splice(&stored, 12)).unwrap();
        assert_eq!(back["metadata"]["resourceVersion"], "12");
        assert_eq!(back["data"], object["data"]);
        let again: Value = serde_json::from_slice(&resplice(&splice(&stored, 12), 1300)).unwrap();
        assert_eq!(again["metadata"], json!({"name": "x", "resourceVersion": "1300"}));
    }

    #[test]
    fn empty_metadata_stays_json() {
        let stored = encode(&json!({"metadata": {}}));
        let back: Value = serde_json::from_slice(&splice(&stored, 1)).unwrap();
        assert_eq!(back, json!({"metadata": {"resourceVersion": "1"}}));
    }
}
