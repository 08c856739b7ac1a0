//! The Swagger 2 document as protobuf (`application/com.github.proto-openapi.spec.v2@v1.0+protobuf`): gnostic's
//! `openapi_v2.Document`. kubectl asks for it in no other form, when it meets a kind that no OpenAPI 3 document has.
//!
//! One walker over the JSON, led by a table of gnostic's tags for what our documents hold.

use serde_json::Value;

/// Messages that a field holds.
#[derive(Clone, Copy)]
enum Message {
    Document,
    Info,
    PathItem,
    Operation,
    Parameter,
    Body,
    Query,
    Path,
    Response,
    Schema,
    ApiKey,
    Security,
}

/// How a field's JSON is written.
#[derive(Clone, Copy)]
enum How {
    /// A string, a boolean or a whole number.
    Plain,
    /// A list of strings.
    Texts,
    /// Any value, as YAML.
    Any,
    /// A list of any values.
    Anys,
    /// A message.
    One(Message),
    /// A list of messages.
    Many(Message),
    /// An object of messages: a message whose field (the number) repeats names and values.
    Named(u32, Message),
    /// Named values, each in so many messages that have it as their field (the number).
    NamedWithin(u32, u32, Message),
    /// A string or a list of strings in a message of its own.
    Within,
    /// A schema in a message of its own.
    SchemaWithin,
    /// A schema or a boolean.
    SchemaOrFlag,
    /// Lists of strings by name.
    Requirement,
}

/// Tag and form of a message's field. What begins with `x-` is not here.
fn field(message: Message, key: &str) -> Option<(u32, How)> {
    use How::{
        Any, Anys, Many, Named, NamedWithin, One, Plain, Requirement, SchemaOrFlag, SchemaWithin, Texts, Within,
    };
    Some(match (message, key) {
        (Message::Document, "swagger") | (Message::Info, "title") => (1, Plain),
        (Message::Document, "info") => (2, One(Message::Info)),
        (Message::Document, "paths") => (8, Named(2, Message::PathItem)),
        (Message::Document, "definitions") => (9, Named(1, Message::Schema)),
        (Message::Document, "security") => (12, Many(Message::Security)),
        (Message::Document, "securityDefinitions") => (13, NamedWithin(1, 2, Message::ApiKey)),
        (Message::Info, "version") => (2, Plain),
        (Message::PathItem, method) => {
            match ["get", "put", "post", "delete", "options", "head", "patch"].iter().position(|m| *m == method) {
                Some(at) => (2 + u32::try_from(at).ok()?, One(Message::Operation)),
                None if method == "parameters" => (9, Many(Message::Parameter)),
                None => return None,
            }
        }
        (Message::Operation, "tags") => (1, Texts),
        (Message::Operation, "description") => (3, Plain),
        (Message::Operation, "operationId") => (5, Plain),
        (Message::Operation, "produces") => (6, Texts),
        (Message::Operation, "consumes") => (7, Texts),
        (Message::Operation, "parameters") => (8, Many(Message::Parameter)),
        (Message::Operation, "responses") => (9, NamedWithin(1, 1, Message::Response)),
        (Message::Operation, "schemes") => (10, Texts),
        (Message::Body, "description") => (1, Plain),
        (Message::Body, "name") => (2, Plain),
        (Message::Body, "in") => (3, Plain),
        (Message::Body, "required") => (4, Plain),
        (Message::Body, "schema") => (5, One(Message::Schema)),
        (Message::Query | Message::Path, "required") => (1, Plain),
        (Message::Query | Message::Path, "in") => (2, Plain),
        (Message::Query | Message::Path, "description") => (3, Plain),
        (Message::Query | Message::Path, "name") => (4, Plain),
        (Message::Query, "type") => (6, Plain),
        (Message::Query, "format") => (7, Plain),
        (Message::Query, "uniqueItems") => (20, Plain),
        (Message::Path, "type") => (5, Plain),
        (Message::Path, "format") => (6, Plain),
        (Message::Path, "uniqueItems") => (19, Plain),
        (Message::Response, "description") => (1, Plain),
        (Message::Response, "schema") => (2, SchemaWithin),
        (Message::Schema, "$ref") => (1, Plain),
        (Message::Schema, "format") => (2, Plain),
        (Message::Schema, "title") => (3, Plain),
        (Message::Schema, "description") => (4, Plain),
        (Message::Schema, "default") => (5, Any),
        (Message::Schema, "pattern") => (13, Plain),
        (Message::Schema, "required") => (19, Texts),
        (Message::Schema, "enum") => (20, Anys),
        (Message::Schema, "additionalProperties") => (21, SchemaOrFlag),
        (Message::Schema, "type") => (22, Within),
        (Message::Schema, "items") => (23, SchemaWithin),
        (Message::Schema, "properties") => (25, Named(1, Message::Schema)),
        (Message::ApiKey, "type") => (1, Plain),
        (Message::ApiKey, "name") => (2, Plain),
        (Message::ApiKey, "in") => (3, Plain),
        (Message::ApiKey, "description") => (4, Plain),
        (Message::Security, _) => (1, Requirement),
        _ => return None,
    })
}

/// Where a message keeps what begins with `x-`.
fn extension_tag(message: Message) -> u32 {
    match message {
        Message::Document => 16,
        Message::Info => 7,
        Message::PathItem => 10,
        Message::Operation => 13,
        Message::Body => 6,
        Message::Query => 23,
        Message::Path => 22,
        Message::Response | Message::ApiKey => 5,
        Message::Schema => 31,
        Message::Parameter | Message::Security => 0,
    }
}

