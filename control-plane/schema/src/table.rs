//! The table form of objects, `meta.k8s.io/v1 Table`: what `kubectl get` asks for.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::columns;
use crate::kinds::json::text;
use crate::resource::{Column, Resource};

/// How much of each object a row carries (`includeObject` of the request).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// The whole object.
    Full,
    /// A `PartialObjectMetadata`: what a client gets that does not say.
    #[default]
    Metadata,
    /// Nothing.
    None,
}

impl Include {
    /// From the query parameter's value; `None` for one that is none of `Object`, `Metadata`, `None`, empty.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "Object" => Some(Self::Full),
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            _ => None,
        }
    }
}

/// A table of `objects`. `list_metadata` becomes the table's: the `ListMeta` of a list; for a single object, its
/// `resourceVersion`. A watch sends the column definitions with the first event only: see [`without_columns`].
pub fn render<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    now: Timestamp,
    include: Include,
    list_metadata: Value,
) -> Value {
    let rows: Vec<_> = objects.into_iter().map(|object| row(resource, object, now, include)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": if list_metadata.is_null() { json!({}) } else { list_metadata },
        "columnDefinitions": definitions(resource),
        "rows": rows,
    })
}

/// The same table without its column definitions, as the second and later events of a watch have it.
pub fn without_columns(mut table: Value) -> Value {
    if let Some(object) = table.as_object_mut() {
        object.insert("columnDefinitions".to_owned(), Value::Null);
    }
    table
}

fn columns_of(resource: &Resource) -> &'static [Column] {
    if resource.columns.is_empty() { columns::DEFAULT } else { resource.columns }
}

fn definitions(resource: &Resource) -> Vec<Value> {
    match &resource.custom {
        Some(custom) => {
            let own = custom.columns().iter().map(crate::custom::Column::definition);
            std::iter::once(crate::custom::name_definition()).chain(own).collect()
        }
        None => columns_of(resource).iter().map(definition).collect(),
    }
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    match &resource.custom {
        Some(custom) => {
            let own = custom.columns().iter().map(|column| column.cell(object, now));
            std::iter::once(text(object, "metadata.name").into()).chain(own).collect()
        }
        None => columns_of(resource).iter().map(|column| (column.cell)(object, now)).collect(),
    }
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn row(resource: &Resource, object: &Value, now: Timestamp, include: Include) -> Value {
    let cells = cells(resource, object, now);
    let carried = match include {
        Include::Full => object.clone(),
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
        }),
        Include::None => Value::Null,
    };
    let mut row = json!({ "cells": cells, "object": carried });
    if let Some(condition) = finished(resource, object) {
        row["conditions"] = json!([condition]);
    }
    row
}

/// The condition by which `kubectl get` could tell finished pods from others.
fn finished(resource: &Resource, object: &Value) -> Option<Value> {
    if resource.kind != "Pod" || !resource.group.is_empty() {
        return None;
    }
    let (reason, message) = match text(object, "status.phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({ "type": "Completed", "status": "True", "reason": reason, "message": message }))
}
