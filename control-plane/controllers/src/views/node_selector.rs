//! `core/v1 NodeSelector`, as it stands in pods' affinities, volumes and the specs of daemons.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runtime::labels::Requirement;
use crate::runtime::meta::null_default;

/// `core/v1 NodeSelector`: any of the terms.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// The terms.
    #[serde(deserialize_with = "null_default")]
    pub node_selector_terms: Vec<NodeTerm>,
}

impl NodeSelector {
    /// Whether a node meets any of the terms.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector_terms.iter().any(|term| term.matches(name, labels))
    }
}

/// `core/v1 NodeSelectorTerm`: all of the requirements; an empty term selects nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerm {
    /// On labels.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// On fields: `metadata.name`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Whether a node meets the term.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        let by_fields = || {
            let fields = BTreeMap::from([("metadata.name".to_owned(), name.to_owned())]);
            self.match_fields.iter().all(|r| r.matches(&fields))
        };
        self.match_expressions.iter().all(|r| r.matches(labels)) && (self.match_fields.is_empty() || by_fields())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_term_selects_nothing() {
        assert!(!NodeTerm::default().matches("n", &BTreeMap::new()));
        let by_name: NodeTerm = serde_json::from_value(serde_json::json!({"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["a"]}]}))
        .unwrap();
        assert!(by_name.matches("a", &BTreeMap::new()) && !by_name.matches("b", &BTreeMap::new()));
    }
}
