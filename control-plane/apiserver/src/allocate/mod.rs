//! Addresses and node ports of services (upstream `pkg/registry/core/service/storage/alloc.go`).
//!
//! The allocator is an admission plugin, the last to change a service. What it gives out is held for its service until
//! that is seen stored, or for a while; by then the write has failed and it is free again. So nothing is to be undone
//! when a write fails, nor on deletion: what looks taken is looked up in the store, and if no service there has it, it is
//! free. What another server gave out at the same time is found when the service is to be stored ([`records`]): then
//! another address or port is chosen, unless this very one was asked for.

mod families;
mod held;
mod range;
mod records;
mod service;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::Value;
use xebec_clock::{Clock, Random};
use xebec_schema::field::Error as FieldError;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;

use self::held::Held;
use self::range::{AddressRange, PortRange};
use self::records::Thing;
use crate::admission::{Operation, Plugin, Review, Rider};
use crate::json::{decode, list, text};
use crate::reader::Reader;

/// How often another address or port is chosen when other servers give out the same.
const CHOICES: usize = 64;
/// How long a service may take from admission to the store.
const PENDING: Duration = Duration::from_secs(15);

/// Gives addresses and ports to services.
pub struct ServiceAllocator {
    reader: Arc<dyn Reader>,
    clock: Clock,
    random: Random,
    /// What the cluster was started with. The first is of the family that services have if they do not say.
    addresses: Vec<AddressRange>,
    ports: PortRange,
    state: Mutex<State>,
}

/// What is given out.
#[derive(Default)]
struct State {
    /// What is stored has been read.
    loaded: bool,
    addresses: Held<IpAddr>,
    ports: Held<u16>,
}

/// Namespace and name.
type Owner = (String, String);

impl ServiceAllocator {
    /// `service_cidrs`: one of a family, or one of each, the preferred one first. `node_ports`: first and last.
    pub fn new(
        reader: Arc<dyn Reader>,
        (clock, random): (Clock, Random),
        service_cidrs: &[IpNet],
        node_ports: (u16, u16),
    ) -> Self {
        Self {
            reader,
            clock,
            random,
            addresses: service_cidrs.iter().map(|cidr| AddressRange::new(*cidr)).collect(),
            ports: PortRange::new(node_ports),
            state: Mutex::default(),
        }
    }

    /// Gives `service` what it needs and does not have, and checks what it asks for. With `dry_run` nothing is held.
    fn allocate(&self, service: &mut Value, old: Option<&Value>, owner: &Owner, dry_run: bool) -> Result<(), Failure> {
        let mut state = self.state.lock();
        if !state.loaded {
            state.load(&*self.reader);
        }
        let mut trial = Trial { allocator: self, state: &mut state, owner, taken: Vec::new(), ports: Vec::new() };
        let result = trial.addresses(service, old).and_then(|()| trial.ports(service));
        let (addresses, ports) = (trial.taken, trial.ports);
        if dry_run || result.is_err() {
            for address in addresses {
                state.addresses.release(address);
            }
            for port in ports {
                state.ports.release(port);
            }
        }
        result
    }

    /// Lets go of what somebody else has. Whether it was chosen here, so that another will do.
    fn give_up(&self, lost: Thing) -> bool {
        let mut state = self.state.lock();
        match lost {
            Thing::Address(address) => {
                let chosen = state.addresses.was_chosen(&address);
                state.addresses.release(address);
                chosen
            }
            Thing::Port(port) => {
                let chosen = state.ports.was_chosen(&port);
                state.ports.release(port);
                chosen
            }
        }
    }
}

/// How nodes' ports are kept that services hold.
pub(crate) fn records_row() -> Arc<Resource> {
    Arc::new(records::port_row())
}

/// Why a service cannot have what it needs.
enum Failure {
    /// It asks for what it cannot have.
    Fields(Vec<FieldError>),
    /// There is nothing left.
    Full(String),
}

impl Failure {
    fn status(self, service: &Value, name: &str) -> Status {
        match self {
            Self::Fields(errors) => {
                let name = if name.is_empty() { text(service, "/metadata/generateName") } else { name };
                Status::invalid("", "Service", name, &errors)
            }
            Self::Full(why) => Status::internal(why),
        }
    }
}

impl State {
    /// `service` is stored, with what it has.
    fn settle(&mut self, service: &Value, owner: &Owner) {
        for address in service::addresses(service) {
            self.addresses.settle(&address, owner);
        }
        for port in service::node_ports(service) {
            self.ports.settle(&port, owner);
        }
    }

    fn load(&mut self, reader: &dyn Reader) {
        for entry in reader.list("", "services", "") {
            let service = decode(&entry.bytes);
            let owner = (entry.namespace.to_string(), entry.name.to_string());
            for address in service::addresses(&service) {
                self.addresses.keep(address, &owner);
            }
            for port in service::node_ports(&service) {
                self.ports.keep(port, &owner);
            }
        }
        self.loaded = true;
    }
}

