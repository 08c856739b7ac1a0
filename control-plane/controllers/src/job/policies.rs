//! What a job makes of its pods' failures and successes: `podFailurePolicy`, `backoffLimitPerIndex`, `successPolicy`
//! (upstream `pod_failure_policy.go`, `backoff_utils.go`, `success_policy.go`).
//!
//! How often an index has failed is written on the pod that comes next. A failed pod is therefore held until there is
//! one, or none is to come.

use serde_json::Value;

use super::index_of;
use super::indexes::Indexes;
use crate::runtime::meta::condition;
use crate::views::{ContainerStatus, Job, JobStatus, OnExitCodes, Pod};

const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What the failure policy says of a pod.
pub(super) struct Judged<'a> {
    /// `FailJob`, `FailIndex`, `Ignore`, `Count`.
    pub action: &'a str,
    message: String,
}

/// The first rule that a failed pod matches.
pub(super) fn verdict_on<'a>(job: &'a Job, pod: &Pod) -> Option<Judged<'a>> {
    let policy = job.spec.pod_failure_policy.as_ref()?;
    if pod.status.phase != "Failed" {
        return None;
    }
    let place = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
    policy.rules.iter().enumerate().find_map(|(index, rule)| {
        let action = rule.action.as_str();
        if let Some(codes) = &rule.on_exit_codes {
            let (container, code) = matching_exit(codes, pod)?;
            let message = format!(
                "Container {container} for pod {place} failed with exit code {code} matching {action} rule at index \
                 {index}"
            );
            return Some(Judged { action, message });
        }
        let matched = rule.on_pod_conditions.iter().find(|wanted| {
            condition(&pod.status.conditions, &wanted.kind).is_some_and(|is| is.status == wanted.status)
        })?;
        let kind = &matched.kind;
        let message = format!("Pod {place} has condition {kind} matching {action} rule at index {index}");
        Some(Judged { action, message })
    })
}

/// The container whose end a rule is about.
fn matching_exit<'a>(codes: &OnExitCodes, pod: &'a Pod) -> Option<(&'a str, i32)> {
    let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let named = |status: &&ContainerStatus| codes.container_name.as_ref().is_none_or(|name| *name == status.name);
    statuses.filter(named).find_map(|status| {
        let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = codes.values.contains(&code);
        // Success is no failure, whatever a rule says.
        let matches = code != 0 && if codes.operator == "In" { listed } else { !listed };
        matches.then_some((status.name.as_str(), code))
    })
}

/// Why the job is over, if a pod has failed in such a way.
pub(super) fn fails_job(job: &Job, failed: &[&Pod]) -> Option<String> {
    failed.iter().filter_map(|pod| verdict_on(job, pod)).find(|v| v.action == "FailJob").map(|v| v.message)
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    pod.metadata.annotations.get(annotation).and_then(|n| n.parse().ok()).unwrap_or_default()
}

fn is_over(pod: &Pod) -> bool {
    pod.status.phase == "Failed"
}

/// How often an index has failed, and how often in ways that do not count, as its pods tell.
fn failures(job: &Job, index: i32, all: &[&Pod]) -> (i32, i32) {
    let of_index = all.iter().filter(|pod| index_of(pod) == Some(index));
    of_index.fold((0, 0), |(counted, ignored), pod| {
        let (mut is_counted, mut is_ignored) = (number(pod, FAILURES), number(pod, IGNORED_FAILURES));
        if is_over(pod) {
            if verdict_on(job, pod).is_some_and(|v| v.action == "Ignore") {
                is_ignored += 1;
            } else {
                is_counted += 1;
            }
        }
        (counted.max(is_counted), ignored.max(is_ignored))
    })
}

/// Writes on the next pod of an index how often it has failed.
pub(super) fn annotate(job: &Job, index: i32, all: &[&Pod], template: &mut Value) {
    if job.spec.backoff_limit_per_index.is_none() {
        return;
    }
    let (counted, ignored) = failures(job, index, all);
    template["metadata"]["annotations"][FAILURES] = counted.to_string().into();
    if ignored > 0 {
        template["metadata"]["annotations"][IGNORED_FAILURES] = ignored.to_string().into();
    }
}

