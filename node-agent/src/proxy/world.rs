//! All services as last heard of, compiled; a change compiles what it touches and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use xebec_ebpf_loader::layout::ServiceKey;

use super::desired::{Compiled, Facts, HealthCheck, ServiceName, Target, compile, compile_host_ports};
use super::views::{EndpointSlice, HostPorts, ObjectName, Service};

/// What the maps should hold, and from what.
#[derive(Debug)]
pub struct World {
    facts: Facts,
    services: HashMap<ServiceName, Known>,
    /// Which service a slice belonged to when it was last heard of: its label may change.
    slice_owner: HashMap<ObjectName, ServiceName>,
    /// Pods of this node that have `hostPort`s.
    pods: BTreeMap<ObjectName, Arc<HostPorts>>,
    pod_frontends: BTreeMap<ObjectName, Box<[ServiceKey]>>,
    /// Who claims a frontend, in the order of their names. Two may name the same external address and port; then the
    /// first has it.
    claims: BTreeMap<ServiceKey, Vec<(ObjectName, Target)>>,
    dirty: HashSet<ServiceName>,
    dirty_pods: BTreeSet<ObjectName>,
    /// Of those services that have any.
    load_balancers: BTreeMap<ServiceName, BTreeMap<IpAddr, Option<BTreeSet<String>>>>,
    health_checks: BTreeMap<ServiceName, (u16, HealthCheck)>,
    /// Whether one of the two before has changed since it was last asked for.
    addresses_changed: bool,
    checks_changed: bool,
}

/// A service, and what it compiled to when it was last looked at.
#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    /// In the order of their names.
    slices: Vec<Arc<EndpointSlice>>,
    frontends: Box<[ServiceKey]>,
}

/// Frontends whose target changed; `None`: it is gone.
pub type Changes = BTreeMap<ServiceKey, Option<Target>>;

