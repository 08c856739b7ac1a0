//! From version to version.

use serde_json::Value;

use super::Custom;

/// How objects get from version to version (`spec.conversion`).
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only their `apiVersion` changes.
    None,
    /// A webhook is asked: `spec.conversion.webhook`.
    Webhook(Value),
}

impl Custom {
    /// `group/version` of this row.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// Whether an object is of this version.
    pub fn is_version_of(&self, object: &Value) -> bool {
        object["apiVersion"].as_str() == Some(&self.api_version)
    }

    /// Brings a stored object into this version by changing its `apiVersion`, and into the form of its schema. An object
    /// that only a webhook can convert stays what it is.
    pub fn adopt(&self, object: &mut Value) {
        if !self.is_version_of(object) {
            if self.conversion != Conversion::None {
                return;
            }
            if let Some(entries) = object.as_object_mut() {
                entries.insert("apiVersion".into(), self.api_version.as_str().into());
            }
        }
        self.restore(object);
    }
}
