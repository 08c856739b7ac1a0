//! The maps, typed.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf};
use xebec_ebpf_layout::{
    Addr, Affinity, AffinityKey, Backend, Chunk, ChunkKey, Connection, DatagramKey, DatagramPorts, DropReason, Event,
    Flow, FlowKey, Frontend, LocalPod, MemberKey, Peer, RuleKey, Service, ServiceCounters, ServiceKey, SocketKey,
    SourceRange, Stream, map,
};

use crate::{Error, sys};

/// A hash map in the kernel.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    data: MapData,
    max_entries: u32,
    of: PhantomData<fn(K) -> V>,
}

/// Entries for one system call.
const BATCH: usize = 4_096;

impl<K: Pod, V: Pod> Table<K, V> {
    pub(crate) fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let (Map::HashMap(data) | Map::LruHashMap(data)) = map else { return Err(Error::Missing(name)) };
        let info = data.info().map_err(failed(name))?;
        if info.key_size() as usize != size_of::<K>() || info.value_size() as usize != size_of::<V>() {
            return Err(Error::Missing(name));
        }
        Ok(Self { name, max_entries: info.max_entries(), data, of: PhantomData })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn failed(&self, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => Error::Full { map: self.name, max_entries: self.max_entries },
            _ => Error::Entry { map: self.name, source },
        }
    }

    /// The same map once more.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let fd = self.fd().try_clone_to_owned().map_err(|e| self.failed(e))?;
        let data = MapData::from_fd(fd).map_err(failed(self.name))?;
        Ok(Self { name: self.name, data, max_entries: self.max_entries, of: PhantomData })
    }

    /// How many entries there is room for.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// The value at `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        sys::lookup(self.fd(), key).map_err(|e| self.failed(e))
    }

    /// Adds or replaces, in one step for readers.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), Error> {
        sys::insert(self.fd(), key, value).map_err(|e| self.failed(e))
    }

    /// Adds or replaces all of these, each in one step for readers.
    pub fn insert_all(&mut self, entries: &[(K, V)]) -> Result<(), Error> {
        if let [(key, value)] = entries {
            return self.insert(key, value);
        }
        for some in entries.chunks(BATCH) {
            let (keys, values): (Vec<K>, Vec<V>) = some.iter().copied().unzip();
            sys::insert_all(self.fd(), &keys, &values).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// Removes; a key that is not there is no error.
    pub fn remove(&mut self, key: &K) -> Result<(), Error> {
        match sys::remove(self.fd(), key) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    /// Removes all of these; keys that are not there are no error.
    pub fn remove_all(&mut self, mut keys: &[K]) -> Result<(), Error> {
        while !keys.is_empty() {
            let some = keys.len().min(BATCH);
            let done = sys::remove_all(self.fd(), &keys[..some]).map_err(|e| self.failed(e))?;
            // The batch ended at one that is not there.
            keys = &keys[(done + usize::from(done < some)).min(keys.len())..];
        }
        Ok(())
    }

    /// How many entries there are; those that come or go meanwhile may be counted or not.
    pub fn count(&self) -> Result<usize, Error> {
        let mut count = 0;
        let mut place = None;
        loop {
            let (some, more) = sys::read::<K, V>(self.fd(), &mut place, BATCH).map_err(|e| self.failed(e))?;
            count += some.len();
            if !more {
                return Ok(count);
            }
        }
    }

    /// All entries, in no order; those that come or go meanwhile may be missed.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let mut all = Vec::new();
        let mut place = None;
        loop {
            let (some, more) = sys::read(self.fd(), &mut place, BATCH).map_err(|e| self.failed(e))?;
            all.extend(some);
            if !more {
                return Ok(all);
            }
        }
    }
}

/// A key, mostly an address, and how many of its bits count.
pub type Prefix<K = Addr> = (K, u32);

/// A map of prefixes in the kernel, mostly of addresses; the longest that matches counts.
#[derive(Debug)]
pub struct Prefixes<V, K = Addr> {
    name: &'static str,
    max_entries: u32,
    inner: LpmTrie<MapData, K, V>,
}

impl<V: Pod, K: Pod> Prefixes<V, K> {
    fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let max_entries = match &map {
            Map::LpmTrie(data) => data.info().map_err(failed(name))?.max_entries(),
            _ => 0,
        };
        let inner = LpmTrie::try_from(map).map_err(failed(name))?;
        Ok(Self { name, max_entries, inner })
    }

    /// Adds or replaces. `length` counts bits of the 16 bytes of an address: an IPv4 prefix's is 96 more.
    pub fn insert(&mut self, addr: K, length: u32, value: &V) -> Result<(), Error> {
        self.inner.insert(&Key::new(length, addr), value, 0).map_err(|error| match error {
            MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::ENOSPC) => {
                Error::Full { map: self.name, max_entries: self.max_entries }
            }
            error => failed(self.name)(error),
        })
    }

    /// Removes; a prefix that is not there is no error.
    pub fn remove(&mut self, addr: K, length: u32) -> Result<(), Error> {
        match self.inner.remove(&Key::new(length, addr)) {
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

/// Counters that each CPU has its own of.
pub struct Counters {
    name: &'static str,
    inner: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(crate) fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        Ok(Self { name, inner: PerCpuArray::try_from(map).map_err(failed(name))? })
    }

    /// The sum over all CPUs.
    pub fn sum(&self, index: u32) -> Result<u64, Error> {
        let values = self.inner.get(&index, 0).map_err(failed(self.name))?;
        Ok(values.iter().sum())
    }
}

/// One number in the kernel.
pub struct Counter {
    name: &'static str,
    inner: Array<MapData, u32>,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Counter").field(&self.name).finish()
    }
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
    pub slots: Table<ChunkKey, Chunk>,
    pub members: Table<MemberKey, u32>,
    pub affinity: Table<AffinityKey, Affinity>,
    pub source_ranges: Prefixes<u32, SourceRange>,
    pub backends: Table<u32, Backend>,
    pub service_counters: Table<u32, ServiceCounters>,
    pub sockets: Table<SocketKey, Frontend>,
    /// See [`map::STREAMS`].
    pub streams: Table<u64, Stream>,
    pub flows: Table<FlowKey, Flow>,
    pub flow_counters: Counters,
    pub datagrams: Table<DatagramKey, DatagramPorts>,
    pub local_pods: Table<Addr, LocalPod>,
    pub peers: Prefixes<Peer>,
    pub node_addresses: Table<Addr, u32>,
    pub lb_addresses: Table<Addr, u32>,
    /// Load balancer addresses that have moved here: the way to who had them.
    pub former_owners: Table<Addr, Addr>,
    pub identities: Table<Addr, [u32; 2]>,
    pub blocks: Prefixes<[u32; 2]>,
    pub rules: Prefixes<u32, RuleKey>,
    pub connections: Table<FlowKey, Connection>,
    pub revision: Counter,
    pub own_ports: Counter,
    pub watched: Counter,
    drops: PerCpuArray<MapData, u64>,
    pub events: Events,
}

