//! `NodeRestriction`: a node changes only itself, and the pods bound to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use xebec_pki::RequestedIdentity;
use xebec_schema::status::Status;

use super::support::{forbidden, is_mirror_pod};
use super::{Operation, Plugin, Review};
use crate::authz::node::{names_other_objects, node_name};
use crate::json::{decode, flag, list, text};
use crate::reader::Reader;

/// Labels of kubernetes.io and k8s.io that a node may set on itself (upstream `kubelet/pkg/apis/well_known_labels.go`).
const OWN_LABELS: [&str; 14] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/instance-type",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The plugin.
pub struct NodeRestriction {
    reader: Arc<dyn Reader>,
}

impl NodeRestriction {
    /// Pods and nodes are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn check(&self, node: &str, review: &Review<'_>) -> Result<(), Status> {
        if review.operation == Operation::Connect {
            return Ok(());
        }
        let refuse = |why: &str| Err(forbidden(review, why));
        if node.is_empty() {
            return refuse(&format!("could not determine node from user {:?}", review.user.name));
        }
        let checked = match (&*review.resource.group, &*review.resource.plural, review.subresource) {
            ("", "pods", "") => return self.pod(node, review),
            ("", "pods", "status") => pod_status(node, review),
            ("", "pods", "eviction") => return self.eviction(node, review),
            ("", "pods", other) => {
                Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("", "nodes", _) => own_node(node, review),
            ("", "persistentvolumeclaims", "status") => claim_status(node, review),
            ("", "persistentvolumeclaims", _) => Err("may only update PVC status".into()),
            ("coordination.k8s.io", "leases", _) => lease(node, review),
            ("", "serviceaccounts", "token") => return self.token(node, review),
            ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(node, review),
            ("certificates.k8s.io", "podcertificaterequests", "") => self.certificate_request(node, review),
            ("resource.k8s.io", "resourceslices", _) => resource_slice(node, review),
            ("storage.k8s.io", "csinodes", _) if object_name(review) != node => {
                Err("can only access CSINode with the same name as the requesting node".into())
            }
            _ => Ok(()),
        };
        checked.map_err(|why| forbidden(review, &why))
    }

    fn stored_pod(&self, review: &Review<'_>) -> Result<Value, Status> {
        match self.reader.get("", "pods", review.namespace, review.name) {
            Some(entry) => Ok(decode(&entry.bytes)),
            None => Err(Status::not_found("", "pods", review.name)),
        }
    }

