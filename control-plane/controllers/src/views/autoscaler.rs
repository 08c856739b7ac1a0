//! Horizontal pod autoscalers.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::runtime::kind;
use crate::runtime::meta::{Condition, Meta, null_default};

/// `autoscaling/v2 HorizontalPodAutoscaler`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HorizontalPodAutoscaler {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: HorizontalPodAutoscalerSpec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: HorizontalPodAutoscalerStatus,
}

super::view!(HorizontalPodAutoscaler, kind::HORIZONTAL_POD_AUTOSCALER);

/// `autoscaling/v2 HorizontalPodAutoscalerSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HorizontalPodAutoscalerSpec {
    /// What is scaled.
    pub scale_target_ref: ScaleTarget,
    /// Not fewer than this; 1 if `None`.
    pub min_replicas: Option<i32>,
    /// Not more than this.
    pub max_replicas: i32,
    /// By which metrics, as they stand: they are written back into the status in parts.
    #[serde(deserialize_with = "null_default")]
    pub metrics: Vec<Value>,
    /// How fast.
    pub behavior: Option<Behavior>,
}

/// `autoscaling/v2 CrossVersionObjectReference`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaleTarget {
    /// `apps/v1`.
    #[serde(deserialize_with = "null_default")]
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// `autoscaling/v2 HorizontalPodAutoscalerBehavior`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Behavior {
    /// Up.
    #[serde(deserialize_with = "null_default")]
    pub scale_up: ScalingRules,
    /// Down.
    #[serde(deserialize_with = "null_default")]
    pub scale_down: ScalingRules,
}

/// `autoscaling/v2 HPAScalingRules`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingRules {
    /// For how long recommendations are remembered, in seconds.
    pub stabilization_window_seconds: Option<i32>,
    /// `Max`, `Min`, `Disabled`.
    #[serde(deserialize_with = "null_default")]
    pub select_policy: String,
    /// How fast.
    #[serde(deserialize_with = "null_default")]
    pub policies: Vec<ScalingPolicy>,
    /// How far from the target is near enough, as a quantity.
    pub tolerance: Option<Value>,
}

/// `autoscaling/v2 HPAScalingPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingPolicy {
    /// `Pods`, `Percent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many.
    pub value: i32,
    /// In how many seconds.
    pub period_seconds: i32,
}

/// `autoscaling/v2 HorizontalPodAutoscalerStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HorizontalPodAutoscalerStatus {
    /// The generation that the rest speaks of.
    pub observed_generation: Option<i64>,
    /// When the target was last scaled.
    pub last_scale_time: Option<Timestamp>,
    /// How many replicas there were.
    pub current_replicas: i32,
    /// How many there should be.
    pub desired_replicas: i32,
    /// What the metrics said.
    #[serde(deserialize_with = "null_default")]
    pub current_metrics: Vec<Value>,
    /// `AbleToScale`, `ScalingActive`, `ScalingLimited`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}
