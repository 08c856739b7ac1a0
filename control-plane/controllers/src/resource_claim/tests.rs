use super::*;
use crate::runtime::plan::Verb;

fn pod(patch: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"resourceClaims": [
        {"name": "own", "resourceClaimTemplateName": "t"}, {"name": "shared", "resourceClaimName": "s"}]}});
    for (key, value) in patch.as_object().unwrap() {
        for (field, value) in value.as_object().unwrap() {
            pod[key][field] = value.clone();
        }
    }
    serde_json::from_value(pod).unwrap()
}

fn claim(patch: Value) -> Arc<ResourceClaim> {
    let mut claim = json!({"metadata": {"name": "p-own-x", "namespace": "n", "uid": "c", "resourceVersion": "7",
        "annotations": {POD_CLAIM: "own"}, "finalizers": [FINALIZER], "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}, "status": {}});
    for (key, value) in patch.as_object().unwrap() {
        for (field, value) in value.as_object().unwrap() {
            claim[key][field] = value.clone();
        }
    }
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn writes(plan: &Plan) -> Vec<&Verb> {
    let mut out = Vec::new();
    for action in plan.actions() {
        if let Action::Write(write) = action {
            out.push(&write.verb);
        }
    }
    out
}

#[test]
fn a_claim_is_made_after_the_template() {
    let spec = json!({"devices": {"requests": [{"name": "r"}]}});
    let template = json!({"spec": {"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": spec}});
    let templates = BTreeMap::from([("t".to_owned(), template)]);
    let plan = plan_missing(&pod(json!({})), &[], &templates);
    let [Verb::Create(made)] = writes(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(made["metadata"]["generateName"], "p-own-");
    assert_eq!(made["metadata"]["annotations"], json!({"x": "y", POD_CLAIM: "own"}));
    assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(made["spec"], spec);
    // Made already, whether or not the pod says so.
    assert!(plan_missing(&pod(json!({})), &[claim(json!({}))], &templates).is_empty());
    let told = pod(json!({"status": {"resourceClaimStatuses": [{"name": "own"}]}}));
    assert!(plan_missing(&told, &[], &templates).is_empty(), "it is not needed");
    // Made, but gone since.
    let told = pod(json!({"status": {"resourceClaimStatuses": [{"name": "own", "resourceClaimName": "p-own-x"}]}}));
    assert_eq!(writes(&plan_missing(&told, &[], &templates)).len(), 1);
    let told = plan_missing(&pod(json!({})), &[], &BTreeMap::new());
    let Some(Action::Event(note)) = told.actions().next() else { panic!("{told:?}") };
    assert_eq!((note.warning, note.reason.as_str()), (true, "FailedResourceClaimCreation"));
}

#[test]
fn names_that_are_too_long_are_cut() {
    assert_eq!(base_name("p", "c"), "p-c-");
    let (pod, claim) = ("p".repeat(60), "c".repeat(20));
    let name = base_name(&pod, &claim);
    assert!(name.len() <= 58 && name.starts_with("ppp") && name.ends_with("ccc"), "{name}");
}

#[test]
fn a_pod_is_told_which_claims_were_made_for_it() {
    let plan = plan_made(&pod(json!({})), &[claim(json!({}))], &[]);
    let [Verb::Patch("status", _, patch)] = writes(&plan)[..] else { panic!("{plan:?}") };
    let statuses = json!([{"name": "own", "resourceClaimName": "p-own-x"}]);
    assert_eq!(patch["status"]["resourceClaimStatuses"], statuses);
    let told = pod(json!({"status": {"resourceClaimStatuses": statuses}}));
    assert!(plan_made(&told, &[claim(json!({}))], &[]).is_empty());
}

#[test]
fn claims_are_reserved_for_pods_that_somebody_else_placed() {
    let statuses = json!([{"name": "own", "resourceClaimName": "p-own-x"}]);
    let placed = pod(json!({"spec": {"nodeName": "a"}, "status": {"resourceClaimStatuses": statuses}}));
    assert!(plan_made(&placed, &[claim(json!({}))], &[]).is_empty(), "it has no devices");
    let has = claim(json!({"status": {"allocation": {"devices": {}}}}));
    let plan = plan_made(&placed, &[has], &[]);
    let [Verb::Patch("status", _, patch)] = writes(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(patch["status"]["reservedFor"], json!([{"resource": "pods", "name": "p", "uid": "u"}]));
}

#[test]
fn who_needs_a_claim_no_longer_is_taken_off_it_and_with_the_last_one_its_devices() {
    let consumers =
        json!([{"resource": "pods", "name": "p", "uid": "u"}, {"resource": "pods", "name": "q", "uid": "v"}]);
    let used = claim(json!({"status": {"allocation": {"devices": {}}, "reservedFor": consumers}}));
    assert!(plan_consumers(&used, |_| true).is_empty());
    let plan = plan_consumers(&used, |consumer| consumer.uid == "v");
    let [Verb::Patch("status", _, patch)] = writes(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(patch["status"], json!({"reservedFor": [consumers[1]]}));
    let plan = plan_consumers(&used, |_| false);
    let [Verb::Patch("status", _, patch)] = writes(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(patch["status"], json!({"reservedFor": null, "allocation": null}));
    let idle = claim(json!({"status": {"allocation": {"devices": {}}}}));
    assert!(plan_consumers(&idle, |_| false).is_empty(), "it was never used");
    let going = claim(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"allocation": {"devices": {}}}}));
    assert_eq!(writes(&plan_consumers(&going, |_| false)).len(), 1);
    let strange = json!([{"apiGroup": "x", "resource": "ys", "name": "y", "uid": "y"}]);
    assert!(plan_consumers(&claim(json!({"status": {"reservedFor": strange}})), |_| false).is_empty());
}

#[test]
fn a_claim_is_let_go_once_it_has_no_devices() {
    assert!(plan_release(&claim(json!({"status": {"allocation": {"devices": {}}}}))).is_empty());
    let plan = plan_release(&claim(json!({})));
    let [Verb::Patch("", _, patch)] = writes(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!((&patch["metadata"]["finalizers"], &patch["metadata"]["resourceVersion"]), (&Value::Null, &json!("7")));
}

#[test]
fn claims_of_pods_that_have_ended_are_deleted() {
    let gone = |pod: Option<&Pod>, claim: &ResourceClaim| !plan_leftover(claim, pod).is_empty();
    assert!(!gone(None, &claim(json!({}))), "the pod may not be known yet");
    assert!(!gone(Some(&pod(json!({}))), &claim(json!({}))));
    assert!(gone(Some(&pod(json!({"status": {"phase": "Succeeded"}}))), &claim(json!({}))));
    assert!(gone(Some(&pod(json!({"metadata": {"uid": "other"}}))), &claim(json!({}))));
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert!(gone(Some(&pod(deleted)), &claim(json!({}))), "it will never run");
    let reserved = json!({"status": {"reservedFor": [{"resource": "pods", "name": "q", "uid": "v"}]}});
    assert!(!gone(Some(&pod(json!({"status": {"phase": "Failed"}}))), &claim(reserved)));
}
