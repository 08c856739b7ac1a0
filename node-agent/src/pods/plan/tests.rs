use proptest::prelude::*;
use serde_json::json;

use super::super::state::{Connected, Evicted, Instance, Leaving, Problem, Step, Unhealthy};
use super::super::status::{phase, status};
use super::*;
use crate::api::status::PodStatus;
use crate::runtime::{Exit, LocalImage, Phase, Sandbox};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    let meta = json!({ "name": "p", "namespace": "ns", "uid": "u", "generation": 1 });
    serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap()
}

fn simple(policy: &str) -> Pod {
    pod(
        json!({ "restartPolicy": policy, "containers": [{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }] }),
    )
}

fn deleted(mut pod: Pod, grace: i64) -> Pod {
    pod.metadata.deletion_timestamp = Some(at(50));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

/// A state with volumes and network.
fn prepared() -> PodState {
    PodState {
        started_at: Some(at(0)),
        volumes: Step::Done(()),
        leaving: Leaving::Left(SignedDuration::ZERO),
        network: Step::Done(Connected {
            sandbox: Sandbox { netns: None },
            addresses: vec!["10.244.0.5".parse().unwrap()],
        }),
        ..PodState::default()
    }
}

fn instance(phase: Phase) -> Option<Instance> {
    let image = LocalImage { name: "docker.io/library/i:latest".to_owned(), ..LocalImage::default() };
    Some(Instance { id: "x".to_owned(), attempt: 0, image, phase, message: None, reason: None })
}

fn running(state: &mut PodState, name: &str) {
    let container = state.containers.entry(name.to_owned()).or_default();
    container.instance = instance(Phase::Running(at(1)));
    (container.started, container.ready) = (true, true);
}

fn exited(state: &mut PodState, name: &str, code: i32, finished: i64) {
    let container = state.containers.entry(name.to_owned()).or_default();
    let exit = Exit { code, finished_at: at(finished), oom_killed: false };
    container.instance = instance(Phase::Exited(Some(at(1)), exit));
    (container.started, container.ready) = (false, false);
}

fn start_of(name: &str) -> Action {
    Action::Start { container: name.to_owned() }
}

fn report(pod: &Pod, state: &PodState, now: i64) -> PodStatus {
    status(pod, state, &PodStatus::default(), "172.30.0.11".parse().unwrap(), at(now))
}

fn condition(status: &PodStatus, kind: &str) -> (String, Option<String>, Option<String>) {
    let found = status.conditions.iter().find(|c| c.kind == kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn a_new_pod_gets_volumes_and_network_at_the_same_time() {
    let pod = simple("Always");
    let state = PodState { started_at: Some(at(0)), ..PodState::default() };
    assert_eq!(plan(&pod, &state, at(1)).actions, [Action::MountVolumes, Action::Connect]);
    let status = report(&pod, &state, 1);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(status.container_statuses[0].state.waiting.as_ref().unwrap().reason, "ContainerCreating");
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "False");
    let message = "containers with unready status: [a b]".to_owned();
    assert_eq!(condition(&status, "Ready"), ("False".to_owned(), Some("ContainersNotReady".to_owned()), Some(message)));
}

#[test]
fn containers_start_in_order_one_at_a_time() {
    let pod = simple("Always");
    let mut state = prepared();
    assert_eq!(plan(&pod, &state, at(1)).actions, [start_of("a")]);
    state.containers.entry("a".to_owned()).or_default().operation = Some(Operation::Starting);
    assert_eq!(plan(&pod, &state, at(1)).actions, []);
    state.containers.get_mut("a").unwrap().operation = None;
    running(&mut state, "a");
    assert_eq!(plan(&pod, &state, at(1)).actions, [start_of("b")]);
    running(&mut state, "b");
    assert_eq!(plan(&pod, &state, at(1)), Plan::default());
    let status = report(&pod, &state, 2);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Ready").0, "True");
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.5"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn init_containers_go_first_and_sidecars_stay() {
    let pod = pod(json!({
        "initContainers": [
            { "name": "one", "image": "i" },
            { "name": "side", "image": "i", "restartPolicy": "Always" },
            { "name": "two", "image": "i" },
        ],
        "containers": [{ "name": "main", "image": "i" }],
    }));
    let mut state = prepared();
    assert_eq!(plan(&pod, &state, at(1)).actions, [start_of("one")]);
    running(&mut state, "one");
    assert_eq!(plan(&pod, &state, at(1)).actions, []);
    assert_eq!(report(&pod, &state, 1).container_statuses[0].state.waiting.as_ref().unwrap().reason, "PodInitializing");
    let incomplete = "containers with incomplete status: [one side two]".to_owned();
    assert_eq!(condition(&report(&pod, &state, 1), "Initialized").2, Some(incomplete));
    exited(&mut state, "one", 0, 2);
    assert_eq!(plan(&pod, &state, at(2)).actions, [start_of("side")]);
    running(&mut state, "side");
    state.containers.get_mut("side").unwrap().started = false;
    assert_eq!(plan(&pod, &state, at(2)).actions, [], "it has not passed its startup probe");
    state.containers.get_mut("side").unwrap().started = true;
    assert_eq!(plan(&pod, &state, at(2)).actions, [start_of("two")]);
    exited(&mut state, "two", 0, 3);
    assert_eq!(plan(&pod, &state, at(3)).actions, [start_of("main")]);
    running(&mut state, "main");
    // A sidecar that ends comes back, whatever its exit code.
    exited(&mut state, "side", 0, 4);
    assert_eq!(plan(&pod, &state, at(4)).actions, [start_of("side")]);
    assert_eq!(report(&pod, &state, 4).phase.as_deref(), Some("Running"));
}

#[test]
fn a_failing_init_container_fails_a_pod_that_never_restarts() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{ "name": "one", "image": "i" }], "containers": [{ "name": "main", "image": "i" }],
    });
    let pod = pod(spec);
    let mut state = prepared();
    exited(&mut state, "one", 1, 2);
    assert_eq!(phase(&pod, &state, at(3)), "Failed");
    assert_eq!(plan(&pod, &state, at(3)).actions, [Action::TearDown]);
}

