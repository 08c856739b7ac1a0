//! The plugins, each by itself.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xebec_clock::{Clock, Random};
use xebec_pki::KeyAndRequest;
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;

use super::certificates::{
    CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest,
};
use super::claim_resize::PersistentVolumeClaimResize;
use super::default_ingress_class::DefaultIngressClass;
use super::default_storage_class::DefaultStorageClass;
use super::default_toleration_seconds::DefaultTolerationSeconds;
use super::devices::Devices;
use super::limit_ranger::LimitRanger;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::node_taint::TaintNodesByCondition;
use super::pod_topology_labels::PodTopologyLabels;
use super::priority::Priority;
use super::rbac_escalation::RbacEscalation;
use super::runtime_class::RuntimeClass;
use super::service_account::ServiceAccount;
use super::storage_object_in_use::StorageObjectInUseProtection;
use super::*;
use crate::authz::rbac::Rbac;
use crate::json::text;
use crate::test_reader::FakeReader;

/// A request, to be put before a plugin.
struct Request {
    user: UserInfo,
    resource: Arc<Resource>,
    subresource: &'static str,
    operation: Operation,
    namespace: &'static str,
    name: &'static str,
    object: Option<Value>,
    old: Option<Value>,
}

/// The row of a kind. Plugins also know kinds of the core group that are not served (yet): these are as pods are.
fn resource(plural: &str) -> Arc<Resource> {
    let registry = Registry::builtin();
    let found = registry.iter().find(|r| r.plural == plural).cloned();
    found.unwrap_or_else(|| {
        let pods = registry.get("", "v1", "pods").unwrap();
        Arc::new(Resource { plural: plural.to_owned().into(), ..Resource::clone(pods) })
    })
}

fn create(plural: &str, namespace: &'static str, object: Value) -> Request {
    Request {
        user: UserInfo { name: "jane".into(), ..UserInfo::default() },
        resource: resource(plural),
        subresource: "",
        operation: Operation::Create,
        namespace,
        name: "",
        object: Some(object),
        old: None,
    }
}

fn update(plural: &str, namespace: &'static str, name: &'static str, old: Value, new: Value) -> Request {
    Request { operation: Operation::Update, name, old: Some(old), ..create(plural, namespace, new) }
}

fn delete(plural: &str, namespace: &'static str, name: &'static str) -> Request {
    Request { operation: Operation::Delete, name, object: None, ..create(plural, namespace, Value::Null) }
}

fn node(name: &str) -> UserInfo {
    UserInfo { name: format!("system:node:{name}"), groups: vec!["system:nodes".into()], ..UserInfo::default() }
}

async fn run(plugin: &dyn Plugin, request: Request) -> Result<Value, Status> {
    let mut review = Review {
        user: &request.user,
        resource: &request.resource,
        requested: &request.resource,
        registry: Arc::default(),
        subresource: request.subresource,
        operation: request.operation,
        namespace: request.namespace,
        name: request.name,
        object: request.object,
        old: request.old.as_ref(),
        call: None,
        dry_run: false,
        reinvocation: super::dynamic::Reinvocation::default(),
        warnings: Vec::new(),
        annotations: Vec::new(),
    };
    plugin.mutate(&mut review).await?;
    plugin.validate(&mut review).await?;
    Ok(review.object.unwrap_or_default())
}

async fn refusal(plugin: &dyn Plugin, request: Request) -> String {
    run(plugin, request).await.expect_err("it should refuse").message
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec})
}

fn one_container() -> Value {
    json!({"containers": [{"name": "c"}]})
}

