use jiff::Timestamp;

use super::*;
use crate::runtime::plan::{Action, Verb};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
    let mut object = json!({"metadata": {"name": "web", "namespace": "n", "uid": "u", "generation": 1}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1, "maxReplicas": 10, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn scale(replicas: i32) -> Scale {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "d", "resourceVersion": "5"},
        "spec": {"replicas": replicas}, "status": {"replicas": replicas, "selector": "app=web"}}))
    .unwrap()
}

fn pods(count: i32) -> Vec<Pod> {
    let pod = |i: i32| {
        json!({"metadata": {"name": format!("p{i}")},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Ready",
                "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}]}})
    };
    (0..count).map(|i| serde_json::from_value(pod(i)).unwrap()).collect()
}

fn samples(count: i32, value_milli: i64) -> Found {
    let sample = replicas::Sample { value_milli, at: now(), window: jiff::SignedDuration::from_secs(15) };
    Found::Pods((0..count).map(|i| (format!("p{i}"), sample)).collect())
}

fn decided(autoscaler: &HorizontalPodAutoscaler, replicas: i32, found: &[Result<Found, String>]) -> Decision {
    let (scale, pods) = (scale(replicas), pods(replicas));
    let view = View { autoscaler, scale: &scale, pods: &pods, found, rivals: &[], now: now() };
    decide(&view, &mut History::default())
}

fn conditions(decision: &Decision) -> Vec<(String, String, String)> {
    let texts = |c: &crate::runtime::meta::Condition| (c.kind.clone(), c.status.clone(), c.reason.clone().unwrap());
    decision.conditions.iter().map(texts).collect()
}

fn is(kind: &str, status: &str, reason: &str) -> (String, String, String) {
    (kind.into(), status.into(), reason.into())
}

#[test]
fn a_busy_target_grows() {
    let autoscaler = autoscaler(json!({}));
    let decision = decided(&autoscaler, 2, &[Ok(samples(2, 900))]);
    let reason = "cpu resource utilization (percentage of request) above target".to_owned();
    assert_eq!(decision.rescale, Some((4, reason.clone())));
    assert_eq!(
        conditions(&decision),
        [
            is("AbleToScale", "True", "ReadyForNewScale"),
            is("ScalingActive", "True", "ValidMetricFound"),
            is("ScalingLimited", "False", "DesiredWithinRange"),
        ]
    );
    let current = json!({"averageUtilization": 90, "averageValue": "900m"});
    assert_eq!(
        decision.metrics,
        Some(vec![json!({"type": "Resource", "resource": {"name": "cpu", "current": current}})])
    );
    let kind = kind::DEPLOYMENT.clone();
    let plan = rescale(&autoscaler, &kind, &scale(2), 4, &reason);
    let Some(Action::Write(write)) = plan.actions().next() else { panic!("no write") };
    let Verb::Patch("scale", _, patch) = &write.verb else { panic!("{:?}", write.verb) };
    assert_eq!((&patch["spec"]["replicas"], &patch["metadata"]["resourceVersion"]), (&json!(4), &json!("5")));
    let event = write.report.as_ref().unwrap().success.as_ref().unwrap();
    assert_eq!(event.1, format!("New size: 4; reason: {reason}"));
}

#[test]
fn bounds_come_before_metrics() {
    let autoscaler = autoscaler(json!({"minReplicas": 3}));
    let above = decided(&autoscaler, 20, &[]).rescale;
    assert_eq!(above, Some((10, "Current number of replicas above Spec.MaxReplicas".into())));
    let below = decided(&autoscaler, 1, &[]).rescale;
    assert_eq!(below, Some((3, "Current number of replicas below Spec.MinReplicas".into())));
    let none = decided(&autoscaler, 0, &[]);
    assert_eq!((none.rescale.as_ref(), conditions(&none)[1].2.as_str()), (None, "ScalingDisabled"));
}

#[test]
fn without_metrics_nothing_is_done_and_that_is_told() {
    let autoscaler = autoscaler(json!({}));
    let why = "unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    let decision = decided(&autoscaler, 2, &[Err(why.into())]);
    assert_eq!(decision.rescale, None);
    let notes: Vec<(&str, &str)> = decision.notes.iter().map(|n| (n.reason.as_str(), n.message.as_str())).collect();
    let told = format!("failed to get cpu utilization: {why}");
    let all = format!(
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {told}"
    );
    assert_eq!(notes, [("FailedGetResourceMetric", told.as_str()), ("FailedComputeMetricsReplicas", all.as_str())]);
    assert_eq!(conditions(&decision)[1], is("ScalingActive", "False", "FailedGetResourceMetric"));
}

#[test]
fn with_some_metrics_missing_it_may_grow_but_not_shrink() {
    let external = json!({"type": "External", "external": {"metric": {"name": "queue"},
        "target": {"type": "AverageValue", "averageValue": "10"}}});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    let autoscaler = autoscaler(json!({"metrics": [cpu, external]}));
    let grows = decided(&autoscaler, 2, &[Err("no".into()), Ok(Found::Value(40_000))]);
    assert_eq!(grows.rescale, Some((4, "external metric queue(nil) above target".into())));
    let shrinks = decided(&autoscaler, 2, &[Err("no".into()), Ok(Found::Value(10_000))]);
    assert_eq!(shrinks.rescale, None);
    assert_eq!(conditions(&shrinks)[1], is("ScalingActive", "False", "FailedGetResourceMetric"));
    let both = decided(&autoscaler, 2, &[Ok(samples(2, 900)), Ok(Found::Value(90_000))]);
    assert_eq!(both.rescale.unwrap().0, 4, "the highest counts, at the limited rate");
}

#[test]
fn objects_and_pods() {
    let object = json!({"type": "Object", "object": {"metric": {"name": "hits"}, "target": {"type": "Value", "value": "1k"},
        "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"}}});
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "rate"},
        "target": {"type": "AverageValue", "averageValue": "100m"}}});
    let autoscaler = autoscaler(json!({"metrics": [object, pods]}));
    let decision = decided(&autoscaler, 2, &[Ok(Found::Value(2_000_000)), Ok(samples(2, 100))]);
    assert_eq!(decision.rescale, Some((4, "Ingress metric hits above target".into())));
    let statuses = decision.metrics.unwrap();
    assert_eq!(statuses[0]["object"]["current"], json!({"value": "2k"}));
    assert_eq!(statuses[1]["pods"]["current"], json!({"averageValue": "100m"}));
}

