use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    Arc::new(serde_json::from_value(json!({ "metadata": { "name": name, "uid": name }, "spec": spec })).unwrap())
}

fn asking(name: &str, priority: i32, resource: &str, amount: &str) -> Arc<Pod> {
    let container = json!({ "name": "c", "resources": { "requests": { resource: amount } } });
    pod(name, json!({ "priority": priority, "containers": [container] }))
}

const MI: u64 = 1 << 20;

fn memory(mi: u64) -> Option<PodStats> {
    let used = ContainerStats { memory_bytes: mi * MI, ..ContainerStats::default() };
    Some(PodStats { containers: [("c".to_owned(), used)].into(), ..PodStats::default() })
}

fn disk(root: u64, logs: u64, volume: u64) -> PodStats {
    let usage = |mi: u64| DiskUsage { bytes: mi * MI, inodes: mi };
    let used = ContainerStats { root: usage(root), logs: usage(logs), ..ContainerStats::default() };
    PodStats {
        containers: [("c".to_owned(), used)].into(),
        volumes: [("v".to_owned(), usage(volume))].into(),
        ..PodStats::default()
    }
}

fn order(signal: Signal, split: bool, mut candidates: Vec<Candidate>) -> Vec<String> {
    rank(signal, split, &mut candidates);
    candidates.iter().map(|(pod, _)| pod.metadata.name.clone()).collect()
}

#[test]
fn memory_is_taken_from_those_who_use_more_than_they_asked_for() {
    let candidates = vec![
        (asking("within", 0, "memory", "100Mi"), memory(90)),
        (asking("over-a-little", 0, "memory", "10Mi"), memory(20)),
        (asking("over-much", 0, "memory", "10Mi"), memory(70)),
        (asking("over-but-important", 5, "memory", "10Mi"), memory(500)),
        (asking("within-and-idle", 0, "memory", "100Mi"), memory(1)),
        (asking("unknown", 9, "memory", "1Gi"), None),
    ];
    let expected = ["unknown", "over-much", "over-a-little", "over-but-important", "within", "within-and-idle"];
    assert_eq!(order(Signal::MemoryAvailable, false, candidates), expected);
}

#[test]
fn disk_counts_where_it_is_short() {
    let candidates = || {
        vec![
            (asking("writes", 0, STORAGE, "0"), Some(disk(50, 1, 0))),
            (asking("logs", 0, STORAGE, "0"), Some(disk(1, 40, 0))),
            (asking("keeps", 0, STORAGE, "1Gi"), Some(disk(0, 0, 60))),
        ]
    };
    assert_eq!(order(Signal::NodeFsAvailable, false, candidates()), ["writes", "logs", "keeps"]);
    assert_eq!(order(Signal::NodeFsAvailable, true, candidates()), ["logs", "writes", "keeps"]);
    assert_eq!(order(Signal::ImageFsAvailable, true, candidates())[0], "writes");
    assert_eq!(order(Signal::NodeFsInodesFree, false, candidates()), ["keeps", "writes", "logs"]);
}

#[test]
fn processes_count_after_priority() {
    let running = |processes| Some(PodStats { processes, ..PodStats::default() });
    let candidates = vec![
        (asking("few", 0, "cpu", "1"), running(1)),
        (asking("many", 0, "cpu", "1"), running(100)),
        (asking("important", 1, "cpu", "1"), running(1000)),
    ];
    assert_eq!(order(Signal::PidAvailable, false, candidates), ["many", "few", "important"]);
}

