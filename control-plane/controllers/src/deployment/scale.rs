//! How many pods each set is to have.

use serde_json::json;

use super::Rollout;
use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS, size_annotations};
use crate::runtime::kind;
use crate::runtime::plan::{Action, Report, Write};
use crate::views::ReplicaSet;

/// Sets a set's size, and tells of it. Nothing if it has that size.
pub(super) fn set_size(rollout: &Rollout<'_>, set: &ReplicaSet, size: i32) -> Option<Action> {
    (set.replicas() != size).then(|| resize(rollout, set, size)).flatten()
}

/// Sets a set's size and its annotations about it. Nothing if they are so.
fn resize(rollout: &Rollout<'_>, set: &ReplicaSet, size: i32) -> Option<Action> {
    let annotations = size_annotations(rollout);
    let annotated = annotations.iter().all(|(k, v)| set.metadata.annotations.get(*k) == Some(v));
    let current = set.replicas();
    if annotated && current == size {
        return None;
    }
    let annotations: std::collections::BTreeMap<_, _> = annotations.into_iter().collect();
    let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": size}});
    let mut write = Write::merge_exact(&kind::REPLICA_SET, &set.metadata, "", patch);
    if current != size {
        let way = if size > current { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {} from {current} to {size}", set.metadata.name);
        write = write.reported(Report {
            regarding: rollout.deployment.metadata.reference(&kind::DEPLOYMENT),
            success: Some(("ScalingReplicaSet", message)),
            failure: None,
        });
    }
    Some(write.into())
}

/// Brings the new set to the size that it may have now.
pub(super) fn new_set(rollout: &Rollout<'_>, new: &ReplicaSet) -> Vec<Action> {
    let wanted = rollout.deployment.replicas();
    let size = if new.replicas() > wanted { wanted } else { rollout.new_set_size(new.replicas()) };
    set_size(rollout, new, size).into_iter().collect()
}

/// Takes pods from the old sets: first those that do not serve anyway, then as many as availability allows.
pub(super) fn old_sets(rollout: &Rollout<'_>, new: &ReplicaSet) -> Vec<Action> {
    let mut sizes: Vec<(&ReplicaSet, i32)> = rollout.old.iter().map(|s| (*s, s.replicas())).collect();
    let old_total: i32 = sizes.iter().map(|(_, n)| n).sum();
    if old_total == 0 {
        return Vec::new();
    }
    let min_available = rollout.deployment.replicas() - rollout.max_unavailable();
    let new_unavailable = new.replicas() - new.status.available_replicas;
    let may_go = old_total + new.replicas() - min_available - new_unavailable;
    if may_go <= 0 {
        return Vec::new();
    }
    let mut left = may_go;
    for (set, size) in &mut sizes {
        let unhealthy = *size - set.status.available_replicas;
        let take = unhealthy.clamp(0, left);
        *size -= take;
        left -= take;
    }
    let available: i32 = rollout.all().map(|s| s.status.available_replicas).sum();
    let mut left = (available - min_available).max(0);
    for (_, size) in &mut sizes {
        let take = (*size).clamp(0, left);
        *size -= take;
        left -= take;
    }
    sizes.into_iter().filter_map(|(set, size)| set_size(rollout, set, size)).collect()
}

/// Whether the deployment's size changed since the sets were last scaled.
pub(super) fn is_due(rollout: &Rollout<'_>) -> bool {
    let wanted = rollout.deployment.replicas();
    rollout.all().filter(|s| s.replicas() > 0).any(|s| number(s, DESIRED_REPLICAS).is_some_and(|n| n != wanted))
}

fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.get(annotation)?.parse().ok()
}

/// Follows a change of the deployment's size. In the middle of a roll-out every set gets its share, so that the mix of
/// old and new stays.
pub(super) fn to_deployment(rollout: &Rollout<'_>) -> Vec<Action> {
    let wanted = rollout.deployment.replicas();
    let active: Vec<&ReplicaSet> = rollout.all().filter(|s| s.replicas() > 0).collect();
    let only = match active.as_slice() {
        [] => rollout.new.or_else(|| rollout.old.last().copied()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        return resize(rollout, only, wanted).into_iter().collect();
    }
    if active.is_empty() {
        return Vec::new();
    }
    if rollout.new.is_some_and(|new| is_saturated(new, wanted)) {
        return rollout.old.iter().filter_map(|s| set_size(rollout, s, 0)).collect();
    }
    if rollout.is_rolling() { proportionally(rollout, active) } else { Vec::new() }
}

fn is_saturated(set: &ReplicaSet, wanted: i32) -> bool {
    set.replicas() == wanted && number(set, DESIRED_REPLICAS) == Some(wanted) && set.status.available_replicas == wanted
}

fn proportionally(rollout: &Rollout<'_>, mut active: Vec<&ReplicaSet>) -> Vec<Action> {
    let wanted = rollout.deployment.replicas();
    let total: i32 = active.iter().map(|s| s.replicas()).sum();
    let allowed = if wanted > 0 { wanted + rollout.max_surge() } else { 0 };
    let to_add = allowed - total;
    // The largest first; of equals, the newer gains first, and the older loses first.
    active.sort_by(|a, b| {
        let age = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
        b.replicas().cmp(&a.replicas()).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for set in &active {
        let share = if to_add == 0 { 0 } else { share(rollout, set, to_add - added) };
        added += share;
        sizes.push(set.replicas() + share);
    }
    if let Some(first) = sizes.first_mut() {
        // What rounding leaves over.
        *first = (*first + to_add - added).max(0);
    }
    active.iter().zip(sizes).filter_map(|(set, size)| resize(rollout, set, size)).collect()
}

/// How many pods a set gains or loses, of those that are left to give or take.
fn share(rollout: &Rollout<'_>, set: &ReplicaSet, left: i32) -> i32 {
    let wanted = rollout.deployment.replicas();
    let fraction = if wanted == 0 {
        -set.replicas()
    } else {
        let before = number(set, MAX_REPLICAS).filter(|n| *n != 0).unwrap_or(rollout.deployment.status.replicas);
        if before == 0 {
            return 0;
        }
        let after = f64::from(wanted + rollout.max_surge());
        let size = f64::from(set.replicas()) * after / f64::from(before);
        // In range: sizes are, and `before` is at least 1.
        #[expect(clippy::cast_possible_truncation, reason = "a rounded number of pods")]
        let size = size.round() as i32;
        size - set.replicas()
    };
    if left > 0 { fraction.min(left) } else { fraction.max(left) }
}
