use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::json;
use xebec_ebpf_loader::layout::{Addr, node_address_flags, peer_flags};

use super::load_balancer::{Links, owners};
use super::mtu::Paths;
use super::nodes::{EXCLUDE_LABEL, LINKS_ANNOTATION, Node};
use super::peers::{Local, plan, vtep_mac};
use super::setup::Tunnel;

fn node(name: &str, ip: &str, pods: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "podCIDR": pods, "podCIDRs": [pods] },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": ip }, { "type": "Hostname", "address": name }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    }))
    .unwrap()
}

fn local(tunnel: Tunnel) -> Local {
    Local {
        name: "n1".to_owned(),
        addresses: BTreeSet::from([IpAddr::from([172, 30, 0, 11])]),
        address: IpAddr::from([172, 30, 0, 11]),
        address6: None,
        uplink: 2,
        on_link: vec!["172.30.0.0/24".parse().unwrap()],
        vxlan: Some(3),
        tunnel,
    }
}

fn nodes() -> [Node; 3] {
    [
        node("n1", "172.30.0.11", "10.244.1.0/24"),
        node("n2", "172.30.0.12", "10.244.2.0/24"),
        node("n3", "172.31.0.13", "10.244.3.0/24"),
    ]
}

#[test]
fn neighbours_are_routed_and_others_tunnelled() {
    let plan = plan(nodes().iter(), &local(Tunnel::Auto), &Paths::new());
    let routes: Vec<_> = plan.routes.iter().map(|r| (r.destination.to_string(), r.gateway, r.interface)).collect();
    assert_eq!(
        routes,
        [("10.244.2.0/24".to_owned(), Some(IpAddr::from([172, 30, 0, 12])), 2), ("10.244.3.0/24".to_owned(), None, 3),]
    );
    let peers: Vec<_> =
        plan.peers.iter().map(|((addr, length), peer)| (format!("{addr:?}"), length - 96, peer.0.flags)).collect();
    assert_eq!(
        peers,
        [
            ("10.244.2.0".to_owned(), 24, 0),
            ("10.244.3.0".to_owned(), 24, peer_flags::TUNNEL),
            ("172.31.0.13".to_owned(), 32, peer_flags::TUNNEL),
        ]
    );
    let addresses: Vec<_> = plan.node_addresses.iter().map(|(addr, flags)| (format!("{addr:?}"), *flags)).collect();
    assert_eq!(
        addresses,
        [
            ("172.30.0.11".to_owned(), node_address_flags::LOCAL),
            ("172.30.0.12".to_owned(), node_address_flags::PEER),
            ("172.31.0.13".to_owned(), node_address_flags::PEER),
        ]
    );
    assert!(plan.unreachable.is_empty());
}

#[test]
fn the_second_family_has_routes_of_its_own_and_the_same_tunnel() {
    let dual = |name: &str, ip: &str, ip6: &str, number: u8| -> Node {
        let mut node = node(name, ip, &format!("10.244.{number}.0/24"));
        node.spec.pod_cidrs.push(format!("fd00:10:244:{number}::/64"));
        node.status.addresses.extend(
            serde_json::from_value::<Vec<super::nodes::NodeAddress>>(json!([{ "type": "InternalIP", "address": ip6 }]))
                .unwrap(),
        );
        node
    };
    let nodes = [
        dual("n2", "172.30.0.12", "fd00:172::12", 2),
        dual("n3", "172.31.0.13", "fd00:173::13", 3),
        dual("n4", "172.30.0.14", "none", 4),
    ];
    let mut local = local(Tunnel::Auto);
    local.address6 = Some("fd00:172::11".parse().unwrap());
    local.on_link.push("fd00:172::/64".parse().unwrap());
    let paths = ["172.30.0.12", "172.31.0.13"].map(|node| (node.parse().unwrap(), 1_400));
    let result = plan(nodes.iter(), &local, &Paths::from(paths));
    let of = |text: &str| text.parse::<IpAddr>().unwrap();
    let routes: Vec<_> = result
        .routes
        .iter()
        .filter(|route| route.destination.addr().is_ipv6())
        .map(|r| (r.destination.to_string(), r.gateway, r.interface, r.source))
        .collect();
    let source = Some(of("fd00:172::11"));
    assert_eq!(
        routes,
        [
            ("fd00:10:244:2::/64".to_owned(), Some(of("fd00:172::12")), 2, source),
            ("fd00:10:244:3::/64".to_owned(), None, 3, source),
            ("fd00:10:244:4::/64".to_owned(), None, 3, source),
        ],
        "by the link, by the tunnel, and by that for want of an address"
    );
    let peer = |net: &str, length| result.peers[&(Addr::from(of(net)), length)].0;
    assert_eq!((peer("fd00:10:244:2::", 64).node.to_ip(), peer("fd00:10:244:2::", 64).flags), (of("fd00:172::12"), 0));
    let mtus = [("fd00:10:244:2::", 64), ("fd00:10:244:3::", 64), ("fd00:173::13", 128), ("fd00:10:244:4::", 64)]
        .map(|(net, length)| peer(net, length).mtu);
    assert_eq!(mtus, [1_400, 1_350, 1_350, 0], "both families take the same path");
    for (net, length, node) in [
        ("fd00:10:244:3::", 64, "172.31.0.13"),
        ("fd00:173::13", 128, "172.31.0.13"),
        ("fd00:10:244:4::", 64, "172.30.0.14"),
    ] {
        assert_eq!((peer(net, length).node.to_ip(), peer(net, length).flags), (of(node), peer_flags::TUNNEL), "{net}");
    }
    assert_eq!(result.node_addresses[&Addr::from(of("fd00:173::13"))], node_address_flags::PEER);
}

