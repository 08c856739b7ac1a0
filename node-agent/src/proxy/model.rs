//! A mirror of the maps, and the order of writes.
//!
//! A backend set is written whole, under a number that no service names yet, after its backends; then the services that
//! use it are switched to it; then what nobody names is removed. Sets and backends are known by what they hold, so
//! frontends that lead to the same endpoints share them.

mod adopt;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use xebec_ebpf_loader::layout::{
    Backend, Chunk, ChunkKey, MemberKey, SLOTS_PER_CHUNK, SOURCE_RANGE_BITS, Service, ServiceKey, SourceRange,
    service_flags,
};

use super::desired::{BackendAddress, BackendSet, PortName, Target};
use super::maglev;
use super::world::Changes;

/// A prefix of clients: the range, and how many of its bits count.
pub type RangePrefix = (SourceRange, u32);

/// Writes to the maps, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "what is written where is in the names")]
pub struct Plan {
    pub put_backends: Vec<(u32, Backend)>,
    pub put_members: Vec<MemberKey>,
    pub put_chunks: Vec<(ChunkKey, Chunk)>,
    pub put_ranges: Vec<RangePrefix>,
    /// Service ports for which to begin to count.
    pub put_counters: Vec<u32>,
    pub put_services: Vec<(ServiceKey, Service)>,
    pub remove_services: Vec<ServiceKey>,
    pub remove_counters: Vec<u32>,
    pub remove_ranges: Vec<RangePrefix>,
    pub remove_chunks: Vec<ChunkKey>,
    pub remove_members: Vec<MemberKey>,
    pub remove_backends: Vec<u32>,
}

/// What the maps hold, read at start.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the maps by their names")]
pub struct Contents {
    pub services: Vec<(ServiceKey, Service)>,
    pub chunks: Vec<(ChunkKey, Chunk)>,
    pub members: Vec<MemberKey>,
    pub ranges: Vec<RangePrefix>,
    pub backends: Vec<(u32, Backend)>,
    pub counters: Vec<u32>,
}

/// How a set is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    /// Its slots are a Maglev table.
    consistent: bool,
    /// Its members are written one by one too.
    sticky: bool,
}

type SetKey = (BackendSet, Shape);

/// Hands out numbers that are not in use, in a circle: one that was given back is used again as late as possible.
#[derive(Debug, Default)]
struct Numbers {
    last: u32,
    used: HashSet<u32>,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        loop {
            // 0 means none.
            self.last = self.last.wrapping_add(1).max(1);
            if self.used.insert(self.last) {
                return self.last;
            }
        }
    }

    fn give_back(&mut self, number: u32) {
        self.used.remove(&number);
    }

    /// Takes a number that is known to be in use.
    fn adopt(&mut self, number: u32) {
        self.used.insert(number);
        self.last = self.last.max(number);
    }
}

/// The mirror.
#[derive(Debug, Default)]
pub struct Model {
    services: BTreeMap<ServiceKey, Service>,
    /// Sets by number, with how many services name them.
    sets: HashMap<u32, (SetKey, u32)>,
    set_numbers: HashMap<SetKey, u32>,
    /// Backends with their numbers, and how many sets hold them.
    backends: HashMap<BackendAddress, (u32, u32)>,
    /// Service ports by number, with how many frontends they have.
    ports: HashMap<u32, u32>,
    port_numbers: HashMap<PortName, u32>,
    port_names: HashMap<u32, PortName>,
    counters: HashSet<u32>,
    /// Of service ports that have any.
    ranges: BTreeMap<u32, BTreeSet<RangePrefix>>,
    free_sets: Numbers,
    free_backends: Numbers,
    free_ports: Numbers,
}

