//! The protobuf form of built-in kinds (`application/vnd.kubernetes.protobuf`), from and to JSON: what Go clients send
//! and ask for, `kubectl create` among them.
//!
//! One walker each way over the definitions of [`crate::types`]. What it needs beyond them, tags and a few differences of the two
//! forms, is `data/protobuf.txt`, which `xtask protobuf` makes from upstream's types. A field that is not listed is
//! skipped, as every protobuf reader does: clients of other versions send fields that came or went (`clusterName`).

mod encode;

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use self::encode::{ListEncoder, definition, encode, frame, speaks};
use crate::types::{Definition, Node, Scalar, Shape};

const FACTS: &str = include_str!("../../data/protobuf.txt");

/// What every document begins with (apimachinery `runtime/serializer/protobuf`).
const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may nest: as deep as JSON may.
const MAX_DEPTH: usize = crate::decode::MAX_DEPTH;

/// Why a document was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not begin as every document does.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// It ends too early, or is not protobuf.
    #[error("proto: malformed message at {0}")]
    Malformed(&'static str),
    /// A message that this server's tables do not have at all.
    #[error("proto: {0} has no protobuf form on this server; send JSON")]
    Unknown(String),
    /// It nests too deep.
    #[error("proto: exceeded max depth")]
    TooDeep,
}

/// A document's kind, and its message.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    /// `apps/v1`; may be empty.
    pub api_version: String,
    /// `Deployment`; may be empty.
    pub kind: String,
    raw: &'a [u8],
}

/// Takes the envelope off (`runtime.Unknown`).
///
/// # Errors
///
/// If it is none.
pub fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => envelope.api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

impl Envelope<'_> {
    /// The document as JSON, read as an object of `definition`. Unset fields, and zeros that Go does not write, are
    /// left out.
    ///
    /// # Errors
    ///
    /// If it is not protobuf, or a message of it has no protobuf form.
    pub fn to_json(&self, definition: &Definition) -> Result<Value, ProtobufError> {
        let mut object = Map::new();
        message(self.raw, &short(definition), definition, &mut object, 0)?;
        for (key, text) in [("apiVersion", &self.api_version), ("kind", &self.kind)] {
            if !text.is_empty() {
                object.insert(key.to_owned(), text.as_str().into());
            }
        }
        Ok(object.into())
    }
}

/// A value as it is on the wire.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(ProtobufError::Malformed("a field's end"));
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn utf8(bytes: &[u8]) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtobufError::Malformed("a string that is not UTF-8"))
}

/// A field of a message, as the facts tell it.
#[derive(Clone, Copy)]
enum Fact {
    Named {
        name: &'static str,
        keep_zero: bool,
    },
    /// Its fields are the struct's own.
    Inline(&'static str),
}

/// The facts about a message.
fn facts(message: &str) -> Option<&'static HashMap<u64, Fact>> {
    static ALL: OnceLock<HashMap<&'static str, HashMap<u64, Fact>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let mut all: HashMap<&'static str, HashMap<u64, Fact>> = HashMap::new();
        let mut current = "";
        for line in FACTS.lines() {
            let Some(field) = line.strip_prefix(' ') else {
                current = line;
                continue;
            };
            let Some((tag, name)) = field.split_once(' ') else { continue };
            let fact = match (name.strip_prefix('>'), name.strip_prefix('=')) {
                (Some(message), _) => Fact::Inline(message),
                (_, Some(name)) => Fact::Named { name, keep_zero: true },
                _ => Fact::Named { name, keep_zero: false },
            };
            if let Ok(tag) = tag.parse() {
                all.entry(current).or_default().insert(tag, fact);
            }
        }
        all
    });
    all.get(message)
}

/// `core.v1.Pod` of `io.k8s.api.core.v1.Pod`: what the facts are listed under.
fn short(definition: &Definition) -> String {
    let name = definition.name.as_ref();
    name.strip_prefix("io.k8s.api.")
        .or_else(|| name.strip_prefix("io.k8s.apimachinery.pkg.apis."))
        .unwrap_or(name)
        .to_owned()
}

