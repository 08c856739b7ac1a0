//! What other servers serve, in our discovery and OpenAPI documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use xebec_schema::registry;

use super::Remote;

/// The groups of other servers, each with its versions, best first.
fn groups(remotes: &[Arc<Remote>]) -> BTreeMap<&str, Vec<&Remote>> {
    let mut groups: BTreeMap<&str, Vec<&Remote>> = BTreeMap::new();
    for remote in remotes {
        groups.entry(&remote.group).or_default().push(remote);
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|remote| (-remote.priorities.1, remote.version.clone()));
    }
    groups
}

/// `GET /apis/{group}` of a group that only other servers serve.
pub(crate) fn group(remotes: &[Arc<Remote>], name: &str) -> Option<Value> {
    let mut group = groups(remotes).get(name).map(|versions| entry(name, versions))?;
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

fn entry(name: &str, versions: &[&Remote]) -> Value {
    let of =
        |remote: &&Remote| json!({ "groupVersion": format!("{name}/{}", remote.version), "version": remote.version });
    let versions: Vec<Value> = versions.iter().map(of).collect();
    let preferred = versions.first().cloned();
    json!({ "name": name, "versions": versions, "preferredVersion": preferred })
}

/// Adds their groups to `GET /apis`.
pub(crate) fn group_list(remotes: &[Arc<Remote>], list: &mut Value) {
    add(list, "groups", remotes, |group| group["name"].as_str(), entry);
}

/// Adds their groups to the aggregated form of it.
pub(crate) fn aggregated(remotes: &[Arc<Remote>], list: &mut Value) {
    add(
        list,
        "items",
        remotes,
        |group| group["metadata"]["name"].as_str(),
        |name, versions| {
            let versions: Vec<Value> = versions
            .iter()
            .map(|remote| {
                json!({ "version": remote.version, "resources": resources(remote), "freshness": "Current" })
            })
            .collect();
            json!({ "metadata": { "name": name, "creationTimestamp": null }, "versions": versions })
        },
    );
}

/// Adds the groups that a list does not have, where their priorities put them.
fn add(
    list: &mut Value,
    field: &str,
    remotes: &[Arc<Remote>],
    name_of: impl Fn(&Value) -> Option<&str>,
    make: impl Fn(&str, &[&Remote]) -> Value,
) {
    let Some(items) = list[field].as_array_mut() else { return };
    for (name, versions) in groups(remotes) {
        if items.iter().any(|item| name_of(item) == Some(name)) {
            continue;
        }
        let priority = versions.iter().map(|remote| remote.priorities.0).max().unwrap_or_default();
        let after = |item: &Value| {
            let other = name_of(item).unwrap_or_default();
            (i64::from(registry::priorities(other, "v1").0), std::cmp::Reverse(other))
                < (priority, std::cmp::Reverse(name))
        };
        let at = items.iter().position(after).unwrap_or(items.len());
        items.insert(at, make(name, &versions));
    }
}

/// A server's `APIResourceList` in the aggregated form.
fn resources(remote: &Remote) -> Vec<Value> {
    let all = remote.resources["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name_of = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
    let kind = |resource: &Value| {
        let or =
            |field: &str, own: &str| resource[field].as_str().filter(|text| !text.is_empty()).unwrap_or(own).to_owned();
        json!({
            "group": or("group", &remote.group), "version": or("version", &remote.version), "kind": resource["kind"],
        })
    };
    let mut out = Vec::new();
    for resource in all.iter().filter(|resource| !name_of(resource).contains('/')) {
        let name = name_of(resource);
        let mut entry = json!({
            "resource": name,
            "responseKind": kind(resource),
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"],
            "verbs": resource["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if resource[field].is_array() {
                entry[field] = resource[field].clone();
            }
        }
        let subresources: Vec<Value> = all
            .iter()
            .filter_map(|sub| {
                let below = name_of(sub).strip_prefix(&format!("{name}/"))?.to_owned();
                Some(json!({ "subresource": below, "responseKind": kind(sub), "verbs": sub["verbs"] }))
            })
            .collect();
        if !subresources.is_empty() {
            entry["subresources"] = subresources.into();
        }
        out.push(entry);
    }
    out
}

/// Adds their documents to the index of OpenAPI 3. (They are asked for under our names, and answered by them.)
pub(crate) fn openapi_v3(remotes: &[Arc<Remote>], index: &mut Value) {
    for remote in remotes.iter().filter(|remote| !remote.openapi_v3.is_empty()) {
        let path = format!("apis/{}/{}", remote.group, remote.version);
        let hash = remote.openapi_v3.split_once("hash=").map_or("", |(_, hash)| hash);
        index["paths"][&path] = json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") });
    }
}

/// Adds their paths and definitions to the Swagger 2 document; definitions that we have are ours.
pub(crate) fn openapi_v2(remotes: &[Arc<Remote>], document: &mut Value) {
    for remote in remotes {
        let prefix = format!("/apis/{}/{}/", remote.group, remote.version);
        for (path, item) in remote.openapi_v2["paths"].as_object().into_iter().flatten() {
            if path.starts_with(&prefix) {
                document["paths"][path] = item.clone();
            }
        }
        for (name, definition) in remote.openapi_v2["definitions"].as_object().into_iter().flatten() {
            if document["definitions"].get(name).is_none() {
                document["definitions"][name] = definition.clone();
            }
        }
    }
}
