//! Kinds that CustomResourceDefinitions make: rows of the same table, whose schema is known at run time only.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::types::Definition;

/// What a CustomResourceDefinition says of one version of its kind.
#[derive(Debug)]
pub struct Custom {
    definition: Arc<Definition>,
}

impl Custom {
    /// A kind whose objects look like this.
    pub fn new(definition: Arc<Definition>) -> Self {
        Self { definition }
    }

    /// How objects merge: what patches and server-side apply go by.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The values by which field selectors find an object, beyond its name and namespace.
    pub fn fields(&self, _object: &Value) -> Vec<(Cow<'static, str>, String)> {
        Vec::new()
    }
}
