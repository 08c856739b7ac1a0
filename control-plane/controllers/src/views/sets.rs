//! What keeps pods with an identity of their own: StatefulSets, DaemonSets, their history; and CronJobs.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::workload::{IntOrPercent, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus, Template, zero_as_null};
use crate::runtime::cache::BY_CONTROLLER;
use crate::runtime::kind;
use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::{Condition, Meta, ObjectReference, null_default};

/// `apps/v1 ControllerRevision`: a template as it once was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ControllerRevision {
    /// Metadata.
    pub metadata: Meta,
    /// The patch that restores the template.
    pub data: Template,
    /// Its place in the history.
    pub revision: i64,
}

super::view!(ControllerRevision, kind::CONTROLLER_REVISION, |revision| {
    revision.metadata.controller().map(|owner| (BY_CONTROLLER, owner.uid.clone())).into_iter().collect()
});

/// `apps/v1 StatefulSet`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StatefulSet {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: StatefulSetSpec,
    /// What is.
    pub status: StatefulSetStatus,
}

super::view!(StatefulSet, kind::STATEFUL_SET);

/// `apps/v1 StatefulSetSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetSpec {
    /// How many pods; `None` is 1.
    pub replicas: Option<i32>,
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Template,
    /// What their claims are made of.
    #[serde(deserialize_with = "null_default")]
    pub volume_claim_templates: Vec<Value>,
    /// The headless service that names the pods.
    #[serde(deserialize_with = "null_default")]
    pub service_name: String,
    /// `OrderedReady`, `Parallel`.
    pub pod_management_policy: String,
    /// How old pods give way to new ones.
    pub update_strategy: UpdateStrategy,
    /// How many old revisions are kept; `None` is 10.
    pub revision_history_limit: Option<i32>,
    /// How long a pod must be ready to be available, in seconds.
    pub min_ready_seconds: i64,
    /// What becomes of claims.
    pub persistent_volume_claim_retention_policy: RetentionPolicy,
    /// Where numbers begin.
    #[serde(deserialize_with = "null_default")]
    pub ordinals: Ordinals,
}

/// `apps/v1 StatefulSetOrdinals`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    /// The number of the first pod.
    pub start: i32,
}

/// `apps/v1 StatefulSetPersistentVolumeClaimRetentionPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionPolicy {
    /// When the set goes: `Retain`, `Delete`.
    pub when_deleted: String,
    /// When there are to be fewer pods: `Retain`, `Delete`.
    pub when_scaled: String,
}

/// How a StatefulSet or a DaemonSet is updated.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate`, `OnDelete`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The bounds of a rolling update.
    #[serde(deserialize_with = "null_default")]
    pub rolling_update: RollingUpdateOfSet,
}

/// The bounds of a rolling update.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdateOfSet {
    /// Pods with lower numbers stay as they are.
    pub partition: Option<i32>,
    /// How many pods there may be too few.
    pub max_unavailable: Option<IntOrPercent>,
    /// How many nodes may have an old pod and a new one.
    pub max_surge: Option<IntOrPercent>,
}

/// `apps/v1 StatefulSetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetStatus {
    /// The generation that this speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that there are.
    pub replicas: i32,
    /// Of them, those that are ready.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub ready_replicas: i32,
    /// Of them, those of the current revision.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub current_replicas: i32,
    /// Of them, those of the newest revision.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub updated_replicas: i32,
    /// The revision that the pods had before the update that goes on.
    pub current_revision: String,
    /// The newest revision.
    pub update_revision: String,
    /// How often a revision's name was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// Of the pods, those that have been ready long enough.
    pub available_replicas: i32,
    /// Conditions that others have put there.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl StatefulSet {
    /// How many pods are wanted.
    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
}

/// `apps/v1 DaemonSet`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: DaemonSetSpec,
    /// What is.
    pub status: DaemonSetStatus,
}

super::view!(DaemonSet, kind::DAEMON_SET);

/// `apps/v1 DaemonSetSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpec {
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Template,
    /// How old pods give way to new ones.
    pub update_strategy: UpdateStrategy,
    /// How long a pod must be ready to be available, in seconds.
    pub min_ready_seconds: i64,
    /// How many old revisions are kept; `None` is 10.
    pub revision_history_limit: Option<i32>,
}

/// `apps/v1 DaemonSetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    /// Nodes that should have a pod, and have one.
    pub current_number_scheduled: i32,
    /// Nodes that should not have a pod, and have one.
    pub number_misscheduled: i32,
    /// Nodes that should have a pod.
    pub desired_number_scheduled: i32,
    /// Nodes whose pod is ready.
    pub number_ready: i32,
    /// The generation that this speaks of.
    #[serde(serialize_with = "zero_as_null_64", deserialize_with = "null_default")]
    pub observed_generation: i64,
    /// Nodes whose pod is of the newest revision.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub updated_number_scheduled: i32,
    /// Nodes whose pod has been ready long enough.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub number_available: i32,
    /// The other nodes that should have a pod.
    #[serde(serialize_with = "zero_as_null", deserialize_with = "null_default")]
    pub number_unavailable: i32,
    /// How often a revision's name was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// Conditions that others have put there.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

fn zero_as_null_64<S: serde::Serializer>(number: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    if *number == 0 { serializer.serialize_none() } else { serializer.serialize_i64(*number) }
}

/// `batch/v1 CronJob`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CronJob {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: CronJobSpec,
    /// What is.
    pub status: CronJobStatus,
}

super::view!(CronJob, kind::CRON_JOB);

/// `batch/v1 CronJobSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpec {
    /// When jobs are made.
    pub schedule: String,
    /// By which clock.
    pub time_zone: Option<String>,
    /// How late a job may be, in seconds.
    pub starting_deadline_seconds: Option<i64>,
    /// `Allow`, `Forbid`, `Replace`.
    pub concurrency_policy: String,
    /// No jobs are made while set.
    pub suspend: bool,
    /// What jobs are made of.
    pub job_template: Template,
    /// How many successful jobs are kept; `None` is all.
    pub successful_jobs_history_limit: Option<i32>,
    /// How many failed jobs are kept; `None` is all.
    pub failed_jobs_history_limit: Option<i32>,
}

/// `batch/v1 CronJobStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatus {
    /// Jobs that run.
    #[serde(deserialize_with = "null_default")]
    pub active: Vec<ObjectReference>,
    /// When the last job was due.
    pub last_schedule_time: Option<Timestamp>,
    /// When a job last succeeded.
    pub last_successful_time: Option<Timestamp>,
}

/// `core/v1 ReplicationController`: a ReplicaSet whose selector is a plain map.
#[derive(Clone, Debug, Default)]
pub struct ReplicationController(pub ReplicaSet);

impl<'de> Deserialize<'de> for ReplicationController {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Outer {
            metadata: Meta,
            spec: Spec,
            status: ReplicaSetStatus,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Spec {
            replicas: Option<i32>,
            min_ready_seconds: i64,
            #[serde(deserialize_with = "null_default")]
            selector: std::collections::BTreeMap<String, String>,
            template: Template,
        }
        let Outer { metadata, spec, status } = Outer::deserialize(deserializer)?;
        let spec = ReplicaSetSpec {
            replicas: spec.replicas,
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector::equalities(&spec.selector),
            template: spec.template,
        };
        Ok(Self(ReplicaSet { metadata, spec, status }))
    }
}

impl crate::runtime::cache::View for ReplicationController {
    fn kind() -> &'static kind::Kind {
        &kind::REPLICATION_CONTROLLER
    }

    fn meta(&self) -> &Meta {
        &self.0.metadata
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        self.0.indexes()
    }
}
