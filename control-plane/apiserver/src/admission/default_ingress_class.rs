//! `DefaultIngressClass`: an ingress that names no class gets the default one.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::status::Status;

use super::support::{is, newest};
use super::{Operation, Plugin, Review};
use crate::json::{decode, entry, text};
use crate::reader::Reader;

/// The plugin.
pub struct DefaultIngressClass {
    reader: Arc<dyn Reader>,
}

impl DefaultIngressClass {
    /// Classes are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn default_class(&self) -> Option<String> {
        let key = "ingressclass.kubernetes.io/is-default-class";
        let classes = self.reader.list("networking.k8s.io", "ingressclasses", "");
        let defaults = classes.iter().map(|entry| decode(&entry.bytes));
        newest(defaults.filter(|class| entry(class, "/metadata/annotations", key) == Some("true")))
            .map(|class| text(&class, "/metadata/name").to_owned())
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Create || !is(review, "networking.k8s.io", "ingresses") {
            return Ok(());
        }
        let Some(ingress) = &mut review.object else { return Ok(()) };
        let said = ingress.pointer("/spec/ingressClassName").is_some_and(|class| !class.is_null())
            || entry(ingress, "/metadata/annotations", "kubernetes.io/ingress.class").is_some();
        if said {
            return Ok(());
        }
        let spec = ingress.get_mut("spec").and_then(Value::as_object_mut);
        if let (Some(class), Some(spec)) = (self.default_class(), spec) {
            spec.insert("ingressClassName".into(), class.into());
        }
        Ok(())
    }
}