impl World {
    /// Without services.
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            services: HashMap::new(),
            slice_owner: HashMap::new(),
            pods: BTreeMap::new(),
            pod_frontends: BTreeMap::new(),
            claims: BTreeMap::new(),
            dirty: HashSet::new(),
            dirty_pods: BTreeSet::new(),
            load_balancers: BTreeMap::new(),
            health_checks: BTreeMap::new(),
            addresses_changed: true,
            checks_changed: true,
        }
    }

    /// The node is in this zone.
    pub fn set_zone(&mut self, zone: Option<Box<str>>) {
        if self.facts.zone != zone {
            self.facts.zone = zone;
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// A new or changed service.
    pub fn put_service(&mut self, service: Arc<Service>) {
        let name = service.name.clone();
        self.services.entry(name.clone()).or_default().service = Some(service);
        self.dirty.insert(name);
    }

    /// A service that is gone.
    pub fn remove_service(&mut self, name: &ServiceName) {
        if let Some(known) = self.services.get_mut(name) {
            known.service = None;
            self.dirty.insert(name.clone());
        }
    }

    /// These are all services.
    pub fn replace_services(&mut self, all: Vec<Arc<Service>>) {
        for (name, known) in &mut self.services {
            if known.service.take().is_some() {
                self.dirty.insert(name.clone());
            }
        }
        for service in all {
            self.put_service(service);
        }
    }

    /// A new or changed slice.
    pub fn put_slice(&mut self, slice: Arc<EndpointSlice>) {
        let owner = slice.owner();
        if self.slice_owner.get(&slice.name) != owner.as_ref() {
            self.remove_slice(&slice.name);
        }
        let Some(owner) = owner else { return };
        let slices = &mut self.services.entry(owner.clone()).or_default().slices;
        match slices.binary_search_by(|known| known.name.name.cmp(&slice.name.name)) {
            Ok(at) => slices[at] = Arc::clone(&slice),
            Err(at) => slices.insert(at, Arc::clone(&slice)),
        }
        self.slice_owner.insert(slice.name.clone(), owner.clone());
        self.dirty.insert(owner);
    }

    /// A slice that is gone.
    pub fn remove_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.slice_owner.remove(name) else { return };
        if let Some(known) = self.services.get_mut(&owner) {
            known.slices.retain(|slice| slice.name != *name);
        }
        self.dirty.insert(owner);
    }

    /// These are all slices.
    pub fn replace_slices(&mut self, all: Vec<Arc<EndpointSlice>>) {
        for (name, known) in &mut self.services {
            if !std::mem::take(&mut known.slices).is_empty() {
                self.dirty.insert(name.clone());
            }
        }
        self.slice_owner.clear();
        for slice in all {
            self.put_slice(slice);
        }
    }

    /// A new or changed pod of this node.
    pub fn put_pod(&mut self, pod: Arc<HostPorts>) {
        let name = pod.name.clone();
        let known = if pod.ports.is_empty() { self.pods.remove(&name) } else { self.pods.insert(name.clone(), pod) };
        if known.is_some() || self.pods.contains_key(&name) {
            self.dirty_pods.insert(name);
        }
    }

    /// A pod that is gone.
    pub fn remove_pod(&mut self, name: &ObjectName) {
        if self.pods.remove(name).is_some() {
            self.dirty_pods.insert(name.clone());
        }
    }

    /// These are all pods of this node.
    pub fn replace_pods(&mut self, all: Vec<Arc<HostPorts>>) {
        self.dirty_pods.extend(std::mem::take(&mut self.pods).into_keys());
        for pod in all {
            self.put_pod(pod);
        }
    }

    /// Compiles what changed since the last call, and says which frontends differ.
    pub fn changes(&mut self) -> Changes {
        let mut before = BTreeMap::new();
        for name in std::mem::take(&mut self.dirty) {
            let Some(known) = self.services.get(&name) else { continue };
            let compiled = match &known.service {
                Some(service) => compile(service, known.slices.iter().map(|slice| &**slice), &self.facts),
                None => Compiled::default(),
            };
            let is_gone = known.service.is_none() && known.slices.is_empty();
            self.note_addresses(&name, compiled.load_balancer, compiled.health_check);
            let old = self
                .services
                .get_mut(&name)
                .map(|known| std::mem::replace(&mut known.frontends, compiled.frontends.keys().copied().collect()));
            if is_gone {
                self.services.remove(&name);
            }
            self.claim(&name, &old.unwrap_or_default(), compiled.frontends, &mut before);
        }
        for name in std::mem::take(&mut self.dirty_pods) {
            let compiled = self.pods.get(&name).map(|pod| compile_host_ports(pod, &self.facts)).unwrap_or_default();
            let new: Box<[ServiceKey]> = compiled.frontends.keys().copied().collect();
            let old = if new.is_empty() {
                self.pod_frontends.remove(&name)
            } else {
                self.pod_frontends.insert(name.clone(), new)
            };
            // Apart from services of the same name.
            let claimant = ObjectName { name: format!("pod:{}", name.name).into(), ..name };
            self.claim(&claimant, &old.unwrap_or_default(), compiled.frontends, &mut before);
        }
        let mut changes = Changes::new();
        for (key, before) in before {
            let now = self.target(&key).cloned();
            if before != now {
                changes.insert(key, now);
            }
        }
        changes
    }

    fn note_addresses(
        &mut self,
        name: &ServiceName,
        addresses: BTreeMap<IpAddr, Option<BTreeSet<String>>>,
        check: Option<(u16, HealthCheck)>,
    ) {
        if self.load_balancers.get(name).is_some_and(|known| *known == addresses) {
            // As it was.
        } else if addresses.is_empty() {
            self.addresses_changed |= self.load_balancers.remove(name).is_some();
        } else {
            self.load_balancers.insert(name.clone(), addresses);
            self.addresses_changed = true;
        }
        if self.health_checks.get(name) != check.as_ref() {
            match check {
                Some(check) => drop(self.health_checks.insert(name.clone(), check)),
                None => drop(self.health_checks.remove(name)),
            }
            self.checks_changed = true;
        }
    }

    /// Replaces what `name` claims; `before` gets the targets as they were.
    fn claim(
        &mut self,
        name: &ObjectName,
        old: &[ServiceKey],
        new: BTreeMap<ServiceKey, Target>,
        before: &mut BTreeMap<ServiceKey, Option<Target>>,
    ) {
        for key in old.iter().chain(new.keys()) {
            before.entry(*key).or_insert_with(|| self.target(key).cloned());
        }
        for key in old.iter().filter(|key| !new.contains_key(key)) {
            if let Some(claims) = self.claims.get_mut(key) {
                claims.retain(|(claimant, _)| claimant != name);
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        for (key, target) in new {
            let claims = self.claims.entry(key).or_default();
            match claims.binary_search_by(|(claimant, _)| claimant.cmp(name)) {
                Ok(at) => claims[at].1 = target,
                Err(at) => {
                    claims.reserve_exact(1);
                    claims.insert(at, (name.clone(), target));
                }
            }
        }
    }

    /// Where a frontend leads.
    pub fn target(&self, key: &ServiceKey) -> Option<&Target> {
        self.claims.get(key).and_then(|claims| claims.first()).map(|(_, target)| target)
    }

    /// All frontends.
    pub fn frontends(&self) -> impl Iterator<Item = (&ServiceKey, &Target)> {
        self.claims.iter().filter_map(|(key, claims)| claims.first().map(|(_, target)| (key, target)))
    }

    /// Load balancer addresses, with the nodes that may answer for each if not any node may; `None` if nothing changed
    /// since the last call.
    pub fn load_balancer_addresses(&mut self) -> Option<BTreeMap<IpAddr, Option<BTreeSet<String>>>> {
        if !std::mem::take(&mut self.addresses_changed) {
            return None;
        }
        let mut out = BTreeMap::<IpAddr, Option<BTreeSet<String>>>::new();
        for (address, nodes) in self.load_balancers.values().flatten() {
            // Services that share an address: a node must do for all of them.
            let known = out.entry(*address).or_insert_with(|| nodes.clone());
            *known = match (known.take(), nodes) {
                (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
                (a, b) => a.or_else(|| b.clone()),
            };
        }
        Some(out)
    }

    /// Health checks by port; `None` if nothing changed since the last call.
    pub fn health_checks(&mut self) -> Option<BTreeMap<u16, HealthCheck>> {
        std::mem::take(&mut self.checks_changed).then(|| self.health_checks.values().cloned().collect())
    }
}
