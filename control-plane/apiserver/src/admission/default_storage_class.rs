//! `DefaultStorageClass`: a claim that names no class gets the default one.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::status::Status;

use super::support::{is, newest};
use super::{Operation, Plugin, Review};
use crate::json::{decode, entry, text};
use crate::reader::Reader;

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const DEFAULT_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// The field's former name.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The plugin.
pub struct DefaultStorageClass {
    reader: Arc<dyn Reader>,
}

impl DefaultStorageClass {
    /// Classes are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    /// The default class: the newest, if there are several; of those made in the same second, the first by name.
    fn default_class(&self) -> Option<String> {
        let marked = |class: &Value| {
            [DEFAULT, DEFAULT_BETA].iter().any(|key| entry(class, "/metadata/annotations", key) == Some("true"))
        };
        let classes = self.reader.list("storage.k8s.io", "storageclasses", "");
        let defaults = classes.iter().map(|entry| decode(&entry.bytes)).filter(marked);
        newest(defaults).map(|class| text(&class, "/metadata/name").to_owned())
    }
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Create || !is(review, "", "persistentvolumeclaims") {
            return Ok(());
        }
        let Some(claim) = &mut review.object else { return Ok(()) };
        let said = claim.pointer("/spec/storageClassName").is_some_and(|c| !c.is_null())
            || entry(claim, "/metadata/annotations", CLASS_ANNOTATION).is_some();
        if said {
            return Ok(());
        }
        if let (Some(class), Some(spec)) = (self.default_class(), claim.get_mut("spec").and_then(Value::as_object_mut))
        {
            spec.insert("storageClassName".into(), class.into());
        }
        Ok(())
    }
}
