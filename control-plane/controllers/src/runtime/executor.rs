//! Carries plans out, and makes no decisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;

use super::api::{Api, ApiError};
use super::cache::{Cache, Sink, View};
use super::kind::Kind;
use super::meta::{Key, Meta};
use super::plan::{Action, IfExists, Note, Plan, Report, Verb, Write};
use super::recorder::Recorder;

/// Requests of a plan's step that are under way at once.
const CONCURRENCY: usize = 16;

/// Carries plans out.
#[derive(Clone)]
pub struct Executor {
    /// Where requests go.
    pub api: Api,
    /// Where events go.
    pub recorder: Recorder,
    sinks: Arc<Sinks>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

/// The caches that see own writes at once.
#[derive(Default)]
pub struct Sinks(BTreeMap<(String, String), Arc<dyn Sink>>);

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Sinks {
    /// Adds a cache.
    pub fn add<V: View>(&mut self, cache: &Arc<Cache<V>>) {
        let kind = V::kind();
        self.0.insert((kind.group.to_string(), kind.plural.to_string()), cache.clone());
    }

    fn of(&self, kind: &Kind) -> Option<&Arc<dyn Sink>> {
        self.0.get(&(kind.group.to_string(), kind.plural.to_string()))
    }

    /// Hands the answer to a write to the kind's cache.
    pub fn wrote(&self, kind: &Kind, body: &[u8]) {
        if let Some(sink) = self.of(kind) {
            sink.wrote(body);
        }
    }

    /// Hands an answer to the kind's cache; the written object's name.
    fn take_in(&self, write: &Write, body: &Bytes) -> String {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Answer {
            kind: String,
            metadata: Meta,
        }
        let Answer { kind, metadata: meta } = serde_json::from_slice(body).unwrap_or_default();
        match (&write.verb, self.of(&write.kind)) {
            (Verb::Delete(options), Some(sink)) => {
                let waits = meta.is_terminating()
                    && (!meta.finalizers.is_empty() || meta.deletion_grace_period_seconds.unwrap_or_default() > 0);
                if waits {
                    sink.wrote(body);
                } else {
                    self.forget(write, options.uid.as_deref().unwrap_or(&meta.uid));
                }
            }
            // What is served below an object may be of another kind, with the object's name and resource version (`Scale`):
            // taken for the object, it would stand for it until the next change.
            (verb, Some(sink)) if kind == write.kind.kind => {
                // Taking away the last finalizer of an object that is being deleted removes it.
                let took_finalizers =
                    matches!(verb, Verb::Patch(_, _, patch) if patch.pointer("/metadata/finalizers").is_some());
                let is_last = meta.is_terminating()
                    && meta.finalizers.is_empty()
                    && meta.deletion_grace_period_seconds.unwrap_or_default() == 0;
                if took_finalizers && is_last {
                    sink.deleted(&meta.key(), &meta.uid);
                } else {
                    sink.wrote(body);
                }
            }
            _ => {}
        }
        if write.name.is_empty() { meta.name } else { write.name.clone() }
    }

    fn forget(&self, write: &Write, uid: &str) {
        if let Some(sink) = self.of(&write.kind) {
            sink.deleted(&Key::new(&write.namespace, &write.name), uid);
        }
    }
}

/// Why a plan was not carried out to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action}: {error}")]
pub struct Failure {
    /// What was tried.
    pub action: String,
    /// What came of it.
    pub error: ApiError,
    /// It was a creation.
    pub creating: bool,
    /// It was a deletion.
    pub deleting: bool,
}

impl Executor {
    /// Carries plans out through `api`; answers go to `sinks`.
    pub fn new(api: Api, recorder: Recorder, sinks: Sinks) -> Self {
        Self { api, recorder, sinks: Arc::new(sinks) }
    }

    /// The same, with events from another component.
    pub fn of(&self, component: &'static str) -> Self {
        Self { recorder: self.recorder.of(component), ..self.clone() }
    }

    /// Carries a plan out; the first failure of the first step in which something failed.
    pub async fn execute(&self, plan: Plan) -> Result<(), Failure> {
        for step in plan.steps {
            let actions = step.into_iter().map(|action| self.act(action));
            let outcomes: Vec<_> = futures::stream::iter(actions).buffered(CONCURRENCY).collect().await;
            outcomes.into_iter().collect::<Result<(), Failure>>()?;
        }
        Ok(())
    }

    async fn act(&self, action: Action) -> Result<(), Failure> {
        match action {
            Action::Event(note) => {
                self.recorder.record(*note);
                Ok(())
            }
            Action::Write(write) => self.write(*write).await,
        }
    }

