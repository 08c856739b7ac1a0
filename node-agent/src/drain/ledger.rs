//! Which of the node's pods EndpointSlices name, and up to which revision the node's maps hold the slices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::watch::Change;
use crate::proxy::views::{Endpoint, EndpointSlice, ObjectName};

/// Pods that no slice names any more are remembered: so many, those that left last.
const DEPARTED_MAX: usize = 1_024;

/// Where a pod stands with its slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No slice names it, or has lately.
    Unnamed,
    /// At least one slice has it as an endpoint for new connections.
    InUse,
    /// None has, from this revision on.
    Left(u64),
}

/// `namespace/name`.
type SliceName = ObjectName;

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger {
    node: Arc<str>,
    state: Arc<Mutex<State>>,
    applied: Arc<watch::Sender<Option<u64>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The highest revision heard of.
    heard: u64,
    /// The node's pods that a slice names, by uid; for each slice since when it is not used: none if it is.
    pods: BTreeMap<String, BTreeMap<SliceName, Option<u64>>>,
    slices: BTreeMap<SliceName, BTreeSet<String>>,
    departed: BTreeMap<String, u64>,
}

impl Ledger {
    /// Of the node of this name.
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), state: Arc::default(), applied: Arc::new(watch::Sender::new(None)) }
    }

    /// Takes in what happened to slices.
    pub fn heard(&self, change: &Change<EndpointSlice>) {
        let mut state = self.state.lock();
        match change {
            Change::All(all) => {
                for slice in all {
                    state.put(slice, &self.node);
                }
                let listed: BTreeSet<SliceName> = all.iter().map(|slice| name(slice)).collect();
                let gone: Vec<SliceName> =
                    state.slices.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                let revision = state.heard;
                for name in gone {
                    state.set(name, BTreeMap::new(), revision);
                }
            }
            Change::Put(slice) => state.put(slice, &self.node),
            Change::Gone(slice) => {
                let revision = revision(slice);
                state.heard = state.heard.max(revision);
                state.set(name(slice), BTreeMap::new(), revision);
            }
        }
    }

    /// All that was heard is in the maps now.
    pub fn all_applied(&self) {
        let heard = self.state.lock().heard;
        self.applied.send_replace(Some(heard));
    }

    /// The revision that the maps hold; none until they hold what the API says.
    pub fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.applied.subscribe()
    }

    /// Where the pod stands, as far as was heard.
    pub fn standing(&self, uid: &str) -> Standing {
        let state = self.state.lock();
        let departed = state.departed.get(uid).copied();
        let Some(slices) = state.pods.get(uid) else { return departed.map_or(Standing::Unnamed, Standing::Left) };
        let mut latest = departed.unwrap_or(0);
        for left in slices.values() {
            let Some(left) = left else { return Standing::InUse };
            latest = latest.max(*left);
        }
        Standing::Left(latest)
    }
}

impl State {
    fn put(&mut self, slice: &EndpointSlice, node: &str) {
        let revision = revision(slice);
        self.heard = self.heard.max(revision);
        let named = slice.endpoints.iter().filter(|e| e.node.as_deref() == Some(node)).filter_map(|endpoint| {
            let pod = endpoint.pod.as_deref()?;
            Some((pod.to_owned(), is_used(endpoint)))
        });
        self.set(name(slice), named.collect(), revision);
    }

    /// The slice names these pods of the node, and whether it uses each.
    fn set(&mut self, name: SliceName, named: BTreeMap<String, bool>, revision: u64) {
        let now: BTreeSet<String> = named.keys().cloned().collect();
        let before = if now.is_empty() { self.slices.remove(&name) } else { self.slices.insert(name.clone(), now) };
        for uid in before.unwrap_or_default() {
            if !named.contains_key(&uid) {
                self.drop_name(&uid, &name, revision);
            }
        }
        for (uid, used) in named {
            let left = self.pods.entry(uid).or_default().entry(name.clone()).or_insert(None);
            // The first revision without it stands: a later change of the slice need not be waited for.
            *left = if used { None } else { Some(left.unwrap_or(revision)) };
        }
    }

    fn drop_name(&mut self, uid: &str, name: &SliceName, revision: u64) {
        let Some(slices) = self.pods.get_mut(uid) else { return };
        let left = slices.remove(name).flatten().unwrap_or(revision);
        if slices.is_empty() {
            self.pods.remove(uid);
        }
        let departed = self.departed.entry(uid.to_owned()).or_insert(left);
        *departed = left.max(*departed);
        if self.departed.len() > DEPARTED_MAX
            && let Some(oldest) = self.departed.iter().min_by_key(|(_, left)| **left).map(|(uid, _)| uid.clone())
        {
            self.departed.remove(&oldest);
        }
    }
}

/// Whether new connections go to an endpoint. One that terminates counts as left although a service may publish it as
/// ready, or fall back to it when it has no other: neither changes while the pod is there.
fn is_used(endpoint: &Endpoint) -> bool {
    endpoint.conditions.is_ready() && !endpoint.conditions.is_terminating()
}

fn name(slice: &EndpointSlice) -> SliceName {
    slice.name.clone()
}

/// Revisions are numbers that grow (KEP-5504).
fn revision(slice: &EndpointSlice) -> u64 {
    slice.version.parse().unwrap_or(0)
}
