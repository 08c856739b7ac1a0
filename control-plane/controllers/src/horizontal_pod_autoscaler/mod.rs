//! Horizontal pod autoscalers (upstream `pkg/controller/podautoscaler`): every fifteen seconds the metrics of the target's
//! pods are read, and the target is scaled to where they would be on target, within bounds, at a limited rate, and with
//! memory of what was recommended lately.

pub mod behavior;
pub mod decide;
pub mod metrics;
pub mod replicas;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use xebec_schema::selector::LabelSelector;

use crate::context::Context;
use crate::runtime::api::{ApiError, Scope};
use crate::runtime::cache::Change;
use crate::runtime::discovery::served;
use crate::runtime::informer::read_list;
use crate::runtime::kind::{self, Kind};
use crate::runtime::meta::Key;
use crate::runtime::plan::{Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError};
use crate::views::HorizontalPodAutoscaler;
use behavior::History;
use decide::{Decision, Scale, View, decide, no_scale, tell};
use metrics::{Found, Source};
use replicas::Pod;

/// How often the metrics are looked at (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);

/// The controller.
#[derive(Debug)]
pub struct Autoscalers {
    cx: Context,
    queue: Arc<Keys>,
    /// What is remembered of each.
    memory: Arc<Mutex<BTreeMap<Key, Memory>>>,
    /// Kinds by group and kind, as they were last found.
    kinds: Mutex<BTreeMap<(String, String), Kind>>,
}

#[derive(Clone, Debug, Default)]
struct Memory {
    history: History,
    /// The selector of the target's pods.
    selector: String,
}

