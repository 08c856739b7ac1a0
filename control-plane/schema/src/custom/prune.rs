//! Fields that a schema does not have (apiextensions `pruning`, `objectmeta`), nulls that mean nothing
//! (`defaulting/prunenulls`), and defaults (`defaulting`).

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};
use crate::types::Definition;
use crate::walk;

/// Fields that every object has, whatever its schema.
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes the fields that the schema does not have; those that every object has stay if it is an object, the `root` of
/// its schema. Answers their paths, sorted, if `record` is set.
pub fn prune(schema: &Schema, root: bool, value: &mut Value, record: bool) -> Vec<String> {
    let mut pruner = Pruner { unknown: Vec::new(), path: String::new(), record };
    pruner.value(Some(schema), root, value);
    pruner.unknown.sort();
    pruner.unknown
}

struct Pruner {
    unknown: Vec<String>,
    path: String,
    record: bool,
}

impl Pruner {
    /// `root` is set for the object as a whole, which has metadata like an embedded one.
    fn value(&mut self, schema: Option<&Schema>, root: bool, value: &mut Value) {
        if let Some(schema) = schema.filter(|schema| schema.preserve_unknown) {
            self.skip(schema, root, value);
            return;
        }
        match value {
            Value::Object(entries) => {
                let embedded = root || schema.is_some_and(|s| s.embedded);
                entries.retain(|name, value| {
                    let meta = META_FIELDS.contains(&name.as_str());
                    if embedded && meta {
                        return true;
                    }
                    let property = schema.and_then(|s| s.properties.get(name));
                    let additional = schema.and_then(|s| s.additional_properties.as_ref());
                    match (property, additional) {
                        (Some(property), _) => self.within(name, |p| p.value(Some(property), false, value)),
                        (None, Some(Additional::Schema(s))) => self.within(name, |p| p.value(Some(s), false, value)),
                        (None, Some(Additional::Allowed(_))) => self.within(name, |p| p.value(None, false, value)),
                        (None, None) => {
                            self.found(name);
                            return false;
                        }
                    }
                    true
                });
            }
            Value::Array(items) => {
                let schema = schema.and_then(|s| s.items.as_deref());
                for (index, item) in items.iter_mut().enumerate() {
                    self.at(index, |p| p.value(schema, false, item));
                }
            }
            _ => {}
        }
    }

