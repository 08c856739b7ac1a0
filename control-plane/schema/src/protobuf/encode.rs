//! From JSON to protobuf: what Go clients ask for.
//!
//! What Go writes is not copied byte for byte: zeros that its decoder would fill in anyway are left out. What a client
//! reads is the same object.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Fact, MAGIC, facts, short};
use crate::resource::Resource;
use crate::types::{self, Definition, Node, Scalar, Shape};

/// The definition of a built-in kind, if it has a protobuf form.
pub fn definition(api_version: &str, kind: &str) -> Option<&'static Definition> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let name = match (group, kind) {
        ("", "Status") | ("meta.k8s.io", _) => format!("io.k8s.apimachinery.pkg.apis.meta.{version}.{kind}"),
        ("", _) => format!("io.k8s.api.core.{version}.{kind}"),
        _ => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or_default()),
    };
    types::definition(&name).filter(|definition| facts(&short(definition)).is_some())
}

/// Whether objects of this kind have a protobuf form.
pub fn speaks(resource: &Resource) -> bool {
    definition(&resource.api_version(), &resource.kind).is_some()
}

/// A document, with its envelope. `None` for a kind that has no protobuf form.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let raw = match kind {
        "PartialObjectMetadata" => partial(object)?,
        "PartialObjectMetadataList" => {
            let items = object.get("items").and_then(Value::as_array).into_iter().flatten();
            list_of(object, items.map(partial).collect::<Option<Vec<_>>>()?)?
        }
        _ => {
            let definition = definition(api_version, kind)?;
            message(object.as_object()?, &short(definition), definition)
        }
    };
    Some(enveloped(api_version, kind, &raw))
}

/// A list of `resource` whose items are given one by one.
pub struct ListEncoder {
    api_version: String,
    kind: String,
    item: Option<(&'static Definition, String)>,
    raw: Vec<u8>,
}

impl ListEncoder {
    /// A list of objects, or of `PartialObjectMetadata` if there is no resource, with this `ListMeta`.
    pub fn new(resource: Option<&Resource>, metadata: &Value) -> Option<Self> {
        let (api_version, kind, item) = match resource {
            None => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned(), None),
            Some(resource) => {
                let definition = definition(&resource.api_version(), &resource.kind)?;
                (resource.api_version(), resource.list_kind.to_string(), Some((definition, short(definition))))
            }
        };
        let mut raw = Vec::new();
        let meta = types::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")?;
        bytes_field(&mut raw, 1, &message(metadata.as_object()?, "meta.v1.ListMeta", meta));
        Some(Self { api_version, kind, item, raw })
    }

    /// The next item.
    pub fn push(&mut self, object: &Value) {
        let item = match &self.item {
            Some((definition, short)) => object.as_object().map(|object| message(object, short, definition)),
            None => partial(object),
        };
        bytes_field(&mut self.raw, 2, &item.unwrap_or_default());
    }

    /// The document.
    pub fn finish(self) -> Vec<u8> {
        enveloped(&self.api_version, &self.kind, &self.raw)
    }
}

/// An event of a watch, as one frame: its length, and the event without an envelope.
pub fn frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    bytes_field(&mut raw, 1, object);
    let mut event = Vec::new();
    bytes_field(&mut event, 1, kind.as_bytes());
    bytes_field(&mut event, 2, &raw);
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [length.to_be_bytes().as_slice(), &event].concat()
}

fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    bytes_field(&mut meta, 1, api_version.as_bytes());
    bytes_field(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    bytes_field(&mut out, 1, &meta);
    bytes_field(&mut out, 2, raw);
    // Neither encoding nor content type: Go writes both all the same.
    bytes_field(&mut out, 3, b"");
    bytes_field(&mut out, 4, b"");
    out
}

/// `PartialObjectMetadata`: the metadata.
fn partial(object: &Value) -> Option<Vec<u8>> {
    let definition = types::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")?;
    let mut out = Vec::new();
    bytes_field(&mut out, 1, &message(object.get("metadata")?.as_object()?, "meta.v1.ObjectMeta", definition));
    Some(out)
}

