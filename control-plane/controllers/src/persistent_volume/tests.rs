//! Claims and volumes as they find each other: plans are carried out on plain objects until there is nothing left to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::provision::{self, PROVISIONER};
use super::{BIND_COMPLETED, SELECTED_NODE, claim, volume};
use crate::runtime::kind::Kind;
use crate::runtime::plan::{Action, Plan, Verb};
use crate::views::{Node, PersistentVolume, PersistentVolumeClaim, StorageClass};

/// Objects by plural and name, and what was told and posted.
#[derive(Default)]
struct World {
    objects: BTreeMap<(String, String), Value>,
    reasons: BTreeSet<String>,
    posts: Vec<Value>,
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

impl World {
    fn put(&mut self, plural: &str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("{name}-uid").into();
        }
        self.objects.insert((plural.to_owned(), name), object);
    }

    fn claim(&mut self, name: &str, size: &str, more: Value) {
        let mut object = json!({"metadata": {"name": name, "namespace": "n"}, "status": {"phase": "Pending"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}},
                "storageClassName": ""}});
        merge(&mut object, &more);
        self.put("persistentvolumeclaims", object);
    }

    fn volume(&mut self, name: &str, size: &str, more: Value) {
        let mut object = json!({"metadata": {"name": name}, "status": {"phase": "Pending"},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain"}});
        merge(&mut object, &more);
        self.put("persistentvolumes", object);
    }

    fn all<T: serde::de::DeserializeOwned>(&self, plural: &str) -> Vec<Arc<T>> {
        let of_kind = self.objects.iter().filter(|((p, _), _)| p == plural);
        of_kind.map(|(_, object)| Arc::new(serde_json::from_value(object.clone()).unwrap())).collect()
    }

    fn get(&self, plural: &str, name: &str) -> &Value {
        self.objects.get(&(plural.to_owned(), name.to_owned())).unwrap_or(&Value::Null)
    }

    fn bound(&self, claim: &str) -> &str {
        let claim = self.get("persistentvolumeclaims", claim);
        match claim["status"]["phase"].as_str() {
            Some("Bound") => claim["spec"]["volumeName"].as_str().unwrap(),
            _ => "",
        }
    }

    fn phase(&self, volume: &str) -> &str {
        self.get("persistentvolumes", volume)["status"]["phase"].as_str().unwrap_or_default()
    }

    fn carry_out(&mut self, plan: &Plan) -> bool {
        let mut changed = false;
        for action in plan.actions() {
            match action {
                Action::Event(note) => {
                    self.reasons.insert(note.reason.clone());
                }
                Action::Write(write) => changed |= self.write(&write.kind, &write.name, &write.verb),
            }
        }
        changed
    }

    fn write(&mut self, kind: &Kind, name: &str, verb: &Verb) -> bool {
        let key = (kind.plural.to_string(), name.to_owned());
        match verb {
            Verb::Create(object) => {
                if self.objects.contains_key(&key) {
                    return false;
                }
                self.put(&kind.plural, object.clone());
            }
            Verb::Patch(_, _, patch) => {
                let Some(object) = self.objects.get_mut(&key) else { return false };
                let mut patch = patch.clone();
                patch["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                patch["metadata"].as_object_mut().unwrap().remove("uid");
                merge(object, &patch);
            }
            Verb::Delete(_) => {
                self.objects.remove(&key);
            }
            Verb::Post(_, body) => {
                self.posts.push(body.clone());
                return false;
            }
            Verb::Replace(..) => panic!("nothing is replaced"),
        }
        true
    }

    /// One claim or volume after the other, as often as it takes.
    fn settle(&mut self) {
        for _ in 0..50 {
            if !self.round() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn round(&mut self) -> bool {
        let mut changed = false;
        for claim in self.all::<PersistentVolumeClaim>("persistentvolumeclaims") {
            let (volumes, classes, nodes) = (self.all("persistentvolumes"), self.all("storageclasses"), self.nodes());
            let view = claim::View { claim: &claim, volumes: &volumes, classes: &classes, pods: &[] };
            let selected = claim.metadata.annotations.get(SELECTED_NODE);
            let node = nodes.iter().find(|node| Some(&node.metadata.name) == selected);
            let (made, plan) = (provision::plan_provision(&view, node.map(Arc::as_ref)), claim::plan_claim(&view));
            changed |= self.carry_out(&plan);
            changed |= self.carry_out(&made);
        }
        for volume in self.all::<PersistentVolume>("persistentvolumes") {
            let claims = self.all::<PersistentVolumeClaim>("persistentvolumeclaims");
            let by = volume.spec.claim_ref.as_ref().map(|by| by.name.as_str()).unwrap_or_default();
            let nodes = self.nodes();
            let host = volume::removal_node(&volume);
            let view = volume::View {
                volume: &volume,
                claim: claims.iter().find(|claim| claim.metadata.name == by).map(Arc::as_ref),
                node: nodes.iter().map(|node| &node.metadata).find(|meta| Some(meta.name.as_str()) == host),
            };
            changed |= self.carry_out(&volume::plan_volume(&view));
        }
        changed
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.all("nodes")
    }

    fn with_local_path() -> Self {
        let mut world = Self::default();
        world.put("storageclasses", provision::class());
        let annotations = json!({provision::DIRECTORY: "/var/lib/volumes"});
        world.put(
            "nodes",
            json!({"metadata": {"name": "a", "annotations": annotations,
            "labels": {"kubernetes.io/hostname": "a"}}}),
        );
        world
    }
}

#[test]
fn the_smallest_volume_that_will_do() {
    let mut world = World::default();
    for (name, size) in [("big", "100Gi"), ("fits", "10Gi"), ("small", "1Gi")] {
        world.volume(name, size, json!({}));
    }
    world.volume("other-class", "5Gi", json!({"spec": {"storageClassName": "fast"}}));
    world.volume("many", "5Gi", json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}}));
    world.volume("block", "5Gi", json!({"spec": {"volumeMode": "Block"}}));
    world.claim("c", "5Gi", json!({}));
    world.settle();
    assert_eq!((world.bound("c"), world.phase("fits"), world.phase("big")), ("fits", "Bound", "Available"));
    let claim = world.get("persistentvolumeclaims", "c");
    assert_eq!(claim["status"]["capacity"], json!({"storage": "10Gi"}));
    assert_eq!(claim["metadata"]["annotations"][BIND_COMPLETED], "yes");
    let by = &world.get("persistentvolumes", "fits")["spec"]["claimRef"];
    assert_eq!((&by["namespace"], &by["name"], &by["uid"]), (&json!("n"), &json!("c"), &json!("c-uid")));
}

#[test]
fn selectors_and_names() {
    let mut world = World::default();
    world.volume("a", "5Gi", json!({"metadata": {"labels": {"tier": "gold"}}}));
    world.volume("b", "5Gi", json!({}));
    world.volume("kept", "1Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "owner"}}}));
    world.claim("gold", "1Gi", json!({"spec": {"selector": {"matchLabels": {"tier": "gold"}}}}));
    world.claim("by-name", "1Gi", json!({"spec": {"volumeName": "b"}}));
    world.claim("owner", "1Gi", json!({}));
    world.claim("too-much", "9Gi", json!({"spec": {"volumeName": "a"}}));
    world.claim("nothing", "1Gi", json!({"spec": {"volumeName": "none"}}));
    world.settle();
    assert_eq!(["gold", "by-name", "owner"].map(|c| world.bound(c).to_owned()), ["a", "b", "kept"]);
    assert_eq!((world.bound("too-much"), world.bound("nothing")), ("", ""));
    assert!(world.reasons.contains("FailedBinding"), "{:?}", world.reasons);
    let by = &world.get("persistentvolumes", "kept")["spec"]["claimRef"];
    assert_eq!(by["uid"], "owner-uid", "the claim is known by its uid from then on");
}

#[test]
fn what_becomes_of_volumes_when_their_claims_go() {
    let mut world = World::default();
    for (name, policy) in [("retain", "Retain"), ("recycle", "Recycle"), ("delete", "Delete")] {
        world.volume(name, "1Gi", json!({"spec": {"persistentVolumeReclaimPolicy": policy}}));
        world.claim(name, "1Gi", json!({"spec": {"volumeName": name}}));
    }
    world.settle();
    assert_eq!(world.phase("retain"), "Bound");
    let said = json!({"message": "checked", "reason": "Checked"});
    merge(
        world.objects.get_mut(&("persistentvolumes".to_owned(), "retain".to_owned())).unwrap(),
        &json!({"status": said}),
    );
    world.settle();
    assert_eq!(world.get("persistentvolumes", "retain")["status"]["message"], "checked", "while the phase is the same");
    world.objects.retain(|(plural, _), _| plural != "persistentvolumeclaims");
    // One of the same name is another claim.
    world.claim("retain", "1Gi", json!({"metadata": {"uid": "new"}}));
    world.settle();
    assert_eq!(["retain", "recycle", "delete"].map(|v| world.phase(v).to_owned()), ["Released", "Failed", "Failed"]);
    assert_eq!(world.bound("retain"), "");
    let told = ["VolumeFailedRecycle", "VolumeFailedDelete"];
    assert!(told.iter().all(|reason| world.reasons.contains(*reason)), "{:?}", world.reasons);
}

#[test]
fn a_claim_without_its_volume_is_lost() {
    let mut world = World::default();
    world.volume("v", "1Gi", json!({}));
    world.claim("c", "1Gi", json!({}));
    world.settle();
    world.objects.remove(&("persistentvolumes".to_owned(), "v".to_owned()));
    world.settle();
    assert_eq!(world.get("persistentvolumeclaims", "c")["status"]["phase"], "Lost");
    assert!(world.reasons.contains("ClaimLost"));
}

#[test]
fn a_local_volume_is_made_where_the_pod_will_be_and_removed_with_its_claim() {
    let mut world = World::with_local_path();
    world.claim("c", "1Gi", json!({"spec": {"storageClassName": null}}));
    world.settle();
    assert_eq!(world.get("persistentvolumeclaims", "c")["spec"]["storageClassName"], "local-path", "by default");
    assert!(world.reasons.contains("WaitForFirstConsumer") && world.bound("c").is_empty());
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "a"}}});
    merge(world.objects.get_mut(&("persistentvolumeclaims".into(), "c".into())).unwrap(), &selected);
    world.settle();
    assert_eq!(world.bound("c"), "pvc-c-uid");
    assert!(world.reasons.contains("ProvisioningSucceeded"));
    let made = world.get("persistentvolumes", "pvc-c-uid").clone();
    assert_eq!(made["spec"]["local"]["path"], "/var/lib/volumes/pvc-c-uid_n_c");
    assert_eq!(made["metadata"]["finalizers"], json!([provision::FINALIZER]));
    world.objects.remove(&("persistentvolumeclaims".to_owned(), "c".to_owned()));
    world.settle();
    assert_eq!(world.posts, [json!({"name": "pvc-c-uid", "path": "/var/lib/volumes/pvc-c-uid_n_c"})]);
    assert!(world.get("persistentvolumes", "pvc-c-uid").is_null());
}

