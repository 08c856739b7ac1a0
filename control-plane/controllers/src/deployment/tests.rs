use serde_json::{Value, json};

use super::*;
use crate::runtime::plan::Verb;
use crate::views::DeploymentStatus;

const NOW: &str = "2026-01-01T00:10:00Z";

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32, patch: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 2, "resourceVersion": "9",
            "annotations": {REVISION: "2", "note": "x"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("v2"),
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}},
        "status": {"conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetCreated",
            "lastUpdateTime": "2026-01-01T00:09:00Z", "lastTransitionTime": "2026-01-01T00:09:00Z"}]},
    });
    merge(&mut value, &patch);
    serde_json::from_value(value).unwrap()
}

/// A set of the deployment with all its pods ready, annotated as it should be.
fn set(image: &str, revision: u32, replicas: i32, desired: i32, patch: Value) -> Arc<ReplicaSet> {
    let max = desired + (desired + 3) / 4;
    let mut value = json!({
        "metadata": {"name": format!("web-{image}"), "namespace": "n", "uid": image, "resourceVersion": "5",
            "generation": 1, "labels": {"app": "web"}, "creationTimestamp": format!("2026-01-01T00:0{revision}:00Z"),
            "annotations": {REVISION: revision.to_string(), "note": "x",
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": max.to_string()},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d",
                "controller": true}]},
        "spec": {"replicas": replicas, "template": template(image)},
        "status": {"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
            "observedGeneration": 1},
    });
    merge(&mut value, &patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            for (key, value) in fields {
                match target.as_object_mut() {
                    Some(target) if value.is_null() => drop(target.remove(key)),
                    _ => merge(&mut target[key], value),
                }
            }
        }
        other => *target = other.clone(),
    }
}

