use serde_json::{Value, json};

use super::*;
use crate::runtime::plan::Verb;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A set of three, changed by a merge patch.
fn set(patch: &Value) -> StatefulSet {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "s", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "all", "selector": {"matchLabels": {"app": "web"}},
            "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"},
            "template": template("i:1")},
    });
    merge(&mut value, patch);
    serde_json::from_value(value).unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| merge(&mut target[key], value)),
        other => *target = other.clone(),
    }
}

/// A world in which plans are carried out.
struct World {
    set: StatefulSet,
    pods: BTreeMap<String, Value>,
    claims: BTreeMap<String, Value>,
    revisions: Vec<Value>,
    events: Vec<String>,
}

impl World {
    fn new(patch: &Value) -> Self {
        Self {
            set: set(patch),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            revisions: Vec::new(),
            events: Vec::new(),
        }
    }

    fn read<V: serde::de::DeserializeOwned>(values: impl Iterator<Item = Value>) -> Vec<Arc<V>> {
        values.map(|value| Arc::new(serde_json::from_value(value).unwrap())).collect()
    }

    /// Plans once, and does it. What was written, in order.
    fn step(&mut self) -> Vec<String> {
        let pods: Vec<Arc<Pod>> = Self::read(self.pods.values().cloned());
        let claims: Vec<Arc<PersistentVolumeClaim>> = Self::read(self.claims.values().cloned());
        let revisions: Vec<Arc<ControllerRevision>> = Self::read(self.revisions.iter().cloned());
        let plan = plan(&View { set: &self.set, pods: &pods, revisions: &revisions, claims: &claims }, now());
        let mut done = Vec::new();
        for action in plan.actions() {
            match action {
                Action::Event(note) => self.events.push(note.reason.clone()),
                Action::Write(write) => done.extend(self.write(write)),
            }
        }
        done
    }

    fn write(&mut self, write: &Write) -> Option<String> {
        match &write.verb {
            Verb::Create(body) => {
                let mut body = body.clone();
                body["metadata"]["uid"] = write.name.as_str().into();
                let into = match write.kind.kind.as_ref() {
                    "Pod" => &mut self.pods,
                    "PersistentVolumeClaim" => &mut self.claims,
                    _ => {
                        self.revisions.push(body);
                        return None;
                    }
                };
                assert!(into.insert(write.name.clone(), body).is_none(), "{} is there twice", write.name);
                Some(format!("+{}", write.name))
            }
            Verb::Delete(_) => {
                self.revisions.retain(|revision| revision["metadata"]["name"] != write.name.as_str());
                self.pods.remove(&write.name).map(|_| format!("-{}", write.name))
            }
            Verb::Patch("status", _, patch) => {
                self.set.status = serde_json::from_value(patch["status"].clone()).unwrap();
                None
            }
            Verb::Patch(_, _, patch) if write.kind.kind == "ControllerRevision" => {
                let revision = self.revisions.iter_mut().find(|r| r["metadata"]["name"] == write.name.as_str());
                merge(revision.unwrap(), patch);
                None
            }
            Verb::Patch(_, _, patch) => {
                let claim = self.claims.get_mut(&write.name)?;
                merge(claim, patch);
                Some(format!("~{}", write.name))
            }
            other => panic!("{other:?}"),
        }
    }

    fn ready(&mut self, name: &str) {
        let status = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        self.pods.get_mut(name).unwrap()["status"] = status;
    }

    fn all_ready(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        names.iter().for_each(|name| self.ready(name));
    }

    /// Until nothing is left to do; every pod becomes ready at once.
    fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..50 {
            let before = self.set.status.clone();
            let step = self.step();
            self.all_ready();
            if step.is_empty() && before == self.set.status {
                return done;
            }
            done.extend(step);
        }
        panic!("no end: {done:?}");
    }

    fn images(&self) -> Vec<&str> {
        self.pods.values().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap()).collect()
    }
}

#[test]
fn pods_come_one_after_the_other() {
    let mut world = World::new(&json!({}));
    assert_eq!(world.step(), ["+web-0"]);
    assert_eq!(world.step(), Vec::<String>::new());
    world.ready("web-0");
    assert_eq!(world.step(), ["+web-1"]);
    world.ready("web-1");
    assert_eq!(world.step(), ["+web-2"]);
    let pod = &world.pods["web-2"];
    assert_eq!((pod["spec"]["hostname"].as_str(), pod["spec"]["subdomain"].as_str()), (Some("web-2"), Some("all")));
    assert_eq!(pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "web-2");
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "2");
    world.settle();
    let status = &world.set.status;
    assert_eq!(
        (status.replicas, status.ready_replicas, status.current_replicas, status.updated_replicas),
        (3, 3, 3, 3)
    );
    assert_eq!(status.current_revision, status.update_revision);
}