    fn pod(&self, node: &str, review: &Review<'_>) -> Result<(), Status> {
        let checked = match (review.operation, &review.object) {
            (Operation::Create, Some(pod)) => self.mirror_pod(node, pod),
            (Operation::Delete, _) if text(&self.stored_pod(review)?, "/spec/nodeName") == node => Ok(()),
            (Operation::Delete, _) => {
                Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            _ => Err(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods")),
        };
        checked.map_err(|why| forbidden(review, &why))
    }

    fn mirror_pod(&self, node: &str, pod: &Value) -> Result<(), String> {
        if !is_mirror_pod(pod) {
            return Err(format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
            ));
        }
        if text(pod, "/spec/nodeName") != node {
            return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let itself = format!("node {node:?} can only create pods with an owner reference set to itself");
        let owner = match list(pod, "/metadata/ownerReferences") {
            [one] => one,
            [] => return Err(itself),
            _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
        };
        if (text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name")) != ("v1", "Node", node) {
            return Err(itself);
        }
        if !flag(owner, "/controller") {
            return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if flag(owner, "/blockOwnerDeletion") {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let stored = self.reader.get("", "nodes", "", node).ok_or_else(|| format!("nodes {node:?} not found"))?;
        if text(owner, "/uid") != &*stored.uid {
            let given = text(owner, "/uid");
            return Err(format!("node {node} UID mismatch: expected {given} got {}", stored.uid));
        }
        match names_other_objects(pod) {
            Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    /// A node has tokens made for the pods that it runs, and bound to them.
    fn token(&self, node: &str, review: &Review<'_>) -> Result<(), Status> {
        let Some(request) = &review.object else { return Ok(()) };
        let bound = |key: &str| text(request, &format!("/spec/boundObjectRef/{key}"));
        let refuse = |why: &str| Err(forbidden(review, why));
        if bound("kind") != "Pod" || bound("apiVersion") != "v1" {
            return refuse("node requested token not bound to a pod");
        }
        if bound("name").is_empty() {
            return refuse("node requested token with a pod binding without a name");
        }
        let (name, uid) = (bound("name"), bound("uid"));
        if uid.is_empty() {
            return refuse("node requested token with a pod binding without a uid");
        }
        let Some(pod) = self.reader.get("", "pods", review.namespace, name) else {
            return Err(Status::not_found("", "pods", name));
        };
        if *pod.uid != *uid {
            let is = &pod.uid;
            return refuse(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated ({is})"
            ));
        }
        if text(&decode(&pod.bytes), "/spec/nodeName") != node {
            return refuse("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }

    /// A node asks for certificates of the pods that it runs, as what they are.
    fn certificate_request(&self, node: &str, review: &Review<'_>) -> Result<(), String> {
        let (Operation::Create, Some(request)) = (review.operation, &review.object) else { return Ok(()) };
        let asked = |key: &str| text(request, &format!("/spec/{key}"));
        if asked("nodeName") != node {
            let named = asked("nodeName");
            return Err(format!(
                "PodCertificateRequest.Spec.NodeName={named:?}, which is not the requesting node {node:?}"
            ));
        }
        let stored = self.reader.get("", "nodes", "", node).ok_or_else(|| format!("nodes {node:?} not found"))?;
        let name = asked("podName");
        let of_pod = format!("PodCertificateRequest for pod {:?}", format!("{}/{name}", review.namespace));
        let differs = |what: &str, given: &str, is: &str| {
            if given == is {
                Ok(())
            } else {
                Err(format!("{of_pod} contains {what} ({given:?}) which differs from {is:?}"))
            }
        };
        differs("node UID", asked("nodeUID"), &stored.uid)?;
        let Some(pod) = self.reader.get("", "pods", review.namespace, name) else {
            return Err(format!("{of_pod}: pods {name:?} not found"));
        };
        let is = decode(&pod.bytes);
        differs("pod UID", asked("podUID"), &pod.uid)?;
        if is_mirror_pod(&is) {
            return Err(format!("{of_pod} is for a mirror pod"));
        }
        differs("nodeName", asked("nodeName"), text(&is, "/spec/nodeName"))?;
        differs("serviceAccountName", asked("serviceAccountName"), text(&is, "/spec/serviceAccountName"))?;
        let account = self.reader.get("", "serviceaccounts", review.namespace, asked("serviceAccountName"));
        let account = account.ok_or_else(|| format!("{of_pod}: its service account is not found"))?;
        differs("serviceAccountUID", asked("serviceAccountUID"), &account.uid)
    }

    fn eviction(&self, node: &str, review: &Review<'_>) -> Result<(), Status> {
        if text(&self.stored_pod(review)?, "/spec/nodeName") == node {
            return Ok(());
        }
        Err(forbidden(review, &format!("node {node} can only evict pods with spec.nodeName set to itself")))
    }
}

/// Requests for a node's own certificates are made under the node's own name.
fn signing_request(node: &str, review: &Review<'_>) -> Result<(), String> {
    const SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let Some(request) = review.object.as_ref().filter(|_| review.operation == Operation::Create) else { return Ok(()) };
    if !SIGNERS.contains(&text(request, "/spec/signerName")) {
        return Ok(());
    }
    let pem = STANDARD.decode(text(request, "/spec/request")).unwrap_or_default();
    let asked =
        RequestedIdentity::of_pem(&String::from_utf8_lossy(&pem)).map_err(|e| format!("unable to parse csr: {e}"))?;
    let own = format!("system:node:{node}");
    if asked.common_name == own { Ok(()) } else { Err(format!("can only create a node CSR with CN={own}")) }
}

fn resource_slice(node: &str, review: &Review<'_>) -> Result<(), String> {
    let name = |slice: &Value| text(slice, "/spec/nodeName").to_owned();
    match (review.operation, &review.object, review.old) {
        (Operation::Create, Some(slice), _) if name(slice) != node => {
            Err("can only create ResourceSlice with the same NodeName as the requesting node".into())
        }
        (Operation::Update | Operation::Delete, _, Some(old)) if name(old) != node => {
            let verb = if review.operation == Operation::Delete { "delete" } else { "update" };
            Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
        }
        _ => Ok(()),
    }
}

fn pod_status(node: &str, review: &Review<'_>) -> Result<(), String> {
    let (Some(new), Some(old)) = (&review.object, review.old) else { return Ok(()) };
    if text(old, "/spec/nodeName") != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if map(new, "/metadata/labels") != map(old, "/metadata/labels") {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if list(new, "/status/resourceClaimStatuses") != list(old, "/status/resourceClaimStatuses") {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

/// The name of the object, which a new one has in itself.
fn object_name<'a>(review: &'a Review<'_>) -> &'a str {
    match &review.object {
        Some(object) if review.operation == Operation::Create => text(object, "/metadata/name"),
        _ => review.name,
    }
}

fn own_node(node: &str, review: &Review<'_>) -> Result<(), String> {
    let name = object_name(review);
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = &review.object else { return Ok(()) };
    let empty = Value::Null;
    let old = review.old.unwrap_or(&empty);
    let forbidden: Vec<&str> = changed_keys(map(new, "/metadata/labels"), map(old, "/metadata/labels"))
        .into_iter()
        .filter(|label| !is_own_label(label))
        .collect();
    if review.operation == Operation::Create {
        if !forbidden.is_empty() {
            let labels = forbidden.join(", ");
            return Err(format!("node {node:?} is not allowed to set the following labels: {labels}"));
        }
        return Ok(());
    }
    if list(new, "/spec/taints") != list(old, "/spec/taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    if !forbidden.is_empty() {
        return Err(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
    }
    Ok(())
}

fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object).filter(|m| !m.is_empty())
}

fn changed_keys<'a>(a: Option<&'a Map<String, Value>>, b: Option<&'a Map<String, Value>>) -> BTreeSet<&'a str> {
    let keys = a.into_iter().chain(b).flat_map(|m| m.keys());
    let value = |m: Option<&'a Map<String, Value>>, key: &str| m.and_then(|m| m.get(key));
    keys.filter(|key| value(a, key) != value(b, key)).map(String::as_str).collect()
}

fn is_own_label(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved || OWN_LABELS.contains(&label) || OWN_LABEL_DOMAINS.iter().any(|parent| within(parent))
}

fn lease(node: &str, review: &Review<'_>) -> Result<(), String> {
    if review.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if object_name(review) != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn claim_status(node: &str, review: &Review<'_>) -> Result<(), String> {
    let (Some(new), Some(old)) = (&review.object, review.old) else { return Ok(()) };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        if let Some(metadata) = claim.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
            for key in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
                status.remove(key);
            }
        }
        claim
    };
    if rest(new) == rest(old) {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions"))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        match node_name(review.user) {
            Some(node) => self.check(node, review),
            None => Ok(()),
        }
    }
}
