//! Follows the nodes, and keeps routes, peers and addresses as they call for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;
use xebec_cni::netlink::{Link, Netlink, Route};
use xebec_ebpf_loader::layout::{Addr, lb_address_flags};

use super::alive::watch_over;
use super::announce::{Groups, gratuitous_arp, unsolicited_advertisement};
use super::handover::{Past, former_owners};
use super::load_balancer::{Links, owners};
use super::mtu;
use super::nodes::{LINKS_ANNOTATION, Node};
use super::peers::{Local, Plan, plan};
use super::pools::{self, LoadBalancerPool, Pools};
use super::setup::PeerMaps;
use crate::api::watch::{Change, follow};
use crate::api::{ApiError, Rest};
use crate::drain::peers::Nodes;
use crate::news::tell;
use crate::proxy::LoadBalancerAddresses;

/// How long to wait before trying again what failed, and at most between two comparisons with the kernel: somebody may
/// have removed a route.
const RETRY: Duration = Duration::from_secs(2);
const COMPARE: Duration = Duration::from_secs(60);
/// How long the server may take to be told of this node's links: dead nodes' addresses are taken over by who waits for it.
const TELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs until `cancel`. What is in the kernel stays there. `ready` is told which other nodes are ready, `small_path` what
/// is wrong if large packets do not get to one.
#[expect(clippy::too_many_arguments, reason = "one caller, and each is another part of the agent")]
pub async fn run(
    local: Local,
    uplink: Link,
    rest: Rest,
    random: Random,
    maps: PeerMaps,
    mut addresses: watch::Receiver<Option<LoadBalancerAddresses>>,
    ready: watch::Sender<Nodes>,
    small_path: watch::Sender<Option<String>>,
    cancel: CancellationToken,
) {
    let (sender, mut changes) = mpsc::channel(256);
    let (pool_sender, mut pool_changes) = mpsc::channel(64);
    let watcher = async {
        let nodes = "/api/v1/nodes".to_owned();
        tokio::join!(
            follow::<Node>(rest.clone(), nodes, String::new(), random.clone(), sender),
            follow::<LoadBalancerPool>(
                rest.clone(),
                pools::PATH.to_owned(),
                String::new(),
                random.clone(),
                pool_sender
            ),
        )
    };
    let mut peers = Peers {
        local,
        uplink,
        maps,
        nodes: BTreeMap::new(),
        pools: Pools::default(),
        known: BTreeSet::new(),
        owners: BTreeMap::new(),
        groups: Groups::default(),
        paths: mtu::Paths::new(),
        told: None,
    };
    let (others, heeded) = watch::channel(BTreeSet::new());
    let (silence, mut silent) = watch::channel(BTreeSet::new());
    let watching = watch_over(peers.local.address, heeded, silence);
    let (everybody, all_others) = watch::channel(BTreeSet::new());
    let (measured, mut paths) = watch::channel(mtu::Paths::new());
    let link = peers.uplink.mtu;
    let measuring = mtu::watch_over(peers.local.address, link, all_others, measured);
    let work = async {
        let mut listed = false;
        let mut wait = COMPARE;
        loop {
            tokio::select! {
                biased;
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    listed |= matches!(change, Change::All(_));
                    peers.take(change);
                    while let Ok(change) = changes.try_recv() {
                        peers.take(change);
                    }
                }
                change = pool_changes.recv() => {
                    let Some(change) = change else { return };
                    peers.pools.take(change);
                }
                changed = addresses.changed() => if changed.is_err() { return },
                changed = silent.changed() => if changed.is_err() { return },
                changed = paths.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            if !listed {
                continue;
            }
            peers.tell_ready(&ready);
            peers.tell_others(&everybody);
            peers.paths = paths.borrow_and_update().clone();
            tell(&small_path, mtu::problem(&peers.paths, link));
            let wanted = addresses.borrow_and_update().clone().filter(|_| peers.pools.is_listed());
            // Where there are no addresses to answer for, there is nothing to say.
            let nothing = wanted.as_ref().is_none_or(BTreeMap::is_empty);
            tell(&others, if nothing { BTreeSet::new() } else { peers.other_addresses() });
            let silent = silent.borrow_and_update().clone();
            // Until the addresses are known, what an agent before this one answered for stays.
            wait = match peers.update(wanted.as_ref(), &silent) {
                Ok(()) => COMPARE,
                Err(error) => {
                    tracing::warn!(%error, "cannot bring the network's routes up to date; trying again");
                    RETRY
                }
            };
            let told = tokio::time::timeout(TELL_TIMEOUT, peers.tell_links(&rest)).await;
            if let Err(error) = told.unwrap_or_else(|late| Err(ApiError::Transport(late.to_string()))) {
                tracing::warn!(%error, "cannot tell other nodes which networks are on this node's link; trying again");
                wait = RETRY;
            }
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = work => {}
        _ = watcher => {}
        () = watching => {}
        () = measuring => {}
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Netlink(#[from] xebec_cni::netlink::Error),
    #[error(transparent)]
    Maps(#[from] xebec_ebpf_loader::Error),
}

struct Peers {
    local: Local,
    uplink: Link,
    maps: PeerMaps,
    nodes: BTreeMap<String, Arc<Node>>,
    pools: Pools,
    /// Nodes known to be unreachable: said once.
    known: BTreeSet<String>,
    /// Who answered for load balancer addresses when that was last worked out.
    owners: BTreeMap<IpAddr, String>,
    /// Groups of the link that neighbours' solicitations for these addresses go to: the uplink's card must let them in.
    groups: Groups,
    /// Which of the other nodes only smaller packets get to.
    paths: mtu::Paths,
    /// The version of this node's object that others were told its links of.
    told: Option<String>,
}

impl Peers {
    fn take(&mut self, change: Change<Node>) {
        match change {
            Change::All(all) => {
                self.nodes = all.into_iter().map(|node| (node.metadata.name.clone(), node)).collect();
            }
            Change::Put(node) => drop(self.nodes.insert(node.metadata.name.clone(), node)),
            Change::Gone(node) => drop(self.nodes.remove(&node.metadata.name)),
        }
    }

    fn tell_ready(&self, ready: &watch::Sender<Nodes>) {
        let others = self.nodes.values().filter(|node| node.is_ready() && node.metadata.name != self.local.name);
        tell(ready, others.filter_map(|node| Some((node.metadata.name.clone(), node.agent()?))).collect());
    }

    fn tell_others(&self, others: &watch::Sender<BTreeSet<IpAddr>>) {
        let all = self.nodes.values().filter(|node| node.metadata.name != self.local.name);
        tell(others, all.filter_map(|node| node.internal_like(self.local.address)).collect());
    }

    /// The addresses of the other nodes that may answer for load balancer addresses.
    fn other_addresses(&self) -> BTreeSet<IpAddr> {
        let others = self.nodes.values().filter(|node| node.metadata.name != self.local.name);
        let fit = others.filter(|node| node.takes_load_balancers());
        fit.filter_map(|node| node.internal_like(self.local.address)).collect()
    }

    /// The networks on the nodes' links.
    fn links(&self) -> Links {
        self.nodes.values().map(|node| (node.metadata.name.clone(), node.links())).collect()
    }

    /// Tells the others of this node's link, if they do not know it yet.
    async fn tell_links(&mut self, rest: &Rest) -> Result<(), ApiError> {
        let Some(own) = self.nodes.get(&self.local.name) else { return Ok(()) };
        let links: Vec<String> = self.local.on_link.iter().map(IpNet::to_string).collect();
        let links = links.join(",");
        // Of this state of the object it has been tried: its change is on its way here.
        let is_told = self.told.as_ref() == Some(&own.metadata.resource_version);
        if is_told || own.metadata.annotations.get(LINKS_ANNOTATION) == Some(&links) {
            return Ok(());
        }
        let version = own.metadata.resource_version.clone();
        let patch = json!({ "metadata": { "annotations": { LINKS_ANNOTATION: links } } });
        rest.patch::<Value>(&format!("/api/v1/nodes/{}", self.local.name), &patch).await?;
        self.told = Some(version);
        Ok(())
    }

    fn update(&mut self, addresses: Option<&LoadBalancerAddresses>, silent: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        let wanted = plan(self.nodes.values().map(|node| &**node), &self.local, &self.paths);
        for (node, reason) in &wanted.unreachable {
            if self.known.insert(node.clone()) {
                tracing::warn!(%node, %reason, "a node's pods cannot be reached");
            }
        }
        self.known.retain(|node| wanted.unreachable.contains_key(node));
        self.apply(&wanted)?;
        let Some(addresses) = addresses else { return Ok(()) };
        let addresses = &self.pools.restrict(addresses, &self.nodes);
        let own = self.local.address;
        let is_silent = |node: &Node| node.internal_like(own).is_some_and(|ip| silent.contains(&ip));
        let fit = self.nodes.values().filter(|node| node.takes_load_balancers() && !is_silent(node));
        let fit: BTreeSet<String> = fit.map(|node| node.metadata.name.clone()).collect();
        let links = self.links();
        let owners = owners(addresses, &fit, &links);
        let owned: BTreeSet<IpAddr> =
            owners.iter().filter(|(_, owner)| **owner == self.local.name).map(|(address, _)| *address).collect();
        self.remember_owners(addresses, &owned, &links, &is_silent)?;
        self.owners = owners;
        self.announce(&owned)
    }

    /// Says where the connections are known of the addresses that have moved, or are to move, here.
    fn remember_owners(
        &mut self,
        addresses: &LoadBalancerAddresses,
        owned: &BTreeSet<IpAddr>,
        links: &Links,
        is_silent: &dyn Fn(&Node) -> bool,
    ) -> Result<(), Failure> {
        let others = self.nodes.values().filter(|node| node.metadata.name != self.local.name && !is_silent(node));
        let pods = |node: &Node| match self.local.address {
            IpAddr::V4(_) => Some(IpAddr::V4(node.pod_cidr()?.network())),
            IpAddr::V6(_) => Some(IpAddr::V6(node.pod_cidr6()?.network())),
        };
        let ways = |node: &Arc<Node>| Some((node.metadata.name.clone(), pods(node)?.into()));
        let ways: BTreeMap<String, Addr> = others.filter_map(ways).collect();
        let table = &mut self.maps.former_owners;
        let present: BTreeMap<Addr, Addr> = table.entries()?.into_iter().collect();
        let held = self.maps.lb_addresses.entries()?;
        let past = Past {
            held: held.into_iter().map(|(addr, _)| (addr, present.get(&addr).copied())).collect(),
            last: std::mem::take(&mut self.owners),
            otherwise: owners(addresses, &ways.keys().cloned().collect(), links),
            ways,
        };
        let wanted = former_owners(owned, &past);
        for addr in present.keys().filter(|addr| !wanted.contains_key(addr)) {
            table.remove(addr)?;
        }
        for (addr, way) in wanted.iter().filter(|(addr, way)| present.get(addr) != Some(way)) {
            table.insert(addr, way)?;
        }
        Ok(())
    }

    /// Peers before routes: what a route sends into the tunnel must find its peer there.
    fn apply(&mut self, plan: &Plan) -> Result<(), Failure> {
        let maps = &mut self.maps;
        let mut stale = Vec::new();
        let mut present = BTreeMap::new();
        for (key, peer) in maps.peers.entries()? {
            if !plan.peers.contains_key(&key) {
                stale.push(key);
            }
            present.insert(key, peer);
        }
        for ((addr, length), entry) in &plan.peers {
            if present.get(&(*addr, *length)) != Some(&entry.0) {
                maps.peers.insert(*addr, *length, &entry.0)?;
            }
        }
        let nodes: BTreeMap<Addr, u32> = maps.node_addresses.entries()?.into_iter().collect();
        for (addr, flags) in &plan.node_addresses {
            if nodes.get(addr) != Some(flags) {
                maps.node_addresses.insert(addr, flags)?;
            }
        }
        self.apply_routes(&plan.routes)?;
        let maps = &mut self.maps;
        for (addr, length) in stale {
            maps.peers.remove(addr, length)?;
        }
        for addr in nodes.keys().filter(|addr| !plan.node_addresses.contains_key(addr)) {
            maps.node_addresses.remove(addr)?;
        }
        Ok(())
    }

    fn apply_routes(&self, wanted: &BTreeSet<Route>) -> Result<(), Failure> {
        let mut netlink = Netlink::open()?;
        // Routes to pods of this node are ours too, by their own interfaces.
        let ours = |route: &Route| route.interface == self.local.uplink || Some(route.interface) == self.local.vxlan;
        let present: BTreeSet<Route> = netlink.own_routes()?.into_iter().filter(ours).collect();
        for route in wanted.difference(&present) {
            netlink.set_route(route)?;
        }
        let destinations: BTreeSet<_> = wanted.iter().map(|route| route.destination).collect();
        for route in present.difference(wanted) {
            // One to the same destination was replaced.
            if !destinations.contains(&route.destination) {
                netlink.delete_route(route)?;
            }
        }
        Ok(())
    }

    /// Owns these addresses and no others, and tells the link of new ones: neighbours may know another node's MAC.
    fn announce(&mut self, owned: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        let table = &mut self.maps.lb_addresses;
        let present: BTreeSet<Addr> = table.entries()?.into_iter().map(|(addr, _)| addr).collect();
        let wanted: BTreeSet<Addr> = owned.iter().map(|ip| (*ip).into()).collect();
        self.groups.keep(owned);
        for addr in present.difference(&wanted) {
            table.remove(addr)?;
        }
        for ip in owned {
            let addr = Addr::from(*ip);
            if present.contains(&addr) {
                continue;
            }
            table.insert(&addr, &lb_address_flags::OWNED)?;
            tracing::info!(address = %ip, "answering for a load balancer address");
            let told = match ip {
                IpAddr::V4(v4) => gratuitous_arp(&self.uplink, *v4),
                IpAddr::V6(v6) => {
                    if let Err(error) = self.groups.join(*v6, self.uplink.index) {
                        tracing::warn!(%error, address = %ip, "neighbours may not find a load balancer address");
                    }
                    unsolicited_advertisement(&self.uplink, *v6)
                }
            };
            if let Err(error) = told {
                tracing::warn!(%error, address = %ip, "cannot announce a load balancer address; neighbours may take a minute to notice");
            }
        }
        Ok(())
    }
}
