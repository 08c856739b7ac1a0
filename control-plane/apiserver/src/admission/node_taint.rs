//! `TaintNodesByCondition`: a new node takes no pods until it is found ready.

use async_trait::async_trait;
use serde_json::{Value, json};
use xebec_schema::status::Status;

use super::support::is;
use super::{Operation, Plugin, Review};
use crate::json::{array, text};

/// The plugin.
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Create || !is(review, "", "nodes") {
            return Ok(());
        }
        let spec = review.object.as_mut().and_then(|node| crate::json::object(node, "spec"));
        let Some(taints) = spec.and_then(|spec: &mut Value| array(spec, "taints")) else { return Ok(()) };
        let (key, effect) = ("node.kubernetes.io/not-ready", "NoSchedule");
        if !taints.iter().any(|t| text(t, "/key") == key && text(t, "/effect") == effect) {
            taints.push(json!({"key": key, "effect": effect}));
        }
        Ok(())
    }
}
