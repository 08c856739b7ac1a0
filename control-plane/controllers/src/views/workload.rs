//! What makes pods: ReplicaSets, Deployments, Jobs; and PodDisruptionBudgets, which guard them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::runtime::cache::BY_CONTROLLER;
use crate::runtime::kind;
use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::{Condition, Meta, null_default};

/// A pod template, kept as text: a tenth of the memory of a parsed one.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Template(Box<RawValue>);

impl Default for Template {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Template {
    /// The template, parsed; `null` if there is none.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// The template's labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Outer {
            metadata: Meta,
        }
        serde_json::from_str::<Outer>(self.0.get()).unwrap_or_default().metadata.labels
    }
}

impl From<&Value> for Template {
    fn from(value: &Value) -> Self {
        Self(serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

/// `apps/v1 ReplicaSet`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicaSet {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: ReplicaSetSpec,
    /// What is.
    pub status: ReplicaSetStatus,
}

super::view!(ReplicaSet, kind::REPLICA_SET, |set| {
    set.metadata.controller().map(|owner| (BY_CONTROLLER, owner.uid.clone())).into_iter().collect()
});

/// `apps/v1 ReplicaSetSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpec {
    /// How many pods; `None` is 1.
    pub replicas: Option<i32>,
    /// How long a pod must be ready to be available, in seconds.
    pub min_ready_seconds: i64,
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Template,
}

/// `apps/v1 ReplicaSetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// Pods that are neither ended nor on their way out.
    pub replicas: i32,
    /// Of them, those that have all labels of the template.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub fully_labeled_replicas: i32,
    /// Of them, those that are ready.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub ready_replicas: i32,
    /// Of them, those that have been ready long enough.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub available_replicas: i32,
    /// Pods on their way out.
    pub terminating_replicas: Option<i32>,
    /// The generation that this speaks of.
    pub observed_generation: i64,
    /// `ReplicaFailure`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

impl ReplicaSet {
    /// How many pods are wanted.
    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
}

/// `apps/v1 Deployment`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Deployment {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: DeploymentSpec,
    /// What is.
    pub status: DeploymentStatus,
}

super::view!(Deployment, kind::DEPLOYMENT);

/// `apps/v1 DeploymentSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// How many pods; `None` is 1.
    pub replicas: Option<i32>,
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Template,
    /// How old pods give way to new ones.
    pub strategy: DeploymentStrategy,
    /// How long a pod must be ready to be available, in seconds.
    pub min_ready_seconds: i64,
    /// How many old ReplicaSets are kept; `None` is all.
    pub revision_history_limit: Option<i32>,
    /// Nothing is rolled out while set.
    pub paused: bool,
    /// How long a roll-out may make no progress, in seconds.
    pub progress_deadline_seconds: Option<i32>,
}

/// `apps/v1 DeploymentStrategy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStrategy {
    /// `RollingUpdate`, `Recreate`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The bounds of a rolling update.
    pub rolling_update: Option<RollingUpdate>,
}

/// `apps/v1 RollingUpdateDeployment`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// How many pods there may be too few.
    pub max_unavailable: Option<IntOrPercent>,
    /// How many pods there may be too many.
    pub max_surge: Option<IntOrPercent>,
}

/// `util/intstr`: a number, or a share of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum IntOrPercent {
    /// A number.
    Int(i32),
    /// `25%`.
    Percent(String),
}

impl IntOrPercent {
    /// The number that it comes to out of `total`; `None` if it is neither a number nor a percentage.
    pub fn of(&self, total: i32, round_up: bool) -> Option<i32> {
        match self {
            Self::Int(n) => Some(*n),
            Self::Percent(text) => {
                let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
                let product = percent.checked_mul(i64::from(total))?;
                let value = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
                i32::try_from(value).ok()
            }
        }
    }
}

/// `apps/v1 DeploymentStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// The generation that this speaks of.
    pub observed_generation: i64,
    /// Pods of all ReplicaSets.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub replicas: i32,
    /// Pods of the newest template.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub updated_replicas: i32,
    /// Pods that are ready.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub ready_replicas: i32,
    /// Pods that have been ready long enough.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub available_replicas: i32,
    /// Pods that are missing to full availability.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub unavailable_replicas: i32,
    /// Pods on their way out.
    pub terminating_replicas: Option<i32>,
    /// `Available`, `Progressing`, `ReplicaFailure`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// How often a ReplicaSet's name was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
}

impl Deployment {
    /// How many pods are wanted.
    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
}

/// `batch/v1 Job`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: JobSpec,
    /// What is.
    pub status: JobStatus,
}

super::view!(Job, kind::JOB, |job| {
    job.metadata.controller().map(|owner| (BY_CONTROLLER, owner.uid.clone())).into_iter().collect()
});

