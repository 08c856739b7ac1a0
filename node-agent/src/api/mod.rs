//! The API as the agent sees it: views of the objects with the fields it uses, and requests by path.

pub mod config;
pub mod pod;
pub mod rest;
pub mod status;
pub mod watch;

pub use config::{ClusterTrustBundle, ConfigMap, Secret, Service};
pub use pod::Pod;
pub use rest::{ApiError, Rest};

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `metadata`, as far as the agent reads it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Unique in its namespace.
    pub name: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Unique in space and time.
    pub uid: String,
    /// The revision of the stored object.
    pub resource_version: String,
    /// Bumped when the spec changes.
    pub generation: Option<i64>,
    /// When it was created.
    pub creation_timestamp: Option<Timestamp>,
    /// When it is to be gone.
    pub deletion_timestamp: Option<Timestamp>,
    /// How long it gets to go.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Something with metadata.
pub trait Object {
    /// Its metadata.
    fn meta(&self) -> &Meta;
}
