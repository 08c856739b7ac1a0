//! The names of services, and what they stand for: Kubernetes DNS-based service discovery, schema version 1.1.0.
//!
//! | name | records |
//! |---|---|
//! | `SVC.NS.svc.ZONE` | the cluster addresses; of a headless service, its ready endpoints' addresses |
//! | `HOST.SVC.NS.svc.ZONE` | that endpoint's address; without a hostname of its own it is `10-244-0-7` |
//! | `_PORT._PROTO.SVC.NS.svc.ZONE` | SRV, to the service or to each endpoint of a headless one |
//! | `7.0.244.10.in-addr.arpa` | PTR, of cluster addresses and of endpoints of headless services |
//! | `10-244-0-7.NS.pod.ZONE` | the address in the name |
//! | `dns-version.ZONE` | TXT `1.1.0` |
//!
//! A service of type ExternalName is a CNAME. A name that exists without records of the asked type is NODATA, a name
//! that does not exist is NXDOMAIN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use ipnet::IpNet;

#[cfg(test)]
mod tests;

/// How long a client may keep an answer: short, for endpoints come and go.
pub const TTL_S: u32 = 5;
const SCHEMA_VERSION: &str = "1.1.0";

/// A port of a service or of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// May be empty.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The number.
    pub number: u16,
}

/// What DNS needs to know of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIPs`; empty if headless.
    pub addresses: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// `spec.externalName`, for the type of that name.
    pub external_name: Option<String>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses (one family a slice).
    pub addresses: Vec<IpAddr>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// Whether it is served: `conditions.ready`, or unknown.
    pub ready: bool,
}

/// What DNS needs to know of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The service it belongs to: label `kubernetes.io/service-name`.
    pub service: String,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// `ports`.
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Slices may come before their service.
    service: Option<Service>,
    slices: BTreeMap<String, Slice>,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Records of the asked type, and others that the client will want next.
    Records {
        /// For the answer section.
        answers: Vec<Record>,
        /// For the additional section.
        additionals: Vec<Record>,
    },
    /// The name stands for one outside, which is to be resolved for the client: the CNAME, and its target.
    Alias(Box<Record>, Name),
    /// The name exists, without records of that type.
    NoData,
    /// The name does not exist.
    NotFound,
    /// The name is not ours to answer.
    Elsewhere,
}

/// All names of the cluster.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    /// Addresses whose reverse names are ours: the services' and the pods' ranges.
    networks: Vec<IpNet>,
    namespaces: BTreeMap<String, BTreeMap<String, Entry>>,
    /// The service of each slice, by namespace and name of the slice.
    slices: BTreeMap<(String, String), String>,
    /// Names of an address, for PTR.
    reverse: BTreeMap<IpAddr, Vec<Name>>,
    /// Counts changes: the zone's serial number.
    serial: u32,
}

impl Zone {
    /// An empty zone at `origin` (`cluster.local`).
    pub fn new(origin: &str, networks: Vec<IpNet>) -> Result<Self, hickory_proto::ProtoError> {
        let mut origin = Name::from_utf8(origin)?.to_lowercase();
        origin.set_fqdn(true);
        let (namespaces, slices, reverse) = Default::default();
        Ok(Self { origin, networks, namespaces, slices, reverse, serial: 1 })
    }

    /// Adds a service, or replaces what was known of it.
    pub fn set_service(&mut self, service: Service) {
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        self.change(&namespace, &name, |entry| entry.service = Some(service));
    }

