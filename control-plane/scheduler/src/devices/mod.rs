//! Devices that pods claim (upstream `pkg/scheduler/framework/plugins/dynamicresources` and
//! `k8s.io/dynamic-resource-allocation/structured`).
//!
//! [`Devices`] is what is known: claims, classes, the slices in which drivers publish devices, and who has which.
//! [`claimed::Claimed`] is what a pod needs; for a node, [`pools`] says which devices can be used there,
//! [`search`] finds some that meet all requests, and [`result`] writes down what was found.

pub mod bind;
mod capacity;
pub mod claimed;
mod constraints;
mod counters;
mod pools;
mod result;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xebec_controllers::runtime::meta::Key;
use xebec_controllers::views::{
    Allocation, Amount, Amounts, Device, DeviceClass, DeviceId, DeviceTaintRule, PodClaim, ResourceClaim, ResourceSlice,
};

use crate::views::Pod;

/// A pool: its driver, and its name.
pub type PoolId = (String, String);

/// Claims, classes and devices, and what has been decided about them that they do not say yet.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    claims: BTreeMap<Key, Arc<ResourceClaim>>,
    classes: BTreeMap<String, Arc<DeviceClass>>,
    /// As they were published.
    published: BTreeMap<String, Arc<ResourceSlice>>,
    rules: BTreeMap<String, Arc<DeviceTaintRule>>,
    /// With the taints of the rules, by pool and name.
    pools: BTreeMap<PoolId, BTreeMap<String, Arc<ResourceSlice>>>,
    /// Pools with slices of one node.
    on_node: BTreeMap<String, BTreeSet<PoolId>>,
    /// Pools with slices of other nodes than one.
    anywhere: BTreeSet<PoolId>,
    /// What claims have, by their uid.
    held: BTreeMap<String, Arc<Allocation>>,
    /// Of these, those that the claims do not say yet.
    in_flight: BTreeSet<String>,
    taken: Taken,
}

/// Devices that claims have.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// By how many claims: one, unless somebody else than this scheduler gives devices away.
    whole: BTreeMap<DeviceId, usize>,
    /// How many shares of them, and how much all together.
    shared: BTreeMap<DeviceId, (usize, Amounts)>,
}

impl Taken {
    /// Whether a claim has the device for itself.
    pub fn is_taken(&self, id: &DeviceId) -> bool {
        self.whole.contains_key(id)
    }

    /// How much of a device claims have that share it; `None` if there are none.
    pub fn consumed(&self, id: &DeviceId) -> Option<&Amounts> {
        self.shared.get(id).map(|(_, amounts)| amounts)
    }

    fn add(&mut self, allocation: &Allocation) {
        for device in allocation.devices.results.iter().filter(|device| !device.is_admin()) {
            if device.share_id.is_none() {
                *self.whole.entry(device.id()).or_default() += 1;
                continue;
            }
            let (shares, sum) = self.shared.entry(device.id()).or_default();
            *shares += 1;
            for (name, amount) in &device.consumed_capacity {
                sum.entry(name.clone()).and_modify(|s| *s = Amount(s.0.add(&amount.0))).or_insert(*amount);
            }
        }
    }

    fn remove(&mut self, allocation: &Allocation) {
        for device in allocation.devices.results.iter().filter(|device| !device.is_admin()) {
            let id = device.id();
            if device.share_id.is_none() {
                if let Some(claims) = self.whole.get_mut(&id) {
                    *claims -= 1;
                    if *claims == 0 {
                        self.whole.remove(&id);
                    }
                }
            } else if let Some((shares, sum)) = self.shared.get_mut(&id) {
                *shares -= 1;
                for (name, amount) in &device.consumed_capacity {
                    sum.entry(name.clone()).and_modify(|s| *s = Amount(s.0.sub(&amount.0)));
                }
                if *shares == 0 {
                    self.shared.remove(&id);
                }
            }
        }
    }
}

impl Devices {
    /// A new or changed claim.
    pub fn put_claim(&mut self, claim: &Arc<ResourceClaim>) {
        let uid = &claim.metadata.uid;
        if claim.status.allocation.is_some() {
            self.in_flight.remove(uid);
        }
        if !self.in_flight.contains(uid) {
            self.hold(uid, claim.status.allocation.clone());
        }
        self.claims.insert(claim.metadata.key(), claim.clone());
    }

    /// A claim is gone.
    pub fn remove_claim(&mut self, claim: &ResourceClaim) {
        self.in_flight.remove(&claim.metadata.uid);
        self.hold(&claim.metadata.uid, None);
        self.claims.remove(&claim.metadata.key());
    }

