//! CronJobs: jobs by the calendar (upstream `pkg/controller/cronjob`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use xebec_schema::cron::Schedule;

use crate::context::Context;
use crate::runtime::api::DeleteOptions;
use crate::runtime::cache::{BY_CONTROLLER, Change};
use crate::runtime::kind;
use crate::runtime::meta::{Key, condition_is_true, seconds};
use crate::runtime::plan::{Action, Note, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{CronJob, CronJobStatus, Job};

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times are looked through one by one up to this many, then the user is told.
const MANY_MISSED: usize = 100;
/// No more of them than this are looked through: ten years of an hourly job.
const MOST_MISSED: usize = 90_000;
/// A little after the time, so that it has surely come.
const SLACK: Duration = Duration::from_millis(100);

/// Makes jobs that are due, keeps the book about those that run, and clears old ones away.
pub fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let jobs: Vec<&Job> = jobs.iter().map(Arc::as_ref).filter(|job| is_own(cron, job)).collect();
    let mut status = cron.status.clone();
    plan.step(book(cron, &jobs, &mut status));
    plan.step(clear(cron, &jobs));
    if !cron.metadata.is_terminating() && !cron.spec.suspend {
        schedule(cron, &jobs, &mut status, &mut plan, now);
    }
    if status != cron.status {
        let patch = json!({"status": status});
        plan.act(Write::merge(&kind::CRON_JOB, &cron.metadata, "status", patch).into());
    }
    plan
}

fn is_own(cron: &CronJob, job: &Job) -> bool {
    job.metadata.controller().is_some_and(|owner| owner.uid == cron.metadata.uid)
}

fn outcome(job: &Job) -> Option<&'static str> {
    ["Complete", "Failed"].into_iter().find(|kind| condition_is_true(&job.status.conditions, kind))
}

/// Which jobs run, and what has become of those that did.
fn book(cron: &CronJob, jobs: &[&Job], status: &mut CronJobStatus) -> Vec<Action> {
    let regarding = || cron.metadata.reference(&kind::CRON_JOB);
    let mut events = Vec::new();
    let listed = |uid: &str| cron.status.active.iter().any(|reference| reference.uid == uid);
    for job in jobs {
        let Some(outcome) = outcome(job) else { continue };
        if listed(&job.metadata.uid) {
            let message = format!("Saw completed job: {}, condition: {outcome}", job.metadata.name);
            events.push(Note::normal(regarding(), "SawCompletedJob", message).into());
        }
        if outcome == "Complete" {
            status.last_successful_time = status.last_successful_time.max(job.status.completion_time);
        }
    }
    for reference in &cron.status.active {
        if !jobs.iter().any(|job| job.metadata.uid == reference.uid) {
            let message = format!("Active job went missing: {}", reference.name);
            events.push(Note::normal(regarding(), "MissingJob", message).into());
        }
    }
    // What is listed already stays as it was written, whatever its revision is by now.
    let mut running: Vec<&&Job> = jobs.iter().filter(|job| outcome(job).is_none()).collect();
    running.sort_by_key(|job| (job.metadata.creation_timestamp, job.metadata.name.clone()));
    status.active = running
        .iter()
        .map(|job| {
            let there = cron.status.active.iter().find(|reference| reference.uid == job.metadata.uid);
            there.cloned().unwrap_or_else(|| job.metadata.reference(&kind::JOB))
        })
        .collect();
    events
}

/// Deletes old jobs that have ended, beyond those that are kept.
fn clear(cron: &CronJob, jobs: &[&Job]) -> Vec<Action> {
    let limits =
        [("Complete", cron.spec.successful_jobs_history_limit), ("Failed", cron.spec.failed_jobs_history_limit)];
    let mut actions = Vec::new();
    for (kind, limit) in limits {
        let Some(limit) = limit.and_then(|n| usize::try_from(n).ok()) else { continue };
        let mut ended: Vec<&Job> =
            jobs.iter().copied().filter(|job| outcome(job) == Some(kind) && !job.metadata.is_terminating()).collect();
        ended.sort_by_key(|job| (job.status.start_time, job.metadata.name.clone()));
        let surplus = ended.len().saturating_sub(limit);
        actions.extend(ended[..surplus].iter().map(|job| delete(cron, job)));
    }
    actions
}

fn delete(cron: &CronJob, job: &Job) -> Action {
    let report = Report {
        regarding: cron.metadata.reference(&kind::CRON_JOB),
        success: Some(("SuccessfulDelete", "Deleted job {}".into())),
        failure: Some(("FailedDelete", "Deleted job: ".into())),
    };
    let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
    Write::delete_with(&kind::JOB, &job.metadata, options).reported(report).into()
}

