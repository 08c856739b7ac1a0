//! Migrations of what is stored.

use serde::Deserialize;

use crate::runtime::kind;
use crate::runtime::meta::{Condition, Meta, null_default};

/// `storagemigration.k8s.io/v1 StorageVersionMigration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StorageVersionMigration {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: MigrationSpec,
    /// What is.
    pub status: MigrationStatus,
}

super::view!(StorageVersionMigration, kind::STORAGE_VERSION_MIGRATION);

/// `storagemigration.k8s.io/v1 StorageVersionMigrationSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MigrationSpec {
    /// Whose objects are to be written.
    pub resource: GroupResource,
}

/// `meta/v1 GroupResource`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GroupResource {
    /// Empty for the core group.
    #[serde(deserialize_with = "null_default")]
    pub group: String,
    /// `secrets`.
    pub resource: String,
}

/// `storagemigration.k8s.io/v1 StorageVersionMigrationStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationStatus {
    /// `Running`, `Succeeded`, `Failed`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// The list's revision when it began.
    #[serde(deserialize_with = "null_default")]
    pub resource_version: String,
}
