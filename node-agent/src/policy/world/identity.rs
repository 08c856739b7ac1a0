//! Who is at an address, as far as policies can tell: a pod, a node, a host whose name was looked up.

use std::collections::BTreeSet;

use ipnet::IpNet;
use xebec_ebpf_loader::layout::Addr;

use super::super::admin::Admin;
use super::super::domains::{Entry, Found, Learned, Patterns};
use super::super::rules::{Id, Identity, NamedPorts, Term};
use super::World;

impl World {
    /// The names that rules are about.
    pub fn patterns(&self) -> Patterns {
        self.admins.values().flat_map(Admin::patterns).collect()
    }

    /// The addresses that names were found to have.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// They, if anything has changed since this was last asked.
    pub fn newly_learned(&mut self) -> Option<&Learned> {
        self.learned.take_changed().then_some(&self.learned)
    }

    /// Takes in what a lookup found; gives what was not known.
    pub fn learn(&mut self, found: &Found, now_s: u32) -> Vec<Entry> {
        let new = self.learned.learn(found, now_s);
        self.addresses.extend(new.iter().map(|entry| Addr::from(entry.address)));
        new
    }

    /// Takes back what an earlier agent knew.
    pub fn restore(&mut self, entry: &Entry, now_s: u32) {
        self.learned.restore(entry, now_s);
        self.addresses.insert(entry.address.into());
    }

    /// Forgets what is due of [`Self::learned`], but for addresses that are in use.
    pub fn forget(&mut self, now_s: u32, in_use: &BTreeSet<Addr>) {
        let changed = self.learned.forget(now_s, in_use);
        self.addresses.extend(changed);
    }

    /// Forgets names that no rule is about.
    pub fn forget_unwanted(&mut self) {
        let changed = self.learned.keep(&self.patterns());
        self.addresses.extend(changed);
    }

    /// The blocks that hold all of `net`.
    pub(super) fn blocks_around(&self, net: &IpNet) -> BTreeSet<Id> {
        self.terms_where(|term| match term {
            Term::Block(cidr, except) => cidr.contains(net) && !except.iter().any(|left_out| left_out.contains(net)),
            Term::Pods(..) | Term::Nodes(_) | Term::Domain(_) => false,
        })
    }

    /// Who is at an address; none if no policy can tell, blocks aside.
    pub(super) fn identity_of(&self, address: &Addr) -> Option<Identity> {
        let (mut terms, ports) = match self.owners.get(address) {
            Some(owners) => {
                let pods = owners.iter().filter_map(|name| self.pods.get(name));
                let pod = pods.max_by(|a, b| a.created.cmp(&b.created))?;
                let named = pod.ports.iter().filter(|(name, _)| self.port_names.contains_key(name));
                (pod.terms.clone(), named.map(|(name, numbers)| (name.clone(), numbers.clone())).collect())
            }
            None => (self.node_terms(address), NamedPorts::new()),
        };
        terms.extend(self.domain_terms(address));
        if terms.is_empty() && ports.is_empty() {
            return None;
        }
        terms.extend(self.blocks_around(&IpNet::from(address.to_ip())));
        Some(Identity { terms, ports })
    }

    /// What matches the node that is at an address.
    fn node_terms(&self, address: &Addr) -> BTreeSet<Id> {
        let Some((labels, _)) = self.nodes.values().find(|(_, addresses)| addresses.contains(address)) else {
            return BTreeSet::new();
        };
        self.terms_where(|term| matches!(term, Term::Nodes(nodes) if nodes.matches(labels)))
    }

    /// What matches a name that led to an address.
    fn domain_terms(&self, address: &Addr) -> BTreeSet<Id> {
        let names: Vec<&str> = self.learned.names_of(address).collect();
        if names.is_empty() {
            return BTreeSet::new();
        }
        let is_meant =
            |term: &Term| matches!(term, Term::Domain(pattern) if names.iter().any(|name| pattern.matches(name)));
        self.terms_where(is_meant)
    }

    fn terms_where(&self, is_it: impl Fn(&Term) -> bool) -> BTreeSet<Id> {
        self.terms.iter().filter(|(_, term)| is_it(&term.value)).map(|(id, _)| *id).collect()
    }
}
