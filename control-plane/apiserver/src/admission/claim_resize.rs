//! `PersistentVolumeClaimResize`: only what can grow is asked to.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::quota::amounts;
use xebec_schema::status::Status;

use super::support::{forbidden, is};
use super::{Operation, Plugin, Review};
use crate::json::{decode, entry, flag, text};
use crate::reader::Reader;

/// The plugin.
pub struct PersistentVolumeClaimResize {
    reader: Arc<dyn Reader>,
}

impl PersistentVolumeClaimResize {
    /// Storage classes are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn can_grow(&self, claim: &Value) -> bool {
        let annotated = entry(claim, "/metadata/annotations", "volume.beta.kubernetes.io/storage-class");
        let class = annotated.unwrap_or_else(|| text(claim, "/spec/storageClassName"));
        let found = self.reader.get("storage.k8s.io", "storageclasses", "", class);
        found.is_some_and(|class| flag(&decode(&class.bytes), "/allowVolumeExpansion"))
    }
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Update || !is(review, "", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(new), Some(old)) = (&review.object, review.old) else { return Ok(()) };
        let size = |claim: &Value| amounts(claim, "spec.resources.requests").get("storage").copied();
        if size(new) <= size(old) {
            return Ok(());
        }
        if text(old, "/status/phase") != "Bound" {
            return Err(forbidden(review, "Only bound persistent volume claims can be expanded"));
        }
        if self.can_grow(old) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
            support resize";
        Err(forbidden(review, why))
    }
}