#[test]
fn without_ipv4_routes_and_tunnels_are_those_of_ipv6() {
    let nodes = [node("n2", "fd00:172::12", "fd00:10:244:2::/64"), node("n3", "fd00:173::13", "fd00:10:244:3::/64")];
    let of = |text: &str| text.parse::<IpAddr>().unwrap();
    let own = of("fd00:172::11");
    let local = Local {
        addresses: BTreeSet::from([own]),
        address: own,
        address6: Some("fd00:172::11".parse().unwrap()),
        on_link: vec!["fd00:172::/64".parse().unwrap()],
        ..local(Tunnel::Auto)
    };
    let result = plan(nodes.iter(), &local, &Paths::from([(of("fd00:173::13"), 1_400)]));
    let routes: Vec<_> =
        result.routes.iter().map(|r| (r.destination.to_string(), r.gateway, r.interface, r.source)).collect();
    assert_eq!(
        routes,
        [
            ("fd00:10:244:2::/64".to_owned(), Some(of("fd00:172::12")), 2, Some(own)),
            ("fd00:10:244:3::/64".to_owned(), None, 3, Some(own)),
        ]
    );
    let far = result.peers[&(Addr::from(of("fd00:10:244:3::")), 64)].0;
    assert_eq!((far.node.to_ip(), far.flags, far.mtu), (of("fd00:173::13"), peer_flags::TUNNEL, 1_330));
    assert_ne!(vtep_mac(of("fd00:173::13")), vtep_mac(of("fd00:174::13")));
    assert!(result.unreachable.is_empty());
}

#[test]
fn the_tunnel_can_be_forced_or_forbidden() {
    let always = plan(nodes().iter(), &local(Tunnel::Always), &Paths::new());
    assert!(always.routes.iter().all(|route| route.interface == 3));
    let never = plan(nodes().iter(), &local(Tunnel::Never), &Paths::new());
    assert_eq!(never.routes.len(), 1);
    assert!(never.unreachable["n3"].contains("tunnel"));
    let without = Local { vxlan: None, ..local(Tunnel::Auto) };
    let plan = plan(nodes().iter(), &without, &Paths::new());
    assert_eq!(plan.routes.len(), 1);
    assert!(plan.unreachable["n3"].contains("VXLAN"));
}

#[test]
fn a_node_without_range_or_address_is_left_out() {
    let plan = plan(
        [node("n2", "172.30.0.12", ""), node("n3", "", "10.244.3.0/24")].iter(),
        &local(Tunnel::Auto),
        &Paths::new(),
    );
    assert!(plan.routes.is_empty() && plan.peers.is_empty());
    assert_eq!(plan.node_addresses.len(), 2);
}