impl Model {
    /// The frontends that the maps hold.
    pub fn frontends(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// The name of the service port with a number.
    pub fn port_name(&self, id: u32) -> Option<&PortName> {
        self.port_names.get(&id)
    }

    /// The names of all service ports, with their numbers.
    pub fn port_names(&self) -> Vec<(u32, PortName)> {
        self.port_names.iter().map(|(id, name)| (*id, name.clone())).collect()
    }

    /// The backends that a frontend leads to.
    pub fn backends(&self, key: &ServiceKey) -> Option<&BackendSet> {
        self.sets.get(&self.services.get(key)?.set).map(|((set, _), _)| set)
    }

    /// The writes that bring these changes about.
    pub fn apply(&mut self, changes: Changes) -> Plan {
        let mut plan = Plan::default();
        let mut released = Vec::new();
        for (key, target) in changes {
            let old = self.services.get(&key).copied();
            released.extend(old);
            let Some(target) = target else {
                if self.services.remove(&key).is_some() {
                    plan.remove_services.push(key);
                }
                continue;
            };
            let id = self.port_number(&target.port, old, &mut plan);
            self.set_ranges(id, &target, &mut plan);
            let (set, count) = self.take_set(&target, &mut plan);
            let new = Service { id, set, count, flags: target.flags, affinity_timeout_s: target.affinity_timeout_s };
            *self.ports.entry(id).or_default() += 1;
            if old != Some(new) {
                plan.put_services.push((key, new));
            }
            self.services.insert(key, new);
        }
        for service in released {
            self.release_port(service.id, &mut plan);
            self.release_set(service.set, &mut plan);
        }
        plan
    }

    /// The number of a service port: the one it has; or the one under which an earlier agent knew the frontend; or a
    /// new one.
    fn port_number(&mut self, name: &PortName, old: Option<Service>, plan: &mut Plan) -> u32 {
        if let Some(id) = self.port_numbers.get(name) {
            return *id;
        }
        let adopted = old.map(|service| service.id).filter(|id| !self.port_names.contains_key(id));
        let id = adopted.unwrap_or_else(|| self.free_ports.take());
        self.port_numbers.insert(name.clone(), id);
        self.port_names.insert(id, name.clone());
        // What was counted stays.
        if self.counters.insert(id) {
            plan.put_counters.push(id);
        }
        id
    }

    /// Makes the clients of a service port those that its targets, all of them alike, name.
    fn set_ranges(&mut self, id: u32, target: &Target, plan: &mut Plan) {
        if target.source_ranges.is_empty() && !self.ranges.contains_key(&id) {
            return;
        }
        let wanted: BTreeSet<RangePrefix> = target.source_ranges.iter().map(|net| range(id, net)).collect();
        let known = self.ranges.remove(&id).unwrap_or_default();
        plan.put_ranges.extend(wanted.difference(&known));
        plan.remove_ranges.extend(known.difference(&wanted));
        if !wanted.is_empty() {
            self.ranges.insert(id, wanted);
        }
    }

    /// The number of a target's set and of its slots; it is written if it is new. Counts one use. 0 for the empty set.
    fn take_set(&mut self, target: &Target, plan: &mut Plan) -> (u32, u32) {
        let backends = &target.backends;
        if backends.is_empty() {
            return (0, 0);
        }
        let sticky = target.flags & service_flags::STICKY != 0;
        let key = (Arc::clone(backends), Shape { consistent: target.consistent, sticky });
        if let Some(number) = self.set_numbers.get(&key) {
            if let Some((_, uses)) = self.sets.get_mut(number) {
                *uses += 1;
            }
            return (*number, slot_count(&key));
        }
        let number = self.free_sets.take();
        let ids: Vec<u32> = backends.iter().map(|address| self.take_backend(*address, plan)).collect();
        if sticky {
            plan.put_members.extend(ids.iter().map(|id| MemberKey { set: number, backend: *id }));
        }
        let slots = slots(&key, &ids);
        plan.put_chunks.extend(chunks(number, &slots));
        self.set_numbers.insert(key.clone(), number);
        self.sets.insert(number, (key, 1));
        (number, slots.len() as u32)
    }

    fn take_backend(&mut self, address: BackendAddress, plan: &mut Plan) -> u32 {
        if let Some((id, uses)) = self.backends.get_mut(&address) {
            *uses += 1;
            return *id;
        }
        let id = self.free_backends.take();
        self.backends.insert(address, (id, 1));
        plan.put_backends.push((id, Backend { addr: address.addr, port: address.port, padding: 0 }));
        id
    }

    /// Gives back one use of a service port.
    fn release_port(&mut self, id: u32, plan: &mut Plan) {
        let Some(uses) = self.ports.get_mut(&id) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.ports.remove(&id);
        self.free_ports.give_back(id);
        if let Some(name) = self.port_names.remove(&id) {
            self.port_numbers.remove(&name);
        }
        if self.counters.remove(&id) {
            plan.remove_counters.push(id);
        }
        plan.remove_ranges.extend(self.ranges.remove(&id).unwrap_or_default());
    }

    /// Gives back one use of a set, and removes what nobody uses any more.
    fn release_set(&mut self, number: u32, plan: &mut Plan) {
        let Some((_, uses)) = self.sets.get_mut(&number) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        let Some((key, _)) = self.sets.remove(&number) else { return };
        self.set_numbers.remove(&key);
        self.free_sets.give_back(number);
        let last = slot_count(&key).div_ceil(SLOTS_PER_CHUNK);
        plan.remove_chunks.extend((0..last).map(|chunk| ChunkKey { set: number, chunk }));
        for address in key.0.iter() {
            let Some((id, uses)) = self.backends.get_mut(address) else { continue };
            let id = *id;
            *uses -= 1;
            if key.1.sticky {
                plan.remove_members.push(MemberKey { set: number, backend: id });
            }
            if *uses == 0 {
                self.backends.remove(address);
                self.free_backends.give_back(id);
                plan.remove_backends.push(id);
            }
        }
    }
}

fn range(id: u32, net: &IpNet) -> RangePrefix {
    let bits = if net.addr().is_ipv4() { 96 } else { 0 };
    let length = SOURCE_RANGE_BITS + bits + u32::from(net.prefix_len());
    (SourceRange { service: id, addr: net.network().into() }, length)
}

/// The number of slots that a set has.
fn slot_count((backends, shape): &SetKey) -> u32 {
    if shape.consistent { maglev::size(backends.len()) as u32 } else { backends.len() as u32 }
}

/// A set's slots. `ids`: the backends', in order.
fn slots((backends, shape): &SetKey, ids: &[u32]) -> Vec<u32> {
    if !shape.consistent {
        return ids.to_vec();
    }
    maglev::table(backends).into_iter().map(|place| ids[place as usize]).collect()
}

fn chunks(set: u32, slots: &[u32]) -> impl Iterator<Item = (ChunkKey, Chunk)> {
    slots.chunks(SLOTS_PER_CHUNK as usize).zip(0..).map(move |(some, chunk)| {
        let mut out = Chunk::default();
        out.0[..some.len()].copy_from_slice(some);
        (ChunkKey { set, chunk }, out)
    })
}
