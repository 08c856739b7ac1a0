//! The scale of an object is a part of it that is seen as an object of its own: managers of the one are managers of
//! the other, for as long as it is about the replicas.

use serde_json::Value;

use super::element::Element;
use super::managed::{Managed, ManagerId, Owned};
use super::set::Set;

/// The version of `Scale`.
pub const SCALE_VERSION: &str = "autoscaling/v1";

/// Where the replicas are in an object of a version.
#[derive(Clone, Copy, Debug)]
pub struct ScalePath<'a> {
    /// The object's version.
    pub version: &'a str,
    /// The path of the replicas.
    pub path: &'a [Element],
}

fn replicas_in_scale() -> Set {
    let mut set = Set::default();
    set.insert(&super::manager::replicas());
    set
}

/// The same manager of objects of another version.
fn in_version(id: &ManagerId, version: &str) -> ManagerId {
    ManagerId::new(&id.manager, id.applied, version, &id.subresource)
}

impl ScalePath<'_> {
    /// The managers of an object's replicas, for its scale.
    pub fn to_scale(&self, parent: &Value) -> Option<Value> {
        let parent = Managed::read(parent).ok()?;
        let mut scale = Managed::default();
        for (id, owned) in &parent.managers {
            if owned.version == self.version && owned.set.has(self.path) {
                let time = parent.times.get(id).cloned();
                let id = in_version(id, SCALE_VERSION);
                scale.times.extend(time.map(|time| (id.clone(), time)));
                let owned = Owned { set: replicas_in_scale(), version: SCALE_VERSION.into(), applied: owned.applied };
                scale.managers.insert(id, owned);
            }
        }
        scale.write()
    }

    /// The managers of the object after a write to its scale.
    pub fn to_parent(&self, parent: &Value, scale: &Value) -> Option<Value> {
        let (Ok(mut parent), Ok(mut scale)) = (Managed::read(parent), Managed::read(scale)) else {
            return Some(parent.clone());
        };
        let mut path = Set::default();
        path.insert(self.path);
        for (id, owned) in &mut parent.managers {
            if owned.set.has(self.path) && scale.managers.remove(&in_version(id, SCALE_VERSION)).is_none() {
                // Somebody took them by way of the scale.
                owned.set = owned.set.difference(&path);
            }
        }
        parent.managers.retain(|_, owned| !owned.set.is_empty());
        for (id, owned) in scale.managers {
            if owned.set.has(&super::manager::replicas()) {
                let time = scale.times.get(&id).cloned();
                let id = in_version(&id, self.version);
                parent.times.extend(time.map(|time| (id.clone(), time)));
                let new = Owned { set: path.clone(), version: self.version.to_owned(), applied: owned.applied };
                let there = parent.managers.entry(id).or_insert(new);
                there.set = there.set.union(&path);
            }
        }
        parent.write()
    }
}
