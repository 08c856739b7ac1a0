//! Which volume will do for a claim (upstream `component-helpers/storage/volume/pv_helpers.go`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::views::{PersistentVolume, PersistentVolumeClaim};

/// A node: its name and its labels.
pub type Place<'a> = (&'a str, &'a BTreeMap<String, String>);

/// The volume that a claim is to have: the one that is kept for it or, of those that will do, the one with the fewest
/// modes of access that is the smallest. With a `place`, it must be reachable there; without one, a claim that `waits`
/// for its pod gets only what is kept for it. Volumes that `taken` knows are somebody else's.
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    place: Option<Place<'_>>,
    waits: bool,
    taken: &dyn Fn(&str) -> bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let size = claim.size();
    let mut best: Option<(usize, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let other = volume.spec.claim_ref.is_some() && !volume.is_for(claim);
        if taken(&volume.metadata.name) || other || volume.size() < size || volume.metadata.is_terminating() {
            continue;
        }
        if mode(&volume.spec.volume_mode) != mode(&claim.spec.volume_mode) || attributes_differ(claim, volume) {
            continue;
        }
        let reachable = place.is_none_or(|(node, labels)| volume.is_reachable(node, labels));
        if volume.is_for(claim) {
            return reachable.then_some(volume);
        }
        let selected = claim.spec.selector.as_ref().is_none_or(|s| s.matches(&volume.metadata.labels));
        let fits = volume.status.phase == "Available"
            && selected
            && volume.class() == claim.class()
            && reachable
            && can_be_accessed(claim, volume);
        if !fits || (place.is_none() && waits) {
            continue;
        }
        let modes = volume.spec.access_modes.len();
        let is_better = |(least, best): &(usize, &Arc<PersistentVolume>)| {
            (modes, volume.size(), &volume.metadata.name) < (*least, best.size(), &best.metadata.name)
        };
        if best.as_ref().is_none_or(is_better) {
            best = Some((modes, volume));
        }
    }
    best.map(|(_, volume)| volume)
}

/// Why a volume that a claim names will not do for it.
pub fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    if volume.metadata.is_terminating() {
        return Some(format!("the volume is marked for deletion {:?}", volume.metadata.name));
    }
    if volume.size() < claim.size() {
        return Some("requested PV is too small".into());
    }
    if volume.class() != claim.class() {
        return Some("storageClassName does not match".into());
    }
    if attributes_differ(claim, volume) {
        return Some("volumeAttributesClassName does not match".into());
    }
    if mode(&volume.spec.volume_mode) != mode(&claim.spec.volume_mode) {
        return Some("incompatible volumeMode".into());
    }
    (!can_be_accessed(claim, volume)).then(|| "incompatible accessMode".into())
}

fn can_be_accessed(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    claim.spec.access_modes.iter().all(|mode| volume.spec.access_modes.contains(mode))
}

fn mode(mode: &Option<String>) -> &str {
    mode.as_deref().unwrap_or("Filesystem")
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (asked, has) = (&claim.spec.volume_attributes_class_name, &volume.spec.volume_attributes_class_name);
    asked.as_deref().unwrap_or_default() != has.as_deref().unwrap_or_default()
}
