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
    sinks: Arc<BTreeMap<(String, String), Arc<dyn Sink>>>,
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

    /// Hands the answer to a write to the kind's cache.
    pub fn wrote(&self, kind: &Kind, body: &[u8]) {
        if let Some(sink) = self.0.get(&(kind.group.to_string(), kind.plural.to_string())) {
            sink.wrote(body);
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
        Self { api, recorder, sinks: Arc::new(sinks.0) }
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
                    let name = self.take_in(&write, &body);
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
                    self.forget(&write, options.uid.as_deref().unwrap_or_default());
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

    /// Hands an answer to the kind's cache; the written object's name.
    fn take_in(&self, write: &Write, body: &Bytes) -> String {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            metadata: Meta,
        }
        if matches!(write.verb, Verb::Post(..)) {
            return write.name.clone();
        }
        let answer: Option<Answer> = serde_json::from_slice(body).ok();
        let meta = answer.map(|a| a.metadata).unwrap_or_default();
        let sink = self.sinks.get(&(write.kind.group.to_string(), write.kind.plural.to_string()));
        match (&write.verb, sink) {
            (Verb::Delete(options), Some(sink)) => {
                let waits = meta.is_terminating()
                    && (!meta.finalizers.is_empty() || meta.deletion_grace_period_seconds.unwrap_or_default() > 0);
                if waits {
                    sink.wrote(body);
                } else {
                    self.forget(write, options.uid.as_deref().unwrap_or(&meta.uid));
                }
            }
            (verb, Some(sink)) => {
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
            (_, None) => {}
        }
        if write.name.is_empty() { meta.name } else { write.name.clone() }
    }

    fn forget(&self, write: &Write, uid: &str) {
        if let Some(sink) = self.sinks.get(&(write.kind.group.to_string(), write.kind.plural.to_string())) {
            sink.deleted(&Key::new(&write.namespace, &write.name), uid);
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
