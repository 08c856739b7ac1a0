//! Discovery: what the API tells of its groups, versions and resources, in the old form (a document for each group
//! version) and the aggregated one (`apidiscovery.k8s.io/v2`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::registry::Registry;
use crate::resource::{Resource, Subresource};

/// `GET /api`. `server_address` is host and port, as a client reaches this server.
pub fn api_versions(server_address: &str) -> Value {
    let address = json!({ "clientCIDR": "0.0.0.0/0", "serverAddress": server_address });
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address] })
}

/// `GET /apis`.
pub fn group_list(registry: &Registry) -> Value {
    let groups = registry.groups().into_iter().filter(|g| !g.is_empty());
    let groups: Vec<Value> = groups.map(|name| group_entry(registry, name)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `GET /apis/{group}`; `None` if there is no such group, or it is the core group.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    if name.is_empty() || registry.versions(name).is_empty() {
        return None;
    }
    let mut group = group_entry(registry, name);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

fn group_entry(registry: &Registry, name: &str) -> Value {
    let entry = |version: &&str| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    let versions: Vec<Value> = registry.versions(name).iter().map(entry).collect();
    let preferred = versions.first().cloned();
    json!({ "name": name, "versions": versions, "preferredVersion": preferred })
}

/// `GET /api/v1` and `GET /apis/{group}/{version}`; `None` if there is no such group version.
pub fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut rows = registry.resources(group, version).peekable();
    rows.peek()?;
    let resources: Vec<Value> = rows
        .flat_map(|row| {
            let subresources = row.subresources.iter().map(|sub| list_subresource(row, sub));
            std::iter::once(list_resource(row)).chain(subresources).collect::<Vec<_>>()
        })
        .collect();
    let mut list = json!({ "kind": "APIResourceList", "resources": resources });
    if group.is_empty() {
        list["groupVersion"] = version.into();
    } else {
        list["apiVersion"] = "v1".into();
        list["groupVersion"] = format!("{group}/{version}").into();
    }
    Some(list)
}

fn list_resource(row: &Resource) -> Value {
    let mut entry = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": verbs(row),
    });
    names(&mut entry, row);
    if !row.virtual_kind && row.custom.as_ref().is_none_or(|custom| custom.stored().is_none()) {
        entry["storageVersionHash"] = storage_version_hash(row).into();
    }
    entry
}

/// What can be done. With objects of a kind whose definition is being deleted, nothing but what ends them.
fn verbs(row: &Resource) -> Vec<&str> {
    let ends = row.custom.as_ref().is_some_and(|custom| custom.is_terminating());
    let verbs = row.verbs.iter().map(AsRef::as_ref);
    verbs.filter(|verb| !(ends && matches!(*verb, "create" | "patch" | "update"))).collect()
}

/// Short names and categories, where there are any.
fn names(entry: &mut Value, row: &Resource) {
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
}

fn list_subresource(row: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", row.plural, sub.name),
        "singularName": "",
        "namespaced": row.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if !sub.version.is_empty() {
        entry["group"] = json!(sub.group);
        entry["version"] = json!(sub.version);
    }
    entry
}

/// Tells in which form objects are stored, without telling the form (apiserver `discovery.StorageVersionHash`).
fn storage_version_hash(row: &Resource) -> String {
    let digest = Sha256::digest(format!("{}/{}/{}", row.storage_group(), row.storage_version(), row.kind));
    STANDARD.encode(&digest[..8])
}