/// One service's allocation: what it has taken so far, in case it must be given back.
struct Trial<'a> {
    allocator: &'a ServiceAllocator,
    state: &'a mut State,
    owner: &'a Owner,
    taken: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Trial<'_> {
    /// Whether a stored service of another owner has it.
    fn is_stored(&self, holder: &Owner, has: impl Fn(&Value) -> bool) -> bool {
        let reader = &self.allocator.reader;
        let holds = |bytes: &[u8]| has(&decode(bytes));
        if reader.get("", "services", &holder.0, &holder.1).is_some_and(|entry| holds(&entry.bytes)) {
            return true;
        }
        // A generated name was not known when the service was admitted.
        reader.list("", "services", "").iter().any(|entry| {
            (&*entry.namespace, &*entry.name) != (self.owner.0.as_str(), self.owner.1.as_str()) && holds(&entry.bytes)
        })
    }

    /// Whether the service has the address already, in the store.
    fn has(&self, address: IpAddr) -> bool {
        let entry = self.allocator.reader.get("", "services", &self.owner.0, &self.owner.1);
        entry.is_some_and(|entry| service::addresses(&decode(&entry.bytes)).contains(&address))
    }

    /// Takes the address, unless somebody else has it. `chosen`: the service asks for any.
    fn take_address(&mut self, address: IpAddr, chosen: bool) -> bool {
        if let Some(holder) = self.state.addresses.other(&address, self.owner)
            && (holder.is_pending() || self.is_stored(&holder.owner, |s| service::addresses(s).contains(&address)))
        {
            return false;
        }
        if Thing::Address(address).is_taken(&*self.allocator.reader, self.owner) {
            return false;
        }
        if self.state.addresses.take(address, self.owner, chosen) {
            self.taken.push(address);
        }
        true
    }

    fn take_port(&mut self, port: u16, chosen: bool) -> bool {
        if let Some(holder) = self.state.ports.other(&port, self.owner)
            && (holder.is_pending() || self.is_stored(&holder.owner, |s| service::node_ports(s).contains(&port)))
        {
            return false;
        }
        if Thing::Port(port).is_taken(&*self.allocator.reader, self.owner) {
            return false;
        }
        if self.state.ports.take(port, self.owner, chosen) {
            self.ports.push(port);
        }
        true
    }

    fn addresses(&mut self, service: &mut Value, old: Option<&Value>) -> Result<(), Failure> {
        let families = families::settle(service, old, &self.allocator.addresses).map_err(Failure::Fields)?;
        if !service::needs_addresses(service) {
            return Ok(());
        }
        let asked = service::addresses(service);
        let mut given = Vec::new();
        let ranges = records::ranges(&*self.allocator.reader, &self.allocator.addresses);
        for family in families {
            let is_ipv4 = family == "IPv4";
            let ranges: Vec<&AddressRange> = ranges.iter().filter(|r| r.is_ipv4() == is_ipv4).collect();
            let configured = self.allocator.addresses.iter().any(|r| r.is_ipv4() == is_ipv4);
            let address = match asked.iter().find(|a| a.is_ipv4() == is_ipv4) {
                Some(address) if configured => self.asked_address(&ranges, *address)?,
                // Of a family that the cluster had once.
                Some(address) => *address,
                None if configured => self.any_address(&ranges)?,
                None => continue,
            };
            given.push(address);
        }
        service::set_addresses(service, &given);
        Ok(())
    }

    fn asked_address(&mut self, ranges: &[&AddressRange], address: IpAddr) -> Result<IpAddr, Failure> {
        let problem = if self.has(address) {
            // What a service has it keeps, though its range may be on its way out.
            return Ok(address);
        } else if !ranges.iter().any(|range| range.contains(address)) {
            match ranges.iter().map(|range| range.cidr()).find(|cidr| cidr.contains(&address)) {
                Some(cidr) => {
                    format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {cidr}")
                }
                None => "the provided network does not match the current range".to_owned(),
            }
        } else if !self.take_address(address, false) {
            return Err(Failure::Fields(vec![address_taken(address)]));
        } else {
            return Ok(address);
        };
        let why = format!("failed to allocate IP {address}: {problem}");
        let path = xebec_schema::field::Path::new("spec.clusterIPs");
        Err(Failure::Fields(vec![FieldError::invalid(path, vec![Value::from(address.to_string())], why)]))
    }

    /// A free address; from the upper part of the range if there is one, so that the lower stays for those who choose
    /// (KEP-3070).
    fn any_address(&mut self, ranges: &[&AddressRange]) -> Result<IpAddr, Failure> {
        let random = &self.allocator.random;
        for candidate in ranges.iter().flat_map(|range| range.candidates(random)) {
            if self.state.addresses.is_free(&candidate) && self.take_address(candidate, true) {
                return Ok(candidate);
            }
        }
        // All are given out; some of them may be held for nobody.
        for candidate in ranges.iter().flat_map(|range| range.candidates(random)) {
            if self.take_address(candidate, true) {
                return Ok(candidate);
            }
        }
        Err(Failure::Full("failed to allocate a serviceIP: range is full".into()))
    }

    fn any_port(&mut self) -> Result<u16, Failure> {
        for candidate in self.allocator.ports.candidates(&self.allocator.random) {
            if self.state.ports.is_free(&candidate) && self.take_port(candidate, true) {
                return Ok(candidate);
            }
        }
        for candidate in self.allocator.ports.candidates(&self.allocator.random) {
            if self.take_port(candidate, true) {
                return Ok(candidate);
            }
        }
        Err(Failure::Full("failed to allocate a nodePort: range is full".into()))
    }

    fn asked_port(&mut self, path: String, port: i64) -> Result<u16, Failure> {
        let error = |detail: String| {
            Failure::Fields(vec![FieldError::invalid(xebec_schema::field::Path::new(path), port, detail)])
        };
        let range = &self.allocator.ports;
        let Some(port) = u16::try_from(port).ok().filter(|p| range.contains(*p)) else {
            return Err(error(format!("provided port is not in the valid range. The range of valid ports is {range}")));
        };
        if !self.take_port(port, false) {
            return Err(error("provided port is already allocated".into()));
        }
        Ok(port)
    }

    fn ports(&mut self, service: &mut Value) -> Result<(), Failure> {
        if service::needs_node_ports(service) {
            for index in 0..service::ports(service) {
                let asked = service::node_port(service, index);
                let given = match asked {
                    // The same port of another protocol gets the same node port: DNS by TCP and UDP.
                    0 => match service::sibling_node_port(service, index) {
                        Some(port) => port,
                        None => self.any_port()?,
                    },
                    port => self.asked_port(format!("spec.ports[{index}].nodePort"), port)?,
                };
                service::set_node_port(service, index, given);
            }
        }
        if service::needs_health_check_port(service) {
            let given = match service["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0) {
                0 => self.any_port()?,
                port => self.asked_port("spec.healthCheckNodePort".into(), port)?,
            };
            service["spec"]["healthCheckNodePort"] = given.into();
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for ServiceAllocator {
    fn name(&self) -> &'static str {
        "ServiceAllocation"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !review.resource.group.is_empty() || review.resource.plural != "services" {
            return Ok(());
        }
        let owner = (review.namespace.to_owned(), review.name.to_owned());
        if let Some(old) = review.old {
            self.state.lock().settle(old, &owner);
        }
        let asks = matches!(review.operation, Operation::Create | Operation::Update);
        if !asks || !review.subresource.is_empty() {
            return Ok(());
        }
        let Some(service) = review.object.as_mut().filter(|s| s.get("spec").is_some_and(Value::is_object)) else {
            return Ok(());
        };
        if let Some(old) = review.old {
            service::carry_over(service, old);
        }
        service::drop_unneeded(service, review.old);
        self.allocate(service, review.old, &owner, review.dry_run)
            .map_err(|failure| failure.status(service, review.name))
    }

    fn rides(&self) -> bool {
        true
    }

    async fn ride(&self, review: &mut Review<'_>) -> Result<Rider, Status> {
        let about = review.resource.group.is_empty() && review.resource.plural == "services";
        if !about || !review.subresource.is_empty() {
            return Ok(Rider::default());
        }
        let owner = (review.namespace.to_owned(), review.name.to_owned());
        let had = review.old.map(Thing::all_of).unwrap_or_default();
        let maker = records::Maker { reader: &*self.reader, clock: &self.clock, random: &self.random };
        for _ in 0..CHOICES {
            let wanted = match review.operation {
                Operation::Create | Operation::Update => review.object.as_ref().map(Thing::all_of).unwrap_or_default(),
                Operation::Delete | Operation::Connect => Vec::new(),
            };
            let lost = match maker.ride(&owner, &had, &wanted) {
                Ok(rider) => return Ok(rider),
                Err(lost) => lost,
            };
            let Some(service) = review.object.as_mut() else { return Ok(Rider::default()) };
            for thing in lost {
                if !self.give_up(thing) {
                    return Err(taken(thing, service, review.name));
                }
                service::forget(service, thing);
            }
            self.allocate(service, review.old, &owner, review.dry_run)
                .map_err(|failure| failure.status(service, review.name))?;
        }
        Err(Status::too_many_requests("what is chosen for the service keeps being taken; please try again", 1))
    }
}

/// 422 for what was asked for, and somebody else was faster.
fn taken(lost: Thing, service: &Value, name: &str) -> Status {
    let error = match lost {
        Thing::Address(address) => address_taken(address),
        Thing::Port(port) => {
            let mut ports = list(service, "/spec/ports").iter();
            let path = match ports.position(|p| p["nodePort"] == port) {
                Some(index) => format!("spec.ports[{index}].nodePort"),
                None => "spec.healthCheckNodePort".to_owned(),
            };
            FieldError::invalid(xebec_schema::field::Path::new(path), port, "provided port is already allocated")
        }
    };
    Status::invalid("", "Service", name, &[error])
}

fn address_taken(address: IpAddr) -> FieldError {
    let why = format!("failed to allocate IP {address}: provided IP is already allocated");
    FieldError::invalid(xebec_schema::field::Path::new("spec.clusterIPs"), vec![Value::from(address.to_string())], why)
}
