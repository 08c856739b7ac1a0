//! Runs the admission plugins.

use serde_json::Value;
use xebec_schema::status::Status;

use crate::admission::{Operation, Review};
use crate::chain::Call;

/// Which request is put before the plugins.
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    /// What is done.
    pub operation: Operation,
    /// The object as it was.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
}

/// Lets the plugins change the object, or refuse it.
///
/// # Errors
///
/// A plugin refused.
pub async fn mutate(call: &mut Call, admission: Admission<'_>, object: Option<Value>) -> Result<Option<Value>, Status> {
    run(call, admission, object, true).await
}

/// Lets the plugins refuse the object.
///
/// # Errors
///
/// A plugin refused.
pub async fn validate(
    call: &mut Call,
    admission: Admission<'_>,
    object: Option<Value>,
) -> Result<Option<Value>, Status> {
    run(call, admission, object, false).await
}

async fn run(
    call: &mut Call,
    admission: Admission<'_>,
    object: Option<Value>,
    mutate: bool,
) -> Result<Option<Value>, Status> {
    let server = call.server.clone();
    let name = match (&object, call.path.name.is_empty()) {
        (Some(object), true) => object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        _ => call.path.name.clone(),
    };
    let mut review = Review {
        user: &call.user,
        resource: &call.stored,
        subresource: &call.path.subresource,
        operation: admission.operation,
        namespace: &call.path.namespace,
        name: &name,
        object,
        old: admission.old,
        dry_run: admission.dry_run,
        warnings: Vec::new(),
    };
    for plugin in &server.extensions.plugins {
        if mutate {
            plugin.mutate(&mut review).await?;
        } else {
            plugin.validate(&mut review).await?;
        }
    }
    let Review { object, warnings, .. } = review;
    call.warnings.extend(warnings);
    Ok(object)
}