fn message(
    bytes: &[u8],
    name: &str,
    definition: &Definition,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    // A message without fields of its own is not listed.
    if bytes.is_empty() {
        return Ok(());
    }
    let facts = facts(name).ok_or_else(|| ProtobufError::Unknown(name.to_owned()))?;
    for field in Fields(bytes) {
        let (tag, wire) = field?;
        match facts.get(&tag).copied() {
            None => {}
            Some(Fact::Inline(inlined)) => {
                let Wire::Bytes(bytes) = wire else { return Err(ProtobufError::Malformed("a message")) };
                message(bytes, inlined, definition, out, depth + 1)?;
            }
            // No longer served, and not stored by upstream, either.
            Some(Fact::Named { name: "selfLink", .. }) => {}
            Some(Fact::Named { name, keep_zero }) => {
                if let Some(field) = definition.field(name) {
                    put(out, name, keep_zero, &field.node, wire, depth)?;
                }
            }
        }
    }
    Ok(())
}

/// Puts a field into an object; adds to it, if it repeats.
fn put(
    out: &mut Map<String, Value>,
    name: &str,
    keep_zero: bool,
    node: &Node,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match &node.shape {
        Shape::List(item) => {
            let list = out.entry(name).or_insert_with(|| json!([]));
            let Value::Array(list) = list else { return Ok(()) };
            match (wire, &item.shape) {
                // Numbers may come together.
                (Wire::Bytes(packed), Shape::Scalar(Scalar::Int32 | Scalar::Int64)) => {
                    let mut packed = Fields(packed);
                    while !packed.0.is_empty() {
                        let number = packed.varint().ok_or(ProtobufError::Malformed("a list of numbers"))?;
                        list.push(number.cast_signed().into());
                    }
                }
                _ => list.push(value(item, wire, depth)?),
            }
        }
        Shape::Map(item) => {
            let Wire::Bytes(entry) = wire else { return Err(ProtobufError::Malformed("a map")) };
            let (mut key, mut found) = (String::new(), None);
            for field in Fields(entry) {
                match field? {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, wire) => found = Some(value(item, wire, depth)?),
                    _ => {}
                }
            }
            let found = found.unwrap_or_else(|| empty(item));
            if let Value::Object(map) = out.entry(name).or_insert_with(|| json!({})) {
                map.insert(key, found);
            }
        }
        _ => {
            let value = value(node, wire, depth)?;
            if keep_zero || !zero(&value) {
                out.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// What Go does not write where it omits what is empty: structs are written.
fn zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// The value of a map's entry that says none.
fn empty(node: &Node) -> Value {
    match &node.shape {
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => 0.into(),
        Shape::Scalar(Scalar::Bool) => false.into(),
        Shape::Scalar(Scalar::Raw | Scalar::Any | Scalar::Time | Scalar::MicroTime) => Value::Null,
        Shape::Scalar(_) => "".into(),
        Shape::List(_) => json!([]),
        Shape::Reference(_) | Shape::Object(_) | Shape::Map(_) => json!({}),
    }
}

fn value(node: &Node, wire: Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    if let Some(definition) = node.definition() {
        let Wire::Bytes(bytes) = wire else { return Err(ProtobufError::Malformed("a message")) };
        let mut object = Map::new();
        message(bytes, &short(definition), definition, &mut object, depth + 1)?;
        return Ok(object.into());
    }
    match (&node.shape, wire) {
        (Shape::Scalar(scalar), wire) => scalar_value(*scalar, wire),
        // A list within a list or a map is a message with the items (`ExtraValue`).
        (Shape::List(item), Wire::Bytes(bytes)) if depth < MAX_DEPTH => {
            let mut list = Vec::new();
            for field in Fields(bytes) {
                if let (1, wire) = field? {
                    list.push(value(item, wire, depth + 1)?);
                }
            }
            Ok(list.into())
        }
        _ => Err(ProtobufError::Malformed("a value")),
    }
}

fn scalar_value(scalar: Scalar, wire: Wire<'_>) -> Result<Value, ProtobufError> {
    Ok(match (scalar, wire) {
        (Scalar::String, Wire::Bytes(text)) => utf8(text)?.into(),
        (Scalar::Int32 | Scalar::Int64, Wire::Varint(number)) => number.cast_signed().into(),
        (Scalar::Int32, Wire::Fixed32(number)) => number.cast_signed().into(),
        (Scalar::Bool, Wire::Varint(number)) => (number != 0).into(),
        (Scalar::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Scalar::Double, Wire::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
        (Scalar::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Scalar::Time, Wire::Bytes(bytes)) => time(bytes, false)?,
        (Scalar::MicroTime, Wire::Bytes(bytes)) => time(bytes, true)?,
        (Scalar::Quantity, Wire::Bytes(bytes)) => quantity(bytes)?,
        (Scalar::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Scalar::Raw | Scalar::Any, Wire::Bytes(bytes)) => raw(bytes)?,
        _ => return Err(ProtobufError::Malformed("a value of another type")),
    })
}

/// `Timestamp`: seconds and nanoseconds; nothing at all is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(number)) => seconds = number.cast_signed(),
            (2, Wire::Varint(number)) => nanos = i32::try_from(number).unwrap_or(0),
            _ => {}
        }
    }
    let time = Timestamp::new(seconds, if micro { nanos } else { 0 });
    let time = time.map_err(|_| ProtobufError::Malformed("a time out of range"))?;
    Ok(if micro { format!("{time:.6}").into() } else { time.to_string().into() })
}

/// `Quantity`: its text.
fn quantity(bytes: &[u8]) -> Result<Value, ProtobufError> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(text)) = field? {
            return Ok(utf8(text)?.into());
        }
    }
    Ok("0".into())
}