#[test]
fn at_once_if_so_wished() {
    let mut world = World::new(&json!({"spec": {"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}}));
    assert_eq!(world.step(), ["+web-5", "+web-6", "+web-7"]);
}

#[test]
fn the_last_goes_first() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.set.spec.replicas = Some(1);
    assert_eq!(world.step(), ["-web-2"]);
    assert_eq!(world.settle(), ["-web-1"]);
    assert_eq!(world.set.status.replicas, 1);
    // One that is not ready holds the rest up.
    world.set.spec.replicas = Some(3);
    world.settle();
    world.set.spec.replicas = Some(0);
    world.pods.get_mut("web-0").unwrap()["status"] = json!({});
    assert_eq!(world.step(), ["-web-2"]);
}

#[test]
fn updates_roll_from_the_end_and_stop_at_the_partition() {
    let mut world = World::new(&json!({}));
    world.settle();
    let first = world.set.status.current_revision.clone();
    world.set.spec.template = (&template("i:2")).into();
    world.set.spec.update_strategy.rolling_update.partition = Some(2);
    assert_eq!(world.step(), ["-web-2"]);
    assert_eq!(world.settle(), ["+web-2"]);
    assert_eq!(world.images(), ["i:1", "i:1", "i:2"]);
    assert_eq!(world.set.status.updated_replicas, 1);
    assert_eq!((world.set.status.current_revision.as_str(), world.revisions.len()), (first.as_str(), 2));
    // One that is lost below the partition comes back as it was.
    world.pods.remove("web-0");
    assert_eq!(world.settle(), ["+web-0"]);
    assert_eq!(world.images(), ["i:1", "i:1", "i:2"]);
    world.set.spec.update_strategy.rolling_update.partition = Some(0);
    assert_eq!(world.settle(), ["-web-1", "+web-1", "-web-0", "+web-0"]);
    assert_eq!(world.set.status.current_revision, world.set.status.update_revision);
    // Back to the first template: its revision is taken up again.
    world.set.spec.template = (&template("i:1")).into();
    world.settle();
    assert_eq!((world.set.status.update_revision.as_str(), world.revisions.len()), (first.as_str(), 2));
}

#[test]
fn several_at_once_if_that_many_may_be_missing() {
    let mut world = World::new(&json!({"spec": {"replicas": 5, "podManagementPolicy": "Parallel",
        "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}}));
    world.settle();
    world.set.spec.template = (&template("i:2")).into();
    assert_eq!(world.step(), ["-web-4", "-web-3"]);
    assert_eq!(world.step(), ["+web-3", "+web-4"]);
    assert_eq!(world.step(), Vec::<String>::new());
    world.all_ready();
    world.settle();
    assert_eq!(world.images(), ["i:2"; 5]);
}

#[test]
fn on_delete_waits_for_deletions() {
    let mut world = World::new(&json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}));
    world.settle();
    world.set.spec.template = (&template("i:2")).into();
    assert_eq!(world.settle(), Vec::<String>::new());
    world.pods.remove("web-1");
    assert_eq!(world.settle(), ["+web-1"]);
    assert_eq!(world.images(), ["i:1", "i:2", "i:1"]);
}

#[test]
fn what_has_ended_is_made_again() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.pods.get_mut("web-1").unwrap()["status"]["phase"] = "Failed".into();
    assert_eq!(world.step(), ["-web-1"]);
    assert!(world.events.contains(&"RecreatingFailedPod".to_owned()));
    assert_eq!(world.step(), ["+web-1"]);
}

#[test]
fn claims_come_first_and_go_as_the_policy_says() {
    let mut world = World::new(&json!({"spec": {"replicas": 2,
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"x": 1}}],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}}}));
    assert_eq!(world.step(), ["+data-web-0", "+web-0"]);
    assert_eq!(world.pods["web-0"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-web-0");
    assert_eq!(world.claims["data-web-0"]["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");
    world.settle();
    world.set.spec.replicas = Some(1);
    assert_eq!(world.step(), ["~data-web-1", "-web-1"]);
    let owners = world.claims["data-web-1"]["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!((owners.len(), &owners[0]["kind"]), (1, &json!("Pod")));
    assert_eq!(world.settle(), Vec::<String>::new());
}

#[test]
fn a_set_that_goes_makes_nothing() {
    let mut world = World::new(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert_eq!(world.step(), Vec::<String>::new());
    assert!(world.revisions.is_empty());
}

#[test]
fn numbers_are_read_from_names() {
    assert_eq!(ordinal("web", "web-10"), Some(10));
    for other in ["web-01", "web", "web-", "web-x", "db-1", "web-1-2"] {
        assert_eq!(ordinal("web", other), None, "{other}");
    }
}
