//! Jobs: pods that run to their end (upstream `pkg/controller/job`).
//!
//! A pod that has ended is held by a finalizer until it is counted: first its uid goes into the status, then the
//! finalizer goes, and only then is the uid turned into a count. So no pod is counted twice or forgotten, whenever the
//! controller is interrupted (KEP-2307).

mod indexes;
mod policies;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::claim::{self, claim, pod_from_template};
use crate::context::Context;
use crate::runtime::cache::Cache;
use crate::runtime::kind;
use crate::runtime::meta::{Condition, Key, Meta, condition, condition_is_true, seconds};
use crate::runtime::plan::{Action, Note, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{Job, JobStatus, Pod, Uncounted};

use indexes::Indexes;

/// What holds a pod until it is counted.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The name in the key of a namespace's orphans: no job has it.
const NO_JOB: &str = "";
/// Pods that are counted in one go.
const COUNT_LIMIT: usize = 500;
/// Pods that run at once, at most.
const ACTIVE_LIMIT: usize = 100_000;
/// Pods made or deleted by one plan.
const BURST: usize = 500;
/// The wait after a first failure, doubled with each, and the longest, in seconds.
const BACKOFF_SECONDS: (i64, i64) = (10, 600);

/// A job's pods, by what they are to it.
struct Pods<'a> {
    /// Run, or are about to.
    active: Vec<&'a Pod>,
    /// On their way out.
    terminating: usize,
    /// Have ended, and are to be put down in the status.
    succeeded: Vec<&'a Pod>,
    failed: Vec<&'a Pod>,
    /// Have failed in a way that does not count.
    ignored: Vec<&'a Pod>,
    /// All of them.
    all: Vec<&'a Pod>,
}

fn is_held(pod: &Pod) -> bool {
    pod.metadata.has_finalizer(FINALIZER)
}

fn selects(job: &Job, pod: &Meta) -> bool {
    !job.spec.selector.is_empty() && job.spec.selector.matches(&pod.labels)
}

/// Whether a pod is held although no job of its namespace is going to count it: its job is gone, or has let go of it.
fn is_orphan(pod: &Pod, jobs: &Cache<Job>) -> bool {
    let namespace = &pod.metadata.namespace;
    is_held(pod)
        && match pod.metadata.controller() {
            Some(owner) if owner.kind != "Job" => false,
            Some(owner) => jobs.get(&Key::new(namespace, &owner.name)).is_none_or(|job| job.metadata.uid != owner.uid),
            None => !jobs
                .in_namespace(namespace)
                .iter()
                .any(|job| !job.metadata.is_terminating() && selects(job, &pod.metadata)),
        }
}

impl<'a> Pods<'a> {
    fn sort(job: &Job, pods: &'a [Arc<Pod>]) -> Self {
        let uncounted = &job.status.uncounted_terminated_pods;
        let known: BTreeSet<&str> = uncounted.succeeded.iter().chain(&uncounted.failed).map(String::as_str).collect();
        let only_failed = job.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let mut sorted = Self {
            active: Vec::new(),
            terminating: 0,
            succeeded: Vec::new(),
            failed: Vec::new(),
            ignored: Vec::new(),
            all: Vec::new(),
        };
        for pod in pods.iter().map(Arc::as_ref) {
            sorted.all.push(pod);
            let ended_badly = pod.status.phase == "Failed"
                || (!only_failed && pod.metadata.is_terminating() && pod.status.phase != "Succeeded");
            if pod.is_active() {
                sorted.active.push(pod);
            } else if pod.metadata.is_terminating() && !pod.is_finished() {
                sorted.terminating += 1;
            }
            if is_held(pod) && !known.contains(pod.metadata.uid.as_str()) {
                if pod.status.phase == "Succeeded" {
                    sorted.succeeded.push(pod);
                } else if ended_badly && policies::verdict_on(job, pod).is_some_and(|v| v.action == "Ignore") {
                    sorted.ignored.push(pod);
                } else if ended_badly {
                    sorted.failed.push(pod);
                }
            }
        }
        sorted
    }
}

