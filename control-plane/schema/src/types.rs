//! What the built-in kinds look like: their definitions, their fields, and what merging needs to know of them.
//!
//! The facts are `data/types.txt`, which `xtask facts` makes from upstream's OpenAPI definitions, and
//! `data/defaults.txt`; a test compares them with `k8s-openapi`. Nothing is parsed before it is asked for, so a start
//! costs an index of the names (measured: 0.2 ms) and memory goes to the kinds in use only. Descriptions are not here:
//! [`crate::openapi`] takes them from `k8s-openapi` on demand.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

const TYPES: &str = include_str!("../data/types.txt");
const DEFAULTS: &str = include_str!("../data/defaults.txt");
const GO_TYPES: &str = include_str!("../data/go-types.txt");

/// A struct: `io.k8s.api.core.v1.Container`.
#[derive(Debug)]
pub struct Definition {
    /// The full name; empty for an object without one.
    pub name: Cow<'static, str>,
    /// Its fields, sorted by name.
    pub fields: Vec<Field>,
    /// Whether server-side apply replaces a value of it as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Whether fields that are not in `fields` are kept.
    pub preserve_unknown: bool,
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: Cow<'static, str>,
    /// Whether it has to be there, as the published schema says (decoding does not insist).
    pub required: bool,
    /// What it holds.
    pub node: Node,
    /// How Go calls its type, where that is not what the node says: `v1.PullPolicy`, a named string.
    pub go_type: Option<&'static str>,
    /// What an absent one is set to.
    pub default: Option<Box<Default>>,
}

/// A default of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Default {
    /// The value.
    pub value: Value,
    /// Whether the zero value (`""`, `0`) counts as absent: so in Go, where the field is not a pointer.
    pub zero_is_absent: bool,
}

/// What a value is, and how it merges.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub shape: Shape,
    /// How a list merges in server-side apply (`x-kubernetes-list-type`).
    pub list: List,
    /// Whether server-side apply replaces a map as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic_map: bool,
    /// How a strategic merge patch treats it.
    pub patch: Patch,
}

/// The JSON form of a value.
#[derive(Debug)]
pub enum Shape {
    /// A single value.
    Scalar(Scalar),
    /// A struct of the built-in definitions.
    Reference(Reference),
    /// A struct without a definition of its own.
    Object(Arc<Definition>),
    /// A list.
    List(Box<Node>),
    /// A map from strings.
    Map(Box<Node>),
}

/// A single value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    String,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// A floating-point number.
    Double,
    /// `true` or `false`.
    Bool,
    /// Bytes, in base64.
    Bytes,
    /// RFC 3339, to the second.
    Time,
    /// RFC 3339, to the microsecond.
    MicroTime,
    /// A quantity: a string or a number.
    Quantity,
    /// A string or an integer of 32 bits.
    IntOrString,
    /// An object the schema says nothing about.
    Raw,
    /// Any JSON value.
    Any,
}

/// How a list merges in server-side apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// As a whole; also what a list without a declared type does.
    #[default]
    Atomic,
    /// As a set of scalars.
    Set,
    /// By the values of these keys.
    Map(Box<[Cow<'static, str>]>),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Lists merge instead of being replaced (`merge`).
    pub merge: bool,
    /// The patch may say which keys survive (`retainKeys`).
    pub retain_keys: bool,
    /// The map is replaced instead of being merged (`replace`).
    pub replace: bool,
    /// Which key identifies an item of a merged list of structs.
    pub merge_key: Option<Cow<'static, str>>,
}

/// A struct of the built-in definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference(u16);

impl Reference {
    /// The struct.
    pub fn definition(self) -> &'static Definition {
        let entry = &entries()[usize::from(self.0)];
        entry.parsed.get_or_init(|| Box::new(entry.parse()))
    }
}

impl Definition {
    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// How Go calls the type, without its package: `Container`.
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

impl Node {
    fn new(shape: Shape) -> Self {
        Self { shape, list: List::Atomic, atomic_map: false, patch: Patch::default() }
    }

    /// The struct that this node is.
    pub fn definition(&self) -> Option<&Definition> {
        match &self.shape {
            Shape::Reference(reference) => Some(reference.definition()),
            Shape::Object(definition) => Some(definition),
            _ => None,
        }
    }

    /// How Go calls the type: `int32`, `[]v1.Container`, `map[string]string`.
    pub fn go_type(&self) -> String {
        match &self.shape {
            Shape::Scalar(scalar) => scalar.go_type().to_owned(),
            Shape::List(item) => format!("[]{}", item.go_type()),
            Shape::Map(value) => format!("map[string]{}", value.go_type()),
            Shape::Reference(_) | Shape::Object(_) => {
                let name = self.definition().map_or("", |d| d.name.as_ref());
                let mut words = name.rsplit('.');
                match (words.next(), words.next()) {
                    (Some(kind), Some(package)) => format!("{package}.{kind}"),
                    _ => "map[string]interface {}".to_owned(),
                }
            }
        }
    }
}

impl Scalar {
    /// How Go calls the type.
    pub fn go_type(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Double => "float64",
            Self::Bool => "bool",
            Self::Bytes => "[]uint8",
            Self::Time => "v1.Time",
            Self::MicroTime => "v1.MicroTime",
            Self::Quantity => "resource.Quantity",
            Self::IntOrString => "intstr.IntOrString",
            Self::Raw => "runtime.RawExtension",
            Self::Any => "interface {}",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "string" => Self::String,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "double" => Self::Double,
            "bool" => Self::Bool,
            "bytes" => Self::Bytes,
            "time" => Self::Time,
            "microtime" => Self::MicroTime,
            "quantity" => Self::Quantity,
            "intorstring" => Self::IntOrString,
            "raw" => Self::Raw,
            // The three unions of CustomResourceDefinition's schema: the CRD's own validation looks into them.
            "any" | "schemaorarray" | "schemaorbool" | "schemaorstrings" => Self::Any,
            _ => return None,
        })
    }
}

