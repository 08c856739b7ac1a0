//! Carries plans out on the maps in the kernel.

use xebec_ebpf_loader::layout::{
    Backend, Chunk, ChunkKey, MemberKey, Service, ServiceCounters, ServiceKey, SourceRange,
};
use xebec_ebpf_loader::{Error, Prefixes, Table};

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
}

/// The value of maps that are sets of keys.
const PRESENT: u32 = 1;

impl ServiceMaps {
    /// Everything they hold.
    pub fn contents(&self) -> Result<Contents, Error> {
        Ok(Contents {
            services: self.services.entries()?,
            chunks: self.slots.entries()?,
            members: self.members.entries()?.into_iter().map(|(key, _)| key).collect(),
            ranges: self.source_ranges.entries()?.into_iter().map(|(prefix, _)| prefix).collect(),
            backends: self.backends.entries()?,
            counters: self.service_counters.entries()?.into_iter().map(|(id, _)| id).collect(),
        })
    }

    /// Carries out a plan.
    pub fn carry_out(&mut self, plan: &Plan) -> Result<(), Error> {
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