/// `batch/v1 JobSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    /// How many pods may run at once.
    pub parallelism: Option<i32>,
    /// How many must succeed; `None`: one does, and then all are let end.
    pub completions: Option<i32>,
    /// How long the job may run, in seconds.
    pub active_deadline_seconds: Option<i64>,
    /// How many failures the job survives.
    pub backoff_limit: Option<i32>,
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Template,
    /// How long a finished job is kept, in seconds.
    pub ttl_seconds_after_finished: Option<i64>,
    /// `NonIndexed`, `Indexed`.
    pub completion_mode: Option<String>,
    /// No pods run while set.
    pub suspend: bool,
    /// Whether a pod is replaced when it is on its way out, or once it has ended: `TerminatingOrFailed`, `Failed`.
    pub pod_replacement_policy: Option<String>,
    /// Another controller looks after the job.
    pub managed_by: Option<String>,
    /// How many failures each index survives.
    pub backoff_limit_per_index: Option<i32>,
    /// How many indexes may fail.
    pub max_failed_indexes: Option<i32>,
    /// What failures mean.
    pub pod_failure_policy: Option<PodFailurePolicy>,
    /// Which successes suffice.
    pub success_policy: Option<SuccessPolicy>,
}

/// `batch/v1 PodFailurePolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodFailurePolicy {
    /// The first that matches counts.
    pub rules: Vec<PodFailureRule>,
}

/// `batch/v1 PodFailurePolicyRule`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodFailureRule {
    /// `FailJob`, `FailIndex`, `Ignore`, `Count`.
    pub action: String,
    /// By how containers have ended.
    pub on_exit_codes: Option<OnExitCodes>,
    /// By the pod's conditions.
    #[serde(deserialize_with = "null_default")]
    pub on_pod_conditions: Vec<OnPodCondition>,
}

/// `batch/v1 PodFailurePolicyOnExitCodesRequirement`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OnExitCodes {
    /// Of which container; `None` is any.
    pub container_name: Option<String>,
    /// `In`, `NotIn`.
    pub operator: String,
    /// The codes.
    pub values: Vec<i32>,
}

/// `batch/v1 PodFailurePolicyOnPodConditionsPattern`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OnPodCondition {
    /// The condition.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is to say.
    pub status: String,
}

/// `batch/v1 SuccessPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SuccessPolicy {
    /// Any of them suffices.
    pub rules: Vec<SuccessRule>,
}

/// `batch/v1 SuccessPolicyRule`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRule {
    /// Which indexes are to succeed, `0,2-5`; all of them without a count.
    pub succeeded_indexes: Option<String>,
    /// How many are to succeed.
    pub succeeded_count: Option<i32>,
}

/// `batch/v1 JobStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// `Complete`, `Failed`, `Suspended` and others.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// When the controller took it on.
    pub start_time: Option<Timestamp>,
    /// When it completed.
    pub completion_time: Option<Timestamp>,
    /// Pods that run or are about to.
    pub active: i32,
    /// Pods that succeeded.
    pub succeeded: i32,
    /// Pods that failed.
    pub failed: i32,
    /// Pods on their way out.
    pub terminating: Option<i32>,
    /// Pods that are ready.
    pub ready: Option<i32>,
    /// Indexes that succeeded, `1,3-5`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub completed_indexes: String,
    /// Indexes that have failed for good, `1,3-5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_indexes: Option<String>,
    /// Pods that have ended, and are not counted yet.
    #[serde(deserialize_with = "null_default")]
    pub uncounted_terminated_pods: Uncounted,
}

/// `batch/v1 UncountedTerminatedPods`: uids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Uncounted {
    /// Of pods that succeeded.
    #[serde(deserialize_with = "null_default")]
    pub succeeded: Vec<String>,
    /// Of pods that failed.
    #[serde(deserialize_with = "null_default")]
    pub failed: Vec<String>,
}

/// `policy/v1 PodDisruptionBudget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodDisruptionBudget {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: PodDisruptionBudgetSpec,
    /// What is.
    pub status: PodDisruptionBudgetStatus,
}

super::view!(PodDisruptionBudget, kind::POD_DISRUPTION_BUDGET);

/// `policy/v1 PodDisruptionBudgetSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodDisruptionBudgetSpec {
    /// How many pods must stay.
    pub min_available: Option<IntOrPercent>,
    /// How many pods may be missing.
    pub max_unavailable: Option<IntOrPercent>,
    /// Which pods; `None` is none.
    pub selector: Option<LabelSelector>,
}

/// `policy/v1 PodDisruptionBudgetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodDisruptionBudgetStatus {
    /// The generation that this speaks of.
    pub observed_generation: i64,
    /// Evictions granted that have not been seen happening, by pod.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub disrupted_pods: BTreeMap<String, Timestamp>,
    /// Evictions that would be granted now.
    pub disruptions_allowed: i32,
    /// Healthy pods.
    pub current_healthy: i32,
    /// Healthy pods that must stay.
    pub desired_healthy: i32,
    /// Pods counted.
    pub expected_pods: i32,
    /// `DisruptionAllowed`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// Upstream leaves numbers out that are 0 (`omitempty`): in a merge patch, null takes them out.
pub(super) fn zero_as_null<S: serde::Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    if *number == 0 { serializer.serialize_none() } else { serializer.serialize_i32(*number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrPercent::Percent("25%".into());
        assert_eq!((quarter.of(10, true), quarter.of(10, false)), (Some(3), Some(2)));
        assert_eq!(IntOrPercent::Int(4).of(10, true), Some(4));
        assert_eq!(IntOrPercent::Percent("x%".into()).of(10, true), None);
    }
}
