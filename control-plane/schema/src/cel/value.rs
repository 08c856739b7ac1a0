//! Values. What comes from JSON is read where it is, and only as far as an expression looks.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::functions::url::Url;
use super::types::Type;
use super::{AuthorizationRequest, EvalError};
use crate::quantity::Quantity;

/// A value of an expression. `'a` is the life of the data that it reads.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    Str(Cow<'a, str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list that an expression made.
    List(Arc<Vec<Val<'a>>>),
    /// A map that an expression made.
    Map(Arc<BTreeMap<Key, Val<'a>>>),
    /// The attributes or the capacity of a device by domain: of a domain that it does not have, there are none.
    Domains(Arc<BTreeMap<Key, Val<'a>>>),
    /// An object that an expression made: the type's name, and the fields.
    Struct(Arc<str>, Arc<BTreeMap<Key, Val<'a>>>),
    /// An array or object of JSON, and what it is known to be.
    Json(&'a Value, Type),
    /// A value or nothing.
    Optional(Option<Arc<Val<'a>>>),
    /// A type.
    Type(Arc<str>),
    /// `quantity("1Gi")`.
    Quantity(Quantity),
    /// `ip("10.0.0.1")`.
    Ip(IpAddr),
    /// `cidr("10.0.0.0/8")`.
    Cidr(IpNet),
    /// `url("https://example.com")`.
    Url(Arc<Url>),
    /// `semver("1.2.3")`.
    Semver(Arc<semver::Version>),
    /// `format.dns1123Label()`: the format's name.
    Format(&'static str),
    /// `authorizer` and what is made from it before `check`.
    Authorizer(Arc<AuthorizationRequest>),
    /// What an authorizer said: allowed, why, and the error if it failed.
    Decision(bool, Arc<str>, Option<Arc<str>>),
    /// The argument that `variables` is: read by the evaluator.
    Composed,
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer that is no [`Key::Int`].
    Uint(u64),
    /// Text.
    Str(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Uint(u) => write!(f, "{u}"),
            Self::Str(s) => f.write_str(s),
        }
    }
}

impl Key {
    pub(super) fn value<'a>(&self) -> Val<'a> {
        match self {
            Self::Bool(b) => Val::Bool(*b),
            Self::Int(i) => Val::Int(*i),
            Self::Uint(u) => Val::Uint(*u),
            Self::Str(s) => Val::Str(Cow::Owned(s.clone())),
        }
    }
}

/// Reads a JSON value as a type.
///
/// # Errors
/// If a text is not what its format says.
pub(super) fn lift<'a>(value: &'a Value, ty: &Type) -> Result<Val<'a>, EvalError> {
    Ok(match value {
        Value::Null => Val::Null,
        Value::Bool(b) => Val::Bool(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), _, _) if *ty != Type::Double => Val::Int(i),
            (_, Some(u), _) if *ty != Type::Double => Val::Uint(u),
            (_, _, f) => Val::Double(f.unwrap_or(f64::NAN)),
        },
        Value::String(s) => text(s, ty)?,
        Value::Array(_) | Value::Object(_) => Val::Json(value, ty.clone()),
    })
}

fn text<'a>(text: &'a str, ty: &Type) -> Result<Val<'a>, EvalError> {
    Ok(match ty {
        Type::Timestamp => Val::Timestamp(super::functions::time::parse_timestamp_or_date(text)?),
        Type::Duration => Val::Duration(super::functions::time::parse_duration(text)?),
        Type::Bytes => {
            let decoded = STANDARD.decode(text).map_err(|e| EvalError::new(format!("base64 decode error: {e}")))?;
            Val::Bytes(decoded.into())
        }
        _ => Val::Str(Cow::Borrowed(text)),
    })
}

fn item_type(ty: &Type) -> &Type {
    match ty {
        Type::List(item) => item,
        _ => &Type::Dyn,
    }
}

/// The JSON member that an expression means by `name`, and its type; `None` if the type has no such field.
pub(super) fn json_member<'t>(ty: &'t Type, name: &'t str) -> Option<(&'t str, &'t Type)> {
    match ty {
        Type::Object(object) => object.fields.get(name).map(|field| (field.json.as_str(), &field.ty)),
        Type::Map(_, value) => Some((name, value)),
        _ => Some((name, &Type::Dyn)),
    }
}

