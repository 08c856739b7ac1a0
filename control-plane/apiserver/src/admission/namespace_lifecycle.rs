//! `NamespaceLifecycle`: nothing is made in a namespace that does not exist or is going, and some namespaces stay.

use std::sync::Arc;

use async_trait::async_trait;
use xebec_schema::status::{Cause, Status};

use super::support::{forbidden, is};
use super::{Operation, Plugin, Review};
use crate::reader::Reader;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle {
    reader: Arc<dyn Reader>,
}

impl NamespaceLifecycle {
    /// Namespaces are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn check(&self, review: &Review<'_>) -> Result<(), Status> {
        if review.resource.group.is_empty() && review.resource.plural == "namespaces" {
            if review.operation == Operation::Delete && is(review, "", "namespaces") && IMMORTAL.contains(&review.name)
            {
                return Err(Status::forbidden("", "namespaces", review.name, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let asks = matches!(review.operation, Operation::Create | Operation::Update);
        if !asks || !review.resource.namespaced || review.resource.virtual_kind {
            return Ok(());
        }
        let name = review.namespace;
        let Some(entry) = self.reader.get("", "namespaces", "", name) else {
            return Err(Status::not_found("", "namespaces", name));
        };
        if review.operation == Operation::Update || entry.field("status.phase") != "Terminating" {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut status = forbidden(review, &why);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {name} is being terminated"),
                field: "metadata.namespace".into(),
            });
        }
        Err(status)
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        self.check(review)
    }
}
