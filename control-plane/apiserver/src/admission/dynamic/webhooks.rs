//! Calling webhooks: those that mutate one after the other, those that validate all at once (apiserver
//! `admission/plugin/webhook/{mutating,validating}/dispatcher.go`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;
use xebec_clock::Random;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_schema::{convert, defaults, patch, walk};

use super::answer::{self, Answer};
use super::expressions::{self, Matched, Seen};
use super::hooks::{Hook, Hooks};
use super::request;
use crate::admission::{Plugin, Review};
use crate::authz::{Answers, Authorizer};
use crate::metrics::admission::{Step, Why};
use crate::reader::Reader;
use crate::webhook::WebhookClient;

/// `MutatingAdmissionWebhook` or `ValidatingAdmissionWebhook`.
pub struct Webhooks {
    mutating: bool,
    hooks: Hooks,
    client: WebhookClient,
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    random: Random,
}

/// What a webhook made of a request that did not go well.
enum Failure {
    /// It could not be asked, or made no sense.
    Call {
        /// What went wrong.
        why: String,
        /// The HTTP code that this is counted as.
        code: u16,
    },
    /// It said no; or the request cannot be put to it.
    Refused(Status),
}

impl Failure {
    fn call(why: String, code: u16) -> Self {
        Self::Call { why, code }
    }
}

/// How a call ends that the webhook's failure policy has been applied to.
enum Outcome {
    Answered(Answer),
    /// It failed, and may.
    FailedOpen,
}

impl Webhooks {
    /// Those of the `MutatingWebhookConfiguration`s, or of the `ValidatingWebhookConfiguration`s.
    pub fn new(
        mutating: bool,
        client: WebhookClient,
        reader: Arc<dyn Reader>,
        authorizer: Arc<dyn Authorizer>,
        random: Random,
    ) -> Self {
        let plural = if mutating { "mutatingwebhookconfigurations" } else { "validatingwebhookconfigurations" };
        let hooks = Hooks::new(reader.clone(), plural);
        Self { mutating, hooks, client, reader, authorizer, random }
    }

    /// As which kind the webhook is to see the request; `None` if it is not to see it.
    async fn concerns(&self, hook: &Hook, review: &Review<'_>) -> Result<Option<Arc<Resource>>, Status> {
        let Some(row) = hook.matcher.matches(review, &*self.reader, false)? else { return Ok(None) };
        if hook.conditions.is_empty() {
            return Ok(Some(row));
        }
        let answers = Answers::of(&*self.authorizer);
        let matched = answers.settle(|answers| {
            let seen = Seen::new(review, &row, &*self.reader, answers);
            expressions::conditions(&hook.conditions, &seen.activation())
        });
        match matched.await {
            Matched::Yes => Ok(Some(row)),
            Matched::No => Ok(None),
            Matched::Unknown(why) if hook.fail => {
                Err(Status::forbidden(&review.requested.group, &review.requested.plural, review.name, &why))
            }
            Matched::Unknown(_) => Ok(None),
        }
    }

    async fn call(&self, hook: &Hook, review: &Review<'_>, row: &Resource) -> Result<Outcome, Status> {
        let begun = Instant::now();
        let asked = self.ask(hook, review, row).await;
        self.count(hook, review, &asked, begun.elapsed());
        match asked {
            Ok(answer) if answer.allowed => Ok(Outcome::Answered(answer)),
            Ok(answer) => Err(answer::denied(&hook.name, &answer.status)),
            Err(Failure::Refused(status)) => Err(status),
            Err(Failure::Call { why, .. }) if hook.fail => {
                Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
            }
            Err(Failure::Call { why, .. }) => {
                tracing::warn!("Failed calling webhook, failing open {}: {why}", hook.name);
                Ok(Outcome::FailedOpen)
            }
        }
    }

