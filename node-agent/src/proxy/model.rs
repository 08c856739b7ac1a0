//! A mirror of the maps, and the order of writes.
//!
//! A backend set is written whole, under a number that no service names yet, after its backends; then the services that
//! use it are switched to it; then what nobody names is removed. Sets and backends are known by what they hold, so
//! frontends that lead to the same endpoints share them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use xebec_ebpf_loader::layout::{Backend, Service, ServiceKey, SlotKey};

use super::desired::{BackendAddress, BackendSet, PortName};
use super::world::Changes;

/// One write to a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "what is written where is in the names")]
pub enum Write {
    PutBackend(u32, Backend),
    PutSlot(SlotKey, u32),
    /// Begins to count for a service port; what was counted stays.
    PutCounters(u32),
    PutService(ServiceKey, Service),
    RemoveService(ServiceKey),
    RemoveCounters(u32),
    RemoveSlot(SlotKey),
    RemoveBackend(u32),
}

/// What the maps hold, read at start.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the maps by their names")]
pub struct Contents {
    pub services: Vec<(ServiceKey, Service)>,
    pub slots: Vec<(SlotKey, u32)>,
    pub backends: Vec<(u32, Backend)>,
    pub counters: Vec<u32>,
}

#[derive(Debug)]
struct Counted<T> {
    value: T,
    uses: usize,
}

/// Hands out numbers that are not in use, in a circle: one that was given back is used again as late as possible.
#[derive(Debug, Default)]
struct Numbers {
    last: u32,
}

impl Numbers {
    fn next(&mut self, in_use: impl Fn(u32) -> bool) -> u32 {
        loop {
            // 0 means none.
            self.last = self.last.wrapping_add(1).max(1);
            if !in_use(self.last) {
                return self.last;
            }
        }
    }
}

/// The mirror.
#[derive(Debug, Default)]
pub struct Model {
    services: BTreeMap<ServiceKey, Service>,
    /// Sets by number, with how many services name them.
    sets: HashMap<u32, Counted<BackendSet>>,
    set_numbers: HashMap<BackendSet, u32>,
    /// Backends by number, with how many sets hold them.
    backends: HashMap<u32, Counted<BackendAddress>>,
    backend_numbers: HashMap<BackendAddress, u32>,
    /// Service ports by number, with how many frontends they have.
    ports: HashMap<u32, usize>,
    port_numbers: HashMap<PortName, u32>,
    port_names: HashMap<u32, PortName>,
    next_set: Numbers,
    next_backend: Numbers,
    next_port: Numbers,
}

impl Model {
    /// From what the maps hold. What is found there but not whole (a crash between two writes) is to be removed, by the
    /// writes returned.
    pub fn adopt(contents: Contents) -> (Self, Vec<Write>) {
        let mut model = Self::default();
        let mut writes = Vec::new();
        let backends: HashMap<u32, BackendAddress> = contents
            .backends
            .iter()
            .map(|(id, backend)| (*id, BackendAddress { addr: backend.addr, port: backend.port }))
            .collect();
        let mut slots = HashMap::<u32, BTreeMap<u32, u32>>::new();
        for (key, backend) in &contents.slots {
            slots.entry(key.set).or_default().insert(key.slot, *backend);
        }
        for (key, service) in contents.services {
            if model.adopt_service(service, &slots, &backends) {
                *model.ports.entry(service.id).or_default() += 1;
                model.services.insert(key, service);
            } else {
                writes.push(Write::RemoveService(key));
            }
        }
        for (key, _) in contents.slots {
            if model.sets.get(&key.set).is_none_or(|set| key.slot as usize >= set.value.len()) {
                writes.push(Write::RemoveSlot(key));
            }
        }
        for (id, _) in contents.backends {
            if !model.backends.contains_key(&id) {
                writes.push(Write::RemoveBackend(id));
            }
        }
        for id in contents.counters {
            if !model.ports.contains_key(&id) {
                writes.push(Write::RemoveCounters(id));
            }
        }
        model.next_set.last = model.sets.keys().copied().max().unwrap_or(0);
        model.next_backend.last = model.backends.keys().copied().max().unwrap_or(0);
        model.next_port.last = model.ports.keys().copied().max().unwrap_or(0);
        (model, writes)
    }

    /// Takes over a service whose set is whole.
    fn adopt_service(
        &mut self,
        service: Service,
        slots: &HashMap<u32, BTreeMap<u32, u32>>,
        backends: &HashMap<u32, BackendAddress>,
    ) -> bool {
        if service.set == 0 {
            return service.count == 0;
        }
        if let Some(set) = self.sets.get_mut(&service.set) {
            let whole = set.value.len() == service.count as usize;
            set.uses += usize::from(whole);
            return whole;
        }
        let Some(slots) = slots.get(&service.set) else { return false };
        let numbers: Option<Vec<u32>> = (0..service.count).map(|slot| slots.get(&slot).copied()).collect();
        let Some(numbers) = numbers else { return false };
        let addresses: Option<Vec<BackendAddress>> = numbers.iter().map(|id| backends.get(id).copied()).collect();
        let Some(addresses) = addresses else { return false };
        let set: BackendSet = addresses.iter().copied().collect();
        // Backends are known by their addresses: one under two numbers, or a set that is there twice, is not ours.
        let doubled = self.set_numbers.contains_key(&set)
            || addresses
                .iter()
                .zip(&numbers)
                .any(|(a, id)| self.backend_numbers.get(a).is_some_and(|known| known != id));
        if doubled {
            return false;
        }
        for (address, id) in addresses.iter().zip(&numbers) {
            self.backend_numbers.insert(*address, *id);
            self.backends.entry(*id).or_insert(Counted { value: *address, uses: 0 }).uses += 1;
        }
        self.set_numbers.insert(set.clone(), service.set);
        self.sets.insert(service.set, Counted { value: set, uses: 1 });
        true
    }

