//! All policies, namespaces and pods as last heard of; a change compiles what it touches and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use xebec_ebpf_loader::layout::{Addr, Direction, RuleKey};

use super::admin::{Admin, AdminPolicy, NodeView, Tier};
use super::compile::{Entries, compile};
use super::domains::Learned;
use super::parse::{self, Policy};
use super::rules::{Id, Identity, NamedPorts, PortRule, Ports, Rule, RuleSet, Term};
use super::views::{Labels, Namespace, NetworkPolicy, Pod};
use crate::api::status::is_final;

mod identity;

/// `namespace`, `name`.
pub type Name = (String, String);

/// A pod's rule sets; [`Id::NONE`] where it is not isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// For connections to it.
    pub ingress: Id,
    /// For connections from it.
    pub egress: Id,
}

/// What the kernel's maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Pods that policies can tell from strangers.
    pub identities: BTreeMap<Addr, Id>,
    /// Blocks of addresses, and the parts left out of them.
    pub blocks: BTreeMap<(Addr, u32), Id>,
    /// What rule sets say of identities.
    pub rules: Entries,
    /// This node's pods by their uid.
    pub subjects: BTreeMap<String, Sets>,
}

/// One write to a map.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "what is written where is in the names")]
pub enum Write {
    PutRule(RuleKey, u32, u32),
    PutIdentity(Addr, Id),
    PutBlock(Addr, u32, Id),
    PutSubject(String, Sets),
    RemoveIdentity(Addr),
    RemoveBlock(Addr, u32),
    RemoveRule(RuleKey, u32),
    /// Connections that stand are judged again.
    RaiseRevision,
}

/// A pod, as far as policies look at it.
#[derive(Debug)]
struct Known {
    uid: String,
    labels: Labels,
    /// None if they are the node's, or if the pod has ended.
    addresses: Vec<Addr>,
    ports: NamedPorts,
    created: String,
    is_local: bool,
    /// The sets that judge it.
    sets: Sets,
    /// The terms that match it, blocks aside.
    terms: BTreeSet<Id>,
}

#[derive(Debug)]
struct Used<T> {
    value: T,
    uses: usize,
}

/// What the maps should hold, and from what.
#[derive(Debug, Default)]
pub struct World {
    node: String,
    namespaces: BTreeMap<String, Labels>,
    policies: BTreeMap<Name, Policy>,
    /// The administrators' policies, by tier and name.
    admins: BTreeMap<(Tier, String), Admin>,
    /// Nodes by name, while a rule tells them apart.
    nodes: BTreeMap<String, (Labels, BTreeSet<Addr>)>,
    /// The addresses of names that rules are about.
    learned: Learned,
    pods: BTreeMap<Name, Known>,
    /// Who has an address. Two may for a moment; then the later pod counts.
    owners: BTreeMap<Addr, BTreeSet<Name>>,
    sets: BTreeMap<Id, Used<RuleSet>>,
    terms: BTreeMap<Id, Used<Term>>,
    /// Names of ports that egress rules use. (Ingress rules have their pod's own numbers instead.)
    port_names: BTreeMap<(u8, String), usize>,
    identities: BTreeMap<Id, Used<Identity>>,
    tables: Tables,
    /// Local pods whose sets are to be looked at again.
    subjects: BTreeSet<Name>,
    /// Addresses whose identities are.
    addresses: BTreeSet<Addr>,
    /// The same for blocks.
    blocks_changed: bool,
}

impl World {
    /// Without policies, on this node.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// What the maps should hold after the last [`Self::changes`].
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Whether there is any policy: without, nobody needs to know of other pods.
    pub fn has_policies(&self) -> bool {
        !self.policies.is_empty() || !self.admins.is_empty()
    }

    /// Whether a policy tells nodes apart: without, nobody needs to know of them.
    pub fn is_about_nodes(&self) -> bool {
        self.admins.values().any(Admin::is_about_nodes)
    }

    /// Whether a policy could be for a pod of the namespace.
    pub fn concerns(&self, namespace: &str) -> bool {
        !self.admins.is_empty() || self.policies_of(namespace).next().is_some()
    }

    /// The rule sets of a pod of this node, if it is known.
    pub fn sets_of(&self, uid: &str) -> Option<Sets> {
        self.tables.subjects.get(uid).copied()
    }

