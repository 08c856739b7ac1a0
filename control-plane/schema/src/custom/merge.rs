//! A custom resource's schema as a definition of [`crate::types`]: what patches and server-side apply go by.

use std::sync::Arc;

use super::schema::{Additional, Schema};
use crate::types::{self, Definition, Field, List, Node, Patch, Scalar, Shape};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The definition of a kind with this schema; without one, nothing is known but what all kinds have.
pub(super) fn definition(name: String, schema: Option<&Schema>, preserve_unknown: bool) -> Definition {
    let open = Schema { preserve_unknown: true, ..Schema::default() };
    let mut definition = object(schema.unwrap_or(&open), true);
    definition.name = name.into();
    definition.preserve_unknown |= preserve_unknown;
    definition
}

fn object(schema: &Schema, with_metadata: bool) -> Definition {
    let mut fields: Vec<Field> = schema
        .properties
        .iter()
        .filter(|(name, _)| !(with_metadata && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")))
        .map(|(name, property)| Field {
            name: name.clone().into(),
            required: schema.required.contains(name),
            node: node(property),
            go_type: None,
            // Its own walker fills in a custom resource's defaults; server-side apply looks for those of keys here.
            default: property.default.clone().map(|value| Box::new(types::Default { value, zero_is_absent: false })),
        })
        .collect();
    if with_metadata {
        fields.extend(["apiVersion", "kind"].map(|name| Field {
            name: name.into(),
            required: false,
            node: plain(Shape::Scalar(Scalar::String)),
            go_type: None,
            default: None,
        }));
        fields.extend(types::reference(OBJECT_META).map(|reference| Field {
            name: "metadata".into(),
            required: false,
            node: plain(Shape::Reference(reference)),
            go_type: None,
            default: None,
        }));
        fields.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let additional = matches!(schema.additional_properties, Some(Additional::Allowed(true) | Additional::Schema(_)));
    Definition {
        name: "".into(),
        fields,
        atomic: schema.is_atomic_map(),
        preserve_unknown: schema.preserve_unknown || additional,
    }
}

fn plain(shape: Shape) -> Node {
    Node { shape, list: List::Atomic, atomic_map: false, patch: Patch::default() }
}

fn node(schema: &Schema) -> Node {
    let mut node = plain(shape(schema));
    node.list = match schema.list_type.as_deref() {
        Some("set") => List::Set,
        Some("map") => List::Map(schema.list_map_keys.iter().map(|key| key.clone().into()).collect()),
        _ => List::Atomic,
    };
    node.atomic_map = schema.is_atomic_map();
    node
}

fn shape(schema: &Schema) -> Shape {
    if schema.int_or_string {
        return Shape::Scalar(Scalar::IntOrString);
    }
    match (schema.kind.as_str(), &schema.items) {
        ("array", Some(items)) => Shape::List(Box::new(node(items))),
        ("object", _) => object_shape(schema),
        ("string", _) => Shape::Scalar(Scalar::String),
        ("integer", _) => Shape::Scalar(Scalar::Int64),
        ("number", _) => Shape::Scalar(Scalar::Double),
        ("boolean", _) => Shape::Scalar(Scalar::Bool),
        _ => Shape::Scalar(Scalar::Any),
    }
}

fn object_shape(schema: &Schema) -> Shape {
    match &schema.additional_properties {
        Some(Additional::Schema(value)) if schema.properties.is_empty() => Shape::Map(Box::new(node(value))),
        _ => Shape::Object(Arc::new(object(schema, schema.embedded))),
    }
}
