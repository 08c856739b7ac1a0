//! Pod address ranges: each node gets its own, cut out of the cluster's (upstream `pkg/controller/nodeipam`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};
use serde_json::json;

use crate::context::Context;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Note, Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::Node;

/// Gives ranges of `prefix` bits out of `cluster` to nodes that have none, in the nodes' order.
pub fn plan(nodes: &[Arc<Node>], cluster: Ipv4Net, prefix: u8) -> Plan {
    let taken: BTreeSet<IpNet> = nodes
        .iter()
        .flat_map(|n| n.spec.pod_cidrs.iter().chain([&n.spec.pod_cidr]))
        .filter_map(|cidr| cidr.parse::<IpNet>().ok())
        .collect();
    let overlaps = |net: &Ipv4Net| {
        let net = IpNet::V4(*net);
        taken.contains(&net) || taken.iter().any(|t| t.contains(&net) || net.contains(t))
    };
    let mut free = cluster.subnets(prefix).into_iter().flatten().filter(|net| !overlaps(net));
    let mut plan = Plan::nothing();
    let mut actions = Vec::new();
    for node in nodes.iter().filter(|n| n.spec.pod_cidr.is_empty() && !n.metadata.is_terminating()) {
        match free.next() {
            Some(net) => {
                let net = net.to_string();
                let patch = json!({"spec": {"podCIDR": net, "podCIDRs": [net]}});
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

/// The controller.
#[derive(Debug)]
pub struct NodeIpam {
    cx: Context,
    queue: Arc<Keys>,
    cluster: Ipv4Net,
    prefix: u8,
}

impl NodeIpam {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context, cluster: Ipv4Net, prefix: u8) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.nodes.on_change(move |change| {
            if change.latest().spec.pod_cidr.is_empty() {
                keys.add(Key::default());
            }
        });
        Arc::new(Self { cx: cx.of("cidrAllocator"), queue, cluster, prefix })
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
        let plan = plan(&self.cx.caches.nodes.list(), self.cluster, self.prefix);
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
        let plan = plan(&nodes, "10.244.0.0/16".parse().unwrap(), 24);
        assert_eq!(given(&plan), [("a".into(), "10.244.1.0/24".into()), ("c".into(), "10.244.3.0/24".into())]);
    }

    #[test]
    fn a_full_cluster_is_told_of() {
        let nodes = [node("a", "10.0.0.0/25"), node("b", "10.0.0.128/25"), node("c", "")];
        let plan = plan(&nodes, "10.0.0.0/24".parse().unwrap(), 25);
        assert!(given(&plan).is_empty());
        assert!(matches!(plan.actions().next(), Some(Action::Event(note)) if note.reason == "CIDRNotAvailable"));
        assert!(plan.requeue_after.is_some());
    }
}