impl<'a> Val<'a> {
    /// Text, owned.
    pub fn string(text: impl Into<String>) -> Self {
        Self::Str(Cow::Owned(text.into()))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::new(items))
    }

    pub(super) fn some(self) -> Self {
        Self::Optional(Some(Arc::new(self)))
    }

    /// How `type()` calls it.
    pub fn type_name(&self) -> String {
        match self {
            Self::Null => "null_type".into(),
            Self::Bool(_) => "bool".into(),
            Self::Int(_) => "int".into(),
            Self::Uint(_) => "uint".into(),
            Self::Double(_) => "double".into(),
            Self::Str(_) => "string".into(),
            Self::Bytes(_) => "bytes".into(),
            Self::Duration(_) => "google.protobuf.Duration".into(),
            Self::Timestamp(_) => "google.protobuf.Timestamp".into(),
            Self::List(_) | Self::Json(Value::Array(_), _) => "list".into(),
            Self::Json(_, Type::Object(object)) if !object.name.is_empty() => object.name.clone(),
            Self::Map(_) | Self::Domains(_) | Self::Json(..) | Self::Composed => "map".into(),
            Self::Struct(name, _) => name.to_string(),
            Self::Optional(_) => "optional_type".into(),
            Self::Type(_) => "type".into(),
            Self::Quantity(_) => "kubernetes.Quantity".into(),
            Self::Ip(_) => "net.IP".into(),
            Self::Cidr(_) => "net.CIDR".into(),
            Self::Url(_) => "kubernetes.URL".into(),
            Self::Semver(_) => "kubernetes.Semver".into(),
            Self::Format(_) => "kubernetes.NamedFormat".into(),
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer".into(),
            Self::Decision(..) => "kubernetes.authorization.Decision".into(),
        }
    }

    /// How many items or entries a list or map has.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::List(items) => Some(items.len()),
            Self::Map(entries) | Self::Domains(entries) | Self::Struct(_, entries) => Some(entries.len()),
            Self::Json(Value::Array(items), _) => Some(items.len()),
            Self::Json(Value::Object(entries), _) => Some(entries.len()),
            _ => None,
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Json(Value::Array(_), _))
    }

    /// The item at a position of a list.
    pub(super) fn at(&self, at: usize) -> Option<Result<Self, EvalError>> {
        match self {
            Self::List(items) => items.get(at).cloned().map(Ok),
            Self::Json(Value::Array(items), ty) => items.get(at).map(|item| lift(item, item_type(ty))),
            _ => None,
        }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Result<Vec<Self>, EvalError> {
        match self {
            Self::List(items) => Ok(items.to_vec()),
            Self::Json(Value::Array(items), ty) => items.iter().map(|item| lift(item, item_type(ty))).collect(),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn json_object(&self) -> Option<(&'a Map<String, Value>, &Type)> {
        match self {
            Self::Json(Value::Object(map), ty) => Some((map, ty)),
            _ => None,
        }
    }

    /// The keys of a map.
    pub(super) fn keys(&self) -> Option<Vec<Key>> {
        match self {
            Self::Map(entries) | Self::Domains(entries) | Self::Struct(_, entries) => {
                Some(entries.keys().cloned().collect())
            }
            _ => self.json_object().map(|(map, ty)| match ty {
                Type::Object(object) => {
                    let known = object.fields.iter().filter(|(_, field)| map.contains_key(&field.json));
                    known.map(|(name, _)| Key::Str(name.clone())).collect()
                }
                _ => map.keys().cloned().map(Key::Str).collect(),
            }),
        }
    }

    /// The entry of a map. `Err` if this is no map.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Self>, EvalError> {
        match self {
            Self::Map(entries) | Self::Struct(_, entries) => Ok(entries.get(key).cloned()),
            Self::Domains(entries) => Ok(Some(entries.get(key).cloned().unwrap_or_else(|| Self::Map(Arc::default())))),
            _ => {
                let (map, ty) = self.json_object().ok_or_else(EvalError::no_overload)?;
                let Key::Str(name) = key else { return Ok(None) };
                let Some((json, field)) = json_member(ty, name) else { return Ok(None) };
                map.get(json).map(|value| lift(value, field)).transpose()
            }
        }
    }

    /// This value as a key.
    pub(super) fn key(&self) -> Result<Key, EvalError> {
        match self {
            Self::Bool(b) => Ok(Key::Bool(*b)),
            Self::Int(i) => Ok(Key::Int(*i)),
            Self::Uint(u) => Ok(i64::try_from(*u).map_or(Key::Uint(*u), Key::Int)),
            // A double that is an integer finds it.
            #[expect(clippy::cast_possible_truncation, reason = "it is checked to be an integer")]
            Self::Double(f) if f.fract() == 0.0 && f.abs() < 9e15 => Ok(Key::Int(*f as i64)),
            Self::Str(s) => Ok(Key::Str(s.clone().into_owned())),
            _ => Err(EvalError::new(format!("unsupported key type: {}", self.type_name()))),
        }
    }

    /// Whether two values are equal. Values of different types are not; numbers are compared by value.
    pub(super) fn equals(&self, other: &Self) -> Result<bool, EvalError> {
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a.text == b.text,
            (Self::Semver(a), Self::Semver(b)) => a.cmp_precedence(b) == Ordering::Equal,
            (Self::Format(a), Self::Format(b)) => a == b,
            (Self::Optional(None), Self::Optional(None)) => true,
            (Self::Optional(Some(a)), Self::Optional(Some(b))) => a.equals(b)?,
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Self::Int(_) | Self::Uint(_) | Self::Double(_)) => {
                compare_numbers(self, other) == Some(Ordering::Equal)
            }
            (Self::Json(a, ta), Self::Json(b, tb)) if std::ptr::eq(*a, *b) && ta == tb => true,
            _ if self.is_list() && other.is_list() => self.equal_lists(other)?,
            _ => match (self.keys(), other.keys()) {
                (Some(a), Some(b)) => self.equal_maps(&a, other, &b)?,
                _ => false,
            },
        })
    }

    fn equal_lists(&self, other: &Self) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for at in 0..self.len().unwrap_or(0) {
            match (self.at(at), other.at(at)) {
                (Some(a), Some(b)) if a.clone()?.equals(&b.clone()?)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn equal_maps(&self, keys: &[Key], other: &Self, others: &[Key]) -> Result<bool, EvalError> {
        if keys.len() != others.len() {
            return Ok(false);
        }
        for key in keys {
            match (self.get(key)?, other.get(key)?) {
                (Some(a), Some(b)) if a.equals(&b)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Which of two values is less; `Err` if they cannot be compared.
    pub(super) fn compare(&self, other: &Self) -> Result<Ordering, EvalError> {
        let order = match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Str(a), Self::Str(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            _ => compare_numbers(self, other),
        };
        order.ok_or_else(|| match (self, other) {
            (Self::Double(_), _) | (_, Self::Double(_)) => EvalError::new("NaN values cannot be ordered"),
            _ => EvalError::no_overload(),
        })
    }

    /// About how large it is, for the cost of what looks at all of it.
    pub(super) fn size(&self) -> u64 {
        let size = match self {
            Self::Str(s) => s.len(),
            Self::Bytes(b) => b.len(),
            _ => self.len().unwrap_or(1),
        };
        size as u64
    }

    /// As JSON. `Err` for what JSON has no form for.
    ///
    /// # Errors
    /// If it is, or holds, a value of a library's type, or a map with keys that are no text.
    pub fn to_json(&self) -> Result<Value, EvalError> {
        let cannot = || EvalError::new(format!("type conversion error from '{}' to JSON", self.type_name()));
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Uint(u) => (*u).into(),
            Self::Double(f) => serde_json::Number::from_f64(*f).map(Value::Number).ok_or_else(cannot)?,
            Self::Str(s) => s.as_ref().into(),
            Self::Bytes(b) => STANDARD.encode(b).into(),
            Self::Duration(d) => super::functions::time::print_duration(*d).into(),
            Self::Timestamp(t) => t.to_string().into(),
            Self::Json(value, _) => (*value).clone(),
            Self::List(items) => Value::Array(items.iter().map(Self::to_json).collect::<Result<_, _>>()?),
            Self::Map(entries) | Self::Struct(_, entries) => {
                let mut out = Map::new();
                for (key, value) in entries.iter() {
                    let Key::Str(key) = key else { return Err(cannot()) };
                    out.insert(key.clone(), value.to_json()?);
                }
                Value::Object(out)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Optional(None) => Value::Null,
            Self::Quantity(q) => q.to_string().into(),
            Self::Ip(ip) => ip.to_string().into(),
            Self::Cidr(net) => net.to_string().into(),
            _ => return Err(cannot()),
        })
    }
}

/// Numbers by value, whatever their types. `None` if one is none, or NaN.
fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    #[expect(clippy::cast_precision_loss, reason = "comparisons with doubles are those of doubles")]
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
        (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
        (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        _ => None,
    }
}
