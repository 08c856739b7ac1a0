//! Who holds what.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use super::{Owner, PENDING};

/// Things by their holders. Only ever looked up, so that its order does not matter.
pub(super) struct Held<T>(HashMap<T, Holder>);

/// A service that holds something.
#[derive(Clone)]
pub(super) struct Holder {
    pub(super) owner: Owner,
    /// When it was admitted; `None` for what was found stored.
    since: Option<Instant>,
    /// It was chosen for the service, which had not asked for it.
    chosen: bool,
}

impl Holder {
    /// Whether it may still be on its way to the store.
    pub(super) fn is_pending(&self) -> bool {
        self.since.is_some_and(|at| at.elapsed() < PENDING)
    }
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash + Copy> Held<T> {
    /// Notes what a stored service has.
    pub(super) fn keep(&mut self, thing: T, owner: &Owner) {
        self.0.insert(thing, Holder { owner: owner.clone(), since: None, chosen: false });
    }

    /// Notes that its service is stored with it: from now on what is stored says who has it.
    pub(super) fn settle(&mut self, thing: &T, owner: &Owner) {
        if let Some(holder) = self.0.get_mut(thing) {
            *holder = Holder { owner: owner.clone(), since: None, chosen: false };
        }
    }

    /// Gives it to `owner`, whoever had it; `chosen` if they did not ask for this one. Answers whether it is new to them.
    pub(super) fn take(&mut self, thing: T, owner: &Owner, chosen: bool) -> bool {
        if self.0.get(&thing).is_some_and(|holder| holder.owner == *owner && !owner.1.is_empty()) {
            return false;
        }
        self.0.insert(thing, Holder { owner: owner.clone(), since: Some(Instant::now()), chosen });
        true
    }

    pub(super) fn release(&mut self, thing: T) {
        self.0.remove(&thing);
    }

    /// Whether it was chosen for whoever has it, and is on its way to the store.
    pub(super) fn was_chosen(&self, thing: &T) -> bool {
        self.0.get(thing).is_some_and(|holder| holder.chosen)
    }

    pub(super) fn is_free(&self, thing: &T) -> bool {
        !self.0.contains_key(thing)
    }

    /// Who has it, if it is not `owner`. A service whose name is not generated yet is nobody's owner.
    pub(super) fn other(&self, thing: &T, owner: &Owner) -> Option<Holder> {
        self.0.get(thing).filter(|holder| holder.owner != *owner || owner.1.is_empty()).cloned()
    }
}
