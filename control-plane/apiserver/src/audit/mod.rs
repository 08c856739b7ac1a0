//! The audit log: who asked for what, and what came of it (upstream `apiserver/pkg/audit`, `audit.k8s.io/v1`).
//!
//! A policy says of each request how much is noted ([`policy`]); events go to a [`Sink`] as JSON. Where they are kept is
//! the sink's business; it must not keep requests waiting for long.

pub mod policy;
pub(crate) mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::request::Parts;
use xebec_clock::Clock;

use crate::authz::Attributes;
pub use policy::{Level, Policy, PolicyError, Stage};
pub use record::Record;

/// Where events go.
pub trait Sink: Send + Sync + 'static {
    /// Takes an event, a line of JSON without its end. Does not wait; what it has no room for it drops, and counts.
    fn put(&self, event: Vec<u8>);
}

/// Notes requests.
pub struct Auditor {
    policy: Policy,
    sink: Arc<dyn Sink>,
    clock: Clock,
}

impl Auditor {
    /// Notes what `policy` says.
    pub fn new(policy: Policy, sink: Arc<dyn Sink>, clock: &Clock) -> Self {
        Self { policy, sink, clock: clock.clone() }
    }

    /// The beginning of a request; `None` if nothing is to be noted of it.
    pub fn begin(&self, attributes: &Attributes, parts: &Parts, audit_id: &str) -> Option<Record> {
        let rule = self.policy.of(attributes);
        if rule.level == Level::None {
            return None;
        }
        let record = Record::new(rule, attributes, parts, audit_id, self.sink.clone(), self.clock.clone());
        record.emit(Stage::RequestReceived);
        Some(record)
    }
}