/// Makes, deletes and counts pods, and says how the job stands.
pub fn plan(job: &Job, candidates: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if job.spec.managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller") {
        return plan;
    }
    let is_finished =
        condition_is_true(&job.status.conditions, "Complete") || condition_is_true(&job.status.conditions, "Failed");
    if is_finished || job.metadata.is_terminating() {
        plan.step(candidates.iter().filter(|p| is_held(p) && is_own(job, p)).map(|p| let_go(p)).collect());
        return plan;
    }
    let claims = claim(&job.metadata, &kind::JOB, &job.spec.selector, candidates, |pod: &Pod| pod.is_active());
    plan.step(claims.actions);
    let pods = Pods::sort(job, &claims.owned);
    let mut status = count(job, &pods);
    let mut events = Vec::new();
    let verdict = verdict(job, &pods, &status, now);
    if verdict.is_some() {
        policies::give_up(job, &pods.all, &mut status);
    }
    suspend_or_start(job, &mut status, &mut events, now);
    let ended = pods.active.is_empty() && pods.terminating == 0 && !pods.all.iter().any(|p| is_held(p));
    if let Some(verdict) = &verdict {
        announce(job, verdict, &mut status, ended, &mut events, now);
    }
    status.active = number(pods.active.len());
    status.ready = Some(number(pods.active.iter().filter(|p| p.is_ready()).count()));
    status.terminating = Some(number(pods.terminating));

    if status != job.status {
        plan.act(Write::merge_exact(&kind::JOB, &job.metadata, "status", status_patch(job, &status)).into());
    }
    let counted: BTreeSet<&str> = {
        let uncounted = &status.uncounted_terminated_pods;
        uncounted.succeeded.iter().chain(&uncounted.failed).map(String::as_str).collect()
    };
    let indexed = is_indexed(job);
    let ignored: BTreeSet<&str> = if verdict.is_some() {
        pods.ignored.iter().map(|p| p.metadata.uid.as_str()).collect()
    } else {
        policies::settled(job, &pods.ignored, &pods.all, &status).map(|p| p.metadata.uid.as_str()).collect()
    };
    let may_go = |p: &&&Pod| {
        let uid = p.metadata.uid.as_str();
        counted.contains(uid) || ignored.contains(uid) || (indexed && p.status.phase == "Succeeded")
    };
    plan.step(pods.all.iter().filter(|p| is_held(p)).filter(may_go).map(|p| let_go(p)).collect());
    plan.step(events);
    manage(job, &pods, &status, verdict.is_some(), &mut plan, now);
    if let Some(deadline) = deadline(job, &status) {
        let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
        if !left.is_zero() {
            plan.look_again(left);
        }
    }
    plan
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn is_own(job: &Job, pod: &Pod) -> bool {
    pod.metadata.controller().is_some_and(|owner| owner.uid == job.metadata.uid)
}

fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode.as_deref() == Some("Indexed")
}

fn let_go(pod: &Pod) -> Action {
    Write::without_finalizer(&kind::POD, &pod.metadata, FINALIZER).into()
}

fn status_patch(job: &Job, status: &JobStatus) -> Value {
    let mut patch = json!({"status": status});
    if status.uncounted_terminated_pods == Uncounted::default()
        && job.status.uncounted_terminated_pods == Uncounted::default()
    {
        patch["status"]["uncountedTerminatedPods"] = json!({});
    }
    patch
}