#[test]
fn only_ready_nodes_that_are_not_excluded_take_load_balancers() {
    let mut node = node("n1", "172.30.0.11", "10.244.1.0/24");
    assert!(node.takes_load_balancers());
    node.metadata.labels.insert(EXCLUDE_LABEL.to_owned(), String::new());
    assert!(!node.takes_load_balancers());
    node.metadata.labels.clear();
    node.status.conditions[0].status = "Unknown".to_owned();
    assert!(!node.takes_load_balancers());
}

#[test]
fn load_balancer_addresses_spread_and_go_where_they_may() {
    let fit: BTreeSet<String> = (1..=4).map(|i| format!("n{i}")).collect();
    let addresses = (0..200).map(|i| (IpAddr::from([172, 30, 0, i]), None)).collect();
    let mut counts = BTreeMap::<String, usize>::new();
    for owner in owners(&addresses, &fit, &Links::new()).into_values() {
        *counts.entry(owner).or_default() += 1;
    }
    assert!(counts.values().all(|n| (25..=75).contains(n)), "{counts:?}");
    let only = BTreeMap::from([(IpAddr::from([172, 30, 0, 1]), Some(BTreeSet::from(["n2".to_owned()])))]);
    assert_eq!(owners(&only, &fit, &Links::new()).into_values().collect::<Vec<_>>(), ["n2"]);
    let nobody = BTreeMap::from([(IpAddr::from([172, 30, 0, 1]), Some(BTreeSet::new()))]);
    assert!(owners(&nobody, &fit, &Links::new()).is_empty());
}

#[test]
fn an_address_on_a_link_is_answered_for_there() {
    let mut nodes = [node("n1", "172.30.0.11", ""), node("n2", "172.30.0.12", ""), node("n3", "172.31.0.13", "")];
    for (node, links) in nodes.iter_mut().zip(["172.30.0.0/24,fd00:30::/64", "172.30.0.0/24", "172.31.0.0/24"]) {
        assert_eq!(node.links(), None);
        node.metadata.annotations.insert(LINKS_ANNOTATION.to_owned(), links.to_owned());
    }
    let links: Links = nodes.iter().map(|node| (node.metadata.name.clone(), node.links())).collect();
    let fit: BTreeSet<String> = links.keys().cloned().collect();
    let addresses = |texts: Vec<String>| texts.iter().map(|text| (text.parse().unwrap(), None)).collect();
    let owners_of = |texts: Vec<String>, fit: &BTreeSet<String>, links: &Links| -> BTreeSet<String> {
        owners(&addresses(texts), fit, links).into_values().collect()
    };
    let all = |net: &str| (1..100).map(|i| format!("{net}{i}")).collect::<Vec<_>>();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(owners_of(all("172.30.0."), &fit, &links), set(&["n1", "n2"]));
    assert_eq!(owners_of(all("172.31.0."), &fit, &links), set(&["n3"]));
    assert_eq!(owners_of(all("fd00:30::"), &fit, &links), set(&["n1"]));
    // Routed to the nodes.
    assert_eq!(owners_of(all("198.51.100."), &fit, &links), set(&["n1", "n2", "n3"]));
    // The nodes on the link are dead: nobody else would be heard.
    assert_eq!(owners_of(all("172.30.0."), &set(&["n3"]), &links), set(&[]));
    // One that has not said may be there.
    let mut unsaid = links;
    unsaid.insert("n3".to_owned(), None);
    assert_eq!(owners_of(all("172.30.0."), &fit, &unsaid), set(&["n1", "n2", "n3"]));
}

proptest! {
    /// When a node goes, only its addresses move.
    #[test]
    fn a_node_takes_only_its_own_addresses_with_it(count in 2_u8..10, gone in 0_u8..10) {
        let all: BTreeSet<String> = (0..count).map(|i| format!("n{i}")).collect();
        let gone = format!("n{}", gone % count);
        let rest: BTreeSet<String> = all.iter().filter(|n| **n != gone).cloned().collect();
        let addresses = (0..100).map(|i| (IpAddr::from([172, 30, 0, i]), None)).collect();
        let (before, after) = (owners(&addresses, &all, &Links::new()), owners(&addresses, &rest, &Links::new()));
        for (address, owner) in before {
            if owner != gone {
                prop_assert_eq!(&after[&address], &owner);
            }
        }
    }
}
