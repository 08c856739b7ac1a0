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
    let columns = if resource.columns.is_empty() { columns::DEFAULT } else { resource.columns };
    let rows: Vec<_> = objects.into_iter().map(|object| row(resource, columns, object, now, include)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": if list_metadata.is_null() { json!({}) } else { list_metadata },
        "columnDefinitions": columns.iter().map(definition).collect::<Vec<_>>(),
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

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn row(resource: &Resource, columns: &[Column], object: &Value, now: Timestamp, include: Include) -> Value {
    let cells: Vec<_> = columns.iter().map(|column| (column.cell)(object, now)).collect();
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