#[tokio::test]
async fn namespaces_must_be_there_to_stay() {
    let reader = FakeReader::new();
    let plugin = NamespaceLifecycle::new(reader.clone());
    let map = || create("configmaps", "ns", json!({"metadata": {"name": "a"}}));
    assert_eq!(refusal(&plugin, map()).await, "namespaces \"ns\" not found");
    reader.put("", "namespaces", json!({"metadata": {"name": "ns"}}));
    run(&plugin, map()).await.unwrap();
    reader.put("", "namespaces", json!({"metadata": {"name": "ns"}, "status": {"phase": "Terminating"}}));
    let status = run(&plugin, map()).await.unwrap_err();
    assert_eq!(
        status.message,
        "configmaps \"a\" is forbidden: unable to create new content in namespace ns because it is being terminated"
    );
    assert_eq!(status.details.unwrap().causes[0].reason, "NamespaceTerminating");
    run(&plugin, update("configmaps", "ns", "a", json!({}), json!({}))).await.unwrap();
    run(&plugin, delete("configmaps", "gone", "a")).await.unwrap();
    let refused = refusal(&plugin, delete("namespaces", "", "kube-system")).await;
    assert_eq!(refused, "namespaces \"kube-system\" is forbidden: this namespace may not be deleted");
    run(&plugin, delete("namespaces", "", "ns")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_run_as_accounts_that_exist() {
    let reader = FakeReader::new();
    let plugin = ServiceAccount::new(reader.clone(), Random::seeded(1));
    let refused = refusal(&plugin, create("pods", "ns", pod(one_container()))).await;
    assert_eq!(
        refused,
        "pods \"web\" is forbidden: error looking up service account ns/default: serviceaccount \"default\" not found"
    );
    let account = json!({"metadata": {"name": "default", "namespace": "ns"}, "imagePullSecrets": [{"name": "pull"}]});
    // The account is made while the pod waits for it.
    let later = reader.clone();
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        later.put("", "serviceaccounts", account);
    });
    let made = run(&plugin, create("pods", "ns", pod(one_container()))).await.unwrap();
    let spec = &made["spec"];
    assert_eq!((text(spec, "/serviceAccountName"), text(spec, "/serviceAccount")), ("default", "default"));
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    let volume = text(spec, "/volumes/0/name");
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    assert_eq!(text(spec, "/containers/0/volumeMounts/0/name"), volume);
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(text(spec, "/containers/0/volumeMounts/0/mountPath"), path);
    let sources = &spec["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"], json!({"expirationSeconds": 3607, "path": "token"}));
    assert_eq!(text(sources, "/1/configMap/name"), "kube-root-ca.crt");
    assert_eq!(text(sources, "/2/downwardAPI/items/0/fieldRef/fieldPath"), "metadata.namespace");

    let unwanted = json!({"containers": [{"name": "c"}], "automountServiceAccountToken": false});
    let made = run(&plugin, create("pods", "ns", pod(unwanted))).await.unwrap();
    assert!(made["spec"].get("volumes").is_none());
    let own = json!({"containers": [{"name": "c", "volumeMounts": [{"name": "x", "mountPath": path}]}]});
    let made = run(&plugin, create("pods", "ns", pod(own))).await.unwrap();
    assert!(made["spec"].get("volumes").is_none(), "somebody mounts their own token");
}