#[test]
fn the_message_says_what_was_short_and_who_used_it() {
    let threshold = Threshold::parse("memory.available", "100Mi").unwrap().unwrap();
    let observed = Observation { available: 50 << 20, capacity: 1 << 30 };
    let asked = asking("p", 0, "memory", "10Mi");
    assert_eq!(
        message(&threshold, Some(&observed), &asked, memory(20).as_ref()),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 20Mi, \
         request is 10Mi, has larger consumption of memory. "
    );
    let within = message(&threshold, Some(&observed), &asked, memory(5).as_ref());
    assert_eq!(within, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ");
    let inodes = Threshold::parse("nodefs.inodesFree", "5%").unwrap().unwrap();
    let observed = Observation { available: 10, capacity: 1000 };
    assert_eq!(
        message(&inodes, Some(&observed), &asked, memory(5).as_ref()),
        "The node was low on resource: inodes. Threshold quantity: 50, available: 10. "
    );
}

#[test]
fn a_pod_that_is_over_its_limits_has_to_go() {
    let limited = |limit: &str| json!([{ "name": "c", "resources": { "limits": { "ephemeral-storage": limit } } }]);
    let volumes = |limit: &str| json!([{ "name": "v", "emptyDir": { "sizeLimit": limit } }]);
    let of_volume = pod("p", json!({ "containers": [{ "name": "c" }], "volumes": volumes("10Mi") }));
    assert!(has_disk_limits(&of_volume));
    assert_eq!(over_limits(&of_volume, &disk(50, 50, 10), false), None);
    let message = over_limits(&of_volume, &disk(0, 0, 11), false);
    assert_eq!(message.as_deref(), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". "));
    let of_pod = pod("p", json!({ "containers": limited("10Mi"), "volumes": [{ "name": "v", "emptyDir": {} }] }));
    assert!(has_disk_limits(&of_pod));
    assert_eq!(over_limits(&of_pod, &disk(4, 3, 3), false), None);
    let message = over_limits(&of_pod, &disk(4, 3, 4), false);
    let expected = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ";
    assert_eq!(message.as_deref(), Some(expected));
    // Of two containers, one may be over its own limit while the pod is within its.
    let two = json!([
        { "name": "c", "resources": { "limits": { "ephemeral-storage": "5Mi" } } },
        { "name": "d", "resources": { "limits": { "ephemeral-storage": "50Mi" } } },
    ]);
    let two = pod("p", json!({ "containers": two }));
    let message = over_limits(&two, &disk(4, 3, 0), false);
    assert_eq!(message.as_deref(), Some("Container c exceeded its local ephemeral storage limit \"5Mi\". "));
    assert_eq!(over_limits(&two, &disk(4, 3, 0), true), None, "what it writes is on the images' disk");
    assert!(!has_disk_limits(&pod("p", json!({ "containers": [{ "name": "c" }] }))));
}

#[test]
fn critical_pods_stay() {
    assert!(is_critical(&asking("p", 2_000_000_000, "cpu", "1")));
    assert!(!is_critical(&asking("p", 1_000_000_000, "cpu", "1")));
}

#[test]
fn a_condition_holds_on_for_the_transition_period() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let period = Duration::from_secs(300);
    let memory = Threshold::parse("memory.available", "100Mi").unwrap().unwrap();
    let disk = Threshold::parse("imagefs.available", "15%").unwrap().unwrap();
    let mut conditions = Conditions::default();
    assert_eq!(conditions.observe(&[], at(0), period), Pressure::default());
    let pressed = conditions.observe(&[memory, disk], at(10), period);
    assert_eq!(pressed.conditions(), ["MemoryPressure", "DiskPressure"]);
    assert!(conditions.observe(&[disk], at(309), period).memory);
    let later = conditions.observe(&[], at(310), period);
    assert_eq!(later.conditions(), ["DiskPressure"]);
    let none = Duration::ZERO;
    assert!(conditions.observe(&[memory], at(400), none).memory, "while it lasts, it holds");
}

#[test]
fn what_is_kept_back_is_not_for_pods() {
    let thresholds = crate::eviction::threshold::defaults();
    assert_eq!(reserved(&thresholds, Signal::MemoryAvailable, 1 << 30), 100 << 20);
    assert_eq!(reserved(&thresholds, Signal::PidAvailable, 1 << 30), 0);
    assert_eq!(reserved(&thresholds, Signal::MemoryAvailable, 10), 10);
}
