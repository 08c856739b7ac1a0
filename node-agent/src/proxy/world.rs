//! All services as last heard of, compiled; a change compiles what it touches and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use xebec_ebpf_loader::layout::ServiceKey;

use super::desired::{Compiled, Facts, ServiceName, Target, compile};
use super::views::{EndpointSlice, Service};

/// What the maps should hold, and from what.
#[derive(Debug)]
pub struct World {
    facts: Facts,
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<ServiceName, BTreeMap<String, Arc<EndpointSlice>>>,
    /// Which service a slice belonged to when it was last heard of: its label may change.
    slice_owner: BTreeMap<ServiceName, ServiceName>,
    compiled: BTreeMap<ServiceName, Compiled>,
    /// Who claims a frontend. Two services may name the same external address and port; then the first by name has it.
    claims: BTreeMap<ServiceKey, BTreeMap<ServiceName, Target>>,
    dirty: BTreeSet<ServiceName>,
}

/// Frontends whose target changed; `None`: it is gone.
pub type Changes = BTreeMap<ServiceKey, Option<Target>>;

impl World {
    /// Without services.
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slice_owner: BTreeMap::new(),
            compiled: BTreeMap::new(),
            claims: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// A new or changed service.
    pub fn put_service(&mut self, service: Arc<Service>) {
        let name = service_name(&service);
        self.dirty.insert(name.clone());
        self.services.insert(name, service);
    }

    /// A service that is gone.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        let name = ServiceName { namespace: namespace.to_owned(), name: name.to_owned() };
        self.services.remove(&name);
        self.dirty.insert(name);
    }

    /// These are all services.
    pub fn replace_services(&mut self, all: Vec<Arc<Service>>) {
        self.dirty.extend(std::mem::take(&mut self.services).into_keys());
        for service in all {
            self.put_service(service);
        }
    }

    /// A new or changed slice.
    pub fn put_slice(&mut self, slice: Arc<EndpointSlice>) {
        let id = slice_name(&slice);
        self.forget_slice(&id);
        let Some(service) = slice.service() else { return };
        let owner = ServiceName { namespace: id.namespace.clone(), name: service.to_owned() };
        self.slices.entry(owner.clone()).or_default().insert(id.name.clone(), slice);
        self.dirty.insert(owner.clone());
        self.slice_owner.insert(id, owner);
    }

    /// A slice that is gone.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) {
        self.forget_slice(&ServiceName { namespace: namespace.to_owned(), name: name.to_owned() });
    }

    /// These are all slices.
    pub fn replace_slices(&mut self, all: Vec<Arc<EndpointSlice>>) {
        self.dirty.extend(std::mem::take(&mut self.slices).into_keys());
        self.slice_owner.clear();
        for slice in all {
            self.put_slice(slice);
        }
    }

    fn forget_slice(&mut self, id: &ServiceName) {
        let Some(owner) = self.slice_owner.remove(id) else { return };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(&id.name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.dirty.insert(owner);
    }

    /// Compiles what changed since the last call, and says which frontends differ.
    pub fn changes(&mut self) -> Changes {
        let mut touched = BTreeSet::new();
        let mut before = BTreeMap::new();
        for name in std::mem::take(&mut self.dirty) {
            let new = match self.services.get(&name) {
                Some(service) => {
                    let slices = self.slices.get(&name).into_iter().flat_map(|s| s.values().map(|slice| &**slice));
                    compile(service, slices, &self.facts)
                }
                None => Compiled::default(),
            };
            let old = self.compiled.remove(&name).unwrap_or_default();
            for key in old.frontends.keys().chain(new.frontends.keys()) {
                before.entry(*key).or_insert_with(|| self.target(key).cloned());
                touched.insert(*key);
            }
            for key in old.frontends.keys() {
                if let Some(claims) = self.claims.get_mut(key) {
                    claims.remove(&name);
                    if claims.is_empty() {
                        self.claims.remove(key);
                    }
                }
            }
            for (key, target) in &new.frontends {
                self.claims.entry(*key).or_default().insert(name.clone(), target.clone());
            }
            if new != Compiled::default() {
                self.compiled.insert(name, new);
            }
        }
        let mut changes = Changes::new();
        for key in touched {
            let now = self.target(&key).cloned();
            if before.get(&key) != Some(&now) {
                changes.insert(key, now);
            }
        }
        changes
    }

    /// Where a frontend leads.
    pub fn target(&self, key: &ServiceKey) -> Option<&Target> {
        self.claims.get(key).and_then(|claims| claims.values().next())
    }

    /// All frontends.
    pub fn frontends(&self) -> impl Iterator<Item = (&ServiceKey, &Target)> {
        self.claims.iter().filter_map(|(key, claims)| claims.values().next().map(|target| (key, target)))
    }

    /// Load balancer addresses, with the nodes that may answer for each if not any node may.
    pub fn load_balancer_addresses(&self) -> BTreeMap<Ipv4Addr, Option<BTreeSet<String>>> {
        let mut out = BTreeMap::<Ipv4Addr, Option<BTreeSet<String>>>::new();
        for compiled in self.compiled.values() {
            for (address, nodes) in &compiled.load_balancer {
                // Services that share an address: a node must do for all of them.
                let known = out.entry(*address).or_insert_with(|| nodes.clone());
                *known = match (known.take(), nodes) {
                    (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
                    (a, b) => a.or_else(|| b.clone()),
                };
            }
        }
        out
    }
}

fn service_name(service: &Service) -> ServiceName {
    ServiceName { namespace: service.metadata.namespace.clone(), name: service.metadata.name.clone() }
}

fn slice_name(slice: &EndpointSlice) -> ServiceName {
    ServiceName { namespace: slice.metadata.namespace.clone(), name: slice.metadata.name.clone() }
}
