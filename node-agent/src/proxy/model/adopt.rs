//! Takes over what an earlier agent left in the maps.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use xebec_ebpf_loader::layout::{ChunkKey, MemberKey, SLOTS_PER_CHUNK, Service, service_flags};

use super::super::desired::BackendAddress;
use super::{Contents, Model, Plan, SetKey, Shape, slot_count, slots};

/// What was found, in a form to look things up in.
struct Found {
    chunks: HashMap<ChunkKey, [u32; SLOTS_PER_CHUNK as usize]>,
    members: BTreeSet<MemberKey>,
    backends: HashMap<u32, BackendAddress>,
}

impl Model {
    /// From what the maps hold. What is found there but not whole (a crash between two writes) is to be removed, by the
    /// plan returned.
    pub fn adopt(contents: Contents) -> (Self, Plan) {
        let mut model = Self::default();
        let mut plan = Plan::default();
        let found = Found {
            chunks: contents.chunks.iter().map(|(key, chunk)| (*key, chunk.0)).collect(),
            members: contents.members.iter().copied().collect(),
            backends: contents
                .backends
                .iter()
                .map(|(id, backend)| (*id, BackendAddress { addr: backend.addr, port: backend.port }))
                .collect(),
        };
        let counters: BTreeSet<u32> = contents.counters.iter().copied().collect();
        for (key, service) in contents.services {
            if counters.contains(&service.id) && model.adopt_set(&service, &found) {
                *model.ports.entry(service.id).or_default() += 1;
                model.free_ports.adopt(service.id);
                model.counters.insert(service.id);
                model.services.insert(key, service);
            } else {
                plan.remove_services.push(key);
            }
        }
        for (range, length) in contents.ranges {
            if model.ports.contains_key(&range.service) {
                model.ranges.entry(range.service).or_default().insert((range, length));
            } else {
                plan.remove_ranges.push((range, length));
            }
        }
        model.drop_orphans(&found, &counters, &mut plan);
        (model, plan)
    }

    /// Takes over a service's set if it is whole.
    fn adopt_set(&mut self, service: &Service, found: &Found) -> bool {
        if service.set == 0 {
            return service.count == 0;
        }
        let sticky = service.flags & service_flags::STICKY != 0;
        if let Some((key, uses)) = self.sets.get_mut(&service.set) {
            let same = slot_count(key) == service.count && key.1.sticky == sticky;
            *uses += u32::from(same);
            return same;
        }
        let Some((key, ids)) = found.set(service, sticky) else { return false };
        // Backends are known by their addresses: one under two numbers, or a set that is there twice, is not ours.
        let doubled = self.set_numbers.contains_key(&key)
            || key.0.iter().zip(&ids).any(|(a, id)| self.backends.get(a).is_some_and(|(known, _)| known != id));
        if doubled {
            return false;
        }
        for (address, id) in key.0.iter().zip(&ids) {
            self.backends.entry(*address).or_insert((*id, 0)).1 += 1;
            self.free_backends.adopt(*id);
        }
        self.free_sets.adopt(service.set);
        self.set_numbers.insert(key.clone(), service.set);
        self.sets.insert(service.set, (key, 1));
        true
    }

    /// Plans the removal of what no service that was taken over names.
    fn drop_orphans(&self, found: &Found, counters: &BTreeSet<u32>, plan: &mut Plan) {
        let chunks: BTreeSet<ChunkKey> = found.chunks.keys().copied().collect();
        for key in chunks {
            let used = self.sets.get(&key.set).is_some_and(|(set, _)| key.chunk * SLOTS_PER_CHUNK < slot_count(set));
            if !used {
                plan.remove_chunks.push(key);
            }
        }
        for member in &found.members {
            let used = self.sets.get(&member.set).is_some_and(|((set, shape), _)| {
                let address = found.backends.get(&member.backend);
                shape.sticky && address.is_some_and(|address| set.binary_search(address).is_ok())
            });
            if !used {
                plan.remove_members.push(*member);
            }
        }
        let backends: BTreeMap<u32, BackendAddress> = found.backends.iter().map(|(id, a)| (*id, *a)).collect();
        for (id, address) in backends {
            if self.backends.get(&address).is_none_or(|(known, _)| *known != id) {
                plan.remove_backends.push(id);
            }
        }
        plan.remove_counters.extend(counters.iter().filter(|id| !self.ports.contains_key(id)));
    }
}

impl Found {
    /// The set that a service names, with its backends' ids in order; `None` if it is not whole, or not as we write it.
    fn set(&self, service: &Service, sticky: bool) -> Option<(SetKey, Vec<u32>)> {
        let mut found = Vec::new();
        for chunk in 0..service.count.div_ceil(SLOTS_PER_CHUNK) {
            found.extend(self.chunks.get(&ChunkKey { set: service.set, chunk })?);
        }
        found.truncate(service.count as usize);
        let mut members = BTreeMap::new();
        for id in &found {
            members.insert(*self.backends.get(id)?, *id);
        }
        let ids: Vec<u32> = members.values().copied().collect();
        let whole = |id: &u32| self.members.contains(&MemberKey { set: service.set, backend: *id });
        if sticky && !ids.iter().all(whole) {
            return None;
        }
        let set: std::sync::Arc<[BackendAddress]> = members.into_keys().collect();
        [false, true].into_iter().find_map(|consistent| {
            let key: SetKey = (set.clone(), Shape { consistent, sticky });
            (slots(&key, &ids) == found).then(|| (key, ids.clone()))
        })
    }
}
