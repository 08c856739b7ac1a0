use super::*;
use crate::runtime::plan::Verb;

const NOW: &str = "2026-01-01T01:00:00Z";

fn job(spec: Value, status: Value) -> Job {
    let mut value = json!({
        "metadata": {"name": "pi", "namespace": "n", "uid": "job", "resourceVersion": "4"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 2,
            "selector": {"matchLabels": {"job": "pi"}},
            "template": {"metadata": {"labels": {"job": "pi"}}, "spec": {"containers": [{"name": "c"}]}}},
        "status": status,
    });
    for (key, field) in spec.as_object().unwrap() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, phase: &str, held: bool) -> Arc<Pod> {
    pod_with(name, phase, held, json!({}))
}

fn pod_with(name: &str, phase: &str, held: bool, annotations: Value) -> Arc<Pod> {
    let finalizers = if held { json!([FINALIZER]) } else { json!([]) };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"job": "pi"},
                "finalizers": finalizers, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "pi", "uid": "job",
                    "controller": true}]},
            "spec": {"containers": [], "restartPolicy": "Never"},
            "status": {"phase": phase, "containerStatuses": [{"name": "c", "restartCount": 0, "state": {
                "terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:59:58Z"}}}]},
        }))
        .unwrap(),
    )
}

fn run(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(job, pods, NOW.parse().unwrap())
}

fn writes(plan: &Plan, matching: impl Fn(&Verb) -> bool) -> Vec<&Write> {
    plan.actions()
        .filter_map(|a| match a {
            Action::Write(w) if matching(&w.verb) => Some(w.as_ref()),
            _ => None,
        })
        .collect()
}

fn creates(plan: &Plan) -> usize {
    writes(plan, |v| matches!(v, Verb::Create(_))).len()
}

fn deletes(plan: &Plan) -> usize {
    writes(plan, |v| matches!(v, Verb::Delete(_))).len()
}

fn status(plan: &Plan) -> Option<JobStatus> {
    let write = writes(plan, |v| matches!(v, Verb::Patch("status", ..))).pop()?;
    let Verb::Patch(_, _, patch) = &write.verb else { return None };
    serde_json::from_value(patch["status"].clone()).ok()
}

fn reason(status: &JobStatus, kind: &str) -> Option<String> {
    condition(&status.conditions, kind).filter(|c| c.is_true()).and_then(|c| c.reason.clone())
}

#[test]
fn pods_are_made_up_to_parallelism() {
    let plan = run(&job(json!({"parallelism": 3, "completions": 5}), json!({})), &[]);
    assert_eq!(creates(&plan), 3);
    assert!(status(&plan).unwrap().start_time.is_some());
    let two_left = job(json!({"parallelism": 3, "completions": 5}), json!({"succeeded": 3}));
    assert_eq!(creates(&run(&two_left, &[])), 2);
}

