//! What the kernel's maps hold for services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::{
    Backend, CONNECT_BUCKETS, Chunk, ChunkKey, ConnectTimes, SCOPE_CLUSTER, SLOTS_PER_CHUNK, Service, ServiceCounters,
    ServiceKey,
};
use xebec_ebpf_loader::{Error, Maps};

use super::flows::protocol;
use crate::proxy::desired::PortName;

/// Service ports by number.
pub(super) type Names = HashMap<u32, PortName>;

/// A frontend, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// Its address and port; `0.0.0.0` and `[::]` stand for any address of a node in their family.
    pub address: SocketAddr,
    /// `TCP`, ...
    pub protocol: String,
    /// `cluster` for clients inside, `external` for those that come in by the uplink.
    pub scope: String,
    /// The service port's number on this node.
    pub id: u32,
    /// Whose it is, if the agent knows yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<PortOf>,
    /// Its backends, each once; `None`: a slot of the set is not written, which would be an error of the agent's.
    pub backends: Vec<Option<SocketAddr>>,
    /// Seconds for which a client stays with its backend; 0 without session affinity.
    pub affinity_timeout_s: u32,
    /// Connections of this node's sockets.
    pub socket_connections: u64,
    /// Flows from outside.
    pub uplink_flows: u64,
    /// Clients that were refused for want of a backend.
    pub refused: u64,
    /// How long connections of this node's sockets took to be established.
    #[serde(default)]
    pub inside: Times,
    /// How long the answers to connections from outside took.
    #[serde(default)]
    pub outside: Times,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortOf {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// The port's name; empty if it has none.
    pub port: String,
}

/// How long connections took.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// All together, in microseconds.
    pub sum_us: u64,
    /// How many took up to 16 microseconds, up to 32, and so on; the last: longer than all others. Empty: none at all.
    pub buckets: Vec<u32>,
}

impl Times {
    fn new(times: &ConnectTimes) -> Self {
        let none = times.buckets.iter().all(|count| *count == 0);
        Self { sum_us: times.sum_us, buckets: if none { Vec::new() } else { times.buckets.to_vec() } }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|count| u64::from(*count)).sum()
    }

    /// The same in one.
    pub fn add(&mut self, other: &Self) {
        self.sum_us += other.sum_us;
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        for (own, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *own = own.saturating_add(*more);
        }
    }

    /// The microseconds within which `share` of them were done, as the buckets tell: their upper limit; none if there
    /// were none, or if it is beyond the last limit.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut sum = 0;
        let found = self.buckets.iter().position(|count| {
            sum += u64::from(*count);
            sum >= wanted.max(1)
        })?;
        (found < CONNECT_BUCKETS - 1).then(|| limit_us(found))
    }
}

/// The upper limit of a bucket, in microseconds.
pub(super) fn limit_us(bucket: usize) -> u64 {
    16 << bucket
}

/// Which frontends are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Which {
    namespace: Option<String>,
    name: Option<String>,
    /// Services after this one, by namespace and name.
    after: Option<(String, String)>,
    /// And up to this one.
    until: Option<(String, String)>,
}

