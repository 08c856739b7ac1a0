//! The maps, typed.

use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf};
use xebec_ebpf_layout::{
    Addr, Backend, Connection, DropReason, Event, Flow, FlowKey, Frontend, LocalPod, Peer, RuleKey, Service,
    ServiceCounters, ServiceKey, SlotKey, SocketKey, map,
};

use crate::Error;

/// A hash map in the kernel.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    inner: HashMap<MapData, K, V>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let inner = HashMap::try_from(map).map_err(failed(name))?;
        Ok(Self { name, inner })
    }

    /// The value at `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.inner.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed(self.name)(error)),
        }
    }

    /// Adds or replaces, in one step for readers.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), Error> {
        self.inner.insert(key, value, 0).map_err(failed(self.name))
    }

    /// Removes; a key that is not there is no error.
    pub fn remove(&mut self, key: &K) -> Result<(), Error> {
        match self.inner.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(failed(self.name)(error)),
        }
    }

    /// All entries, in no order; those that come or go meanwhile may be missed.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        self.inner.iter().collect::<Result<_, _>>().map_err(failed(self.name))
    }
}

/// A key, mostly an address, and how many of its bits count.
pub type Prefix<K = Addr> = (K, u32);

/// A map of prefixes in the kernel, mostly of addresses; the longest that matches counts.
#[derive(Debug)]
pub struct Prefixes<V, K = Addr> {
    name: &'static str,
    inner: LpmTrie<MapData, K, V>,
}

impl<V: Pod, K: Pod> Prefixes<V, K> {
    fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let inner = LpmTrie::try_from(map).map_err(failed(name))?;
        Ok(Self { name, inner })
    }

    /// Adds or replaces. `length` counts bits of the 16 bytes: an IPv4 prefix's is 96 more.
    pub fn insert(&mut self, key: K, length: u32, value: &V) -> Result<(), Error> {
        self.inner.insert(&Key::new(length, key), value, 0).map_err(failed(self.name))
    }

    /// Removes; a prefix that is not there is no error.
    pub fn remove(&mut self, key: K, length: u32) -> Result<(), Error> {
        match self.inner.remove(&Key::new(length, key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(failed(self.name)(error)),
        }
    }

    /// All prefixes with their lengths and values.
    pub fn entries(&self) -> Result<Vec<(Prefix<K>, V)>, Error> {
        self.inner
            .iter()
            .map(|entry| entry.map(|(key, value)| ((key.data(), key.prefix_len()), value)))
            .collect::<Result<_, _>>()
            .map_err(failed(self.name))
    }
}

/// One number in the kernel.
pub struct Counter {
    name: &'static str,
    inner: Array<MapData, u32>,
}

impl Counter {
    fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let inner = Array::try_from(map).map_err(failed(name))?;
        Ok(Self { name, inner })
    }

    /// Its value.
    pub fn get(&self) -> Result<u32, Error> {
        self.inner.get(&0, 0).map_err(failed(self.name))
    }

    /// Sets it.
    pub fn set(&mut self, value: u32) -> Result<(), Error> {
        self.inner.set(0, value, 0).map_err(failed(self.name))
    }
}

/// Every map.
#[expect(missing_docs, reason = "documented in the layout crate, by the same names")]
pub struct Maps {
    pub services: Table<ServiceKey, Service>,
    pub slots: Table<SlotKey, u32>,
    pub backends: Table<u32, Backend>,
    pub service_counters: Table<u32, ServiceCounters>,
    pub sockets: Table<SocketKey, Frontend>,
    pub flows: Table<FlowKey, Flow>,
    pub local_pods: Table<Addr, LocalPod>,
    pub peers: Prefixes<Peer>,
    pub node_addresses: Table<Addr, u32>,
    pub lb_addresses: Table<Addr, u32>,
    pub identities: Table<Addr, [u32; 2]>,
    pub blocks: Prefixes<[u32; 2]>,
    pub rules: Prefixes<u32, RuleKey>,
    pub connections: Table<FlowKey, Connection>,
    pub revision: Counter,
    drops: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
}