#[test]
fn a_selector_is_needed_and_must_be_ones_own() {
    let autoscaler = autoscaler(json!({}));
    let mut bare = scale(2);
    bare.status.selector.clear();
    let view = View { autoscaler: &autoscaler, scale: &bare, pods: &[], found: &[], rivals: &[], now: now() };
    let decision = decide(&view, &mut History::default());
    assert_eq!(conditions(&decision)[1], is("ScalingActive", "False", "InvalidSelector"));
    let (scale, rivals) = (scale(2), ["other".to_owned(), "web".to_owned()]);
    let view = View { autoscaler: &autoscaler, scale: &scale, pods: &[], found: &[], rivals: &rivals, now: now() };
    let decision = decide(&view, &mut History::default());
    assert_eq!(conditions(&decision)[1], is("ScalingActive", "False", "AmbiguousSelector"));
    assert!(decision.notes[0].message.ends_with("are controlled by multiple HPAs: [n/other n/web]"));
}

#[test]
fn the_status_is_written_when_it_changes() {
    let mut autoscaler = autoscaler(json!({}));
    let decision = decided(&autoscaler, 2, &[Ok(samples(2, 500))]);
    assert_eq!(decision.rescale, None);
    let plan = tell(&autoscaler, &decision, Some((2, 2)), false, now());
    let Some(Action::Write(write)) = plan.actions().next() else { panic!("no write") };
    let Verb::Patch("status", _, patch) = &write.verb else { panic!("{:?}", write.verb) };
    assert_eq!(patch["status"]["currentReplicas"], 2);
    autoscaler.status = serde_json::from_value(patch["status"].clone()).unwrap();
    assert!(tell(&autoscaler, &decision, Some((2, 2)), false, now()).is_empty());
    let gone = no_scale(&autoscaler, "deployments.apps \"web\" not found", now());
    assert_eq!(conditions(&gone)[0], is("AbleToScale", "False", "FailedGetScale"));
}
