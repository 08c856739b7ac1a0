//! Who belongs to whom: a controller takes up orphans that its selector selects, and lets go of what it no longer does.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::runtime::Keys;
use crate::runtime::cache::{BY_CONTROLLER, Cache, Change, View};
use crate::runtime::kind::Kind;
use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::{Key, Meta};
use crate::runtime::plan::{Action, Write};

/// Queues an owner whenever one of its dependents changes, was its own before a change, or is an orphan that it
/// `selects`. To be called before the informers start.
pub fn follow<O: View, D: View>(
    owners: &Arc<Cache<O>>,
    dependents: &Cache<D>,
    queue: &Arc<Keys>,
    selects: impl Fn(&O, &Meta) -> bool + Send + Sync + 'static,
) {
    let (keys, owners) = (queue.clone(), owners.clone());
    dependents.on_change(move |change: &Change<'_, D>| {
        for meta in change.previous().into_iter().chain([change.latest()]).map(|dependent| dependent.meta()) {
            match meta.controller() {
                Some(owner) if owner.kind == O::kind().kind => keys.add(Key::new(&meta.namespace, &owner.name)),
                Some(_) => {}
                None => owners
                    .in_namespace(&meta.namespace)
                    .iter()
                    .filter(|owner| selects(owner, meta))
                    .for_each(|owner| keys.add(owner.meta().key())),
            }
        }
    });
}

/// Those that are the owner's to claim: its own, and the orphans that its selector selects.
pub fn candidates<D: View>(dependents: &Cache<D>, owner: &Meta, selector: &LabelSelector) -> Vec<Arc<D>> {
    let mut found = dependents.by_index(BY_CONTROLLER, &owner.uid);
    let orphans = dependents.in_namespace(&owner.namespace).into_iter();
    found.extend(orphans.filter(|d| d.meta().controller().is_none() && selector.matches(&d.meta().labels)));
    found
}

/// What came of looking at the candidates.
#[derive(Debug)]
pub struct Claims<V> {
    /// The owner's objects, those that it takes up among them.
    pub owned: Vec<Arc<V>>,
    /// The writes that take up and let go.
    pub actions: Vec<Action>,
}

/// Sorts candidates into those that belong to the owner and those that do not. `adoptable` says which orphans may be
/// taken up.
pub fn claim<V: View>(
    owner: &Meta,
    owner_kind: &Kind,
    selector: &LabelSelector,
    candidates: &[Arc<V>],
    adoptable: impl Fn(&V) -> bool,
) -> Claims<V> {
    let mut claims = Claims { owned: Vec::new(), actions: Vec::new() };
    for candidate in candidates {
        let meta = candidate.meta();
        let selected = selector.matches(&meta.labels);
        match meta.controller() {
            Some(controller) if controller.uid == owner.uid => {
                if selected {
                    claims.owned.push(candidate.clone());
                } else if !owner.is_terminating() {
                    claims.actions.push(release(V::kind(), meta, &owner.uid).into());
                }
            }
            Some(_) => {}
            None => {
                if selected && !owner.is_terminating() && !meta.is_terminating() && adoptable(candidate) {
                    claims.actions.push(adopt(V::kind(), meta, owner, owner_kind).into());
                    claims.owned.push(candidate.clone());
                }
            }
        }
    }
    claims
}

fn adopt(kind: &Kind, meta: &Meta, owner: &Meta, owner_kind: &Kind) -> Write {
    let mut references = meta.owner_references.clone();
    references.retain(|r| r.uid != owner.uid);
    references.push(owner.as_controller(owner_kind));
    Write::merge_exact(kind, meta, "", json!({"metadata": {"ownerReferences": references}}))
}

fn release(kind: &Kind, meta: &Meta, owner_uid: &str) -> Write {
    let references: Vec<_> = meta.owner_references.iter().filter(|r| r.uid != owner_uid).collect();
    let references = if references.is_empty() { Value::Null } else { json!(references) };
    Write::merge_exact(kind, meta, "", json!({"metadata": {"ownerReferences": references}}))
}

/// The pod that an owner makes from its template: its name is left to the API server.
pub fn pod_from_template(template: &Value, owner: &Meta, owner_kind: &Kind) -> Value {
    let from = &template["metadata"];
    let mut metadata = json!({
        "generateName": format!("{}-", owner.name),
        "namespace": owner.namespace,
        "ownerReferences": [owner.as_controller(owner_kind)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !from[field].is_null() {
            metadata[field] = from[field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::kind;
    use crate::runtime::plan::Verb;
    use crate::views::{Pod, ReplicaSet};

    fn pod(name: &str, label: &str, owner: Option<&str>) -> Arc<Pod> {
        let owners: Vec<Value> = owner
            .iter()
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true}))
            .collect();
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name,
                "resourceVersion": "7", "labels": {"app": label}, "ownerReferences": owners}}))
            .unwrap(),
        )
    }

    #[test]
    fn adopts_and_releases() {
        let set: ReplicaSet = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}}}))
        .unwrap();
        let pods = [
            pod("own", "web", Some("u")),
            pod("other", "web", Some("z")),
            pod("orphan", "web", None),
            pod("left", "db", Some("u")),
            pod("no", "db", None),
        ];
        let claims = claim(&set.metadata, &kind::REPLICA_SET, &set.spec.selector, &pods, |_| true);
        let owned: Vec<&str> = claims.owned.iter().map(|p| p.metadata.name.as_str()).collect();
        assert_eq!(owned, ["own", "orphan"]);
        let patches: Vec<(&str, &Value)> = claims
            .actions
            .iter()
            .map(|a| match a {
                Action::Write(w) => match &w.verb {
                    Verb::Patch(_, _, patch) => (w.name.as_str(), patch),
                    other => panic!("{other:?}"),
                },
                Action::Event(e) => panic!("{e:?}"),
            })
            .collect();
        assert_eq!(patches[0].0, "orphan");
        assert_eq!(patches[0].1["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(patches[0].1["metadata"]["resourceVersion"], "7");
        assert_eq!((patches[1].0, &patches[1].1["metadata"]["ownerReferences"]), ("left", &Value::Null));
    }
}