/// The ring of events. What one reader has read, no other sees.
pub struct Events(RingBuf<MapData>);

impl Events {
    /// The next event, if there is one.
    #[expect(clippy::should_implement_trait, reason = "more may come after there is none")]
    pub fn next(&mut self) -> Option<Event> {
        let item = self.0.next()?;
        let bytes: [u8; size_of::<Event>()] = item.get(..size_of::<Event>())?.try_into().ok()?;
        // SAFETY: Event is plain data: every bit pattern of its size is one.
        Some(unsafe { std::mem::transmute::<[u8; size_of::<Event>()], Event>(bytes) })
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Maps {
    /// How many entries there are in each of the maps whose entries stand for something that there is, an object or an open
    /// connection, and go with it.
    pub fn entries_by_map(&self) -> Result<Vec<(&'static str, usize)>, Error> {
        use xebec_ebpf_layout::map as names;
        Ok(vec![
            (names::SERVICES, self.services.count()?),
            (names::SLOTS, self.slots.count()?),
            (names::MEMBERS, self.members.count()?),
            (names::SOURCE_RANGES, self.source_ranges.entries()?.len()),
            (names::BACKENDS, self.backends.count()?),
            (names::SERVICE_COUNTERS, self.service_counters.count()?),
            (names::STREAMS, self.streams.count()?),
            (names::LOCAL_PODS, self.local_pods.count()?),
            (names::PEERS, self.peers.entries()?.len()),
            (names::NODE_ADDRESSES, self.node_addresses.count()?),
            (names::LB_ADDRESSES, self.lb_addresses.count()?),
            (names::FORMER_OWNERS, self.former_owners.count()?),
            (names::IDENTITIES, self.identities.count()?),
            (names::BLOCKS, self.blocks.entries()?.len()),
            (names::RULES, self.rules.entries()?.len()),
        ])
    }

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
            members: Table::new(names::MEMBERS, map(names::MEMBERS)?)?,
            affinity: Table::new(names::AFFINITY, map(names::AFFINITY)?)?,
            source_ranges: Prefixes::new(names::SOURCE_RANGES, map(names::SOURCE_RANGES)?)?,
            backends: Table::new(names::BACKENDS, map(names::BACKENDS)?)?,
            service_counters: Table::new(names::SERVICE_COUNTERS, map(names::SERVICE_COUNTERS)?)?,
            sockets: Table::new(names::SOCKETS, map(names::SOCKETS)?)?,
            streams: Table::new(names::STREAMS, map(names::STREAMS)?)?,
            flows: Table::new(names::FLOWS, map(names::FLOWS)?)?,
            flow_counters: Counters::new(names::FLOW_COUNTERS, map(names::FLOW_COUNTERS)?)?,
            datagrams: Table::new(names::DATAGRAMS, map(names::DATAGRAMS)?)?,
            local_pods: Table::new(names::LOCAL_PODS, map(names::LOCAL_PODS)?)?,
            peers: Prefixes::new(names::PEERS, map(names::PEERS)?)?,
            node_addresses: Table::new(names::NODE_ADDRESSES, map(names::NODE_ADDRESSES)?)?,
            lb_addresses: Table::new(names::LB_ADDRESSES, map(names::LB_ADDRESSES)?)?,
            former_owners: Table::new(names::FORMER_OWNERS, map(names::FORMER_OWNERS)?)?,
            identities: Table::new(names::IDENTITIES, map(names::IDENTITIES)?)?,
            blocks: Prefixes::new(names::BLOCKS, map(names::BLOCKS)?)?,
            rules: Prefixes::new(names::RULES, map(names::RULES)?)?,
            connections: Table::new(names::CONNECTIONS, map(names::CONNECTIONS)?)?,
            revision: Counter::new(names::REVISION, map(names::REVISION)?)?,
            drops: PerCpuArray::try_from(map(names::DROPS)?).map_err(failed(names::DROPS))?,
            own_ports: Counter::new(names::OWN_PORTS, map(names::OWN_PORTS)?)?,
            watched: Counter::new(names::WATCHED, map(names::WATCHED)?)?,
            events: Events(RingBuf::try_from(map(names::EVENTS)?).map_err(failed(names::EVENTS))?),
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
}

/// Sizes of the keys and values that pinned maps must have.
pub(crate) const SIZES: [(&str, usize, usize); 20] = [
    (map::SERVICES, size_of::<ServiceKey>(), size_of::<Service>()),
    (map::SLOTS, size_of::<ChunkKey>(), size_of::<Chunk>()),
    (map::MEMBERS, size_of::<MemberKey>(), 4),
    (map::AFFINITY, size_of::<AffinityKey>(), size_of::<Affinity>()),
    (map::SOURCE_RANGES, 4 + size_of::<SourceRange>(), 4),
    (map::DATAGRAMS, size_of::<DatagramKey>(), size_of::<DatagramPorts>()),
    (map::BACKENDS, 4, size_of::<Backend>()),
    (map::SERVICE_COUNTERS, 4, size_of::<ServiceCounters>()),
    (map::SOCKETS, size_of::<SocketKey>(), size_of::<Frontend>()),
    (map::STREAMS, 8, size_of::<Stream>()),
    (map::FLOWS, size_of::<FlowKey>(), size_of::<Flow>()),
    (map::LOCAL_PODS, size_of::<Addr>(), size_of::<LocalPod>()),
    (map::PEERS, 4 + size_of::<Addr>(), size_of::<Peer>()),
    (map::NODE_ADDRESSES, size_of::<Addr>(), 4),
    (map::LB_ADDRESSES, size_of::<Addr>(), 4),
    (map::FORMER_OWNERS, size_of::<Addr>(), size_of::<Addr>()),
    (map::IDENTITIES, size_of::<Addr>(), 8),
    (map::BLOCKS, 4 + size_of::<Addr>(), 8),
    (map::RULES, 4 + size_of::<RuleKey>(), 4),
    (map::CONNECTIONS, size_of::<FlowKey>(), size_of::<Connection>()),
];

fn failed<E: Into<MapError>>(map: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Map { map, source: Box::new(source.into()) }
}