    /// Counts a call, and what came of it.
    fn count(&self, hook: &Hook, review: &Review<'_>, asked: &Result<Answer, Failure>, took: Duration) {
        let Some(metrics) = review.call.map(|call| &call.server.metrics.admission) else { return };
        let (code, rejected) = match asked {
            Ok(answer) if answer.allowed => (200, None),
            Ok(answer) => {
                let code = answer::denied(&hook.name, &answer.status).code;
                (code, Some((Why::Said, code)))
            }
            Err(Failure::Call { code, .. }) => (*code, hook.fail.then_some((Why::Calling, *code))),
            Err(Failure::Refused(_)) => (0, Some((Why::Internal, 0))),
        };
        let kind = if self.mutating { "admit" } else { "validating" };
        let operation = review.operation.name();
        let step = Step { kind, operation, rejected: rejected.is_some() };
        if let Some((why, code)) = rejected {
            metrics.rejected(step, &hook.name, why, code);
        }
        if matches!(asked, Err(Failure::Call { .. })) && !hook.fail {
            metrics.failed_open(kind, &hook.name);
        }
        metrics.called(step, &hook.name, took, code);
    }

    async fn ask(&self, hook: &Hook, review: &Review<'_>, row: &Resource) -> Result<Answer, Failure> {
        if review.dry_run && !hook.dry_run {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Refused(Status::bad_request(why)));
        }
        let target = hook.target.as_ref();
        let target = target.map_err(|why| Failure::call(format!("could not get REST client: {why}"), 400))?;
        let uid = self.random.uuid();
        let mut request = request::request(review, row);
        request["uid"] = uid.as_str().into();
        request["object"] = request::object(review, row);
        request["oldObject"] = request::old_object(review, row);
        let version = if hook.v1 { "admission.k8s.io/v1" } else { "admission.k8s.io/v1beta1" };
        let body = json!({"kind": "AdmissionReview", "apiVersion": version, "request": request});
        let body = serde_json::to_vec(&body).map_err(|e| Failure::call(e.to_string(), 503))?;
        let answered = self.client.post(target, Bytes::from(body), hook.timeout).await;
        let answered = answered.map_err(|e| Failure::call(format!("failed to call webhook: {e}"), e.code()))?;
        answer::read(&answered, &uid, hook.v1, self.mutating).map_err(|why| {
            // What is no JSON has not even been received.
            let stage = if why.starts_with("couldn't get") {
                "failed to call webhook"
            } else {
                "received invalid webhook response"
            };
            Failure::call(format!("{stage}: {why}"), 503)
        })
    }

    fn failed_open(&self, hook: &Hook, review: &mut Review<'_>, index: usize) {
        let sort = if self.mutating { "mutation" } else { "validating" };
        let key = format!("failed-open.{sort}.webhook.admission.k8s.io/round_0_index_{index}");
        review.annotations.push((key, hook.name.clone()));
    }

    fn said(hook: &Hook, review: &mut Review<'_>, answer: &Answer) {
        review.warnings.extend(answer.warnings.iter().cloned());
        let notes = answer.annotations.iter().map(|(key, value)| (format!("{}/{key}", hook.name), value.clone()));
        review.annotations.extend(notes);
    }

    /// Calls one that mutates. Answers whether it has changed the object.
    async fn mutate_by(
        &self,
        hook: &Hook,
        index: usize,
        review: &mut Review<'_>,
        row: &Resource,
    ) -> Result<bool, Status> {
        let answer = match self.call(hook, review, row).await? {
            Outcome::Answered(answer) => answer,
            Outcome::FailedOpen => {
                self.failed_open(hook, review, index);
                return Ok(false);
            }
        };
        Self::said(hook, review, &answer);
        let changed = match &answer.patch {
            Some(patch) if patch.as_array().is_none_or(|operations| !operations.is_empty()) => {
                apply(hook, review, row, patch)?
            }
            _ => false,
        };
        let round = u8::from(review.reinvocation.again);
        let key = format!("mutation.webhook.admission.k8s.io/round_{round}_index_{index}");
        let note =
            format!("{{\"configuration\":{:?},\"webhook\":{:?},\"mutated\":{changed}}}", hook.configuration, hook.name);
        review.annotations.push((key, note));
        Ok(changed)
    }
}

