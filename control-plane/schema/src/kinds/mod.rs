//! What differs from kind to kind: defaults, what create and update may set, validation with upstream's words, field
//! selectors and warnings.
//!
//! Each kind is a file with one `STRATEGY`; [`pod_spec`] holds what every kind with a pod template shares, [`checks`]
//! the vocabulary. Upstream: `pkg/registry/*/strategy.go`, `pkg/apis/*/v1/defaults.go`,
//! `pkg/apis/*/validation/validation.go`.
//!
//! What the API server relies on:
//! - `default` is idempotent.
//! - `prepare_create` comes after the server has filled in name, UID and creation time (jobs derive their selector from
//!   their UID), and before validation. It sets the status that a new object has.
//! - `prepare_update` is for the main resource only, and carries over the old status. For an update of the status
//!   subresource the server itself takes the old object and puts the new status (and metadata) into it.
//! - `validate_update` includes what `validate` finds in the new object.

pub(crate) mod checks;
pub(crate) mod json;
pub(crate) mod pod_spec;

mod admission_policy;
mod api_service;
mod autoscaler;
mod certificate_signing_request;
mod config_map;
mod controller_revision;
mod cron_job;
pub(crate) mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod devices;
mod endpoint_slice;
mod endpoints;
mod event;
mod flow_control;
mod ingress;
mod job;
mod lease;
mod limit_range;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod pod_parts;
mod pod_template;
mod priority_class;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod runtime_class;
mod secret;
pub mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
mod storage;
mod storage_migration;
#[cfg(test)]
mod tests;
mod trust;
mod webhook_configuration;

use serde_json::{Value, json};

use crate::resource::{PLAIN, Strategy};

/// The strategy of a built-in kind; [`PLAIN`] for a kind with nothing special about it.
pub fn strategy(group: &str, kind: &str) -> Strategy {
    match (group, kind) {
        ("", "Pod") => pod::STRATEGY,
        ("", "Service") => service::STRATEGY,
        ("", "Namespace") => namespace::STRATEGY,
        ("", "Node") => node::STRATEGY,
        ("", "ConfigMap") => config_map::STRATEGY,
        ("", "Secret") => secret::STRATEGY,
        ("", "ServiceAccount") => service_account::STRATEGY,
        ("", "Event") => event::STRATEGY,
        ("events.k8s.io", "Event") => event::NEW_STRATEGY,
        ("", "Endpoints") => endpoints::STRATEGY,
        ("", "PodTemplate") => pod_template::STRATEGY,
        ("", "LimitRange") => limit_range::STRATEGY,
        ("", "ResourceQuota") => resource_quota::STRATEGY,
        ("apps", "Deployment") => deployment::STRATEGY,
        ("apps", "ReplicaSet") => replica_set::STRATEGY,
        ("apps", "DaemonSet") => daemon_set::STRATEGY,
        ("apps", "StatefulSet") => stateful_set::STRATEGY,
        ("apps", "ControllerRevision") => controller_revision::STRATEGY,
        ("batch", "Job") => job::STRATEGY,
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice::STRATEGY,
        ("coordination.k8s.io", "Lease") => lease::STRATEGY,
        ("rbac.authorization.k8s.io", "Role") => rbac::ROLE,
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::CLUSTER_ROLE_BINDING,
        ("certificates.k8s.io", "CertificateSigningRequest") => certificate_signing_request::STRATEGY,
        ("scheduling.k8s.io", "PriorityClass") => priority_class::STRATEGY,
        ("policy", "PodDisruptionBudget") => pod_disruption_budget::STRATEGY,
        ("node.k8s.io", "RuntimeClass") => runtime_class::STRATEGY,
        ("apiregistration.k8s.io", "APIService") => api_service::STRATEGY,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => custom_resource_definition::STRATEGY,
        ("", "PersistentVolume") => persistent_volume::STRATEGY,
        ("", "PersistentVolumeClaim") => persistent_volume_claim::STRATEGY,
        ("", "ReplicationController") => replication_controller::STRATEGY,
        ("admissionregistration.k8s.io", kind) => admission(kind),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler::STRATEGY,
        ("batch", "CronJob") => cron_job::STRATEGY,
        ("certificates.k8s.io", "ClusterTrustBundle") => trust::BUNDLE,
        ("certificates.k8s.io", "PodCertificateRequest") => trust::POD_REQUEST,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flow_control::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => flow_control::PRIORITY_LEVEL,
        ("networking.k8s.io", "Ingress") => ingress::INGRESS,
        ("networking.k8s.io", "IngressClass") => ingress::CLASS,
        ("networking.k8s.io", "NetworkPolicy") => network_policy::STRATEGY,
        ("networking.k8s.io", "ServiceCIDR") => service_cidr::SERVICE_CIDR,
        ("networking.k8s.io", "IPAddress") => service_cidr::IP_ADDRESS,
        ("resource.k8s.io", "DeviceClass") => devices::DEVICE_CLASS,
        ("resource.k8s.io", "DeviceTaintRule") => devices::TAINT_RULE,
        ("resource.k8s.io", "ResourceClaim") => devices::CLAIM,
        ("resource.k8s.io", "ResourceClaimTemplate") => devices::CLAIM_TEMPLATE,
        ("resource.k8s.io", "ResourceSlice") => devices::SLICE,
        ("storage.k8s.io", kind) => of_storage(kind),
        ("storagemigration.k8s.io", "StorageVersionMigration") => storage_migration::STRATEGY,
        _ => PLAIN,
    }
}

fn admission(kind: &str) -> Strategy {
    match kind {
        "MutatingWebhookConfiguration" => webhook_configuration::MUTATING,
        "ValidatingWebhookConfiguration" => webhook_configuration::VALIDATING,
        "MutatingAdmissionPolicy" => admission_policy::MUTATING,
        "MutatingAdmissionPolicyBinding" => admission_policy::MUTATING_BINDING,
        "ValidatingAdmissionPolicy" => admission_policy::VALIDATING,
        "ValidatingAdmissionPolicyBinding" => admission_policy::VALIDATING_BINDING,
        _ => PLAIN,
    }
}

fn of_storage(kind: &str) -> Strategy {
    match kind {
        "CSIDriver" => storage::CSI_DRIVER,
        "CSINode" => storage::CSI_NODE,
        "CSIStorageCapacity" => storage::CSI_STORAGE_CAPACITY,
        "StorageClass" => storage::STORAGE_CLASS,
        "VolumeAttachment" => storage::VOLUME_ATTACHMENT,
        "VolumeAttributesClass" => storage::ATTRIBUTES_CLASS,
        _ => PLAIN,
    }
}

/// A new object has no status yet.
fn clear_status(object: &mut Value) {
    json::set(object, "status", json!({}));
}

/// A new object of a kind whose schema is not ours has no status yet.
pub(crate) fn unset_status(object: &mut Value) {
    json::unset(object, "status");
}

/// An update of the main resource keeps the status.
pub(crate) fn keep_status(new: &mut Value, old: &Value) {
    json::carry_over(new, old, "status");
}
