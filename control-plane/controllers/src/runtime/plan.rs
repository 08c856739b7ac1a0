//! What a planner decides: writes, in order, and events to tell of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{DeleteOptions, PatchKind};
use super::kind::Kind;
use super::meta::{Meta, ObjectReference};

/// A plan. Steps are carried out one after the other, the actions of a step side by side; after a step in which an
/// action failed, the rest is left for the next plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do.
    pub steps: Vec<Vec<Action>>,
    /// When to look again even if nothing changes.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Adds a step, unless it is empty.
    pub fn step(&mut self, actions: Vec<Action>) {
        if !actions.is_empty() {
            self.steps.push(actions);
        }
    }

    /// Adds a step of one action.
    pub fn act(&mut self, action: Action) {
        self.steps.push(vec![action]);
    }

    /// Adds the actions in steps of 1, 2, 4...: if the first fails (quota, admission), the many are not tried.
    pub fn slow_start(&mut self, actions: Vec<Action>) {
        let mut size = 1;
        let mut actions = actions.into_iter().peekable();
        while actions.peek().is_some() {
            self.steps.push(actions.by_ref().take(size).collect());
            size *= 2;
        }
    }

    /// Looks again after `wait`, or earlier if the plan says so already.
    pub fn look_again(&mut self, wait: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(wait, |earlier| earlier.min(wait)));
    }

    /// All actions, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.steps.iter().flatten()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A request to the API.
    Write(Box<Write>),
    /// An event.
    Event(Box<Note>),
}

/// A request that changes something.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What is asked.
    pub verb: Verb,
    /// Of which kind.
    pub kind: Kind,
    /// Where; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Which; empty if the server makes the name.
    pub name: String,
    /// Events that tell how it went.
    pub report: Option<Report>,
    /// For a creation: what to do instead if the object is there already.
    pub if_exists: IfExists,
}

/// What to do when an object to be created is there already.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum IfExists {
    /// That is a failure.
    #[default]
    Fail,
    /// That is fine.
    Accept,
    /// Write this.
    Instead(Box<Write>),
}

