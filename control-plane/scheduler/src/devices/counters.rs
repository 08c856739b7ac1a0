//! What devices of a pool draw on together, so that not all of them can be had at once (KEP-4815).

use std::collections::BTreeMap;

use xebec_controllers::views::{Device, DeviceId};
use xebec_schema::quantity::Quantity;

use super::Taken;
use super::pools::Pool;

/// What is left of a pool's counters, by set and counter.
#[derive(Debug, Default)]
pub(super) struct Counters<'d>(BTreeMap<(&'d str, &'d str), Quantity>);

impl<'d> Counters<'d> {
    /// What the devices that are taken leave.
    pub fn new(pool: &Pool<'d>, taken: &Taken) -> Self {
        let mut left = Self::default();
        for set in &pool.counters {
            left.0.extend(set.counters.iter().map(|(name, counter)| ((&*set.name, &**name), counter.value.0)));
        }
        if left.0.is_empty() {
            return left;
        }
        for device in pool.slices.iter().chain(&pool.others).flat_map(|slice| &slice.spec.devices) {
            if device.consumes_counters.is_empty() {
                continue;
            }
            let (driver, pool) = pool.id.clone();
            let id = DeviceId { driver, pool, device: device.name.clone() };
            if taken.is_taken(&id) || taken.consumed(&id).is_some() {
                left.change(device, Quantity::sub);
            }
        }
        left
    }

    fn change(&mut self, device: &'d Device, with: fn(&Quantity, &Quantity) -> Quantity) {
        for set in &device.consumes_counters {
            for (name, counter) in &set.counters {
                if let Some(left) = self.0.get_mut(&(&*set.name, &**name)) {
                    *left = with(left, &counter.value.0);
                }
            }
        }
    }

    /// Takes what a device draws, unless that is more than there is.
    pub fn take(&mut self, device: &'d Device) -> bool {
        let mut drawn = device.consumes_counters.iter().flat_map(|set| set.counters.iter().map(move |c| (set, c)));
        let enough = drawn.all(|(set, (name, counter))| {
            self.0.get(&(&*set.name, &**name)).is_some_and(|left| *left >= counter.value.0)
        });
        if enough {
            self.change(device, Quantity::sub);
        }
        enough
    }

    /// Puts back what a device drew.
    pub fn give_back(&mut self, device: &'d Device) {
        self.change(device, Quantity::add);
    }
}