fn schedule(cron: &CronJob, jobs: &[&Job], status: &mut CronJobStatus, plan: &mut Plan, now: Timestamp) {
    let regarding = || cron.metadata.reference(&kind::CRON_JOB);
    let warn = |plan: &mut Plan, reason: &str, message: String| {
        plan.act(Note::warning(regarding(), reason, message).into());
    };
    let zone = match cron.spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => return warn(plan, "UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone")),
        },
    };
    let schedule = match Schedule::parse(&cron.spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {} : {error}", cron.spec.schedule);
            return warn(plan, "UnparseableSchedule", message);
        }
    };
    if let Some(next) = schedule.next(now, &zone) {
        plan.look_again(Duration::try_from(next.duration_since(now)).unwrap_or_default() + SLACK);
    }
    let Some((due, missed)) = last_due(cron, &schedule, &zone, now) else { return };
    if missed > MANY_MISSED {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        warn(plan, "TooManyMissedTimes", message.to_owned());
    }
    let deadline = cron.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if deadline.is_some_and(|most| due.checked_add(most).is_ok_and(|last| last < now)) {
        let message = format!("Missed scheduled time to start a job: {}", due.strftime("%a, %d %b %Y %H:%M:%S +0000"));
        return warn(plan, "MissSchedule", message);
    }
    let name = job_name(cron, due);
    if jobs.iter().any(|job| job.metadata.name == name) {
        // Made, and the status could not be written then.
        status.last_schedule_time = status.last_schedule_time.max(Some(due));
        return;
    }
    let running: Vec<&&Job> = jobs.iter().filter(|job| outcome(job).is_none()).collect();
    match cron.spec.concurrency_policy.as_str() {
        "Forbid" if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            // Once for a time, not with every look.
            if cron.status.last_schedule_time.is_none_or(|last| last < due) {
                plan.act(Note::normal(regarding(), "JobAlreadyActive", message).into());
            }
            return;
        }
        "Replace" => {
            let going = running.iter().filter(|job| !job.metadata.is_terminating());
            plan.step(going.map(|job| delete(cron, job)).collect());
            status.active.clear();
        }
        _ => {}
    }
    let report = Report {
        regarding: regarding(),
        success: Some(("SuccessfulCreate", "Created job {}".into())),
        failure: Some(("FailedCreate", "Error creating job: ".into())),
    };
    let body = job(cron, &name, due, &zone);
    let create = Write::create(&kind::JOB, &cron.metadata.namespace, body);
    plan.act(create.accept_existing().reported(report).into());
    status.last_schedule_time = Some(seconds(due));
}

/// The last time at which a job was due and none was made, and how many such times there were.
fn last_due(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<(Timestamp, usize)> {
    let mut since = cron.status.last_schedule_time.or(cron.metadata.creation_timestamp)?;
    if let Some(deadline) = cron.spec.starting_deadline_seconds
        && let Ok(earliest) = now.checked_sub(SignedDuration::from_secs(deadline))
    {
        since = since.max(earliest);
    }
    let (mut found, mut missed) = (None, 0);
    while let Some(next) = schedule.next(since, zone).filter(|next| *next <= now) {
        (found, since) = (Some(next), next);
        missed += 1;
        if missed >= MOST_MISSED {
            break;
        }
    }
    found.map(|due| (due, missed))
}

/// Its minutes since 1970 make a job's name, so that one time has one job.
fn job_name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name, due.as_second() / 60)
}