/// Puts down the indexes that have failed too often, or once and for all.
pub(super) fn fail_indexes(job: &Job, all: &[&Pod], status: &mut JobStatus) {
    let Some(limit) = job.spec.backoff_limit_per_index else { return };
    let mut failed = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default());
    let done = Indexes::parse(&status.completed_indexes);
    for pod in all.iter().filter(|pod| is_over(pod)) {
        let Some(index) = index_of(pod).filter(|index| !done.contains(*index)) else { continue };
        let at_once = verdict_on(job, pod).is_some_and(|v| v.action == "FailIndex");
        if at_once || failures(job, index, all).0 > limit {
            failed.insert(index);
        }
    }
    status.failed_indexes = Some(failed.to_string());
}

/// The indexes for which there is nothing left to do.
pub(super) fn settled_indexes(status: &JobStatus) -> Indexes {
    let both = [status.completed_indexes.as_str(), status.failed_indexes.as_deref().unwrap_or_default()];
    Indexes::parse(&both.join(","))
}

/// Of pods that have failed, those whose failure is on record: all of them, unless failures are counted by index.
pub(super) fn settled<'a>(
    job: &Job,
    failed: &[&'a Pod],
    all: &[&Pod],
    status: &JobStatus,
) -> impl Iterator<Item = &'a Pod> {
    let done = settled_indexes(status);
    let by_index = job.spec.backoff_limit_per_index.is_some();
    let recorded = failed.iter().copied().filter(|pod| {
        let Some(index) = index_of(pod).filter(|_| by_index) else { return true };
        let later = all.iter().any(|other| {
            other.metadata.uid != pod.metadata.uid
                && index_of(other) == Some(index)
                && number(other, FAILURES) + number(other, IGNORED_FAILURES)
                    > number(pod, FAILURES) + number(pod, IGNORED_FAILURES)
        });
        later || done.contains(index)
    });
    recorded.collect::<Vec<_>>().into_iter()
}

/// When the job is over, no next pod comes: what is held for one is counted now.
pub(super) fn give_up(job: &Job, all: &[&Pod], status: &mut JobStatus) {
    if job.spec.backoff_limit_per_index.is_none() {
        return;
    }
    let uncounted = &mut status.uncounted_terminated_pods;
    for pod in all.iter().filter(|pod| is_over(pod) && super::is_held(pod)) {
        let uid = &pod.metadata.uid;
        let ignored = verdict_on(job, pod).is_some_and(|v| v.action == "Ignore");
        if !ignored && !uncounted.failed.contains(uid) && uncounted.failed.len() < super::COUNT_LIMIT {
            uncounted.failed.push(uid.clone());
        }
    }
}

/// Why the job fails by its indexes.
pub(super) fn too_many_indexes(job: &Job, status: &JobStatus) -> Option<(&'static str, &'static str)> {
    job.spec.backoff_limit_per_index?;
    let failed = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default()).len();
    if job.spec.max_failed_indexes.is_some_and(|most| failed > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(("MaxFailedIndexesExceeded", message));
    }
    let done = Indexes::parse(&status.completed_indexes).len() + failed;
    (failed > 0 && done >= job.spec.completions.unwrap_or_default())
        .then_some(("FailedIndexes", "Job has failed indexes"))
}

/// The rule of the success policy that the indexes satisfy.
pub(super) fn suffices(job: &Job, status: &JobStatus) -> Option<usize> {
    let policy = job.spec.success_policy.as_ref()?;
    let done = Indexes::parse(&status.completed_indexes);
    policy.rules.iter().position(|rule| {
        let listed = rule.succeeded_indexes.as_deref().map(Indexes::parse);
        let (succeeded, all) = match &listed {
            Some(listed) => (listed.common(&done), listed.len()),
            None => (done.len(), i32::MAX),
        };
        succeeded >= rule.succeeded_count.unwrap_or(all)
    })
}