/// Encodes the document that [`super::v2`] makes.
pub fn encode(document: &Value) -> Vec<u8> {
    message(Message::Document, document)
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn bytes(out: &mut Vec<u8>, tag: u32, content: &[u8]) {
    varint(out, u64::from(tag) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn number(out: &mut Vec<u8>, tag: u32, number: u64) {
    varint(out, u64::from(tag) << 3);
    varint(out, number);
}

/// A message with one field of bytes.
fn within(tag: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, tag, content);
    out
}

/// A name and its value.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = within(1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

fn message(kind: Message, value: &Value) -> Vec<u8> {
    if let Message::Parameter = kind {
        return parameter(value);
    }
    let mut out = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        if key.starts_with("x-") {
            bytes(&mut out, extension_tag(kind), &named(key, &any(value)));
        } else if let Some((tag, how)) = field(kind, key) {
            put(&mut out, tag, how, key, value);
        }
    }
    out
}

/// A parameter is in a message that says which kind it is, in another.
fn parameter(value: &Value) -> Vec<u8> {
    let parameter = match value["in"].as_str() {
        Some("body") => within(1, &message(Message::Body, value)),
        Some("path") => within(2, &within(4, &message(Message::Path, value))),
        _ => within(2, &within(3, &message(Message::Query, value))),
    };
    within(1, &parameter)
}

/// `Any`: JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    within(2, value.to_string().as_bytes())
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    list.chain(value.as_str())
}

fn put(out: &mut Vec<u8>, tag: u32, how: How, key: &str, value: &Value) {
    match how {
        How::Plain => match value {
            Value::String(text) => bytes(out, tag, text.as_bytes()),
            Value::Bool(flag) => number(out, tag, u64::from(*flag)),
            Value::Number(count) => number(out, tag, count.as_u64().unwrap_or(0)),
            _ => {}
        },
        How::Texts => texts(value).for_each(|text| bytes(out, tag, text.as_bytes())),
        How::Any => bytes(out, tag, &any(value)),
        How::Anys => value.as_array().into_iter().flatten().for_each(|item| bytes(out, tag, &any(item))),
        How::One(kind) => bytes(out, tag, &message(kind, value)),
        How::Many(kind) => {
            value.as_array().into_iter().flatten().for_each(|item| bytes(out, tag, &message(kind, item)))
        }
        How::Named(field, kind) => {
            let mut map = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                bytes(&mut map, field, &named(name, &message(kind, value)));
            }
            bytes(out, tag, &map);
        }
        How::NamedWithin(field, wrapper, kind) => {
            let mut map = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                bytes(&mut map, field, &named(name, &within(wrapper, &message(kind, value))));
            }
            bytes(out, tag, &map);
        }
        How::Within => {
            let mut list = Vec::new();
            texts(value).for_each(|text| bytes(&mut list, 1, text.as_bytes()));
            bytes(out, tag, &list);
        }
        How::SchemaWithin => bytes(out, tag, &within(1, &message(Message::Schema, value))),
        How::SchemaOrFlag => {
            let mut item = Vec::new();
            match value {
                Value::Bool(flag) => number(&mut item, 2, u64::from(*flag)),
                schema => bytes(&mut item, 1, &message(Message::Schema, schema)),
            }
            bytes(out, tag, &item);
        }
        How::Requirement => {
            let mut list = Vec::new();
            texts(value).for_each(|text| bytes(&mut list, 1, text.as_bytes()));
            bytes(out, tag, &named(key, &list));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_small_document_by_hand() {
        let document = json!({
            "swagger": "2.0",
            "definitions": {"A": {"type": "object", "x-k": [1]}},
        });
        let schema = [
            &[0xb2, 0x01, 8, 0x0a, 6],
            b"object".as_slice(),
            &[0xfa, 0x01, 12, 0x0a, 3],
            b"x-k",
            &[0x12, 5, 0x12, 3],
            b"[1]",
        ]
        .concat();
        let entry = [&[0x0a, 1, b'A', 0x12, schema.len() as u8], schema.as_slice()].concat();
        let definitions = [&[0x0a, entry.len() as u8], entry.as_slice()].concat();
        // Keys come in the order of the map: definitions, swagger.
        let expected = [&[0x4a, definitions.len() as u8], definitions.as_slice(), &[0x0a, 3], b"2.0"].concat();
        assert_eq!(encode(&document), expected);
    }

    /// Nothing of the real document is left out for want of a tag.
    #[test]
    fn every_key_has_a_tag() {
        fn check(kind: Message, value: &Value, missing: &mut Vec<String>) {
            for (key, value) in value.as_object().into_iter().flatten() {
                if key.starts_with("x-") {
                    continue;
                }
                let objects = || value.as_object().into_iter().flatten().map(|(_, value)| value);
                match field(kind, key) {
                    None => missing.push(format!("{key} of {value}").chars().take(120).collect()),
                    Some((_, How::One(kind))) => check(kind, value, missing),
                    Some((_, How::Named(_, kind) | How::NamedWithin(_, _, kind))) => {
                        objects().for_each(|value| check(kind, value, missing));
                    }
                    Some((_, How::SchemaWithin | How::SchemaOrFlag)) => check(Message::Schema, value, missing),
                    Some((_, How::Many(Message::Parameter))) => {
                        for parameter in value.as_array().into_iter().flatten() {
                            let kind = match parameter["in"].as_str() {
                                Some("body") => Message::Body,
                                Some("path") => Message::Path,
                                _ => Message::Query,
                            };
                            check(kind, parameter, missing);
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        let mut missing = Vec::new();
        check(Message::Document, &super::super::v2(&crate::registry::Registry::builtin()), &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }
}