#[test]
fn a_crash_is_restarted_at_once_and_then_waits() {
    let pod = simple("Always");
    let mut state = prepared();
    running(&mut state, "b");
    exited(&mut state, "a", 1, 10);
    assert_eq!(plan(&pod, &state, at(10)).actions, [start_of("a")]);
    let container = state.containers.get_mut("a").unwrap();
    container.backoff.advance(at(10), at(10));
    exited(&mut state, "a", 1, 11);
    let plan = plan(&pod, &state, at(12));
    assert_eq!((plan.actions, plan.wake_at), (Vec::new(), Some(at(21))));
    let status = report(&pod, &state, 12);
    let waiting = status.container_statuses[0].state.waiting.as_ref().unwrap();
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(waiting.message.as_deref(), Some("back-off 10s restarting failed container=a pod=p_ns(u)"));
    assert_eq!(status.container_statuses[0].last_state.terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(super::plan(&pod, &state, at(21)).actions, [start_of("a")]);
}

#[test]
fn restart_policies_decide_what_comes_back() {
    for (policy, code, again) in
        [("Always", 0, true), ("Always", 1, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
    {
        let pod = simple(policy);
        let mut state = prepared();
        running(&mut state, "b");
        exited(&mut state, "a", code, 5);
        let expected = if again { vec![start_of("a")] } else { Vec::new() };
        assert_eq!(plan(&pod, &state, at(5)).actions, expected, "{policy} {code}");
        assert_eq!(phase(&pod, &state, at(5)), "Running");
    }
}

#[test]
fn a_pod_whose_containers_are_done_is_torn_down_but_kept() {
    let pod = simple("Never");
    let mut state = prepared();
    exited(&mut state, "a", 0, 5);
    exited(&mut state, "b", 0, 5);
    assert_eq!(phase(&pod, &state, at(6)), "Succeeded");
    assert_eq!(condition(&report(&pod, &state, 6), "Ready").1.as_deref(), Some("PodCompleted"));
    state.finished = Some("Succeeded");
    assert_eq!(plan(&pod, &state, at(6)).actions, [Action::TearDown]);
    state.torn_down = Step::Done(());
    assert_eq!(plan(&pod, &state, at(6)).actions, []);
    let pod = deleted(pod, 30);
    assert_eq!(plan(&pod, &state, at(60)).actions, [Action::Delete]);
    exited(&mut state, "b", 3, 5);
    state.finished = None;
    assert_eq!(phase(&simple("Never"), &state, at(6)), "Failed");
}

#[test]
fn deletion_stops_tears_down_and_deletes() {
    let pod = deleted(simple("Always"), 5);
    let mut state = prepared();
    running(&mut state, "a");
    running(&mut state, "b");
    let stop = |name: &str, deadline| Action::Stop {
        container: name.to_owned(),
        message: format!("Stopping container {name}"),
        deadline: at(deadline),
    };
    assert_eq!(plan(&pod, &state, at(50)).actions, [stop("a", 55), stop("b", 55)]);
    for name in ["a", "b"] {
        state.containers.get_mut(name).unwrap().operation = Some(Operation::Stopping(at(55)));
    }
    assert_eq!(plan(&pod, &state, at(51)).actions, [], "asked once");
    // The grace period is cut short: hurry.
    let hurried = deleted(pod.clone(), 0);
    assert_eq!(plan(&hurried, &state, at(51)).actions, [stop("a", 52), stop("b", 52)]);
    for name in ["a", "b"] {
        exited(&mut state, name, 143, 52);
        state.containers.get_mut(name).unwrap().operation = None;
    }
    assert_eq!(plan(&pod, &state, at(53)).actions, [Action::TearDown]);
    assert_eq!(phase(&pod, &state, at(53)), "Failed");
    state.torn_down = Step::Doing;
    assert_eq!(plan(&pod, &state, at(53)).actions, []);
    state.torn_down = Step::Done(());
    assert_eq!(plan(&pod, &state, at(53)).actions, [Action::Delete]);
}

#[test]
fn a_deleted_pod_leaves_its_services_before_it_is_asked_to_stop() {
    let mut pod = deleted(simple("Always"), 30);
    let mut state = PodState { leaving: Leaving::Todo, ..prepared() };
    assert_eq!(plan(&pod, &state, at(50)).actions, [Action::TearDown], "nothing runs");
    running(&mut state, "a");
    running(&mut state, "b");
    let leave = Action::LeaveServices { within: SignedDuration::from_secs(5) };
    assert_eq!(plan(&pod, &state, at(50)).actions, [leave]);
    state.leaving = Leaving::Since(at(50));
    assert_eq!(plan(&pod, &state, at(52)), Plan { actions: Vec::new(), wake_at: Some(at(55)) });
    let deadlines = |pod: &Pod, state: &PodState, now: i64| -> Vec<Timestamp> {
        let actions = plan(pod, state, at(now)).actions;
        actions.into_iter().map(|a| if let Action::Stop { deadline, .. } = a { deadline } else { at(0) }).collect()
    };
    assert_eq!(deadlines(&pod, &state, 55), [at(80), at(80)], "whether or not all have answered");
    let hurried = deleted(pod.clone(), 1);
    assert_eq!(deadlines(&hurried, &state, 52), [at(53), at(53)], "the grace period was cut short");
    state.leaving = Leaving::Left(SignedDuration::from_secs(2));
    assert_eq!(deadlines(&pod, &state, 52), [at(80), at(80)], "waiting was part of the grace period");
    state.leaving = Leaving::Todo;
    pod.metadata.annotations.insert(drain::TIMEOUT_ANNOTATION.to_owned(), "0".to_owned());
    assert_eq!(deadlines(&pod, &state, 50), [at(80), at(80)], "it does not want to be held back");
    pod.metadata.annotations.clear();
    state.removed = true;
    assert_eq!(deadlines(&pod, &state, 50).len(), 2, "the object is gone: no slice names it");
}

#[test]
fn sidecars_stop_last_and_in_reverse() {
    let spec = json!({
        "initContainers": [
            { "name": "s1", "image": "i", "restartPolicy": "Always" },
            { "name": "s2", "image": "i", "restartPolicy": "Always" },
        ],
        "containers": [{ "name": "main", "image": "i" }],
    });
    let pod = deleted(pod(spec), 30);
    let mut state = prepared();
    let stopped = |state: &PodState| -> Vec<String> {
        let actions = plan(&pod, state, at(50)).actions;
        actions
            .into_iter()
            .filter_map(|a| if let Action::Stop { container, .. } = a { Some(container) } else { None })
            .collect()
    };
    for name in ["s1", "s2", "main"] {
        running(&mut state, name);
    }
    assert_eq!(stopped(&state), ["main"]);
    exited(&mut state, "main", 0, 51);
    assert_eq!(stopped(&state), ["s2"]);
    exited(&mut state, "s2", 0, 52);
    assert_eq!(stopped(&state), ["s1"]);
}

#[test]
fn what_is_being_started_is_given_up_on_deletion() {
    let pod = deleted(simple("Always"), 30);
    let mut state = prepared();
    state.containers.entry("a".to_owned()).or_default().operation = Some(Operation::Starting);
    assert_eq!(plan(&pod, &state, at(50)).actions, [Action::Cancel { container: "a".to_owned() }]);
}

#[test]
fn the_unhealthy_are_stopped_and_come_back() {
    let pod = simple("Always");
    let mut state = prepared();
    running(&mut state, "a");
    running(&mut state, "b");
    let message = "Container a failed liveness probe, will be restarted".to_owned();
    let unhealthy = Unhealthy { message: message.clone(), grace_seconds: Some(3) };
    state.containers.get_mut("a").unwrap().unhealthy = Some(unhealthy);
    let stop = Action::Stop { container: "a".to_owned(), message, deadline: at(13) };
    assert_eq!(plan(&pod, &state, at(10)).actions, [stop]);
}

#[test]
fn a_pod_that_takes_too_long_fails() {
    let mut pod = simple("Always");
    pod.spec.active_deadline_seconds = Some(100);
    let mut state = prepared();
    running(&mut state, "a");
    running(&mut state, "b");
    assert_eq!(plan(&pod, &state, at(10)).wake_at, Some(at(100)));
    assert_eq!(plan(&pod, &state, at(100)).actions.len(), 2);
    exited(&mut state, "a", 143, 101);
    exited(&mut state, "b", 143, 101);
    let status = report(&pod, &state, 101);
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_pod_that_is_sent_away_ends_soon_and_has_failed() {
    let pod = simple("Always");
    let mut state = prepared();
    running(&mut state, "a");
    running(&mut state, "b");
    let message = "The node was low on resource: memory. ".to_owned();
    state.evicted = Some(Evicted { message: message.clone(), disrupted: true });
    let stop = Action::Stop { container: "a".to_owned(), message: "Stopping container a".to_owned(), deadline: at(11) };
    assert_eq!(plan(&pod, &state, at(10)).actions[0], stop, "a second, whatever the pod says");
    let status = report(&pod, &state, 10);
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Running"), None), "while it runs");
    let target = status.conditions.iter().find(|c| c.kind == "DisruptionTarget").unwrap();
    assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    exited(&mut state, "a", 0, 11);
    exited(&mut state, "b", 0, 11);
    let status = report(&pod, &state, 11);
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(status.message, Some(message));
    assert_eq!(plan(&pod, &state, at(11)).actions, [Action::TearDown]);
    // An agent that did not see it keeps to what was said.
    let ended = PodState { finished: Some("Failed"), evicted: None, ..state };
    let again = super::super::status::status(&pod, &ended, &status, "172.30.0.11".parse().unwrap(), at(20));
    assert_eq!((again.reason, again.message), (status.reason, status.message));
}

#[test]
fn a_problem_is_shown_and_tried_again_when_due() {
    let pod = simple("Always");
    let mut state = prepared();
    let problem = Problem {
        reason: "ErrImagePull".to_owned(),
        message: "no such image".to_owned(),
        retry_at: at(20),
        since: at(10),
        image: None,
    };
    state.containers.entry("a".to_owned()).or_default().problem = Some(problem);
    let before = plan(&pod, &state, at(10));
    assert_eq!(before.actions, [start_of("b")], "others go on");
    running(&mut state, "b");
    assert_eq!(plan(&pod, &state, at(10)).wake_at, Some(at(20)));
    assert_eq!(plan(&pod, &state, at(20)).actions, [start_of("a")]);
    let status = report(&pod, &state, 10);
    assert_eq!(status.container_statuses[0].state.waiting.as_ref().unwrap().reason, "ErrImagePull");
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn a_transition_keeps_its_time_until_the_next() {
    let pod = simple("Always");
    let mut state = prepared();
    running(&mut state, "a");
    running(&mut state, "b");
    let host = "172.30.0.11".parse().unwrap();
    let first = status(&pod, &state, &PodStatus::default(), host, at(10));
    assert_eq!(status(&pod, &state, &first, host, at(99)), first, "nothing happened: nothing to report");
    state.containers.get_mut("a").unwrap().ready = false;
    let third = status(&pod, &state, &first, host, at(99));
    let ready = third.conditions.iter().find(|c| c.kind == "Ready").unwrap();
    assert_eq!(ready.last_transition_time, Some(at(99)));
}

#[test]
fn every_condition_speaks_of_the_pod_as_it_is_now() {
    let mut pod = simple("Always");
    pod.metadata.generation = Some(3);
    let placed =
        json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(4), "observedGeneration": 1}]);
    pod.status.conditions = serde_json::from_value(placed).unwrap();
    let status = report(&pod, &prepared(), 10);
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)), "{:?}", status.conditions);
    let scheduled = status.conditions.iter().find(|c| c.kind == "PodScheduled").unwrap();
    assert_eq!(scheduled.last_transition_time, Some(at(4)), "the scheduler's time");
}