    /// Forgets a service.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        self.change(namespace, name, |entry| entry.service = None);
    }

    /// Adds a slice of endpoints, or replaces it.
    pub fn set_slice(&mut self, slice: Slice) {
        let (namespace, service) = (slice.namespace.clone(), slice.service.clone());
        let key = (namespace.clone(), slice.name.clone());
        if self.slices.get(&key).is_some_and(|before| *before != service) {
            self.remove_slice(&key.0, &key.1);
        }
        self.slices.insert(key, service.clone());
        self.change(&namespace, &service, |entry| {
            entry.slices.insert(slice.name.clone(), slice);
        });
    }

    /// Forgets a slice of endpoints.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) {
        if let Some(service) = self.slices.remove(&(namespace.to_owned(), name.to_owned())) {
            self.change(namespace, &service, |entry| {
                entry.slices.remove(name);
            });
        }
    }

    /// These are all services there are.
    pub fn replace_services(&mut self, services: Vec<Service>) {
        let known = self.namespaces.iter().flat_map(|(namespace, services)| {
            let named = services.iter().filter(|(_, entry)| entry.service.is_some());
            named.map(move |(name, _)| (namespace.clone(), name.clone()))
        });
        let keys: BTreeSet<_> = services.iter().map(|s| (s.namespace.clone(), s.name.clone())).collect();
        let stale: Vec<_> = known.filter(|key| !keys.contains(key)).collect();
        stale.iter().for_each(|(namespace, name)| self.remove_service(namespace, name));
        services.into_iter().for_each(|service| self.set_service(service));
    }

    /// These are all slices there are.
    pub fn replace_slices(&mut self, slices: Vec<Slice>) {
        let keys: BTreeSet<_> = slices.iter().map(|s| (s.namespace.clone(), s.name.clone())).collect();
        let stale: Vec<_> = self.slices.keys().filter(|key| !keys.contains(*key)).cloned().collect();
        stale.iter().for_each(|(namespace, name)| self.remove_slice(namespace, name));
        slices.into_iter().for_each(|slice| self.set_slice(slice));
    }

    /// Changes an entry and keeps the reverse names in step.
    fn change(&mut self, namespace: &str, name: &str, change: impl FnOnce(&mut Entry)) {
        let services = self.namespaces.entry(namespace.to_owned()).or_default();
        let mut entry = services.remove(name).unwrap_or_default();
        let origin = &self.origin;
        for (address, ptr) in entry.reverse_names(origin) {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.retain(|n| *n != ptr);
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        change(&mut entry);
        for (address, ptr) in entry.reverse_names(origin) {
            let names = self.reverse.entry(address).or_default();
            if !names.contains(&ptr) {
                names.push(ptr);
            }
        }
        if entry.service.is_some() || !entry.slices.is_empty() {
            services.insert(name.to_owned(), entry);
        } else if services.is_empty() {
            self.namespaces.remove(namespace);
        }
        self.serial = self.serial.wrapping_add(1);
    }

    /// The zone's own name.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The SOA record, for the authority section of negative answers.
    pub fn soa(&self) -> Record {
        let prefixed = |label: &str| self.origin.prepend_label(label).unwrap_or_else(|_| self.origin.clone());
        let ns = prefixed("dns").prepend_label("ns").unwrap_or_else(|_| self.origin.clone());
        let soa = SOA::new(ns, prefixed("hostmaster"), self.serial, 7200, 1800, 86400, TTL_S);
        Record::from_rdata(self.origin.clone(), TTL_S, RData::SOA(soa))
    }

    /// Looks a name up. `turn` chooses which of several addresses comes first.
    pub fn lookup(&self, name: &LowerName, kind: RecordType, turn: u64) -> Found {
        let name: &Name = name;
        if self.origin.zone_of(name) {
            let depth = name.num_labels() - self.origin.num_labels();
            let labels: Vec<_> =
                name.iter().take(usize::from(depth)).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
            let labels: Vec<_> = labels.iter().map(String::as_str).collect();
            return self.lookup_labels(name, &labels, kind, turn);
        }
        match name.parse_arpa_name().map(|net| net.addr()) {
            Ok(address) if is_whole(name, address) => self.lookup_reverse(name, address, kind),
            _ => Found::Elsewhere,
        }
    }

    fn lookup_reverse(&self, name: &Name, address: IpAddr, kind: RecordType) -> Found {
        match self.reverse.get(&address) {
            Some(names) if wants(kind, RecordType::PTR) => {
                let ptr = |target: &Name| Record::from_rdata(name.clone(), TTL_S, RData::PTR(PTR(target.clone())));
                Found::Records { answers: names.iter().map(ptr).collect(), additionals: Vec::new() }
            }
            Some(_) => Found::NoData,
            None if self.networks.iter().any(|net| net.contains(&address)) => Found::NotFound,
            None => Found::Elsewhere,
        }
    }

    /// `labels` are those left of the origin, in the order of the name.
    fn lookup_labels(&self, name: &Name, labels: &[&str], kind: RecordType, turn: u64) -> Found {
        match labels {
            [] => self.lookup_origin(name, kind),
            ["dns-version"] => {
                one(name, kind, RecordType::TXT, || RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()])))
            }
            ["svc"] | ["pod"] => Found::NoData,
            [namespace, "svc"] | [namespace, "pod"] => found_if(self.namespaces.contains_key(*namespace)),
            [pod, namespace, "pod"] => self.lookup_pod(name, pod, namespace, kind),
            [.., service, namespace, "svc"] => {
                match self.namespaces.get(*namespace).and_then(|services| services.get(*service)) {
                    Some(entry) => entry.lookup(name, &labels[..labels.len() - 3], kind, turn),
                    None => Found::NotFound,
                }
            }
            _ => Found::NotFound,
        }
    }

    fn lookup_origin(&self, name: &Name, kind: RecordType) -> Found {
        match kind {
            RecordType::SOA => Found::Records { answers: vec![self.soa()], additionals: Vec::new() },
            RecordType::NS => {
                let ns = self.origin.prepend_label("dns").and_then(|n| n.prepend_label("ns"));
                match ns {
                    Ok(ns) => one(name, kind, RecordType::NS, || RData::NS(NS(ns))),
                    Err(_) => Found::NoData,
                }
            }
            _ => Found::NoData,
        }
    }

    /// The address is in the name; only its form and its range are checked, as a pod comes and goes without DNS.
    fn lookup_pod(&self, name: &Name, pod: &str, namespace: &str, kind: RecordType) -> Found {
        let dotted = pod.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        let address = dotted.or_else(|_| pod.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        match address {
            Ok(address)
                if self.namespaces.contains_key(namespace) && self.networks.iter().any(|n| n.contains(&address)) =>
            {
                addresses(name, &[address], kind, 0)
            }
            _ => Found::NotFound,
        }
    }
}

