//! Reading stored objects from within the API server: what authorizers and admission plugins see.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

/// A stored object as the watch cache holds it: bytes, and what selectors need.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `metadata.namespace`; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// The object's resource version.
    pub revision: u64,
    /// `metadata.labels`, sorted by key.
    pub labels: Arc<[(Box<str>, Box<str>)]>,
    /// Values of the kind's field-selector labels that are not empty, `metadata.name` and `metadata.namespace` excepted.
    pub fields: Arc<[(Cow<'static, str>, Box<str>)]>,
    /// The serialised object, `metadata.resourceVersion` included.
    pub bytes: Bytes,
}

impl Entry {
    /// The value of a field-selector label of the kind; empty if it has none of that name.
    pub fn field(&self, label: &str) -> &str {
        self.fields.iter().find(|(own, _)| own == label).map_or("", |(_, value)| value)
    }
}

/// Access to what is stored, from the watch cache: no I/O.
pub trait Reader: Send + Sync + 'static {
    /// The object, if it exists. `group` and `plural` name the resource (`""`, `"pods"`).
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Entry>>;

    /// All objects of a namespace (empty: of all namespaces), by key.
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Entry>>;

    /// A number that changes whenever an object of the resource does: what is derived from the resource's objects
    /// (RBAC's index) is kept for as long as it stays the same.
    fn generation(&self, group: &str, plural: &str) -> u64;
}
