//! Claims that are made for pods (KEP-1698; upstream `pkg/controller/volume/ephemeral`): each of a pod's ephemeral volumes
//! has one, named after both, that goes with the pod.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::context::Context;
use crate::runtime::cache::Change;
use crate::runtime::kind;
use crate::runtime::meta::{Key, Meta};
use crate::runtime::plan::{Note, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::{ClaimUse, PersistentVolumeClaim, Pod};

/// Makes the claims that a pod lacks. `pod` is all of it.
pub fn plan(pod: &Value, meta: &Meta, claims: &[Arc<PersistentVolumeClaim>]) -> Plan {
    let mut plan = Plan::nothing();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    for volume in volumes.filter(|volume| volume["ephemeral"].is_object()) {
        let name = format!("{}-{}", meta.name, volume["name"].as_str().unwrap_or_default());
        let regarding = meta.reference(&kind::POD);
        if let Some(claim) = claims.iter().find(|claim| claim.metadata.name == name) {
            if claim.metadata.controller().is_none_or(|owner| owner.uid != meta.uid) {
                let (namespace, pod) = (&meta.namespace, &meta.name);
                let message =
                    format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)");
                plan.act(Note::warning(regarding, "FailedCreate", message).into());
            }
            continue;
        }
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        let mut metadata = json!({"name": name, "namespace": meta.namespace,
            "ownerReferences": [meta.as_controller(&kind::POD)]});
        for key in ["labels", "annotations"] {
            if template["metadata"][key].is_object() {
                metadata[key] = template["metadata"][key].clone();
            }
        }
        let body = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": template["spec"]});
        let report = Report {
            regarding,
            success: None,
            failure: Some(("FailedCreate", format!("ephemeral volume {}: create PVC {name}: ", volume["name"]))),
        };
        let write = Write::create(&kind::PERSISTENT_VOLUME_CLAIM, &meta.namespace, body);
        plan.act(write.accept_existing().reported(report).into());
    }
    plan
}

/// The controller.
#[derive(Debug)]
pub struct EphemeralVolumes {
    cx: Context,
    queue: Arc<Keys>,
}

impl EphemeralVolumes {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            if change.previous().is_none() && has_ephemeral(pod) {
                keys.add(pod.metadata.key());
            }
        });
        let (keys, pods) = (queue.clone(), cx.caches.pods.clone());
        cx.caches.claims.on_change(move |change| {
            let claim = &change.latest().metadata;
            if let (Change::Removed(_), Some(owner)) = (change, claim.controller().filter(|o| o.kind == "Pod")) {
                let key = Key::new(&claim.namespace, &owner.name);
                if pods.get(&key).is_some_and(|pod| has_ephemeral(&pod)) {
                    keys.add(key);
                }
            }
        });
        Arc::new(Self { cx: cx.of("ephemeral-volume-controller"), queue })
    }
}

fn has_ephemeral(pod: &Pod) -> bool {
    pod.is_active() && pod.spec.claims.iter().any(|claim| matches!(claim, ClaimUse::Ephemeral(_)))
}

#[async_trait]
impl Controller for EphemeralVolumes {
    fn name(&self) -> &'static str {
        "ephemeral-volume"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(pod) = self.cx.caches.pods.get(key).filter(|pod| has_ephemeral(pod)) else { return Ok(None) };
        // The templates are in the whole pod only.
        let whole: Value = match self.cx.api.get(&kind::POD, &key.namespace, &key.name).await {
            Ok(whole) => whole,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if whole["metadata"]["uid"].as_str() != Some(&pod.metadata.uid) {
            return Ok(None);
        }
        let claims = self.cx.caches.claims.in_namespace(&key.namespace);
        self.cx.execute(plan(&whole, &pod.metadata, &claims)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::{Action, Verb};

    #[test]
    fn each_ephemeral_volume_has_a_claim_of_the_pods() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"volumes": [
            {"name": "e", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "x", "emptyDir": {}}]}});
        let meta: Meta = serde_json::from_value(pod["metadata"].clone()).unwrap();
        let made = plan(&pod, &meta, &[]);
        let Some(Action::Write(write)) = made.actions().next() else { panic!("no write") };
        let Verb::Create(claim) = &write.verb else { panic!("{:?}", write.verb) };
        assert_eq!((&claim["metadata"]["name"], &claim["metadata"]["labels"]), (&json!("p-e"), &json!({"a": "b"})));
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(claim["spec"], template["spec"]);
        let there: Arc<PersistentVolumeClaim> = Arc::new(serde_json::from_value(claim.clone()).unwrap());
        assert!(plan(&pod, &meta, std::slice::from_ref(&there)).is_empty());
        let mut strange = PersistentVolumeClaim::clone(&there);
        strange.metadata.owner_references.clear();
        let told = plan(&pod, &meta, &[Arc::new(strange)]);
        assert!(matches!(told.actions().next(), Some(Action::Event(note)) if note.warning));
    }
}