/// Applies a webhook's patch to the object. Answers whether that has changed it.
fn apply(hook: &Hook, review: &mut Review<'_>, row: &Resource, operations: &Value) -> Result<bool, Status> {
    let Some(object) = review.object.as_mut() else {
        let why = format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        );
        return Err(Status::internal(why));
    };
    let shown = request::shown(row, review.subresource, object);
    let patched = patch::json_patch(&shown, operations).map_err(Status::internal)?;
    let new = accept(row, review.subresource, object, patched)?;
    let changed = new != *object;
    *object = new;
    Ok(changed)
}

/// A changed object in the stored version, checked and with its defaults.
pub(super) fn accept(row: &Resource, subresource: &str, before: &Value, mut patched: Value) -> Result<Value, Status> {
    if subresource == "scale" {
        let mut new = before.clone();
        let replicas = patched["spec"]["replicas"].as_i64().unwrap_or_default();
        match row.custom.as_ref().and_then(|custom| custom.scale()) {
            Some(scale) => scale.want(&mut new, replicas),
            None => new["spec"]["replicas"] = replicas.into(),
        }
        return Ok(new);
    }
    if row.subresource(subresource).is_some_and(|sub| !sub.version.is_empty() || sub.kind != row.kind) {
        return Ok(patched);
    }
    if let Some(custom) = &row.custom {
        custom.coerce(&mut patched).map_err(Status::internal)?;
        custom.default(&mut patched);
        patched["apiVersion"] = before["apiVersion"].clone();
        return Ok(patched);
    }
    walk::check_types(row, &patched).map_err(Status::internal)?;
    walk::prune(row, &mut patched);
    defaults::apply(row, &mut patched);
    (row.strategy.default)(&mut patched);
    convert::to_stored(row, &mut patched);
    Ok(patched)
}

#[async_trait]
impl Plugin for Webhooks {
    fn name(&self) -> &'static str {
        if self.mutating { "MutatingAdmissionWebhook" } else { "ValidatingAdmissionWebhook" }
    }

    fn is_dynamic(&self) -> bool {
        self.mutating
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !self.mutating || super::is_exempt(review) {
            return Ok(());
        }
        let hooks = self.hooks.load();
        if hooks.is_empty() {
            return Ok(());
        }
        let again = review.reinvocation.again;
        review.reinvocation.webhooks.begin(again, review.object.as_ref());
        for (index, hook) in hooks.iter().enumerate() {
            if again && !review.reinvocation.webhooks.due.contains(&hook.id) {
                continue;
            }
            let Some(row) = self.concerns(hook, review).await? else { continue };
            if self.mutate_by(hook, index, review, &row).await? {
                review.reinvocation.webhooks.changed();
                review.reinvocation.wanted = true;
            }
            if hook.reinvoked {
                review.reinvocation.webhooks.invoked.insert(hook.id.clone());
            }
        }
        review.reinvocation.webhooks.last.clone_from(&review.object);
        Ok(())
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if self.mutating || super::is_exempt(review) {
            return Ok(());
        }
        let hooks = self.hooks.load();
        let mut concerned = Vec::new();
        for (index, hook) in hooks.iter().enumerate() {
            if let Some(row) = self.concerns(hook, review).await? {
                concerned.push((index, hook, row));
            }
        }
        if concerned.is_empty() {
            return Ok(());
        }
        let seen: &Review<'_> = review;
        let outcomes = join_all(concerned.iter().map(|(_, hook, row)| self.call(hook, seen, row))).await;
        let mut refused = None;
        for ((index, hook, _), outcome) in concerned.iter().zip(outcomes) {
            match outcome {
                Ok(Outcome::Answered(answer)) => Self::said(hook, review, &answer),
                Ok(Outcome::FailedOpen) => self.failed_open(hook, review, *index),
                Err(status) => refused = refused.or(Some(status)),
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