impl Maps {
    /// Opens the maps pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::build(|name| {
            let data = MapData::from_pin(dir.join(name)).map_err(failed(name))?;
            Map::from_map_data(data).map_err(failed(name))
        })
    }

    pub(crate) fn build(mut map: impl FnMut(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        use xebec_ebpf_layout::map as names;
        Ok(Self {
            services: Table::new(names::SERVICES, map(names::SERVICES)?)?,
            slots: Table::new(names::SLOTS, map(names::SLOTS)?)?,
            backends: Table::new(names::BACKENDS, map(names::BACKENDS)?)?,
            service_counters: Table::new(names::SERVICE_COUNTERS, map(names::SERVICE_COUNTERS)?)?,
            sockets: Table::new(names::SOCKETS, map(names::SOCKETS)?)?,
            flows: Table::new(names::FLOWS, map(names::FLOWS)?)?,
            local_pods: Table::new(names::LOCAL_PODS, map(names::LOCAL_PODS)?)?,
            peers: Prefixes::new(names::PEERS, map(names::PEERS)?)?,
            node_addresses: Table::new(names::NODE_ADDRESSES, map(names::NODE_ADDRESSES)?)?,
            lb_addresses: Table::new(names::LB_ADDRESSES, map(names::LB_ADDRESSES)?)?,
            identities: Table::new(names::IDENTITIES, map(names::IDENTITIES)?)?,
            blocks: Prefixes::new(names::BLOCKS, map(names::BLOCKS)?)?,
            rules: Prefixes::new(names::RULES, map(names::RULES)?)?,
            connections: Table::new(names::CONNECTIONS, map(names::CONNECTIONS)?)?,
            revision: Counter::new(names::REVISION, map(names::REVISION)?)?,
            drops: PerCpuArray::try_from(map(names::DROPS)?).map_err(failed(names::DROPS))?,
            events: RingBuf::try_from(map(names::EVENTS)?).map_err(failed(names::EVENTS))?,
        })
    }

    /// Packets dropped or refused since the maps were made, by reason.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, Error> {
        DropReason::ALL
            .into_iter()
            .map(|reason| {
                let values = self.drops.get(&(reason as u32), 0).map_err(failed(map::DROPS))?;
                Ok((reason, values.iter().sum()))
            })
            .collect()
    }

    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        let bytes: [u8; size_of::<Event>()] = item.get(..size_of::<Event>())?.try_into().ok()?;
        // SAFETY: Event is plain data: every bit pattern of its size is one.
        Some(unsafe { std::mem::transmute::<[u8; size_of::<Event>()], Event>(bytes) })
    }
}

/// Sizes of the keys and values that pinned maps must have.
pub(crate) const SIZES: [(&str, usize, usize); 14] = [
    (map::SERVICES, size_of::<ServiceKey>(), size_of::<Service>()),
    (map::SLOTS, size_of::<SlotKey>(), 4),
    (map::BACKENDS, 4, size_of::<Backend>()),
    (map::SERVICE_COUNTERS, 4, size_of::<ServiceCounters>()),
    (map::SOCKETS, size_of::<SocketKey>(), size_of::<Frontend>()),
    (map::FLOWS, size_of::<FlowKey>(), size_of::<Flow>()),
    (map::LOCAL_PODS, size_of::<Addr>(), size_of::<LocalPod>()),
    (map::PEERS, 4 + size_of::<Addr>(), size_of::<Peer>()),
    (map::NODE_ADDRESSES, size_of::<Addr>(), 4),
    (map::LB_ADDRESSES, size_of::<Addr>(), 4),
    (map::IDENTITIES, size_of::<Addr>(), 8),
    (map::BLOCKS, 4 + size_of::<Addr>(), 8),
    (map::RULES, 4 + size_of::<RuleKey>(), 4),
    (map::CONNECTIONS, size_of::<FlowKey>(), size_of::<Connection>()),
];

fn failed<E: Into<MapError>>(map: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Map { map, source: Box::new(source.into()) }
}
