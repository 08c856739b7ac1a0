//! What goes when its time is over: finished jobs, bootstrap tokens, events.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::context::Context;
use crate::runtime::api::{DeleteOptions, Scope, decode_base64};
use crate::runtime::cache::Change;
use crate::runtime::informer::read_list;
use crate::runtime::meta::{Key, Meta};
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{Job, Secret};

/// Deletes a finished job when its `ttlSecondsAfterFinished` is over (upstream `pkg/controller/ttlafterfinished`).
pub fn plan_job(job: &Job, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(ttl) = job.spec.ttl_seconds_after_finished else { return plan };
    let finished =
        job.status.conditions.iter().find(|c| c.is_true() && matches!(c.kind.as_str(), "Complete" | "Failed"));
    let Some(since) = finished.and_then(|c| c.last_transition_time) else { return plan };
    if job.metadata.is_terminating() {
        return plan;
    }
    let left = left(since, SignedDuration::from_secs(ttl), now);
    if left.is_zero() {
        let options = DeleteOptions { propagation_policy: Some("Foreground"), ..DeleteOptions::default() };
        plan.act(Write::delete_with(&kind::JOB, &job.metadata, options).into());
    } else {
        plan.look_again(left);
    }
    plan
}

/// Deletes a bootstrap token that has expired (upstream `pkg/controller/bootstrap/tokencleaner.go`).
pub fn plan_token(secret: &Secret, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(expiration) = secret.data.get("expiration") else { return plan };
    let text = decode_base64(expiration).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    // What cannot be read as a time is taken for expired: the token is refused anyway.
    let due: Timestamp = text.and_then(|t| t.parse().ok()).unwrap_or(now);
    let left = left(due, SignedDuration::ZERO, now);
    if left.is_zero() {
        plan.act(Write::delete(&kind::SECRET, &secret.metadata).into());
    } else {
        plan.look_again(left);
    }
    plan
}

fn left(since: Timestamp, keep: SignedDuration, now: Timestamp) -> Duration {
    let due = since.checked_add(keep).unwrap_or(Timestamp::MAX);
    Duration::try_from(due.duration_since(now)).unwrap_or_default()
}

/// Deletes finished jobs.
#[derive(Debug)]
pub struct FinishedJobs {
    cx: Context,
    queue: Arc<Keys>,
}

impl FinishedJobs {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.jobs.on_change(move |change| {
            if change.latest().spec.ttl_seconds_after_finished.is_some() && !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
        });
        Arc::new(Self { cx: cx.of("ttl-after-finished-controller"), queue })
    }
}

#[async_trait]
impl Controller for FinishedJobs {
    fn name(&self) -> &'static str {
        "ttl-after-finished"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(job) = self.cx.caches.jobs.get(key) else { return Ok(None) };
        let plan = plan_job(&job, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

/// Deletes expired bootstrap tokens.
#[derive(Debug)]
pub struct Tokens {
    cx: Context,
    queue: Arc<Keys>,
}

impl Tokens {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.bootstrap_tokens.on_change(move |change| keys.add(change.latest().metadata.key()));
        Arc::new(Self { cx: cx.of("token-cleaner"), queue })
    }
}

#[async_trait]
impl Controller for Tokens {
    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(secret) = self.cx.caches.bootstrap_tokens.get(key) else { return Ok(None) };
        let plan = plan_token(&secret, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

/// Deletes events an hour after they last happened. Events are listed now and then, not watched: there can be many, and
/// nothing here needs them.
#[derive(Debug)]
pub struct Events {
    cx: Context,
    queue: Arc<Keys>,
    keep: SignedDuration,
}

/// How often events are looked through.
const EVENT_PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Event {
    metadata: Meta,
    last_timestamp: Option<Timestamp>,
    event_time: Option<Timestamp>,
    series: Option<Series>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Series {
    last_observed_time: Option<Timestamp>,
}

impl Event {
    fn last(&self) -> Option<Timestamp> {
        let series = self.series.as_ref().and_then(|s| s.last_observed_time);
        [series, self.last_timestamp, self.event_time, self.metadata.creation_timestamp].into_iter().flatten().max()
    }
}

impl Events {
    /// Events are kept for `keep`.
    pub fn new(cx: &Context, keep: SignedDuration) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        queue.add_after(Key::default(), EVENT_PERIOD);
        Arc::new(Self { cx: cx.of("event-ttl"), queue, keep })
    }
}

#[async_trait]
impl Controller for Events {
    fn name(&self) -> &'static str {
        "event-ttl"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, _key: &Key) -> Result<Option<Duration>, SyncError> {
        let (events, _) = read_list::<Event>(&self.cx.api, &kind::EVENT, &Scope::default()).await?;
        let now = self.cx.clock.now();
        let mut plan = Plan::nothing();
        let old = events.iter().filter(|e| e.last().is_some_and(|last| left(last, self.keep, now).is_zero()));
        plan.step(old.map(|e| Write::delete(&kind::EVENT, &e.metadata).into()).collect());
        self.cx.execute(plan).await?;
        Ok(Some(EVENT_PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::api::encode_base64;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn finished_jobs_go_when_their_time_is_over() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": {"ttlSecondsAfterFinished": 60},
            "status": {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap();
        assert_eq!(plan_job(&job, at("2026-01-01T00:00:20Z")).requeue_after, Some(Duration::from_secs(40)));
        assert_eq!(plan_job(&job, at("2026-01-01T00:01:00Z")).actions().count(), 1);
        assert!(plan_job(&Job::default(), at("2026-01-01T00:01:00Z")).is_empty());
    }

    #[test]
    fn expired_tokens_go() {
        let token = |expiration: &str| -> Secret {
            serde_json::from_value(json!({"data": {"expiration": encode_base64(expiration.as_bytes())}})).unwrap()
        };
        let now = at("2026-01-01T00:00:00Z");
        assert_eq!(plan_token(&token("2026-01-01T01:00:00Z"), now).requeue_after, Some(Duration::from_secs(3600)));
        assert_eq!(plan_token(&token("2025-12-31T23:59:59Z"), now).actions().count(), 1);
        assert_eq!(plan_token(&token("soon"), now).actions().count(), 1);
        assert!(plan_token(&Secret::default(), now).is_empty());
    }

    #[test]
    fn an_event_lives_by_its_last_occurrence() {
        let event: Event = serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "lastTimestamp": "2026-01-01T05:00:00Z", "eventTime": null, "series": null}))
        .unwrap();
        assert_eq!(event.last(), Some(at("2026-01-01T05:00:00Z")));
    }
}
