//! Kinds that CustomResourceDefinitions make: rows of the same table, whose schema is known at run time only.
//!
//! - `schema` reads an `openAPIV3Schema`; `prune`, `validate`, `list_type`, `embedded` and `rules` are its visitors;
//! - `merge` makes of it what patches and server-side apply go by, [`publish`] what OpenAPI documents say;
//! - `rows` makes rows of a CustomResourceDefinition, [`conditions`] its status.
//!
//! Objects are decoded, filled in and checked in the version that a request is in; they are stored in the storage
//! version.

mod columns;
pub mod conditions;
mod convert;
mod embedded;
pub mod format;
pub mod json_path;
mod list_type;
mod merge;
pub mod prune;
pub mod publish;
mod rows;
mod rules;
mod scale;
pub mod schema;
mod validate;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::field::{Error, ErrorKind, ErrorList, Path};
use crate::resource::Resource;
use crate::types::{self, Definition};
use crate::walk;

pub use convert::Conversion;
pub use rows::{Rows, rows};
use rules::Rules;
pub(crate) use rules::check as check_rules;
pub use scale::Scale;
pub(crate) use schema::compile as compile_pattern;

pub(crate) use columns::{Column, name_definition};

use json_path::JsonPath;
use prune::Malformed;
use schema::Schema;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What a CustomResourceDefinition says of one version of its kind.
#[derive(Debug)]
pub struct Custom {
    api_version: String,
    kind: String,
    definition: Definition,
    /// `None` if nothing is known of the objects.
    schema: Option<Schema>,
    /// Rules in CEL; `None` if there are none.
    rules: Option<Rules>,
    /// The schema as it was written.
    published: Value,
    /// Nothing is pruned (`spec.preserveUnknownFields`, which only very old definitions have).
    preserve_unknown: bool,
    columns: Vec<Column>,
    /// Of all versions, so that each selects by what it declares, whichever version is stored.
    selectable: Vec<(String, JsonPath)>,
    /// Those of this version.
    labels: Vec<String>,
    has_status: bool,
    scale: Option<Scale>,
    conversion: Conversion,
    /// The row of the version that is stored; `None` if that is this one.
    stored: Option<Arc<Resource>>,
    /// The CustomResourceDefinition is being deleted.
    terminating: bool,
    /// Said to everybody who uses this version.
    deprecation: Option<String>,
}

impl Custom {
    /// How objects merge: what patches and server-side apply go by.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The schema, if there is one.
    pub fn schema(&self) -> Option<&Schema> {
        self.schema.as_ref()
    }

    /// The scale subresource, if there is one.
    pub fn scale(&self) -> Option<&Scale> {
        self.scale.as_ref()
    }

    /// Whether there is a status subresource.
    pub fn has_status(&self) -> bool {
        self.has_status
    }

    /// Whether the CustomResourceDefinition is being deleted: nothing is created any more.
    pub fn is_terminating(&self) -> bool {
        self.terminating
    }

    /// What everybody is told who uses this version.
    pub fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    /// The row of the version that is stored, if it is another than this one.
    pub fn stored(&self) -> Option<&Arc<Resource>> {
        self.stored.as_ref()
    }

    /// How objects get from version to version.
    pub fn conversion(&self) -> &Conversion {
        &self.conversion
    }

    /// The printer columns, the name's excepted.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The values by which field selectors find an object, beyond its name and namespace.
    pub fn fields(&self, object: &Value) -> Vec<(Cow<'static, str>, String)> {
        let value = |path: &JsonPath| match path.find(object).as_slice() {
            [Value::String(text)] => text.clone(),
            [] | [Value::Null] => String::new(),
            [other, ..] => other.to_string(),
        };
        self.selectable.iter().map(|(label, path)| (Cow::Owned(label.clone()), value(path))).collect()
    }

