//! Which objects of a collection a request is for.

use xebec_schema::selector::{FieldSelector, LabelSelector};
use xebec_schema::status::Status;

use crate::chain::Call;
use crate::reader::Entry;

/// Namespace, label selector and field selector.
#[derive(Clone, Debug)]
pub struct Filter {
    /// What the keys begin with: `namespace/`, or nothing.
    pub prefix: String,
    namespace: String,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

impl Filter {
    /// Reads the path and the query.
    ///
    /// # Errors
    ///
    /// 400 for a selector that is malformed, or names a field that the kind does not select by.
    pub fn of(call: &Call) -> Result<Self, Status> {
        let namespace = call.namespace().to_owned();
        let labels = match call.query.get("labelSelector") {
            "" => None,
            text => Some(LabelSelector::parse(text).map_err(Status::bad_request)?),
        };
        let fields = match call.query.get("fieldSelector") {
            "" => None,
            text => Some(FieldSelector::parse(text).map_err(Status::bad_request)?.translated(&call.resource)),
        };
        if let Some(fields) = &fields {
            fields.check(&call.stored).map_err(Status::bad_request)?;
        }
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        Ok(Self { prefix, namespace, labels, fields })
    }

    /// Whether something is selected by its contents.
    pub fn selects(&self) -> bool {
        self.labels.is_some() || self.fields.is_some()
    }

    /// Whether an object is one of those.
    pub fn matches(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || *self.namespace == *entry.namespace)
            && self.labels.as_ref().is_none_or(|labels| labels.matches(&*entry.labels))
            && self.fields.as_ref().is_none_or(|fields| fields.matches(|key| field(entry, key)))
    }
}

fn field<'a>(entry: &'a Entry, key: &str) -> Option<&'a str> {
    match key {
        "metadata.name" => Some(&entry.name),
        "metadata.namespace" => Some(&entry.namespace),
        _ => Some(entry.field(key)),
    }
}
