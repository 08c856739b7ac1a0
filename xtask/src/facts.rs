//! The facts about the built-in types, from upstream's OpenAPI definitions: `control-plane/schema/data/types.txt`.
//!
//! A definition is a line with its short name (and `atomic`, where a value of it is replaced as a whole); below it, a
//! line for each field, indented by a space: name, `!` if required, type, list type with its map keys, map type, patch
//! strategy with its merge key. No prose. `types.rs` of the schema crate reads it.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "$defs")]
    definitions: BTreeMap<String, Schema>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    #[serde(rename = "type")]
    kind: Option<Value>,
    format: Option<String>,
    items: Option<Box<Schema>>,
    additional_properties: Option<Value>,
    #[serde(default)]
    properties: BTreeMap<String, Schema>,
    #[serde(default)]
    required: Vec<String>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys", default)]
    list_map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    map_type: Option<String>,
    #[serde(rename = "x-kubernetes-patch-strategy")]
    patch_strategy: Option<String>,
    #[serde(rename = "x-kubernetes-patch-merge-key")]
    patch_merge_key: Option<String>,
}

/// Reads the definitions at `path` and prints the facts.
pub fn print(path: &str) -> Result<()> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let document: Document =
        serde_json::from_slice(&text).with_context(|| format!("{path} does not look like _definitions.json"))?;
    print!("{}", facts(&document)?);
    Ok(())
}

fn facts(document: &Document) -> Result<String> {
    let mut out = String::new();
    let mut definitions: Vec<_> = document.definitions.iter().map(|(name, schema)| (short(name), schema)).collect();
    definitions.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, schema) in definitions {
        if scalar(&name).is_some() {
            continue;
        }
        out.push_str(&name);
        if schema.map_type.as_deref() == Some("atomic") {
            out.push_str(" atomic");
        }
        out.push('\n');
        for (field, property) in &schema.properties {
            let required = if schema.required.contains(field) { "!" } else { "" };
            let kind = kind(property).with_context(|| format!("{name}.{field}"))?;
            write!(out, " {field}{required} {kind}")?;
            if let Some(list) = &property.list_type {
                write!(out, " list={list}")?;
                if !property.list_map_keys.is_empty() {
                    write!(out, ":{}", property.list_map_keys.join(","))?;
                }
            }
            if let Some(map) = &property.map_type {
                write!(out, " map={map}")?;
            }
            if let Some(strategy) = &property.patch_strategy {
                write!(out, " patch={strategy}")?;
                if let Some(key) = &property.patch_merge_key {
                    write!(out, ":{key}")?;
                }
            }
            out.push('\n');
        }
    }
    Ok(out)
}

/// The type of a field as one word.
fn kind(schema: &Schema) -> Result<String> {
    if let Some(reference) = &schema.reference {
        let name = short(reference.trim_start_matches("#/$defs/"));
        return Ok(scalar(&name).map_or(name, str::to_owned));
    }
    let types = match &schema.kind {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect(),
        _ => Vec::new(),
    };
    Ok(match (types.as_slice(), schema.format.as_deref()) {
        (["array"], _) => format!("[]{}", kind(schema.items.as_ref().context("an array without items")?)?),
        (["object"], _) => match &schema.additional_properties {
            Some(values) => format!("{{}}{}", kind(&Schema::deserialize(values)?)?),
            None => bail!("an inline object"),
        },
        (["string"], None) => "string".into(),
        (["string"], Some("byte")) => "bytes".into(),
        (["boolean"], _) => "bool".into(),
        (["integer"], Some(format @ ("int32" | "int64"))) => format.into(),
        (["number"], Some("double")) => "double".into(),
        other => bail!("an unknown type {other:?}"),
    })
}

/// `core.v1.Pod` for `io.k8s.api.core.v1.Pod`.
fn short(name: &str) -> String {
    name.replace("io.k8s.apiextensions-apiserver.pkg.apis.", "")
        .replace("io.k8s.kube-aggregator.pkg.apis.", "")
        .replace("io.k8s.apimachinery.pkg.apis.", "")
        .replace("io.k8s.apimachinery.pkg.", "")
        .replace("io.k8s.api.", "")
}

/// The word for a definition whose JSON form is not that of a struct.
fn scalar(short: &str) -> Option<&'static str> {
    Some(match short {
        "api.resource.Quantity" => "quantity",
        "meta.v1.Time" => "time",
        "meta.v1.MicroTime" => "microtime",
        "util.intstr.IntOrString" => "intorstring",
        "runtime.RawExtension" | "meta.v1.Patch" | "meta.v1.FieldsV1" => "raw",
        "apiextensions.v1.JSON" => "any",
        "apiextensions.v1.JSONSchemaPropsOrArray" => "schemaorarray",
        "apiextensions.v1.JSONSchemaPropsOrBool" => "schemaorbool",
        "apiextensions.v1.JSONSchemaPropsOrStringArray" => "schemaorstrings",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_one_line_a_field() {
        let document = serde_json::json!({ "$defs": {
            "io.k8s.api.core.v1.Foo": {
                "type": "object", "required": ["ports"], "x-kubernetes-map-type": "atomic",
                "properties": {
                    "ports": {
                        "type": ["array", "null"], "items": { "$ref": "#/$defs/io.k8s.api.core.v1.Port" },
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
                        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "port",
                    },
                    "limits": {
                        "type": "object",
                        "additionalProperties": { "$ref": "#/$defs/io.k8s.apimachinery.pkg.api.resource.Quantity" },
                    },
                },
            },
            "io.k8s.apimachinery.pkg.api.resource.Quantity": { "oneOf": [] },
        }});
        let document = Document::deserialize(document).unwrap();
        assert_eq!(
            facts(&document).unwrap(),
            "core.v1.Foo atomic\n limits {}quantity\n ports! []core.v1.Port list=map:port,protocol patch=merge:port\n"
        );
    }
}