#[test]
fn a_readiness_gate_holds_back_the_pod_only() {
    let mut pod = simple("Always");
    pod.spec.readiness_gates = serde_json::from_value(json!([{ "conditionType": "x/y" }])).unwrap();
    let mut state = prepared();
    running(&mut state, "a");
    running(&mut state, "b");
    let status = report(&pod, &state, 5);
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    assert_eq!(condition(&status, "Ready").1.as_deref(), Some("ReadinessGatesNotReady"));
}

fn any_container() -> impl Strategy<Value = ContainerState> {
    let phase = prop_oneof![
        Just(None),
        Just(Some(Phase::Running(at(1)))),
        (0..3_i32, 1..100_i64).prop_map(|(code, finished)| {
            Some(Phase::Exited(Some(at(1)), Exit { code, finished_at: at(finished), oom_killed: false }))
        }),
    ];
    let operation = prop_oneof![
        Just(None),
        Just(Some(Operation::Starting)),
        Just(Some(Operation::PostStart)),
        (1..200_i64).prop_map(|s| Some(Operation::Stopping(at(s)))),
    ];
    (phase, operation, any::<bool>(), any::<bool>()).prop_map(|(phase, operation, started, ready)| ContainerState {
        instance: phase.and_then(instance),
        operation,
        started,
        ready,
        ..ContainerState::default()
    })
}

