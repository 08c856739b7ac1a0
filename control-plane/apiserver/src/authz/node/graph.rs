//! Which node uses what: from a node's pods to the objects they name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::json::{decode, list, text};
use crate::reader::{Entry, Reader};

/// How many pods' references are remembered; all are forgotten when there are more.
const REMEMBERED: usize = 65_536;

/// A kind of object that a node may be related to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ServiceAccount,
    ResourceClaim,
    ResourceSlice,
    Attachment,
    CertificateRequest,
}

/// What a pod names, in its own namespace.
type References = BTreeSet<(What, String)>;

/// A pod's revision, and what it names.
type Known = (u64, Arc<References>);

pub(super) struct Graph {
    reader: Arc<dyn Reader>,
    /// By pod UID.
    known: Mutex<HashMap<Arc<str>, Known>>,
}

impl Graph {
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, known: Mutex::default() }
    }

    /// Whether `node` runs a pod that uses the object.
    pub(super) fn is_related(&self, node: &str, what: What, namespace: &str, name: &str) -> bool {
        match what {
            What::Pod => self.reader.get("", "pods", namespace, name).is_some_and(|pod| on_node(&pod, node)),
            What::Attachment => self
                .reader
                .get("storage.k8s.io", "volumeattachments", "", name)
                .is_some_and(|entry| text(&decode(&entry.bytes), "/spec/nodeName") == node),
            What::ResourceSlice => self
                .reader
                .get("resource.k8s.io", "resourceslices", "", name)
                .is_some_and(|entry| text(&decode(&entry.bytes), "/spec/nodeName") == node),
            What::CertificateRequest => {
                let entry = self.reader.get("certificates.k8s.io", "podcertificaterequests", namespace, name);
                entry.is_some_and(|entry| text(&decode(&entry.bytes), "/spec/nodeName") == node)
            }
            What::Volume => {
                let Some(volume) = self.reader.get("", "persistentvolumes", "", name) else { return false };
                let volume = decode(&volume.bytes);
                let (namespace, claim) =
                    (text(&volume, "/spec/claimRef/namespace"), text(&volume, "/spec/claimRef/name"));
                !claim.is_empty() && self.is_used(node, What::Claim, namespace, claim)
            }
            _ => self.is_used(node, what, namespace, name),
        }
    }

    fn is_used(&self, node: &str, what: What, namespace: &str, name: &str) -> bool {
        let wanted = (what, name.to_owned());
        let pods = self.reader.list("", "pods", namespace);
        pods.iter().any(|pod| on_node(pod, node) && self.references(pod).contains(&wanted))
    }

    fn references(&self, pod: &Entry) -> Arc<References> {
        if let Some((revision, known)) = self.known.lock().get(&pod.uid)
            && *revision == pod.revision
        {
            return known.clone();
        }
        let found = Arc::new(references(&decode(&pod.bytes)));
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(pod.uid.clone(), (pod.revision, found.clone()));
        found
    }
}

fn on_node(pod: &Entry, node: &str) -> bool {
    pod.field("spec.nodeName") == node
}

/// Everything a pod names in its namespace.
fn references(pod: &Value) -> References {
    let mut out = References::new();
    let mut add = |what: What, name: &str| {
        if !name.is_empty() {
            out.insert((what, name.to_owned()));
        }
    };
    add(What::ServiceAccount, text(pod, "/spec/serviceAccountName"));
    for secret in list(pod, "/spec/imagePullSecrets") {
        add(What::Secret, text(secret, "/name"));
    }
    for containers in ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"] {
        for container in list(pod, containers) {
            for source in list(container, "/envFrom") {
                add(What::Secret, text(source, "/secretRef/name"));
                add(What::ConfigMap, text(source, "/configMapRef/name"));
            }
            for variable in list(container, "/env") {
                add(What::Secret, text(variable, "/valueFrom/secretKeyRef/name"));
                add(What::ConfigMap, text(variable, "/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    for volume in list(pod, "/spec/volumes") {
        add(What::Secret, text(volume, "/secret/secretName"));
        add(What::ConfigMap, text(volume, "/configMap/name"));
        add(What::Claim, text(volume, "/persistentVolumeClaim/claimName"));
        if volume.get("ephemeral").is_some() {
            add(What::Claim, &format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")));
        }
        for (kind, secret) in
            [("csi", "/nodePublishSecretRef/name"), ("flexVolume", "/secretRef/name"), ("iscsi", "/secretRef/name")]
        {
            if let Some(source) = volume.get(kind) {
                add(What::Secret, text(source, secret));
            }
        }
        for source in list(volume, "/projected/sources") {
            add(What::Secret, text(source, "/secret/name"));
            add(What::ConfigMap, text(source, "/configMap/name"));
        }
    }
    for claim in list(pod, "/spec/resourceClaims") {
        add(What::ResourceClaim, text(claim, "/resourceClaimName"));
    }
    for claim in list(pod, "/status/resourceClaimStatuses") {
        add(What::ResourceClaim, text(claim, "/resourceClaimName"));
    }
    out
}

/// What a pod names that one made by a node must not; `None` if it names nothing.
pub(crate) fn names_other_objects(pod: &Value) -> Option<&'static str> {
    let named = references(pod);
    let has = |what: What| named.iter().any(|(w, _)| *w == what);
    let words = [
        (What::ServiceAccount, "a service account"),
        (What::Secret, "secrets"),
        (What::ConfigMap, "configmaps"),
        (What::Claim, "persistentvolumeclaims"),
        (What::ResourceClaim, "resourceclaims"),
    ];
    words.into_iter().find(|(what, _)| has(*what)).map(|(_, words)| words)
}
