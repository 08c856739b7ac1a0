use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::registry::Registry;

fn row(group: &str, plural: &str) -> Arc<Resource> {
    Registry::builtin().get(group, "v1", plural).unwrap().clone()
}

fn told(group: &str, plural: &str, meta: Value) -> Vec<String> {
    metadata(&row(group, plural), &json!({"metadata": meta})).iter().map(ToString::to_string).collect()
}

#[test]
fn good_metadata_passes() {
    let meta = json!({"name": "web-1.a", "namespace": "default", "generateName": "web-", "labels": {"app.k8s.io/x": "a_b"},
        "annotations": {"Example.com/x": "any thing"}, "finalizers": ["example.com/a", "orphan"],
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u", "controller": true}]});
    assert_eq!(told("", "configmaps", meta), [""; 0]);
}

#[test]
fn bad_metadata_is_told_in_upstreams_words() {
    let meta = json!({"namespace": "default"});
    assert_eq!(told("", "configmaps", meta), ["metadata.name: Required value: name or generateName is required"]);
    let meta = json!({"name": "Web", "namespace": "default"});
    assert_eq!(
        told("", "configmaps", meta),
        [
            "metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
          characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
          used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ]
    );
    let meta = json!({"name": "a"});
    assert_eq!(told("", "configmaps", meta), ["metadata.namespace: Required value"]);
    let meta = json!({"name": "a", "namespace": "b"});
    assert_eq!(told("", "nodes", meta), ["metadata.namespace: Forbidden: not allowed on this type"]);
    let meta = json!({"name": "system:a", "annotations": {"a": "x".repeat(300_000)}});
    assert_eq!(
        told("node.k8s.io", "runtimeclasses", meta).last().unwrap(),
        "metadata.annotations: Too long: may not be more than 262144 bytes"
    );
    let meta = json!({"name": "a", "namespace": "b", "ownerReferences": [
        {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "controller": true},
        {"apiVersion": "v1", "kind": "B", "name": "", "uid": "2", "controller": true}]});
    let errors = told("", "configmaps", meta);
    assert_eq!(errors[0], "metadata.ownerReferences.name: Invalid value: \"\": must not be empty");
    assert!(
        errors[1].contains(
            "Only one reference can have Controller set to true. Found \"true\" in references for A/a and B/"
        )
    );
    let meta = json!({"name": "a", "namespace": "b", "finalizers": ["orphan", "foregroundDeletion", "a b"]});
    assert_eq!(told("", "configmaps", meta).len(), 2);
}

#[test]
fn what_is_immutable_stays() {
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1", "creationTimestamp": "2024-01-01T00:00:00Z", "generation": 3}});
    let mut new = json!({"metadata": {"name": "a", "namespace": "n", "generation": 7, "labels": {"x": "y"}}});
    carry_metadata(&mut new, &old);
    assert_eq!(new["metadata"]["uid"], "1");
    assert_eq!(new["metadata"]["generation"], 3);
    assert_eq!(metadata_update(&new, &old), []);
    new["metadata"]["uid"] = "2".into();
    carry_metadata(&mut new, &old);
    new["metadata"]["name"] = "b".into();
    let errors: Vec<_> = metadata_update(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "metadata.name: Invalid value: \"b\": field is immutable",
            "metadata.uid: Invalid value: \"2\": field is immutable"
        ]
    );
}

#[test]
fn an_object_that_goes_gets_no_new_finalizers() {
    let old = json!({"metadata": {"name": "a", "deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["a/a"]}});
    let mut new = json!({"metadata": {"name": "a", "finalizers": ["a/a", "b/b"]}});
    carry_metadata(&mut new, &old);
    assert_eq!(new["metadata"]["deletionTimestamp"], "2024-01-01T00:00:00Z");
    let errors: Vec<_> = metadata_update(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        ["metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
          finalizers []string{\"b/b\"}"]
    );
}

#[test]
fn finalizers_without_a_domain_are_warned_about() {
    let object = json!({"metadata": {"finalizers": ["mine", "orphan", "example.com/x"]}});
    let warnings = warnings(&row("", "configmaps"), &object);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("metadata.finalizers: \"mine\": prefer a domain-qualified finalizer name"));
}
