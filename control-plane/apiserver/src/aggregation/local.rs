//! The APIServices of what this server serves itself (kube-aggregator `controllers/autoregister`).

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use xebec_schema::registry::{self, Registry};

use super::{GROUP, PLURAL};

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Of custom resources: goes when they do.
const ALWAYS: &str = "true";
/// Of built-in kinds: made when the server starts.
const ON_START: &str = "onstart";

/// Where groups are that are computed: after all others.
pub(super) const COMPUTED_PRIORITIES: (i64, i64) = (100, 100);

/// What is to be written: method, path, body.
pub(super) type Write = (Method, String, Option<Value>);

/// What makes the APIServices those that there should be.
pub(super) fn plan(registry: &Registry, computed: &[(&str, &str)], services: &[Value]) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut wanted = BTreeSet::new();
    let collection = format!("/apis/{GROUP}/v1/{PLURAL}");
    for group in registry.groups() {
        for version in registry.versions(group) {
            let desired = desired(registry, group, version);
            let name = format!("{version}.{group}");
            let known = services.iter().find(|s| s["metadata"]["name"] == *name);
            match known {
                None => writes.push((Method::POST, collection.clone(), Some(desired))),
                Some(known) if known["metadata"]["labels"][MANAGED].is_string() && known["spec"] != desired["spec"] => {
                    let mut object = known.clone();
                    object["spec"] = desired["spec"].clone();
                    writes.push((Method::PUT, format!("{collection}/{name}"), Some(object)));
                }
                Some(_) => {}
            }
            wanted.insert(name);
        }
    }
    // What is served without being stored has one too, which whoever serves the same may make theirs.
    for (group, version) in computed {
        let name = format!("{version}.{group}");
        if !services.iter().any(|s| s["metadata"]["name"] == *name) {
            let spec = json!({"group": group, "version": version, "groupPriorityMinimum": COMPUTED_PRIORITIES.0,
                "versionPriority": COMPUTED_PRIORITIES.1});
            let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name}, "spec": spec});
            writes.push((Method::POST, collection.clone(), Some(object)));
        }
    }
    for service in services {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        if service["metadata"]["labels"][MANAGED] == ALWAYS && !wanted.contains(name) {
            writes.push((Method::DELETE, format!("{collection}/{name}"), None));
        }
    }
    writes
}

fn desired(registry: &Registry, group: &str, version: &str) -> Value {
    let custom = registry.resources(group, version).any(|row| row.custom.is_some());
    let (of_group, of_version) = registry::priorities(group, version);
    let mut spec = json!({
        "version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version,
    });
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": { MANAGED: if custom { ALWAYS } else { ON_START } },
        },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_one_and_those_of_others_are_left_alone() {
        let registry = Registry::builtin();
        let made = plan(&registry, &[], &[]);
        let bodies: Vec<Value> = made.into_iter().filter_map(|(_, _, body)| body).collect();
        let core = bodies.iter().find(|s| s["metadata"]["name"] == "v1.").expect("the core group's");
        assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
        assert_eq!(core["metadata"]["labels"][MANAGED], ON_START);
        let apps = bodies.iter().find(|s| s["metadata"]["name"] == "v1.apps").expect("that of apps");
        assert_eq!(apps["spec"]["groupPriorityMinimum"], 17800);
        assert_eq!(plan(&registry, &[], &bodies), []);
        let made = plan(&registry, &[("metrics.k8s.io", "v1beta1")], &bodies);
        assert_eq!(made.len(), 1);
        let taken = json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": {"service": {"name": "other"}}});
        let taken: Vec<Value> = bodies.iter().cloned().chain([taken]).collect();
        assert_eq!(plan(&registry, &[("metrics.k8s.io", "v1beta1")], &taken), []);
        let mut others = bodies.clone();
        let gone = json!({"metadata": {"name": "v1.gone.example.com", "labels": {MANAGED: ALWAYS}}, "spec": {}});
        let own = json!({"metadata": {"name": "v1.mine.example.com"}, "spec": {"service": {}}});
        others.extend([gone, own]);
        let deletions = plan(&registry, &[], &others);
        let path = format!("/apis/{GROUP}/v1/{PLURAL}/v1.gone.example.com");
        assert_eq!(deletions, [(Method::DELETE, path, None)]);
    }
}