impl Entry {
    fn is_headless(&self) -> bool {
        self.service.as_ref().is_some_and(|s| s.addresses.is_empty() && s.external_name.is_none())
    }

    fn ready(&self) -> impl Iterator<Item = (&Slice, &Endpoint)> {
        self.slices.values().flat_map(|s| s.endpoints.iter().map(move |e| (s, e))).filter(|(_, e)| e.ready)
    }

    /// The service's own name below `origin`.
    fn name(service: &Service, origin: &Name) -> Option<Name> {
        let mut name = origin.clone();
        for label in ["svc", &service.namespace, &service.name] {
            name = name.prepend_label(label).ok()?;
        }
        Some(name)
    }

    fn reverse_names(&self, origin: &Name) -> Vec<(IpAddr, Name)> {
        let Some(service) = &self.service else { return Vec::new() };
        let Some(name) = Self::name(service, origin) else { return Vec::new() };
        if !self.is_headless() {
            return service.addresses.iter().map(|a| (*a, name.clone())).collect();
        }
        self.ready()
            .flat_map(|(_, e)| e.addresses.iter().map(move |a| (*a, host_label(e, *a))))
            .filter_map(|(address, label)| Some((address, name.prepend_label(label).ok()?)))
            .collect()
    }

    /// `rest` is what stands left of the service's label.
    fn lookup(&self, name: &Name, rest: &[&str], kind: RecordType, turn: u64) -> Found {
        let Some(service) = &self.service else { return Found::NotFound };
        if let Some(target) = &service.external_name {
            return if rest.is_empty() { alias(name, target) } else { Found::NotFound };
        }
        match rest {
            [] if wants(kind, RecordType::SRV) => match self.services(name, name, service, |_| true) {
                // The name is there, without ports that have names.
                Found::NotFound => Found::NoData,
                found => found,
            },
            [] if self.is_headless() => {
                let all: Vec<_> = self.ready().flat_map(|(_, e)| e.addresses.iter().copied()).collect();
                addresses(name, &all, kind, turn)
            }
            [] => addresses(name, &service.addresses, kind, 0),
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let (port, protocol) = (&port[1..], &protocol[1..]);
                let base = name.base_name().base_name();
                let found = self.services(name, &base, service, |p| p.name == *port && p.protocol == *protocol);
                if wants(kind, RecordType::SRV) || found == Found::NotFound { found } else { Found::NoData }
            }
            // Nothing is at this name, but there are names below it (RFC 8020).
            [protocol] if protocol.starts_with('_') => {
                found_if(self.services(name, name, service, |p| p.protocol == protocol[1..]) != Found::NotFound)
            }
            [host] => {
                let endpoints = self.ready().flat_map(|(_, e)| e.addresses.iter().map(move |a| (e, *a)));
                let mut matching = Vec::new();
                matching.extend(endpoints.filter(|(e, a)| host_label(e, *a) == *host).map(|(_, a)| a));
                if matching.is_empty() { Found::NotFound } else { addresses(name, &matching, kind, turn) }
            }
            _ => Found::NotFound,
        }
    }

    /// SRV records at `name` for the ports with a name that `selected` picks; `base` is the service's own name.
    fn services(&self, name: &Name, base: &Name, service: &Service, selected: impl Fn(&Port) -> bool) -> Found {
        let selected = |port: &&Port| !port.name.is_empty() && selected(port);
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        let mut add = |port: u16, target: Name, addresses: &[IpAddr]| {
            let srv = SRV::new(0, 100, port, target.clone());
            answers.push(Record::from_rdata(name.clone(), TTL_S, RData::SRV(srv)));
            for address in addresses {
                let record = Record::from_rdata(target.clone(), TTL_S, address_data(*address));
                if !additionals.contains(&record) {
                    additionals.push(record);
                }
            }
        };
        if self.is_headless() {
            for (slice, endpoint) in self.ready() {
                for port in slice.ports.iter().filter(selected) {
                    for address in &endpoint.addresses {
                        if let Ok(target) = base.prepend_label(host_label(endpoint, *address)) {
                            add(port.number, target, &[*address]);
                        }
                    }
                }
            }
        } else {
            for port in service.ports.iter().filter(selected) {
                add(port.number, base.clone(), &service.addresses);
            }
        }
        match answers.is_empty() {
            true => Found::NotFound,
            false => Found::Records { answers, additionals },
        }
    }
}