/// Turns uids whose pods have been let go into counts, and puts down the uids of pods that have ended since.
fn count(job: &Job, pods: &Pods<'_>) -> JobStatus {
    let mut status = job.status.clone();
    let held: BTreeSet<&str> = pods.all.iter().filter(|p| is_held(p)).map(|p| p.metadata.uid.as_str()).collect();
    let uncounted = &mut status.uncounted_terminated_pods;
    let before = (uncounted.succeeded.len(), uncounted.failed.len());
    uncounted.succeeded.retain(|uid| held.contains(uid.as_str()));
    uncounted.failed.retain(|uid| held.contains(uid.as_str()));
    status.succeeded += number(before.0 - uncounted.succeeded.len());
    status.failed += number(before.1 - uncounted.failed.len());
    let room = COUNT_LIMIT.saturating_sub(uncounted.succeeded.len() + uncounted.failed.len());
    let uids = |pods: &[&Pod], room: usize| -> Vec<String> {
        pods.iter().take(room).map(|p| p.metadata.uid.clone()).collect()
    };
    if is_indexed(job) {
        let mut done = Indexes::parse(&status.completed_indexes);
        let bound = job.spec.completions.unwrap_or_default();
        pods.succeeded.iter().filter_map(|p| index_of(p)).filter(|i| *i < bound).for_each(|i| done.insert(i));
        status.completed_indexes = done.to_string();
        status.succeeded = done.len();
    } else {
        uncounted.succeeded.extend(uids(&pods.succeeded, room));
    }
    policies::fail_indexes(job, &pods.all, &mut status);
    let settled: Vec<&Pod> = policies::settled(job, &pods.failed, &pods.all, &status).collect();
    let uncounted = &mut status.uncounted_terminated_pods;
    let room = COUNT_LIMIT.saturating_sub(uncounted.succeeded.len() + uncounted.failed.len());
    uncounted.failed.extend(uids(&settled, room));
    status
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.get("batch.kubernetes.io/job-completion-index")?.parse().ok()
}

/// How the job ends.
struct Verdict {
    succeeded: bool,
    reason: String,
    message: String,
}

