//! The cases of structured-merge-diff's suite, in our words: what two or three managers do to an object, and what each
//! owns then.

mod fields;
mod laws;
mod manager;
mod ownership;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::managed::{ManagerId, Managers, Owned};
use super::set::{Set, shown};
use super::typed::Type;
use super::updater::{Converter, Error, Filter, Typed, Updater};
use crate::types::{Default, Definition, Field, List, Node, Patch, Scalar, Shape};

/// A struct from a sketch: `{"name": "string", "ports": ["port,protocol=TCP", {...}], "labels": {"*": "string"}}`.
///
/// A list is `[how, item]`, where how is `atomic`, `set`, or the keys (with their defaults); a map has the only key
/// `*`, or `*!` if it is atomic; a struct with `!` is atomic, one with `...` keeps fields that it does not declare.
pub(super) fn definition(sketch: &Value) -> Definition {
    let flag = |name: &str| sketch.get(name).is_some();
    let mut fields: Vec<Field> = Vec::new();
    for (name, sketch) in sketch.as_object().unwrap().iter().filter(|(name, _)| !matches!(name.as_str(), "!" | "...")) {
        let (name, default) = name.split_once('=').map_or((name.as_str(), None), |(name, value)| (name, Some(value)));
        let value = default.map(|value| serde_json::from_str(value).unwrap_or_else(|_| value.into()));
        let default = value.map(|value| Box::new(Default { value, zero_is_absent: false }));
        fields.push(Field {
            name: Cow::Owned(name.to_owned()),
            required: false,
            node: node(sketch),
            go_type: None,
            default,
        });
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Definition { name: Cow::Borrowed(""), fields, atomic: flag("!"), preserve_unknown: flag("...") }
}

fn node(sketch: &Value) -> Node {
    let plain = |shape| Node { shape, list: List::Atomic, atomic_map: false, patch: Patch::default() };
    match sketch {
        Value::String(scalar) => plain(Shape::Scalar(match scalar.as_str() {
            "string" => Scalar::String,
            "numeric" => Scalar::Int64,
            "boolean" => Scalar::Bool,
            "untyped" => Scalar::IntOrString,
            "deduced" => Scalar::Any,
            other => panic!("no scalar {other}"),
        })),
        Value::Array(parts) => {
            let list = match parts[0].as_str().unwrap() {
                "atomic" => List::Atomic,
                "set" => List::Set,
                keys => List::Map(keys.split(',').map(|key| Cow::Owned(key.to_owned())).collect()),
            };
            Node { list, ..plain(Shape::List(Box::new(node(&parts[1])))) }
        }
        map if map.get("*").is_some() => plain(Shape::Map(Box::new(node(&map["*"])))),
        map if map.get("*!").is_some() => Node { atomic_map: true, ..plain(Shape::Map(Box::new(node(&map["*!"])))) },
        sketch => plain(Shape::Object(Arc::new(definition(sketch)))),
    }
}

/// Versions of a kind; an object is the same in all of them but for the names of fields that end in `_VERSION`.
pub(super) struct Versions(BTreeMap<String, Definition>);

impl Converter for Versions {
    fn type_of(&self, version: &str) -> Option<Type<'_>> {
        self.0.get(version).map(Type::Struct)
    }

    fn convert(&self, object: &Value, version: &str) -> Result<Value, String> {
        Ok(renamed(object, version))
    }
}

fn renamed(value: &Value, version: &str) -> Value {
    match value {
        Value::Object(entries) => {
            let name = |key: &String| match key.rsplit_once("_v") {
                Some((name, old)) if old.parse::<u32>().is_ok() => format!("{name}_{version}"),
                _ => key.clone(),
            };
            entries.iter().map(|(key, value)| (name(key), renamed(value, version))).collect()
        }
        Value::Array(items) => items.iter().map(|item| renamed(item, version)).collect(),
        other => other.clone(),
    }
}

/// An object, and who owns what of it.
pub(super) struct State {
    pub versions: Versions,
    /// In the version of the last write.
    pub live: Value,
    pub version: String,
    pub managers: Managers,
}

impl State {
    pub fn new(sketches: &[(&str, Value)]) -> Self {
        let versions = sketches.iter().map(|(version, sketch)| ((*version).to_owned(), definition(sketch))).collect();
        let version = sketches[0].0.to_owned();
        Self { versions: Versions(versions), live: json!({}), version, managers: Managers::new() }
    }

    /// One whose versions are all alike.
    pub fn of(sketch: &Value) -> Self {
        Self::new(&["v1", "v2", "v3"].map(|version| (version, sketch.clone())))
    }

    fn id(manager: &str) -> ManagerId {
        ManagerId { manager: manager.to_owned(), ..ManagerId::default() }
    }

    fn typed<'a>(&'a self, value: &'a Value, version: &'a str) -> Typed<'a> {
        Typed { value: Cow::Borrowed(value), version, ty: self.versions.type_of(version).unwrap() }
    }

    pub fn update(&mut self, manager: &str, version: &str, object: Value) {
        let live = renamed(&self.live, version);
        let updater = Updater { converter: &self.versions, filter: &Filter::None };
        let (old, new) = (self.typed(&live, version), self.typed(&object, version));
        self.managers = updater.update(&old, &new, self.managers.clone(), &Self::id(manager)).unwrap();
        self.live = object;
        self.version = version.to_owned();
    }

    pub fn try_apply(&mut self, manager: &str, version: &str, object: &Value, force: bool) -> Result<(), Error> {
        let live = renamed(&self.live, version);
        let updater = Updater { converter: &self.versions, filter: &Filter::None };
        let (old, new) = (self.typed(&live, version), self.typed(object, version));
        let (changed, managers) = updater.apply(&old, &new, self.managers.clone(), &Self::id(manager), force)?;
        self.managers = managers;
        self.live = changed.unwrap_or(live);
        self.version = version.to_owned();
        Ok(())
    }

    #[track_caller]
    pub fn apply(&mut self, manager: &str, version: &str, object: Value) {
        self.try_apply(manager, version, &object, false).unwrap();
    }

    /// The fields that an apply is refused for, as `manager: path`.
    #[track_caller]
    pub fn conflicts(&mut self, manager: &str, version: &str, object: Value) -> Vec<String> {
        match self.try_apply(manager, version, &object, false) {
            Err(Error::Conflicts(conflicts)) => {
                conflicts.iter().map(|c| format!("{}: {}", c.manager.manager, shown(&c.path))).collect()
            }
            other => panic!("no conflicts: {other:?}"),
        }
    }

    /// What a manager owns, as paths.
    pub fn owned(&self, manager: &str) -> Vec<String> {
        let mut paths = Vec::new();
        if let Some(Owned { set, .. }) = self.managers.get(&Self::id(manager)) {
            set.each(&mut |path| paths.push(shown(path)));
        }
        paths.sort();
        paths
    }

    /// The object, in a version.
    pub fn object(&self, version: &str) -> Value {
        renamed(&self.live, version)
    }
}

/// The set of a `FieldsV1`.
pub(super) fn set(fields: Value) -> Set {
    Set::from_fields(&fields).unwrap()
}
