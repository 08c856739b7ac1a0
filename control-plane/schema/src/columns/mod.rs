//! The columns of each kind's table form, as `kubectl get` prints them (upstream `pkg/printers/internalversion`).
//!
//! The wide columns have priority 1; a server always fills them in, and `kubectl` leaves them out without `-o wide`.

mod admin;
mod duration;
mod network;
mod pod;
mod policy;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

pub use self::duration::human_duration;
use crate::kinds::json::{at, entries, list, text};
use crate::resource::Column;

/// The columns of a built-in kind, the Name column first (events have theirs last, as upstream); for a kind that has
/// none of its own, its name and when it was created.
pub fn columns(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("", "Pod") => pod::POD,
        ("", "PodTemplate") => workloads::POD_TEMPLATE,
        ("apps", "Deployment") => workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => workloads::REPLICA_SET,
        ("apps", "DaemonSet") => workloads::DAEMON_SET,
        ("apps", "StatefulSet") => workloads::STATEFUL_SET,
        ("apps", "ControllerRevision") => workloads::CONTROLLER_REVISION,
        ("batch", "Job") => workloads::JOB,
        ("policy", "PodDisruptionBudget") => workloads::POD_DISRUPTION_BUDGET,
        ("", "Service") => network::SERVICE,
        ("", "Endpoints") => network::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => network::ENDPOINT_SLICE,
        ("", "Node") => admin::NODE,
        ("", "Namespace") => admin::NAMESPACE,
        ("", "ConfigMap") => admin::CONFIG_MAP,
        ("", "ResourceQuota") => admin::RESOURCE_QUOTA,
        ("", "Secret") => admin::SECRET,
        ("", "ServiceAccount") => admin::SERVICE_ACCOUNT,
        ("" | "events.k8s.io", "Event") => admin::EVENT,
        ("coordination.k8s.io", "Lease") => admin::LEASE,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => admin::ROLE_BINDING,
        ("certificates.k8s.io", "CertificateSigningRequest") => admin::CERTIFICATE_SIGNING_REQUEST,
        ("scheduling.k8s.io", "PriorityClass") => admin::PRIORITY_CLASS,
        ("apiregistration.k8s.io", "APIService") => admin::API_SERVICE,
        ("node.k8s.io", "RuntimeClass") => admin::RUNTIME_CLASS,
        ("", "ReplicationController") => workloads::REPLICATION_CONTROLLER,
        ("batch", "CronJob") => workloads::CRON_JOB,
        ("", "PersistentVolume") => storage::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => storage::PERSISTENT_VOLUME_CLAIM,
        ("autoscaling", "HorizontalPodAutoscaler") => policy::HORIZONTAL_POD_AUTOSCALER,
        ("admissionregistration.k8s.io", kind) => match kind {
            "ValidatingAdmissionPolicy" => policy::VALIDATING_ADMISSION_POLICY,
            "MutatingAdmissionPolicy" => policy::MUTATING_ADMISSION_POLICY,
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => policy::ADMISSION_POLICY_BINDING,
            _ => policy::WEBHOOK_CONFIGURATION,
        },
        ("", "ComponentStatus") => policy::COMPONENT_STATUS,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => policy::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => policy::PRIORITY_LEVEL,
        ("networking.k8s.io", kind) => match kind {
            "Ingress" => network::INGRESS,
            "IngressClass" => network::INGRESS_CLASS,
            "NetworkPolicy" => network::NETWORK_POLICY,
            "ServiceCIDR" => network::SERVICE_CIDR,
            _ => network::IP_ADDRESS,
        },
        ("resource.k8s.io", kind) => match kind {
            "ResourceClaim" => policy::RESOURCE_CLAIM,
            "ResourceSlice" => policy::RESOURCE_SLICE,
            _ => policy::NAME_AND_AGE,
        },
        ("storage.k8s.io", kind) => match kind {
            "CSIDriver" => storage::CSI_DRIVER,
            "CSINode" => storage::CSI_NODE,
            "CSIStorageCapacity" => storage::CSI_STORAGE_CAPACITY,
            "StorageClass" => storage::STORAGE_CLASS,
            "VolumeAttachment" => storage::VOLUME_ATTACHMENT,
            _ => storage::VOLUME_ATTRIBUTES_CLASS,
        },
        ("certificates.k8s.io", "ClusterTrustBundle") => policy::CLUSTER_TRUST_BUNDLE,
        ("certificates.k8s.io", "PodCertificateRequest") => policy::NAME_AND_AGE,
        ("storagemigration.k8s.io", "StorageVersionMigration") => policy::STORAGE_VERSION_MIGRATION,
        _ => DEFAULT,
    }
}

/// The columns of a kind with none of its own (roles, limit ranges, custom resources without printer columns).
pub const DEFAULT: &[Column] = &[NAME, column("Created At", "date", "When the object was created", created_at)];

/// The name, first of nearly every kind.
pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "The object's name, unique among its kind in its namespace",
    priority: 0,
    cell: |object, _| text(object, "metadata.name").into(),
};

/// How long ago the object was created.
pub const AGE: Column = column("Age", "string", "How long ago the object was created", |object, now| {
    since(at(object, "metadata.creationTimestamp"), now).into()
});

/// A column that is always shown.
const fn column(
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { name, kind, format: "", description, priority: 0, cell }
}

/// A column that is shown with `-o wide`.
const fn wide(
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { name, kind, format: "", description, priority: 1, cell }
}

fn created_at(object: &Value, _: Timestamp) -> Value {
    at(object, "metadata.creationTimestamp").clone()
}

/// The time elapsed since an RFC 3339 timestamp, `<unknown>` when there is none.
fn since(timestamp: &Value, now: Timestamp) -> String {
    match parse_time(timestamp) {
        Some(then) => human_duration(now.duration_since(then)),
        None => "<unknown>".to_owned(),
    }
}

fn parse_time(timestamp: &Value) -> Option<Timestamp> {
    timestamp.as_str()?.parse().ok()
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

fn or_unset(text: &str) -> String {
    if text.is_empty() { "<unset>".to_owned() } else { text.to_owned() }
}

/// `a=1,b=2`, or `<none>` (apimachinery `labels.FormatLabels`).
fn format_labels(object: &Value, path: &str) -> String {
    let pairs: Vec<_> =
        entries(object, path).into_iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    or_none(&pairs.join(","))
}

/// A label selector as one line (apimachinery `metav1.FormatLabelSelector`).
fn format_selector(object: &Value, path: &str) -> String {
    let selector = at(object, path);
    let mut terms: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, value) in entries(selector, "matchLabels") {
        terms.entry(key).or_default().push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for requirement in list(selector, "matchExpressions") {
        let key = text(requirement, "key");
        let mut values: Vec<_> = list(requirement, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let term = match text(requirement, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        terms.entry(key).or_default().push(term);
    }
    or_none(&terms.into_values().flatten().collect::<Vec<_>>().join(","))
}

/// The names or images of a pod spec's containers, joined by commas.
fn containers(spec: &Value, field: &str) -> String {
    list(spec, "containers").iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",")
}

/// The first three of a list, and how many more (upstream `listWithMoreString`).
fn at_most_three(items: &[String]) -> String {
    const SHOWN: usize = 3;
    match items {
        [] => "<unset>".to_owned(),
        few if few.len() <= SHOWN => few.join(","),
        many => format!("{} + {} more...", many[..SHOWN].join(","), many.len() - SHOWN),
    }
}