fn job(cron: &CronJob, name: &str, due: Timestamp, zone: &TimeZone) -> Value {
    let template = cron.spec.job_template.value();
    let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let local = due.to_zoned(zone.clone());
    let written = if cron.spec.time_zone.is_none() || *zone == TimeZone::UTC {
        seconds(due).to_string()
    } else {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    annotations.insert(SCHEDULED_AT.to_owned(), written.into());
    let mut metadata = json!({
        "name": name,
        "namespace": cron.metadata.namespace,
        "annotations": annotations,
        "ownerReferences": [cron.metadata.as_controller(&kind::CRON_JOB)],
    });
    if !template["metadata"]["labels"].is_null() {
        metadata["labels"] = template["metadata"]["labels"].clone();
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

/// The controller.
#[derive(Debug)]
pub struct CronJobs {
    cx: Context,
    queue: Arc<Keys>,
}

impl CronJobs {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.cron_jobs.on_change(move |change| keys.add(change.latest().metadata.key()));
        let keys = queue.clone();
        cx.caches.jobs.on_change(move |change: &Change<'_, Job>| {
            let job = change.latest();
            if let Some(owner) = job.metadata.controller().filter(|owner| owner.kind == "CronJob") {
                keys.add(Key::new(&job.metadata.namespace, &owner.name));
            }
        });
        Arc::new(Self { cx: cx.of("cronjob-controller"), queue })
    }
}

#[async_trait]
impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        2
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(cron) = self.cx.caches.cron_jobs.get(key) else { return Ok(None) };
        let jobs = self.cx.caches.jobs.by_index(BY_CONTROLLER, &cron.metadata.uid);
        let plan = plan(&cron, &jobs, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::Verb;

    fn cron(patch: &Value) -> CronJob {
        let mut spec = json!({"schedule": "*/5 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}});
        for (key, value) in patch["spec"].as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "tick", "namespace": "n", "uid": "c",
            "creationTimestamp": "2026-01-01T00:01:00Z"}, "spec": spec, "status": patch["status"]}))
        .unwrap_or_else(|_| {
            serde_json::from_value(json!({"metadata": {"name": "tick", "namespace": "n", "uid": "c",
                "creationTimestamp": "2026-01-01T00:01:00Z"}, "spec": spec}))
            .unwrap()
        })
    }

    fn job_at(name: &str, start: &str, condition: &str) -> Arc<Job> {
        let conditions = if condition.is_empty() { json!([]) } else { json!([{"type": condition, "status": "True"}]) };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name,
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "c",
                    "controller": true}]},
                "status": {"startTime": start, "conditions": conditions}}))
            .unwrap(),
        )
    }

    fn writes(plan: &Plan) -> Vec<String> {
        plan.actions()
            .map(|action| match action {
                Action::Event(note) => note.reason.clone(),
                Action::Write(write) => match &write.verb {
                    Verb::Create(_) => format!("create {}", write.name),
                    Verb::Delete(_) => format!("delete {}", write.name),
                    _ => "status".to_owned(),
                },
            })
            .collect()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn a_job_is_made_when_it_is_due() {
        let cron_job = cron(&json!({}));
        let early = plan(&cron_job, &[], at("2026-01-01T00:04:00Z"));
        assert_eq!(writes(&early), Vec::<String>::new());
        assert_eq!(early.requeue_after, Some(Duration::from_millis(60_100)));
        let due = plan(&cron_job, &[], at("2026-01-01T00:05:01Z"));
        let name = format!("tick-{}", at("2026-01-01T00:05:00Z").as_second() / 60);
        assert_eq!(writes(&due), [format!("create {name}"), "status".to_owned()]);
        let Action::Write(write) = due.actions().next().unwrap() else { panic!() };
        let Verb::Create(body) = &write.verb else { panic!() };
        assert_eq!(body["metadata"]["annotations"][SCHEDULED_AT], "2026-01-01T00:05:00Z");
        assert_eq!(body["metadata"]["labels"]["a"], "b");
        // Made already: only the status is missing.
        let again = plan(&cron_job, &[job_at(&name, "2026-01-01T00:05:01Z", "")], at("2026-01-01T00:05:02Z"));
        assert_eq!(writes(&again), ["status"]);
    }

    #[test]
    fn what_runs_is_heeded() {
        let running = [job_at("old", "2026-01-01T00:02:00Z", "")];
        let now = at("2026-01-01T00:05:01Z");
        let forbid = plan(&cron(&json!({"spec": {"concurrencyPolicy": "Forbid"}})), &running, now);
        assert_eq!(writes(&forbid), ["JobAlreadyActive", "status"]);
        let replace = plan(&cron(&json!({"spec": {"concurrencyPolicy": "Replace"}})), &running, now);
        assert_eq!(writes(&replace)[0], "delete old");
        assert!(writes(&replace)[1].starts_with("create tick-"));
        let suspended = plan(&cron(&json!({"spec": {"suspend": true}})), &[], now);
        assert!(suspended.is_empty() && suspended.requeue_after.is_none());
    }

    #[test]
    fn what_is_too_late_is_missed() {
        let late = cron(&json!({"spec": {"schedule": "0 0 * * *", "startingDeadlineSeconds": 10},
            "status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}));
        assert!(plan(&late, &[], at("2026-01-02T00:00:11Z")).is_empty());
        assert!(writes(&plan(&late, &[], at("2026-01-02T00:00:09Z")))[0].starts_with("create"));
    }

    #[test]
    fn old_jobs_go() {
        let jobs = [
            job_at("a", "2026-01-01T00:01:00Z", "Complete"),
            job_at("b", "2026-01-01T00:02:00Z", "Complete"),
            job_at("c", "2026-01-01T00:03:00Z", "Failed"),
        ];
        let active = json!([{"kind": "Job", "name": "b", "uid": "b"}, {"kind": "Job", "name": "x", "uid": "x"}]);
        let cron_job = cron(&json!({"status": {"active": active, "lastScheduleTime": "2026-01-01T00:03:30Z"}}));
        let plan = plan(&cron_job, &jobs, at("2026-01-01T00:04:00Z"));
        assert_eq!(writes(&plan), ["SawCompletedJob", "MissingJob", "delete a", "status"]);
    }

    #[test]
    fn clocks_elsewhere() {
        let zone = TimeZone::get("Asia/Tokyo");
        // A machine without the database of time zones refuses the object when it is written.
        if zone.is_ok() {
            let cron_job = cron(&json!({"spec": {"schedule": "0 9 * * *", "timeZone": "Asia/Tokyo"}}));
            let plan = plan(&cron_job, &[], at("2026-01-01T00:04:00Z"));
            assert_eq!(plan.requeue_after, Some(Duration::from_millis((23 * 3600 + 56 * 60) * 1000 + 100)));
        }
        let unknown = cron(&json!({"spec": {"timeZone": "Mars/Base"}}));
        assert_eq!(writes(&plan(&unknown, &[], at("2026-01-01T00:06:00Z"))), ["UnknownTimeZone"]);
    }
}