    /// Within an object that keeps its unknown fields, those of its known ones may not.
    fn skip(&mut self, schema: &Schema, root: bool, value: &mut Value) {
        match value {
            Value::Object(entries) => {
                for (name, value) in entries {
                    if (root || schema.embedded) && META_FIELDS.contains(&name.as_str()) {
                        continue;
                    }
                    match (schema.properties.get(name), &schema.additional_properties) {
                        (Some(property), _) => self.within(name, |p| p.value(Some(property), false, value)),
                        (None, Some(Additional::Schema(s))) => self.within(name, |p| p.value(Some(s), false, value)),
                        (None, Some(Additional::Allowed(_))) => self.within(name, |p| p.value(None, false, value)),
                        (None, None) => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &schema.items else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    self.at(index, |p| p.skip(schema, false, item));
                }
            }
            _ => {}
        }
    }

    fn within(&mut self, name: &str, f: impl FnOnce(&mut Self)) {
        let here = self.path.len();
        if self.record {
            if here > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
        }
        f(self);
        self.path.truncate(here);
    }

    fn at(&mut self, index: usize, f: impl FnOnce(&mut Self)) {
        let here = self.path.len();
        if self.record {
            self.path.push_str(&format!("[{index}]"));
        }
        f(self);
        self.path.truncate(here);
    }

    fn found(&mut self, name: &str) {
        if self.record {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.unknown.push(format!("{}{dot}{name}", self.path));
        }
    }
}

/// Removes nulls from fields that cannot be null and have no default.
pub fn prune_nulls(schema: Option<&Schema>, value: &mut Value) {
    match value {
        Value::Object(entries) => entries.retain(|name, value| {
            let schema = schema.and_then(|s| s.child(name));
            if value.is_null() && schema.is_some_and(|s| !s.nullable && s.default.is_none()) {
                return false;
            }
            prune_nulls(schema, value);
            true
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|s| s.items.as_deref());
            items.iter_mut().for_each(|item| prune_nulls(schema, item));
        }
        _ => {}
    }
}

/// Fills in what is absent, or null where null is no value.
pub fn default(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(entries) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if entries.get(name).is_none_or(|v| v.is_null() && !property.nullable) {
                    entries.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in entries {
                if let Some(child) = schema.child(name) {
                    if !schema.properties.contains_key(name) {
                        replace_null(child, value);
                    }
                    self::default(child, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for item in items {
                replace_null(schema, item);
                self::default(schema, item);
            }
        }
        _ => {}
    }
}

fn replace_null(schema: &Schema, value: &mut Value) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
}

/// What is wrong with embedded objects' `apiVersion`, `kind` and `metadata`.
#[derive(Clone, Debug, PartialEq)]
pub struct Malformed {
    /// Where.
    pub path: String,
    /// The value.
    pub value: Value,
    /// What is wrong with it.
    pub why: String,
}

/// Brings the metadata of embedded objects (and, if `root` is set, of the object itself) into its form: fields that
/// `ObjectMeta` does not have are gone, and their paths are added to `unknown`. With `lenient`, fields that cannot be read are dropped.
///
/// # Errors
/// The first that cannot be read.
pub fn coerce(
    schema: &Schema,
    metadata: &Definition,
    root: bool,
    lenient: bool,
    object: &mut Value,
    unknown: &mut Vec<String>,
) -> Result<(), Malformed> {
    Coercer { metadata, lenient, unknown }.value(schema, root, "", object)
}

struct Coercer<'a> {
    metadata: &'a Definition,
    lenient: bool,
    unknown: &'a mut Vec<String>,
}

impl Coercer<'_> {
    fn value(&mut self, schema: &Schema, root: bool, path: &str, value: &mut Value) -> Result<(), Malformed> {
        match value {
            Value::Object(entries) => {
                if root || schema.embedded {
                    self.type_meta(path, entries)?;
                    self.object_meta(path, entries)?;
                }
                for (name, value) in entries {
                    if let Some(property) = schema.properties.get(name) {
                        self.value(property, false, &join(path, name), value)?;
                    } else if let Some(Additional::Schema(s)) = &schema.additional_properties {
                        self.value(s, false, &format!("{path}[{name}]"), value)?;
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &schema.items else { return Ok(()) };
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(schema, false, &format!("{path}[{index}]"), item)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn type_meta(&self, path: &str, entries: &mut Map<String, Value>) -> Result<(), Malformed> {
        for name in ["apiVersion", "kind"] {
            let Some(value) = entries.get(name).filter(|value| !value.is_string()) else { continue };
            if !self.lenient {
                return Err(Malformed { path: join(path, name), value: value.clone(), why: "must be a string".into() });
            }
            entries.remove(name);
        }
        Ok(())
    }

    fn object_meta(&mut self, path: &str, entries: &mut Map<String, Value>) -> Result<(), Malformed> {
        let Some(meta) = entries.get_mut("metadata") else { return Ok(()) };
        if let Err(why) = walk::check(self.metadata, meta) {
            if !self.lenient {
                return Err(Malformed { path: join(path, "metadata"), value: meta.clone(), why });
            }
            drop_malformed(self.metadata, meta);
        }
        let place = join(path, "metadata");
        self.unknown.extend(walk::unknown(self.metadata, meta).into_iter().filter_map(|text| {
            let field = text.strip_prefix("unknown field \"")?.strip_suffix('"')?.to_owned();
            Some(format!("{place}.{field}"))
        }));
        walk::prune_as(self.metadata, meta);
        Ok(())
    }
}

/// Drops each field that cannot be read.
fn drop_malformed(definition: &Definition, meta: &mut Value) {
    let Value::Object(entries) = meta else {
        *meta = Value::Object(Map::new());
        return;
    };
    entries.retain(|name, value| {
        let alone: Map<String, Value> = [(name.clone(), value.clone())].into_iter().collect();
        walk::check(definition, &Value::Object(alone)).is_ok()
    });
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