#[test]
fn what_cannot_be_made_is_told() {
    for (spec, words) in [
        (json!({"accessModes": ["ReadWriteMany"]}), "ReadWriteMany is not supported"),
        (json!({"volumeMode": "Block"}), "volumeMode Block"),
        (json!({"selector": {"matchLabels": {"a": "b"}}}), "Selector"),
    ] {
        let mut world = World::with_local_path();
        let annotations = json!({SELECTED_NODE: "a"});
        world.claim("c", "1Gi", json!({"spec": spec, "metadata": {"annotations": annotations}}));
        merge(
            world.objects.get_mut(&("persistentvolumeclaims".into(), "c".into())).unwrap(),
            &json!({"spec": {"storageClassName": "local-path"}}),
        );
        let (claims, classes) =
            (world.all::<PersistentVolumeClaim>("persistentvolumeclaims"), world.all("storageclasses"));
        let view = claim::View { claim: &claims[0], volumes: &[], classes: &classes, pods: &[] };
        let plan = provision::plan_provision(&view, Some(&world.nodes()[0]));
        let Some(Action::Event(note)) = plan.actions().next() else { panic!("{plan:?}") };
        assert!(note.reason == "ProvisioningFailed" && note.message.contains(words), "{}", note.message);
    }
    let mut world = World::with_local_path();
    let gone = json!({SELECTED_NODE: "gone"});
    world.claim("c", "1Gi", json!({"spec": {"storageClassName": "local-path"}, "metadata": {"annotations": gone}}));
    world.settle();
    let annotations = &world.get("persistentvolumeclaims", "c")["metadata"]["annotations"];
    assert!(annotations.get(SELECTED_NODE).is_none(), "another node is to be selected");
}

