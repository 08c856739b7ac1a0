//! From a CustomResourceDefinition to rows of the resource table.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::columns;
use super::json_path::JsonPath;
use super::rules::Rules;
use super::schema::Schema;
use super::{Conversion, Custom, Scale, merge};
use crate::kinds::json::{at, list, text, truth};
use crate::kinds::{keep_status, unset_status};
use crate::registry::version_rank;
use crate::resource::{PLAIN, Resource, Strategy, Subresource};

/// A custom resource without a status subresource: what it calls status is a field as any other.
const WITHOUT_STATUS: Strategy = Strategy { generation: true, unconditional_update: false, ..PLAIN };

/// A custom resource with a status subresource.
const WITH_STATUS: Strategy = Strategy { prepare_create: unset_status, prepare_update: keep_status, ..WITHOUT_STATUS };

/// In the order in which upstream's discovery lists them for custom resources.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// What a CustomResourceDefinition puts into the resource table.
#[derive(Clone, Debug)]
pub struct Rows {
    /// A row for each version that is served.
    pub served: Vec<Arc<Resource>>,
    /// The row of the version in which objects are stored, which need not be served.
    pub stored: Arc<Resource>,
}

/// The rows of a CustomResourceDefinition, with the names that it has been given (`status.acceptedNames`). `None` for one
/// without a storage version.
pub fn rows(definition: &Value) -> Option<Rows> {
    let versions = list(definition, "spec.versions");
    let selectable = selectable(versions);
    let storage = versions.iter().find(|version| truth(version, "storage"))?;
    let stored = Arc::new(row(definition, storage, &selectable, None));
    let served = versions.iter().filter(|version| truth(version, "served")).map(|version| {
        if truth(version, "storage") {
            stored.clone()
        } else {
            Arc::new(row(definition, version, &selectable, Some(stored.clone())))
        }
    });
    let served = served.collect();
    Some(Rows { served, stored })
}

/// The selectable fields of all versions, each once.
fn selectable(versions: &[Value]) -> Vec<(String, JsonPath)> {
    let mut found: Vec<(String, JsonPath)> = Vec::new();
    for path in versions.iter().flat_map(|version| list(version, "selectableFields")).map(|f| text(f, "jsonPath")) {
        let label = path.trim_start_matches('.').to_owned();
        if let Ok(path) = JsonPath::parse(path)
            && found.iter().all(|(known, _)| *known != label)
        {
            found.push((label, path));
        }
    }
    found
}

fn row(
    definition: &Value,
    version: &Value,
    selectable: &[(String, JsonPath)],
    stored: Option<Arc<Resource>>,
) -> Resource {
    let group = text(definition, "spec.group");
    let names = at(definition, "status.acceptedNames");
    let kind = text(names, "kind");
    let name = text(version, "name");
    let has_status = at(version, "subresources.status").is_object();
    let scale = Scale::deserialize(at(version, "subresources.scale")).ok();
    let mut subresources = Vec::new();
    if scale.is_some() {
        subresources.push(subresource("scale", "autoscaling", "v1", "Scale"));
    }
    if has_status {
        subresources.push(subresource("status", "", "", kind));
    }
    let owned = |path: &str| Cow::<'static, str>::Owned(text(names, path).to_owned());
    let words = |path: &str| -> Cow<'static, [Cow<'static, str>]> {
        list(names, path).iter().filter_map(|w| Some(Cow::Owned(w.as_str()?.to_owned()))).collect()
    };
    let custom = custom(definition, version, selectable, stored);
    Resource {
        group: group.to_owned().into(),
        version: name.to_owned().into(),
        kind: kind.to_owned().into(),
        list_kind: owned("listKind"),
        plural: owned("plural"),
        singular: owned("singular"),
        short_names: words("shortNames"),
        categories: words("categories"),
        namespaced: text(definition, "spec.scope") == "Namespaced",
        verbs: VERBS.iter().map(|verb| Cow::Borrowed(*verb)).collect(),
        subresources: subresources.into(),
        schema: custom.definition.name.clone(),
        strategy: if has_status { WITH_STATUS } else { WITHOUT_STATUS },
        columns: &[],
        virtual_kind: false,
        custom: Some(Arc::new(custom)),
    }
}

fn subresource(name: &'static str, group: &'static str, version: &'static str, kind: &str) -> Subresource {
    Subresource {
        name: name.into(),
        group: group.into(),
        version: version.into(),
        kind: kind.to_owned().into(),
        verbs: ["get", "patch", "update"].into_iter().map(Cow::Borrowed).collect(),
    }
}

fn custom(
    definition: &Value,
    version: &Value,
    selectable: &[(String, JsonPath)],
    stored: Option<Arc<Resource>>,
) -> Custom {
    let group = text(definition, "spec.group");
    let kind = text(definition, "status.acceptedNames.kind");
    let name = text(version, "name");
    let published = at(version, "schema.openAPIV3Schema");
    let schema = published.is_object().then(|| Schema::read(published));
    let preserve_unknown = truth(definition, "spec.preserveUnknownFields");
    let conversion = match text(definition, "spec.conversion.strategy") {
        "Webhook" => Conversion::Webhook(at(definition, "spec.conversion.webhook").clone()),
        _ => Conversion::None,
    };
    let labels =
        list(version, "selectableFields").iter().map(|f| text(f, "jsonPath").trim_start_matches('.').to_owned());
    Custom {
        api_version: format!("{group}/{name}"),
        kind: kind.to_owned(),
        definition: merge::definition(model_name(group, name, kind), schema.as_ref(), preserve_unknown),
        schema,
        rules: Rules::read(published, true),
        published: published.clone(),
        preserve_unknown,
        columns: columns::read(at(version, "additionalPrinterColumns")),
        selectable: selectable.to_vec(),
        labels: labels.collect(),
        has_status: at(version, "subresources.status").is_object(),
        scale: Scale::deserialize(at(version, "subresources.scale")).ok(),
        conversion,
        stored,
        terminating: !at(definition, "metadata.deletionTimestamp").is_null(),
        deprecation: deprecation(definition, version),
    }
}

/// `com.example.v1.Widget`: how OpenAPI documents call the kind.
fn model_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

fn deprecation(definition: &Value, version: &Value) -> Option<String> {
    if !truth(version, "deprecated") {
        return None;
    }
    if let Some(text) = at(version, "deprecationWarning").as_str() {
        return Some(text.to_owned());
    }
    let (group, name) = (text(definition, "spec.group"), text(version, "name"));
    let kind = text(definition, "spec.names.kind");
    let mut better: Vec<&str> = list(definition, "spec.versions")
        .iter()
        .filter(|v| truth(v, "served") && !truth(v, "deprecated"))
        .map(|v| text(v, "name"))
        .filter(|v| version_rank(v) < version_rank(name))
        .collect();
    better.sort_by_key(|v| version_rank(v));
    let advice = better.first().map_or_else(String::new, |v| format!("; use {group}/{v} {kind}"));
    Some(format!("{group}/{name} {kind} is deprecated{advice}"))
}
