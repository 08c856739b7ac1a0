//! Carries plans out on the maps in the kernel.

use xebec_ebpf_loader::layout::{Backend, Service, ServiceCounters, ServiceKey, SlotKey};
use xebec_ebpf_loader::{Error, Table};

use super::model::{Contents, Write};

/// The maps that the proxy writes.
#[derive(Debug)]
#[expect(missing_docs, reason = "the maps by their names, documented in the layout crate")]
pub struct ServiceMaps {
    pub services: Table<ServiceKey, Service>,
    pub slots: Table<SlotKey, u32>,
    pub backends: Table<u32, Backend>,
    pub service_counters: Table<u32, ServiceCounters>,
}

impl ServiceMaps {
    /// Everything they hold.
    pub fn contents(&self) -> Result<Contents, Error> {
        Ok(Contents {
            services: self.services.entries()?,
            slots: self.slots.entries()?,
            backends: self.backends.entries()?,
            counters: self.service_counters.entries()?.into_iter().map(|(id, _)| id).collect(),
        })
    }

    /// Carries out one write.
    pub fn write(&mut self, write: &Write) -> Result<(), Error> {
        match write {
            Write::PutBackend(id, backend) => self.backends.insert(id, backend),
            Write::PutSlot(key, backend) => self.slots.insert(key, backend),
            Write::PutCounters(id) => match self.service_counters.get(id)? {
                Some(_) => Ok(()),
                None => self.service_counters.insert(id, &ServiceCounters::default()),
            },
            Write::PutService(key, service) => self.services.insert(key, service),
            Write::RemoveService(key) => self.services.remove(key),
            Write::RemoveCounters(id) => self.service_counters.remove(id),
            Write::RemoveSlot(key) => self.slots.remove(key),
            Write::RemoveBackend(id) => self.backends.remove(id),
        }
    }
}
