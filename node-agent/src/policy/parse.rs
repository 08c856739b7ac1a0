//! NetworkPolicies, read into rules.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::Value;
use xebec_ebpf_loader::layout::{Direction, proto};

use super::rules::{Action, Namespaces, PortRule, Ports, Rule, Selector, Term};
use super::views::{IpBlock, Labels, NetworkPolicy, Peer, PolicyPort};

/// A policy, read.
#[derive(Clone, Debug)]
pub struct Policy {
    pods: Selector,
    /// What it allows; `None`: it does not isolate in that direction.
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

impl Policy {
    /// Whether it is for a pod of its namespace with these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.pods.matches(labels)
    }

    /// What it allows in a direction; `None`: it says nothing of that.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Reads a policy.
///
/// # Errors
/// What cannot be read; the API lets no such policy in.
pub fn read(policy: &NetworkPolicy) -> Result<Policy, String> {
    let spec = &policy.spec;
    let namespace = &policy.metadata.namespace;
    let pods = match &spec.pod_selector {
        Value::Null => Selector::everything(),
        selector => Selector::read(selector)?,
    };
    // Without `policyTypes`: ingress always, egress if there is a rule.
    let egress = spec.egress.as_deref().unwrap_or_default();
    let has = |name: &str| spec.policy_types.iter().any(|t| t == name);
    let (is_ingress, is_egress) =
        if spec.policy_types.is_empty() { (true, !egress.is_empty()) } else { (has("Ingress"), has("Egress")) };
    let ingress: Result<Vec<Rule>, String> =
        spec.ingress.iter().map(|rule| read_rule(namespace, &rule.from, &rule.ports)).collect();
    let egress: Result<Vec<Rule>, String> =
        egress.iter().map(|rule| read_rule(namespace, &rule.to, &rule.ports)).collect();
    Ok(Policy {
        pods,
        ingress: if is_ingress { Some(ingress?) } else { None },
        egress: if is_egress { Some(egress?) } else { None },
    })
}

fn read_rule(namespace: &str, peers: &[Peer], ports: &[PolicyPort]) -> Result<Rule, String> {
    let terms: Result<BTreeMap<_, _>, String> =
        peers.iter().map(|peer| read_peer(namespace, peer).map(|term| (term.id(), term))).collect();
    let peers = if peers.is_empty() { None } else { Some(terms?) };
    let read: Result<BTreeSet<_>, String> = ports.iter().map(read_port).collect();
    let ports = if ports.is_empty() { Ports::All } else { Ports::Some(read?) };
    Ok(Rule { action: Action::Allow, peers, ports })
}

fn read_peer(namespace: &str, peer: &Peer) -> Result<Term, String> {
    if let Some(block) = &peer.ip_block {
        return read_block(block);
    }
    let namespaces = match &peer.namespace_selector {
        Some(selector) => Namespaces::Selected(Selector::read(selector)?),
        None => Namespaces::Named(namespace.to_owned()),
    };
    let pods = match &peer.pod_selector {
        Some(selector) => Selector::read(selector)?,
        None => Selector::everything(),
    };
    Ok(Term::Pods(namespaces, pods))
}

fn read_block(block: &IpBlock) -> Result<Term, String> {
    let read = |text: &String| -> Result<IpNet, String> {
        text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| format!("{text:?} is no block of addresses"))
    };
    let except: Result<BTreeSet<IpNet>, String> = block.except.iter().map(read).collect();
    Ok(Term::Block(read(&block.cidr)?, except?))
}

fn read_port(port: &PolicyPort) -> Result<(u8, PortRule), String> {
    let protocol = protocol(port.protocol.as_deref().unwrap_or_default())?;
    let rule = match &port.port {
        None | Some(Value::Null) => PortRule::Range(0, u16::MAX),
        Some(Value::String(name)) => match name.parse() {
            Ok(number) => PortRule::Range(number, number),
            Err(_) => PortRule::Named(name.clone()),
        },
        Some(value) => {
            let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
            let number = number.ok_or_else(|| format!("{value} is no port"))?;
            PortRule::Range(number, port.end_port.unwrap_or(number).max(number))
        }
    };
    Ok((protocol, rule))
}

/// The IP protocol by its name in the API.
///
/// # Errors
/// If it is none that has ports.
pub fn protocol(name: &str) -> Result<u8, String> {
    match name {
        "" | "TCP" => Ok(proto::TCP),
        "UDP" => Ok(proto::UDP),
        "SCTP" => Ok(proto::SCTP),
        other => Err(format!("{other:?} is no protocol with ports")),
    }
}
