//! The books that the API server keeps, on real kinds.

use serde_json::{Value, json};

use super::*;
use crate::apply::element::Element;
use crate::apply::managed::{Managed, is_reset, same_but_times};
use crate::apply::manager::FieldManager;
use crate::apply::scale::ScalePath;
use crate::registry::Registry;
use crate::{defaults, walk};

struct One<'a>(&'a str, &'a Definition);

impl Converter for One<'_> {
    fn type_of(&self, version: &str) -> Option<Type<'_>> {
        (version == self.0).then_some(Type::Struct(self.1))
    }

    fn convert(&self, _: &Value, version: &str) -> Result<Value, String> {
        Err(version.to_owned())
    }
}

/// A write, at a time, to a part of an object.
fn at<T>(kind: (&str, &str), part: &str, now: &str, act: impl FnOnce(FieldManager<'_, One<'_>>) -> T) -> T {
    let registry = Registry::builtin();
    let (group, version) = kind.0.split_once('/').unwrap_or(("", kind.0));
    let row = registry.by_kind(group, version, kind.1).unwrap();
    let converter = One(kind.0, row.definition().unwrap());
    let filter = match part {
        "" => Filter::Exclude(Set::of([&["status"]])),
        _ => Filter::Exclude(Set::of([&["spec"]])),
    };
    act(FieldManager { converter: &converter, kind: kind.1, version: kind.0, subresource: part, filter: &filter, now })
}

const DEPLOYMENT: (&str, &str) = ("apps/v1", "Deployment");
const MORNING: &str = "2026-01-01T08:00:00Z";
const NOON: &str = "2026-01-01T12:00:00Z";

fn decoded(kind: (&str, &str), mut object: Value) -> Value {
    let registry = Registry::builtin();
    let (group, version) = kind.0.split_once('/').unwrap_or(("", kind.0));
    let row = registry.by_kind(group, version, kind.1).unwrap();
    object["apiVersion"] = kind.0.into();
    object["kind"] = kind.1.into();
    defaults::apply(row, &mut object);
    walk::prune(row, &mut object);
    object
}

fn deployment() -> Value {
    decoded(
        DEPLOYMENT,
        json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]},
                },
            },
        }),
    )
}

fn created() -> Value {
    let mut object = deployment();
    at(DEPLOYMENT, "", MORNING, |fields| fields.update(None, &mut object, "kubectl-create"));
    object
}

#[test]
fn a_new_deployment_is_owned_as_upstream_says() {
    let object = created();
    let managed = &object["metadata"]["managedFields"];
    let container = json!({
        ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
        "f:ports": {
            ".": {},
            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}},
        },
        "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
    });
    assert_eq!(
        *managed,
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": MORNING,
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
                    "f:strategy": {
                        "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}},
                        "f:type": {},
                    },
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {
                            "f:containers": {"k:{\"name\":\"c\"}": container},
                            "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                            "f:securityContext": {}, "f:terminationGracePeriodSeconds": {},
                        },
                    },
                },
            },
        }])
    );
}

#[test]
fn an_update_owns_what_it_changes_and_no_more() {
    let old = created();
    let mut new = old.clone();
    new["spec"]["replicas"] = 5.into();
    at(DEPLOYMENT, "", NOON, |fields| fields.update(Some(&old), &mut new, "kubectl-edit"));
    let managed = Managed::read(&new["metadata"]["managedFields"]).unwrap();
    assert_eq!(managed.managers.len(), 2);
    let list = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!((&list[0]["time"], &list[1]["time"]), (&json!(MORNING), &json!(NOON)));
    assert_eq!(list[0]["fieldsV1"]["f:spec"].get("f:replicas"), None);
}

#[test]
fn an_update_that_changes_nothing_changes_no_time() {
    let old = created();
    let mut new = old.clone();
    new["metadata"].as_object_mut().unwrap().remove("managedFields");
    at(DEPLOYMENT, "", NOON, |fields| fields.update(Some(&old), &mut new, "kubectl-create"));
    assert_eq!(new, old);
}

