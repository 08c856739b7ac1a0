//! The nodes that answer for addresses. Which of them does so for an address the nodes themselves work out; here it is seen
//! whether there is any for a pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::condition_is_true;
use crate::views::Node;

/// Keeps a node from answering (KEP-1143).
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Whether the node answers for addresses, of some pool at least.
pub fn answers(node: &Node) -> bool {
    let is_excluded = node.metadata.labels.contains_key(EXCLUDE_LABEL);
    condition_is_true(&node.status.conditions, "Ready") && !is_excluded && !node.metadata.is_terminating()
}

/// The labels of the nodes that answer for addresses.
#[derive(Debug, Default)]
pub struct Answering(Vec<BTreeMap<String, String>>);

impl Answering {
    /// Those of `nodes`.
    pub fn new(nodes: &[Arc<Node>]) -> Self {
        Self(nodes.iter().filter(|node| answers(node)).map(|node| node.metadata.labels.clone()).collect())
    }

    /// Whether one of them is meant.
    pub fn has(&self, selector: &LabelSelector) -> bool {
        self.0.iter().any(|labels| selector.matches(labels))
    }
}
