//! The types of expressions, and how an OpenAPI schema reads as one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Known at run time only.
    Dyn,
    /// `null`.
    Null,
    /// `true` and `false`.
    Bool,
    /// 64 bits, signed.
    Int,
    /// 64 bits, unsigned.
    Uint,
    /// IEEE 754.
    Double,
    /// Text.
    String,
    /// Bytes; in JSON, base64.
    Bytes,
    /// A span of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// A list of one type.
    List(Arc<Type>),
    /// A map; keys are strings in all that comes from JSON.
    Map(Arc<Type>, Arc<Type>),
    /// An object whose fields are known.
    Object(Arc<Object>),
    /// A value or nothing.
    Optional(Arc<Type>),
    /// A type of a library: `kubernetes.Quantity`, `net.IP`...
    Opaque(&'static str),
    /// The type of types.
    Type,
    /// A type parameter of a signature.
    Param(char),
}

/// An object type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// How error texts call it.
    pub name: String,
    /// Its fields, by the name that expressions use (see [`escape`]).
    pub fields: BTreeMap<String, Field>,
}

/// A field of an object type.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name in JSON.
    pub json: String,
    /// Its type.
    pub ty: Type,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Opaque(name) => f.write_str(name),
            Self::Type => f.write_str("type"),
            Self::Param(name) => write!(f, "{name}"),
        }
    }
}

impl Type {
    /// A list of `item`.
    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item))
    }

    /// A map of strings to `value`.
    pub fn map(value: Self) -> Self {
        Self::Map(Arc::new(Self::String), Arc::new(value))
    }

    /// A value of `inner` or nothing.
    pub fn optional(inner: Self) -> Self {
        Self::Optional(Arc::new(inner))
    }

    /// An object called `name` with these fields, whose names are those of JSON.
    pub fn object(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Self)>) -> Self {
        let fields = fields.into_iter().filter_map(|(json, ty)| Some((escape(&json)?, Field { json, ty })));
        Self::Object(Arc::new(Object { name: name.into(), fields: fields.collect() }))
    }

    /// What a structural schema (OpenAPI v3, as CustomResourceDefinitions have it) describes, as the API server's
    /// `SchemaDeclType` reads it; `root` adds what every object has (`apiVersion`, `kind`, `metadata`). `None` for a
    /// schema without a type: expressions cannot reach such a field.
    pub fn from_schema(schema: &Value, root: bool) -> Option<Self> {
        from_schema(schema, "selfType", root || flag(schema, "x-kubernetes-embedded-resource"))
    }

    /// The field of this name, as expressions spell it.
    pub fn field(&self, name: &str) -> Option<&Field> {
        match self {
            Self::Object(object) => object.fields.get(name),
            _ => None,
        }
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn from_schema(schema: &Value, name: &str, root: bool) -> Option<Type> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return Some(Type::Dyn);
    }
    match schema.get("type").and_then(Value::as_str)? {
        "array" => Some(Type::list(from_schema(schema.get("items")?, &format!("{name}.@idx"), false)?)),
        "object" => object_from_schema(schema, name, root || flag(schema, "x-kubernetes-embedded-resource")),
        "boolean" => Some(Type::Bool),
        "integer" => Some(Type::Int),
        "number" => Some(Type::Double),
        "string" => Some(match schema.get("format").and_then(Value::as_str) {
            Some("byte") => Type::Bytes,
            Some("duration") => Type::Duration,
            Some("date" | "date-time") => Type::Timestamp,
            _ => Type::String,
        }),
        _ => None,
    }
}

fn object_from_schema(schema: &Value, name: &str, root: bool) -> Option<Type> {
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        return Some(Type::map(from_schema(values, &format!("{name}.@elem"), false)?));
    }
    let mut fields = BTreeMap::new();
    for (property, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(ty) = from_schema(schema, &format!("{name}.{property}"), false) {
            fields.insert(property.clone(), ty);
        }
    }
    if root {
        fields.insert("apiVersion".into(), Type::String);
        fields.insert("kind".into(), Type::String);
        // Of the metadata, rules see the names only.
        let names = ["name", "generateName"].map(|field| (field.to_owned(), Type::String));
        fields.insert("metadata".into(), Type::object(format!("{name}.metadata"), names));
    }
    Some(Type::object(name, fields))
}

/// The words that an expression cannot use as a field's name.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// How expressions spell a JSON field's name: `foo-bar` is `foo__dash__bar`, `namespace` is `__namespace__`. `None` for
/// a name that expressions cannot reach.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c == '_' || c.is_ascii_alphabetic() || (c.is_ascii_digit() && !out.is_empty()) => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    (!out.is_empty()).then_some(out)
}