proptest! {
    #[test]
    fn a_plan_never_starts_and_stops_at_once(
        containers in prop::collection::vec(any_container(), 4),
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        is_deleted in any::<bool>(),
        now in 1..300_i64,
    ) {
        let spec = json!({
            "restartPolicy": policy,
            "initContainers": [{ "name": "i", "image": "i" }, { "name": "s", "image": "i", "restartPolicy": "Always" }],
            "containers": [{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }],
        });
        let pod = if is_deleted { deleted(pod(spec), 10) } else { pod(spec) };
        let mut state = prepared();
        state.containers = ["i", "s", "a", "b"].map(str::to_owned).into_iter().zip(containers).collect();
        let actions = plan(&pod, &state, at(now)).actions;
        let starts = actions.iter().filter(|a| matches!(a, Action::Start { .. })).count();
        let winds_down = actions.iter().any(|a| matches!(a, Action::TearDown | Action::Delete | Action::Cancel { .. }));
        prop_assert!(starts <= 1);
        prop_assert!(!(starts > 0 && (winds_down || is_deleted)));
        for action in &actions {
            if let Action::Start { container } = action {
                let state = state.container(container);
                prop_assert!(!state.is_running() && state.operation.is_none());
            }
            if *action == Action::TearDown {
                prop_assert!(state.containers.values().all(|c| !c.is_running() && c.operation.is_none()));
            }
        }
        // Whatever the state, it can be told.
        let told = report(&pod, &state, now);
        prop_assert_eq!(told.container_statuses.len(), 2);
    }
}
