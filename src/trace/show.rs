//! A trace, told.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Serialize;
use xebec_ebpf_loader::layout::Direction;
use xebec_node_agent::policy::explain::Question;
use xebec_node_agent::sight::trace::frame::{Tuple, number};
use xebec_node_agent::sight::trace::walk::End;
use xebec_node_agent::sight::trace::{Decision, Driver, Hop, Trace};

use super::Report;
use super::resolve::World;

/// What the policies that select a pod say of the connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policies {
    pod: String,
    direction: &'static str,
    said: Vec<Said>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    policy: String,
    /// `allow`, `deny`, `pass`; none: no rule matches.
    action: Option<String>,
    /// If the rule means the other side by its name: `NAME as PATTERN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_name: Option<String>,
}

/// In one line.
pub(super) fn outcome(last: &Trace, world: &World) -> String {
    match &last.end {
        End::Pod { address } => {
            let port = last.hops.last().map_or(0, |hop| hop.result.destination.port());
            format!("delivered to {}", world.describe(SocketAddr::new(*address, port)))
        }
        End::Node { address } => {
            let port = last.hops.last().map_or(0, |hop| hop.result.destination.port());
            format!("delivered to the node's own processes: {}", world.describe(SocketAddr::new(*address, port)))
        }
        End::Dropped { reason } => format!("dropped on node {}: {reason}", last.node),
        End::Refused { reason, answer } => format!("refused on node {}: {reason}; the client gets {answer}", last.node),
        End::Nobody { address } => format!("unreachable: no pod of node {} has the address {address}", last.node),
        End::Left { node: Some(node), .. } => format!("on its way to node {node}"),
        End::Left { node: None, .. } => format!("left the cluster by the uplink of node {}", last.node),
    }
}

/// Each policy that was decided by, with what it says, wherever the programs judged.
pub(super) fn policies(nodes: &[Trace], world: &World) -> Vec<Policies> {
    let mut out = Vec::new();
    for (hop, names) in nodes.iter().flat_map(|trace| trace.hops.iter().map(|hop| (hop, &trace.names))) {
        let judged = hop.decisions.iter().find(|d| matches!(d.what.as_str(), "allowed" | "denied"));
        let Some(decision) = judged else { continue };
        let Tuple { source, destination, protocol } = &hop.packet;
        let (direction, name, own, peer) = match decision.direction.as_deref() {
            Some("ingress") => (Direction::Ingress, "ingress", destination, source),
            _ => (Direction::Egress, "egress", source, destination),
        };
        let Some(pod) = world.objects.pod_at(own.ip()) else { continue };
        let protocol = number(protocol).unwrap_or_default();
        let question = Question { pod, direction, peer: peer.ip(), protocol, port: destination.port(), names };
        let said = world.objects.explain(question).into_iter().map(|said| Said {
            policy: said.policy,
            action: said.action.map(|action| format!("{action:?}").to_lowercase()),
            by_name: said.by_name,
        });
        let pod = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
        out.push(Policies { pod, direction: name, said: said.collect() });
    }
    out
}

/// For people.
pub(super) fn text(report: &Report, world: &World) -> String {
    let mut out = format!("{} -> {}\n", report.from, report.to);
    for trace in &report.nodes {
        let _ = writeln!(out, "node {}", trace.node);
        for hop in &trace.hops {
            let old = if hop.attached == Some(false) {
                "  (another program is attached there: is the agent being upgraded?)"
            } else {
                ""
            };
            let _ = writeln!(
                out,
                "  {:<16} {} {} -> {}{old}",
                hop.program, hop.packet.protocol, hop.packet.source, hop.packet.destination
            );
            for decision in &hop.decisions {
                let _ = writeln!(out, "      {}", tell(decision, hop, report, world));
            }
        }
        if let Some(driver) = &trace.driver {
            let _ = writeln!(out, "  uplink_xdp       {}", by_driver(driver));
        }
    }
    let _ = writeln!(out, "{}", report.outcome);
    out
}

/// What the uplink's driver makes of the packets that follow.
fn by_driver(driver: &Driver) -> String {
    let Driver { forwards, xdp } = driver;
    match (forwards, xdp.in_use) {
        (true, true) => "the packets that follow are forwarded in the uplink's driver".to_owned(),
        (false, true) => "the packets that follow are left to uplink_ingress".to_owned(),
        (true, false) => format!("could forward the packets that follow, but is not in use: {}", xdp.reason),
        (false, false) => format!("is not in use: {}", xdp.reason),
    }
}