    fn policies_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Name, &'a Policy)> {
        self.policies.range((namespace.to_owned(), String::new())..).take_while(move |((ns, _), _)| ns == namespace)
    }

    fn pods_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Name, &'a Known)> {
        self.pods.range((namespace.to_owned(), String::new())..).take_while(move |((ns, _), _)| ns == namespace)
    }

    /// A new or changed policy.
    pub fn put_policy(&mut self, policy: &NetworkPolicy) {
        let name = (policy.metadata.namespace.clone(), policy.metadata.name.clone());
        match parse::read(policy) {
            Ok(read) => drop(self.policies.insert(name.clone(), read)),
            Err(error) => {
                // The API validates; one of another version's rules may still be stored.
                tracing::warn!(namespace = %name.0, policy = %name.1, %error, "a network policy cannot be read and is not enforced");
                self.policies.remove(&name);
            }
        }
        self.policy_changed(&name.0);
    }

    /// A policy that is gone.
    pub fn remove_policy(&mut self, namespace: &str, name: &str) {
        self.policies.remove(&(namespace.to_owned(), name.to_owned()));
        self.policy_changed(namespace);
    }

    /// These are all policies.
    pub fn replace_policies(&mut self, all: &[Arc<NetworkPolicy>]) {
        let before: BTreeSet<String> = std::mem::take(&mut self.policies).into_keys().map(|(ns, _)| ns).collect();
        for namespace in before {
            self.policy_changed(&namespace);
        }
        for policy in all {
            self.put_policy(policy);
        }
    }

    fn policy_changed(&mut self, namespace: &str) {
        let local: Vec<Name> = self.pods_of(namespace).filter(|(_, p)| p.is_local).map(|(n, _)| n.clone()).collect();
        self.subjects.extend(local);
    }

    /// A new or changed policy of the administrators.
    pub fn put_admin(&mut self, tier: Tier, policy: &AdminPolicy) {
        let key = (tier, policy.metadata.name.clone());
        match Admin::read(policy) {
            Ok(read) => drop(self.admins.insert(key, read)),
            Err(error) => {
                tracing::warn!(kind = tier.kind(), policy = %key.1, %error, "a policy cannot be read and is not enforced");
                self.admins.remove(&key);
            }
        }
        self.all_subjects();
    }

    /// One that is gone.
    pub fn remove_admin(&mut self, tier: Tier, name: &str) {
        self.admins.remove(&(tier, name.to_owned()));
        self.all_subjects();
    }

    /// These are all policies of the tier.
    pub fn replace_admins(&mut self, tier: Tier, all: &[Arc<AdminPolicy>]) {
        self.admins.retain(|(of, _), _| *of != tier);
        self.all_subjects();
        for policy in all {
            self.put_admin(tier, policy);
        }
    }

    fn all_subjects(&mut self) {
        self.subjects.extend(self.pods.iter().filter(|(_, pod)| pod.is_local).map(|(name, _)| name.clone()));
    }

    /// A new or changed node.
    pub fn put_node(&mut self, node: &NodeView) {
        let addresses: BTreeSet<Addr> = node.ips().map(Addr::from).collect();
        let known = (node.metadata.labels.clone(), addresses);
        if self.nodes.get(&node.metadata.name) == Some(&known) {
            return;
        }
        self.addresses.extend(&known.1);
        if let Some((_, before)) = self.nodes.insert(node.metadata.name.clone(), known) {
            self.addresses.extend(before);
        }
    }

    /// A node that is gone.
    pub fn remove_node(&mut self, name: &str) {
        if let Some((_, addresses)) = self.nodes.remove(name) {
            self.addresses.extend(addresses);
        }
    }

    /// These are all nodes.
    pub fn replace_nodes(&mut self, all: &[Arc<NodeView>]) {
        let names: BTreeSet<&String> = all.iter().map(|node| &node.metadata.name).collect();
        let gone: Vec<String> = self.nodes.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.remove_node(&name);
        }
        for node in all {
            self.put_node(node);
        }
    }

    /// A new or changed namespace.
    pub fn put_namespace(&mut self, namespace: &Namespace) {
        let name = &namespace.metadata.name;
        if self.namespaces.get(name) == Some(&namespace.metadata.labels) {
            return;
        }
        self.namespaces.insert(name.clone(), namespace.metadata.labels.clone());
        self.namespace_changed(name);
    }

    /// A namespace that is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.namespace_changed(name);
    }

    /// These are all namespaces.
    pub fn replace_namespaces(&mut self, all: &[Arc<Namespace>]) {
        let names: BTreeSet<&String> = all.iter().map(|namespace| &namespace.metadata.name).collect();
        let gone: Vec<String> = self.namespaces.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.remove_namespace(&name);
        }
        for namespace in all {
            self.put_namespace(namespace);
        }
    }

    fn namespace_changed(&mut self, name: &str) {
        let names: Vec<Name> = self.pods_of(name).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.match_terms(&name);
            // The administrators' policies select pods by their namespaces' labels.
            if !self.admins.is_empty() && self.pods.get(&name).is_some_and(|pod| pod.is_local) {
                self.subjects.insert(name);
            }
        }
    }

    /// A new or changed pod.
    pub fn put_pod(&mut self, pod: &Pod) {
        let name = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let mut known = Known::read(pod, &self.node);
        let before = self.pods.get(&name).filter(|b| b.uid == known.uid && b.is_local == known.is_local);
        if let Some(before) = before {
            known.sets = before.sets;
            known.terms.clone_from(&before.terms);
            if known.looks_like(before) {
                return;
            }
        } else {
            self.remove_pod(&name.0, &name.1);
        }
        if known.is_local {
            self.subjects.insert(name.clone());
        }
        for address in &known.addresses {
            self.owners.entry(*address).or_default().insert(name.clone());
        }
        self.addresses.extend(&known.addresses);
        let before = self.pods.insert(name.clone(), known);
        if let Some(before) = &before {
            self.disown(&name, &before.addresses);
        }
        if before.is_none_or(|before| self.pods.get(&name).is_some_and(|pod| pod.labels != before.labels)) {
            self.match_terms(&name);
        }
    }

    /// A pod that is gone.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let name = (namespace.to_owned(), name.to_owned());
        let Some(known) = self.pods.remove(&name) else { return };
        self.disown(&name, &known.addresses);
        self.tables.subjects.remove(&known.uid);
        for id in [known.sets.ingress, known.sets.egress] {
            // Its set goes with the next round.
            if let Some(set) = self.sets.get_mut(&id) {
                set.uses -= 1;
            }
        }
    }

    /// These are all pods.
    pub fn replace_pods(&mut self, all: &[Arc<Pod>]) {
        let names: BTreeSet<(&str, &str)> =
            all.iter().map(|pod| (pod.metadata.namespace.as_str(), pod.metadata.name.as_str())).collect();
        let gone: Vec<Name> =
            self.pods.keys().filter(|(ns, n)| !names.contains(&(ns.as_str(), n.as_str()))).cloned().collect();
        for (namespace, name) in gone {
            self.remove_pod(&namespace, &name);
        }
        for pod in all {
            self.put_pod(pod);
        }
    }

    /// Takes addresses from a pod, unless it has them still.
    fn disown(&mut self, name: &Name, addresses: &[Addr]) {
        for address in addresses {
            if self.pods.get(name).is_some_and(|pod| pod.addresses.contains(address)) {
                continue;
            }
            if let Some(owners) = self.owners.get_mut(address) {
                owners.remove(name);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
            self.addresses.insert(*address);
        }
    }

    /// Finds the terms that match a pod.
    fn match_terms(&mut self, name: &Name) {
        let Some(pod) = self.pods.get(name) else { return };
        let labels = self.namespaces.get(&name.0);
        let terms: BTreeSet<Id> = self
            .terms
            .iter()
            .filter(|(_, term)| pods_match(&term.value, &name.0, labels, &pod.labels))
            .map(|(id, _)| *id)
            .collect();
        if let Some(pod) = self.pods.get_mut(name)
            && pod.terms != terms
        {
            pod.terms = terms;
            self.addresses.extend(&pod.addresses);
        }
    }

    /// The writes that bring the maps up to date, in an order in which nobody is judged by half of a change: rules
    /// before identities, identities before the pods they are for; and what is no longer used last, at a time when
    /// nobody can be judged by it.
    pub fn changes(&mut self) -> Vec<Write> {
        let mut out = Vec::new();
        let mut new_sets = Vec::new();
        let mut switched = BTreeMap::new();
        for name in std::mem::take(&mut self.subjects) {
            let Some(pod) = self.pods.get(&name).filter(|pod| pod.is_local) else { continue };
            let uid = pod.uid.clone();
            let before = pod.sets;
            let sets = Sets {
                ingress: self.use_set(self.rule_set(&name, Direction::Ingress), &mut new_sets),
                egress: self.use_set(self.rule_set(&name, Direction::Egress), &mut new_sets),
            };
            for id in [before.ingress, before.egress] {
                if let Some(set) = self.sets.get_mut(&id) {
                    set.uses -= 1;
                }
            }
            if let Some(pod) = self.pods.get_mut(&name) {
                pod.sets = sets;
            }
            if self.tables.subjects.insert(uid.clone(), sets) != Some(sets) {
                switched.insert(uid, sets);
            }
        }
        self.settle(&new_sets, &mut out);
        out.extend(switched.into_iter().map(|(uid, sets)| Write::PutSubject(uid, sets)));
        let unused: Vec<Id> = self.sets.iter().filter(|(_, set)| set.uses == 0).map(|(id, _)| *id).collect();
        for id in &unused {
            self.drop_set(*id);
        }
        self.settle(&[], &mut out);
        self.sweep(&unused, &mut out);
        if !out.is_empty() {
            out.push(Write::RaiseRevision);
        }
        out
    }

    /// What is said of a pod's connections in one direction.
    fn rule_set(&self, name: &Name, direction: Direction) -> RuleSet {
        let Some(pod) = self.pods.get(name) else { return RuleSet::default() };
        let own = |rule: &Rule| match direction {
            Direction::Ingress => with_numbers(rule.clone(), &pod.ports),
            Direction::Egress => rule.clone(),
        };
        let selecting: Vec<&[Rule]> = self
            .policies_of(&name.0)
            .filter(|(_, policy)| policy.selects(&pod.labels))
            .filter_map(|(_, policy)| policy.rules(direction))
            .collect();
        let policies = match selecting.is_empty() {
            true => None,
            false => Some(selecting.into_iter().flatten().map(own).collect()),
        };
        let tier = |tier: Tier| self.tier(tier, name, &pod.labels).flat_map(|admin| admin.rules(direction)).map(own);
        let admin = tier(Tier::Admin).collect();
        // A pod that a network policy selects is past its baseline.
        let baseline = if policies.is_some() { Vec::new() } else { tier(Tier::Baseline).collect() };
        RuleSet { admin, policies, baseline }.normalised()
    }

    /// The administrators' policies for a pod in the order in which they count.
    fn tier<'a>(&'a self, tier: Tier, name: &'a Name, labels: &'a Labels) -> impl Iterator<Item = &'a Admin> {
        let namespace = self.namespaces.get(&name.0);
        let mut all: Vec<(&(Tier, String), &Admin)> = self
            .admins
            .iter()
            .filter(|((of, _), admin)| *of == tier && admin.selects(&name.0, namespace, labels))
            .collect();
        // Upstream leaves open which of two with the same priority counts.
        all.sort_by_key(|((_, name), admin)| (admin.priority, name.as_str()));
        all.into_iter().map(|(_, admin)| admin)
    }

    fn use_set(&mut self, set: RuleSet, new: &mut Vec<Id>) -> Id {
        let id = set.id();
        if id == Id::NONE {
            return id;
        }
        if let Some(used) = self.sets.get_mut(&id) {
            used.uses += 1;
            return id;
        }
        for rule in set.rules() {
            for (id, term) in rule.peers.iter().flatten() {
                self.use_term(*id, term);
            }
            for name in names(&rule.ports) {
                if !self.port_names.contains_key(&name) {
                    self.look_at_pods_with(&name);
                }
                *self.port_names.entry(name).or_default() += 1;
            }
        }
        self.sets.insert(id, Used { value: set, uses: 1 });
        new.push(id);
        id
    }

    fn use_term(&mut self, id: Id, term: &Term) {
        if let Some(used) = self.terms.get_mut(&id) {
            used.uses += 1;
            return;
        }
        match term {
            Term::Block(..) => self.blocks_changed = true,
            Term::Nodes(_) => self.look_at_nodes(),
            Term::Domain(_) => self.addresses.extend(self.learned.addresses()),
            Term::Pods(..) => {}
        }
        for (name, pod) in &mut self.pods {
            if pods_match(term, &name.0, self.namespaces.get(&name.0), &pod.labels) {
                pod.terms.insert(id);
                self.addresses.extend(&pod.addresses);
            }
        }
        self.terms.insert(id, Used { value: term.clone(), uses: 1 });
    }

    fn drop_set(&mut self, id: Id) {
        let Some(set) = self.sets.remove(&id) else { return };
        for rule in set.value.rules() {
            for id in rule.peers.iter().flat_map(BTreeMap::keys) {
                self.drop_term(*id);
            }
            for name in names(&rule.ports) {
                let Some(uses) = self.port_names.get_mut(&name) else { continue };
                *uses -= 1;
                if *uses == 0 {
                    self.port_names.remove(&name);
                    self.look_at_pods_with(&name);
                }
            }
        }
    }

    fn look_at_pods_with(&mut self, port: &(u8, String)) {
        let with = self.pods.values().filter(|pod| pod.ports.contains_key(port));
        self.addresses.extend(with.flat_map(|pod| &pod.addresses));
    }

    fn look_at_nodes(&mut self) {
        self.addresses.extend(self.nodes.values().flat_map(|(_, addresses)| addresses));
    }

    fn drop_term(&mut self, id: Id) {
        let Some(used) = self.terms.get_mut(&id) else { return };
        used.uses -= 1;
        if used.uses > 0 {
            return;
        }
        match self.terms.remove(&id).map(|used| used.value) {
            Some(Term::Block(..)) => self.blocks_changed = true,
            Some(Term::Nodes(_)) => self.look_at_nodes(),
            Some(Term::Domain(_)) => self.addresses.extend(self.learned.addresses()),
            Some(Term::Pods(..)) | None => {}
        }
        for pod in self.pods.values_mut() {
            if pod.terms.remove(&id) {
                self.addresses.extend(&pod.addresses);
            }
        }
    }

    /// Gives changed addresses and blocks their identities, after the rules for those.
    fn settle(&mut self, new_sets: &[Id], out: &mut Vec<Write>) {
        let mut new_identities = BTreeSet::new();
        let mut writes = Vec::new();
        if std::mem::take(&mut self.blocks_changed) {
            self.settle_blocks(&mut new_identities, &mut writes);
        }
        for address in std::mem::take(&mut self.addresses) {
            let wanted = self.identity_of(&address);
            let before = self.tables.identities.get(&address).copied();
            let id = wanted.map(|identity| self.use_identity(identity, &mut new_identities));
            if let Some(used) = before.and_then(|id| self.identities.get_mut(&id)) {
                used.uses -= 1;
            }
            if before == id {
                continue;
            }
            match id {
                Some(id) => {
                    self.tables.identities.insert(address, id);
                    writes.push(Write::PutIdentity(address, id));
                }
                None => {
                    self.tables.identities.remove(&address);
                    writes.push(Write::RemoveIdentity(address));
                }
            }
        }
        let mut entries = Entries::new();
        for id in new_sets {
            if let Some(set) = self.sets.get(id) {
                entries.extend(compile(*id, &set.value, &Identity::default()));
                for identity in self.identities.values() {
                    entries.extend(compile(*id, &set.value, &identity.value));
                }
            }
        }
        for identity in new_identities.iter().filter_map(|id| self.identities.get(id)) {
            for (id, set) in &self.sets {
                entries.extend(compile(*id, &set.value, &identity.value));
            }
        }
        for ((key, length), verdict) in entries {
            if self.tables.rules.insert((key, length), verdict) != Some(verdict) {
                out.push(Write::PutRule(key, length, verdict));
            }
        }
        out.extend(writes);
    }

    /// The longest prefix that an address is in settles which blocks it is in: blocks and what is left out of them nest.
    fn settle_blocks(&mut self, new: &mut BTreeSet<Id>, writes: &mut Vec<Write>) {
        let mut nets = BTreeSet::new();
        for term in self.terms.values() {
            if let Term::Block(cidr, except) = &term.value {
                nets.insert(*cidr);
                nets.extend(except);
            }
        }
        let mut wanted = BTreeMap::new();
        for net in nets {
            let identity = Identity { terms: self.blocks_around(&net), ports: NamedPorts::new() };
            wanted.insert(prefix(&net), identity);
        }
        let before = std::mem::take(&mut self.tables.blocks);
        for ((addr, length), identity) in wanted {
            // What is left out everywhere: still there, so that no shorter prefix speaks for it.
            let id = self.use_identity(identity, new);
            self.tables.blocks.insert((addr, length), id);
            if before.get(&(addr, length)) != Some(&id) {
                writes.push(Write::PutBlock(addr, length, id));
            }
        }
        for ((addr, length), id) in before {
            if let Some(used) = self.identities.get_mut(&id) {
                used.uses -= 1;
            }
            if !self.tables.blocks.contains_key(&(addr, length)) {
                writes.push(Write::RemoveBlock(addr, length));
            }
        }
        // Pods that have an identity of their own are in blocks too.
        self.addresses.extend(self.tables.identities.keys());
    }

    fn use_identity(&mut self, identity: Identity, new: &mut BTreeSet<Id>) -> Id {
        let id = identity.id();
        if id != Id::NONE {
            let used = self.identities.entry(id).or_insert_with(|| {
                new.insert(id);
                Used { value: identity, uses: 0 }
            });
            used.uses += 1;
        }
        id
    }

    /// Removes the rules of sets and identities that are no longer used.
    fn sweep(&mut self, sets: &[Id], out: &mut Vec<Write>) {
        let mut gone = Vec::new();
        for set in sets {
            gone.extend(range(&self.tables.rules, set.0, [0; 2], |key| key.set == set.0));
        }
        let unused: Vec<Id> = self.identities.iter().filter(|(_, used)| used.uses == 0).map(|(id, _)| *id).collect();
        for id in unused {
            self.identities.remove(&id);
            for set in self.sets.keys() {
                gone.extend(range(&self.tables.rules, set.0, id.0, |key| key.set == set.0 && key.identity == id.0));
            }
        }
        for (key, length) in gone {
            self.tables.rules.remove(&(key, length));
            out.push(Write::RemoveRule(key, length));
        }
    }
}