    /// The frontends that the maps hold.
    pub fn frontends(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// The name of the service port with a number.
    pub fn port_name(&self, id: u32) -> Option<&PortName> {
        self.port_names.get(&id)
    }

    /// The writes that bring these changes about, in order.
    pub fn apply(&mut self, changes: Changes) -> Vec<Write> {
        let mut first = Vec::new();
        let mut switch = Vec::new();
        let mut released = Released::default();
        for (key, target) in changes {
            let old = self.services.get(&key).copied();
            let Some(target) = target else {
                if let Some(old) = old {
                    self.services.remove(&key);
                    switch.push(Write::RemoveService(key));
                    released.add(old);
                }
                continue;
            };
            let id = self.port_number(&target.port, old, &mut first);
            let set = self.take_set(&target.backends, &mut first);
            let new = Service {
                id,
                set,
                count: target.backends.len() as u32,
                flags: target.flags,
                affinity_timeout_s: target.affinity_timeout_s,
            };
            *self.ports.entry(id).or_default() += 1;
            if old != Some(new) {
                switch.push(Write::PutService(key, new));
            }
            self.services.insert(key, new);
            if let Some(old) = old {
                released.add(old);
            }
        }
        first.extend(switch);
        self.release(&released, &mut first);
        first
    }

    /// The number of a service port: the one it has; or the one under which an earlier agent knew the frontend; or a
    /// new one.
    fn port_number(&mut self, name: &PortName, old: Option<Service>, writes: &mut Vec<Write>) -> u32 {
        if let Some(id) = self.port_numbers.get(name) {
            return *id;
        }
        let adopted = old.map(|service| service.id).filter(|id| !self.port_names.contains_key(id));
        let ports = &self.ports;
        let id = adopted.unwrap_or_else(|| self.next_port.next(|id| ports.contains_key(&id)));
        self.port_numbers.insert(name.clone(), id);
        self.port_names.insert(id, name.clone());
        writes.push(Write::PutCounters(id));
        id
    }

    /// The number of a set, which is written if it is new; counts one use. 0 for the empty set.
    fn take_set(&mut self, set: &BackendSet, writes: &mut Vec<Write>) -> u32 {
        if set.is_empty() {
            return 0;
        }
        if let Some(number) = self.set_numbers.get(set) {
            if let Some(known) = self.sets.get_mut(number) {
                known.uses += 1;
            }
            return *number;
        }
        let sets = &self.sets;
        let number = self.next_set.next(|n| sets.contains_key(&n));
        for (slot, address) in set.iter().enumerate() {
            let backend = self.take_backend(*address, writes);
            writes.push(Write::PutSlot(SlotKey { set: number, slot: slot as u32 }, backend));
        }
        self.set_numbers.insert(Arc::clone(set), number);
        self.sets.insert(number, Counted { value: Arc::clone(set), uses: 1 });
        number
    }

    fn take_backend(&mut self, address: BackendAddress, writes: &mut Vec<Write>) -> u32 {
        if let Some(id) = self.backend_numbers.get(&address) {
            if let Some(known) = self.backends.get_mut(id) {
                known.uses += 1;
            }
            return *id;
        }
        let backends = &self.backends;
        let id = self.next_backend.next(|id| backends.contains_key(&id));
        self.backend_numbers.insert(address, id);
        self.backends.insert(id, Counted { value: address, uses: 1 });
        writes.push(Write::PutBackend(id, Backend { addr: address.addr, port: address.port, padding: 0 }));
        id
    }

    /// Gives back what services no longer name, and removes what nobody does.
    fn release(&mut self, released: &Released, writes: &mut Vec<Write>) {
        for service in &released.0 {
            self.release_port(service.id, writes);
            self.release_set(service.set, writes);
        }
    }

    fn release_port(&mut self, id: u32, writes: &mut Vec<Write>) {
        let Some(uses) = self.ports.get_mut(&id) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.ports.remove(&id);
        if let Some(name) = self.port_names.remove(&id) {
            self.port_numbers.remove(&name);
        }
        writes.push(Write::RemoveCounters(id));
    }

    fn release_set(&mut self, number: u32, writes: &mut Vec<Write>) {
        let Some(set) = self.sets.get_mut(&number) else { return };
        set.uses -= 1;
        if set.uses > 0 {
            return;
        }
        let set = Arc::clone(&set.value);
        self.sets.remove(&number);
        self.set_numbers.remove(&set);
        for (slot, address) in set.iter().enumerate() {
            writes.push(Write::RemoveSlot(SlotKey { set: number, slot: slot as u32 }));
            let Some(id) = self.backend_numbers.get(address).copied() else { continue };
            let Some(backend) = self.backends.get_mut(&id) else { continue };
            backend.uses -= 1;
            if backend.uses == 0 {
                self.backends.remove(&id);
                self.backend_numbers.remove(address);
                writes.push(Write::RemoveBackend(id));
            }
        }
    }
}

/// Services as they were, whose set and port they no longer use.
#[derive(Default)]
struct Released(Vec<Service>);

impl Released {
    fn add(&mut self, service: Service) {
        self.0.push(service);
    }
}