impl Which {
    /// From a query's `namespace`, `name`, `after` and `until` (`NAMESPACE/NAME`); what is empty says nothing.
    pub(super) fn parse(query: &[(String, String)]) -> Self {
        let text = |key: &str| {
            let found = query.iter().find(|(name, value)| name == key && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        let key = |name: &str| {
            let key = text(name)?;
            let (namespace, name) = key.split_once('/')?;
            Some((namespace.to_owned(), name.to_owned()))
        };
        Self { namespace: text("namespace"), name: text("name"), after: key("after"), until: key("until") }
    }

    /// Whether the frontends of this service port are asked for. Those that have no name (yet) are where all are.
    fn selects(&self, port: Option<&PortName>) -> bool {
        let Some(port) = port else { return *self == Self::default() };
        let (namespace, name) = (&*port.service.namespace, &*port.service.name);
        let is = |wanted: &Option<String>, own: &str| wanted.as_ref().is_none_or(|wanted| wanted == own);
        let compare = |key: &(String, String)| (namespace, name).cmp(&(key.0.as_str(), key.1.as_str()));
        is(&self.namespace, namespace)
            && is(&self.name, name)
            && self.after.as_ref().is_none_or(|key| compare(key).is_gt())
            && self.until.as_ref().is_none_or(|key| compare(key).is_le())
    }
}

/// Reads those that are asked for, sorted.
pub(super) fn read(maps: &Maps, names: &Names, which: &Which) -> Result<Vec<Frontend>, Error> {
    let chunks: BTreeMap<ChunkKey, Chunk> = maps.slots.entries()?.into_iter().collect();
    let backends: BTreeMap<u32, Backend> = maps.backends.entries()?.into_iter().collect();
    let counters: BTreeMap<u32, ServiceCounters> = maps.service_counters.entries()?.into_iter().collect();
    let frontend = |(key, service): (ServiceKey, Service)| {
        let counters = counters.get(&service.id).copied().unwrap_or_default();
        Frontend {
            address: SocketAddr::new(key.addr.to_ip(), key.port.get()),
            protocol: protocol(key.proto),
            scope: if key.scope == SCOPE_CLUSTER { "cluster" } else { "external" }.to_owned(),
            id: service.id,
            of: names.get(&service.id).map(|name| PortOf {
                namespace: name.service.namespace.to_string(),
                service: name.service.name.to_string(),
                port: name.port.to_string(),
            }),
            backends: backends_of(&service, &chunks, &backends),
            affinity_timeout_s: service.affinity_timeout_s,
            socket_connections: counters.socket_connections,
            uplink_flows: counters.uplink_flows,
            refused: counters.refused,
            inside: Times::new(&counters.socket_times),
            outside: Times::new(&counters.uplink_times),
        }
    };
    let services = maps.services.entries()?.into_iter().filter(|(_, service)| which.selects(names.get(&service.id)));
    let mut all: Vec<Frontend> = services.map(frontend).collect();
    all.sort();
    Ok(all)
}

fn backends_of(
    service: &Service,
    chunks: &BTreeMap<ChunkKey, Chunk>,
    backends: &BTreeMap<u32, Backend>,
) -> Vec<Option<SocketAddr>> {
    let slot = |slot: u32| {
        let chunk = chunks.get(&ChunkKey { set: service.set, chunk: slot / SLOTS_PER_CHUNK })?;
        let backend = backends.get(&chunk.0[(slot % SLOTS_PER_CHUNK) as usize])?;
        Some(SocketAddr::new(backend.addr.to_ip(), backend.port.get()))
    };
    // With Maglev a backend has many slots.
    (0..service.count).map(slot).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::views::{ObjectName, Protocol};

    #[test]
    fn services_are_chosen_by_name_and_page() {
        let parse = |pairs: &[(&str, &str)]| {
            Which::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>())
        };
        let port = |namespace: &str, name: &str| PortName {
            service: ObjectName::new(namespace, name),
            port: "http".into(),
            protocol: Protocol::Tcp,
        };
        let all = [port("a", "x"), port("a", "y"), port("a-b", "x"), port("b", "x")];
        let chosen = |pairs: &[(&str, &str)]| -> Vec<String> {
            let which = parse(pairs);
            all.iter().filter(|port| which.selects(Some(port))).map(|port| port.service.to_string()).collect()
        };
        assert_eq!(chosen(&[("namespace", ""), ("until", "")]).len(), 4);
        assert_eq!(chosen(&[("namespace", "a")]), ["a/x", "a/y"]);
        assert_eq!(chosen(&[("namespace", "a"), ("name", "y")]), ["a/y"]);
        // By namespace first: `a-b` is after `a`, although `-` is before `/`.
        assert_eq!(chosen(&[("after", "a/x"), ("until", "a-b/x")]), ["a/y", "a-b/x"]);
        assert!(parse(&[]).selects(None) && !parse(&[("name", "x")]).selects(None));
    }

    #[test]
    fn quantiles_are_the_limits_of_buckets() {
        let mut times = Times::default();
        assert_eq!((times.count(), times.quantile_us(0.5)), (0, None));
        let mut kernel = ConnectTimes::default();
        (kernel.buckets[1], kernel.buckets[3]) = (99, 1);
        kernel.sum_us = 3_000;
        times.add(&Times::new(&kernel));
        assert_eq!((times.count(), times.sum_us), (100, 3_000));
        assert_eq!([0.5, 0.99, 1.0].map(|share| times.quantile_us(share)), [Some(32), Some(32), Some(128)]);
        let mut last = ConnectTimes::default();
        last.buckets[CONNECT_BUCKETS - 1] = 1_000;
        times.add(&Times::new(&last));
        assert_eq!(times.quantile_us(0.99), None);
    }
}