fn verdict(job: &Job, pods: &Pods<'_>, status: &JobStatus, now: Timestamp) -> Option<Verdict> {
    // Once announced, it stands.
    for (kind, succeeded) in [("FailureTarget", false), ("SuccessCriteriaMet", true)] {
        if let Some(c) = condition(&job.status.conditions, kind).filter(|c| c.is_true()) {
            let (reason, message) = (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default());
            return Some(Verdict { succeeded, reason, message });
        }
    }
    let failed = |reason: &str, message: &str| {
        Some(Verdict { succeeded: false, reason: reason.into(), message: message.into() })
    };
    if let Some(message) = policies::fails_job(job, &pods.failed) {
        return failed("PodFailurePolicy", &message);
    }
    let limit = job.spec.backoff_limit.unwrap_or(6);
    let failures = status.failed + number(status.uncounted_terminated_pods.failed.len());
    let restarts = || -> u32 {
        let restarting = pods.active.iter().filter(|p| p.spec.restart_policy == "OnFailure");
        restarting
            .flat_map(|p| p.status.container_statuses.iter().chain(&p.status.init_container_statuses))
            .map(|s| s.restart_count)
            .sum()
    };
    let restarted_too_often = match u32::try_from(limit) {
        Ok(0) => restarts() > 0,
        Ok(limit) => restarts() >= limit,
        Err(_) => false,
    };
    if failures > limit || restarted_too_often {
        return failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline(job, &job.status).is_some_and(|at| at <= now) && !job.spec.suspend {
        return failed("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let Some((reason, message)) = policies::too_many_indexes(job, status) {
        return failed(reason, message);
    }
    if let Some(rule) = policies::suffices(job, status) {
        let message = format!("Matched rules at index {rule}");
        return Some(Verdict { succeeded: true, reason: "SuccessPolicy".into(), message });
    }
    let successes = status.succeeded + number(status.uncounted_terminated_pods.succeeded.len());
    let complete = match job.spec.completions {
        Some(wanted) => successes >= wanted,
        None => successes > 0 && (pods.active.is_empty() || job.spec.parallelism == Some(0)),
    };
    complete.then(|| Verdict {
        succeeded: true,
        reason: "CompletionsReached".into(),
        message: "Reached expected number of succeeded pods".into(),
    })
}

fn deadline(job: &Job, status: &JobStatus) -> Option<Timestamp> {
    let seconds = job.spec.active_deadline_seconds?;
    status.start_time?.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn put(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    if condition(&status.conditions, kind).is_some_and(|c| c.status == value) {
        return false;
    }
    status.conditions.retain(|c| c.kind != kind);
    status.conditions.push(Condition {
        kind: kind.into(),
        status: value.into(),
        last_probe_time: Some(seconds(now)),
        last_transition_time: Some(seconds(now)),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Condition::default()
    });
    true
}

fn suspend_or_start(job: &Job, status: &mut JobStatus, events: &mut Vec<Action>, now: Timestamp) {
    let regarding = || job.metadata.reference(&kind::JOB);
    if job.spec.suspend {
        if put(status, "Suspended", "True", "JobSuspended", "Job suspended", now) {
            status.start_time = None;
            events.push(Note::normal(regarding(), "Suspended", "Job suspended").into());
        }
        return;
    }
    let was_suspended = condition_is_true(&status.conditions, "Suspended");
    if was_suspended && put(status, "Suspended", "False", "JobResumed", "Job resumed", now) {
        status.start_time = Some(seconds(now));
        events.push(Note::normal(regarding(), "Resumed", "Job resumed").into());
    }
    status.start_time.get_or_insert(seconds(now));
}

/// Says in the status how the job ends: first that it is going to, and once its pods have stopped and are counted, that
/// it has.
fn announce(
    job: &Job,
    verdict: &Verdict,
    status: &mut JobStatus,
    ended: bool,
    events: &mut Vec<Action>,
    now: Timestamp,
) {
    let (first, last) =
        if verdict.succeeded { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
    put(status, first, "True", &verdict.reason, &verdict.message, now);
    let uncounted = &status.uncounted_terminated_pods;
    if !ended || !uncounted.succeeded.is_empty() || !uncounted.failed.is_empty() {
        return;
    }
    put(status, last, "True", &verdict.reason, &verdict.message, now);
    let regarding = job.metadata.reference(&kind::JOB);
    if verdict.succeeded {
        status.completion_time = Some(seconds(now));
        events.push(Note::normal(regarding, "Completed", "Job completed").into());
    } else {
        events.push(Note::warning(regarding, &verdict.reason, verdict.message.clone()).into());
    }
}

/// Makes missing pods, and deletes those that are too many.
fn manage(job: &Job, pods: &Pods<'_>, status: &JobStatus, over: bool, plan: &mut Plan, now: Timestamp) {
    if over || job.spec.suspend {
        plan.step(delete(job, &pods.active));
        return;
    }
    let parallelism = usize::try_from(job.spec.parallelism.unwrap_or(1)).unwrap_or_default().min(ACTIVE_LIMIT);
    let successes = status.succeeded + number(status.uncounted_terminated_pods.succeeded.len());
    let given_up = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default()).len();
    let wanted = match job.spec.completions {
        Some(total) => parallelism.min(usize::try_from(total - successes - given_up).unwrap_or_default()),
        // With a work queue, a success means that there is nothing left to begin.
        None if successes > 0 => parallelism.min(pods.active.len()),
        None => parallelism,
    };
    let (keep, surplus) = if is_indexed(job) {
        let done = policies::settled_indexes(status);
        indexes::split(&pods.active, &done, job.spec.completions.unwrap_or_default(), wanted, index_of)
    } else {
        let mut ranked = pods.active.clone();
        // Those that have got the furthest stay.
        ranked.sort_by_key(|p| (!p.is_ready(), p.status.phase != "Running", p.metadata.creation_timestamp));
        let surplus = ranked.split_off(ranked.len().min(wanted));
        (ranked, surplus)
    };
    if !surplus.is_empty() {
        plan.step(delete(job, &surplus[..surplus.len().min(BURST)]));
        return;
    }
    let only_failed = job.spec.pod_replacement_policy.as_deref() == Some("Failed");
    let busy = keep.len() + if only_failed { pods.terminating } else { 0 };
    let missing = wanted.saturating_sub(busy).min(BURST);
    if missing == 0 {
        return;
    }
    if let Some(wait) = backoff(pods, now) {
        plan.look_again(wait);
        return;
    }
    let template = job.spec.template.value();
    let actions = if is_indexed(job) {
        let done = policies::settled_indexes(status);
        let running: BTreeSet<i32> = keep.iter().filter_map(|p| index_of(p)).collect();
        let free = (0..job.spec.completions.unwrap_or_default()).filter(|i| !done.contains(*i) && !running.contains(i));
        let of_index = |index| {
            let mut template = indexes::template(&template, &job.metadata.name, index);
            policies::annotate(job, index, &pods.all, &mut template);
            create(job, template)
        };
        free.take(missing).map(of_index).collect()
    } else {
        vec![create(job, template); missing]
    };
    plan.slow_start(actions);
}

fn create(job: &Job, template: Value) -> Action {
    let mut body = pod_from_template(&template, &job.metadata, &kind::JOB);
    let mut finalizers = body["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.push(FINALIZER.into());
    body["metadata"]["finalizers"] = Value::Array(finalizers);
    if let Some(name) = template["metadata"]["generateName"].as_str() {
        body["metadata"]["generateName"] = name.into();
    }
    let report = Report {
        regarding: job.metadata.reference(&kind::JOB),
        success: Some(("SuccessfulCreate", "Created pod: {}".into())),
        failure: Some(("FailedCreate", "Error creating: ".into())),
    };
    Write::create(&kind::POD, &job.metadata.namespace, body).reported(report).into()
}

fn delete(job: &Job, pods: &[&Pod]) -> Vec<Action> {
    let report = Report {
        regarding: job.metadata.reference(&kind::JOB),
        success: Some(("SuccessfulDelete", "Deleted pod: {}".into())),
        failure: Some(("FailedDelete", "Error deleting: ".into())),
    };
    pods.iter().map(|p| Write::delete(&kind::POD, &p.metadata).reported(report.clone()).into()).collect()
}

/// How long to wait before the next pod, after failures in a row.
fn backoff(pods: &Pods<'_>, now: Timestamp) -> Option<Duration> {
    let finished = |p: &Pod| {
        let ends =
            p.status.container_statuses.iter().filter_map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at);
        let ready = condition(&p.status.conditions, "Ready").and_then(|c| c.last_transition_time);
        ends.max().or(p.metadata.deletion_timestamp).or(ready).or(p.metadata.creation_timestamp)
    };
    let of = |phase: &'static str| pods.all.iter().filter(move |p| p.status.phase == phase).filter_map(|p| finished(p));
    let last_success = of("Succeeded").max();
    let failures: Vec<Timestamp> = of("Failed").filter(|at| last_success.is_none_or(|ok| *at > ok)).collect();
    let last = *failures.iter().max()?;
    let doubled = BACKOFF_SECONDS.0.checked_shl(u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16))?;
    let due = last.checked_add(SignedDuration::from_secs(doubled.min(BACKOFF_SECONDS.1))).ok()?;
    let left = Duration::try_from(due.duration_since(now)).ok()?;
    (!left.is_zero()).then_some(left)
}

/// The controller.
#[derive(Debug)]
pub struct Jobs {
    cx: Context,
    queue: Arc<Keys>,
}

impl Jobs {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.jobs.on_change(move |change| keys.add(change.latest().metadata.key()));
        claim::follow(&cx.caches.jobs, &cx.caches.pods, &queue, selects);
        let (keys, jobs) = (queue.clone(), cx.caches.jobs.clone());
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            if is_orphan(pod, &jobs) {
                keys.add(Key::new(&pod.metadata.namespace, NO_JOB));
            }
        });
        Arc::new(Self { cx: cx.of("job-controller"), queue })
    }

    async fn let_go_of_orphans(&self, namespace: &str) -> Result<(), SyncError> {
        let pods = self.cx.caches.pods.in_namespace(namespace);
        let mut plan = Plan::nothing();
        plan.step(pods.iter().filter(|pod| is_orphan(pod, &self.cx.caches.jobs)).map(|pod| let_go(pod)).collect());
        Ok(self.cx.execute(plan).await?)
    }
}

#[async_trait]
impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(job) = self.cx.caches.jobs.get(key) else {
            self.let_go_of_orphans(&key.namespace).await?;
            return Ok(None);
        };
        let pods = claim::candidates(&self.cx.caches.pods, &job.metadata, &job.spec.selector);
        let plan = plan(&job, &pods, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests;