/// The keys from the first of a set and an identity on, for as long as `belongs`.
fn range(
    rules: &Entries,
    set: [u32; 2],
    identity: [u32; 2],
    belongs: impl Fn(&RuleKey) -> bool,
) -> Vec<(RuleKey, u32)> {
    let first = RuleKey { set, identity, proto: 0, padding: 0, port: xebec_ebpf_loader::layout::Port(0) };
    rules.range((first, 0)..).map(|(key, _)| *key).take_while(|(key, _)| belongs(key)).collect()
}

/// Whether a term is of pods, and matches one.
pub(super) fn pods_match(term: &Term, namespace: &str, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
    match term {
        Term::Pods(namespaces, pods) => namespaces.matches(namespace, namespace_labels) && pods.matches(labels),
        Term::Block(..) | Term::Nodes(_) | Term::Domain(_) => false,
    }
}

/// The names of ports among a rule's.
fn names(ports: &Ports) -> Vec<(u8, String)> {
    let Ports::Some(ports) = ports else { return Vec::new() };
    ports
        .iter()
        .filter_map(|(protocol, rule)| match rule {
            PortRule::Named(name) => Some((*protocol, name.clone())),
            PortRule::Range(..) => None,
        })
        .collect()
}

/// A pod's ports by name.
pub(super) fn named_ports(pod: &Pod) -> NamedPorts {
    let mut ports = NamedPorts::new();
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
    for port in pod.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports) {
        if let (false, Ok(protocol)) = (port.name.is_empty(), parse::protocol(&port.protocol)) {
            ports.entry((protocol, port.name.clone())).or_default().insert(port.container_port);
        }
    }
    ports
}