#[test]
fn a_status_is_managed_apart() {
    let old = created();
    let mut new = old.clone();
    new["status"] = json!({"replicas": 3, "conditions": [{"type": "Available", "status": "True"}]});
    new["spec"]["replicas"] = 9.into();
    at(DEPLOYMENT, "status", NOON, |fields| fields.update(Some(&old), &mut new, "kube-controller-manager"));
    let list = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[1]["subresource"], "status");
    assert_eq!(
        list[1]["fieldsV1"],
        json!({"f:status": {
            "f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:status": {}, "f:type": {},
                "f:lastTransitionTime": {}, "f:lastUpdateTime": {}}},
            "f:replicas": {},
        }})
    );
    assert!(Managed::read(&old["metadata"]["managedFields"]).unwrap().managers.len() == 1);
    assert_eq!(list[0], old["metadata"]["managedFields"][0], "what it cannot write it does not take");
}

fn applied(manager: &str, live: Option<&Value>, configuration: &Value, force: bool) -> Result<Value, Error> {
    at(DEPLOYMENT, "", NOON, |fields| fields.apply(live, configuration, manager, force))
}

fn replicas(count: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": count}})
}

#[test]
fn conflicts_are_told_in_upstreams_words() {
    let live = created();
    let status = applied("me", Some(&live), &replicas(5), false).unwrap_err().status();
    let message = "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas";
    assert_eq!((status.code, status.reason, status.message.as_str()), (409, "Conflict", message));
    let causes = status.details.unwrap().causes;
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].message, "conflict with \"kubectl-create\" using apps/v1");
    assert_eq!(causes[0].field, ".spec.replicas");

    let mut two = replicas(5);
    two["metadata"]["labels"] = json!({"app": "other"});
    let message = applied("me", Some(&live), &two, false).unwrap_err().to_string();
    assert_eq!(
        message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n\
         - .metadata.labels.app\n- .spec.replicas"
    );

    let mine = applied("me", Some(&live), &replicas(5), true).unwrap();
    let message = applied("you", Some(&mine), &replicas(6), false).unwrap_err().to_string();
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
}

#[test]
fn who_applies_and_who_wrote_before_are_told_apart() {
    let mut live = deployment();
    live["metadata"]["uid"] = "u".into();
    let object = applied("me", Some(&live), &replicas(3), false).unwrap();
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((&list[0]["manager"], &list[0]["operation"]), (&json!("me"), &json!("Apply")));
    assert_eq!((&list[1]["manager"], &list[1]["operation"]), (&json!("before-first-apply"), &json!("Update")));
    assert_eq!(list[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    // Once somebody is tracked, everybody is; before, nobody.
    let mut untracked = live.clone();
    untracked["spec"]["replicas"] = 4.into();
    at(DEPLOYMENT, "", NOON, |fields| fields.update(Some(&live), &mut untracked, "me"));
    assert!(untracked["metadata"].get("managedFields").is_none());
}

#[test]
fn an_apply_creates() {
    let object = applied("me", None, &deployment(), false).unwrap();
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["fieldsV1"]["f:metadata"], json!({"f:labels": {"f:app": {}}}));
    assert_eq!(object["spec"], deployment()["spec"]);
}

#[test]
fn what_is_applied_has_to_be_of_the_kind() {
    let live = created();
    let mut wrong = replicas(1);
    wrong["spec"]["foo"] = 1.into();
    let status = applied("me", Some(&live), &wrong, false).unwrap_err().status();
    assert_eq!(status.code, 500);
    assert_eq!(
        status.message,
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.foo: field not declared \
         in schema"
    );
    let mut other = replicas(1);
    other["apiVersion"] = "apps/v1beta1".into();
    let status = applied("me", Some(&live), &other, false).unwrap_err().status();
    assert_eq!((status.code, status.message.as_str()), (400, "invalid object type: apps/v1beta1, Kind=Deployment"));
    let mut managed = replicas(1);
    managed["metadata"]["managedFields"] = json!([]);
    let status = applied("me", Some(&live), &managed, false).unwrap_err().status();
    assert_eq!((status.code, status.message.as_str()), (400, "metadata.managedFields must be nil"));
}

#[test]
fn the_list_can_be_reset_and_set() {
    assert!(is_reset(&json!([{}])) && is_reset(&json!([])) && !is_reset(&Value::Null));
    let old = created();
    let mut new = old.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    at(DEPLOYMENT, "", NOON, |fields| fields.update(Some(&old), &mut new, "me"));
    assert!(new["metadata"].get("managedFields").is_none());
    // Not by way of a subresource, and not with nonsense.
    for (part, list) in [("status", json!([{}])), ("", json!([{"manager": "x"}]))] {
        let mut new = old.clone();
        new["metadata"]["managedFields"] = list;
        at(DEPLOYMENT, part, NOON, |fields| fields.update(Some(&old), &mut new, "me"));
        assert_eq!(new, old);
    }
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["manager"] = "renamed".into();
    at(DEPLOYMENT, "", NOON, |fields| fields.update(Some(&old), &mut new, "me"));
    assert_eq!(new["metadata"]["managedFields"][0]["manager"], "renamed");
}

#[test]
fn the_oldest_updaters_become_one() {
    let mut live = created();
    for number in 1..=20 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{number}")] = "x".into();
        let now = format!("2026-01-02T00:00:{number:02}Z");
        at(DEPLOYMENT, "", &now, |fields| fields.update(Some(&live), &mut new, &format!("m{number}")));
        live = new;
    }
    let managed = Managed::read(&live["metadata"]["managedFields"]).unwrap();
    assert_eq!(managed.managers.len(), 10);
    let list = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((&list[0]["manager"], &list[0]["time"]), (&json!("ancient-changes"), &json!("2026-01-02T00:00:11Z")));
    assert!(list[0]["fieldsV1"]["f:metadata"]["f:labels"].get("f:l11").is_some());
    assert_eq!(list[9]["manager"], "m20");
}