    /// Sends a write, tells of it, and takes its answer in.
    pub async fn write(&self, write: Write) -> Result<(), Failure> {
        let mut write = write;
        let error = loop {
            match self.send(&write).await {
                Ok(body) => {
                    let name = self.sinks.take_in(&write, &body);
                    if let Some(Report { regarding, success: Some((reason, message)), .. }) = write.report {
                        self.recorder.record(Note::normal(regarding, reason, message.replace("{}", &name)));
                    }
                    return Ok(());
                }
                Err(error) if error.is_already_exists() => match std::mem::take(&mut write.if_exists) {
                    IfExists::Fail => break error,
                    IfExists::Accept => return Ok(()),
                    IfExists::Instead(other) => write = *other,
                },
                Err(error) => break error,
            }
        };
        self.settle(write, error)
    }

    /// What an error means: nothing, where it says that what was wanted is so already.
    fn settle(&self, write: Write, error: ApiError) -> Result<(), Failure> {
        let creating = matches!(write.verb, Verb::Create(_));
        let deleting = match &write.verb {
            Verb::Delete(options) => {
                // Gone, or replaced by another of the same name.
                let replaced = error.is_conflict() && options.resource_version.is_none();
                if error.is_not_found() || replaced {
                    self.sinks.forget(&write, options.uid.as_deref().unwrap_or_default());
                    return Ok(());
                }
                true
            }
            _ => false,
        };
        // The object to change is gone: the watch will tell. Nothing can be made in a namespace that goes away.
        if (!creating && error.is_not_found()) || (creating && error.is_namespace_terminating()) {
            return Ok(());
        }
        let action = format!("{} {} {}/{}", verb_name(&write.verb), write.kind.plural, write.namespace, write.name);
        if !error.is_conflict()
            && let Some(Report { regarding, failure: Some((reason, message)), .. }) = write.report
        {
            self.recorder.record(Note::warning(regarding, reason, format!("{message}{error}")));
        }
        Err(Failure { action, error, creating, deleting })
    }

    async fn send(&self, write: &Write) -> Result<Bytes, ApiError> {
        let Write { kind, namespace, name, .. } = write;
        match &write.verb {
            Verb::Create(body) => self.api.create(kind, namespace, body).await,
            Verb::Replace(subresource, body) => self.api.replace(kind, namespace, name, subresource, body).await,
            Verb::Patch(subresource, how, body) => self.api.patch(kind, namespace, name, subresource, *how, body).await,
            Verb::Delete(options) => self.api.delete(kind, namespace, name, options).await,
            Verb::Post(subresource, body) => {
                self.api.create_at(kind.object_path(namespace, name, subresource), body).await
            }
        }
    }
}

fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Create(_) | Verb::Post(..) => "create",
        Verb::Replace(..) => "update",
        Verb::Patch(..) => "patch",
        Verb::Delete(_) => "delete",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::kind;
    use crate::views::Deployment;

    #[test]
    fn an_answer_of_another_kind_is_not_taken_for_the_object() {
        let cache = Arc::new(Cache::<Deployment>::default());
        let mut sinks = Sinks::default();
        sinks.add(&cache);
        let metadata = |version: &str| json!({"name": "d", "namespace": "n", "uid": "u", "resourceVersion": version});
        let deployment = |version: &str, replicas: i32| {
            let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}});
            json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata(version), "spec": spec})
        };
        let read = |object: serde_json::Value| serde_json::from_value::<Deployment>(object).unwrap();
        cache.watched(read(deployment("5", 1)));
        let meta = cache.list()[0].metadata.clone();
        // The answer to a write of the scale comes before the watch's news of the same resource version.
        let write = Write::merge(&kind::DEPLOYMENT, &meta, "scale", json!({"spec": {"replicas": 2}}));
        let scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata("6"), "spec": {"replicas": 2}});
        assert_eq!(sinks.take_in(&write, &scale.to_string().into()), "d");
        assert_eq!(cache.list()[0].replicas(), 1);
        cache.watched(read(deployment("6", 2)));
        assert!(cache.list()[0].replicas() == 2 && !cache.list()[0].spec.selector.is_empty());
        // That of the object itself is taken.
        let write = Write::merge(&kind::DEPLOYMENT, &meta, "", json!({"spec": {"replicas": 3}}));
        sinks.take_in(&write, &deployment("7", 3).to_string().into());
        assert_eq!(cache.list()[0].replicas(), 3);
    }
}
