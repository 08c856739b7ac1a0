//! What services hold, on record: an `IPAddress` for each cluster address (KEP-1880) and a record of ours for each node
//! port, written and removed in the very transaction that writes or removes its service. So neither two services, each of
//! another server, can have the same, nor a service and whoever else wants an address for something (a gateway). And the
//! `ServiceCIDR`s that addresses may come from.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use xebec_clock::{Clock, Random};
use xebec_schema::resource::{PLAIN, Resource};
use xebec_store::{Condition, Operation as StoreOperation};

use super::range::AddressRange;
use super::{Owner, service};
use crate::admission::Rider;
use crate::cache::{self, entry};
use crate::json::{decode, list, strings, text};
use crate::reader::{Entry, Reader};

const GROUP: &str = "networking.k8s.io";
/// Where node ports are on record: no group that a definition can have, and served to nobody.
const PORTS: (&str, &str) = ("xebec", "nodeports");
/// The range that the cluster began with.
const DEFAULT_CIDR: &str = "kubernetes";

/// The ranges in which addresses are given out now: those the cluster began with, unless their object is being deleted,
/// and those of every ServiceCIDR that is ready. The first of a family is preferred.
pub(super) fn ranges(reader: &dyn Reader, configured: &[AddressRange]) -> Vec<AddressRange> {
    let cidrs: Vec<Value> = reader.list(GROUP, "servicecidrs", "").iter().map(|entry| decode(&entry.bytes)).collect();
    let is_leaving = |cidr: &Value| !text(cidr, "/metadata/deletionTimestamp").is_empty();
    let default_leaves = cidrs.iter().any(|cidr| text(cidr, "/metadata/name") == DEFAULT_CIDR && is_leaving(cidr));
    let mut out: Vec<AddressRange> = if default_leaves { Vec::new() } else { configured.to_vec() };
    for cidr in cidrs.iter().filter(|cidr| !is_leaving(cidr) && is_ready(cidr)) {
        for net in strings(cidr, "/spec/cidrs").iter().filter_map(|net| net.parse::<IpNet>().ok()) {
            if !out.iter().any(|known| known.cidr() == net.trunc()) {
                out.push(AddressRange::new(net));
            }
        }
    }
    out
}

fn is_ready(cidr: &Value) -> bool {
    list(cidr, "/status/conditions").iter().any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
}

/// How node ports' records are kept.
pub(super) fn port_row() -> Resource {
    let name = |text: &'static str| Cow::Borrowed(text);
    Resource {
        group: name(PORTS.0),
        version: name("v1"),
        kind: name("NodePort"),
        list_kind: name("NodePortList"),
        plural: name(PORTS.1),
        singular: name("nodeport"),
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        namespaced: false,
        verbs: Cow::Borrowed(&[]),
        subresources: Cow::Borrowed(&[]),
        schema: name(""),
        strategy: PLAIN,
        columns: &[],
        virtual_kind: false,
        custom: None,
    }
}

/// What only one service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    /// A cluster address.
    Address(IpAddr),
    /// A port on every node.
    Port(u16),
}

impl Thing {
    /// Everything that a service holds.
    pub(super) fn all_of(service: &Value) -> Vec<Self> {
        let addresses = if service::needs_addresses(service) { service::addresses(service) } else { Vec::new() };
        let mut out: Vec<Self> = addresses.into_iter().map(Self::Address).collect();
        for port in service::node_ports(service).into_iter().map(Self::Port) {
            // Two protocols may share one.
            if !out.contains(&port) {
                out.push(port);
            }
        }
        out
    }

    fn is_held_by(self, service: &Value) -> bool {
        match self {
            Self::Address(address) => service::addresses(service).contains(&address),
            Self::Port(port) => service::node_ports(service).contains(&port),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Port(port) => port.to_string(),
        }
    }

    fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Address(_) => (GROUP, "ipaddresses"),
            Self::Port(_) => PORTS,
        }
    }

    fn key(self) -> String {
        let (group, plural) = self.kind();
        format!("{}{group}/{plural}/{}", cache::ROOT, cache::key("", &self.name()))
    }

    /// Its record, if there is one.
    fn find(self, reader: &dyn Reader) -> Option<Arc<Entry>> {
        let (group, plural) = self.kind();
        reader.get(group, plural, "", &self.name())
    }

    /// Whether its record stands for something else than the service `owner`, or another service that has it.
    pub(super) fn is_taken(self, reader: &dyn Reader, owner: &Owner) -> bool {
        self.find(reader).is_some_and(|entry| self.holder(reader, &entry, owner) == Holder::Other)
    }

    fn holder(self, reader: &dyn Reader, entry: &Entry, owner: &Owner) -> Holder {
        let object = decode(&entry.bytes);
        let parent = |key: &str| text(&object, &format!("/spec/parentRef/{key}")).to_owned();
        if !parent("group").is_empty() || parent("resource") != "services" {
            return Holder::Other;
        }
        let parent = (parent("namespace"), parent("name"));
        if parent == *owner {
            return Holder::Owner;
        }
        let has = |entry: Arc<Entry>| self.is_held_by(&decode(&entry.bytes));
        match reader.get("", "services", &parent.0, &parent.1).is_some_and(has) {
            true => Holder::Other,
            false => Holder::Nobody,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Holder {
    /// The service itself.
    Owner,
    /// A service that is gone, or has it no more.
    Nobody,
    /// Something or somebody else.
    Other,
}

/// What records are made of.
pub(super) struct Maker<'a> {
    pub(super) reader: &'a dyn Reader,
    pub(super) clock: &'a Clock,
    pub(super) random: &'a Random,
}

impl Maker<'_> {
    /// What is written together with a service that held some things and is to hold others.
    ///
    /// # Errors
    ///
    /// What is somebody else's by now.
    pub(super) fn ride(&self, owner: &Owner, had: &[Thing], wanted: &[Thing]) -> Result<Rider, Vec<Thing>> {
        let (mut rider, mut lost) = (Rider::default(), Vec::new());
        for thing in wanted {
            let key = thing.key();
            match thing.find(self.reader) {
                None => rider.conditions.push(Condition::Absent(key.clone())),
                Some(entry) => match thing.holder(self.reader, &entry, owner) {
                    Holder::Owner => continue,
                    Holder::Nobody => rider.conditions.push(Condition::Unchanged(key.clone(), entry.revision)),
                    Holder::Other => {
                        lost.push(*thing);
                        continue;
                    }
                },
            }
            rider.operations.push(StoreOperation::Put(key, entry::encode(&self.record(*thing, owner))));
        }
        if !lost.is_empty() {
            return Err(lost);
        }
        for thing in had.iter().filter(|thing| !wanted.contains(thing)) {
            if let Some(entry) = thing.find(self.reader)
                && thing.holder(self.reader, &entry, owner) == Holder::Owner
            {
                rider.conditions.push(Condition::Unchanged(thing.key(), entry.revision));
                rider.operations.push(StoreOperation::Delete(thing.key()));
            }
        }
        Ok(rider)
    }

    fn record(&self, thing: Thing, owner: &Owner) -> Value {
        let mut record = json!({
            "metadata": {"name": thing.name(), "uid": self.random.uuid()},
            "spec": {"parentRef": {"resource": "services", "namespace": owner.0, "name": owner.1}},
        });
        if let Thing::Address(address) = thing {
            record["kind"] = "IPAddress".into();
            record["apiVersion"] = "networking.k8s.io/v1".into();
            record["metadata"]["generation"] = 1.into();
            record["metadata"]["creationTimestamp"] = self.clock.now_seconds().to_string().into();
            record["metadata"]["labels"] = json!({
                "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            });
        }
        record
    }
}