/// The ways to change something.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// POST of the object.
    Create(Value),
    /// PUT of the object or, if not empty, of what is served below it.
    Replace(&'static str, Value),
    /// PATCH of the object or of what is served below it.
    Patch(&'static str, PatchKind, Value),
    /// DELETE.
    Delete(DeleteOptions),
    /// POST to what is served below the object (`eviction`, `binding`).
    Post(&'static str, Value),
}

/// How to tell of a write: the object's name, or the error, is put at the end of the message.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the events are about.
    pub regarding: ObjectReference,
    /// Reason and message if it went well; the message may have `{}` where the written object's name goes.
    pub success: Option<(&'static str, String)>,
    /// Reason and beginning of the message if it failed.
    pub failure: Option<(&'static str, String)>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub regarding: ObjectReference,
    /// `Warning`, or else `Normal`.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Note {
    /// A `Normal` event.
    pub fn normal(regarding: ObjectReference, reason: &str, message: impl Into<String>) -> Self {
        Self { regarding, warning: false, reason: reason.to_owned(), message: message.into() }
    }

    /// A `Warning` event.
    pub fn warning(regarding: ObjectReference, reason: &str, message: impl Into<String>) -> Self {
        Self { regarding, warning: true, reason: reason.to_owned(), message: message.into() }
    }
}

impl From<Note> for Action {
    fn from(note: Note) -> Self {
        Self::Event(Box::new(note))
    }
}

impl From<Write> for Action {
    fn from(write: Write) -> Self {
        Self::Write(Box::new(write))
    }
}

/// A patch that applies only to the object as the view has it.
pub fn exact_patch(meta: &Meta, mut patch: Value) -> Value {
    if !patch["metadata"].is_object() {
        patch["metadata"] = json!({});
    }
    patch["metadata"]["uid"] = meta.uid.as_str().into();
    patch["metadata"]["resourceVersion"] = meta.resource_version.to_string().into();
    patch
}

impl Write {
    fn new(verb: Verb, kind: &Kind, namespace: &str, name: &str) -> Self {
        Self {
            verb,
            kind: kind.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            report: None,
            if_exists: IfExists::Fail,
        }
    }

    /// Creates an object; its name is read from the body.
    pub fn create(kind: &Kind, namespace: &str, body: Value) -> Self {
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Self::new(Verb::Create(body), kind, namespace, &name)
    }

    /// Replaces what is served below an object by that of `body`, provided that the object still has the resource
    /// version that `body` has.
    pub fn replace(kind: &Kind, subresource: &'static str, body: Value) -> Self {
        let text = |key: &str| body["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        Self::new(Verb::Replace(subresource, body), kind, &namespace, &name)
    }

    /// Merges `patch` into the object (RFC 7386), provided that it is still the one with the view's uid.
    pub fn merge(kind: &Kind, meta: &Meta, subresource: &'static str, mut patch: Value) -> Self {
        if !patch["metadata"].is_object() {
            patch["metadata"] = json!({});
        }
        patch["metadata"]["uid"] = meta.uid.as_str().into();
        Self::new(Verb::Patch(subresource, PatchKind::Merge, patch), kind, &meta.namespace, &meta.name)
    }

    /// Merges `patch` into the object, provided that it has not changed since the view.
    pub fn merge_exact(kind: &Kind, meta: &Meta, subresource: &'static str, patch: Value) -> Self {
        Self::merge(kind, meta, subresource, exact_patch(meta, patch))
    }

    /// Puts a finalizer on the object, provided that it has not changed since the view.
    pub fn with_finalizer(kind: &Kind, meta: &Meta, finalizer: &str) -> Self {
        let finalizers: Vec<&str> = meta.finalizers.iter().map(String::as_str).chain([finalizer]).collect();
        Self::merge_exact(kind, meta, "", json!({"metadata": {"finalizers": finalizers}}))
    }

    /// Takes a finalizer off the object, provided that it has not changed since the view.
    pub fn without_finalizer(kind: &Kind, meta: &Meta, finalizer: &str) -> Self {
        let left: Vec<&String> = meta.finalizers.iter().filter(|f| *f != finalizer).collect();
        let left = if left.is_empty() { Value::Null } else { json!(left) };
        Self::merge_exact(kind, meta, "", json!({"metadata": {"finalizers": left}}))
    }

    /// Deletes the object, provided that it is still the one with the view's uid.
    pub fn delete(kind: &Kind, meta: &Meta) -> Self {
        Self::delete_with(kind, meta, DeleteOptions::default())
    }

    /// Deletes the object in a certain way, provided that it is still the one with the view's uid.
    pub fn delete_with(kind: &Kind, meta: &Meta, mut options: DeleteOptions) -> Self {
        options.uid = Some(meta.uid.clone());
        Self::new(Verb::Delete(options), kind, &meta.namespace, &meta.name)
    }

    /// Posts to what is served below the object.
    pub fn post(kind: &Kind, meta: &Meta, subresource: &'static str, body: Value) -> Self {
        Self::new(Verb::Post(subresource, body), kind, &meta.namespace, &meta.name)
    }

    /// Tells of it by events.
    #[must_use]
    pub fn reported(mut self, report: Report) -> Self {
        self.report = Some(report);
        self
    }

    /// If it is there already, that is fine.
    #[must_use]
    pub fn accept_existing(mut self) -> Self {
        self.if_exists = IfExists::Accept;
        self
    }

    /// If it is there already, something else is written.
    #[must_use]
    pub fn or_if_exists(mut self, other: Self) -> Self {
        self.if_exists = IfExists::Instead(Box::new(other));
        self
    }
}

/// A merge patch that makes one map another; `None` if it is already.
pub fn map_patch(wanted: &BTreeMap<String, String>, current: &BTreeMap<String, String>) -> Option<Value> {
    if wanted == current {
        return None;
    }
    let mut patch = json!(wanted);
    for gone in current.keys().filter(|k| !wanted.contains_key(*k)) {
        patch[gone] = Value::Null;
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::kind;

    #[test]
    fn slow_start_doubles() {
        let mut plan = Plan::nothing();
        let action: Action = Write::create(&kind::POD, "n", json!({})).into();
        plan.slow_start(vec![action; 10]);
        assert_eq!(plan.steps.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 4, 3]);
    }

    #[test]
    fn the_earlier_look_wins() {
        let mut plan = Plan::nothing();
        plan.look_again(Duration::from_secs(5));
        plan.look_again(Duration::from_secs(9));
        assert_eq!(plan.requeue_after, Some(Duration::from_secs(5)));
    }
}