/// The definition with this full name.
pub fn definition(name: &str) -> Option<&'static Definition> {
    find(&short(name)).map(Reference::definition)
}

/// Every built-in definition's full name, sorted as the short names are.
pub fn names() -> impl Iterator<Item = String> {
    entries().iter().map(|e| full(e.name))
}

/// A definition that may not have been parsed yet.
struct Entry {
    /// The short name, `core.v1.Container`.
    name: &'static str,
    atomic: bool,
    body: &'static str,
    parsed: OnceLock<Box<Definition>>,
}

fn entries() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let mut entries = Vec::new();
        let mut rest = TYPES;
        while let Some((header, after)) = rest.split_once('\n') {
            // The body ends before the first line that is not indented.
            let mut end = 0;
            while after[end..].starts_with(' ') {
                end += after[end..].find('\n').map_or(after.len() - end, |at| at + 1);
            }
            let (name, flags) = header.split_once(' ').unwrap_or((header, ""));
            entries.push(Entry { name, atomic: flags == "atomic", body: &after[..end], parsed: OnceLock::new() });
            rest = &after[end..];
        }
        entries
    })
}

/// A reference to the definition with this full name.
pub(crate) fn reference(name: &str) -> Option<Reference> {
    find(&short(name))
}

fn find(short: &str) -> Option<Reference> {
    let at = entries().binary_search_by(|e| e.name.cmp(short)).ok()?;
    u16::try_from(at).ok().map(Reference)
}

const PREFIXES: [(&str, &str); 7] = [
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.", "apiextensions."),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.", "apiregistration."),
    ("io.k8s.apimachinery.pkg.apis.meta.", "meta."),
    ("io.k8s.apimachinery.pkg.api.resource.", "api.resource."),
    ("io.k8s.apimachinery.pkg.util.intstr.", "util.intstr."),
    ("io.k8s.apimachinery.pkg.version.", "version."),
    ("io.k8s.api.", ""),
];

pub(crate) fn short(name: &str) -> Cow<'_, str> {
    for (long, short) in PREFIXES {
        if let Some(rest) = name.strip_prefix(long) {
            return if short.is_empty() { rest.into() } else { format!("{short}{rest}").into() };
        }
    }
    name.into()
}

/// The full name of a definition, as `data/types.txt` shortens it.
pub(crate) fn full(name: &str) -> String {
    for (long, short) in PREFIXES {
        if let Some(rest) = name.strip_prefix(short) {
            return format!("{long}{rest}");
        }
    }
    name.to_owned()
}

impl Entry {
    fn parse(&self) -> Definition {
        let defaults = facts_of(DEFAULTS, self.name);
        let go_types = facts_of(GO_TYPES, self.name);
        let fields = self.body.lines().filter_map(|line| field(line.strip_prefix(' ')?, &defaults, &go_types));
        Definition {
            name: full(self.name).into(),
            fields: fields.collect(),
            atomic: self.atomic,
            preserve_unknown: false,
        }
    }
}

/// The `(field, fact)` lines of a definition, in a file of lines `definition field fact` sorted by definition.
fn facts_of(file: &'static str, definition: &str) -> Vec<(&'static str, &'static str)> {
    let lines = file.lines().filter_map(|line| line.strip_prefix(definition)?.strip_prefix(' '));
    lines.filter_map(|line| line.split_once(' ')).collect()
}

type Facts = [(&'static str, &'static str)];

/// A field from its line: `ports! []core.v1.ContainerPort list=map:containerPort,protocol patch=merge:containerPort`.
fn field(line: &'static str, defaults: &Facts, go_types: &Facts) -> Option<Field> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let (name, required) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
    let mut node = node(words.next()?)?;
    for word in words {
        let (key, fact) = word.split_once('=')?;
        let (fact, keys) = fact.split_once(':').map_or((fact, None), |(fact, keys)| (fact, Some(keys)));
        match (key, fact) {
            ("list", "set") => node.list = List::Set,
            ("list", "map") => node.list = List::Map(keys?.split(',').map(Cow::Borrowed).collect()),
            ("map", fact) => node.atomic_map = fact == "atomic",
            ("patch", fact) => {
                node.patch = Patch {
                    merge: fact.contains("merge"),
                    retain_keys: fact.contains("retainKeys"),
                    replace: fact.contains("replace"),
                    merge_key: keys.map(Cow::Borrowed),
                }
            }
            _ => {}
        }
    }
    let default = defaults.iter().find(|(field, _)| *field == name).and_then(|(_, fact)| {
        let (json, zero_is_absent) = fact.strip_prefix("* ").map_or((*fact, true), |json| (json, false));
        Some(Box::new(Default { value: serde_json::from_str(json).ok()?, zero_is_absent }))
    });
    let go_type = go_types.iter().find(|(field, _)| *field == name).map(|(_, fact)| *fact);
    Some(Field { name: name.into(), required, node, go_type, default })
}

fn node(word: &'static str) -> Option<Node> {
    if let Some(item) = word.strip_prefix("[]") {
        return Some(Node::new(Shape::List(Box::new(node(item)?))));
    }
    if let Some(value) = word.strip_prefix("{}") {
        return Some(Node::new(Shape::Map(Box::new(node(value)?))));
    }
    let shape = Scalar::parse(word).map(Shape::Scalar).or_else(|| find(word).map(Shape::Reference))?;
    Some(Node::new(shape))
}

#[cfg(test)]
mod tests;
