//! The history of a StatefulSet or a DaemonSet: its templates, as ControllerRevisions (upstream
//! `pkg/controller/history`).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::deployment::template_hash;
use crate::runtime::kind::{self, Kind};
use crate::runtime::meta::Meta;
use crate::runtime::plan::{Action, Write};
use crate::views::ControllerRevision;

/// How many old revisions are kept, unless the object says.
const KEPT: usize = 10;

/// Whose history it is, and what is particular to its kind.
pub(crate) struct Owner<'a> {
    pub meta: &'a Meta,
    pub kind: &'static Kind,
    /// The template of now.
    pub template: &'a Value,
    /// The label that carries a revision's hash.
    pub hash_label: &'a str,
    /// The status' `collisionCount`.
    pub collisions: Option<i32>,
}

/// The history with the newest revision in it, and what makes it so.
pub(crate) struct History {
    /// From the oldest to the newest; the last is the template of now.
    pub revisions: Vec<Revision>,
    /// What is to be written.
    pub actions: Vec<Action>,
    /// The status' `collisionCount`.
    pub collisions: Option<i32>,
}

/// A revision.
#[derive(Clone, Debug)]
pub(crate) struct Revision {
    pub name: String,
    pub hash: String,
    pub number: i64,
    /// The patch that restores the template.
    pub data: Value,
    meta: Option<Meta>,
}

impl Revision {
    /// The pod template that it keeps.
    pub fn template(&self) -> Value {
        let mut template = self.data["spec"]["template"].clone();
        if let Some(fields) = template.as_object_mut() {
            fields.remove("$patch");
        }
        template
    }
}

/// The patch by which `kubectl rollout undo` puts a template back.
fn patch_of(template: &Value) -> Value {
    let mut template = template.clone();
    if template.is_object() {
        template["$patch"] = "replace".into();
    }
    json!({"spec": {"template": template}})
}

impl History {
    /// Finds or makes the revision of the template of now.
    pub fn of(owner: &Owner<'_>, known: &[Arc<ControllerRevision>]) -> Self {
        let mut known: Vec<&ControllerRevision> = known.iter().map(Arc::as_ref).collect();
        known.sort_by_key(|r| (r.revision, r.metadata.creation_timestamp, r.metadata.name.clone()));
        let mut revisions: Vec<Revision> = known
            .iter()
            .map(|r| Revision {
                name: r.metadata.name.clone(),
                hash: r.metadata.labels.get(owner.hash_label).cloned().unwrap_or_default(),
                number: r.revision,
                data: r.data.value(),
                meta: Some(r.metadata.clone()),
            })
            .collect();
        let data = patch_of(owner.template);
        let next = revisions.last().map_or(1, |last| last.number + 1);
        let mut history = Self { revisions: Vec::new(), actions: Vec::new(), collisions: owner.collisions };
        match revisions.iter().rposition(|revision| revision.data == data) {
            Some(at) if at + 1 == revisions.len() => {}
            Some(at) => {
                // A template of old is back: its revision becomes the newest.
                let mut again = revisions.remove(at);
                again.number = next;
                if let Some(meta) = &again.meta {
                    let patch = json!({"revision": next});
                    history.actions.push(Write::merge(&kind::CONTROLLER_REVISION, meta, "", patch).into());
                }
                revisions.push(again);
            }
            None => {
                let (name, hash) = history.free_name(owner, &revisions);
                history.actions.push(create(owner, &name, &hash, &data, next));
                revisions.push(Revision { name, hash, number: next, data, meta: None });
            }
        }
        history.revisions = revisions;
        history
    }

    /// A name that no other template has.
    fn free_name(&mut self, owner: &Owner<'_>, revisions: &[Revision]) -> (String, String) {
        loop {
            let hash = template_hash(owner.template, self.collisions.filter(|n| *n > 0));
            let name = format!("{}-{hash}", owner.meta.name);
            if revisions.iter().all(|revision| revision.name != name) {
                return (name, hash);
            }
            self.collisions = Some(self.collisions.unwrap_or_default() + 1);
        }
    }

    /// The revision of now.
    pub fn newest(&self) -> Option<&Revision> {
        self.revisions.last()
    }

    /// The revision called `name`.
    pub fn get(&self, name: &str) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.name == name)
    }

    /// Deletions of old revisions that nobody uses, beyond those that are kept.
    pub fn truncate(&self, in_use: &BTreeSet<&str>, limit: Option<i32>) -> Vec<Action> {
        let limit = limit.map_or(KEPT, |n| usize::try_from(n).unwrap_or_default());
        let used = |r: &Revision| in_use.contains(r.name.as_str()) || in_use.contains(r.hash.as_str());
        let idle: Vec<&Meta> =
            self.revisions.iter().filter(|r| !used(r)).filter_map(|revision| revision.meta.as_ref()).collect();
        let surplus = idle.len().saturating_sub(limit);
        idle[..surplus].iter().map(|meta| Write::delete(&kind::CONTROLLER_REVISION, meta).into()).collect()
    }
}

fn create(owner: &Owner<'_>, name: &str, hash: &str, data: &Value, number: i64) -> Action {
    let mut labels = owner.template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(owner.hash_label.to_owned(), hash.into());
    let mut annotations = owner.meta.annotations.clone();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    let body = json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": owner.meta.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner.meta.as_controller(owner.kind)],
        },
        "data": data,
        "revision": number,
    });
    Write::create(&kind::CONTROLLER_REVISION, &owner.meta.namespace, body).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::Verb;

    fn stored(action: &Action) -> Arc<ControllerRevision> {
        let Action::Write(write) = action else { panic!("{action:?}") };
        let Verb::Create(body) = &write.verb else { panic!("{write:?}") };
        Arc::new(serde_json::from_value(body.clone()).unwrap())
    }

    fn history(template: &Value, known: &[Arc<ControllerRevision>]) -> History {
        let meta: Meta = serde_json::from_value(json!({"name": "web", "namespace": "n", "uid": "u"})).unwrap();
        let owner = Owner { meta: &meta, kind: &kind::DAEMON_SET, template, hash_label: "h", collisions: None };
        History::of(&owner, known)
    }

    #[test]
    fn templates_come_and_come_back() {
        let (one, two) = (json!({"spec": {"x": 1}}), json!({"spec": {"x": 2}}));
        let first = history(&one, &[]);
        assert_eq!((first.revisions.len(), first.newest().unwrap().number), (1, 1));
        let mut known = vec![stored(&first.actions[0])];
        assert!(history(&one, &known).actions.is_empty());
        let second = history(&two, &known);
        assert_eq!(second.newest().unwrap().number, 2);
        assert_eq!(second.newest().unwrap().template(), two);
        known.push(stored(&second.actions[0]));
        // Back to the first: no new revision, a new number.
        let back = history(&one, &known);
        assert_eq!(back.newest().unwrap().name, first.newest().unwrap().name);
        assert_eq!(back.newest().unwrap().number, 3);
        assert_eq!(back.actions.len(), 1);
        assert_eq!(back.truncate(&BTreeSet::new(), Some(1)).len(), 1);
        assert!(back.truncate(&BTreeSet::new(), Some(5)).is_empty());
        let name = back.newest().unwrap().name.clone();
        assert_eq!(back.truncate(&BTreeSet::from([name.as_str()]), Some(0)).len(), 1);
    }
}