/// What kubectl applied on the client's side it may change on the server's side.
#[test]
fn kubectl_comes_over_from_client_side_apply() {
    let mut first = replicas(3);
    first["metadata"]["labels"] = json!({"app": "web"});
    let mut live = deployment();
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    live["metadata"]["annotations"] = json!({annotation: first.to_string()});
    let bare = live.clone();
    at(DEPLOYMENT, "", MORNING, |fields| fields.update(None, &mut live, "kubectl-client-side-apply"));
    live["metadata"]["uid"] = "u".into();

    assert!(applied("other", Some(&live), &replicas(5), false).is_err());
    let object = applied("kubectl", Some(&live), &replicas(5), false).unwrap();
    assert_eq!(object["spec"]["replicas"], 5);
    let kept: Value = serde_json::from_str(object["metadata"]["annotations"][annotation].as_str().unwrap()).unwrap();
    assert_eq!(kept, replicas(5));
    // Somebody else has changed it since: that is a conflict.
    let mut scaled = bare.clone();
    scaled["spec"]["replicas"] = 7.into();
    scaled["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
    let error = applied("kubectl", Some(&scaled), &replicas(5), false).unwrap_err();
    assert!(error.to_string().starts_with("Apply failed with 1 conflict"), "{error}");
}

#[test]
fn replicas_are_the_same_field_in_the_scale() {
    let path = [Element::field("spec"), Element::field("replicas")];
    let path = ScalePath { version: "apps/v1", path: &path };
    let parent = created()["metadata"]["managedFields"].clone();
    let scale = path.to_scale(&parent).unwrap();
    assert_eq!(scale[0]["apiVersion"], "autoscaling/v1");
    assert_eq!(scale[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(path.to_parent(&parent, &scale).unwrap(), parent, "nothing was changed");
    let taken = json!([{"manager": "hpa", "operation": "Update", "apiVersion": "autoscaling/v1", "time": NOON,
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}, "subresource": "scale"}]);
    let after = path.to_parent(&parent, &taken).unwrap();
    assert_eq!(after[0]["fieldsV1"]["f:spec"].get("f:replicas"), None);
    assert_eq!((&after[1]["manager"], &after[1]["apiVersion"]), (&json!("hpa"), &json!("apps/v1")));
    assert_eq!(after[1]["subresource"], "scale");
}

#[test]
fn only_times_may_differ() {
    let list = created()["metadata"]["managedFields"].clone();
    let mut later = list.clone();
    later[0]["time"] = NOON.into();
    assert!(same_but_times(&list, &later));
    later[0]["manager"] = "x".into();
    assert!(!same_but_times(&list, &later) && !same_but_times(&list, &Value::Null));
}