/// With the pod's own numbers for names of ports.
pub(super) fn with_numbers(mut rule: Rule, own: &NamedPorts) -> Rule {
    if let Ports::Some(ports) = &mut rule.ports {
        *ports = std::mem::take(ports)
            .into_iter()
            .flat_map(|(protocol, port)| match port {
                PortRule::Range(..) => vec![(protocol, port)],
                PortRule::Named(name) => {
                    let numbers = own.get(&(protocol, name)).into_iter().flatten();
                    numbers.map(|number| (protocol, PortRule::Range(*number, *number))).collect()
                }
            })
            .collect();
    }
    rule
}

/// A block as the maps have it.
fn prefix(net: &IpNet) -> (Addr, u32) {
    let length = u32::from(net.prefix_len());
    match net.network() {
        IpAddr::V4(ip) => (ip.into(), 96 + length),
        IpAddr::V6(ip) => (IpAddr::V6(ip).into(), length),
    }
}

impl Known {
    fn read(pod: &Pod, node: &str) -> Self {
        let addresses = if pod.spec.host_network || is_final(&pod.status.phase) {
            Vec::new()
        } else {
            pod.status.pod_ips.iter().map(|pod_ip| pod_ip.ip.into()).collect()
        };
        let ports = named_ports(pod);
        Self {
            uid: pod.metadata.uid.clone(),
            labels: pod.metadata.labels.clone(),
            addresses,
            ports,
            created: pod.metadata.creation_timestamp.map(|at| at.to_string()).unwrap_or_default(),
            is_local: pod.spec.node_name == node && !pod.spec.host_network,
            sets: Sets::default(),
            terms: BTreeSet::new(),
        }
    }

    fn looks_like(&self, other: &Self) -> bool {
        self.labels == other.labels && self.addresses == other.addresses && self.ports == other.ports
    }
}
