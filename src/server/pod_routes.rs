//! Routes from the server to pods, by way of their nodes: webhooks and aggregated APIs run in pods, and the server calls
//! them at their own addresses.
//!
//! Only where no agent runs in the server's network namespace: an agent has these routes itself. A node on another link
//! is not reached this way; the machine's own routing has to know the pods' networks then.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
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

/// A node's own address, and its pods' network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    node: Ipv4Addr,
    pods: Ipv4Net,
}

fn nodes(api: &ApiServer) -> Vec<Way> {
    let entries = api.list("", "nodes", "");
    entries.iter().filter_map(|entry| way(&serde_json::from_slice(&entry.bytes).ok()?)).collect()
}

fn way(node: &Value) -> Option<Way> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().filter(|a| a["type"] == "InternalIP");
    let address = internal.filter_map(|a| a["address"].as_str()?.parse().ok()).next()?;
    let pods: Ipv4Net = node["spec"]["podCIDR"].as_str()?.parse().ok()?;
    Some(Way { node: address, pods: pods.trunc() })
}

fn apply(nodes: &[Way]) -> Result<(), xebec_cni::netlink::Error> {
    let mut netlink = Netlink::open()?;
    let addresses = netlink.addresses()?;
    let Some(wanted) = plan(nodes, &addresses) else { return Ok(()) };
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
fn plan(nodes: &[Way], addresses: &[(u32, Ipv4Net)]) -> Option<BTreeSet<Route>> {
    if nodes.iter().any(|way| addresses.iter().any(|(_, own)| own.addr() == way.node)) {
        return None;
    }
    let mut routes = BTreeSet::new();
    for way in nodes {
        let link = addresses.iter().find(|(_, own)| own.contains(&way.node) && !own.addr().is_loopback());
        if let Some((interface, _)) = link {
            let (interface, gateway) = (*interface, Some(way.node.into()));
            routes.insert(Route { destination: way.pods.into(), gateway, interface, source: None });
        }
    }
    Some(routes)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_behind_their_nodes() {
        let node = |address: &str, pods: &str| {
            way(&json!({"spec": {"podCIDR": pods}, "status": {"addresses": [
                {"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": address}]}}))
        };
        let nodes = [node("172.30.0.11", "10.244.0.0/24"), node("192.168.9.9", "10.244.1.0/24")].map(Option::unwrap);
        let own = [(1, "127.0.0.1/8".parse().unwrap()), (4, "172.30.0.2/24".parse().unwrap())];
        let route = Route {
            destination: "10.244.0.0/24".parse().unwrap(),
            gateway: Some(IpAddr::from([172, 30, 0, 11])),
            interface: 4,
            source: None,
        };
        // The other one is on no link of the server's.
        assert_eq!(plan(&nodes, &own), Some(BTreeSet::from([route])));
        assert_eq!(plan(&nodes, &[(4, "172.30.0.11/24".parse().unwrap())]), None, "an agent is here");
        assert_eq!(way(&json!({"spec": {}, "status": {}})), None);
    }
}