/// One decision.
fn tell(decision: &Decision, hop: &Hop, report: &Report, world: &World) -> String {
    let address = decision.address.map(|address| world.describe(address)).unwrap_or_default();
    let ip = decision.address.map(|address| address.ip().to_string()).unwrap_or_default();
    let direction = decision.direction.as_deref().unwrap_or_default();
    match decision.what.as_str() {
        "service" => {
            let at = decision.address.unwrap_or(hop.packet.destination);
            let name = world.service_at(at, &hop.packet.protocol);
            let name = name.unwrap_or_else(|| "that the API does not have any more".to_owned());
            let slots = decision.slots.unwrap_or_default();
            let sticky = decision.affinity_timeout_s.map(|s| format!(", a client stays for {s} s")).unwrap_or_default();
            format!("the destination is service {name}: {slots} slots of endpoints{sticky}")
        }
        "affinity" => "the client has met this endpoint before".to_owned(),
        "backend" => format!("endpoint {address}"),
        "known-flow" => format!("part of a known flow to {address}"),
        "drop" => format!("not let through: {}", decision.reason.as_deref().unwrap_or("unknown")),
        "not-selected" => format!("no policy selects the pod for {direction}"),
        "own-node" => "the pod's own node, which policies do not bar".to_owned(),
        "allowed" | "denied" => {
            let verdict = if decision.what == "allowed" { "allow" } else { "do not allow" };
            let mut text =
                format!("{direction} policies {verdict} it ({})", decision.by.as_deref().unwrap_or_default());
            let mine = report.policies.iter().filter(|p| p.direction == direction);
            for said in mine.flat_map(|policies| &policies.said) {
                let action = said.action.as_deref().unwrap_or("no rule of it matches");
                let name = said.by_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
                let _ = write!(text, "\n        {}: {action}{name}", said.policy);
            }
            text
        }
        "known-connection" => "part of a connection that policies allowed".to_owned(),
        "to-pod" => format!("straight into pod {ip}"),
        "to-pod-hook" => format!("to pod {ip}, past its policies"),
        "to-neighbour" => match world.node_at(decision.address.map_or(hop.packet.destination.ip(), |a| a.ip())) {
            Some(node) => format!("out by the uplink to node {node} ({ip})"),
            None => format!("out by the uplink to {ip}"),
        },
        "by-route" => "out by the uplink, by the kernel's routes".to_owned(),
        "into-tunnel" => "into the tunnel".to_owned(),
        "tunnel" => format!("the tunnel leads to {address}"),
        "back" => "answered at once".to_owned(),
        "source" => format!("its source becomes {address}"),
        "destination" => format!("its destination becomes {address}"),
        "direct-return" => format!("handed on as it is; the node of {address} answers the client itself"),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_told_where_it_happened() {
        let tuple: Tuple = serde_json::from_value(serde_json::json!({
            "source": "10.244.1.5:40000", "destination": "10.244.2.7:80", "protocol": "TCP"
        }))
        .unwrap();
        let drop = Decision { what: "drop".into(), reason: Some("policy-ingress".into()), ..Decision::default() };
        let hop = Hop {
            program: "pod_ingress".into(),
            attached: Some(true),
            packet: tuple.clone(),
            decisions: vec![drop],
            result: tuple,
        };
        let end = End::Dropped { reason: "policy-ingress".into() };
        let trace = Trace { node: "n2".into(), hops: vec![hop], end, driver: None, names: Vec::new() };
        let world = World::default();
        let outcome = outcome(&trace, &world);
        assert_eq!(outcome, "dropped on node n2: policy-ingress");
        let report = Report {
            from: "a".into(),
            to: "b".into(),
            arrives: false,
            outcome,
            nodes: vec![trace],
            policies: Vec::new(),
        };
        let text = text(&report, &world);
        let expected = "a -> b\nnode n2\n  pod_ingress      TCP 10.244.1.5:40000 -> 10.244.2.7:80\n      not let through: \
                        policy-ingress\ndropped on node n2: policy-ingress\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_driver_is_told_of_whether_it_is_in_use_or_not() {
        let xdp =
            |in_use| xebec_node_agent::network::XdpState { in_use, reason: "it is never".into(), ..Default::default() };
        let told = |forwards, in_use| by_driver(&Driver { forwards, xdp: xdp(in_use) });
        assert_eq!(told(true, true), "the packets that follow are forwarded in the uplink's driver");
        assert_eq!(told(false, true), "the packets that follow are left to uplink_ingress");
        assert_eq!(told(true, false), "could forward the packets that follow, but is not in use: it is never");
        assert_eq!(told(false, false), "is not in use: it is never");
    }
}
