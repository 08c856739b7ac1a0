//! Which devices can be used on a node, pool by pool (upstream `GatherPools`).

use std::collections::BTreeSet;

use xebec_controllers::views::{CounterSet, Device, NodeSelector, ResourceSlice};

use super::{Devices, PoolId};
use crate::views::Node;

/// A pool, as far as a node is concerned.
#[derive(Debug)]
pub(super) struct Pool<'d> {
    pub id: &'d PoolId,
    pub state: State,
    /// Slices with devices that can be used on the node, by name.
    pub slices: Vec<&'d ResourceSlice>,
    /// The pool's other slices with devices, where counters make them matter.
    pub others: Vec<&'d ResourceSlice>,
    /// What its devices draw on together.
    pub counters: Vec<&'d CounterSet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its devices can be given away.
    Usable,
    /// Its driver is at publishing it.
    Incomplete,
    /// Its driver publishes nonsense.
    Invalid,
}

impl Pool<'_> {
    pub fn name(&self) -> String {
        format!("{}/{}", self.id.0, self.id.1)
    }

    fn has_binding_conditions(&self) -> bool {
        self.slices.iter().flat_map(|slice| &slice.spec.devices).any(|device| !device.binding_conditions.is_empty())
    }
}

/// Whether a node is meant.
fn is_for(node: &Node, name: Option<&str>, all: Option<bool>, selector: Option<&NodeSelector>) -> bool {
    let meta = &node.metadata;
    match (name, all, selector) {
        (Some(name), _, _) if !name.is_empty() => name == meta.name,
        (_, Some(true), _) => true,
        (_, _, Some(selector)) => selector.matches(&meta.name, &meta.labels),
        _ => false,
    }
}

/// Whether a device that says for itself where it can be used can be used on a node.
pub(super) fn device_is_for(node: &Node, device: &Device) -> bool {
    is_for(node, device.node_name.as_deref(), device.all_nodes, device.node_selector.as_ref())
}

fn concerns(node: &Node, slice: &ResourceSlice) -> bool {
    let spec = &slice.spec;
    if spec.per_device_node_selection == Some(true) {
        return spec.devices.iter().any(|device| device_is_for(node, device));
    }
    is_for(node, spec.node_name.as_deref(), spec.all_nodes, spec.node_selector.as_ref())
}

/// The pools with devices for a node, by driver and name; those whose devices take long to be ready come last.
pub(super) fn gather<'d>(devices: &'d Devices, node: &Node) -> Vec<Pool<'d>> {
    let own = devices.on_node.get(&node.metadata.name);
    let ids: BTreeSet<&PoolId> = own.into_iter().flatten().chain(&devices.anywhere).collect();
    let pools = ids.into_iter().filter_map(|id| devices.pools.get_key_value(id));
    let pools = pools.filter_map(|(id, slices)| pool(id, slices.values().map(AsRef::as_ref).collect(), node));
    let (late, mut early): (Vec<_>, Vec<_>) = pools.partition(Pool::has_binding_conditions);
    early.extend(late);
    early
}

/// A pool; `None` if it has nothing for the node, or is about to have nothing.
fn pool<'d>(id: &'d PoolId, all: Vec<&'d ResourceSlice>, node: &Node) -> Option<Pool<'d>> {
    let newest = all.iter().map(|slice| slice.spec.pool.generation).max()?;
    // What the node has of an older generation is on its way out, even if the newer one has nothing for it.
    let all: Vec<_> = all.into_iter().filter(|slice| slice.spec.pool.generation == newest).collect();
    let (here, elsewhere): (Vec<_>, Vec<_>) = all.iter().copied().partition(|slice| concerns(node, slice));
    let count = here.first()?.spec.pool.resource_slice_count;
    let mut pool = Pool { id, state: State::Usable, slices: Vec::new(), others: Vec::new(), counters: Vec::new() };
    if i64::try_from(all.len()).ok() != Some(count) {
        pool.state = State::Incomplete;
        return Some(pool);
    }
    let has_devices = |slice: &&ResourceSlice| slice.spec.shared_counters.is_empty();
    pool.counters = all.iter().flat_map(|slice| &slice.spec.shared_counters).collect();
    pool.slices = here.into_iter().filter(has_devices).collect();
    pool.others = elsewhere.into_iter().filter(has_devices).collect();
    if !is_valid(&pool) {
        pool.state = State::Invalid;
    }
    Some(pool)
}

/// Whether names are used once, and counters exist that devices draw on.
fn is_valid(pool: &Pool<'_>) -> bool {
    let mut names = BTreeSet::new();
    let mut sets = BTreeSet::new();
    let drawn = |device: &Device| {
        device.consumes_counters.iter().all(|drawn| {
            let set = pool.counters.iter().find(|set| set.name == drawn.name);
            set.is_some_and(|set| drawn.counters.keys().all(|counter| set.counters.contains_key(counter)))
        })
    };
    pool.slices.iter().flat_map(|slice| &slice.spec.devices).all(|device| names.insert(&device.name))
        && pool.counters.iter().all(|set| sets.insert(&set.name))
        && pool.slices.iter().chain(&pool.others).flat_map(|slice| &slice.spec.devices).all(drawn)
}
