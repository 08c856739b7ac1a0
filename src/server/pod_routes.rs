//! Routes from the server to pods, by way of their nodes: webhooks and aggregated APIs run in pods, and the server calls
//! them at their own addresses.
//!
//! Only where no agent runs in the server's network namespace: an agent has these routes itself. A node on another link
//! is not reached this way; the machine's own routing has to know the pods' networks then.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use xebec_apiserver::ApiServer;
use xebec_apiserver::reader::Reader as _;
use xebec_cni::netlink::{Netlink, Route};

/// How often it is looked whether nodes have changed.
const CHECK: Duration = Duration::from_millis(500);
/// After so many checks, routes are put right in any case.
const RESYNC: u32 = 120;

/// Keeps the routes until `stop`.
pub async fn run(api: ApiServer, stop: CancellationToken) {
    let mut done = None;
    let mut checks: u32 = 0;
    let mut complained = false;
    loop {
        let generation = api.generation("", "nodes");
        if done != Some(generation) || checks.is_multiple_of(RESYNC) {
            match apply(&nodes(&api)) {
                Ok(()) => done = Some(generation),
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%error, "cannot make routes to pods: webhooks in pods may not be reached");
                }
                Err(_) => {}
            }
        }
        checks = checks.wrapping_add(1);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK) => {}
        }
    }
}

/// A node's own address, and its pods' network, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    node: IpAddr,
    pods: IpNet,
}

fn nodes(api: &ApiServer) -> Vec<Way> {
    let entries = api.list("", "nodes", "");
    entries.iter().filter_map(|entry| serde_json::from_slice(&entry.bytes).ok()).flat_map(|node| ways(&node)).collect()
}

/// One for each family that the node has both of.
fn ways(node: &Value) -> Vec<Way> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let addresses = list(&node["status"]["addresses"]);
    let internal = addresses.iter().filter(|a| a["type"] == "InternalIP");
    let internal: Vec<IpAddr> = internal.filter_map(|a| a["address"].as_str()?.parse().ok()).collect();
    let way = |pods: &Value| {
        let pods: IpNet = pods.as_str()?.parse().ok()?;
        let node = *internal.iter().find(|ip| ip.is_ipv4() == pods.addr().is_ipv4())?;
        Some(Way { node, pods: pods.trunc() })
    };
    list(&node["spec"]["podCIDRs"]).iter().filter_map(way).collect()
}

fn apply(nodes: &[Way]) -> Result<(), xebec_cni::netlink::Error> {
    let mut netlink = Netlink::open()?;
    let Some(wanted) = plan(nodes, &netlink.all_addresses()?) else { return Ok(()) };
    let present: BTreeSet<Route> = netlink.own_routes()?.into_iter().collect();
    for route in wanted.difference(&present) {
        netlink.set_route(route)?;
    }
    let destinations: BTreeSet<IpNet> = wanted.iter().map(|route| route.destination).collect();
    for route in present.difference(&wanted) {
        // One to the same destination was replaced.
        if !destinations.contains(&route.destination) {
            netlink.delete_route(route)?;
        }
    }
    Ok(())
}

/// The routes that there should be; `None` if it is not the server's business, since one of the nodes is here.
fn plan(nodes: &[Way], addresses: &[(u32, IpNet)]) -> Option<BTreeSet<Route>> {
    if nodes.iter().any(|way| addresses.iter().any(|(_, own)| own.addr() == way.node)) {
        return None;
    }
    let mut routes = BTreeSet::new();
    for way in nodes {
        let link = addresses.iter().find(|(_, own)| own.contains(&way.node) && !own.addr().is_loopback());
        if let Some((interface, _)) = link {
            let (interface, gateway) = (*interface, Some(way.node));
            routes.insert(Route { destination: way.pods, gateway, interface, source: None });
        }
    }
    Some(routes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_behind_their_nodes() {
        let node = |addresses: &[&str], pods: &[&str]| {
            let of = |address: &&str| json!({"type": "InternalIP", "address": address});
            let named = json!({"type": "Hostname", "address": "n"});
            let all: Vec<Value> = std::iter::once(named).chain(addresses.iter().map(of)).collect();
            ways(&json!({"spec": {"podCIDRs": pods}, "status": {"addresses": all}}))
        };
        let nodes = [
            node(&["172.30.0.11", "fd00:172::11"], &["10.244.0.0/24", "fd00:10:244::/64"]),
            node(&["192.168.9.9"], &["10.244.1.0/24", "fd00:10:244:1::/64"]),
        ]
        .concat();
        assert_eq!(nodes.len(), 3, "a network without an address of its family has no way");
        let own = ["127.0.0.1/8", "172.30.0.2/24", "fd00:172::2/64"].map(|net| (4, net.parse().unwrap()));
        let route = |destination: &str, gateway: &str| Route {
            destination: destination.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            interface: 4,
            source: None,
        };
        // The other one is on no link of the server's.
        let wanted = [route("10.244.0.0/24", "172.30.0.11"), route("fd00:10:244::/64", "fd00:172::11")];
        assert_eq!(plan(&nodes, &own), Some(BTreeSet::from(wanted)));
        assert_eq!(plan(&nodes, &[(4, "172.30.0.11/24".parse().unwrap())]), None, "an agent is here");
        assert!(ways(&json!({"spec": {}, "status": {}})).is_empty());
    }
}
