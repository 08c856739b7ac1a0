//! Claims of pods, and the volumes that are or can be theirs (upstream `pkg/scheduler/framework/plugins/volumebinding`,
//! `volumerestrictions`).

use std::collections::BTreeMap;
use std::sync::Arc;

use xebec_controllers::persistent_volume::claim::NO_PROVISIONER;
use xebec_controllers::persistent_volume::matching::find;
use xebec_controllers::persistent_volume::{BIND_COMPLETED, SELECTED_NODE};
use xebec_controllers::runtime::meta::Key;
use xebec_controllers::views::{PersistentVolume, PersistentVolumeClaim, StorageClass};

use super::Refusal;
use crate::snapshot::Snapshot;
use crate::views::{Node, Pod};

const NOT_REACHABLE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SUCH_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const IN_USE: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// Claims, volumes and classes of storage, and what has been decided about them that they do not say yet.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// The claims.
    pub claims: BTreeMap<Key, Arc<PersistentVolumeClaim>>,
    /// The volumes, by name.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// The classes, by name.
    pub classes: BTreeMap<String, Arc<StorageClass>>,
    /// Volumes that are being given to a claim.
    pub promised: BTreeMap<String, Key>,
    /// Claims for which a volume is being made on a node.
    pub selected: BTreeMap<Key, String>,
}

impl Shelf {
    /// A new or changed volume.
    pub fn put_volume(&mut self, volume: &Arc<PersistentVolume>) {
        let name = &volume.metadata.name;
        if volume.spec.claim_ref.is_some() {
            self.promised.remove(name);
        }
        match self.volumes.binary_search_by(|known| known.metadata.name.cmp(name)) {
            Ok(at) => self.volumes[at] = volume.clone(),
            Err(at) => self.volumes.insert(at, volume.clone()),
        }
    }

    /// A volume is gone.
    pub fn remove_volume(&mut self, name: &str) {
        self.promised.remove(name);
        self.volumes.retain(|volume| volume.metadata.name != name);
    }

    /// A new or changed claim.
    pub fn put_claim(&mut self, claim: &Arc<PersistentVolumeClaim>) {
        let key = claim.metadata.key();
        if claim.metadata.annotations.contains_key(SELECTED_NODE) || !claim.spec.volume_name.is_empty() {
            self.selected.remove(&key);
        }
        self.claims.insert(key, claim.clone());
    }

    /// A claim is gone.
    pub fn remove_claim(&mut self, key: &Key) {
        self.selected.remove(key);
        self.claims.remove(key);
    }

    /// Notes what has been decided.
    pub fn promise(&mut self, bindings: &[Binding], node: &str) {
        for binding in bindings {
            match binding {
                Binding::Volume { claim, volume } => {
                    self.promised.insert(volume.metadata.name.clone(), claim.metadata.key());
                }
                Binding::Provision { claim } => {
                    self.selected.insert(claim.metadata.key(), node.to_owned());
                }
            }
        }
    }

    /// What has been decided does not come about.
    pub fn take_back(&mut self, bindings: &[Binding]) {
        for binding in bindings {
            match binding {
                Binding::Volume { volume, .. } => drop(self.promised.remove(&volume.metadata.name)),
                Binding::Provision { claim } => drop(self.selected.remove(&claim.metadata.key())),
            }
        }
    }

    fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        let at = self.volumes.binary_search_by(|volume| volume.metadata.name.as_str().cmp(name)).ok()?;
        self.volumes.get(at)
    }
}

/// What is to be done for a claim before its pod is placed.
#[derive(Clone, Debug)]
pub enum Binding {
    /// It gets this volume.
    Volume {
        /// The claim.
        claim: Arc<PersistentVolumeClaim>,
        /// The volume.
        volume: Arc<PersistentVolume>,
    },
    /// A volume is to be made for it, for the node.
    Provision {
        /// The claim.
        claim: Arc<PersistentVolumeClaim>,
    },
}

impl Binding {
    /// The claim.
    pub fn claim(&self) -> &Arc<PersistentVolumeClaim> {
        match self {
            Self::Volume { claim, .. } | Self::Provision { claim } => claim,
        }
    }
}

/// Whether a claim has its volume, for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !claim.spec.volume_name.is_empty() && claim.metadata.annotations.contains_key(BIND_COMPLETED)
}

/// A pod's claims, looked up.
#[derive(Debug, Default)]
pub struct Storage {
    /// It can be placed nowhere, and why.
    refusal: Option<String>,
    /// Volumes that it has.
    volumes: Vec<Arc<PersistentVolume>>,
    /// A volume that it should have does not exist.
    lost: bool,
    /// Claims whose volumes depend on the node, the smallest first.
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
    /// Another pod has a claim that only one may have.
    in_use: bool,
}

