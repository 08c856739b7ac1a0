use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::authn::UserInfo;
use crate::test_reader::FakeReader;

fn configured() -> (Arc<FakeReader>, Fairness) {
    let reader = FakeReader::new();
    for object in bootstrap::objects() {
        let plural = if object["kind"] == "FlowSchema" { SCHEMAS } else { LEVELS };
        reader.put(GROUP, plural, object);
    }
    let fairness = Fairness::new(reader.clone(), SEATS);
    (reader, fairness)
}

fn request(user: &str, groups: &[&str], verb: &str, resource: &str, namespace: &str) -> Attributes {
    let user =
        UserInfo { name: user.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..UserInfo::default() };
    Attributes {
        user,
        verb: verb.into(),
        group: if resource == "leases" { "coordination.k8s.io".into() } else { String::new() },
        resource: resource.into(),
        namespace: namespace.into(),
        is_resource: true,
        ..Attributes::default()
    }
}

#[test]
fn requests_find_their_schema() {
    let (_, fairness) = configured();
    let schema = |attributes: &Attributes| fairness.flow(attributes).unwrap().schema.to_string();
    let known = "system:authenticated";
    for (attributes, name) in [
        (request("admin", &["system:masters", known], "list", "pods", "ns"), "exempt"),
        (request("system:node:n", &["system:nodes", known], "update", "leases", "kube-node-lease"), "system-node-high"),
        (request("system:node:n", &["system:nodes", known], "get", "nodes", ""), "system-node-high"),
        (request("system:node:n", &["system:nodes", known], "get", "pods", "ns"), "system-nodes"),
        (request("system:kube-scheduler", &[known], "update", "leases", "kube-system"), "system-leader-election"),
        (request("system:kube-scheduler", &[known], "list", "pods", ""), "kube-scheduler"),
        (
            request("system:serviceaccount:kube-system:x", &["system:serviceaccounts", known], "list", "pods", ""),
            "kube-system-service-accounts",
        ),
        (
            request("system:serviceaccount:ns:x", &["system:serviceaccounts", known], "list", "pods", ""),
            "service-accounts",
        ),
        (request("jane", &[known], "get", "pods", "ns"), "global-default"),
    ] {
        assert_eq!(schema(&attributes), name);
    }
    let probe =
        Attributes { user: UserInfo::anonymous(), verb: "get".into(), path: "/readyz".into(), ..Attributes::default() };
    assert_eq!(schema(&probe), "probes");
    assert_eq!(schema(&Attributes { path: "/metrics".into(), ..probe }), "global-default");
}

/// One level of two seats, and everybody in it.
fn narrow(response: Value) -> (Arc<FakeReader>, Fairness) {
    let reader = FakeReader::new();
    let limited = json!({"nominalConcurrencyShares": 1, "limitResponse": response});
    reader.put(GROUP, LEVELS, json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": limited}}));
    let rule = json!({"subjects": [{"kind": "Group", "group": {"name": "*"}}], "resourceRules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]});
    let spec = json!({"priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]});
    reader.put(GROUP, SCHEMAS, json!({"metadata": {"name": "s"}, "spec": spec}));
    let fairness = Fairness::new(reader.clone(), 2);
    (reader, fairness)
}

fn by(user: &str) -> Attributes {
    request(user, &[], "get", "pods", "ns")
}

#[tokio::test(start_paused = true)]
async fn seats_are_taken_and_given_back() {
    let (_, fairness) = narrow(json!({"type": "Reject"}));
    let flow = fairness.flow(&by("jane")).unwrap();
    let enter = |width| flow.enter(width, Duration::from_secs(5));
    let (a, b) = (enter(1).await.unwrap(), enter(1).await.unwrap());
    assert_eq!(enter(1).await.err(), Some(Rejected::NoSeats));
    drop(a);
    assert_eq!(enter(2).await.err(), Some(Rejected::NoSeats));
    drop(b);
    drop(enter(2).await.unwrap());
    drop(enter(1000).await.expect("what is wider than the level gets all of it"));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_go_on_or_give_up() {
    let queuing = json!({"queues": 4, "handSize": 1, "queueLengthLimit": 2});
    let (_, fairness) = narrow(json!({"type": "Queue", "queuing": queuing}));
    let flow = fairness.flow(&by("jane")).unwrap();
    let enter = || flow.enter(1, Duration::from_secs(5));
    let (a, _b) = (enter().await.unwrap(), enter().await.unwrap());
    let start = tokio::time::Instant::now();
    let late = enter();
    let freed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(a);
    };
    let (ticket, ()) = tokio::join!(late, freed);
    let _ticket = ticket.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    let waiting = futures::future::join_all([enter(), enter(), enter()]).await;
    let mut outcomes: Vec<_> = waiting.into_iter().map(|r| r.err().unwrap()).collect();
    outcomes.sort_by_key(|r| *r as usize);
    assert_eq!(outcomes, [Rejected::QueueFull, Rejected::TimedOut, Rejected::TimedOut]);
    // Those who gave up are out of the queue.
    let mut text = String::new();
    fairness.render(&mut text);
    assert!(text.contains("apiserver_flowcontrol_current_inqueue_requests{priority_level=\"l\"} 0"), "{text}");
    assert!(text.contains("apiserver_flowcontrol_current_executing_seats{priority_level=\"l\"} 2"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_level_lends_its_seats() {
    let (_, fairness) = configured();
    let flow = |user: &str, groups: &[&str]| fairness.flow(&request(user, groups, "list", "pods", "ns")).unwrap();
    let busy = flow("jane", &["system:authenticated"]);
    let limit = |fairness: &Fairness| {
        let mut text = String::new();
        fairness.render(&mut text);
        let start = "apiserver_flowcontrol_current_limit_seats{priority_level=\"global-default\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(start)).unwrap().to_owned();
        line.parse::<u32>().unwrap()
    };
    assert_eq!(limit(&fairness), 49, "20 of 245 shares of 600 seats");
    let patience = Duration::from_secs(60);
    let mut tickets = Vec::new();
    for _ in 0..49 {
        tickets.push(busy.enter(1, patience).await.unwrap());
    }
    let waiting = futures::future::join_all((0..150).map(|_| busy.enter(1, patience)));
    let lend = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fairness.adjust();
    };
    let (more, ()) = tokio::join!(waiting, lend);
    assert!(more.iter().all(Result::is_ok));
    assert!(limit(&fairness) >= 199, "{}", limit(&fairness));
}

#[test]
fn a_change_is_seen_by_the_next_request() {
    let (reader, fairness) = narrow(json!({"type": "Reject"}));
    assert_eq!(&*fairness.flow(&by("jane")).unwrap().schema, "s");
    reader.remove(GROUP, SCHEMAS, "", "s");
    assert!(fairness.flow(&by("jane")).is_none());
}