/// The label of an endpoint below its service: its hostname, or its address with dashes.
fn host_label(endpoint: &Endpoint, address: IpAddr) -> String {
    match &endpoint.hostname {
        Some(hostname) => hostname.to_ascii_lowercase(),
        None => address.to_string().replace(['.', ':'], "-"),
    }
}

fn wants(asked: RecordType, kind: RecordType) -> bool {
    asked == kind
}

fn found_if(exists: bool) -> Found {
    if exists { Found::NoData } else { Found::NotFound }
}

fn one(name: &Name, asked: RecordType, kind: RecordType, data: impl FnOnce() -> RData) -> Found {
    if !wants(asked, kind) {
        return Found::NoData;
    }
    Found::Records { answers: vec![Record::from_rdata(name.clone(), TTL_S, data())], additionals: Vec::new() }
}

fn alias(name: &Name, target: &str) -> Found {
    match Name::from_utf8(target) {
        Ok(mut target) => {
            target.set_fqdn(true);
            let record = Record::from_rdata(name.clone(), TTL_S, RData::CNAME(CNAME(target.clone())));
            Found::Alias(Box::new(record), target)
        }
        Err(_) => Found::NoData,
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// Address records of the asked family, rotated by `turn` so that clients that take the first spread out.
fn addresses(name: &Name, all: &[IpAddr], asked: RecordType, turn: u64) -> Found {
    let mut family: Vec<_> = all
        .iter()
        .filter(|a| wants(asked, if a.is_ipv4() { RecordType::A } else { RecordType::AAAA }))
        .map(|a| Record::from_rdata(name.clone(), TTL_S, address_data(*a)))
        .collect();
    if family.is_empty() {
        return Found::NoData;
    }
    let first = turn % family.len() as u64;
    family.rotate_left(usize::try_from(first).unwrap_or(0));
    Found::Records { answers: family, additionals: Vec::new() }
}

/// Whether the reverse name is of the whole address, not of a network.
fn is_whole(name: &Name, address: IpAddr) -> bool {
    name.num_labels() == if address.is_ipv4() { 6 } else { 34 }
}