#[tokio::test]
async fn nodes_are_tainted_and_pods_tolerate_it_for_a_while() {
    let made = run(&TaintNodesByCondition, create("nodes", "", json!({"metadata": {"name": "n"}}))).await.unwrap();
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    assert_eq!(made["spec"]["taints"], json!([taint]));
    let again = run(&TaintNodesByCondition, create("nodes", "", made.clone())).await.unwrap();
    assert_eq!(again, made);

    let made = run(&DefaultTolerationSeconds, create("pods", "ns", pod(one_container()))).await.unwrap();
    let tolerations = made["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(tolerations.len(), 2);
    assert_eq!(tolerations[0]["tolerationSeconds"], 300);
    let everything = json!({"tolerations": [{"operator": "Exists"}]});
    let made = run(&DefaultTolerationSeconds, create("pods", "ns", pod(everything))).await.unwrap();
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn classes_become_priorities() {
    let reader = FakeReader::new();
    let plugin = Priority::new(reader.clone());
    let with = |spec: Value| create("pods", "ns", pod(spec));
    let made = run(&plugin, with(json!({}))).await.unwrap();
    assert_eq!(made["spec"], json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
    let refused = refusal(&plugin, with(json!({"priorityClassName": "high"}))).await;
    assert_eq!(refused, "pods \"web\" is forbidden: no PriorityClass with name high was found");
    let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
    reader.put("scheduling.k8s.io", "priorityclasses", class("high", 1000, false));
    let made = run(&plugin, with(json!({"priorityClassName": "high"}))).await.unwrap();
    assert_eq!((&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]), (&json!(1000), &json!("Never")));
    let refused = refusal(&plugin, with(json!({"priorityClassName": "high", "priority": 7}))).await;
    assert!(refused.contains("(7) must not be provided in pod spec; priority admission controller computed 1000"));
    reader.put("scheduling.k8s.io", "priorityclasses", class("usual", 5, true));
    let made = run(&plugin, with(json!({}))).await.unwrap();
    assert_eq!((text(&made, "/spec/priorityClassName"), &made["spec"]["priority"]), ("usual", &json!(5)));
    let refused = refusal(&plugin, create("priorityclasses", "", class("other", 6, true))).await;
    assert!(refused.ends_with("PriorityClass usual is already marked as default. Only one default can exist"));
}

#[tokio::test]
async fn who_looks_at_devices_and_since_when_they_are_tainted() {
    let reader = FakeReader::new();
    let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
    let plugin = Devices::new(reader.clone(), &clock);
    reader.put("", "namespaces", json!({"metadata": {"name": "ns"}}));
    let claim = || {
        let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu", "adminAccess": true}});
        let spec = json!({"devices": {"requests": [request]}});
        create("resourceclaims", "ns", json!({"metadata": {"name": "look", "namespace": "ns"}, "spec": spec}))
    };
    assert_eq!(
        refusal(&plugin, claim()).await,
        "ResourceClaim.resource.k8s.io \"look\" is invalid: spec.devices.requests[0].exactly.adminAccess: Forbidden: \
         admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing \
         namespace"
    );
    let labels = json!({"resource.kubernetes.io/admin-access": "true"});
    reader.put("", "namespaces", json!({"metadata": {"name": "ns", "labels": labels}}));
    run(&plugin, claim()).await.unwrap();
    let taints = json!([{"key": "a", "effect": "NoExecute"}, {"key": "b", "timeAdded": "2025-01-01T00:00:00Z"}]);
    let slice =
        json!({"metadata": {"name": "s"}, "spec": {"devices": [{"name": "x", "taints": taints}, {"name": "y"}]}});
    let made = run(&plugin, create("resourceslices", "", slice)).await.unwrap();
    let times = ["2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"];
    let found = [0, 1].map(|at| made["spec"]["devices"][0]["taints"][at]["timeAdded"].as_str().unwrap());
    assert_eq!(found, times);
    let rule = json!({"metadata": {"name": "r"}, "spec": {"taint": {"key": "a", "effect": "NoExecute"}}});
    let made = run(&plugin, create("devicetaintrules", "", rule)).await.unwrap();
    assert_eq!(made["spec"]["taint"]["timeAdded"], times[0]);
}

fn limits(reader: &FakeReader, items: Value) {
    reader.put("", "limitranges", json!({"metadata": {"name": "l", "namespace": "ns"}, "spec": {"limits": items}}));
}

#[tokio::test]
async fn limits_give_defaults() {
    let reader = FakeReader::new();
    limits(
        &reader,
        json!([{"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"},
        "defaultRequest": {"cpu": "100m"}}]),
    );
    let plugin = LimitRanger::new(reader.clone());
    let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]});
    let made = run(&plugin, create("pods", "ns", pod(spec))).await.unwrap();
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"], json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(resources["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
    let note = &made["metadata"]["annotations"]["kubernetes.io/limit-ranger"];
    assert_eq!(note, "LimitRanger plugin set: cpu, memory request for container c; memory limit for container c");
}

