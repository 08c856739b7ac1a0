//! Admission policies.

use serde::Deserialize;
use serde_json::Value;

use crate::runtime::kind;
use crate::runtime::meta::Meta;

/// `admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ValidatingAdmissionPolicy {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted, for the checker of its expressions.
    pub spec: Value,
    /// What is.
    pub status: ValidatingAdmissionPolicyStatus,
}

super::view!(ValidatingAdmissionPolicy, kind::VALIDATING_ADMISSION_POLICY);

/// `admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ValidatingAdmissionPolicyStatus {
    /// The generation whose expressions have been checked.
    pub observed_generation: i64,
}
