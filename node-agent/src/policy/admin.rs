//! AdminNetworkPolicies and BaselineAdminNetworkPolicies (`policy.networking.k8s.io/v1alpha1`), read into rules: what a
//! cluster's administrators say before and after its users' network policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use xebec_ebpf_loader::layout::{Direction, proto};

use super::domains::Pattern;
use super::parse;
use super::rules::{Action, Namespaces, PortRule, Ports, Rule, Selector, Term};
use super::views::Labels;
use crate::api::{Meta, Object};

/// Either of the two kinds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AdminPolicy {
    /// Its name.
    pub metadata: Meta,
    /// What it says.
    pub spec: AdminSpec,
}

impl Object for AdminPolicy {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Before or after network policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Before: AdminNetworkPolicies, by their priorities.
    Admin,
    /// For pods that no network policy selects: the BaselineAdminNetworkPolicy.
    Baseline,
}

impl Tier {
    /// The kind.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Admin => "AdminNetworkPolicy",
            Self::Baseline => "BaselineAdminNetworkPolicy",
        }
    }

    /// Where its objects are.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Admin => "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies",
            Self::Baseline => "/apis/policy.networking.k8s.io/v1alpha1/baselineadminnetworkpolicies",
        }
    }
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AdminSpec {
    /// The lower the earlier; 0 for the baseline.
    pub priority: i32,
    /// The pods it is for.
    pub subject: AdminPeer,
    /// What may come.
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<AdminRule>,
    /// What may go.
    #[serde(deserialize_with = "null_default")]
    pub egress: Vec<AdminRule>,
}

/// `ingress[]` and `egress[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AdminRule {
    /// `Allow`, `Deny`, or `Pass`.
    pub action: String,
    /// From whom.
    #[serde(deserialize_with = "null_default")]
    pub from: Vec<AdminPeer>,
    /// To whom.
    #[serde(deserialize_with = "null_default")]
    pub to: Vec<AdminPeer>,
    /// To which ports; none: to all.
    pub ports: Option<Vec<AdminPort>>,
}

/// A subject or a peer: one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AdminPeer {
    /// All pods of the namespaces with these labels.
    pub namespaces: Option<Value>,
    /// Pods.
    pub pods: Option<AdminPods>,
    /// Nodes with these labels.
    pub nodes: Option<Value>,
    /// Blocks of addresses.
    pub networks: Option<Vec<String>>,
    /// Hosts by their names; only connections to them can be allowed so.
    pub domain_names: Option<Vec<String>>,
}

/// `pods`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AdminPods {
    /// In namespaces with these labels.
    pub namespace_selector: Value,
    /// And with these of their own.
    pub pod_selector: Value,
}

/// `ports[]`: one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AdminPort {
    /// One.
    pub port_number: Option<PortNumber>,
    /// What the destination's containers call so, of whatever protocol.
    pub named_port: Option<String>,
    /// A range.
    pub port_range: Option<PortRange>,
}

/// `portNumber`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PortNumber {
    /// `TCP` if empty.
    pub protocol: String,
    /// The port.
    pub port: u16,
}

/// `portRange`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PortRange {
    /// `TCP` if empty.
    pub protocol: String,
    /// First.
    pub start: u16,
    /// Last.
    pub end: u16,
}

/// A `v1` Node, with what rules tell nodes apart by.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// Its name and labels.
    pub metadata: Meta,
    /// Its addresses.
    pub status: NodeStatus,
}

impl Object for NodeView {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses and names.
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<NodeAddress>,
}

/// `status.addresses[]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

impl NodeView {
    /// Its IP addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let is_ip = |a: &&NodeAddress| a.kind == "InternalIP" || a.kind == "ExternalIP";
        self.status.addresses.iter().filter(is_ip).filter_map(|a| a.address.parse().ok())
    }
}

/// Go's encoder writes an empty list as null.
fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}

/// A policy, read.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The lower the earlier.
    pub priority: i32,
    subject: Term,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

impl Admin {
    /// Reads a policy.
    ///
    /// # Errors
    /// What cannot be read; the API lets no such policy in.
    pub fn read(policy: &AdminPolicy) -> Result<Self, String> {
        let spec = &policy.spec;
        let subject = match terms(&spec.subject)?.pop() {
            Some(term @ Term::Pods(..)) => term,
            _ => return Err("the subject is neither namespaces nor pods".to_owned()),
        };
        let ingress: Result<Vec<Rule>, String> =
            spec.ingress.iter().map(|rule| read_rule(rule, &rule.from, Direction::Ingress)).collect();
        let egress: Result<Vec<Rule>, String> =
            spec.egress.iter().map(|rule| read_rule(rule, &rule.to, Direction::Egress)).collect();
        Ok(Self { priority: spec.priority, subject, ingress: ingress?, egress: egress? })
    }