#[test]
fn a_success_is_put_down_then_let_go_then_counted_then_the_job_is_complete() {
    let mut job = job(json!({}), json!({}));
    let first = run(&job, &[pod("p", "Succeeded", true)]);
    let noted = status(&first).unwrap();
    assert_eq!(noted.uncounted_terminated_pods.succeeded, ["p"]);
    assert_eq!(reason(&noted, "SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
    assert_eq!(reason(&noted, "Complete"), None);
    assert_eq!(writes(&first, |v| matches!(v, Verb::Patch("", ..)))[0].name, "p");
    assert_eq!(creates(&first), 0);
    job.status = noted;
    let second = status(&run(&job, &[pod("p", "Succeeded", false)])).unwrap();
    assert_eq!((second.succeeded, second.uncounted_terminated_pods.succeeded.len()), (1, 0));
    assert_eq!(reason(&second, "Complete").as_deref(), Some("CompletionsReached"));
    assert!(second.completion_time.is_some());
    job.status = second;
    assert!(run(&job, &[pod("p", "Succeeded", false)]).is_empty());
}

#[test]
fn failures_back_off_and_end_the_job() {
    let once = job(json!({}), json!({"failed": 1, "startTime": NOW}));
    let plan = run(&once, &[pod("f1", "Failed", false)]);
    assert_eq!((creates(&plan), plan.requeue_after), (0, Some(Duration::from_secs(8))));
    let too_often = job(json!({}), json!({"failed": 3, "startTime": NOW}));
    let plan = run(&too_often, &[pod("f1", "Failed", false), pod("a", "Running", true)]);
    assert_eq!(reason(&status(&plan).unwrap(), "FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(deletes(&plan), 1);
    let ended = status(&run(&too_often, &[pod("f1", "Failed", false)])).unwrap();
    assert_eq!(reason(&ended, "Failed").as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn a_deadline_ends_the_job() {
    let spec = json!({"activeDeadlineSeconds": 60});
    let early = run(&job(spec.clone(), json!({"startTime": "2026-01-01T00:59:30Z"})), &[pod("a", "Running", true)]);
    assert_eq!(early.requeue_after, Some(Duration::from_secs(30)));
    let late = run(&job(spec, json!({"startTime": "2026-01-01T00:58:00Z"})), &[pod("a", "Running", true)]);
    assert_eq!(reason(&status(&late).unwrap(), "FailureTarget").as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_suspended_job_runs_nothing() {
    let plan = run(&job(json!({"suspend": true}), json!({"startTime": NOW})), &[pod("a", "Running", true)]);
    assert_eq!(deletes(&plan), 1);
    let suspended = status(&plan).unwrap();
    assert_eq!((reason(&suspended, "Suspended").as_deref(), suspended.start_time), (Some("JobSuspended"), None));
    let resumed = run(&job(json!({}), json!({"conditions": suspended.conditions})), &[]);
    assert!(status(&resumed).unwrap().start_time.is_some());
    assert_eq!(creates(&resumed), 1);
}

#[test]
fn indexed_jobs_run_each_index_once() {
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
    let index = |i: i32| json!({"batch.kubernetes.io/job-completion-index": i.to_string()});
    let pods = [pod_with("p0", "Succeeded", true, index(0)), pod_with("p1", "Running", true, index(1))];
    let plan = run(&job(spec, json!({"startTime": NOW})), &pods);
    assert_eq!(status(&plan).unwrap().completed_indexes, "0");
    let names: Vec<String> = writes(&plan, |v| matches!(v, Verb::Create(_)))
        .iter()
        .map(|w| match &w.verb {
            Verb::Create(body) => body["metadata"]["generateName"].as_str().unwrap().to_owned(),
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(names, ["pi-2-", "pi-3-"]);
}

#[test]
fn with_a_work_queue_one_success_ends_the_making() {
    let queue = job(json!({"completions": null, "parallelism": 3}), json!({"startTime": NOW}));
    let plan = run(&queue, &[pod("a", "Succeeded", true), pod("b", "Running", true)]);
    assert_eq!((creates(&plan), deletes(&plan)), (0, 0));
    assert_eq!(reason(&status(&plan).unwrap(), "SuccessCriteriaMet"), None);
    let plan = run(&queue, &[pod("a", "Succeeded", true), pod("b", "Succeeded", true)]);
    assert!(reason(&status(&plan).unwrap(), "SuccessCriteriaMet").is_some());
}

/// The status that a plan writes; that of the job, if it writes none.
fn written(plan: &Plan, job: &Job) -> JobStatus {
    let patches = writes(plan, |verb| matches!(verb, Verb::Patch("status", ..)));
    match patches.first().map(|write| &write.verb) {
        Some(Verb::Patch(_, _, patch)) => serde_json::from_value(patch["status"].clone()).unwrap(),
        _ => job.status.clone(),
    }
}

const STARTED: &str = "2026-01-01T00:00:00Z";

#[test]
fn a_failure_can_end_the_job_or_not_count() {
    let policy = |action: &str| {
        json!({"podFailurePolicy": {"rules": [
            {"action": action, "onExitCodes": {"containerName": "c", "operator": "In", "values": [1, 2]}}]},
            "podReplacementPolicy": "Failed"})
    };
    let failed = [pod("a", "Failed", true)];
    let fatal = job(policy("FailJob"), json!({"startTime": STARTED}));
    let status = written(&run(&fatal, &failed), &fatal);
    let condition = condition(&status.conditions, "FailureTarget").unwrap();
    assert_eq!(condition.reason.as_deref(), Some("PodFailurePolicy"));
    assert_eq!(
        condition.message.as_deref(),
        Some("Container c for pod n/a failed with exit code 1 matching FailJob rule at index 0")
    );
    let ignored = job(policy("Ignore"), json!({"startTime": STARTED}));
    let plan = run(&ignored, &failed);
    assert!(written(&plan, &ignored).uncounted_terminated_pods.failed.is_empty());
    // It is let go all the same.
    assert_eq!(writes(&plan, |verb| matches!(verb, Verb::Patch("", ..))).len(), 1);
    let counted = job(policy("Count"), json!({"startTime": STARTED}));
    assert_eq!(written(&run(&counted, &failed), &counted).uncounted_terminated_pods.failed, ["a"]);
}

fn indexed(extra: &Value, status: Value) -> Job {
    let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimit": i32::MAX,
        "backoffLimitPerIndex": 1});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    job(spec, status)
}

fn of_index(name: &str, phase: &str, index: i32, failures: i32) -> Arc<Pod> {
    let annotations = json!({"batch.kubernetes.io/job-completion-index": index.to_string(),
        "batch.kubernetes.io/job-index-failure-count": failures.to_string()});
    pod_with(name, phase, true, annotations)
}

#[test]
fn each_index_fails_for_itself() {
    let job = indexed(&json!({}), json!({"startTime": STARTED}));
    let pods = [of_index("a", "Failed", 0, 0), of_index("b", "Running", 1, 0), of_index("c", "Running", 2, 0)];
    let plan = run(&job, &pods);
    // Held until the next one tells of it.
    assert!(written(&plan, &job).uncounted_terminated_pods.failed.is_empty());
    let pods = [
        of_index("a", "Failed", 0, 0),
        of_index("a2", "Failed", 0, 1),
        of_index("b", "Running", 1, 0),
        of_index("c", "Running", 2, 0),
    ];
    let status = written(&run(&job, &pods), &job);
    assert_eq!(status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(status.uncounted_terminated_pods.failed.len(), 2);
    assert!(status.conditions.is_empty());
    // All are done, one of them badly.
    let pods = [of_index("a", "Failed", 0, 1), of_index("b", "Succeeded", 1, 0), of_index("c", "Succeeded", 2, 0)];
    let status = written(&run(&job, &pods), &job);
    assert_eq!(condition(&status.conditions, "FailureTarget").unwrap().reason.as_deref(), Some("FailedIndexes"));
    // More than may fail.
    let job = indexed(&json!({"maxFailedIndexes": 0}), json!({"startTime": STARTED}));
    let status = written(&run(&job, &[of_index("a", "Failed", 0, 1)]), &job);
    let reason = condition(&status.conditions, "FailureTarget").unwrap().reason.as_deref();
    assert_eq!(reason, Some("MaxFailedIndexesExceeded"));
}

#[test]
fn the_next_pod_of_an_index_carries_its_failures() {
    let job = indexed(&json!({"parallelism": 1}), json!({"startTime": STARTED}));
    let mut failed = Pod::clone(&of_index("a", "Failed", 0, 0));
    failed.status.container_statuses[0].state = None;
    let plan = run(&job, &[Arc::new(failed)]);
    let made = writes(&plan, |verb| matches!(verb, Verb::Create(_)));
    let Verb::Create(body) = &made[0].verb else { panic!() };
    assert_eq!(body["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "1");
}

#[test]
fn some_successes_may_suffice() {
    let rules = json!({"backoffLimitPerIndex": null, "successPolicy": {"rules": [
        {"succeededIndexes": "1-2", "succeededCount": 2}, {"succeededIndexes": "0"}]}});
    let job = indexed(&rules, json!({"startTime": STARTED}));
    let pods = [of_index("a", "Succeeded", 0, 0), of_index("b", "Running", 1, 0)];
    let plan = run(&job, &pods);
    let status = written(&plan, &job);
    let condition = condition(&status.conditions, "SuccessCriteriaMet").unwrap();
    assert_eq!(
        (condition.reason.as_deref(), condition.message.as_deref()),
        (Some("SuccessPolicy"), Some("Matched rules at index 1"))
    );
    assert_eq!(writes(&plan, |verb| matches!(verb, Verb::Delete(_))).len(), 1);
}

/// These jobs, and no others.
fn known(jobs: &[&Job]) -> Cache<Job> {
    let cache = Cache::default();
    cache.replace(jobs.iter().copied().cloned().collect(), 9);
    cache
}

#[test]
fn nobodys_pods_are_orphans() {
    let pi = job(json!({}), json!({}));
    let (none, only_pi) = (known(&[]), known(&[&pi]));
    let own = pod("a", "Running", true);
    assert!(!is_orphan(&own, &only_pi));
    assert!(is_orphan(&own, &none), "its job is gone");
    assert!(!is_orphan(&pod("a", "Running", false), &none), "nothing holds it");
    let mut namesake = pi.clone();
    namesake.metadata.uid = "another".into();
    assert!(is_orphan(&own, &known(&[&namesake])), "another job of the same name");
    let mut free = Pod::clone(&own);
    free.metadata.owner_references.clear();
    assert!(!is_orphan(&free, &only_pi), "the job takes it up");
    free.metadata.labels.clear();
    assert!(is_orphan(&free, &only_pi), "the job has let go of it");
    let other = json!([{"apiVersion": "batch/v1", "kind": "ReplicaSet", "name": "pi", "uid": "x", "controller": true}]);
    free.metadata.owner_references = serde_json::from_value(other).unwrap();
    assert!(!is_orphan(&free, &none), "another controller's");
}