#[tokio::test]
async fn limits_are_kept() {
    let spec = |requests: Value, limits: Value| {
        let resources = json!({"requests": requests, "limits": limits});
        json!({"containers": [{"name": "a", "resources": resources}, {"name": "b", "resources": resources}]})
    };
    let cases = [
        (
            json!({"type": "Container", "min": {"cpu": "200m"}, "defaultRequest": {"x": "1"}}),
            "minimum cpu usage per Container is 200m, but request is 100m",
        ),
        (json!({"type": "Pod", "max": {"cpu": "500m"}}), "maximum cpu usage per Pod is 500m, but limit is 600m"),
        (
            json!({"type": "Pod", "max": {"memory": "1Gi"}}),
            "maximum memory usage per Pod is 1Gi.  No limit is specified",
        ),
        (
            json!({"type": "Pod", "min": {"memory": "1Gi"}}),
            "minimum memory usage per Pod is 1Gi.  No request is specified",
        ),
        (
            json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}}),
            "cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000",
        ),
    ];
    for (item, words) in cases {
        let reader = FakeReader::new();
        limits(&reader, json!([item]));
        let plugin = LimitRanger::new(reader.clone());
        let given = spec(json!({"cpu": "100m"}), json!({"cpu": "300m"}));
        let refused = refusal(&plugin, create("pods", "ns", pod(given))).await;
        assert!(refused.starts_with("pods \"web\" is forbidden: ") && refused.contains(words), "{refused}");
    }
    let reader = FakeReader::new();
    limits(
        &reader,
        json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
        {"type": "Pod", "max": {"cpu": "600m"}, "min": {"cpu": "200m"}}]),
    );
    let plugin = LimitRanger::new(reader.clone());
    let fits = spec(json!({"cpu": "100m"}), json!({"cpu": "300m"}));
    run(&plugin, create("pods", "ns", pod(fits))).await.unwrap();
    let claim = json!({"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = refusal(&plugin, create("persistentvolumeclaims", "ns", claim)).await;
    assert!(refused.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"));
}

#[tokio::test]
async fn a_node_changes_only_its_own() {
    let reader = FakeReader::new();
    let plugin = NodeRestriction::new(reader.clone());
    let mine = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"nodeName": "n1"}});
    reader.put("", "pods", mine.clone());
    reader.put("", "nodes", json!({"metadata": {"name": "n1"}}));
    let by = |name: &str, request: Request| Request { user: node(name), ..request };
    let labels = |labels: Value| json!({"metadata": {"name": "n1", "labels": labels}});
    run(&plugin, by("n1", create("nodes", "", labels(json!({"kubernetes.io/hostname": "n1", "a": "b"})))))
        .await
        .unwrap();
    run(&plugin, by("n1", delete("pods", "ns", "web"))).await.unwrap();
    run(&plugin, by("n1", create("leases", "kube-node-lease", json!({"metadata": {"name": "n1"}})))).await.unwrap();
    let status =
        |name| Request { subresource: "status", ..by(name, update("pods", "ns", "web", mine.clone(), mine.clone())) };
    run(&plugin, status("n1")).await.unwrap();

    let relabelled = json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"nodeName": "n1"}});
    let cases = [
        (by("n2", create("nodes", "", labels(json!({})))), "node \"n2\" is not allowed to modify node \"n1\""),
        (
            by("n1", create("nodes", "", labels(json!({"node-role.kubernetes.io/x": ""})))),
            "node \"n1\" is not allowed to set the following labels: node-role.kubernetes.io/x",
        ),
        (
            by("n1", create("nodes", "", labels(json!({"a.node-restriction.kubernetes.io/x": ""})))),
            "is not allowed to set the following labels",
        ),
        (
            by("n1", update("nodes", "", "n1", labels(json!({})), json!({"spec": {"taints": [{"key": "a"}]}}))),
            "node \"n1\" is not allowed to modify taints",
        ),
        (by("n2", delete("pods", "ns", "web")), "node \"n2\" can only delete pods with spec.nodeName set to itself"),
        (by("n1", create("pods", "ns", mine.clone())), "can only create mirror pods"),
        (status("n2"), "node \"n2\" can only update pod status for pods with spec.nodeName set to itself"),
        (Request { object: Some(relabelled), ..status("n1") }, "node \"n1\" cannot update labels through pod status"),
        (
            by("n1", create("leases", "kube-node-lease", json!({"metadata": {"name": "n2"}}))),
            "can only access node lease with the same name",
        ),
        (
            Request { user: UserInfo { name: "x".into(), ..node("") }, ..delete("pods", "ns", "web") },
            "could not determine node from user \"x\"",
        ),
    ];
    for (request, words) in cases {
        let refused = refusal(&plugin, request).await;
        assert!(refused.contains(words), "{refused:?} does not say {words:?}");
    }
}

