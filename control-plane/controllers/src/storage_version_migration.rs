//! Writes all objects of a kind again, so that they are stored in the form that is wanted now: in another version, or
//! encrypted by another key (upstream `pkg/controller/storageversionmigrator`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::Context;
use crate::runtime::api::{ApiError, PatchKind, Scope};
use crate::runtime::cache::Change;
use crate::runtime::discovery::served;
use crate::runtime::informer::read_list;
use crate::runtime::kind::Kind;
use crate::runtime::meta::{Condition, Key, MetadataOnly, condition_is_true, seconds};
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::StorageVersionMigration;

/// How a migration stands, as its conditions call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It goes on, with what there was at a revision.
    Running(u64),
    /// All objects have been written.
    Succeeded,
    /// Some have not, and will not be.
    Failed(&'a str),
}

/// Says how a migration stands.
pub fn plan(migration: &StorageVersionMigration, standing: Standing<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let (kind, reason, message) = match standing {
        Standing::Running(_) => ("Running", "StorageVersionMigrationInProgress", ""),
        Standing::Succeeded => ("Succeeded", "StorageVersionMigrationSucceeded", ""),
        Standing::Failed(why) => ("Failed", "StorageVersionMigrationFailed", why),
    };
    let mut conditions = migration.status.conditions.clone();
    if !condition_is_true(&conditions, kind) {
        for running in conditions.iter_mut().filter(|c| c.kind == "Running" && c.is_true()) {
            running.status = "False".into();
            running.last_transition_time = Some(seconds(now));
        }
        conditions.retain(|c| c.kind != kind);
        conditions.push(Condition {
            kind: kind.into(),
            status: "True".into(),
            last_transition_time: Some(seconds(now)),
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..Condition::default()
        });
    }
    let mut status = json!({"conditions": conditions});
    if let Standing::Running(revision) = standing {
        status["resourceVersion"] = revision.to_string().into();
    }
    let patch = json!({"status": status});
    plan.act(Write::merge_exact(&kind::STORAGE_VERSION_MIGRATION, &migration.metadata, "status", patch).into());
    plan
}

fn is_over(migration: &StorageVersionMigration) -> bool {
    ["Succeeded", "Failed"].iter().any(|kind| condition_is_true(&migration.status.conditions, kind))
}

/// The controller.
#[derive(Debug)]
pub struct Migrations {
    cx: Context,
    queue: Arc<Keys>,
}

impl Migrations {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.migrations.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) && !is_over(change.latest()) {
                keys.add(change.latest().metadata.key());
            }
        });
        Arc::new(Self { cx: cx.of("storage-version-migrator-controller"), queue })
    }

    /// The kind that is to be migrated, if it is served.
    async fn kind(&self, migration: &StorageVersionMigration) -> Result<Option<Kind>, SyncError> {
        let resource = &migration.spec.resource;
        let (kinds, missing) = served(&self.cx.api).await?;
        let found = kinds.into_iter().find(|s| s.kind.group == resource.group && s.kind.plural == resource.resource);
        match (found, missing) {
            (Some(served), _) => Ok(Some(served.kind)),
            // It may be of a group that does not answer.
            (None, Some(why)) => Err(SyncError::Read(ApiError::Decode(why))),
            (None, None) => Ok(None),
        }
    }

    /// Writes all objects as they are.
    async fn migrate(&self, kind: &Kind) -> Result<(), ApiError> {
        let scope = Scope { metadata_only: true, ..Scope::default() };
        let (objects, _) = read_list::<MetadataOnly>(&self.cx.api, kind, &scope).await?;
        for MetadataOnly { metadata } in objects {
            let same = json!({"metadata": {
                "uid": metadata.uid, "resourceVersion": metadata.resource_version.to_string()}});
            let (namespace, name) = (&metadata.namespace, &metadata.name);
            match self.cx.api.patch(kind, namespace, name, "", PatchKind::Merge, &same).await {
                // Whoever changed it has written it in the new form; gone, it need not be written.
                Err(error) if !error.is_conflict() && !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for Migrations {
    fn name(&self) -> &'static str {
        "storage-version-migration"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(migration) = self.cx.caches.migrations.get(key).filter(|m| !is_over(m)) else { return Ok(None) };
        let kind = self.kind(&migration).await?;
        let now = self.cx.clock.now();
        let plan = match (kind, migration.status.resource_version.as_str()) {
            (None, _) => plan(&migration, Standing::Failed("resource does not exist in discovery"), now),
            (Some(kind), "") => {
                let scope = Scope { metadata_only: true, ..Scope::default() };
                let page: Value = decode(&self.cx.api.list_page(&kind, &scope, 1, None).await?)?;
                let revision = page["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
                let revision = revision.ok_or_else(|| ApiError::Decode("a list without a revision".into()))?;
                plan(&migration, Standing::Running(revision), now)
            }
            (Some(kind), _) => match self.migrate(&kind).await {
                Ok(()) => plan(&migration, Standing::Succeeded, now),
                Err(error) => {
                    tracing::warn!(migration = key.name, %error, "a migration failed");
                    plan(&migration, Standing::Failed("migration encountered unhandled error"), now)
                }
            },
        };
        self.cx.execute(plan).await?;
        Ok(None)
    }
}

fn decode(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Decode(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::{Action, Verb};

    #[test]
    fn a_migration_runs_and_then_it_does_not() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let migration = |status: &Value| -> StorageVersionMigration {
            serde_json::from_value(json!({"metadata": {"name": "m"}, "spec": {"resource": {"resource": "secrets"}},
                "status": status}))
            .unwrap()
        };
        let status = |plan: &Plan| match plan.actions().next() {
            Some(Action::Write(write)) => match &write.verb {
                Verb::Patch("status", _, patch) => patch["status"].clone(),
                other => panic!("no patch of the status: {other:?}"),
            },
            other => panic!("no write: {other:?}"),
        };
        let running = status(&plan(&migration(&json!({})), Standing::Running(7), now));
        assert_eq!(running["resourceVersion"], "7");
        assert_eq!(running["conditions"][0]["reason"], "StorageVersionMigrationInProgress");
        assert!(!is_over(&migration(&running)));
        let done = status(&plan(&migration(&running), Standing::Succeeded, now));
        let conditions: Vec<_> =
            done["conditions"].as_array().unwrap().iter().map(|c| (c["type"].clone(), c["status"].clone())).collect();
        assert_eq!(conditions, [(json!("Running"), json!("False")), (json!("Succeeded"), json!("True"))]);
        assert!(is_over(&migration(&done)));
        let failed = status(&plan(&migration(&json!({})), Standing::Failed("why"), now));
        assert_eq!(failed["conditions"][0]["message"], "why");
    }
}