impl Storage {
    pub(super) fn new(snapshot: &Snapshot, pod: &Pod, without: &dyn Fn(&Pod) -> bool) -> Self {
        let mut storage = Self::default();
        if pod.claims.is_empty() {
            return storage;
        }
        storage.refusal = storage.look_up(&snapshot.shelf, pod).err();
        let once =
            |claim: &PersistentVolumeClaim| claim.spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod");
        let namespace = &pod.metadata.namespace;
        let alone: Vec<String> = pod
            .claims()
            .map(|(name, _)| name)
            .filter(|name| snapshot.shelf.claims.get(&Key::new(namespace, name)).is_some_and(|claim| once(claim)))
            .collect();
        if !alone.is_empty() {
            let uses = |other: &Pod| {
                other.metadata.namespace == *namespace
                    && other.metadata.uid != pod.metadata.uid
                    && other.claims().any(|(name, _)| alone.contains(&name))
            };
            let mut others = snapshot.live().flat_map(|(_, info)| info.pods.values());
            storage.in_use = others.any(|other| uses(other) && !without(other));
        }
        storage
    }

    /// Finds the pod's claims; the reason if one of them keeps it from everywhere.
    fn look_up(&mut self, shelf: &Shelf, pod: &Pod) -> Result<(), String> {
        let namespace = &pod.metadata.namespace;
        let mut unbound = false;
        for (name, is_ephemeral) in pod.claims() {
            let Some(claim) = shelf.claims.get(&Key::new(namespace, &name)) else {
                return Err(match is_ephemeral {
                    true => {
                        format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                    }
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if claim.metadata.is_terminating() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if claim.status.phase == "Lost" {
                let volume = &claim.spec.volume_name;
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            let owner = claim.metadata.controller();
            if is_ephemeral && owner.is_none_or(|owner| owner.uid != pod.metadata.uid) {
                let pod = &pod.metadata.name;
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
                ));
            }
            if is_bound(claim) {
                match shelf.volume(&claim.spec.volume_name) {
                    Some(volume) => self.volumes.push(volume.clone()),
                    None => self.lost = true,
                }
                continue;
            }
            let class = shelf.classes.get(claim.class()).filter(|class| class.waits());
            match class {
                Some(class) if claim.spec.volume_name.is_empty() => self.waiting.push((claim.clone(), class.clone())),
                _ => unbound = true,
            }
        }
        self.waiting.sort_by_key(|(claim, _)| claim.size());
        if unbound { Err("pod has unbound immediate PersistentVolumeClaims".into()) } else { Ok(()) }
    }

    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// What is to be done for the pod's claims if it is placed on the node, or why it cannot be.
    pub(super) fn bindings(&self, shelf: &Shelf, node: &Node) -> Result<Vec<Binding>, Refusal> {
        if self.refusal.is_some() {
            return Err(Refusal::one(self.refusal.clone().unwrap_or_default(), true));
        }
        if self.in_use {
            return Err(Refusal::one(IN_USE, false));
        }
        if self.lost {
            return Err(Refusal::one(NO_SUCH_VOLUME, true));
        }
        let place = (node.metadata.name.as_str(), &node.metadata.labels);
        if !self.volumes.iter().all(|volume| volume.is_reachable(place.0, place.1)) {
            return Err(Refusal::one(NOT_REACHABLE, true));
        }
        let mut bindings: Vec<Binding> = Vec::new();
        for (claim, class) in &self.waiting {
            let key = claim.metadata.key();
            let chosen = |name: &str| {
                bindings.iter().any(|b| matches!(b, Binding::Volume { volume, .. } if volume.metadata.name == name))
            };
            let taken = |name: &str| chosen(name) || shelf.promised.get(name).is_some_and(|by| *by != key);
            let annotated = claim.metadata.annotations.get(SELECTED_NODE);
            let selected = annotated.or_else(|| shelf.selected.get(&key));
            let elsewhere = selected.is_some_and(|selected| *selected != node.metadata.name);
            match find(claim, &shelf.volumes, Some(place), true, &taken) {
                Some(volume) if selected.is_none() || volume.is_for(claim) => {
                    bindings.push(Binding::Volume { claim: claim.clone(), volume: volume.clone() });
                }
                _ if elsewhere || class.provisioner == NO_PROVISIONER || !class.allows(place.1) => {
                    return Err(Refusal::one(NONE_TO_BIND, true));
                }
                _ => bindings.push(Binding::Provision { claim: claim.clone() }),
            }
        }
        Ok(bindings)
    }
}

#[cfg(test)]
mod tests;