#[tokio::test]
async fn a_mirror_pod_names_nothing() {
    let reader = FakeReader::new();
    reader.put("", "nodes", json!({"metadata": {"name": "n1"}}));
    let plugin = NodeRestriction::new(reader);
    let mirror = |spec: Value| {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1-uid", "controller": true});
        let mut spec = spec;
        spec["nodeName"] = "n1".into();
        let metadata =
            json!({"name": "web", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]});
        Request { user: node("n1"), ..create("pods", "ns", json!({"metadata": metadata, "spec": spec})) }
    };
    run(&plugin, mirror(json!({}))).await.unwrap();
    let secret = mirror(json!({"volumes": [{"name": "a", "secret": {"secretName": "x"}}]}));
    assert!(refusal(&plugin, secret).await.ends_with("node \"n1\" can not create pods that reference secrets"));
}

#[tokio::test]
async fn classes_of_storage_and_runtimes() {
    let reader = FakeReader::new();
    let plugin = DefaultStorageClass::new(reader.clone());
    let claim = |spec: Value| create("persistentvolumeclaims", "ns", json!({"metadata": {"name": "c"}, "spec": spec}));
    let made = run(&plugin, claim(json!({}))).await.unwrap();
    assert!(made["spec"].get("storageClassName").is_none());
    for (name, made) in [("old", "2025-01-01T00:00:00Z"), ("new", "2026-01-01T00:00:00Z")] {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        let metadata = json!({"name": name, "creationTimestamp": made, "annotations": annotations});
        reader.put("storage.k8s.io", "storageclasses", json!({"metadata": metadata}));
    }
    let made = run(&plugin, claim(json!({}))).await.unwrap();
    assert_eq!(text(&made, "/spec/storageClassName"), "new");
    let made = run(&plugin, claim(json!({"storageClassName": ""}))).await.unwrap();
    assert_eq!(made["spec"]["storageClassName"], "", "the empty name means no class");

    let plugin = RuntimeClass::new(reader.clone());
    let sandboxed = || create("pods", "ns", pod(json!({"runtimeClassName": "vm"})));
    assert!(refusal(&plugin, sandboxed()).await.ends_with("pod rejected: RuntimeClass \"vm\" not found"));
    reader.put(
        "node.k8s.io",
        "runtimeclasses",
        json!({"metadata": {"name": "vm"},
        "overhead": {"podFixed": {"memory": "64Mi"}}, "scheduling": {"nodeSelector": {"vm": "yes"}}}),
    );
    let made = run(&plugin, sandboxed()).await.unwrap();
    assert_eq!(made["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"vm": "yes"}));
}

/// RBAC in which `jane` has `rules`.
fn rbac(rules: Value) -> (Arc<FakeReader>, Arc<Rbac>) {
    let reader = FakeReader::new();
    let group = "rbac.authorization.k8s.io";
    reader.put(group, "clusterroles", json!({"metadata": {"name": "r"}, "rules": rules}));
    reader.put(
        group,
        "clusterrolebindings",
        json!({"metadata": {"name": "b"},
        "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"}]}),
    );
    (reader.clone(), Arc::new(Rbac::new(reader)))
}

