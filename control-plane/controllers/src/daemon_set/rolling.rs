//! Rolling updates of DaemonSets (upstream `pkg/controller/daemon/update.go`).

use std::sync::Arc;

use super::{OnNode, Work, hash_of};
use crate::views::{DaemonSet, Pod};

/// How many nodes may have an old and a new pod at once. `desired` is what a percentage is of.
pub(super) fn surge(set: &DaemonSet, desired: usize) -> usize {
    let total = i32::try_from(desired).unwrap_or(i32::MAX);
    let surge = set.spec.update_strategy.rolling_update.max_surge.as_ref();
    usize::try_from(surge.and_then(|most| most.of(total, true)).unwrap_or_default()).unwrap_or_default()
}

/// How many nodes may be without an available pod.
fn unavailable(set: &DaemonSet, desired: usize, surge: usize) -> usize {
    let total = i32::try_from(desired).unwrap_or(i32::MAX);
    let most = set.spec.update_strategy.rolling_update.max_unavailable.as_ref();
    let most = usize::try_from(most.and_then(|most| most.of(total, true)).unwrap_or(1)).unwrap_or_default();
    // Neither would be a standstill.
    if most == 0 && surge == 0 && desired > 0 { 1 } else { most }
}

/// Replaces old pods, as many as the bounds permit.
pub(super) fn roll(work: &mut Work<'_>, nodes: &[OnNode<'_>]) {
    let desired = nodes.iter().filter(|on_node| on_node.placement.run).count();
    let most_new = surge(work.set, desired);
    let most_missing = unavailable(work.set, desired, most_new);
    if most_new == 0 { replace(work, nodes, most_missing) } else { overlap(work, nodes, most_new) }
}

/// The old and the new pod of a node; pods on their way out are neither.
fn pair<'a>(work: &Work<'_>, on_node: &'a OnNode<'_>) -> (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>) {
    let is_new = |pod: &&Arc<Pod>| hash_of(pod) == work.hash;
    let active = || on_node.pods.iter().filter(|pod| !pod.metadata.is_terminating());
    (active().find(|pod| !is_new(pod)), active().find(is_new))
}

/// Old pods go first; their places are filled when they are gone.
fn replace(work: &mut Work<'_>, nodes: &[OnNode<'_>], most: usize) {
    let (mut missing, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for on_node in nodes.iter().filter(|on_node| on_node.placement.run) {
        match pair(work, on_node) {
            (None, None) => missing += 1,
            (_, Some(new)) => missing += usize::from(!work.is_available(new)),
            // One that does not serve may go at once.
            (Some(old), None) if !work.is_available(old) => {
                broken.push(old.clone());
                missing += 1;
            }
            (Some(old), None) => candidates.push(old.clone()),
        }
    }
    work.delete.extend(broken);
    work.delete.extend(candidates.into_iter().take(most.saturating_sub(missing)));
}

/// New pods come first; old ones go when the new ones are available.
fn overlap(work: &mut Work<'_>, nodes: &[OnNode<'_>], most: usize) {
    let (mut coming, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for on_node in nodes.iter().filter(|on_node| on_node.placement.run) {
        let name = &on_node.node.metadata.name;
        match pair(work, on_node) {
            (Some(old), Some(new)) => {
                if work.is_available(new) {
                    work.delete.push(old.clone());
                } else {
                    coming += 1;
                }
            }
            (Some(old), None) if !work.is_available(old) => {
                broken.push(name.clone());
            }
            (Some(_), None) => candidates.push(name.clone()),
            (None, _) => {}
        }
    }
    work.create.extend(broken);
    work.create.extend(candidates.into_iter().take(most.saturating_sub(coming)));
}