    /// Whether it is for a pod.
    pub fn selects(&self, namespace: &str, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
        super::world::pods_match(&self.subject, namespace, namespace_labels, labels)
    }

    /// Its rules in a direction, in order.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether a rule of it tells nodes apart.
    pub fn is_about_nodes(&self) -> bool {
        self.terms().any(|term| matches!(term, Term::Nodes(_)))
    }

    /// The names that its rules are about.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.terms().filter_map(|term| if let Term::Domain(pattern) = term { Some(pattern) } else { None })
    }

    fn terms(&self) -> impl Iterator<Item = &Term> {
        self.ingress.iter().chain(&self.egress).flat_map(|rule| rule.peers.iter().flat_map(BTreeMap::values))
    }
}

/// Reads a rule. A peer or a port of a sort that is not known here (a newer definition may have been installed) counts
/// for what is safe: whoever is denied is denied everything that it may mean, and allowed is nothing of it.
fn read_rule(rule: &AdminRule, peers: &[AdminPeer], direction: Direction) -> Result<Rule, String> {
    let action = match rule.action.as_str() {
        "Allow" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        other => return Err(format!("{other:?} is no action")),
    };
    let mut found = Some(BTreeMap::new());
    for peer in peers {
        let read = match (&peer.domain_names, action, direction) {
            (Some(names), Action::Allow, Direction::Egress) => domains(names),
            _ => terms(peer),
        };
        match (read, action) {
            (Ok(terms), _) => found.iter_mut().for_each(|all| all.extend(terms.iter().map(|t| (t.id(), t.clone())))),
            (Err(_), Action::Deny) => found = None,
            (Err(_), Action::Allow | Action::Pass) => {}
        }
    }
    let mut ports = rule.ports.as_ref().map_or(Ports::All, |_| Ports::Some(BTreeSet::new()));
    for port in rule.ports.iter().flatten() {
        match (read_port(port), action, &mut ports) {
            (Ok(read), _, Ports::Some(all)) => all.extend(read),
            (Err(_), Action::Deny, _) => ports = Ports::All,
            (Ok(_), _, Ports::All) | (Err(_), Action::Allow | Action::Pass, _) => {}
        }
    }
    Ok(Rule { action, peers: found, ports })
}

/// Names that were never looked up have no addresses: with them something can be allowed, and nothing denied.
fn domains(names: &[String]) -> Result<Vec<Term>, String> {
    names.iter().map(|name| Pattern::read(name).map(Term::Domain)).collect()
}

fn terms(peer: &AdminPeer) -> Result<Vec<Term>, String> {
    if let Some(namespaces) = &peer.namespaces {
        return Ok(vec![Term::Pods(Namespaces::Selected(Selector::read(namespaces)?), Selector::everything())]);
    }
    if let Some(pods) = &peer.pods {
        let namespaces = Namespaces::Selected(Selector::read(&pods.namespace_selector)?);
        return Ok(vec![Term::Pods(namespaces, Selector::read(&pods.pod_selector)?)]);
    }
    if let Some(nodes) = &peer.nodes {
        return Ok(vec![Term::Nodes(Selector::read(nodes)?)]);
    }
    if let Some(networks) = &peer.networks {
        let read = |text: &String| {
            let net = text.parse::<IpNet>().map_err(|_| format!("{text:?} is no block of addresses"))?;
            Ok(Term::Block(net.trunc(), BTreeSet::new()))
        };
        return networks.iter().map(read).collect();
    }
    Err("a peer is neither namespaces nor pods, nodes or networks".to_owned())
}

fn read_port(port: &AdminPort) -> Result<Vec<(u8, PortRule)>, String> {
    if let Some(number) = &port.port_number {
        return Ok(vec![(parse::protocol(&number.protocol)?, PortRule::Range(number.port, number.port))]);
    }
    if let Some(range) = &port.port_range {
        let last = range.end.max(range.start);
        return Ok(vec![(parse::protocol(&range.protocol)?, PortRule::Range(range.start, last))]);
    }
    if let Some(name) = &port.named_port {
        let all = [proto::TCP, proto::UDP, proto::SCTP];
        return Ok(all.into_iter().map(|protocol| (protocol, PortRule::Named(name.clone()))).collect());
    }
    Err("a port is neither a number nor a range or a name".to_owned())
}
