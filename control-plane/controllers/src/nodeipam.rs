//! Pod address ranges: each node gets its own, cut out of the cluster's (upstream `pkg/controller/nodeipam`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::json;

use crate::context::Context;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Note, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::Node;

/// Addresses of one family, and how long the prefix of one node's share of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// All pods' addresses.
    pub cluster: IpNet,
    /// The length of a node's prefix.
    pub node_prefix: u8,
}

/// Gives to nodes that have none, in the nodes' order, the first free share of each range.
pub fn plan(nodes: &[Arc<Node>], ranges: &[Range]) -> Plan {
    let taken: BTreeSet<IpNet> = nodes
        .iter()
        .flat_map(|n| n.spec.pod_cidrs.iter().chain([&n.spec.pod_cidr]))
        .filter_map(|cidr| cidr.parse::<IpNet>().ok())
        .collect();
    let overlaps = |net: &IpNet| taken.contains(net) || taken.iter().any(|t| t.contains(net) || net.contains(t));
    let free = |range: &Range| shares(range).filter(|net| !overlaps(net));
    let mut free: Vec<_> = ranges.iter().map(free).collect();
    let mut plan = Plan::nothing();
    let mut actions = Vec::new();
    for node in nodes.iter().filter(|n| n.spec.pod_cidr.is_empty() && !n.metadata.is_terminating()) {
        let given: Option<Vec<String>> =
            free.iter_mut().map(|shares| shares.next().map(|net| net.to_string())).collect();
        match given {
            Some(given) => {
                let patch = json!({"spec": {"podCIDR": given.first(), "podCIDRs": given}});
                actions.push(Write::merge_exact(&kind::NODE, &node.metadata, "", patch).into());
            }
            None => {
                let message = format!("Node {} status is now: CIDRNotAvailable", node.metadata.name);
                actions.push(Note::warning(node.metadata.reference(&kind::NODE), "CIDRNotAvailable", message).into());
                plan.look_again(Duration::from_secs(60));
            }
        }
    }
    plan.step(actions);
    plan
}

/// A range cut into the nodes' shares.
fn shares(range: &Range) -> Box<dyn Iterator<Item = IpNet>> {
    match range.cluster {
        IpNet::V4(v4) => Box::new(v4.subnets(range.node_prefix).into_iter().flatten().map(IpNet::V4)),
        IpNet::V6(v6) => Box::new(v6.subnets(range.node_prefix).into_iter().flatten().map(IpNet::V6)),
    }
}

/// The controller.
#[derive(Debug)]
pub struct NodeIpam {
    cx: Context,
    queue: Arc<Keys>,
    ranges: Vec<Range>,
}

impl NodeIpam {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context, ranges: Vec<Range>) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.nodes.on_change(move |change| {
            if change.latest().spec.pod_cidr.is_empty() {
                keys.add(Key::default());
            }
        });
        Arc::new(Self { cx: cx.of("cidrAllocator"), queue, ranges })
    }
}

#[async_trait]
impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "nodeipam"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, _key: &Key) -> Result<Option<Duration>, SyncError> {
        let plan = plan(&self.cx.caches.nodes.list(), &self.ranges);
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::{Action, Verb};

    fn node(name: &str, cidr: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr}})).unwrap())
    }

    fn range(cluster: &str, node_prefix: u8) -> Range {
        Range { cluster: cluster.parse().unwrap(), node_prefix }
    }

    fn given(plan: &Plan) -> Vec<(String, String)> {
        plan.actions()
            .filter_map(|a| match a {
                Action::Write(w) => match &w.verb {
                    Verb::Patch(_, _, p) => Some((w.name.clone(), p["spec"]["podCIDR"].as_str()?.to_owned())),
                    _ => None,
                },
                Action::Event(_) => None,
            })
            .collect()
    }

    #[test]
    fn the_first_free_ranges_are_given() {
        let nodes = [node("a", ""), node("b", "10.244.0.0/24"), node("c", ""), node("d", "10.244.2.0/25")];
        let plan = plan(&nodes, &[range("10.244.0.0/16", 24)]);
        assert_eq!(given(&plan), [("a".into(), "10.244.1.0/24".into()), ("c".into(), "10.244.3.0/24".into())]);
    }

    #[test]
    fn a_node_gets_a_range_of_each_family_or_none() {
        let ranges = [range("10.244.0.0/16", 24), range("fd00:10:244::/63", 64)];
        let nodes = [node("a", ""), node("b", ""), node("c", "")];
        let plan = plan(&nodes, &ranges);
        let patches: Vec<_> = plan
            .actions()
            .filter_map(|a| match a {
                Action::Write(write) => match &write.verb {
                    Verb::Patch(_, _, patch) => Some(patch["spec"].clone()),
                    _ => None,
                },
                Action::Event(_) => None,
            })
            .collect();
        assert_eq!(
            patches,
            [
                json!({"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]}),
                json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]}),
            ],
            "for the third one there is no second range left"
        );
        assert!(plan.requeue_after.is_some());
    }

    #[test]
    fn a_full_cluster_is_told_of() {
        let nodes = [node("a", "10.0.0.0/25"), node("b", "10.0.0.128/25"), node("c", "")];
        let plan = plan(&nodes, &[range("10.0.0.0/24", 25)]);
        assert!(given(&plan).is_empty());
        assert!(matches!(plan.actions().next(), Some(Action::Event(note)) if note.reason == "CIDRNotAvailable"));
        assert!(plan.requeue_after.is_some());
    }
}