fn list_of(object: &Value, items: Vec<Vec<u8>>) -> Option<Vec<u8>> {
    let definition = types::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")?;
    let empty = Map::new();
    let metadata = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut out = Vec::new();
    bytes_field(&mut out, 1, &message(metadata, "meta.v1.ListMeta", definition));
    items.iter().for_each(|item| bytes_field(&mut out, 2, item));
    Some(out)
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn key(out: &mut Vec<u8>, tag: u64, wire: u64) {
    varint(out, tag << 3 | wire);
}

fn bytes_field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    key(out, tag, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn number_field(out: &mut Vec<u8>, tag: u64, number: i64) {
    key(out, tag, 0);
    varint(out, number.cast_unsigned());
}

/// The fields of a message, in the order of their tags. What has no tag in upstream's sources is left out.
fn message(object: &Map<String, Value>, name: &str, definition: &Definition) -> Vec<u8> {
    let mut out = Vec::new();
    let mut fields: Vec<(u64, Fact)> = facts(name).into_iter().flatten().map(|(tag, fact)| (*tag, *fact)).collect();
    fields.sort_unstable_by_key(|(tag, _)| *tag);
    for (tag, fact) in fields {
        match fact {
            Fact::Inline(inlined) => {
                let inner = message(object, inlined, definition);
                if !inner.is_empty() {
                    bytes_field(&mut out, tag, &inner);
                }
            }
            Fact::Named { name, .. } => {
                let value = object.get(name).filter(|value| !value.is_null());
                if let (Some(value), Some(field)) = (value, definition.field(name)) {
                    put(&mut out, tag, &field.node, value);
                }
            }
        }
    }
    out
}

fn put(out: &mut Vec<u8>, tag: u64, node: &Node, value: &Value) {
    match (&node.shape, value) {
        (Shape::List(item), Value::Array(values)) => values.iter().for_each(|value| put_one(out, tag, item, value)),
        (Shape::Map(item), Value::Object(entries)) => {
            for (name, value) in entries {
                let mut entry = Vec::new();
                bytes_field(&mut entry, 1, name.as_bytes());
                put_one(&mut entry, 2, item, value);
                bytes_field(out, tag, &entry);
            }
        }
        _ => put_one(out, tag, node, value),
    }
}

fn put_one(out: &mut Vec<u8>, tag: u64, node: &Node, value: &Value) {
    if let (Some(definition), Value::Object(object)) = (node.definition(), value) {
        bytes_field(out, tag, &message(object, &short(definition), definition));
        return;
    }
    match (&node.shape, value) {
        // A list within a list or a map is a message with the items (`ExtraValue`).
        (Shape::List(item), Value::Array(values)) => {
            let mut inner = Vec::new();
            values.iter().for_each(|value| put_one(&mut inner, 1, item, value));
            bytes_field(out, tag, &inner);
        }
        (Shape::Scalar(scalar), value) => put_scalar(out, tag, *scalar, value),
        _ => {}
    }
}

fn put_scalar(out: &mut Vec<u8>, tag: u64, scalar: Scalar, value: &Value) {
    match (scalar, value) {
        (Scalar::String, Value::String(text)) => bytes_field(out, tag, text.as_bytes()),
        (Scalar::Int32 | Scalar::Int64, Value::Number(number)) => {
            number_field(out, tag, number.as_i64().unwrap_or_default());
        }
        (Scalar::Bool, Value::Bool(flag)) => number_field(out, tag, i64::from(*flag)),
        (Scalar::Double, Value::Number(number)) => {
            key(out, tag, 1);
            out.extend_from_slice(&number.as_f64().unwrap_or_default().to_bits().to_le_bytes());
        }
        (Scalar::Bytes, Value::String(text)) => {
            bytes_field(out, tag, &STANDARD.decode(text).unwrap_or_default());
        }
        (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                bytes_field(out, tag, &timestamp(time, scalar == Scalar::MicroTime));
            }
        }
        (Scalar::Quantity, value) => {
            let mut inner = Vec::new();
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            bytes_field(&mut inner, 1, text.as_bytes());
            bytes_field(out, tag, &inner);
        }
        (Scalar::IntOrString, value) => {
            let mut inner = Vec::new();
            number_field(&mut inner, 1, i64::from(value.is_string()));
            number_field(&mut inner, 2, value.as_i64().unwrap_or_default());
            bytes_field(&mut inner, 3, value.as_str().unwrap_or_default().as_bytes());
            bytes_field(out, tag, &inner);
        }
        (Scalar::Raw | Scalar::Any, value) => {
            let mut inner = Vec::new();
            bytes_field(&mut inner, 1, value.to_string().as_bytes());
            bytes_field(out, tag, &inner);
        }
        // Of another type than the schema's: the schema check has refused it before.
        _ => {}
    }
}

fn timestamp(time: Timestamp, micro: bool) -> Vec<u8> {
    let mut out = Vec::new();
    number_field(&mut out, 1, time.as_second());
    number_field(&mut out, 2, if micro { i64::from(time.subsec_nanosecond()) } else { 0 });
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::protobuf::envelope;
    use crate::registry::Registry;

    fn back(bytes: &[u8]) -> Value {
        let envelope = envelope(bytes).unwrap();
        let definition = definition(&envelope.api_version, &envelope.kind).unwrap();
        envelope.to_json(definition).unwrap()
    }

    /// Kinds with fields that the sources have no tags for.
    fn untagged(definition: &Definition, seen: &mut Vec<String>, out: &mut Vec<String>) {
        fn names(message: &str, out: &mut Vec<&'static str>) {
            for fact in facts(message).into_iter().flatten().map(|(_, fact)| fact) {
                match fact {
                    Fact::Named { name, .. } => out.push(name),
                    Fact::Inline(inlined) => names(inlined, out),
                }
            }
        }
        fn inner(node: &Node) -> Option<&Definition> {
            match &node.shape {
                Shape::List(item) | Shape::Map(item) => inner(item),
                _ => node.definition(),
            }
        }
        let short = short(definition);
        if seen.contains(&short) {
            return;
        }
        seen.push(short.clone());
        let mut known = Vec::new();
        names(&short, &mut known);
        for field in definition.fields.iter().filter(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind")) {
            if !known.contains(&field.name.as_ref()) {
                out.push(format!("{short}.{}", field.name));
            } else if let Some(below) = inner(&field.node) {
                untagged(below, seen, out);
            }
        }
    }

    #[test]
    fn built_in_kinds_have_tags() {
        let (mut seen, mut missing, mut without) = (Vec::new(), Vec::new(), Vec::new());
        for row in Registry::builtin().iter() {
            match definition(&row.api_version(), &row.kind) {
                Some(definition) => untagged(definition, &mut seen, &mut missing),
                None => without.push(row.qualified_plural()),
            }
        }
        insta::assert_debug_snapshot!((without, missing));
    }

    /// Objects with every field that strategies look at, there and back.
    #[test]
    fn whole_objects_come_back() {
        let text = include_str!("../kinds/fixtures/everything.yaml");
        let registry = Registry::builtin();
        for mut object in serde_saphyr::from_multiple::<Value>(text).unwrap() {
            let text = |key: &str| object[key].as_str().unwrap().to_owned();
            let (api_version, kind) = (text("apiVersion"), text("kind"));
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            let Some(row) = registry.by_kind(group, version, &kind) else { continue };
            if !speaks(row) {
                continue;
            }
            crate::defaults::apply(row, &mut object);
            let back = back(&encode(&object).unwrap());
            assert_eq!(without_zeros(&back), without_zeros(&object), "{kind}");
        }
    }

    /// Go tells absent from empty by pointers only.
    fn without_zeros(value: &Value) -> Value {
        let zero = |v: &Value| match v {
            Value::Null => true,
            Value::Bool(flag) => !flag,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
        };
        match value {
            Value::Object(fields) => {
                let kept = fields.iter().map(|(k, v)| (k.clone(), without_zeros(v))).filter(|(_, v)| !zero(v));
                Value::Object(kept.collect())
            }
            Value::Array(items) => items.iter().map(without_zeros).collect(),
            other => other.clone(),
        }
    }

    /// Something of a node's type.
    fn some(node: &'static Node, depth: usize) -> BoxedStrategy<Value> {
        match &node.shape {
            Shape::List(item) => prop::collection::vec(some(item, depth), 0..3).prop_map(Value::from).boxed(),
            Shape::Map(item) => prop::collection::btree_map("[a-z]{1,4}", some(item, depth), 0..3)
                .prop_map(|map| map.into_iter().collect::<Map<_, _>>().into())
                .boxed(),
            Shape::Scalar(scalar) => some_scalar(*scalar),
            Shape::Reference(_) | Shape::Object(_) => match node.definition() {
                Some(definition) if depth < 4 => some_object(definition, depth + 1),
                _ => Just(json!({})).boxed(),
            },
        }
    }

    fn some_scalar(scalar: Scalar) -> BoxedStrategy<Value> {
        match scalar {
            Scalar::String => "[a-z0-9./-]{0,6}".prop_map(Value::from).boxed(),
            Scalar::Int32 => any::<i32>().prop_map(Value::from).boxed(),
            Scalar::Int64 => any::<i64>().prop_map(Value::from).boxed(),
            Scalar::Double => (-1e9..1e9).prop_map(|n: f64| Value::from(n)).boxed(),
            Scalar::Bool => any::<bool>().prop_map(Value::from).boxed(),
            Scalar::Bytes => prop::collection::vec(any::<u8>(), 0..9).prop_map(|b| STANDARD.encode(b).into()).boxed(),
            Scalar::Time => {
                (0i64..4_000_000_000).prop_map(|s| Timestamp::from_second(s).unwrap().to_string().into()).boxed()
            }
            Scalar::MicroTime => (0i64..4_000_000_000_000_000)
                .prop_map(|us| format!("{:.6}", Timestamp::from_microsecond(us).unwrap()).into())
                .boxed(),
            Scalar::Quantity => prop::sample::select(vec!["1", "100m", "5Gi", "1e3"]).prop_map(Value::from).boxed(),
            Scalar::IntOrString => {
                prop_oneof![any::<i32>().prop_map(Value::from), "[a-z0-9%]{1,4}".prop_map(Value::from)].boxed()
            }
            Scalar::Raw | Scalar::Any => any::<u8>().prop_map(|n| json!({"n": n, "s": ["x", null]})).boxed(),
        }
    }

    fn some_object(definition: &'static Definition, depth: usize) -> BoxedStrategy<Value> {
        let mut known = Vec::new();
        fn names(message: &str, out: &mut Vec<&'static str>) {
            for fact in facts(message).into_iter().flatten().map(|(_, fact)| fact) {
                match fact {
                    Fact::Named { name, .. } => out.push(name),
                    Fact::Inline(inlined) => names(inlined, out),
                }
            }
        }
        names(&short(definition), &mut known);
        let fields: Vec<(String, &'static Node)> = definition
            .fields
            .iter()
            .filter(|field| known.contains(&field.name.as_ref()) && field.name != "selfLink")
            .map(|field| (field.name.to_string(), &field.node))
            .collect();
        // Few at a time: objects of everything are large.
        let count = fields.len();
        prop::collection::vec(0..count.max(1), 0..4)
            .prop_flat_map(move |chosen| {
                let parts: Vec<BoxedStrategy<(String, Value)>> = chosen
                    .into_iter()
                    .filter_map(|at| fields.get(at))
                    .map(|(name, node)| {
                        let name = name.clone();
                        some(node, depth).prop_map(move |value| (name.clone(), value)).boxed()
                    })
                    .collect();
                parts.prop_map(|parts| Value::Object(parts.into_iter().collect()))
            })
            .boxed()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        /// Every kind, there and back.
        #[test]
        fn any_object_comes_back(seed in any::<u64>()) {
            let registry = Registry::builtin();
            let rng = proptest::test_runner::TestRng::from_seed(
                proptest::test_runner::RngAlgorithm::ChaCha,
                &[seed.to_le_bytes(); 4].concat(),
            );
            let mut runner = proptest::test_runner::TestRunner::new_with_rng(ProptestConfig::default(), rng);
            for row in registry.iter().filter(|row| speaks(row)) {
                let definition = definition(&row.api_version(), &row.kind).unwrap();
                let tree = some_object(definition, 0).new_tree(&mut runner).unwrap();
                let mut object = proptest::strategy::ValueTree::current(&tree);
                object["apiVersion"] = row.api_version().into();
                object["kind"] = row.kind.as_ref().into();
                let back = back(&encode(&object).unwrap());
                prop_assert_eq!(without_zeros(&back), without_zeros(&object), "{}", row.kind);
            }
        }
    }

    #[test]
    fn lists_and_events() {
        let registry = Registry::builtin();
        let row = registry.get("", "v1", "configmaps").unwrap();
        let mut list = ListEncoder::new(Some(row), &json!({"resourceVersion": "7"})).unwrap();
        list.push(&json!({"metadata": {"name": "a"}, "data": {"k": "v"}}));
        let back = back(&list.finish());
        assert_eq!(back["items"][0]["data"]["k"], "v");
        assert_eq!((back["kind"].as_str(), &back["metadata"]["resourceVersion"]), (Some("ConfigMapList"), &json!("7")));
        let frame = frame("ADDED", b"xyz");
        assert_eq!(frame, [&[0, 0, 0, 14, 0x0a, 5][..], b"ADDED", &[0x12, 5, 0x0a, 3], b"xyz"].concat());
    }

    #[test]
    fn what_has_no_protobuf_form_has_none() {
        assert!(encode(&json!({"apiVersion": "example.com/v1", "kind": "Widget"})).is_none());
        assert!(encode(&json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table"})).is_none());
        let partial =
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a"}});
        let bytes = encode(&partial).unwrap();
        assert!(bytes.starts_with(b"k8s\0"));
        let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404, "metadata": {}});
        assert_eq!(back(&encode(&status).unwrap())["code"], 404);
    }
}