    /// A claim.
    pub fn claim(&self, key: &Key) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(key)
    }

    /// Notes what has been decided: that a claim gets devices.
    pub fn promise(&mut self, claim: &ResourceClaim, allocation: &Arc<Allocation>) {
        let uid = &claim.metadata.uid;
        self.in_flight.insert(uid.clone());
        self.hold(uid, Some(allocation.clone()));
    }

    /// What has been decided does not come about.
    pub fn take_back(&mut self, claim: &ResourceClaim) {
        let uid = &claim.metadata.uid;
        if self.in_flight.remove(uid) {
            let known = self.claims.get(&claim.metadata.key()).filter(|known| known.metadata.uid == *uid);
            let allocation = known.and_then(|known| known.status.allocation.clone());
            self.hold(uid, allocation);
        }
    }

    /// Whether devices are being given to a claim.
    pub fn is_in_flight(&self, claim: &ResourceClaim) -> bool {
        self.in_flight.contains(&claim.metadata.uid)
    }

    fn hold(&mut self, uid: &str, allocation: Option<Arc<Allocation>>) {
        if let Some(before) = self.held.remove(uid) {
            self.taken.remove(&before);
        }
        if let Some(allocation) = allocation {
            self.taken.add(&allocation);
            self.held.insert(uid.to_owned(), allocation);
        }
    }

    /// A new or changed class.
    pub fn put_class(&mut self, class: &Arc<DeviceClass>) {
        self.classes.insert(class.metadata.name.clone(), class.clone());
    }

    /// A class is gone.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// New or changed devices.
    pub fn put_slice(&mut self, slice: &Arc<ResourceSlice>) {
        self.remove_slice(&slice.metadata.name);
        self.published.insert(slice.metadata.name.clone(), slice.clone());
        let id = pool_of(slice);
        match &slice.spec.node_name {
            Some(node) => drop(self.on_node.entry(node.clone()).or_default().insert(id.clone())),
            None => drop(self.anywhere.insert(id.clone())),
        }
        self.pools.entry(id).or_default().insert(slice.metadata.name.clone(), tainted(slice, &self.rules));
    }

    /// Devices are gone.
    pub fn remove_slice(&mut self, name: &str) {
        let Some(slice) = self.published.remove(name) else { return };
        let id = pool_of(&slice);
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.remove(name);
        if !pool.values().any(|other| other.spec.node_name == slice.spec.node_name) {
            match &slice.spec.node_name {
                None => drop(self.anywhere.remove(&id)),
                Some(node) => {
                    if let Some(pools) = self.on_node.get_mut(node) {
                        pools.remove(&id);
                        if pools.is_empty() {
                            self.on_node.remove(node);
                        }
                    }
                }
            }
        }
        if pool.is_empty() {
            self.pools.remove(&id);
        }
    }

    /// A new or changed rule that taints devices.
    pub fn put_rule(&mut self, rule: &Arc<DeviceTaintRule>) {
        self.rules.insert(rule.metadata.name.clone(), rule.clone());
        self.taint();
    }

    /// A rule is gone.
    pub fn remove_rule(&mut self, name: &str) {
        self.rules.remove(name);
        self.taint();
    }

    fn taint(&mut self) {
        for (name, slice) in &self.published {
            if let Some(pool) = self.pools.get_mut(&pool_of(slice)) {
                pool.insert(name.clone(), tainted(slice, &self.rules));
            }
        }
    }

    /// The claim that a pod uses, if it is fit for it; `None` if it needs none.
    ///
    /// # Errors
    ///
    /// Why it is not, in upstream's words.
    pub fn usable(&self, pod: &Pod, used: &PodClaim) -> Result<Option<&Arc<ResourceClaim>>, String> {
        let key = pod.metadata.key();
        let Some((name, own)) = used.object() else {
            if used.is_to_be_made() {
                return Err(format!("pod \"{key}\": ResourceClaim not created yet"));
            }
            return Ok(None);
        };
        let claim = self.claim(&Key::new(&key.namespace, name));
        let claim = claim.ok_or_else(|| format!("resourceclaim {name:?} not found"))?;
        let meta = &claim.metadata;
        if meta.is_terminating() {
            return Err(format!("resourceclaim {name:?} is being deleted"));
        }
        if own && meta.controller().is_none_or(|owner| owner.uid != pod.metadata.uid) {
            return Err(format!("ResourceClaim {} was not created for Pod {key} (Pod is not owner)", meta.key()));
        }
        Ok(Some(claim))
    }

    /// Whether a pod is not to be looked at yet: a claim of its is still to be made, or not fit for it.
    pub fn holds_back(&self, pod: &Pod) -> bool {
        pod.device_claims.iter().any(|used| self.usable(pod, used).is_err())
    }
}

fn pool_of(slice: &ResourceSlice) -> PoolId {
    (slice.spec.driver.clone(), slice.spec.pool.name.clone())
}

/// A slice with the taints that rules put on its devices; the same one if there are none.
fn tainted(slice: &Arc<ResourceSlice>, rules: &BTreeMap<String, Arc<DeviceTaintRule>>) -> Arc<ResourceSlice> {
    let (driver, pool) = (&slice.spec.driver, &slice.spec.pool.name);
    let concerns = |device: &Device, rule: &DeviceTaintRule| rule.taints(driver, pool, &device.name);
    if !slice.spec.devices.iter().any(|device| rules.values().any(|rule| concerns(device, rule))) {
        return slice.clone();
    }
    let mut tainted = ResourceSlice::clone(slice);
    for device in &mut tainted.spec.devices {
        let more: Vec<_> =
            rules.values().filter(|rule| concerns(device, rule)).map(|rule| rule.spec.taint.clone()).collect();
        device.taints.extend(more);
    }
    Arc::new(tainted)
}

#[cfg(test)]
mod tests;
