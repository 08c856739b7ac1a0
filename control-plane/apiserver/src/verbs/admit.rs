//! Runs the admission plugins.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use xebec_schema::status::Status;
use xebec_store::{Condition, Operation as StoreOperation, Txn};

use crate::admission::dynamic::Reinvocation;
use crate::admission::{Operation, Plugin, Review, Rider};
use crate::chain::Call;
use crate::metrics::admission::Step;

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

/// What all plugins together want written with the object. Dropping it says that it is known what became of the write.
#[derive(Default)]
pub struct Riders(Vec<Rider>);

impl Riders {
    /// A transaction with everything in it; the object's own condition comes first.
    pub fn with(&mut self, condition: Condition, operation: StoreOperation) -> Txn {
        let mut txn = Txn { conditions: vec![condition], operations: vec![operation] };
        for rider in &mut self.0 {
            txn.conditions.append(&mut rider.conditions);
            txn.operations.append(&mut rider.operations);
        }
        txn
    }
}

/// Asks the plugins, for the last time, whether the object may be stored, and what with it.
///
/// # Errors
///
/// A plugin refused.
pub async fn ride(call: &Call, admission: Admission<'_>, object: &mut Value) -> Result<Riders, Status> {
    let mut riders = Riders::default();
    let server = call.server.clone();
    let plugins = &server.extensions.plugins;
    if !plugins.iter().any(|plugin| plugin.rides()) {
        return Ok(riders);
    }
    let name = name_of(call, Some(object));
    let mut review = review(call, admission, &name, Some(std::mem::take(object)));
    let mut result = Ok(());
    for plugin in plugins {
        if !plugin.rides() {
            continue;
        }
        match plugin.ride(&mut review).await {
            Ok(rider) if rider.operations.is_empty() && rider.conditions.is_empty() => {}
            Ok(rider) => riders.0.push(rider),
            Err(status) => {
                result = Err(status);
                break;
            }
        }
    }
    *object = review.object.unwrap_or_default();
    result.map(|()| riders)
}

fn name_of(call: &Call, object: Option<&Value>) -> String {
    match (object, call.path.name.is_empty()) {
        (Some(object), true) => object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        _ => call.path.name.clone(),
    }
}

fn review<'a>(call: &'a Call, admission: Admission<'a>, name: &'a str, object: Option<Value>) -> Review<'a> {
    Review {
        user: &call.user,
        resource: &call.stored,
        requested: &call.resource,
        registry: call.server.registry.load_full(),
        subresource: &call.path.subresource,
        operation: admission.operation,
        namespace: &call.path.namespace,
        name,
        object,
        old: admission.old,
        call: Some(call),
        dry_run: admission.dry_run,
        reinvocation: Reinvocation::default(),
        warnings: Vec::new(),
        annotations: Vec::new(),
    }
}

async fn run(
    call: &mut Call,
    admission: Admission<'_>,
    object: Option<Value>,
    mutate: bool,
) -> Result<Option<Value>, Status> {
    let (server, name) = (call.server.clone(), name_of(call, object.as_ref()));
    let mut review = review(call, admission, &name, object);
    let plugins = &server.extensions.plugins;
    let (begun, mut timed) = (Instant::now(), Vec::with_capacity(plugins.len()));
    let result = if mutate {
        mutated(plugins, &mut review, &mut timed).await
    } else {
        validated(plugins, &mut review, &mut timed).await
    };
    let step = Step {
        kind: if mutate { "admit" } else { "validate" },
        operation: admission.operation.name(),
        rejected: result.is_err(),
    };
    server.metrics.admission.stepped(step, begun.elapsed(), &timed);
    // Also of a request that is refused, people want to know why.
    let Review { object, warnings, annotations, .. } = review;
    call.warnings.extend(warnings);
    call.annotations.extend(annotations);
    result.map(|()| object)
}

/// Plugins, and how long each took.
type Timed = Vec<(&'static str, Duration)>;

async fn timed(
    plugin: &dyn Plugin,
    timed: &mut Timed,
    done: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    let begun = Instant::now();
    let done = done.await;
    timed.push((plugin.name(), begun.elapsed()));
    done
}

async fn validated(plugins: &[Arc<dyn Plugin>], review: &mut Review<'_>, times: &mut Timed) -> Result<(), Status> {
    for plugin in plugins {
        timed(&**plugin, times, plugin.validate(review)).await?;
    }
    Ok(())
}

/// In order; when a webhook or policy has changed the object, all before it see it once more.
async fn mutated(plugins: &[Arc<dyn Plugin>], review: &mut Review<'_>, times: &mut Timed) -> Result<(), Status> {
    for (at, plugin) in plugins.iter().enumerate() {
        timed(&**plugin, times, plugin.mutate(review)).await?;
        let last = plugins.get(at + 1).is_none_or(|next| !next.is_dynamic());
        if plugin.is_dynamic() && last && review.reinvocation.wanted && !review.reinvocation.again {
            review.reinvocation.again = true;
            for plugin in &plugins[..=at] {
                timed(&**plugin, times, plugin.mutate(review)).await?;
            }
        }
    }
    Ok(())
}