#[test]
fn others_provisioners_are_asked() {
    let mut world = World::default();
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "example.com/fast"});
    let class: StorageClass = serde_json::from_value(class).unwrap();
    world.put("storageclasses", json!({"metadata": {"name": "fast"}, "provisioner": class.provisioner}));
    world.claim("c", "1Gi", json!({"spec": {"storageClassName": "fast"}}));
    world.settle();
    let annotations = &world.get("persistentvolumeclaims", "c")["metadata"]["annotations"];
    assert_eq!(annotations["volume.kubernetes.io/storage-provisioner"], "example.com/fast");
    assert!(world.reasons.contains("ExternalProvisioning") && PROVISIONER != class.provisioner);
}

/// A claim is bound by its volume's name. One of that name that takes the place of a lost one, before anybody has looked,
/// is the claim's, smaller as it may be (upstream `syncBoundClaim`: "bind the volume again").
#[test]
fn a_volume_that_comes_back_is_its_claims() {
    let mut world = World::default();
    world.volume("v", "3Gi", json!({}));
    world.claim("c", "3Gi", json!({}));
    world.settle();
    assert_eq!(world.bound("c"), "v");
    world.objects.remove(&("persistentvolumes".to_owned(), "v".to_owned()));
    world.volume("v", "1Gi", json!({}));
    world.settle();
    assert_eq!(world.bound("c"), "v");
    assert_eq!(world.get("persistentvolumes", "v")["spec"]["claimRef"]["name"], "c");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes and goes, a volume has one claim at most, that claim can do with it, and it comes to rest.
    #[test]
    fn one_volume_one_claim(steps in proptest::collection::vec((0_u8..5, 0_u8..6, 1_u8..9), 1..40)) {
        let mut world = World::default();
        let mut sizes = BTreeMap::new();
        for (what, number, size) in steps {
            let (name, size) = (format!("x{number}"), format!("{size}Gi"));
            match what {
                0 if world.get("persistentvolumeclaims", &name).is_null() => {
                    let uid = format!("{name}-{}", world.objects.len());
                    world.claim(&name, &size, json!({"metadata": {"uid": uid}}));
                }
                // One that comes back is as large as it was: `a_volume_that_comes_back_is_its_claims` has the others.
                1 if world.get("persistentvolumes", &name).is_null() => {
                    let size: &mut String = sizes.entry(name.clone()).or_insert(size);
                    world.volume(&name, size, json!({}));
                }
                2 => { world.objects.remove(&("persistentvolumeclaims".to_owned(), name)); }
                3 => { world.objects.remove(&("persistentvolumes".to_owned(), name)); }
                _ => { world.round(); }
            }
        }
        world.settle();
        let mut taken = BTreeMap::new();
        for claim in world.all::<PersistentVolumeClaim>("persistentvolumeclaims") {
            if claim.status.phase != "Bound" {
                continue;
            }
            let volume = world.get("persistentvolumes", &claim.spec.volume_name);
            let volume: PersistentVolume = serde_json::from_value(volume.clone()).unwrap();
            prop_assert!(volume.is_for(&claim) && volume.size() >= claim.size() && volume.status.phase == "Bound");
            prop_assert!(taken.insert(volume.metadata.name.clone(), claim.metadata.name.clone()).is_none());
        }
        // Nothing is left lying that would do.
        for claim in world.all::<PersistentVolumeClaim>("persistentvolumeclaims") {
            let free = world.all::<PersistentVolume>("persistentvolumes");
            let free = free.iter().any(|v| v.spec.claim_ref.is_none() && v.size() >= claim.size());
            prop_assert!(claim.status.phase != "Pending" || !free);
        }
    }
}
