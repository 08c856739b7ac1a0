//! Pools of load balancer addresses, as far as nodes look at them: which nodes may answer for which addresses (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use xebec_schema::address_range::AddressRange;
use xebec_schema::selector::LabelSelector;

use super::nodes::{Node, NodeCondition};
use crate::api::watch::Change;
use crate::api::{Meta, Object};
use crate::proxy::LoadBalancerAddresses;

/// Where pools are.
pub const PATH: &str = "/apis/net.xebec.io/v1alpha1/loadbalancerpools";

/// A `net.xebec.io/v1alpha1` LoadBalancerPool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerPool {
    /// Its name and age.
    pub metadata: Meta,
    /// Its addresses and nodes.
    pub spec: PoolSpec,
    /// Whether it is used.
    pub status: PoolStatus,
}

impl Object for LoadBalancerPool {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// Networks, or ranges `FIRST-LAST`.
    pub addresses: Vec<String>,
    /// The nodes that may answer for them; any if absent.
    pub node_selector: Option<Value>,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PoolStatus {
    /// `Ready` and others.
    pub conditions: Vec<NodeCondition>,
}

impl LoadBalancerPool {
    /// Whether services may have addresses of it. One that is new is not known to be of no use.
    fn is_used(&self) -> bool {
        !self.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "False")
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.spec
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .any(|range: AddressRange| range.contains(address))
    }

    /// The nodes that may answer; `None`: any.
    fn nodes(&self, nodes: &BTreeMap<String, Arc<Node>>) -> Option<BTreeSet<String>> {
        let selector = match LabelSelector::from_json(self.spec.node_selector.as_ref()?) {
            Ok(selector) => selector,
            Err(error) => {
                // The API lets no such selector in.
                tracing::warn!(pool = %self.metadata.name, %error, "its nodeSelector cannot be read, and nobody answers");
                return Some(BTreeSet::new());
            }
        };
        let matching = nodes.iter().filter(|(_, node)| selector.matches(&node.metadata.labels));
        Some(matching.map(|(name, _)| name.clone()).collect())
    }
}

/// All pools.
#[derive(Debug, Default)]
pub struct Pools {
    by_name: BTreeMap<String, Arc<LoadBalancerPool>>,
    listed: bool,
}

impl Pools {
    /// Takes in what happened.
    pub fn take(&mut self, change: Change<LoadBalancerPool>) {
        match change {
            Change::All(all) => {
                self.by_name = all.into_iter().map(|pool| (pool.metadata.name.clone(), pool)).collect();
                self.listed = true;
            }
            Change::Put(pool) => drop(self.by_name.insert(pool.metadata.name.clone(), pool)),
            Change::Gone(pool) => drop(self.by_name.remove(&pool.metadata.name)),
        }
    }

    /// Whether all of them are known.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// The addresses, each with the nodes that may answer for it by its service and its pool. Of pools that overlap the
    /// oldest counts, as it does for those who give addresses out.
    pub fn restrict(
        &self,
        addresses: &LoadBalancerAddresses,
        nodes: &BTreeMap<String, Arc<Node>>,
    ) -> LoadBalancerAddresses {
        let mut by_age: Vec<&Arc<LoadBalancerPool>> = self.by_name.values().filter(|pool| pool.is_used()).collect();
        if by_age.iter().all(|pool| pool.spec.node_selector.is_none()) {
            return addresses.clone();
        }
        by_age.sort_by_key(|pool| (pool.metadata.creation_timestamp, &pool.metadata.name));
        let restrict = |(address, allowed): (&IpAddr, &Option<BTreeSet<String>>)| {
            let own = by_age.iter().find(|pool| pool.contains(*address)).and_then(|pool| pool.nodes(nodes));
            let allowed = match (allowed, own) {
                (Some(allowed), Some(own)) => Some(allowed.intersection(&own).cloned().collect()),
                (allowed, own) => own.or_else(|| allowed.clone()),
            };
            (*address, allowed)
        };
        addresses.iter().map(restrict).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pool(name: &str, age: u8, spec: Value, ready: &str) -> Arc<LoadBalancerPool> {
        let metadata = json!({"name": name, "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")});
        let conditions = json!([{"type": "Answered", "status": "False"}, {"type": "Ready", "status": ready}]);
        Arc::new(read(json!({"metadata": metadata, "spec": spec, "status": {"conditions": conditions}})))
    }

    fn set(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn nodes_of_pools_answer_for_their_addresses() {
        let node = |name: &str, edge: &str| -> (String, Arc<Node>) {
            (name.to_owned(), read(json!({"metadata": {"name": name, "labels": {"edge": edge}}})))
        };
        let nodes: BTreeMap<_, _> = [node("n1", "yes"), node("n2", "yes"), node("n3", "no")].into();
        let edge = |value: &str| json!({"matchLabels": {"edge": value}});
        let mut pools = Pools::default();
        assert!(!pools.is_listed());
        pools.take(Change::All(vec![
            pool("free", 1, json!({"addresses": ["192.0.2.0/29"]}), "True"),
            pool("edge", 2, json!({"addresses": ["192.0.2.8-192.0.2.9"], "nodeSelector": edge("yes")}), "True"),
            pool("six", 2, json!({"addresses": ["2001:db8::/64"], "nodeSelector": edge("no")}), "True"),
            pool("nobody", 2, json!({"addresses": ["192.0.2.32/28"], "nodeSelector": edge("maybe")}), "True"),
            pool("odd", 2, json!({"addresses": ["192.0.2.64/28"], "nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Odd"}]}}), "True"),
            pool("unused", 0, json!({"addresses": ["192.0.2.0/24"], "nodeSelector": edge("no")}), "False"),
            pool("late", 9, json!({"addresses": ["192.0.2.0/24"], "nodeSelector": edge("no")}), "Unknown"),
        ]));
        assert!(pools.is_listed());
        let allowed = |address: &str, by_service: Option<BTreeSet<String>>| {
            let address: IpAddr = address.parse().unwrap();
            pools.restrict(&[(address, by_service)].into(), &nodes).remove(&address).unwrap()
        };
        assert_eq!(allowed("192.0.2.1", None), None);
        assert_eq!(allowed("192.0.2.1", set(&["n3"])), set(&["n3"]));
        assert_eq!(allowed("192.0.2.9", None), set(&["n1", "n2"]));
        assert_eq!(allowed("192.0.2.9", set(&["n2", "n3"])), set(&["n2"]), "where its endpoints are, too");
        assert_eq!(allowed("2001:db8::9", None), set(&["n3"]));
        assert_eq!(allowed("192.0.2.33", None), set(&[]));
        assert_eq!(allowed("192.0.2.65", None), set(&[]), "a selector that cannot be read");
        assert_eq!(allowed("192.0.2.100", None), set(&["n3"]), "the younger one's");
        assert_eq!(allowed("198.51.100.1", None), None, "of no pool that is an object");
    }
}