fn run(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Plan {
    run_with_pods(deployment, sets, &[])
}

fn run_with_pods(deployment: &Deployment, sets: &[Arc<ReplicaSet>], pods: &[Arc<Pod>]) -> Plan {
    plan(&View { deployment, sets, pods }, NOW.parse().unwrap())
}

/// `(set, size)` of each scaling.
fn sizes(plan: &Plan) -> Vec<(String, i64)> {
    plan.actions()
        .filter_map(|a| match a {
            Action::Write(w) => match &w.verb {
                Verb::Patch("", _, patch) => Some((w.name.clone(), patch["spec"]["replicas"].as_i64()?)),
                _ => None,
            },
            Action::Event(_) => None,
        })
        .collect()
}

fn created(plan: &Plan) -> Option<(&Value, &Report)> {
    plan.actions().find_map(|a| match a {
        Action::Write(w) => match &w.verb {
            Verb::Create(body) => Some((body, w.report.as_ref()?)),
            _ => None,
        },
        Action::Event(_) => None,
    })
}

fn status(plan: &Plan) -> DeploymentStatus {
    plan.actions()
        .find_map(|a| match a {
            Action::Write(w) => match &w.verb {
                Verb::Patch("status", _, patch) => serde_json::from_value(patch["status"].clone()).ok(),
                _ => None,
            },
            Action::Event(_) => None,
        })
        .unwrap()
}

fn reason(status: &DeploymentStatus, kind: &str) -> (String, String, String) {
    let c = status.conditions.iter().find(|c| c.kind == kind).unwrap();
    (c.status.clone(), c.reason.clone().unwrap(), c.message.clone().unwrap_or_default())
}

#[test]
fn the_first_set_is_made_at_full_size() {
    let plan =
        run(&deployment(4, json!({"metadata": {"annotations": {REVISION: null}}, "status": {"conditions": []}})), &[]);
    let (body, report) = created(&plan).unwrap();
    let name = body["metadata"]["name"].as_str().unwrap();
    assert_eq!(name, format!("web-{}", template_hash(&template("v2"), None)));
    assert_eq!(body["spec"]["replicas"], 4);
    assert_eq!(body["metadata"]["annotations"][REVISION], "1");
    assert_eq!(body["metadata"]["annotations"]["note"], "x");
    assert_eq!(body["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"], "5");
    let hash = &body["metadata"]["labels"]["pod-template-hash"];
    assert_eq!(*hash, body["spec"]["selector"]["matchLabels"]["pod-template-hash"]);
    assert_eq!(*hash, body["spec"]["template"]["metadata"]["labels"]["pod-template-hash"]);
    assert_eq!(report.success.as_ref().unwrap().1, format!("Scaled up replica set {name} from 0 to 4"));
    assert_eq!(reason(&status(&plan), "Progressing").1, "NewReplicaSetCreated");
}

#[test]
fn a_roll_out_goes_up_by_surge_and_down_by_availability() {
    // 10 pods, 3 more and 2 fewer allowed.
    let web = deployment(10, json!({}));
    let first = run(&web, &[set("v1", 1, 10, 10, json!({}))]);
    assert_eq!(created(&first).unwrap().0["spec"]["replicas"], 3);
    let unready = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
    let new = set("v2", 2, 3, 10, unready);
    let second = run(&web, &[set("v1", 1, 10, 10, json!({})), new.clone()]);
    assert_eq!(sizes(&second), [("web-v1".into(), 8)]);
    let third = run(&web, &[set("v1", 1, 8, 10, json!({})), new]);
    assert_eq!(sizes(&third), [("web-v2".into(), 5)]);
    // Those that became ready let as many old ones go.
    let some = json!({"status": {"readyReplicas": 3, "availableReplicas": 3}});
    let fourth = run(&web, &[set("v1", 1, 8, 10, json!({})), set("v2", 2, 5, 10, some)]);
    assert_eq!(sizes(&fourth), [("web-v1".into(), 5)]);
}

#[test]
fn unhealthy_old_pods_go_first() {
    let web = deployment(4, json!({}));
    let sick = json!({"status": {"readyReplicas": 1, "availableReplicas": 1}});
    let new = set("v2", 2, 1, 4, json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    let plan = run(&web, &[set("v1", 1, 4, 4, sick), new]);
    assert_eq!(sizes(&plan), [("web-v1".into(), 3)]);
}

#[test]
fn completion_is_told() {
    let web = deployment(3, json!({}));
    let status = status(&run(&web, &[set("v1", 1, 0, 3, json!({})), set("v2", 2, 3, 3, json!({}))]));
    assert_eq!((status.updated_replicas, status.unavailable_replicas, status.observed_generation), (3, 0, 2));
    let message = "ReplicaSet \"web-v2\" has successfully progressed.".to_owned();
    assert_eq!(reason(&status, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into(), message));
    assert_eq!(reason(&status, "Available").1, "MinimumReplicasAvailable");
    let done = deployment(3, json!({"status": serde_json::to_value(&status).unwrap()}));
    assert!(run(&done, &[set("v1", 1, 0, 3, json!({})), set("v2", 2, 3, 3, json!({}))]).is_empty());
}

#[test]
fn no_progress_is_told_when_the_deadline_is_over() {
    let stuck = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
    let sets = [set("v1", 1, 3, 4, json!({})), set("v2", 2, 2, 4, stuck)];
    let counted = json!({"status": {"replicas": 5, "updatedReplicas": 2, "readyReplicas": 3, "availableReplicas": 3}});
    let waiting = run(&deployment(4, counted.clone()), &sets);
    assert_eq!(waiting.requeue_after, Some(Duration::from_secs(540)));
    let mut late = deployment(4, counted);
    late.spec.progress_deadline_seconds = Some(30);
    let status = status(&run(&late, &sets));
    let message = "ReplicaSet \"web-v2\" has timed out progressing.".to_owned();
    assert_eq!(reason(&status, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into(), message));
}

#[test]
fn going_back_makes_the_old_set_the_newest_revision() {
    let web = deployment(3, json!({"spec": {"template": template("v1")}}));
    let plan = run(&web, &[set("v1", 1, 0, 3, json!({})), set("v2", 2, 3, 3, json!({}))]);
    let patches: Vec<(&str, &Value)> = plan
        .actions()
        .filter_map(|a| match a {
            Action::Write(w) => match &w.verb {
                Verb::Patch("", _, patch) => Some((w.name.as_str(), &patch["metadata"]["annotations"])),
                _ => None,
            },
            Action::Event(_) => None,
        })
        .collect();
    assert_eq!(patches[0].0, "web-v1");
    assert_eq!(
        (&patches[0].1[REVISION], &patches[0].1["deployment.kubernetes.io/revision-history"]),
        (&json!("3"), &json!("1"))
    );
    assert_eq!((patches[1].0, &patches[1].1[REVISION]), ("web", &json!("3")));
}

#[test]
fn going_back_from_a_roll_out_that_failed_is_progress() {
    let mut web = deployment(
        3,
        json!({"spec": {"template": template("v1")}, "status": {"replicas": 4, "updatedReplicas": 1,
        "readyReplicas": 3, "availableReplicas": 3, "observedGeneration": 1, "conditions": [{"type": "Progressing",
        "status": "False", "reason": "ProgressDeadlineExceeded", "lastUpdateTime": "2026-01-01T00:09:00Z"}]}}),
    );
    let stuck = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
    let bad = set("v2", 2, 1, 3, stuck);
    let plan = run(&web, &[set("v1", 1, 3, 3, json!({})), bad.clone()]);
    let told = |write: &Write| matches!(&write.verb, Verb::Patch("status", ..));
    assert!(!plan.actions().any(|a| matches!(a, Action::Write(w) if told(w))), "the revision first");
    web.metadata.annotations.insert(REVISION.into(), "3".into());
    let good = set("v1", 1, 3, 3, json!({"metadata": {"annotations": {REVISION: "3"}}}));
    let plan = run(&web, &[good, bad]);
    assert_eq!(sizes(&plan), [("web-v2".into(), 0)]);
    let status = status(&plan);
    assert_eq!((status.observed_generation, reason(&status, "Progressing").1.as_str()), (2, "ReplicaSetUpdated"));
}

#[test]
fn scaling_in_the_middle_keeps_the_proportions() {
    // Scaled from 10 to 20 with 8 old and 5 new pods: 25 are allowed.
    let web = deployment(20, json!({}));
    let plan = run(&web, &[set("v1", 1, 8, 10, json!({})), set("v2", 2, 5, 10, json!({}))]);
    let sizes = sizes(&plan);
    assert_eq!(sizes.iter().map(|(_, n)| n).sum::<i64>(), 25);
    assert_eq!(sizes, [("web-v1".into(), 15), ("web-v2".into(), 10)]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let web = deployment(6, json!({"spec": {"paused": true}}));
    let plan = run(&web, &[set("v1", 1, 3, 3, json!({}))]);
    assert!(created(&plan).is_none());
    assert_eq!(sizes(&plan), [("web-v1".into(), 6)]);
    assert_eq!(reason(&status(&plan), "Progressing").1, "DeploymentPaused");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let web = deployment(3, json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    let old = set("v1", 1, 3, 3, json!({}));
    assert_eq!(sizes(&run(&web, &[old])), [("web-v1".into(), 0)]);
    let down = set("v1", 1, 0, 3, json!({}));
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-v1", "uid": "v1", "controller": true}]},
        "status": {"phase": "Running"}}))
    .unwrap();
    let waiting = run_with_pods(&web, std::slice::from_ref(&down), &[Arc::new(pod)]);
    assert!(created(&waiting).is_none() && sizes(&waiting).is_empty());
    assert_eq!(created(&run(&web, &[down])).unwrap().0["spec"]["replicas"], 3);
}

#[test]
fn old_revisions_are_cleaned_up() {
    let mut web = deployment(
        3,
        json!({"spec": {"revisionHistoryLimit": 1}, "status": {"replicas": 3,
        "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3, "observedGeneration": 2}}),
    );
    web.metadata.annotations.insert(REVISION.into(), "4".into());
    let sets = [set("v0", 1, 0, 3, json!({})), set("v1", 3, 0, 3, json!({})), set("v2", 4, 3, 3, json!({}))];
    let plan = run(&web, &sets);
    let deleted: Vec<&str> = plan
        .actions()
        .filter_map(|a| match a {
            Action::Write(w) if matches!(w.verb, Verb::Delete(_)) => Some(w.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, ["web-v0"]);
}

#[test]
fn a_taken_name_is_counted_as_a_collision() {
    let plan = run(&deployment(1, json!({})), &[]);
    let Some(Action::Write(write)) = plan.actions().next() else { panic!("no write") };
    let crate::runtime::plan::IfExists::Instead(other) = &write.if_exists else { panic!("no alternative") };
    let Verb::Patch("status", _, patch) = &other.verb else { panic!("no status") };
    assert_eq!(patch["status"]["collisionCount"], 1);
}