#[tokio::test]
async fn signers_are_guarded() {
    let signers = |verb: &str, name: &str| {
        rbac(json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": [verb], "resourceNames": [name]}])).1
    };
    let request = |subresource, certificate: &str| {
        let object = |certificate: &str| {
            json!({"metadata": {"name": "c"},
            "spec": {"signerName": "example.com/x"}, "status": {"certificate": certificate}})
        };
        let new = object(certificate);
        Request { subresource, ..update("certificatesigningrequests", "", "c", object(""), new) }
    };
    let approval = |verb, name| CertificateApproval::new(signers(verb, name));
    run(&approval("approve", "example.com/x"), request("approval", "")).await.unwrap();
    run(&approval("approve", "example.com/*"), request("approval", "")).await.unwrap();
    let refused = refusal(&approval("sign", "example.com/x"), request("approval", "")).await;
    assert!(refused.ends_with("user not permitted to approve requests with signerName \"example.com/x\""), "{refused}");
    let signing = |verb| CertificateSigning::new(signers(verb, "example.com/x"));
    run(&signing("sign"), request("status", "abc")).await.unwrap();
    run(&signing("approve"), request("status", "")).await.unwrap();
    assert!(refusal(&signing("approve"), request("status", "abc")).await.contains("not permitted to sign"));

    let csr = |group: &str| {
        let pem = KeyAndRequest::generate("jane", &[group], &[]).unwrap().request_pem;
        let spec = json!({"signerName": "kubernetes.io/kube-apiserver-client", "request": STANDARD.encode(pem)});
        create("certificatesigningrequests", "", json!({"metadata": {"name": "c"}, "spec": spec}))
    };
    run(&CertificateSubjectRestriction, csr("dev")).await.unwrap();
    assert!(
        refusal(&CertificateSubjectRestriction, csr("system:masters")).await.contains("system:masters group is not")
    );
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
    let role = |rules: Value| create("roles", "ns", json!({"metadata": {"name": "x"}, "rules": rules}));
    let binding = |name: &str| {
        create(
            "rolebindings",
            "ns",
            json!({"metadata": {"name": "x"},
            "roleRef": {"kind": "ClusterRole", "name": name}, "subjects": [{"kind": "User", "name": "joe"}]}),
        )
    };
    let (reader, held) = rbac(pods.clone());
    let plugin = RbacEscalation::new(held.clone(), held);
    run(&plugin, role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]))).await.unwrap();
    let refused =
        refusal(&plugin, role(json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]))).await;
    assert_eq!(
        refused,
        "roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"jane\" (groups=[]) is attempting to grant RBAC \
         permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    );
    let several = json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "watch"]}]);
    assert!(refusal(&plugin, role(several)).await.ends_with(
        "held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"watch\"]}"
    ));
    run(&plugin, binding("r")).await.unwrap();
    reader.put(
        "rbac.authorization.k8s.io",
        "clusterroles",
        json!({"metadata": {"name": "all"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
    );
    assert!(refusal(&plugin, binding("all")).await.contains("not currently held"));
    let admin = UserInfo::system("admin");
    run(&plugin, Request { user: admin, ..binding("all") }).await.unwrap();
    let aggregating = json!({"metadata": {"name": "x"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
    assert!(refusal(&plugin, create("clusterroles", "", aggregating)).await.contains("not currently held"));

    let bind = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"]}]);
    let (reader, held) = rbac(bind);
    reader.put(
        "rbac.authorization.k8s.io",
        "clusterroles",
        json!({"metadata": {"name": "all"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
    );
    run(&RbacEscalation::new(held.clone(), held), binding("all")).await.unwrap();
}

/// The row of a kind of another group that may not be served (yet).
fn foreign(group: &'static str, plural: &str, request: Request) -> Request {
    let resource = Resource { group: group.into(), ..Resource::clone(&resource(plural)) };
    Request { resource: Arc::new(resource), ..request }
}

#[tokio::test]
async fn volumes_are_kept_while_used_and_grow_only_where_they_can() {
    let claim = json!({"metadata": {"name": "c"}});
    let made = run(&StorageObjectInUseProtection, create("persistentvolumeclaims", "ns", claim)).await.unwrap();
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let again = run(&StorageObjectInUseProtection, create("persistentvolumeclaims", "ns", made.clone())).await.unwrap();
    assert_eq!(again, made);

    let reader = FakeReader::new();
    let plugin = PersistentVolumeClaimResize::new(reader.clone());
    let grow = |phase: &str, to: &str| {
        let claim = |size: &str| {
            json!({"metadata": {"name": "c"}, "status": {"phase": phase},
            "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": size}}}})
        };
        update("persistentvolumeclaims", "ns", "c", claim("1Gi"), claim(to))
    };
    run(&plugin, grow("Pending", "1Gi")).await.unwrap();
    assert!(
        refusal(&plugin, grow("Pending", "2Gi")).await.ends_with("Only bound persistent volume claims can be expanded")
    );
    assert!(refusal(&plugin, grow("Bound", "2Gi")).await.contains("must support resize"));
    reader.put("storage.k8s.io", "storageclasses", json!({"metadata": {"name": "fast"}, "allowVolumeExpansion": true}));
    run(&plugin, grow("Bound", "2Gi")).await.unwrap();
}

#[tokio::test]
async fn ingresses_get_the_default_class() {
    let reader = FakeReader::new();
    let plugin = DefaultIngressClass::new(reader.clone());
    let ingress = |spec: Value| {
        foreign(
            "networking.k8s.io",
            "ingresses",
            create("ingresses", "ns", json!({"metadata": {"name": "i"}, "spec": spec})),
        )
    };
    assert_eq!(run(&plugin, ingress(json!({}))).await.unwrap()["spec"], json!({}));
    let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    reader.put(
        "networking.k8s.io",
        "ingressclasses",
        json!({"metadata": {"name": "main", "annotations": annotations}}),
    );
    reader.put("networking.k8s.io", "ingressclasses", json!({"metadata": {"name": "other"}}));
    assert_eq!(run(&plugin, ingress(json!({}))).await.unwrap()["spec"]["ingressClassName"], "main");
    let named = run(&plugin, ingress(json!({"ingressClassName": "x"}))).await.unwrap();
    assert_eq!(named["spec"]["ingressClassName"], "x");
}

#[tokio::test]
async fn pods_know_where_their_node_is() {
    let reader = FakeReader::new();
    let labels = json!({"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "x": "y"});
    reader.put("", "nodes", json!({"metadata": {"name": "n1", "labels": labels}}));
    let plugin = PodTopologyLabels::new(reader);
    let binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = run(&plugin, Request { subresource: "binding", ..create("pods", "ns", binding) }).await.unwrap();
    let expected = json!({"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r"});
    assert_eq!(bound["metadata"]["labels"], expected);
    let placed = run(&plugin, create("pods", "ns", pod(json!({"nodeName": "n1"})))).await.unwrap();
    assert_eq!(placed["metadata"]["labels"], expected);
    assert_eq!(run(&plugin, create("pods", "ns", pod(json!({})))).await.unwrap(), pod(json!({})));
}

#[tokio::test]
async fn trust_needs_attesting() {
    let rules = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["attest"],
        "resourceNames": ["example.com/x"]}]);
    let plugin = ClusterTrustBundleAttest::new(rbac(rules).1);
    let bundle = |signer: &str| {
        let object = json!({"metadata": {"name": "b"}, "spec": {"signerName": signer}});
        foreign("certificates.k8s.io", "clustertrustbundles", create("clustertrustbundles", "", object))
    };
    run(&plugin, bundle("example.com/x")).await.unwrap();
    run(&plugin, bundle("")).await.unwrap();
    let refused = refusal(&plugin, bundle("example.com/y")).await;
    assert!(refused.ends_with("user not permitted to attest for signerName \"example.com/y\""), "{refused}");
}

#[tokio::test]
async fn a_node_asks_for_its_own_certificates_and_its_own_pods_tokens() {
    let reader = FakeReader::new();
    let spec = json!({"nodeName": "n1", "serviceAccountName": "sa"});
    reader.put("", "pods", json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec}));
    reader.put("", "nodes", json!({"metadata": {"name": "n1"}}));
    reader.put("", "nodes", json!({"metadata": {"name": "n2"}}));
    reader.put("", "serviceaccounts", json!({"metadata": {"name": "sa", "namespace": "ns"}}));
    let plugin = NodeRestriction::new(reader);
    let asking = |who: &str, change: Value| {
        let mut spec = json!({"nodeName": who, "nodeUID": format!("{who}-uid"), "podName": "web", "podUID": "web-uid",
            "serviceAccountName": "sa", "serviceAccountUID": "sa-uid"});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let request = create("podcertificaterequests", "ns", json!({"metadata": {"name": "r"}, "spec": spec}));
        foreign("certificates.k8s.io", "podcertificaterequests", Request { user: node(who), ..request })
    };
    run(&plugin, asking("n1", json!({}))).await.unwrap();
    for (request, words) in [
        (asking("n1", json!({"nodeName": "n2"})), "Spec.NodeName=\"n2\", which is not the requesting node \"n1\""),
        (asking("n2", json!({})), "contains nodeName (\"n2\") which differs from \"n1\""),
        (asking("n1", json!({"podUID": "old"})), "contains pod UID (\"old\") which differs from \"web-uid\""),
        (asking("n1", json!({"podName": "none"})), "pods \"none\" not found"),
        (
            asking("n1", json!({"serviceAccountName": "x"})),
            "contains serviceAccountName (\"x\") which differs from \"sa\"",
        ),
        (asking("n1", json!({"serviceAccountUID": "x"})), "contains serviceAccountUID (\"x\") which differs"),
    ] {
        let refused = refusal(&plugin, request).await;
        assert!(refused.contains(words), "{refused:?} does not say {words:?}");
    }
    let token = |who: &str, bound: Value| {
        let object = json!({"spec": {"boundObjectRef": bound}});
        Request { user: node(who), subresource: "token", name: "sa", ..create("serviceaccounts", "ns", object) }
    };
    let of = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    run(&plugin, token("n1", of("web", "web-uid"))).await.unwrap();
    for (request, words) in [
        (token("n1", Value::Null), "node requested token not bound to a pod"),
        (token("n1", of("web", "")), "node requested token with a pod binding without a uid"),
        (token("n1", of("web", "other")), "does not match the UID in record"),
        (token("n2", of("web", "web-uid")), "node requested token bound to a pod scheduled on a different node"),
    ] {
        let refused = refusal(&plugin, request).await;
        assert!(refused.contains(words), "{refused}");
    }
    let csr = |who: &str| {
        let pem = KeyAndRequest::generate("system:node:n1", &["system:nodes"], &[]).unwrap().request_pem;
        let spec = json!({"signerName": "kubernetes.io/kubelet-serving", "request": STANDARD.encode(pem)});
        let object = json!({"metadata": {"name": "c"}, "spec": spec});
        Request { user: node(who), ..create("certificatesigningrequests", "", object) }
    };
    run(&plugin, csr("n1")).await.unwrap();
    assert!(refusal(&plugin, csr("n2")).await.contains("can only create a node CSR with CN=system:node:n2"));
}