/// `IntOrString`: which of the two, and both.
fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(int)) => number = int.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// `RawExtension`, `FieldsV1`, `JSON`: JSON as bytes.
fn raw(bytes: &[u8]) -> Result<Value, ProtobufError> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(json)) = field? {
            if json.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(json).map_err(|_| ProtobufError::Malformed("embedded JSON"));
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types;

    /// As kubectl 1.37.1 sent it for `kubectl create deployment second --image=x`.
    const DEPLOYMENT: &[u8] = b"k8s\x00\n\x15\n\x07apps/v1\x12\nDeployment\x12\xaf\x01\n%\n\x06second\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00Z\r\n\x03app\x12\x06second\x12x\x08\x01\x12\x0f\n\r\n\x03app\x12\x06second\x1a[\n\x1f\n\x00\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00Z\r\n\x03app\x12\x06second\x128\x12\x1a\n\x01x\x12\x01x*\x00B\x00j\x00r\x00\x80\x01\x00\x88\x01\x00\x90\x01\x00\xa2\x01\x00\x1a\x002\x00B\x00J\x00R\x00X\x00`\x00h\x00\x82\x01\x00\x8a\x01\x00\x9a\x01\x00\xc2\x01\x00\"\x02\n\x00(\x008\x00\x1a\x0c\x08\x00\x10\x00\x18\x00 \x00(\x008\x00\x1a\x00\"\x00";

    fn definition(name: &str) -> &'static Definition {
        types::definition(name).unwrap()
    }

    #[test]
    fn what_kubectl_sends_is_read() {
        let envelope = envelope(DEPLOYMENT).unwrap();
        assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("apps/v1", "Deployment"));
        let object = envelope.to_json(definition("io.k8s.api.apps.v1.Deployment")).unwrap();
        let labels = json!({"app": "second"});
        assert_eq!(
            object,
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "second", "labels": labels},
                "spec": {
                    "replicas": 1, "selector": {"matchLabels": labels}, "strategy": {},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [{"name": "x", "image": "x", "resources": {}}]},
                    },
                },
                "status": {},
            })
        );
    }

    /// Every fact names a field that there is, or a message that is listed.
    #[test]
    fn the_facts_fit_the_definitions() {
        let mut current = None;
        let mut unknown = Vec::new();
        for line in FACTS.lines() {
            let Some(field) = line.strip_prefix(' ') else {
                current = ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis."]
                    .iter()
                    .find_map(|prefix| types::definition(&format!("{prefix}{line}")));
                continue;
            };
            let (_, name) = field.split_once(' ').unwrap();
            match (name.strip_prefix('>'), current) {
                (Some(message), _) => assert!(facts(message).is_some(), "{line}"),
                (None, Some(definition)) => {
                    let name = name.trim_start_matches('=');
                    if definition.field(name).is_none() {
                        unknown.push(format!("{} {name}", definition.name));
                    }
                }
                // An inlined message: its fields are looked up in the struct.
                (None, None) => {}
            }
        }
        // What upstream has added since 1.37.
        assert!(unknown.len() < 60, "{unknown:#?}");
    }

    /// Newer than the sources that the facts were made from.
    const NOT_IN_THE_SOURCES: [&str; 1] = ["core.v1.NodeSystemInfo.runningInUserNamespace"];

    /// Every other field of every definition of the served groups can be sent.
    #[test]
    fn every_field_has_a_tag() {
        fn names(message: &str, out: &mut Vec<&'static str>) {
            for fact in facts(message).into_iter().flatten().map(|(_, fact)| fact) {
                match fact {
                    Fact::Named { name, .. } => out.push(name),
                    Fact::Inline(inlined) => names(inlined, out),
                }
            }
        }
        let mut missing = Vec::new();
        for name in types::names() {
            let definition = definition(&name);
            let short = short(definition);
            let served =
                ["apps.v1", "batch.v1", "core.v1", "networking.v1", "policy.v1", "rbac.v1", "authorization.v1"];
            let served = served.iter().any(|package| short.strip_prefix(package).is_some_and(|r| r.starts_with('.')));
            if !served {
                continue;
            }
            let mut known = Vec::new();
            names(&short, &mut known);
            let fields = definition.fields.iter().map(|field| field.name.as_ref());
            for field in fields.filter(|field| !matches!(*field, "apiVersion" | "kind") && !known.contains(field)) {
                missing.push(format!("{short}.{field}"));
            }
        }
        assert_eq!(missing, NOT_IN_THE_SOURCES);
    }

    #[test]
    fn zeros_that_mean_something_stay() {
        // spec.replicas: 0 (a pointer in Go), spec.minReadySeconds: 0 (none).
        let raw = [0x12, 4, 0x08, 0, 0x28, 0];
        let bytes = [b"k8s\0\x12\x06".as_slice(), &raw].concat();
        let object = envelope(&bytes).unwrap().to_json(definition("io.k8s.api.apps.v1.Deployment")).unwrap();
        assert_eq!(object, json!({"spec": {"replicas": 0}}));
    }

    #[test]
    fn inlined_structs_and_special_types_are_read() {
        // A volume "v" of the ConfigMap "c" with defaultMode 0: Volume{1: name, 2: VolumeSource{19: ConfigMapVolumeSource}}.
        let source = [0x0a, 3, 0x0a, 1, b'c', 0x18, 0];
        let volume_source = [[0x9a, 0x01, 7].as_slice(), &source].concat();
        let volume = [[0x0a, 1, b'v', 0x12, 10].as_slice(), &volume_source].concat();
        let spec = [[0x0a, 15].as_slice(), &volume].concat();
        let pod = [[0x12, 17].as_slice(), &spec].concat();
        let bytes = [b"k8s\0\x12\x13".as_slice(), &pod].concat();
        let object = envelope(&bytes).unwrap().to_json(definition("io.k8s.api.core.v1.Pod")).unwrap();
        assert_eq!(object["spec"]["volumes"], json!([{"name": "v", "configMap": {"name": "c", "defaultMode": 0}}]));
        assert_eq!(int_or_string(&[8, 1, 16, 0, 26, 2, b'8', b'%']).unwrap(), "8%");
        assert_eq!(int_or_string(&[8, 0, 16, 80]).unwrap(), 80);
        assert_eq!(time(&[8, 0x80, 0xf2, 0xd6, 0xca, 0x6], false).unwrap(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn nonsense_is_an_error() {
        assert_eq!(envelope(b"{}"), Err(ProtobufError::NoMagic));
        for end in 5..DEPLOYMENT.len() {
            let _ = envelope(&DEPLOYMENT[..end]).map(|e| e.to_json(definition("io.k8s.api.apps.v1.Deployment")));
        }
    }

    #[test]
    fn unknown_fields_are_skipped() {
        // ObjectMeta{1: name "c", 15: ""}: clients up to 1.23 send `clusterName`, empty as it is. Then a field from the future.
        let bytes = b"k8s\0\x12\x0a\x0a\x05\x0a\x01c\x7a\x00\xf8\x7f\x01";
        let object = envelope(bytes).unwrap().to_json(definition("io.k8s.api.core.v1.ConfigMap")).unwrap();
        assert_eq!(object, json!({"metadata": {"name": "c"}}));
    }
}
