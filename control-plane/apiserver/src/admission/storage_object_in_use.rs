//! `StorageObjectInUseProtection`: claims and volumes get the finalizer that keeps them for as long as they are used.

use async_trait::async_trait;
use xebec_schema::status::Status;

use super::support::is;
use super::{Operation, Plugin, Review};
use crate::json::{array, object};

/// The plugin.
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Create {
            return Ok(());
        }
        let finalizer = if is(review, "", "persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else if is(review, "", "persistentvolumes") {
            "kubernetes.io/pv-protection"
        } else {
            return Ok(());
        };
        let metadata = review.object.as_mut().and_then(|o| object(o, "metadata"));
        if let Some(finalizers) = metadata.and_then(|metadata| array(metadata, "finalizers"))
            && !finalizers.iter().any(|f| f == finalizer)
        {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}
