//! What clients learn of the kinds that are computed: `kubectl explain` has its words from here.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use xebec_schema::openapi;

use super::{ComputedApi, ComputedKind};

/// The OpenAPI 3 document of a version.
pub(crate) fn document(api: &dyn ComputedApi) -> Value {
    let (mut rows, mut schemas) = (Vec::new(), Map::new());
    for kind in api.kinds() {
        let mut row = kind.row(api.group(), api.version());
        let name = name(api, kind);
        row.verbs = kind.verbs().iter().map(|verb| (*verb).into()).collect();
        row.schema = name.clone().into();
        let mut schema = (kind.schema)();
        openapi::add_object_fields(&mut schema);
        schemas.insert(name, schema);
        rows.push(Arc::new(row));
    }
    openapi::v3_document_of(&rows, &schemas)
}

/// A definition's name: that of the group, the other way round, the version and the kind.
fn name(api: &dyn ComputedApi, kind: &ComputedKind) -> String {
    let group: Vec<&str> = api.group().rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), api.version(), kind.kind)
}

/// A text.
#[must_use]
pub fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// A whole number.
#[must_use]
pub fn integer(description: &str) -> Value {
    json!({"type": "integer", "format": "int64", "description": description})
}

/// True or false.
#[must_use]
pub fn boolean(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

/// An object with these fields.
#[must_use]
pub fn object(description: &str, properties: &Value) -> Value {
    json!({"type": "object", "description": description, "properties": properties})
}

/// A list of such.
#[must_use]
pub fn list(description: &str, items: &Value) -> Value {
    json!({"type": "array", "description": description, "items": items})
}
