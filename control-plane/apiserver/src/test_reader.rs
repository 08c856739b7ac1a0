//! A [`Reader`] over objects that a test puts in.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::json::text;
use crate::reader::{Entry, Reader};

type Objects = BTreeMap<(String, String), Arc<Entry>>;

/// Objects by (group, plural), then (namespace, name).
#[derive(Default)]
pub(crate) struct FakeReader(Mutex<BTreeMap<(String, String), (u64, Objects)>>);

impl FakeReader {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Puts `object` in; its uid is `<name>-uid` if it has none.
    pub(crate) fn put(&self, group: &str, plural: &str, mut object: Value) {
        let (namespace, name) =
            (text(&object, "/metadata/namespace").to_owned(), text(&object, "/metadata/name").to_owned());
        if text(&object, "/metadata/uid").is_empty() {
            object["metadata"]["uid"] = format!("{name}-uid").into();
        }
        let mut all = self.0.lock();
        let (generation, objects) = all.entry((group.into(), plural.into())).or_default();
        *generation += 1;
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let mut fields: Vec<(&'static str, Box<str>)> = Vec::new();
        if plural == "pods" {
            fields.push(("spec.nodeName", text(&object, "/spec/nodeName").into()));
        }
        if plural == "namespaces" {
            fields.push(("status.phase", text(&object, "/status/phase").into()));
        }
        let entry = Entry {
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
            uid: text(&object, "/metadata/uid").into(),
            revision: *generation,
            labels: labels.map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into())).collect(),
            fields: fields.into_iter().map(|(label, value)| (label.into(), value)).collect(),
            bytes: object.to_string().into(),
        };
        objects.insert((namespace, name), Arc::new(entry));
    }

    pub(crate) fn remove(&self, group: &str, plural: &str, namespace: &str, name: &str) {
        let mut all = self.0.lock();
        let (generation, objects) = all.entry((group.into(), plural.into())).or_default();
        *generation += 1;
        objects.remove(&(namespace.to_owned(), name.to_owned()));
    }
}

impl Reader for FakeReader {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let all = self.0.lock();
        all.get(&(group.to_owned(), plural.to_owned()))?.1.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Entry>> {
        let all = self.0.lock();
        let objects = all.get(&(group.to_owned(), plural.to_owned()));
        let entries = objects.into_iter().flat_map(|(_, objects)| objects.values());
        entries.filter(|e| namespace.is_empty() || *e.namespace == *namespace).cloned().collect()
    }

    fn generation(&self, group: &str, plural: &str) -> u64 {
        self.0.lock().get(&(group.to_owned(), plural.to_owned())).map_or(0, |(generation, _)| *generation)
    }
}
