//! Carries plans out on the maps in the kernel.

use xebec_ebpf_loader::layout::{
    Addr, Backend, Chunk, ChunkKey, Config, MemberKey, Port, Service, ServiceCounters, ServiceKey, SourceRange,
    own_ports,
};
use xebec_ebpf_loader::{Counter, Error, Prefixes, Table};

use super::model::{Contents, Plan};

/// The maps that the proxy writes.
#[derive(Debug)]
#[expect(missing_docs, reason = "the maps by their names, documented in the layout crate")]
pub struct ServiceMaps {
    pub services: Table<ServiceKey, Service>,
    pub slots: Table<ChunkKey, Chunk>,
    pub members: Table<MemberKey, u32>,
    pub source_ranges: Prefixes<u32, SourceRange>,
    pub backends: Table<u32, Backend>,
    pub service_counters: Table<u32, ServiceCounters>,
    pub own_ports: OwnPorts,
}

/// Whether services may have ports of those that the node's own sockets are given.
#[derive(Debug)]
pub struct OwnPorts {
    /// The node's IPv4 address.
    node: Addr,
    /// First and last of the ports.
    ports: [u16; 2],
    /// What the programs know of it: one of [`own_ports`].
    state: Counter,
}

impl OwnPorts {
    /// As programs with this configuration see it; `state` is what they read.
    pub fn new(programs: &Config, state: Counter) -> Self {
        Self { node: programs.node, ports: programs.own_ports, state }
    }

    /// These are served, or are going to be.
    fn see(&mut self, services: &[(ServiceKey, Service)], backends: &[(u32, Backend)]) -> Result<(), Error> {
        let frontends = services.iter().map(|(key, _)| (key.addr, key.port));
        let mut all = frontends.chain(backends.iter().map(|(_, backend)| (backend.addr, backend.port)));
        let shared = all.any(|(addr, port)| self.has(addr, port));
        if shared && self.state.get()? != own_ports::SHARED {
            self.state.set(own_ports::SHARED)?;
        }
        Ok(())
    }

    fn has(&self, addr: Addr, port: Port) -> bool {
        let [first, last] = self.ports;
        addr == self.node && (first..=last).contains(&port.get())
    }

    /// All that is served has been seen.
    fn seen_all(&mut self) -> Result<(), Error> {
        if self.state.get()? == own_ports::UNKNOWN {
            self.state.set(own_ports::UNSHARED)?;
        }
        Ok(())
    }
}

/// The value of maps that are sets of keys.
const PRESENT: u32 = 1;

impl ServiceMaps {
    /// Everything they hold.
    pub fn contents(&mut self) -> Result<Contents, Error> {
        let contents = Contents {
            services: self.services.entries()?,
            chunks: self.slots.entries()?,
            members: self.members.entries()?.into_iter().map(|(key, _)| key).collect(),
            ranges: self.source_ranges.entries()?.into_iter().map(|(prefix, _)| prefix).collect(),
            backends: self.backends.entries()?,
            counters: self.service_counters.entries()?.into_iter().map(|(id, _)| id).collect(),
        };
        self.own_ports.see(&contents.services, &contents.backends)?;
        Ok(contents)
    }

    /// They hold all that is wanted.
    pub fn are_complete(&mut self) -> Result<(), Error> {
        self.own_ports.seen_all()
    }

    /// Carries out a plan.
    pub fn carry_out(&mut self, plan: &Plan) -> Result<(), Error> {
        self.own_ports.see(&plan.put_services, &plan.put_backends)?;
        self.backends.insert_all(&plan.put_backends)?;
        let members: Vec<_> = plan.put_members.iter().map(|key| (*key, PRESENT)).collect();
        self.members.insert_all(&members)?;
        self.slots.insert_all(&plan.put_chunks)?;
        for (range, length) in &plan.put_ranges {
            self.source_ranges.insert(*range, *length, &PRESENT)?;
        }
        let counters: Vec<_> = plan.put_counters.iter().map(|id| (*id, ServiceCounters::default())).collect();
        self.service_counters.insert_all(&counters)?;
        self.services.insert_all(&plan.put_services)?;
        self.services.remove_all(&plan.remove_services)?;
        self.service_counters.remove_all(&plan.remove_counters)?;
        for (range, length) in &plan.remove_ranges {
            self.source_ranges.remove(*range, *length)?;
        }
        self.slots.remove_all(&plan.remove_chunks)?;
        self.members.remove_all(&plan.remove_members)?;
        self.backends.remove_all(&plan.remove_backends)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use xebec_ebpf_loader::Datapath;
    use xebec_ebpf_loader::layout::{SCOPE_EXTERNAL, proto};

    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 11);

    fn service(addr: Ipv4Addr, port: u16) -> (ServiceKey, Service) {
        let key = ServiceKey { addr: addr.into(), port: Port::new(port), proto: proto::TCP, scope: SCOPE_EXTERNAL };
        (key, Service { id: 1, set: 1, count: 0, flags: 0, affinity_timeout_s: 0 })
    }

    fn backend(addr: Ipv4Addr, port: u16) -> (u32, Backend) {
        (1, Backend { addr: addr.into(), port: Port::new(port), padding: 0 })
    }

    fn world() -> OwnPorts {
        let config = Config { node: NODE.into(), own_ports: [32_768, 60_999], ..Config::ZERO };
        let (_, maps) = Datapath::load_unpinned(&config).unwrap();
        OwnPorts::new(&config, maps.own_ports)
    }

    #[test]
    fn ports_are_shared_from_the_first_service_that_has_one() {
        let elsewhere = Ipv4Addr::new(172, 30, 0, 12);
        let mut own = world();
        own.see(&[service(NODE, 8_080), service(elsewhere, 40_000)], &[backend(elsewhere, 40_000)]).unwrap();
        assert_eq!(own.state.get().unwrap(), own_ports::UNKNOWN);
        own.seen_all().unwrap();
        assert_eq!(own.state.get().unwrap(), own_ports::UNSHARED);
        own.see(&[], &[backend(NODE, 40_000)]).unwrap();
        assert_eq!(own.state.get().unwrap(), own_ports::SHARED);
        // Connections to it may be open long after it is gone.
        own.see(&[], &[]).unwrap();
        own.seen_all().unwrap();
        assert_eq!(own.state.get().unwrap(), own_ports::SHARED);
        let mut own = world();
        own.see(&[service(NODE, 60_999)], &[]).unwrap();
        own.seen_all().unwrap();
        assert_eq!(own.state.get().unwrap(), own_ports::SHARED);
    }
}
