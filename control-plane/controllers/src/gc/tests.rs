use super::*;
use crate::runtime::informer::Feed as _;
use crate::runtime::kind::{DEPLOYMENT, POD, REPLICA_SET};
use crate::runtime::plan::{Action, Verb};

fn meta(uid: &str, owners: &[(&str, bool)], finalizers: &[&str], deleting: bool) -> Meta {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(uid, blocks)| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid,
            "blockOwnerDeletion": blocks})
        })
        .collect();
    serde_json::from_value(json!({"name": uid, "namespace": "n", "uid": uid, "resourceVersion": "5",
        "ownerReferences": owners, "finalizers": finalizers,
        "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")}))
    .unwrap()
}

fn run(meta: &Meta, owners: &[Owner], dependents: &[(Kind, Meta, bool)]) -> Vec<String> {
    plan(&View { kind: &REPLICA_SET, meta, owners, dependents })
        .actions()
        .map(|a| match a {
            Action::Write(w) => match &w.verb {
                Verb::Delete(o) => format!("delete {} {}", w.name, o.propagation_policy.unwrap_or("-")),
                Verb::Patch(_, _, p) => {
                    let m = &p["metadata"];
                    format!("patch {} owners={} finalizers={}", w.name, m["ownerReferences"], m["finalizers"])
                }
                other => format!("{other:?}"),
            },
            Action::Event(e) => format!("{e:?}"),
        })
        .collect()
}

#[test]
fn an_object_goes_with_its_last_owner() {
    let owned = meta("a", &[("x", true), ("y", false)], &[], false);
    assert_eq!(run(&owned, &[Owner::Gone, Owner::Gone], &[]), ["delete a Background"]);
    assert!(run(&owned, &[Owner::Solid, Owner::Solid], &[]).is_empty());
    let left = run(&owned, &[Owner::Gone, Owner::Solid], &[]);
    assert!(left[0].starts_with("patch a owners=[{") && left[0].contains("\"y\"") && !left[0].contains("\"x\""));
}

#[test]
fn foreground_deletion_goes_down_and_comes_back_up() {
    let child = (POD.clone(), meta("p", &[("a", true)], &[], false), true);
    let middle = meta("a", &[("x", true)], &[], false);
    assert_eq!(run(&middle, &[Owner::Waiting], std::slice::from_ref(&child)), ["delete a Foreground"]);
    assert_eq!(run(&middle, &[Owner::Waiting], &[]), ["delete a Background"]);
    let waiting = meta("a", &[], &[FOREGROUND, "mine"], true);
    assert!(run(&waiting, &[], std::slice::from_ref(&child)).is_empty());
    let free = (child.0, child.1, false);
    assert_eq!(run(&waiting, &[], &[free]), [r#"patch a owners=null finalizers=["mine"]"#]);
}

#[test]
fn a_circle_is_opened() {
    // a owns b owns c owns a; a and b wait already: c holds b up no longer, and then goes.
    let first = (POD.clone(), meta("a", &[("c", true)], &[FOREGROUND], true), true);
    let last = run(&meta("c", &[("b", true)], &[], false), &[Owner::Waiting], std::slice::from_ref(&first));
    assert!(last.len() == 1 && last[0].contains(r#""blockOwnerDeletion":false"#), "{last:?}");
    let opened = meta("c", &[("b", false)], &[], false);
    assert_eq!(run(&opened, &[Owner::Waiting], &[first]), ["delete c Foreground"]);
}

#[test]
fn orphans_are_let_go_before_their_owner_is() {
    let owner = meta("a", &[], &[ORPHAN], true);
    let child = (POD.clone(), meta("p", &[("a", true)], &[], false), true);
    assert_eq!(
        run(&owner, &[], &[child]),
        ["patch p owners=null finalizers=null", "patch a owners=null finalizers=null"]
    );
}

#[test]
fn what_is_going_anyway_is_left_alone() {
    let going = meta("a", &[("x", true)], &["mine"], true);
    assert!(run(&going, &[Owner::Gone], &[]).is_empty());
}

fn object(uid: &str, owner: Option<&str>, revision: u64, finalizers: &[&str], deleting: bool) -> Object {
    let owners: Vec<Value> = owner
        .iter()
        .map(|uid| json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": uid, "uid": uid}))
        .collect();
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid, "finalizers": finalizers,
        "resourceVersion": revision.to_string(), "ownerReferences": owners,
        "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")}}))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_graph_tells_whom_to_look_at() {
    let (graph, queue) = (Arc::new(Mutex::new(Graph::default())), Arc::<Keys>::default());
    let feed = |kind: &Kind| {
        graph.lock().expect_kind(kind);
        KindFeed::new(kind.clone(), graph.clone(), queue.clone(), Arc::new(|_: &Kind, _: &str| {}), Arc::default())
    };
    let (deployments, sets) = (feed(&DEPLOYMENT), feed(&REPLICA_SET));
    deployments.replace(vec![object("d", None, 1, &[], false)], 1);
    graph.lock().discovered = true;
    assert!(!graph.lock().is_complete());
    sets.replace(vec![object("s", Some("d"), 2, &[], false)], 2);
    assert!(graph.lock().is_complete());
    assert!(queue.is_empty());

    // A foreground deletion: both ends are looked at.
    deployments.put(object("d", None, 3, &[FOREGROUND], true));
    let mut looked = [queue.next().await.name, queue.next().await.name];
    looked.sort();
    assert_eq!(looked, ["d", "s"]);
    looked.iter().for_each(|uid| queue.done(&Key::new("", uid)));

    // The dependent is gone: its owner is looked at.
    sets.delete(object("s", Some("d"), 4, &[], true));
    assert_eq!(queue.next().await.name, "d");
    queue.done(&Key::new("", "d"));
    deployments.delete(object("d", None, 5, &[], true));
    assert!(queue.is_empty());

    // One whose owner is not known is looked at.
    sets.put(object("t", Some("d"), 6, &[], false));
    assert_eq!(queue.next().await.name, "t");
}