impl Autoscalers {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let memory = Arc::<Mutex<BTreeMap<Key, Memory>>>::default();
        let (keys, forget) = (queue.clone(), memory.clone());
        cx.caches.autoscalers.on_change(move |change| {
            let key = change.latest().metadata.key();
            match change {
                Change::Removed(_) => drop(forget.lock().remove(&key)),
                _ if change.previous().is_none_or(|old| old.spec != change.latest().spec) => keys.add(key),
                _ => {}
            }
        });
        let cx = cx.of("horizontal-pod-autoscaler");
        Arc::new(Self { cx, queue, memory, kinds: Mutex::default() })
    }

    /// The kind of a name in a group, in whichever version the group prefers.
    async fn kind(&self, api_version: &str, name: &str) -> Result<Kind, String> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let key = (group.to_owned(), name.to_owned());
        if let Some(known) = self.kinds.lock().get(&key) {
            return Ok(known.clone());
        }
        let (found, _) = served(&self.cx.api).await.map_err(|e| e.to_string())?;
        let found = found.into_iter().map(|served| served.kind).find(|kind| kind.group == group && kind.kind == name);
        let kind = found.ok_or_else(|| format!("no matches for kind {name:?} in group {group:?}"))?;
        self.kinds.lock().insert(key, kind.clone());
        Ok(kind)
    }

    async fn scale(&self, autoscaler: &HorizontalPodAutoscaler) -> Result<(Kind, Scale), String> {
        let target = &autoscaler.spec.scale_target_ref;
        let kind = self.kind(&target.api_version, &target.kind).await?;
        let path = kind.object_path(&autoscaler.metadata.namespace, &target.name, "scale");
        match self.cx.api.get_raw(path, "application/json").await {
            Ok(body) => Ok((kind, serde_json::from_slice(&body).map_err(|e| e.to_string())?)),
            Err(error) => {
                // Its definition may have gone, or come back otherwise.
                self.kinds.lock().retain(|_, known| *known != kind);
                Err(error.to_string())
            }
        }
    }

    async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, ApiError> {
        let scope = Scope { namespace: namespace.into(), label_selector: selector.into(), ..Scope::default() };
        Ok(read_list::<Pod>(&self.cx.api, &kind::POD, &scope).await?.0)
    }

    async fn find(&self, source: &Source<'_>, metric: &Value) -> Result<Found, String> {
        let text = |pointer: &str| metric.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        match text("/type") {
            "Resource" => source.resource(text("/resource/name"), "").await,
            "ContainerResource" => {
                source.resource(text("/containerResource/name"), text("/containerResource/container")).await
            }
            "Pods" => source.pods(&metric["pods"]["metric"]).await,
            "Object" => {
                let object = &metric["object"]["describedObject"];
                let api_version = text("/object/describedObject/apiVersion");
                let kind = self.kind(api_version, text("/object/describedObject/kind")).await?;
                source.object(&metric["object"]["metric"], object, &kind).await
            }
            _ => source.external(&metric["external"]["metric"]).await,
        }
    }

    /// Other autoscalers of the namespace that the pods are selected for, too.
    fn rivals(&self, key: &Key, pods: &[Pod]) -> Vec<String> {
        let memory = self.memory.lock();
        let selects = |selector: &str| match LabelSelector::parse(selector) {
            Ok(selector) if !selector.is_everything() => pods.iter().any(|pod| selector.matches(&pod.metadata.labels)),
            _ => false,
        };
        let others = memory.iter().filter(|(other, of)| {
            *other != key && other.namespace == key.namespace && !of.selector.is_empty() && selects(&of.selector)
        });
        let mut names: Vec<String> = others.map(|(other, _)| other.name.clone()).collect();
        if !names.is_empty() {
            names.push(key.name.clone());
            names.sort();
        }
        names
    }

    async fn look(&self, key: &Key, autoscaler: &HorizontalPodAutoscaler) -> Result<(), SyncError> {
        let now = self.cx.clock.now();
        let (kind, scale) = match self.scale(autoscaler).await {
            Ok(found) => found,
            Err(why) => {
                let decision = no_scale(autoscaler, &why, now);
                return Ok(self.cx.execute(tell(autoscaler, &decision, None, false, now)).await?);
            }
        };
        let namespace = &key.namespace;
        self.memory.lock().entry(key.clone()).or_default().selector.clone_from(&scale.status.selector);
        let (mut pods, mut found) = (Vec::new(), Vec::new());
        if !scale.status.selector.is_empty() && scale.spec.replicas > 0 {
            pods = self.pods(namespace, &scale.status.selector).await?;
            let source = Source { api: &self.cx.api, namespace, selector: &scale.status.selector };
            for metric in &autoscaler.spec.metrics {
                found.push(self.find(&source, metric).await);
            }
        }
        let rivals = self.rivals(key, &pods);
        let view = View { autoscaler, scale: &scale, pods: &pods, found: &found, rivals: &rivals, now };
        let decision = decide(&view, &mut self.memory.lock().entry(key.clone()).or_default().history);
        self.carry_out(autoscaler, &kind, &scale, decision).await
    }

    async fn carry_out(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        kind: &Kind,
        scale: &Scale,
        mut decision: Decision,
    ) -> Result<(), SyncError> {
        let (now, current) = (self.cx.clock.now(), scale.spec.replicas);
        let Some((replicas, reason)) = decision.rescale.clone() else {
            let plan = tell(autoscaler, &decision, Some((current, current)), false, now);
            return Ok(self.cx.execute(plan).await?);
        };
        let done = self.cx.execute(rescale(autoscaler, kind, scale, replicas, &reason)).await;
        match &done {
            Ok(()) => {
                let message = format!("the HPA controller was able to update the target scale to {replicas}");
                decision.set("AbleToScale", true, "SucceededRescale", message, now);
                let key = autoscaler.metadata.key();
                let mut memory = self.memory.lock();
                memory.entry(key).or_default().history.scaled(&autoscaler.spec, current, replicas, now);
            }
            Err(failure) => {
                let message = format!("the HPA controller was unable to update the target scale: {}", failure.error);
                decision.set("AbleToScale", false, "FailedUpdateScale", message, now);
            }
        }
        let desired = if done.is_ok() { replicas } else { autoscaler.status.desired_replicas };
        let plan = tell(autoscaler, &decision, Some((current, desired)), done.is_ok(), now);
        self.cx.execute(plan).await?;
        Ok(done?)
    }
}

/// Scales the target, if it still is as large as it was.
fn rescale(autoscaler: &HorizontalPodAutoscaler, kind: &Kind, scale: &Scale, replicas: i32, reason: &str) -> Plan {
    let regarding = autoscaler.metadata.reference(&kind::HORIZONTAL_POD_AUTOSCALER);
    let report = Report {
        regarding,
        success: Some(("SuccessfulRescale", format!("New size: {replicas}; reason: {reason}"))),
        failure: Some(("FailedRescale", format!("New size: {replicas}; reason: {reason}; error: "))),
    };
    let patch = json!({"spec": {"replicas": replicas}});
    let mut plan = Plan::nothing();
    plan.act(Write::merge_exact(kind, &scale.metadata, "scale", patch).reported(report).into());
    plan
}

#[async_trait]
impl Controller for Autoscalers {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(autoscaler) = self.cx.caches.autoscalers.get(key) else { return Ok(None) };
        // What went wrong is looked at again as everything is: in a while.
        if let Err(error) = self.look(key, &autoscaler).await {
            tracing::debug!(autoscaler = %key, %error, "cannot scale");
        }
        Ok(Some(PERIOD))
    }
}
