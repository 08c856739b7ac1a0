//! The objects, and how they are reconciled.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::authn::UserInfo;
use crate::authz::rbac::Rbac;
use crate::authz::{Attributes, Decision};
use crate::json::text;
use crate::test_reader::FakeReader;

fn facts() -> Facts {
    Facts {
        secure_port: 6443,
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        node_port_range: (30000, 32767),
        load_balancer_pools: vec!["172.30.0.128/25".parse().unwrap()],
        client_ca_pem: "-----BEGIN".into(),
        request_header_ca_pem: String::new(),
    }
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|o| text(o, "/kind") == kind && text(o, "/metadata/name") == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn objects_are_distinct_and_their_namespaces_come_first() {
    let objects = desired(&facts());
    let mut seen = BTreeSet::new();
    let mut namespaces = BTreeSet::from([""]);
    for object in &objects {
        let key = (text(object, "/kind"), text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        assert!(seen.insert(key), "{key:?} twice");
        assert!(namespaces.contains(key.1), "{key:?} comes before its namespace");
        assert!(group_and_plural(key.0).is_some(), "{key:?}");
        if key.0 == "Namespace" {
            namespaces.insert(key.2);
        }
    }
    let service = find(&objects, "Service", "kubernetes");
    assert_eq!(text(service, "/spec/clusterIP"), "10.96.0.1");
    let config: Value =
        serde_json::from_str(text(find(&objects, "ConfigMap", "xebec-cluster"), "/data/config")).unwrap();
    assert_eq!(config["nodePortRange"], "30000-32767");
    assert_eq!(config["loadBalancerPools"], json!(["172.30.0.128/25"]));
}

#[test]
fn every_binding_leads_to_a_role() {
    let objects = desired(&facts());
    for binding in objects.iter().filter(|o| text(o, "/kind").ends_with("RoleBinding")) {
        find(&objects, text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
    }
    let edit = find(&objects, "ClusterRole", "edit");
    let admin = find(&objects, "ClusterRole", "admin");
    let rules = |object: &Value| object["rules"].as_array().unwrap().clone();
    assert!(rules(edit).iter().all(|rule| rules(admin).contains(rule)), "admin has all that edit has");
    assert!(rules(admin).len() > rules(edit).len());
    assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
}

/// The default policy at work.
#[test]
fn the_policy_permits_what_it_should() {
    let reader = FakeReader::new();
    for object in desired(&facts()) {
        let (group, plural) = group_and_plural(text(&object, "/kind")).unwrap();
        reader.put(group, plural, object);
    }
    let rbac = Rbac::new(reader.clone());
    reader.put(
        "rbac.authorization.k8s.io",
        "rolebindings",
        json!({"metadata": {"name": "b", "namespace": "ns"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "jane"}]}),
    );
    let allowed = |groups: &[&str], name: &str, verb: &str, group: &str, resource: &str, namespace: &str| {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        let attributes = Attributes {
            user: UserInfo { name: name.into(), groups, ..UserInfo::default() },
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            is_resource: true,
            ..Attributes::default()
        };
        matches!(rbac.authorize(&attributes), Decision::Allow(_))
    };
    let nodes: &[&str] = &["system:nodes"];
    let joining: &[&str] = &["system:bootstrappers:xebec:nodes"];
    assert!(allowed(nodes, "system:node:n", "watch", "discovery.k8s.io", "endpointslices", ""));
    assert!(allowed(nodes, "system:node:n", "watch", "networking.k8s.io", "networkpolicies", ""));
    assert!(allowed(nodes, "system:node:n", "list", "", "pods", ""), "policies name pods of other nodes");
    assert!(!allowed(nodes, "system:node:n", "watch", "", "secrets", "ns"));
    assert!(allowed(joining, "system:bootstrap:x", "create", "certificates.k8s.io", "certificatesigningrequests", ""));
    assert!(!allowed(joining, "system:bootstrap:x", "get", "", "nodes", ""));
    assert!(allowed(
        &["system:authenticated"],
        "joe",
        "create",
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        ""
    ));
    assert!(!allowed(&["system:unauthenticated"], "joe", "get", "", "pods", "ns"));
    assert!(allowed(&[], "jane", "list", "apps", "deployments", "ns"));
    assert!(!allowed(&[], "jane", "list", "", "secrets", "ns"), "view shows no secrets");
    assert!(!allowed(&[], "jane", "list", "apps", "deployments", "other"));
    let account = "system:serviceaccount:kube-system:deployment-controller";
    assert!(allowed(&[], account, "create", "apps", "replicasets", "ns"));
}

fn store(objects: &[Value]) -> impl Fn(&Value) -> Option<Value> {
    let map: BTreeMap<_, _> = objects.iter().map(|o| (ident(o), o.clone())).collect();
    move |object| map.get(&ident(object)).cloned()
}

fn ident(object: &Value) -> (String, String, String) {
    let part = |pointer| text(object, pointer).to_owned();
    (part("/kind"), part("/metadata/namespace"), part("/metadata/name"))
}

#[test]
fn a_second_start_writes_nothing() {
    let objects = desired(&facts());
    assert_eq!(plan(objects.clone(), |_| None).len(), objects.len());
    assert_eq!(plan(objects.clone(), store(&objects)), []);
}

#[test]
fn roles_gain_what_they_lack_and_keep_what_they_have() {
    let objects = desired(&facts());
    let role = |rules: Value, autoupdate: &str| {
        let mut role = find(&objects, "ClusterRole", "system:discovery").clone();
        role["rules"] = rules;
        role["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = autoupdate.into();
        role
    };
    let mine = json!({"verbs": ["get"], "nonResourceURLs": ["/mine"]});
    let changes = plan(objects.clone(), store(&[role(json!([mine]), "true")]));
    let update = changes.iter().find_map(|c| if let Change::Update(o) = c { Some(o) } else { None }).unwrap();
    assert_eq!(update["rules"].as_array().unwrap().len(), 2);
    assert_eq!(update["rules"][0], mine);
    let all = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    for stored in [role(json!([mine]), "false"), role(all, "true")] {
        let changes = plan(objects.clone(), store(&[stored]));
        assert!(!changes.iter().any(|c| matches!(c, Change::Update(_))));
    }
}

#[test]
fn a_new_address_replaces_the_old_one() {
    let at = |address: &str| endpoints(&[address.parse().unwrap()], 6443);
    let (before, after) = (at("172.30.0.2"), at("172.30.0.99"));
    assert_eq!(text(find(&before, "EndpointSlice", "kubernetes"), "/endpoints/0/addresses/0"), "172.30.0.2");
    let changes = plan(after, store(&before));
    let kinds: Vec<_> = changes.iter().map(|c| if let Change::Update(o) = c { text(o, "/kind") } else { "" }).collect();
    assert_eq!(kinds, ["Endpoints", "EndpointSlice"]);
}