    /// The labels of this version's selectable fields.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Whether it can be decoded, as upstream's decoder says it: metadata and embedded objects have their types.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn check(&self, object: &Value) -> Result<(), String> {
        let mut copy = object.clone();
        self.coerce(&mut copy).map(|_| ())
    }

    /// Removes what the schema does not have, brings metadata into its form. Answers the paths of the unknown fields.
    ///
    /// # Errors
    /// Metadata that cannot be read.
    pub fn coerce(&self, object: &mut Value) -> Result<Vec<String>, String> {
        let metadata = object_meta();
        let mut unknown = Vec::new();
        if let Some(meta) = object.get_mut("metadata") {
            walk::check(metadata, meta)?;
            let strip = |text: String| Some(text.strip_prefix("unknown field \"")?.strip_suffix('"')?.to_owned());
            let names = walk::unknown(metadata, meta).into_iter().filter_map(strip);
            unknown.extend(names.map(|name| format!("metadata.{name}")));
            walk::prune_as(metadata, meta);
        }
        let open = Schema::default();
        let schema = self.schema.as_ref().unwrap_or(&open);
        if !self.preserve_unknown {
            unknown.extend(prune::prune(schema, true, object, true));
            prune::prune_nulls(self.schema.as_ref(), object);
        }
        prune::coerce(schema, metadata, false, false, object, &mut unknown).map_err(|m| malformed(m).to_string())?;
        Ok(unknown)
    }

    /// Fills in defaults.
    pub fn default(&self, object: &mut Value) {
        if let Some(schema) = &self.schema {
            prune::default(schema, object);
        }
    }

    /// Brings an object that was stored some time ago into the form that the schema gives it today: nothing of it is
    /// refused. It has to be of this version.
    pub fn restore(&self, object: &mut Value) {
        let metadata = object_meta();
        let open = Schema::default();
        let schema = self.schema.as_ref().unwrap_or(&open);
        if !self.preserve_unknown {
            prune::prune(schema, true, object, false);
            prune::prune_nulls(self.schema.as_ref(), object);
        }
        // With leniency, there are no errors.
        let _ = prune::coerce(schema, metadata, false, true, object, &mut Vec::new());
        self.default(object);
    }

    /// Everything that is wrong with a new object, metadata excepted.
    pub fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = self.type_meta(object);
        if !errors.is_empty() {
            return errors;
        }
        let root = Path::default();
        if let Some(schema) = &self.schema {
            errors.extend(validate::validate(schema, object, None, &root));
        }
        if let Some(scale) = &self.scale {
            errors.extend(scale.validate_spec(object));
            errors.extend(scale.validate_status(object));
        }
        if let Some(schema) = &self.schema {
            errors.extend(embedded::validate(schema, false, object, &root));
            errors.extend(list_type::validate(schema, object, &root));
        }
        self.check_rules(&mut errors, object, None);
        errors
    }

    /// `(new, old)`: everything that is wrong with an update, metadata excepted.
    pub fn validate_update(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.type_meta(object);
        if !errors.is_empty() {
            return errors;
        }
        let root = Path::default();
        if let Some(schema) = &self.schema {
            errors.extend(validate::validate(schema, object, Some(old), &root));
        }
        if let Some(scale) = &self.scale {
            errors.extend(scale.validate_spec(object));
            errors.extend(scale.validate_status(object));
        }
        if let Some(schema) = &self.schema {
            errors.extend(embedded::validate(schema, false, object, &root));
            errors.extend(self.new_duplicates(schema, object, old));
        }
        self.check_rules(&mut errors, object, Some(old));
        errors
    }

    /// `(new, old)`: everything that is wrong with an update of the status.
    pub fn validate_status(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.type_meta(object);
        if !errors.is_empty() {
            return errors;
        }
        let schema = self.schema.as_ref().and_then(|schema| schema.properties.get("status"));
        if let (Some(schema), Some(status)) = (schema, object.get("status")) {
            errors.extend(validate::validate(schema, status, old.get("status"), &Path::new("status")));
        }
        if let Some(scale) = &self.scale {
            errors.extend(scale.validate_status(object));
        }
        if let Some(schema) = &self.schema {
            errors.extend(self.new_duplicates(schema, object, old));
        }
        self.check_rules(&mut errors, object, Some(old));
        errors
    }

    /// Rules are checked on objects that are sound otherwise.
    fn check_rules(&self, errors: &mut ErrorList, object: &Value, old: Option<&Value>) {
        let Some(rules) = &self.rules else { return };
        if blocks_rules(errors) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors \
                       to complete validation";
            errors.push(Error::invalid(Path::default(), Value::Null, why));
        } else {
            errors.extend(rules.validate(object, old, true, &Path::default()));
        }
    }

    /// Repeated list items, unless there were some before.
    fn new_duplicates(&self, schema: &Schema, object: &Value, old: &Value) -> ErrorList {
        let root = Path::default();
        let errors = list_type::validate(schema, object, &root);
        if errors.is_empty() || list_type::validate(schema, old, &root).is_empty() { errors } else { ErrorList::new() }
    }

    fn type_meta(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (name, wanted) in [("kind", &self.kind), ("apiVersion", &self.api_version)] {
            let said = object[name].as_str().unwrap_or_default();
            if said != wanted {
                errors.push(Error::invalid(Path::new(name), said, format!("must be {wanted}")));
            }
        }
        errors
    }
}

/// The rules that a default violates, as a new value and as an old one.
pub(crate) fn violations(schema: &Value, value: &Value, path: &Path) -> ErrorList {
    let Some(rules) = Rules::read(schema, false) else { return ErrorList::new() };
    let errors = rules.validate(value, Some(value), false, path);
    if errors.is_empty() { rules.validate(value, None, false, path) } else { errors }
}

/// Everything that is wrong with a default. If it has to be `pruned`, the schema knows all its fields.
pub(crate) fn validate_default(schema: &Schema, value: &Value, path: &Path, pruned: bool) -> ErrorList {
    if pruned {
        let mut copy = value.clone();
        if !prune::prune(schema, schema.embedded, &mut copy, true).is_empty() {
            return vec![Error::invalid(path.clone(), value.clone(), "must not have unknown fields")];
        }
    }
    let mut copy = value.clone();
    if let Err(what) = prune::coerce(schema, object_meta(), false, false, &mut copy, &mut Vec::new()) {
        return vec![Error::invalid(path.child(&what.path), what.value, what.why)];
    }
    let errors = embedded::validate(schema, false, value, path);
    if !errors.is_empty() {
        return errors;
    }
    validate::validate(schema, value, None, path)
}

/// Whether what is wrong keeps rules from being checked (apiextensions `hasBlockingErr`).
pub fn blocks_rules(errors: &[Error]) -> bool {
    errors.iter().any(|error| {
        matches!(
            error.kind,
            ErrorKind::NotSupported
                | ErrorKind::Required
                | ErrorKind::TooLong
                | ErrorKind::TooMany
                | ErrorKind::TypeInvalid
        )
    })
}

fn malformed(what: Malformed) -> Error {
    Error::invalid(Path::new(what.path), what.value, what.why)
}

fn object_meta() -> &'static Definition {
    static NONE: Definition =
        Definition { name: Cow::Borrowed(""), fields: Vec::new(), atomic: false, preserve_unknown: true };
    types::definition(OBJECT_META).unwrap_or(&NONE)
}
