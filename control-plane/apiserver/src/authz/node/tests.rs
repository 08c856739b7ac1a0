//! Requests by nodes.

use serde_json::json;

use super::*;
use crate::test_reader::FakeReader;

fn authorizer() -> NodeAuthorizer {
    let reader = FakeReader::new();
    reader.put(
        "",
        "pods",
        json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {
            "nodeName": "n1", "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}],
                "envFrom": [{"configMapRef": {"name": "all"}}]}],
            "volumes": [{"name": "a", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "data"}}]}}),
    );
    reader.put(
        "",
        "persistentvolumes",
        json!({"metadata": {"name": "pv"},
        "spec": {"claimRef": {"namespace": "ns", "name": "data"}}}),
    );
    reader.put(
        "",
        "pods",
        json!({"metadata": {"name": "other", "namespace": "ns"}, "spec": {
        "nodeName": "n2", "volumes": [{"name": "a", "secret": {"secretName": "theirs"}}]}}),
    );
    reader.put("resource.k8s.io", "resourceslices", json!({"metadata": {"name": "gpus"}, "spec": {"nodeName": "n1"}}));
    NodeAuthorizer::new(reader)
}

/// A request in short: `verb resource[.group][/subresource][:name][@namespace]`.
fn decide(authorizer: &NodeAuthorizer, node: &str, text: &str) -> Result<(), String> {
    let (verb, rest) = text.split_once(' ').unwrap();
    let (rest, selector) = rest.split_once('?').unwrap_or((rest, ""));
    let (rest, namespace) = rest.split_once('@').unwrap_or((rest, ""));
    let (rest, name) = rest.split_once(':').unwrap_or((rest, ""));
    let (rest, subresource) = rest.split_once('/').unwrap_or((rest, ""));
    let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
    let user = UserInfo {
        name: format!("system:node:{node}"),
        groups: vec!["system:nodes".into(), "system:authenticated".into()],
        ..UserInfo::default()
    };
    let attributes = Attributes {
        user,
        verb: verb.into(),
        resource: resource.into(),
        group: group.into(),
        subresource: subresource.into(),
        name: name.into(),
        namespace: namespace.into(),
        field_selector: selector.into(),
        is_resource: true,
        ..Attributes::default()
    };
    match authorizer.authorize(&attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(why) | Decision::Deny(why) | Decision::Failed { why, .. } => Err(why),
    }
}

#[test]
fn a_node_reads_what_its_pods_use() {
    let authorizer = authorizer();
    for text in [
        "get secrets:pull@ns",
        "watch secrets:env@ns",
        "get configmaps:all@ns",
        "list configmaps:kube-root-ca.crt@ns",
        "get persistentvolumeclaims:data@ns",
        "get persistentvolumes:pv",
        "create serviceaccounts/token:sa@ns",
        "get serviceaccounts:sa@ns",
        "get pods:web@ns",
    ] {
        assert_eq!(decide(&authorizer, "n1", text), Ok(()), "{text}");
        let none = "no relationship found between node 'n2' and this object";
        assert_eq!(decide(&authorizer, "n2", text), Err(none.into()), "{text}");
    }
    assert!(decide(&authorizer, "n1", "get secrets:theirs@ns").is_err());
    assert_eq!(decide(&authorizer, "n1", "list secrets@ns"), Err("No Object name found".into()));
    assert_eq!(decide(&authorizer, "n1", "update secrets:env@ns"), Err("can only read resources of this type".into()));
}

#[test]
fn a_node_keeps_to_itself() {
    let authorizer = authorizer();
    for text in [
        "get nodes:n1",
        "create nodes",
        "patch nodes/status:n1",
        "get leases.coordination.k8s.io:n1@kube-node-lease",
        "create leases.coordination.k8s.io@kube-node-lease",
        "watch pods?spec.nodeName=n1",
        "list pods?spec.nodeName==n1",
        "patch pods/status:web@ns",
        "delete pods:web@ns",
        "create certificatesigningrequests.certificates.k8s.io",
        "create events@ns",
        "create resourceslices.resource.k8s.io",
        "patch resourceslices.resource.k8s.io:gpus",
        "deletecollection resourceslices.resource.k8s.io?spec.nodeName=n1,spec.driver=gpu.example.com",
        "list services",
        "watch clustertrustbundles.certificates.k8s.io",
        "create podcertificaterequests.certificates.k8s.io@ns",
        "watch podcertificaterequests.certificates.k8s.io?spec.nodeName=n1",
    ] {
        assert_eq!(decide(&authorizer, "n1", text), Ok(()), "{text}");
    }
    let cases = [
        (
            "list resourceslices.resource.k8s.io",
            "can only list/watch/deletecollection resourceslices with nodeName field selector",
        ),
        ("update resourceslices.resource.k8s.io/status:gpus", "cannot authorize ResourceSlice subresources"),
        ("get nodes:n2", "node 'n1' cannot read 'n2', only its own Node object"),
        ("list nodes", "node 'n1' cannot read all nodes, only its own Node object"),
        (
            "get leases.coordination.k8s.io:n2@kube-node-lease",
            "can only access node lease with the same name as the requesting node",
        ),
        (
            "get leases.coordination.k8s.io:n1@default",
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        ("watch pods", "can only list/watch pods with spec.nodeName field selector"),
        ("watch pods?spec.nodeName=n10", "can only list/watch pods with spec.nodeName field selector"),
        ("watch pods?spec.nodeName!=n1", "can only list/watch pods with spec.nodeName field selector"),
        (
            "watch podcertificaterequests.certificates.k8s.io",
            "can only list/watch podcertificaterequests with spec.nodeName field selector",
        ),
        (
            "get podcertificaterequests.certificates.k8s.io:r@ns",
            "no relationship found between node 'n1' and this object",
        ),
        (
            "update podcertificaterequests.certificates.k8s.io/status:r@ns",
            "can only create, get, list, and watch podcertificaterequests",
        ),
        ("delete nodes:n1", ""),
        ("create deployments.apps@ns", ""),
        ("create pods/exec:web@ns", ""),
    ];
    for (text, why) in cases {
        assert_eq!(decide(&authorizer, "n1", text), Err(why.into()), "{text}");
    }
}

#[test]
fn others_are_none_of_its_business() {
    let authorizer = authorizer();
    let get = |user| Attributes {
        user,
        verb: "get".into(),
        resource: "nodes".into(),
        is_resource: true,
        ..Attributes::default()
    };
    let named = UserInfo { name: "system:node:n1".into(), ..UserInfo::default() };
    assert_eq!(authorizer.authorize(&get(named)), Decision::NoOpinion(String::new()));
    let unnamed = UserInfo { name: "n1".into(), groups: vec!["system:nodes".into()], ..UserInfo::default() };
    assert_eq!(authorizer.authorize(&get(unnamed)), Decision::NoOpinion("unknown node for user \"n1\"".into()));
}