/// `GET /api` (`core`) and `GET /apis` in the aggregated form.
pub fn aggregated_v2(registry: &Registry, core: bool) -> Value {
    let groups = registry.groups().into_iter().filter(|g| g.is_empty() == core);
    let items: Vec<Value> = groups.map(|group| aggregated_group(registry, group)).collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

fn aggregated_group(registry: &Registry, group: &str) -> Value {
    let versions = registry.versions(group).into_iter().map(|version| {
        let resources: Vec<Value> = registry.resources(group, version).map(|row| aggregated_resource(row)).collect();
        json!({ "version": version, "resources": resources, "freshness": "Current" })
    });
    let mut metadata = json!({ "creationTimestamp": null });
    if !group.is_empty() {
        metadata["name"] = group.into();
    }
    json!({ "metadata": metadata, "versions": versions.collect::<Vec<_>>() })
}

fn aggregated_resource(row: &Resource) -> Value {
    let subresources = row.subresources.iter().map(|sub| {
        let (group, version) =
            if sub.version.is_empty() { (&row.group, &row.version) } else { (&sub.group, &sub.version) };
        json!({
            "subresource": sub.name,
            "responseKind": { "group": group, "version": version, "kind": sub.kind },
            "verbs": sub.verbs,
        })
    });
    let subresources: Vec<Value> = subresources.collect();
    let mut entry = json!({
        "resource": row.plural,
        "responseKind": { "group": row.group, "version": row.version, "kind": row.kind },
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": verbs(row),
    });
    names(&mut entry, row);
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(list: &Value, name: &str) -> Value {
        list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone()
    }

    #[test]
    fn resources_are_listed_as_upstream_lists_them() {
        let registry = Registry::builtin();
        let core = resource_list(&registry, "", "v1").unwrap();
        assert_eq!(core["groupVersion"], "v1");
        assert!(core.get("apiVersion").is_none());
        assert_eq!(
            entry(&core, "pods"),
            json!({"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "shortNames": ["po"],
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "categories": ["all"], "storageVersionHash": "xPOwRZ+Yhw8="})
        );
        assert_eq!(
            entry(&core, "pods/eviction"),
            json!({"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1",
                "kind": "Eviction", "verbs": ["create"]})
        );
        let apps = resource_list(&registry, "apps", "v1").unwrap();
        assert_eq!(apps["apiVersion"], "v1");
        assert_eq!(entry(&apps, "deployments")["storageVersionHash"], "8aSe+NMegvE=");
        assert_eq!(entry(&apps, "deployments/scale")["kind"], "Scale");
        let events = resource_list(&registry, "events.k8s.io", "v1").unwrap();
        assert_eq!(entry(&events, "events")["storageVersionHash"], "r2yiGXH7wu8=");
        assert!(resource_list(&registry, "apps", "v9").is_none());
    }

    #[test]
    fn groups_name_their_versions() {
        let registry = Registry::builtin();
        let expected = json!({"groupVersion": "apps/v1", "version": "v1"});
        let list = group_list(&registry);
        assert_eq!(list["groups"][1], json!({"name": "apps", "versions": [expected], "preferredVersion": expected}));
        assert_eq!(group(&registry, "apps").unwrap()["kind"], "APIGroup");
        assert!(group(&registry, "").is_none() && group(&registry, "nope").is_none());
        assert_eq!(api_versions("10.0.0.1:6443")["serverAddressByClientCIDRs"][0]["serverAddress"], "10.0.0.1:6443");
    }

    #[test]
    fn both_forms_tell_the_same() {
        let registry = Registry::builtin();
        let mut aggregated = Vec::new();
        for list in [aggregated_v2(&registry, true), aggregated_v2(&registry, false)] {
            for group in list["items"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                for resource in group["versions"][0]["resources"].as_array().unwrap() {
                    aggregated.push(format!("{name}/{}", resource["resource"].as_str().unwrap()));
                    for sub in resource["subresources"].as_array().into_iter().flatten() {
                        let (resource, sub) =
                            (resource["resource"].as_str().unwrap(), sub["subresource"].as_str().unwrap());
                        aggregated.push(format!("{name}/{resource}/{sub}"));
                    }
                }
            }
        }
        let mut listed = Vec::new();
        for group in registry.groups() {
            let list = resource_list(&registry, group, "v1").unwrap();
            listed.extend(
                list["resources"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|r| format!("{group}/{}", r["name"].as_str().unwrap())),
            );
        }
        assert_eq!(aggregated, listed);
    }
}
