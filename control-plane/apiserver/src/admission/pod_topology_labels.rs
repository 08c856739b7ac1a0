//! `PodTopologyLabels`: a pod that is put on a node takes over where the node is (KEP-4742).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::status::Status;

use super::support::{is_new_pod, is_part};
use super::{Operation, Plugin, Review};
use crate::json::{decode, entry, object, text};
use crate::reader::Reader;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin.
pub struct PodTopologyLabels {
    reader: Arc<dyn Reader>,
}

impl PodTopologyLabels {
    /// Nodes are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn label(&self, target: &mut Value, node: &str) {
        let Some(found) = self.reader.get("", "nodes", "", node) else { return };
        let node = decode(&found.bytes);
        for label in LABELS {
            let value = entry(&node, "/metadata/labels", label);
            let labels = object(target, "metadata").and_then(|metadata| object(metadata, "labels"));
            if let (Some(value), Some(labels)) = (value, labels) {
                labels[label] = value.into();
            }
        }
    }
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        // A binding's labels become the pod's.
        let binding = review.operation == Operation::Create && is_part(review, "", "pods", "binding");
        let pod = is_new_pod(review);
        let Some(target) = review.object.as_mut() else { return Ok(()) };
        let node = match (binding, pod) {
            (true, _) if matches!(text(target, "/target/kind"), "" | "Node") => text(target, "/target/name"),
            (_, true) => text(target, "/spec/nodeName"),
            _ => return Ok(()),
        };
        let node = node.to_owned();
        if !node.is_empty() {
            self.label(target, &node);
        }
        Ok(())
    }
}
