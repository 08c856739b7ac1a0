//! What policies say: rule sets, and the identities they judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use xebec_ebpf_loader::layout::{DENY_ALL, proto};
use xebec_schema::selector::LabelSelector;

use super::domains::Pattern;
use super::views::Labels;

/// A number made from what something means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u32; 2]);

impl Id {
    /// None: what no policy touches.
    pub const NONE: Self = Self([0; 2]);

    /// The number of what `text` says. Half of 64 bits of SHA-256 are enough to keep apart what lives on one node; to
    /// meet the number of something else's on purpose takes all of them.
    pub fn of(text: &str) -> Self {
        let hash = Sha256::digest(text);
        let word = |at: usize| u32::from_le_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
        let id = [word(0), word(4)];
        // The two that mean something else.
        if id == [0; 2] || id == DENY_ALL { Self([2, 0]) } else { Self(id) }
    }
}

/// A label selector, known by its words.
#[derive(Clone, Debug)]
pub struct Selector(LabelSelector);

impl Selector {
    /// Everything.
    pub fn everything() -> Self {
        Self(LabelSelector::everything())
    }

    /// From JSON; null selects nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: &serde_json::Value) -> Result<Self, String> {
        LabelSelector::from_json(value).map(Self)
    }

    /// Whether labels match.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.matches(labels)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nothing() { f.write_str("<none>") } else { write!(f, "{{{}}}", self.0) }
    }
}

/// Which namespaces.
#[derive(Clone, Debug)]
pub enum Namespaces {
    /// One, by its name.
    Named(String),
    /// Those whose labels match.
    Selected(Selector),
}

impl Namespaces {
    /// Whether the namespace is one of them.
    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        match self {
            Self::Named(named) => named == name,
            Self::Selected(selector) => labels.is_some_and(|labels| selector.matches(labels)),
        }
    }
}

/// Something that policies tell peers apart by.
#[derive(Clone, Debug)]
pub enum Term {
    /// Pods by labels.
    Pods(Namespaces, Selector),
    /// Addresses.
    Block(IpNet, BTreeSet<IpNet>),
    /// Nodes by labels.
    Nodes(Selector),
    /// The addresses that names were found to have.
    Domain(Pattern),
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(Namespaces::Named(name), pods) => write!(f, "pods {name} {pods}"),
            Self::Pods(Namespaces::Selected(selector), pods) => write!(f, "pods in {selector} {pods}"),
            Self::Block(cidr, except) => write!(f, "block {cidr} but {except:?}"),
            Self::Nodes(nodes) => write!(f, "nodes {nodes}"),
            Self::Domain(pattern) => write!(f, "domain {pattern}"),
        }
    }
}

impl Term {
    /// Its number.
    pub fn id(&self) -> Id {
        Id::of(&self.to_string())
    }
}

/// A port that a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortRule {
    /// From the first to the last.
    Range(u16, u16),
    /// What the destination's containers call so.
    Named(String),
}

/// Which ports a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// All, and the protocols that have none.
    All,
    /// These, by protocol. May be none at all, if no container has a port of the name.
    Some(BTreeSet<(u8, PortRule)>),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Allows.
    Allow,
    /// Denies.
    Deny,
    /// Leaves it to what comes after the administrators' rules.
    Pass,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// For whom: those whom one of these terms matches; none: anybody.
    pub peers: Option<BTreeMap<Id, Term>>,
    /// And which ports.
    pub ports: Ports,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers: Option<Vec<String>> = self.peers.as_ref().map(|p| p.values().map(Term::to_string).collect());
        write!(f, "{:?} {peers:?} {:?}", self.action, self.ports)
    }
}

/// All that is said of one pod's connections in one direction.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// The administrators' rules in order: the first that matches decides.
    pub admin: Vec<Rule>,
    /// What network policies allow, if one selects the pod; what none of them allows is denied.
    pub policies: Option<Vec<Rule>>,
    /// The administrators' baseline, for pods that no network policy selects: in order.
    pub baseline: Vec<Rule>,
}

/// Who a peer is, as far as policies tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The terms that match it.
    pub terms: BTreeSet<Id>,
    /// Its ports by protocol and name, of names that rules use.
    pub ports: NamedPorts,
}

/// Numbers of ports by protocol and name.
pub type NamedPorts = BTreeMap<(u8, String), BTreeSet<u16>>;

impl Identity {
    /// Its number.
    pub fn id(&self) -> Id {
        if *self == Self::default() { Id::NONE } else { Id::of(&format!("{self:?}")) }
    }
}

impl RuleSet {
    /// Whether nothing is said: all is allowed.
    pub fn is_empty(&self) -> bool {
        self.admin.is_empty() && self.policies.is_none() && self.baseline.is_empty()
    }

    /// In its one form, for rules whose order means nothing.
    pub fn normalised(mut self) -> Self {
        if let Some(policies) = &mut self.policies {
            policies.sort_by_cached_key(Rule::to_string);
            policies.dedup_by_key(|rule| rule.to_string());
        }
        self
    }

    /// Its number; none if nothing is said.
    pub fn id(&self) -> Id {
        if self.is_empty() {
            return Id::NONE;
        }
        let text = |rules: &[Rule]| rules.iter().map(Rule::to_string).collect::<Vec<_>>();
        let policies = self.policies.as_deref().map(text);
        Id::of(&format!("{:?} {policies:?} {:?}", text(&self.admin), text(&self.baseline)))
    }

    /// Every rule.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.admin.iter().chain(self.policies.iter().flatten()).chain(&self.baseline)
    }

    /// Whether a connection to `port` is allowed. A protocol without ports is judged by rules for all ports.
    pub fn allows(&self, peer: &Identity, protocol: u8, port: u16) -> bool {
        let first = |rules: &[Rule]| rules.iter().find(|r| r.matches(peer, protocol, port)).map(|r| r.action);
        match first(&self.admin) {
            Some(Action::Allow) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
        match &self.policies {
            Some(policies) => first(policies).is_some(),
            None => first(&self.baseline) != Some(Action::Deny),
        }
    }
}

impl Rule {
    /// Whether it is about this peer.
    pub fn is_about(&self, peer: &Identity) -> bool {
        self.peers.as_ref().is_none_or(|terms| terms.keys().any(|term| peer.terms.contains(term)))
    }

    /// Whether it is about this connection.
    pub(super) fn matches(&self, peer: &Identity, protocol: u8, port: u16) -> bool {
        self.is_about(peer)
            && match &self.ports {
                Ports::All => true,
                Ports::Some(ports) => has_ports(protocol) && self.ranges(ports, peer, protocol, port),
            }
    }

    fn ranges(&self, ports: &BTreeSet<(u8, PortRule)>, peer: &Identity, protocol: u8, port: u16) -> bool {
        ports.iter().filter(|(of, _)| *of == protocol).any(|(of, rule)| match rule {
            PortRule::Range(first, last) => (*first..=*last).contains(&port),
            PortRule::Named(name) => {
                peer.ports.get(&(*of, name.clone())).is_some_and(|numbers| numbers.contains(&port))
            }
        })
    }
}

/// Whether the protocol is one of those that rules can name, with ports.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP)
}
