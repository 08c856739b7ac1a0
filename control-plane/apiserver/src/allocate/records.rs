//! Addresses of services as objects (KEP-1880): an `IPAddress` for each cluster address, written and removed in the very
//! transaction that writes or removes its service, so that whoever else wants the address for something (a gateway) and
//! the service cannot both have it; and the `ServiceCIDR`s that addresses may come from.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use xebec_clock::{Clock, Random};
use xebec_schema::field::{Error as FieldError, Path};
use xebec_schema::status::Status;
use xebec_store::{Condition, Operation as StoreOperation};

use super::range::AddressRange;
use super::{Owner, service};
use crate::admission::Rider;
use crate::cache::{self, entry};
use crate::json::{decode, list, strings, text};
use crate::reader::{Entry, Reader};

const GROUP: &str = "networking.k8s.io";
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

/// Whether an address object stands for something else than the service `owner`, or another service that has it.
pub(super) fn is_taken(reader: &dyn Reader, address: IpAddr, owner: &Owner) -> bool {
    find(reader, address).is_some_and(|entry| holder(reader, &entry, address, owner) == Holder::Other)
}

#[derive(PartialEq, Eq)]
enum Holder {
    /// The service itself.
    Owner,
    /// A service that is gone, or has the address no more.
    Nobody,
    /// Something or somebody else.
    Other,
}

fn find(reader: &dyn Reader, address: IpAddr) -> Option<Arc<Entry>> {
    reader.get(GROUP, "ipaddresses", "", &address.to_string())
}

fn holder(reader: &dyn Reader, entry: &Entry, address: IpAddr, owner: &Owner) -> Holder {
    let object = decode(&entry.bytes);
    let parent = |key: &str| text(&object, &format!("/spec/parentRef/{key}")).to_owned();
    if !parent("group").is_empty() || parent("resource") != "services" {
        return Holder::Other;
    }
    let parent = (parent("namespace"), parent("name"));
    if parent == *owner {
        return Holder::Owner;
    }
    let has = |entry: Arc<Entry>| service::addresses(&decode(&entry.bytes)).contains(&address);
    match reader.get("", "services", &parent.0, &parent.1).is_some_and(has) {
        true => Holder::Other,
        false => Holder::Nobody,
    }
}

/// What address objects are made of.
pub(super) struct Maker<'a> {
    pub(super) reader: &'a dyn Reader,
    pub(super) clock: &'a Clock,
    pub(super) random: &'a Random,
}

impl Maker<'_> {
    /// What is written together with a service that had some addresses and is to have others.
    ///
    /// # Errors
    ///
    /// 422 if an address is somebody else's by now.
    pub(super) fn ride(&self, owner: &Owner, had: &[IpAddr], wanted: &[IpAddr]) -> Result<Rider, Status> {
        let mut rider = Rider::default();
        for address in wanted {
            let key = key(*address);
            match find(self.reader, *address) {
                None => rider.conditions.push(Condition::Absent(key.clone())),
                Some(entry) => match holder(self.reader, &entry, *address, owner) {
                    Holder::Owner => continue,
                    Holder::Nobody => rider.conditions.push(Condition::Unchanged(key.clone(), entry.revision)),
                    Holder::Other => {
                        let why = format!("failed to allocate IP {address}: provided IP is already allocated");
                        let path = Path::new("spec.clusterIPs");
                        let error = FieldError::invalid(path, vec![Value::from(address.to_string())], why);
                        return Err(Status::invalid("", "Service", &owner.1, &[error]));
                    }
                },
            }
            rider.operations.push(StoreOperation::Put(key, entry::encode(&self.object(*address, owner))));
        }
        for address in had.iter().filter(|address| !wanted.contains(address)) {
            if let Some(entry) = find(self.reader, *address)
                && holder(self.reader, &entry, *address, owner) == Holder::Owner
            {
                rider.conditions.push(Condition::Unchanged(key(*address), entry.revision));
                rider.operations.push(StoreOperation::Delete(key(*address)));
            }
        }
        Ok(rider)
    }

    fn object(&self, address: IpAddr, owner: &Owner) -> Value {
        json!({
            "metadata": {
                "name": address.to_string(),
                "uid": self.random.uuid(),
                "generation": 1,
                "creationTimestamp": self.clock.now_seconds().to_string(),
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                },
            },
            "kind": "IPAddress",
            "apiVersion": "networking.k8s.io/v1",
            "spec": {"parentRef": {"resource": "services", "namespace": owner.0, "name": owner.1}},
        })
    }
}

fn key(address: IpAddr) -> String {
    format!("{}{GROUP}/ipaddresses/{}", cache::ROOT, cache::key("", &address.to_string()))
}
